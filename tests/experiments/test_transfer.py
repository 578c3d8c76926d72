"""The transfer study: its fit and its claims on made-up losses with known best rates."""

import numpy as np
import pytest
import xarray as xr

from experiments import transfer as study
from jaxnn import report

OCTAVES = np.arange(-11.0, -3.0)


def made_up(*, standard: float = -9.0, mup: float = -7.2, narrow: float = -6.5) -> xr.Dataset:
    """Return a study's data with these best rates (log2) of the widest and of the narrowest."""
    best = np.array([[narrow, narrow], [standard, mup]])  # [width, mup]
    loss = np.exp(0.1 * (OCTAVES[:, None, None] - best) ** 2)
    loss = loss[..., None, None] * np.array([1.0, 1.1])[:, None]  # two seeds, one record
    dims = ("learning_rate", "width", "mup", "seed", "step")
    coords = {"learning_rate": 2.0**OCTAVES, "width": [64, 1024], "mup": list(study.NAMES)}
    return xr.Dataset({"loss": (dims, loss)}, coords)


def holds(ds: xr.Dataset) -> list[bool]:
    return [each.holds for each in report.judge(study.CLAIMS, ds)]


def test_claims_hold_where_only_mup_keeps_the_rate():
    assert holds(made_up()) == [True, True]


def test_a_rate_that_does_not_move_without_mup_fails():
    assert holds(made_up(standard=-8.0)) == [False, True]


def test_a_rate_that_moves_with_mup_either_way_fails():
    assert holds(made_up(mup=-8.0)) == [True, False]
    assert holds(made_up(mup=-5.4)) == [True, False]


@pytest.mark.parametrize("best", [-8.75, -7.0, -6.2])
def test_best_rate_is_the_vertex(best):
    losses = made_up(narrow=best)["loss"].isel(width=0, mup=0, step=0)
    assert study.best_rate(losses).values == pytest.approx([best, best])


def test_best_rate_beyond_the_rates_is_the_end():
    losses = made_up(narrow=-13.0)["loss"].isel(width=0, mup=0, step=0)
    assert study.best_rate(losses).values == pytest.approx([-11.0, -11.0])


def test_figure_draws_and_labels():
    fig = study.figure(made_up())
    assert len(fig.axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("transfer") == []
