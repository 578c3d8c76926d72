"""Bounds on simulated Jacobians, latches against root finding, gates against their recursion."""

import jax
import numpy as np
import pytest
from scipy import optimize

from jaxnn.theory import recurrent

pytestmark = pytest.mark.usefixtures("double_precision")

STEPS = np.arange(1, 31)


def jacobian_norms(weights, state, slope):
    """Norms of dh_T/dh_0 for T = 1, 2, ... of h' = f(W h); slope(z) = f'(z), f from its value."""
    jacobian, norms = np.eye(len(weights)), []
    for _ in STEPS:
        state, gate = slope(weights @ state)
        jacobian = gate[:, None] * (weights @ jacobian)
        norms.append(np.linalg.norm(jacobian, 2))
    return np.array(norms)


def linear(z):
    return z, np.ones_like(z)


def tanh(z):
    return np.tanh(z), 1 - np.tanh(z) ** 2


def sigmoid(z):
    value = 1 / (1 + np.exp(-z))
    return value, value * (1 - value)


@pytest.mark.parametrize("radius", [0.9, 1.1])
def test_bound_is_exact_for_orthogonal_linear_networks(radius):
    rng = np.random.default_rng(0)
    weights = radius * np.linalg.qr(rng.normal(size=(20, 20)))[0]
    norms = jacobian_norms(weights, rng.normal(size=20), linear)
    np.testing.assert_allclose(norms, recurrent.jacobian_bound(radius, STEPS), rtol=1e-12)


@pytest.mark.parametrize(("rule", "slope"), [(tanh, 1), (sigmoid, 0.25)], ids=["tanh", "sigmoid"])
def test_bound_holds_and_is_not_empty(rule, slope):
    rng = np.random.default_rng(0)
    weights = 1.5 * rng.normal(size=(40, 40)) / np.sqrt(40)
    top = np.linalg.norm(weights, 2)
    bound = recurrent.jacobian_bound(top, STEPS, slope)
    norms = jacobian_norms(weights, 0.01 * rng.normal(size=40), rule)
    assert np.all(norms <= bound)
    assert norms[0] > 0.9 * bound[0]  # at small states the slope is nearly its largest


def test_latch_is_the_fixed_point_and_its_published_contraction():
    weights = np.array([1.1, 1.25, 1.5, 2.0, 5.0])
    state = jax.jit(recurrent.latch_state)(weights)
    roots = [
        optimize.brentq(lambda x, w=w: np.tanh(w * x) - x, 0.1, 1, xtol=1e-15) for w in weights
    ]
    np.testing.assert_allclose(state, roots, rtol=1e-12)
    found = jax.jit(recurrent.latch_contraction)(weights)
    np.testing.assert_allclose(found[:4], [0.8218, 0.6191, 0.3943, 0.1664], atol=5e-5)
    x, gradient = state[2] + 1e-3, 1.0  # the gradient of 200 steps near the latch
    for _ in range(200):
        x = np.tanh(1.5 * x)
        gradient *= 1.5 * (1 - x**2)
    np.testing.assert_allclose(gradient ** (1 / 200), found[2], rtol=1e-3)


def test_latch_ends_at_weight_one_and_has_gradients():
    weights = np.array([0.5, 1.0, 1.0 + 1e-6])
    # near 1, tanh(wx) = wx - x^3/3, so x^2 = 3 (w - 1); Newton nears the root to some 1e-3 there
    np.testing.assert_allclose(
        jax.jit(recurrent.latch_state)(weights), [0, 0, np.sqrt(3e-6)], rtol=1e-3
    )
    slope = jax.jit(jax.vmap(jax.grad(recurrent.latch_state)))(np.array([0.5, 1.5]))
    ahead, behind = jax.jit(recurrent.latch_state)(np.array([1.5 + 1e-6, 1.5 - 1e-6]))
    np.testing.assert_allclose(slope, [0, (ahead - behind) / 2e-6], rtol=1e-7)


def test_memory_of_a_gate_is_its_recursion():
    bias = np.array([0.0, 1.0, 2.0, 5.0])
    gate, cell = 1 / (1 + np.exp(-bias)), np.ones(4)
    for _ in range(30):
        cell = gate * cell
    np.testing.assert_allclose(recurrent.memory_factor(bias, 30), cell, rtol=1e-12)
    lives = recurrent.half_life(bias)
    np.testing.assert_allclose(lives, [1.0, 2.21, 5.46, 103], rtol=3e-3)  # the digits given
    np.testing.assert_allclose(recurrent.memory_factor(bias, lives), 0.5, rtol=1e-12)


def test_chrono_bias_has_the_memory_asked_for():
    steps = np.array([2.0, 10.0, 784.0])
    gate = 1 / (1 + np.exp(-recurrent.chrono_bias(steps)))
    np.testing.assert_allclose(1 / (1 - gate), steps, rtol=1e-10)
