"""The dead_relu study: its claims on data made with known answers, its figure."""

import numpy as np
import pytest
import xarray as xr

from experiments import dead_relu
from jaxnn.theory import dead_units

CLAIMS = {claim.statement: claim for claim in dead_relu.CLAIMS}
COUNTED = 8 * 125  # networks of the data below


def born():
    """Shares born dead at a point that follow the law, and on the line are amid their bounds."""
    hidden, widths = np.arange(1, 50), np.array([2, 5])
    law = np.stack([dead_units.death_probability(width, hidden) for width in widths])
    bounds = [dead_units.line_death_bounds(width, hidden) for width in widths]
    lines = np.mean(bounds, axis=1)
    lines[0, 1] = 5 / 32
    points, lines = (
        np.array([[each, 0 * each], [0.2 * each, 0 * each]])  # He, RAI; ReLU, leaky
        .transpose(2, 0, 1, 3)[:, :, :, None]
        .repeat(8, 3)
        for each in (law, lines)
    )
    dims = [f"born_{name}" for name in ("width", "asymmetric", "slope", "seed", "hidden")]
    coords = dict(zip(dims, (widths, [0.0, 1.0], [0.0, 0.1], range(8), hidden), strict=True))
    return xr.Dataset({"born_point": (dims, points), "born_line": (dims, lines)}, coords)


def kill():
    """More units dead at larger rates; one comes back, with momentum."""
    dead = np.zeros((4, 2, 3, 5, 8))  # rate, momentum, seed, step, unit
    for rate in range(4):
        dead[rate, ..., 1:, : 2 * rate] = 1
    dead[3, 1, 0, 3, 0] = 0
    names = ("learning_rate", "momentum", "seed", "step", "unit")
    dims = [f"kill_{name}" for name in names]
    coords = {"kill_step": range(5), dims[0]: [0.5, 1.0, 2.0, 4.0], dims[1]: [0.0, 0.9]}
    arrays = {
        "kill_dead_unit": (dims, dead),
        "kill_diverged_at": (dims[:3], np.full((4, 2, 3), np.nan)),
    }
    return xr.Dataset(arrays, coords)


def cure():
    """Units dead with a large rate or a negative bias, unless cured."""
    levels = {
        name: list(dict.fromkeys([level, *(each[name] for each in changes if name in each)]))
        for name, level in dead_relu.HEALTHY.items()
        for changes in [[*dead_relu.CAUSES.values(), *dead_relu.CURES.values()]]
    }
    dims = [f"cure_{name}" for name in levels]
    shape = [len(each) for each in levels.values()]
    dead = xr.DataArray(np.zeros(shape), dict(zip(dims, levels.values(), strict=True)), dims)
    rate, relief = dead["cure_learning_rate"], dead["cure_relief"]
    killed = (rate * relief > 0.5) | (dead["cure_bias"] < 0)
    killed = killed & (dead["cure_norm"] == "none") & (dead["cure_slope"] == 0)
    dead = (dead + 0.8 * killed).transpose(*dims)
    spread = xr.DataArray([-0.05, 0.0, 0.05], dims="cure_seed")
    dead = dead * (1 + spread)
    layers = xr.DataArray([0.9, 1.1], dims="cure_layer")
    steps = xr.DataArray([0.0, 1.0], dims="cure_step")
    return xr.Dataset(
        {"cure_dead_fraction": dead * layers * steps, "cure_accuracy": (1 - dead) * steps}
    )


@pytest.fixture(scope="module")
def ds():
    found = xr.merge([born(), kill(), cure()])
    return found.assign_attrs(num_nets=125)


def changed(ds, name, change):
    return ds.assign({name: change(ds[name])})


def test_claims_hold_where_the_answers_are_those_of_theory(ds):
    found = {statement: claim.check(ds) for statement, claim in CLAIMS.items()}
    assert [statement for statement, each in found.items() if not each.holds] == []


@pytest.mark.parametrize(
    ("name", "change", "failing"),
    [
        ("born_point", lambda x: 0.9 * x, 3),  # both laws and the hazard
        ("born_line", lambda x: x + 0.06, 2),  # above the bound at N = 2; 5/32
        ("born_line", lambda x: x.where(x["born_asymmetric"] == 0, 2.5 * x), 1),
        ("born_point", lambda x: x.where(x["born_slope"] == 0, x + 1e-3), 1),
        ("kill_dead_unit", lambda x: x.copy(data=x.values[::-1]), 1),
        (
            "kill_dead_unit",
            lambda x: x.where(x["kill_step"] < 4, x.values[::-1]),
            2,
        ),  # most come back
        ("kill_dead_unit", lambda x: x.copy(data=x.values[:, [0, 0]]), 1),
        ("cure_dead_fraction", lambda x: 0.3 * x, 2),  # both causes
        ("cure_dead_fraction", lambda x: 0 * x + x.mean(), 5),
        ("cure_dead_fraction", lambda x: x * x["cure_relief"], 1),  # a lower rate revives
        ("cure_accuracy", lambda x: 0.3 * x, 1),
    ],
)
def test_claims_fail_where_the_answers_are_wrong(ds, name, change, failing):
    wrong = changed(ds, name, change)
    found = [claim.check(wrong).holds for claim in dead_relu.CLAIMS]
    assert found.count(False) == failing


def test_standard_error_is_that_of_a_binomial(ds):
    share, error = dead_relu.born_dead(ds, "point", width=2, hidden=9)
    law = 1 - 0.75**9
    np.testing.assert_allclose(share, law, rtol=1e-6)
    np.testing.assert_allclose(error, np.sqrt(law * (1 - law) / COUNTED), rtol=1e-6)


def test_revived_counts_units_that_were_dead_and_are_not(ds):
    ever, back = dead_relu.revived(ds)
    assert ever.values.tolist() == [36, 36]  # 0 + 2 + 4 + 6 units of 3 seeds
    assert back.values.tolist() == [0, 1]


def test_nothing_is_claimed_of_the_dead_where_none_died(ds):
    alive = changed(ds, "kill_dead_unit", lambda x: 0 * x)
    claim = next(each for each in dead_relu.CLAIMS if "Full-batch" in each.statement)
    with pytest.raises(ValueError, match="no unit died"):
        claim.check(alive)


def test_cell_takes_one_change_for_a_cause_and_one_for_a_cure(ds):
    found = [
        dead_relu.cell(ds, "dead_fraction", cause, cure).mean()
        for cause, cure in [
            ("large rate", "none"),
            ("large rate", "rate / 10"),
            ("healthy", "none"),
        ]
    ]
    np.testing.assert_allclose(found, [0.8, 0.0, 0.0], atol=1e-12)


def test_figure_draws_three_panels_with_labels(ds):
    fig = dead_relu.figure(ds)
    panels = fig.axes[:3]
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in panels)
    assert len(panels[2].texts) == len(dead_relu.CAUSES) * len(dead_relu.CURES)
    entries = [text.get_text() for text in panels[1].get_legend().get_texts()]
    assert entries[1] == "momentum 0.9: 1 of 36 dead units came back"
