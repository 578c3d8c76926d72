"""The study `trainability` on data whose trainable depth and growth are known."""

import numpy as np
import pytest
import xarray as xr

from experiments import trainability
from jaxnn.report import gather, judge

ATTRS = {"bias_variance": 0.05, "num_steps": 200, "width": 64}
VARIANCES = np.linspace(1.0, 4.0, 7)
DEPTHS = np.arange(2, 202, 4)


@pytest.fixture(scope="module")
def theory():
    return trainability.theory(xr.Dataset(attrs=ATTRS), VARIANCES)


def trained(xi_c, kappa=6.0):
    """Accuracy falls from 1 to 0 in a straight line over 16 layers around kappa xi_c."""
    limit = kappa * xi_c.values[:, None]
    accuracy = np.clip(0.5 + (limit - DEPTHS) / 16.0, 0.0, 1.0)
    seeds = accuracy[:, :, None, None, None] * np.ones((1, 1, 2, 2, 1))  # rate, seed, step
    dims = ("weight_variance", "depth", "learning_rate", "seed", "step")
    coords = {"weight_variance": VARIANCES, "depth": DEPTHS, "learning_rate": [0.01, 0.1]}
    return xr.Dataset({"accuracy": (dims, seeds)}, {**coords, "step": [200]}, ATTRS)


def at_start(chi_1, wide=1.0, narrow=1.1):
    """Backward signals that grow by chi_1 a layer, times the error of each width; 4 seeds."""
    layers, errors = np.arange(1, 33), np.array([narrow, wide])
    factors = chi_1.values[[0, -1]][:, None] * errors
    logs = -np.log(factors)[..., None] * layers / 2  # of the root
    noise = 1e-4 * np.arange(4)[:, None] * layers  # seeds differ a little in their slopes
    rms = np.exp(logs[:, :, None, :] + (noise - noise.mean(0))[None, None])
    dims = ("weight_variance", "width", "seed", "layer")
    coords = {"weight_variance": VARIANCES[[0, -1]], "width": [64, 512], "layer": layers}
    return xr.Dataset({"preact_grad_rms": (dims, rms)}, coords)


def failing(first, second):
    whole = gather({"trained": first, "growth": second}, **ATTRS)
    return {
        each.claim.statement[:22] for each in judge(trainability.CLAIMS, whole) if not each.holds
    }


def test_claims_hold_on_data_of_the_theory(theory):
    assert failing(trained(theory["xi_c"]), at_start(theory["chi_1"])) == set()


def test_each_claim_can_fail(theory):
    xi_c, chi_1 = theory["xi_c"], theory["chi_1"]
    assert failing(trained(xi_c, kappa=2.0), at_start(chi_1)) >= {"L* = kappa xi_c with k"}
    backwards = failing(trained(xi_c[::-1]), at_start(chi_1))
    assert backwards >= {"The trainable depth L*", "kappa is one number ov"}
    wrong = failing(trained(xi_c), at_start(chi_1, wide=1.2))
    assert wrong == {"At initialisation the ", "The growth's error aga"}


def test_trainable_depth_is_where_accuracy_crosses_one_half(theory):
    found = trainability.trainable_depth(trained(theory["xi_c"]))
    inside = (6.0 * theory["xi_c"].values > 4) & (6.0 * theory["xi_c"].values < 190)
    np.testing.assert_allclose(found[inside], 6.0 * theory["xi_c"][inside], rtol=1e-6)
    assert inside.sum() >= 2


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("trainability") == []
