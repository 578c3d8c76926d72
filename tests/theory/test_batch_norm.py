"""Batch norm's growth of gradients against simulated layers; its backward pass against autodiff."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.theory import batch_norm

pytestmark = pytest.mark.usefixtures("double_precision")

BATCHES = np.array([5, 8, 16, 32, 64, 128, 256, 1024])


def normalise(z):
    """Batch norm over the last axis, and the deviations."""
    centred = z - z.mean(-1, keepdims=True)
    std = np.sqrt((centred**2).mean(-1, keepdims=True))
    return centred / std, std


def backward(signal, normalised, std):
    """Batch norm's gradient, from that of its output."""
    mean, own = (np.mean(s, axis=-1, keepdims=True) for s in (signal, signal * normalised))
    return (signal - mean - own * normalised) / std


def test_relu_growth_is_the_tabled_expectation():
    found = jax.jit(batch_norm.relu_gradient_growth)(BATCHES)
    tabled = [2.280, 1.792, 1.591, 1.518, 1.493, 1.479, 1.475, 1.467]  # Monte Carlo, good to 3e-3
    np.testing.assert_allclose(found, tabled, rtol=4e-3)


@pytest.mark.parametrize("batch", [8, 16])
def test_relu_growth_equals_its_expectation_by_monte_carlo(batch):
    rng, num = np.random.default_rng(0), 60_000
    y, std = normalise(rng.normal(size=(num, batch)))
    h, signal = np.maximum(y, 0), rng.normal(size=(num, batch))
    spread = np.mean(h**2) - (np.sum(h, 1) ** 2 - np.sum(h**2, 1)).mean() / (batch * (batch - 1))
    signal -= signal.mean(1, keepdims=True)  # a gradient that has passed a batch norm above
    passed = np.sum(backward(signal * (y > 0), y, std) ** 2, 1) / spread / (batch - 1)
    expected = batch_norm.relu_gradient_growth(batch)
    # 4 standard errors; that of the spread, some 0.2%, is apart from them
    assert abs(passed.mean() - expected) < 4 * passed.std() / math.sqrt(num) + 4e-3 * expected


@pytest.mark.parametrize(
    ("relu", "growth"),
    [(True, batch_norm.relu_gradient_growth), (False, batch_norm.linear_gradient_growth)],
    ids=["relu", "linear"],
)
def test_gradients_of_a_network_grow_as_computed(relu, growth):
    rng, width, batch, depth, nets = np.random.default_rng(0), 400, 8, 10, 5
    logs = []
    for _ in range(nets):
        weights = rng.normal(size=(depth, width, width)) / math.sqrt(width)
        h, passes = rng.normal(size=(width, batch)), []
        for w in weights:
            y, std = normalise(w @ h)
            passes.append((y, std))
            h = np.maximum(y, 0) if relu else y
        signal, norms = rng.normal(size=(width, batch)), []
        for w, (y, std) in zip(weights[::-1], passes[::-1], strict=True):
            at_z = backward(signal * (y > 0) if relu else signal, y, std)
            norms.append(np.sum(at_z**2))
            signal = w.T @ at_z
        logs.append(np.diff(np.log(norms))[2:-1])  # without the top layers and the first
    rates = np.exp(np.mean(logs, axis=1))
    # 4 standard errors over the nets, and 1% for corrections in 1 / width
    tolerance = 4 * rates.std(ddof=1) / math.sqrt(nets) + 0.01
    assert abs(rates.mean() - growth(batch)) < tolerance < 0.1


def test_growth_has_its_limits():
    batches = np.array([2.0, 3.0, 4.0, 5.0, 8.0, 16.0, 1e7])
    relu = np.asarray(jax.jit(batch_norm.relu_gradient_growth)(batches))
    linear = np.asarray(jax.jit(batch_norm.linear_gradient_growth)(batches))
    assert np.isinf([relu[:2], linear[:2]]).all()
    np.testing.assert_allclose(linear[2:6], [2, 3 / 2, 6 / 5, 14 / 13], rtol=1e-15)
    np.testing.assert_allclose(relu[6], batch_norm.RELU_GRADIENT_GROWTH, rtol=1e-6)  # O(1/B)
    np.testing.assert_allclose(batch_norm.RELU_GRADIENT_GROWTH, 1.46694, atol=5e-6)


def test_backward_norm_is_autodiffs():
    z, signal = np.random.default_rng(0).normal(size=(2, 24))
    scale, shift = 1.7, 0.4

    def layer(z):
        return scale * (z - z.mean()) / z.std() + shift

    gradient = jax.jit(lambda z: jax.vjp(layer, z)[1](jnp.asarray(signal))[0])(z)
    normalised, std = normalise(z)
    found = batch_norm.backward_squared_norm(signal, normalised, scale, std[0])
    np.testing.assert_allclose(found, np.sum(gradient**2), rtol=1e-12)


def test_stream_of_residual_blocks_grows_as_computed():
    rng, width, batch, num_blocks = np.random.default_rng(0), 600, 64, 8
    x, moments, variances = rng.normal(size=(width, batch)), [], []
    for _ in range(num_blocks):
        weights = rng.normal(size=(width, width)) * math.sqrt(2 / width)
        x = x + weights @ np.maximum(normalise(x)[0], 0)
        moments.append(np.mean(x**2))
        variances.append(np.mean(x.var(1)) * batch / (batch - 1))
    blocks = np.arange(1.0, num_blocks + 1)
    # moments of 600 units: a relative error of sqrt(2/600) = 6% for one shared by the batch
    np.testing.assert_allclose(moments, batch_norm.stream_second_moment(blocks), rtol=0.08)
    np.testing.assert_allclose(variances, batch_norm.stream_batch_variance(blocks), rtol=0.03)
    np.testing.assert_allclose(batch_norm.branch_share(blocks), 1 / (blocks + 1), rtol=1e-15)
