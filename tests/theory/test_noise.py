"""Stability against the eigenvalues of the iteration; noise against sums over examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from jaxnn.theory import noise

pytestmark = pytest.mark.usefixtures("double_precision")

RATE = 0.1
MOMENTA = np.array([0.0, 0.5, 0.9])


def heavy_ball(step, b):
    """The iteration of (w, v) with gradient step * w / eta."""
    return np.array([[1 - step, -b], [step, b]])  # v in units of the learning rate


def nesterov(step, b):
    return np.array([[1 - step * (1 + b), -b * b], [step, b]])


def averaged(step, b):
    return np.array([[1 - (1 - b) * step, -b], [(1 - b) * step, b]])


@pytest.mark.parametrize(
    ("limit", "iteration"),
    [
        (noise.heavy_ball_limit, heavy_ball),
        (noise.nesterov_limit, nesterov),
        (noise.adam_limit, averaged),
    ],
    ids=["heavy-ball", "nesterov", "adam"],
)
def test_iteration_diverges_just_above_the_limit(limit, iteration):
    for b, sharpness in zip(MOMENTA, limit(RATE, MOMENTA), strict=True):
        below, above = (
            np.abs(np.linalg.eigvals(iteration(RATE * sharpness * (1 + e), b))).max()
            for e in (-1e-6, 1e-6)
        )
        assert below < 1 < above


def test_limits_have_their_published_values():
    np.testing.assert_allclose(noise.heavy_ball_limit(RATE), 2 / RATE, rtol=1e-15)
    np.testing.assert_allclose(noise.nesterov_limit(RATE, 0.0), 2 / RATE, rtol=1e-15)
    np.testing.assert_allclose(noise.adam_limit(RATE), 38 / RATE, rtol=1e-14)


def test_stationary_variance_has_its_published_values():
    rate, batch = np.array([0.1, 0.2, 0.4]), np.array([4, 8, 16])
    found = noise.stationary_variance(rate, 2.0, 1.0, batch)
    np.testing.assert_allclose(found, [0.006944, 0.007812, 0.010417], atol=6e-7)  # digits given


def test_stationary_variance_solves_the_lyapunov_equation():
    lam, variance, batch = 3.0, 0.7, 5
    found = jax.jit(noise.stationary_variance)(RATE, lam, variance, batch, MOMENTA)
    for b, each in zip(MOMENTA, found, strict=True):
        kick = RATE * np.array([-1.0, 1.0])
        forcing = np.outer(kick, kick) * variance / batch
        covariance = linalg.solve_discrete_lyapunov(heavy_ball(RATE * lam, b), forcing)
        np.testing.assert_allclose(each, covariance[0, 0], rtol=1e-10)


def test_stationary_variance_is_infinite_from_the_limit_on():
    limit = noise.heavy_ball_limit(RATE, 0.5)
    found = noise.stationary_variance(RATE, limit * np.array([0.99, 1.01]), 1.0, 1, 0.5)
    np.testing.assert_array_equal(np.isinf(found), [False, True])


def test_optimal_learning_rate_minimises_the_expected_loss_of_a_step():
    rng, batch = np.random.default_rng(0), 2
    half = rng.normal(size=(4, 4))
    hessian, w = half @ half.T, rng.normal(size=4)
    offsets = rng.normal(size=(5, 4))
    gradients = w @ hessian + offsets - offsets.mean(0)  # of five examples
    mean = gradients.mean(0)
    covariance = (gradients - mean).T @ (gradients - mean) / 5
    pairs = (gradients[:, None] + gradients[None, :]).reshape(-1, 4) / batch  # every batch of 2

    def expected_loss(rate):
        after = w - rate * pairs
        return np.einsum("bi,ij,bj->b", after, hessian, after).mean() / 2

    loss = [expected_loss(rate) for rate in (0.0, 1.0, 2.0)]  # a parabola in the rate
    slope, curvature = 2 * loss[1] - 1.5 * loss[0] - loss[2] / 2, loss[0] - 2 * loss[1] + loss[2]
    largest = noise.largest_step(mean, hessian)
    scale = noise.noise_scale(mean, hessian, covariance)
    found = noise.optimal_learning_rate(largest, scale, batch)
    np.testing.assert_allclose(found, -slope / curvature, rtol=1e-10)
    simple = noise.noise_scale(mean, 3 * np.eye(4), covariance)
    np.testing.assert_allclose(simple, np.trace(covariance) / (mean @ mean), rtol=1e-12)


def test_steps_and_examples_lie_on_the_hyperbola():
    batch = jnp.array([1.0, 10.0, 300.0])
    steps, examples = noise.steps_and_examples(batch, 50, 2000)
    np.testing.assert_allclose((steps / 50 - 1) * (examples / 2000 - 1), 1, rtol=1e-10)
    np.testing.assert_allclose(examples, batch * steps, rtol=1e-14)
    critical = noise.steps_and_examples(2000 / 50, 50, 2000)
    np.testing.assert_allclose(critical, [100, 4000], rtol=1e-14)  # twice the least of each
