"""Regularisers against sums over all masks, gradient descent and numerical minima."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy import optimize

from jaxnn.theory import regularisers

pytestmark = pytest.mark.usefixtures("double_precision")

RATE = 0.3
X, Y = (np.random.default_rng(seed).normal(size=shape) for seed, shape in ((0, (6, 4)), (1, 6)))
W = np.array([0.5, -1.0, 2.0, 0.3])
MASKS = np.array(list(itertools.product([0, 1], repeat=4)))
PROBABILITY = RATE ** (4 - MASKS.sum(1)) * (1 - RATE) ** MASKS.sum(1)


def expected_loss(loss, w):
    """The sum over examples of the loss, exact over all masks of inverted dropout."""
    outputs = np.einsum("ej,mj,j->me", X, MASKS / (1 - RATE), w)
    return PROBABILITY @ loss(outputs).sum(1)


@pytest.mark.parametrize("half", [0.5, 1.0], ids=["half", "whole"])
def test_dropout_is_ridge_on_squared_errors(half):
    def loss(outputs):
        return half * (outputs - Y) ** 2

    penalty = regularisers.dropout_penalty(W, X, RATE, 2 * half)
    np.testing.assert_allclose(expected_loss(loss, W) - loss(X @ W).sum(), penalty, rtol=1e-12)


def test_dropout_is_ridge_on_logistic_loss_to_second_order():
    def loss(outputs):
        return np.logaddexp(0, outputs) - (Y > 0) * outputs

    errors = []
    for size in (0.1, 0.05):
        p = 1 / (1 + np.exp(-X @ W * size))
        penalty = regularisers.dropout_penalty(W * size, X, RATE, p * (1 - p))
        gained = expected_loss(loss, W * size) - loss(X @ W * size).sum()
        errors.append(abs(gained / penalty - 1))
    assert errors[0] < 0.05
    assert errors[1] < 0.6 * errors[0]  # the next term is of relative size |w|, or |w|^2


def test_dropout_ridge_weights_minimise_the_expected_loss():
    found = regularisers.dropout_ridge_weights(X, Y, RATE)
    numeric = optimize.minimize(
        lambda w: expected_loss(lambda outputs: (outputs - Y) ** 2, w), W, options={"gtol": 1e-9}
    )
    np.testing.assert_allclose(found, numeric.x, atol=1e-6)  # of finite differences


def test_masks_are_all_and_weigh_one():
    masks, probability = regularisers.dropout_masks(4, RATE)
    np.testing.assert_array_equal(masks, MASKS == 1)
    np.testing.assert_allclose(probability, PROBABILITY, rtol=1e-14)
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-14)
    with pytest.raises(ValueError, match="num_units: expected 1 to 20"):
        regularisers.dropout_masks(21, 0.5)


@pytest.mark.parametrize("rate", [0.5, RATE])
def test_geometric_mean_of_a_softmax_is_weight_scaling(rate):
    rng = np.random.default_rng(0)
    kernel, bias = 3 * rng.normal(size=(4, 3)), rng.normal(size=3)
    masks, probability = regularisers.dropout_masks(4, rate)
    logits = np.einsum("mj,ej,jc->mec", masks, X, kernel) + bias
    found = jax.jit(regularisers.geometric_mean)(logits, probability)
    scaled = jax.nn.softmax((1 - rate) * X @ kernel + bias, axis=-1)
    np.testing.assert_allclose(found, scaled, atol=1e-14)
    arithmetic = np.tensordot(probability, jax.nn.softmax(logits, axis=-1), axes=1)
    assert np.abs(found - arithmetic).max() > 0.01


def test_early_stopping_filter_is_gradient_descents():
    eigenvalues, rate, steps = np.array([5.0, 2.0, 1.0, 0.3]), 0.01, 10
    w = np.zeros(4)
    for _ in range(steps):
        w = w - rate * eigenvalues * (w - 1)
    found = regularisers.early_stopping_filter(eigenvalues, rate, steps)
    np.testing.assert_allclose(found, w, rtol=1e-12)
    np.testing.assert_allclose(found, [0.4013, 0.1829, 0.0956, 0.0296], atol=5e-5)
    ridge = regularisers.ridge_filter(eigenvalues, 1 / (rate * steps))
    np.testing.assert_allclose(ridge, [0.3333, 0.1667, 0.0909, 0.0291], atol=5e-5)
    penalty = regularisers.matching_penalty(eigenvalues, rate, steps)
    np.testing.assert_allclose(regularisers.ridge_filter(eigenvalues, penalty), w, rtol=1e-12)


def test_matching_penalty_of_flat_modes_is_the_inverse_time():
    found = jax.jit(regularisers.matching_penalty)(np.array([0.0, 1e-6]), 0.01, 10)
    np.testing.assert_allclose(found, 10.0, rtol=1e-6)
    slope = jax.jit(jax.grad(regularisers.matching_penalty))(0.0, 0.01, 10)
    assert np.isfinite(slope)


def test_ratios_of_early_stopping_to_ridge_are_the_suprema():
    def ratio(x):
        return -math.expm1(-x) * (1 + x) / x

    best = optimize.minimize_scalar(lambda x: -ratio(x), bounds=(0.5, 5), method="bounded")
    np.testing.assert_allclose(regularisers.FILTER_RATIO, -best.fun, rtol=1e-12)
    eigenvalues, time, noise = np.meshgrid(
        np.geomspace(1e-3, 1e3, 61), np.geomspace(1e-3, 1e3, 61), np.geomspace(1e-4, 1e8, 9)
    )
    kept, ridge = np.exp(-eigenvalues * time), eigenvalues / (eigenvalues + 1 / time)
    flow_risk = kept**2 + noise * (1 - kept) ** 2 / eigenvalues
    ridge_risk = (1 - ridge) ** 2 + noise * ridge**2 / eigenvalues
    worst = np.max(flow_risk / ridge_risk)
    assert 0.99 * regularisers.RISK_RATIO < worst <= regularisers.RISK_RATIO * (1 + 1e-12)
    np.testing.assert_allclose(regularisers.RISK_RATIO, 1.6859, atol=5e-5)


def test_soft_threshold_is_the_limit_of_proximal_descent():
    target, curvature = np.array([[2.0, -0.4, 0.1, -3.0], [1.0, 0.5, 2.0, 4.0]])
    strength = 0.3
    found = regularisers.soft_threshold(target, strength / curvature)
    rate, shrink = 0.2, jax.jit(regularisers.soft_threshold)
    w = np.ones(4)
    for _ in range(300):
        w = shrink(w - rate * curvature * (w - target), rate * strength)
    np.testing.assert_allclose(found, w, atol=1e-12)
    # the condition of a minimum: the gradient is balanced where w is not 0, and weak where it is
    gradient = curvature * (found - target)
    kept = np.asarray(found != 0)
    np.testing.assert_array_equal(kept, [True, False, False, True])
    np.testing.assert_allclose(gradient[kept], -strength * np.sign(found[kept]), rtol=1e-12)
    assert np.all(np.abs(gradient[~kept]) < strength)
