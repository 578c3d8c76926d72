"""The born_dead study: its claims on shares made with known answers, its figure."""

import numpy as np
import pytest
import xarray as xr

from experiments import born_dead
from jaxnn.theory import dead_units

NAMES = ("width", "asymmetric", "slope", "seed", "hidden")


@pytest.fixture(scope="module")
def ds():
    """Shares born dead at a point that follow the law, and on the line are amid their bounds."""
    hidden, widths = np.arange(1, 50), [2, 5]
    law = np.stack([dead_units.death_probability(width, hidden) for width in widths])
    lines = np.mean([dead_units.line_death_bounds(width, hidden) for width in widths], axis=1)
    lines[0, 1] = 5 / 32
    coords = dict(zip(NAMES, (widths, [0.0, 1.0], [0.0, 0.1], range(8), hidden), strict=True))
    factor = np.array([[1.0, 0.0], [0.2, 0.0]])[None, :, :, None, None]  # He, RAI; ReLU, leaky
    shares = {
        name: (NAMES, each[:, None, None, None] * factor * np.ones((8, 1)))
        for name, each in {"point": law, "line": lines}.items()
    }
    return xr.Dataset(shares, coords, attrs={"num_counted": 1000})


def failing(ds):
    return [claim.statement for claim in born_dead.CLAIMS if not claim.check(ds).holds]


def test_claims_hold_where_the_answers_are_those_of_theory(ds):
    assert failing(ds) == []


@pytest.mark.parametrize(
    ("name", "change", "count"),
    [
        ("point", lambda x: 0.9 * x, 3),  # both laws and the hazard
        ("line", lambda x: x + 0.06, 2),  # above the bound at N = 2; 5/32
        ("line", lambda x: x.where(x["asymmetric"] == 0, 2.5 * x), 1),
        ("point", lambda x: x.where(x["slope"] == 0, x + 1e-3), 1),
    ],
)
def test_claims_fail_where_the_answers_are_wrong(ds, name, change, count):
    assert len(failing(ds.assign({name: change(ds[name])}))) == count


def test_standard_error_is_that_of_a_binomial(ds):
    share, error = born_dead.born_dead(ds, "point", width=2, hidden=9)
    law = 1 - 0.75**9
    np.testing.assert_allclose(share, law, rtol=1e-6)
    np.testing.assert_allclose(error, np.sqrt(law * (1 - law) / 1000), rtol=1e-6)


def test_figure_draws_the_law_and_the_cures_with_labels(ds):
    fig = born_dead.figure(ds)
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)
    entries = [text.get_text() for text in fig.axes[1].get_legend().get_texts()]
    assert sorted(entries) == ["He", "Lu et al.'s bounds", "RAI", "leaky, slope 0.1"]


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("born_dead") == []
