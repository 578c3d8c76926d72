"""The dead_relu study: its claims on data made with known answers, its figure."""

import numpy as np
import pytest
import xarray as xr

from experiments import dead_relu
from jaxnn.report import gather


def kill():
    """More units dead at larger rates; one comes back, with momentum."""
    dead = np.zeros((4, 2, 3, 5, 8))  # rate, momentum, seed, step, unit
    for rate in range(4):
        dead[rate, ..., 1:, : 2 * rate] = 1
    dead[3, 1, 0, 3, 0] = 0
    dims = ("learning_rate", "momentum", "seed", "step", "unit")
    coords = {"step": range(5), "learning_rate": [0.5, 1.0, 2.0, 4.0], "momentum": [0.0, 0.9]}
    alive = np.full((4, 2, 3), np.nan)
    return xr.Dataset({"dead_unit": (dims, dead), "diverged_at": (dims[:3], alive)}, coords)


def cure():
    """Units dead with a large rate or a negative bias, unless cured."""
    changes = [*dead_relu.CAUSES.values(), *dead_relu.CURES.values()]
    levels = {
        name: list(dict.fromkeys([level, *(each[name] for each in changes if name in each)]))
        for name, level in dead_relu.HEALTHY.items()
    }
    none = xr.DataArray(np.zeros([len(each) for each in levels.values()]), levels, list(levels))
    killed = (none["learning_rate"] * none["relief"] > 0.5) | (none["bias"] < 0)
    killed = killed & (none["norm"] == "none") & (none["slope"] == 0)
    spread = xr.DataArray([0.95, 1.0, 1.05], dims="seed")
    dead = (none + 0.8 * killed).transpose(*levels) * spread
    layers = xr.DataArray([0.9, 1.1], dims="layer")
    steps = xr.DataArray([0.0, 1.0], {"step": [0, 150]})
    return xr.Dataset({"dead_fraction": dead * layers * steps, "accuracy": (1 - dead) * steps})


@pytest.fixture(scope="module")
def ds():
    return gather({"kill": kill(), "cure": cure()})


def failing(ds):
    return [claim.statement for claim in dead_relu.CLAIMS if not claim.check(ds).holds]


def test_claims_hold_where_the_answers_are_those_of_theory(ds):
    assert failing(ds) == []


@pytest.mark.parametrize(
    ("name", "change", "count"),
    [
        ("kill_dead_unit", lambda x: x.copy(data=x.values[::-1]), 1),
        # most come back
        ("kill_dead_unit", lambda x: x.where(x["kill_step"] < 4, x.values[::-1]), 2),
        ("kill_dead_unit", lambda x: x.copy(data=x.values[:, [0, 0]]), 1),
        ("cure_dead_fraction", lambda x: 0.3 * x, 2),  # both causes
        ("cure_dead_fraction", lambda x: 0 * x + x.mean(), 5),
        ("cure_dead_fraction", lambda x: x * x["cure_relief"], 1),  # a lower rate revives
        ("cure_accuracy", lambda x: 0.3 * x, 1),
    ],
)
def test_claims_fail_where_the_answers_are_wrong(ds, name, change, count):
    assert len(failing(ds.assign({name: change(ds[name])}))) == count


def test_rates_that_diverge_are_not_ranked(ds):
    diverged = ds["kill_diverged_at"].where(ds["kill_learning_rate"] < 4.0, 3.0)
    revived = ds["kill_dead_unit"].where(ds["kill_learning_rate"] < 4.0, 0.0)
    claim = dead_relu.CLAIMS[0]
    assert claim.check(ds.assign(kill_dead_unit=revived, kill_diverged_at=diverged)).holds
    assert not claim.check(ds.assign(kill_dead_unit=revived)).holds


def test_revived_counts_units_that_were_dead_and_are_not(ds):
    assert dead_relu.revived(ds, 0.0) == (36, 0)  # 0 + 2 + 4 + 6 units of 3 seeds
    assert dead_relu.revived(ds, 0.9) == (36, 1)


def test_nothing_is_claimed_of_the_dead_where_none_died(ds):
    claim = next(each for each in dead_relu.CLAIMS if "Full-batch" in each.statement)
    with pytest.raises(ValueError, match="no unit died"):
        claim.check(ds.assign(kill_dead_unit=0 * ds["kill_dead_unit"]))


def test_cells_take_one_change_for_a_cause_and_one_for_a_cure(ds):
    dead = dead_relu.cells(ds).mean("seed")
    found = [
        dead.sel(cause=cause, cure=cure)
        for cause, cure in [
            ("large rate", "none"),
            ("large rate", "rate / 10"),
            ("healthy", "none"),
        ]
    ]
    np.testing.assert_allclose(found, [0.8, 0.0, 0.0], atol=1e-12)


def test_figure_draws_both_panels_with_labels(ds):
    fig = dead_relu.figure(ds)
    left, right = fig.axes[:2]
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in (left, right))
    assert len(right.texts) == len(dead_relu.CAUSES) * len(dead_relu.CURES)
    entries = [text.get_text() for text in left.get_legend().get_texts()]
    assert entries[1] == "momentum 0.9: 1 of 36 dead units came back"


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("dead_relu") == []
