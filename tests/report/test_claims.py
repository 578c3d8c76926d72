"""Claims are judged by fixed rules, and what fails stays in the report."""

import io
import json
import math

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from jaxnn import report
from jaxnn.report import Claim, Measurement

NAN, INF = math.nan, math.inf
DATA = xr.Dataset({"growth": ((), 1.47)})


def printed(renderable, width=160):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("value", "standard_error", "holds"),
    [
        pytest.param(1.02, 0.01, True, id="close and within the noise"),
        pytest.param(1.02, 0.001, False, id="close, and far out of the noise"),
        pytest.param(1.2, 0.1, False, id="within the noise, and far off"),
        pytest.param(1.0, 0.0, True, id="equal without noise"),
        pytest.param(1.02, 0.0, False, id="different without noise"),
        pytest.param(NAN, 0.01, False, id="no value"),
        pytest.param(1.0, NAN, False, id="no standard error"),
        pytest.param(INF, 0.01, False, id="infinite"),
    ],
)
def test_agrees_needs_both_the_noise_and_the_relative_error(value, standard_error, holds):
    found = report.agrees(value, 1.0, standard_error, rtol=0.05)
    assert found.holds is holds
    assert found.expected == 1.0


def test_agrees_bound_reports_both_distances():
    found = report.agrees(-2.1, -2.0, 0.05, rtol=0.1, max_z=2.5)
    assert found.bound == "|z| 2 (at most 2.5), off by 5% (at most 10%)"


@pytest.mark.parametrize("helper", [report.exact, report.agrees])
def test_expected_zero_is_refused_with_the_fix(helper):
    error = {"standard_error": 0.1} if helper is report.agrees else {}
    with pytest.raises(ValueError, match="use between"):
        helper(0.1, 0.0, rtol=0.1, **error)


def test_negative_standard_error_is_refused():
    with pytest.raises(ValueError, match="standard_error"):
        report.agrees(1.0, 1.0, -0.1, rtol=0.1)


def test_empty_range_is_refused():
    with pytest.raises(ValueError, match="low <= high"):
        report.between(1.0, 3.0, 2.0)


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        pytest.param(report.exact(1 + 1e-11, 1.0, rtol=1e-10), True, id="exact"),
        pytest.param(report.exact(1 + 1e-9, 1.0, rtol=1e-10), False, id="exact off"),
        pytest.param(report.exact(NAN, 1.0, rtol=1.0), False, id="exact nan"),
        pytest.param(report.between(2.0, 2.0, 3.0), True, id="between at an end"),
        pytest.param(report.between(3.1, 2.0, 3.0), False, id="between outside"),
        pytest.param(report.between(NAN, -INF, INF), False, id="between nan"),
        pytest.param(report.at_least(np.float32(2.0), 2.0), True, id="at least"),
        pytest.param(report.at_least(1.9, 2.0, 0.2), False, id="at least below"),
        pytest.param(report.at_least(NAN, -INF), False, id="at least nan"),
        pytest.param(report.at_most(2.0, 2.0), True, id="at most"),
        pytest.param(report.at_most(NAN, INF), False, id="at most nan"),
    ],
)
def test_bounds_hold_where_they_should(found, holds):
    assert found.holds is holds
    assert isinstance(found.value, float)


def test_expected_text_is_the_range_unless_a_number_is_given():
    assert report.between(2.0, 1.5, 2.5).expected == "1.5 to 2.5"
    assert report.between(2.0, 1.5, 2.5, expected=0.0).expected == 0.0
    assert report.at_least(2.0, 1.5).expected == "at least 1.5"


def claims_of_all_kinds():
    def raising(ds):
        return report.exact(float(ds["nothing"]), 1.0, rtol=0.1)

    return (
        Claim("growth [rate] is pi/(pi-1)", "Yang 2019", lambda ds: growth(ds, 1.4670)),
        Claim("growth is 2", "nobody", lambda ds: growth(ds, 2.0)),
        Claim("reads what is not there", "nobody", raising),
        Claim("says a NaN holds", "nobody", lambda ds: Measurement(NAN, NAN, 1.0, "", True)),
        Claim("is unbounded", "limit", lambda ds: report.at_least(INF, 1.0)),
    )


def growth(ds, expected):
    return report.agrees(ds["growth"], expected, 0.013, rtol=0.02)


def test_judge_goes_on_after_a_check_that_raises():
    verdicts = report.judge(claims_of_all_kinds(), DATA)
    assert [each.holds for each in verdicts] == [True, False, False, False, True]
    assert verdicts[2].error.startswith("KeyError")
    assert "nothing" in verdicts[2].error
    assert [bool(each.error) for each in verdicts] == [False, False, True, False, False]


def test_judge_turns_arrays_into_floats():
    def check(ds):
        return Measurement(ds["growth"], np.float32(0.5), np.float64(1.0), "", np.True_)

    (verdict,) = report.judge([Claim("", "", check)], DATA)
    kinds = [type(each) for each in verdict.measurement]
    assert kinds == [float, float, float, str, bool]


def test_claims_json_is_strict_and_complete():
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    verdicts = report.judge(claims_of_all_kinds(), DATA)
    found = json.loads(report.claims_json(verdicts), parse_constant=refuse)
    assert [each["holds"] for each in found] == [True, False, False, False, True]
    assert found[2]["value"] is None
    assert found[2]["error"].startswith("KeyError")
    assert found[3]["value"] is None
    assert found[4]["value"] == "inf"
    assert set(found[0]) == {"statement", "source", "error", *Measurement._fields}


def test_table_keeps_failures_and_says_them_in_words():
    text = printed(report.table(report.judge(claims_of_all_kinds(), DATA)))
    assert "growth [rate] is pi/(pi-1)" in text  # brackets are no markup
    assert "1.470 ± 0.013" in text
    assert text.count(" yes ") == 2
    assert text.count(" no ") == 3
    assert "KeyError" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("value", "standard_error", "text"),
    [
        (1.47213, 0.01312, "1.472 ± 0.013"),
        (1.47213, 0.0996, "1.47 ± 0.10"),
        (1.47213, 0.2, "1.47 ± 0.20"),
        (-0.5, 12.3, "0 ± 12"),
        (98765.4, 123.4, "98770 ± 120"),
        (2.3456e-7, 1.2e-9, "(2.346 ± 0.012)e-07"),
        (2.3456e8, 1.2e6, "(2.346 ± 0.012)e+08"),
        (0.0, 0.0021, "0.0000 ± 0.0021"),
        (1.23456789, NAN, "1.235"),
        (1.23456789, 0.0, "1.235 ± 0"),
        (NAN, 0.1, "nan ± 0.1"),
        (1.5, INF, "1.5 ± inf"),
    ],
)
def test_measured_text_shows_the_error_to_two_digits(value, standard_error, text):
    assert report.measured_text(value, standard_error) == text
