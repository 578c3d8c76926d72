"""The study `gradient_flow` on data whose cures are known."""

import numpy as np
import xarray as xr

from experiments import gradient_flow
from jaxnn.report import gather, judge

AXES = {
    "activation": ["tanh", "relu"],
    "gain": list(gradient_flow.GAINS.values()),
    "residual": [0.0, 1.0],
    "clip_norm": [1.0, np.inf],
    "learning_rate": [0.01, 0.1],
}


def cures(residual=0.9, clipped=0.1, clipped_diverge=0.0, normal=0.9):
    """Accuracy 0.1 where nothing cures; the second rate is the better one by 0.01."""
    cell = xr.Dataset(coords=AXES)
    shape = [len(each) for each in AXES.values()]
    accuracy = xr.DataArray(np.full(shape, 0.1), AXES, list(AXES))
    vanishing = (cell["activation"] == "relu") & (cell["gain"] == 0.5)
    accuracy = accuracy.where(~(vanishing & (cell["residual"] == 1.0)), residual)
    plain = vanishing & (cell["residual"] == 0.0) & (cell["clip_norm"] == 1.0)
    accuracy = accuracy.where(~plain, clipped)
    right = (cell["activation"] == "tanh") & (cell["gain"] == 1.0)
    accuracy = accuracy.where(~right, normal) + 0.01 * (cell["learning_rate"] == 0.1)
    exploding = (cell["gain"] == 2.0) & (cell["activation"] == "relu")
    share = xr.where(cell["clip_norm"] == 1.0, clipped_diverge, 1.0) * exploding
    seeds = xr.DataArray(np.arange(4), dims="seed")
    share = share.expand_dims(learning_rate=AXES["learning_rate"], residual=AXES["residual"])
    diverged = xr.where(seeds / 4 < share, 10.0, np.nan)
    accuracy = (accuracy + 0.001 * seeds).expand_dims(step=[100])
    return xr.Dataset({"accuracy": accuracy, "diverged_at": diverged})


def failing(**changed):
    whole = gather({"cure": cures(**changed)})
    return [n for n, each in enumerate(judge(gradient_flow.CLAIMS, whole)) if not each.holds]


def test_claims_hold_where_each_cure_works_where_it_should():
    assert failing() == []


def test_each_claim_can_fail():
    assert failing(normal=0.2) == [0]
    assert failing(residual=0.2) == [1]
    assert failing(clipped=0.5) == [2]
    assert failing(clipped_diverge=0.75) == [3]


def test_cured_takes_the_better_rate_and_names_the_cures():
    found = gradient_flow.cured(gather({"cure": cures()}))
    assert list(found["cure"].values) == ["none", "clipping", "residual", "both"]
    assert list(found["regime"].values) == ["vanishing", "normal", "exploding"]
    np.testing.assert_allclose(found.sel(cure="residual", regime="vanishing", seed=0), 0.91)


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("gradient_flow") == []
