"""Modes against their differential equation and gradient descent; landscapes against Hessians."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from jaxnn.theory import linear_nets

pytestmark = pytest.mark.usefixtures("double_precision")

DEPTHS = (1.0, 1.5, 2.0, 3.0, 5.0, 20.0, 50.0)
EIGENVALUES = np.array([4.0, 3.0, 2.0, 1.0, 0.5])
WIDTH = 3


mode_time = jax.jit(linear_nets.mode_time)


def half_times(final, initial, depth):
    return mode_time(np.asarray(final) / 2, final, initial, depth)


def test_half_times_are_the_published_ones():
    found = jax.jit(linear_nets.mode_half_time)(np.array([4.0, 3.0, 2.0, 1.0]), 1e-3)
    np.testing.assert_allclose(found, [1.0367, 1.3343, 1.9001, 3.4534], atol=5e-5)
    deep = half_times(np.array([2.0, 1.0]), 0.01, np.array([3.0, 5.0]))
    np.testing.assert_allclose(deep, [1.978, 5.156], atol=5e-4)  # the last digit given


def test_time_equals_an_adaptive_integral_at_every_depth():
    start, final, stops = 1e-3, 1.7, np.array([0.01, 0.85, 1.69])
    depths, strengths = np.meshgrid(DEPTHS, stops, indexing="ij")
    found = mode_time(strengths, final, start, depths)
    for (i, j), depth in np.ndenumerate(depths):
        rate = functools.partial(lambda u, d: d * u ** (2 - 2 / d) * (final - u), d=depth)
        points = np.geomspace(start, strengths[i, j], 6)
        parts = [
            integrate.quad(lambda u, rate=rate: 1 / rate(u), a, b, epsrel=1e-12)[0]
            for a, b in itertools.pairwise(points)
        ]
        np.testing.assert_allclose(found[i, j], sum(parts), rtol=1e-11)


def test_derivatives_are_the_velocity():
    strength, depth = jnp.array([0.1, 0.4, 1.2]), jnp.array([2.0, 3.0, 7.0])
    velocity = linear_nets.mode_velocity(strength, 1.5, depth)

    def slope(u, d):
        return jax.grad(linear_nets.mode_time)(u, 1.5, 0.01, d)

    np.testing.assert_allclose(1 / jax.jit(jax.vmap(slope))(strength, depth), velocity, rtol=1e-9)
    time = jnp.array([0.0, 1.0, 3.0])
    value, rate = jax.jit(jax.vmap(jax.value_and_grad(linear_nets.mode_strength), (0, None, None)))(
        time, 1.5, 0.01
    )
    np.testing.assert_allclose(rate, linear_nets.mode_velocity(value, 1.5, 2), rtol=1e-10)
    np.testing.assert_allclose(value[0], 0.01, rtol=1e-12)
    np.testing.assert_allclose(mode_time(value, 1.5, 0.01), time, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 3], ids=["D2", "D3"])
def test_gradient_descent_of_matrices_follows_the_modes(depth):
    rng = np.random.default_rng(0)
    final, initial = np.array([3.0, 2.0, 1.0]), 0.05
    left, right = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
    target = left @ np.diag(final) @ right.T
    errors = []
    for rate in (4e-3, 2e-3):
        layers = [initial ** (1 / depth) * np.eye(3) for _ in range(depth)]
        layers[0], layers[-1] = layers[0] @ right.T, left @ layers[-1]
        reached = np.full(3, np.nan)
        for step in range(int(5 / rate)):
            product = functools.reduce(lambda a, b: b @ a, layers)
            modes = np.diag(left.T @ product @ right)
            reached = np.where((modes >= final / 2) & np.isnan(reached), step * rate, reached)
            gradients = []
            for i in range(depth):
                after = functools.reduce(lambda a, b: b @ a, layers[i + 1 :], np.eye(3))
                before = functools.reduce(lambda a, b: b @ a, layers[:i], np.eye(3))
                gradients.append(after.T @ (product - target) @ before.T)
            layers = [w - rate * g for w, g in zip(layers, gradients, strict=True)]
            if np.isfinite(reached).all():
                break
        expected = half_times(final, initial, depth)
        errors.append(np.max(np.abs(reached - expected)))
    # Euler's method is off by O(rate), and a time of crossing is read to one step
    assert errors[0] < 0.02
    assert errors[1] < 0.5 * errors[0] + 2e-3


def test_gradient_flow_conserves_the_imbalance():
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(3, 5), (5, 2), (7, 3), (7, 2)]
    first, second, x, y = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))

    def drift(nonlinearity):
        def loss(first, second):
            return jnp.sum((nonlinearity(x @ first) @ second - y) ** 2)

        gradients = jax.grad(loss, (0, 1))(first, second)
        return jax.jvp(linear_nets.imbalance, (first, second), gradients)

    value, linear = jax.jit(drift, static_argnums=0)(lambda h: h)
    _, relu = jax.jit(drift, static_argnums=0)(jax.nn.relu)
    assert np.abs(value).max() > 1
    np.testing.assert_allclose(linear, 0, atol=1e-11)  # sums of some 50 numbers of size 100
    np.testing.assert_allclose(np.diag(relu), 0, atol=1e-11)
    assert np.abs(relu).max() > 1  # only the diagonal


def test_autoencoder_has_the_losses_and_indices_of_its_hessians():
    dim = EIGENVALUES.size
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    covariance = vectors @ np.diag(EIGENVALUES) @ vectors.T
    points = linear_nets.autoencoder_critical_points(EIGENVALUES, WIDTH)
    assert len(points.kept) == 26

    def loss(flat):
        encoder, decoder = flat.reshape(2, dim, WIDTH)
        left = jnp.eye(dim) - encoder @ decoder.T
        return jnp.trace(left.T @ covariance @ left) / 2

    def facts(flat):
        return loss(flat), jax.grad(loss)(flat), jnp.linalg.eigvalsh(jax.hessian(loss)(flat))

    weights = [linear_nets.autoencoder_weights(vectors, kept, WIDTH) for kept in points.kept]
    flat = np.stack([np.concatenate([a.ravel(), b.T.ravel()]) for a, b in weights])
    losses, gradients, curvatures = jax.jit(jax.vmap(facts))(flat)
    np.testing.assert_allclose(losses, points.loss, rtol=1e-12)
    np.testing.assert_allclose(gradients, 0, atol=1e-13)
    # exact zeros (the symmetries of the bottleneck) come out at 1e-15; the others are above 0.1
    np.testing.assert_array_equal((curvatures < -1e-8).sum(1), points.saddle_index)
    assert np.flatnonzero(points.saddle_index == 0).tolist() == [np.argmin(points.loss)]


@pytest.mark.parametrize(
    ("eigenvalues", "width", "name"),
    [([1.0, 1.0], 1, "eigenvalues"), ([1.0, 0.0], 1, "eigenvalues"), ([2.0, 1.0], 3, "width")],
    ids=["equal", "zero", "too-wide"],
)
def test_autoencoder_refuses_what_its_formula_does_not_cover(eigenvalues, width, name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        linear_nets.autoencoder_critical_points(np.array(eigenvalues), width)
