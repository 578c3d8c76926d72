"""Probabilities of death against simulated networks and against counting."""

import math

import jax
import numpy as np
import pytest

from jaxnn.theory import dead_units

pytestmark = pytest.mark.usefixtures("double_precision")


def simulate(width, num_hidden, nets):
    """Death of the ray x > 0 and of both rays, the states scaled to 1 lest they underflow."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(nets, 1, width))
    rays = np.maximum(np.concatenate([first, -first], axis=1), 0)  # [net, ray, unit]
    for _ in range(num_hidden - 1):
        rays = np.maximum(rays @ rng.normal(size=(nets, width, width)), 0)
        size = rays.max(axis=(1, 2), keepdims=True)
        rays = rays / np.where(size > 0, size, 1)
    dead = np.all(rays == 0, axis=2)
    return dead[:, 0].mean(), dead.all(1).mean()


@pytest.mark.parametrize(("width", "num_hidden"), [(2, 9), (3, 4), (5, 16)], ids=str)
def test_simulated_networks_die_as_computed(width, num_hidden):
    nets = 20_000
    one, line = simulate(width, num_hidden, nets)
    lower, upper = dead_units.line_death_bounds(width, num_hidden)
    error = 4 * math.sqrt(0.25 / nets)  # four standard errors at most: 1.4%
    assert abs(one - dead_units.death_probability(width, num_hidden)) < error
    assert lower - error < line < upper + error
    assert upper - lower > 2 * error  # so that the bounds are told apart


@pytest.mark.parametrize("width", [2, 3])
def test_two_hidden_layers_are_exact(width):
    nets = 100_000
    lower, _ = dead_units.line_death_bounds(width, 2)
    # a ray alone (all first weights of one sign), or two on units of their own
    one_ray = 2.0 ** (1 - width)
    counted = one_ray * 2.0**-width + (1 - one_ray) * 4.0**-width
    np.testing.assert_allclose(lower, counted, rtol=1e-14)
    line = simulate(width, 2, nets)[1]
    assert abs(line - counted) < 4 * math.sqrt(counted / nets)


def test_published_values():
    found = dead_units.death_probability(np.array([2, 5]), np.array([9, 49]))
    np.testing.assert_allclose(found, [0.9249, 0.7890], atol=5e-5)


def test_bounds_are_ordered_and_tend_to_death():
    width, num_hidden = np.meshgrid(np.arange(1, 30), np.array([1, 2, 3, 10, 1000]))
    lower, upper = map(np.asarray, jax.jit(dead_units.line_death_bounds)(width, num_hidden))
    assert np.all(lower <= upper)
    assert np.all(lower[0] == 0)  # one hidden layer: each unit is active on a half-line
    assert np.all(np.diff(lower, axis=0) >= -1e-12)  # deeper networks die more
    assert np.all(np.diff(upper, axis=1) <= 0)  # wider ones less
    np.testing.assert_allclose(dead_units.line_death_bounds(3, 1e4), 1.0, atol=1e-12)


def test_single_input_probability_keeps_small_numbers():
    # 1 - (1 - 2^-60)^10 would be 0 if it were computed as it is written
    np.testing.assert_allclose(dead_units.death_probability(60, 10), 10 * 2.0**-60, rtol=1e-12)
