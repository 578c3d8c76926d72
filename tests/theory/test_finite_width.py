"""The exact laws of norms against binomial sums, known limits and a simulation of the chain."""

import math

import jax
import numpy as np
import pytest
from scipy import special, stats

from jaxnn.theory import finite_width

WIDTHS = (1, 2, 20, 50, 1000)


def relu_reference(width):
    active = np.arange(1, width + 1)
    probability = stats.binom.pmf(active, width, 0.5)
    probability = probability / probability.sum()  # given that a unit is active
    psi = special.digamma(active / 2)
    mean = probability @ psi
    variance = probability @ special.polygamma(1, active / 2) + probability @ (psi - mean) ** 2
    return mean + math.log(4 / width), variance


def linear_reference(width):
    mean = special.digamma(width / 2) + math.log(2 / width)
    return mean, special.polygamma(1, width / 2)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("moments", "reference"),
    [
        (finite_width.relu_log_moments, relu_reference),
        (finite_width.linear_log_moments, linear_reference),
    ],
    ids=["relu", "linear"],
)
def test_log_moments_equal_scipy(moments, reference, width):
    with jax.enable_x64(True):
        double = moments(width)
    # 1e-11: ln n is 7, and the binomial weights lose some n eps
    np.testing.assert_allclose(double, reference(width), rtol=1e-10, atol=1e-11)
    # 3e-6: the mean is a difference of numbers of size ln n, each known to a few 1e-7 in float32
    np.testing.assert_allclose(moments(width), reference(width), rtol=3e-5, atol=3e-6)


def test_relu_log_moments_tend_to_five_over_width():
    mean, variance = finite_width.relu_log_moments(2000)
    # the next terms are of relative size 3/n; the float32 error of the mean is below 1e-6
    np.testing.assert_allclose([mean, variance], [-5 / 4000, 5 / 2000], rtol=3e-3)


@pytest.mark.parametrize(("width", "depth"), [(20, 5), (50, 10)], ids=["n20", "n50"])
@pytest.mark.parametrize("kind", ["relu", "linear"])
def test_log_moments_match_simulated_layers(kind, width, depth):
    rng, nets = np.random.default_rng(0), 20_000
    moments = getattr(finite_width, f"{kind}_log_moments")
    log_ratio = np.zeros(nets)
    for _ in range(depth):  # given h, W h is N(0, gain |h|^2 / n): the exact chain
        z = rng.normal(size=(nets, width))
        h = math.sqrt(2) * np.maximum(z, 0) if kind == "relu" else z
        log_ratio += np.log(np.mean(h**2, axis=1))
    mean, variance = (depth * float(moment) for moment in moments(width))
    centred = log_ratio - log_ratio.mean()
    variance_se = math.sqrt((np.mean(centred**4) - np.mean(centred**2) ** 2) / nets)
    # 4 standard errors: 1 in 16000 for one comparison, and the seed is fixed
    assert abs(log_ratio.mean() - mean) < 4 * math.sqrt(variance / nets)
    assert abs(log_ratio.var() - variance) < 4 * variance_se
