"""Weight decay against optax, and against simulated scale-invariant weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnn.theory import weight_decay

pytestmark = pytest.mark.usefixtures("double_precision", "dtypes_of_users")

STEPS, RATE = 100, 1e-3
DECAYS = np.array([1e-4, 1e-2, 1.0])


@pytest.fixture
def dtypes_of_users():
    """Dtype promotion as users have it: optax's Adam raises floats to an int count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.partial(jax.jit, static_argnums=0)
def trained(decoupled, decay):
    """A weight of 1 after STEPS of Adam, with decay and nothing else."""
    optimizer = optax.adamw(RATE, weight_decay=decay) if decoupled else optax.adam(RATE)

    def step(carry, _):
        w, state = carry
        gradient = jnp.zeros_like(w) if decoupled else decay * w
        update, state = optimizer.update(gradient, state, w)
        return (w + update, state), None

    w = jnp.ones(())
    return jax.lax.scan(step, (w, optimizer.init(w)), None, STEPS)[0][0]


def test_adamw_decays_by_the_factor():
    found = jax.vmap(functools.partial(trained, True))(DECAYS)
    expected = weight_decay.decoupled_factor(RATE, DECAYS, STEPS)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(expected, (1 - RATE * DECAYS) ** STEPS, rtol=1e-12)


def test_adam_with_l2_moves_by_the_learning_rate_whatever_the_decay():
    found = jax.vmap(functools.partial(trained, False))(DECAYS)
    np.testing.assert_allclose(found, 0.90175, atol=2e-5)  # 1 - 100 * 0.001 = 0.9, and 1e-8 of eps
    assert np.ptp(found) < 1e-3 < np.ptp(weight_decay.decoupled_factor(RATE, DECAYS, STEPS))


def test_normalised_decay_carries_over_to_budgets():
    found = weight_decay.normalised_decay(0.025, 128, 50_000, np.array([100, 400]))
    np.testing.assert_allclose(found, 0.025 * np.sqrt(128 / 5e6) / np.array([1, 2]), rtol=1e-12)


def simulate(steps, rate, decay, gradient_norm, start):
    """Norms and turned angles of a weight with orthogonal gradients of norm |g| / |w|."""
    rng, w = np.random.default_rng(0), np.zeros(8)
    w[0] = start
    norms, angles = [start], []
    for direction in rng.normal(size=(steps, 8)):
        direction -= w * (direction @ w) / (w @ w)
        gradient = gradient_norm * direction / np.linalg.norm(direction) / np.linalg.norm(w)
        moved = w - rate * (gradient + decay * w)
        cosine = moved @ w / np.linalg.norm(moved) / np.linalg.norm(w)
        angles.append(np.arccos(min(cosine, 1.0)))
        norms.append(np.linalg.norm(moved))
        w = moved
    return np.array(norms), np.array(angles)


def test_equilibrium_is_that_of_simulated_weights():
    norms, angles = simulate(9000, 0.1, 0.01, 1.0, 1.0)  # 36 times the relaxation time of 250
    norm = weight_decay.equilibrium_norm(0.1, 0.01, 1.0)
    np.testing.assert_allclose(norms[-1], norm, rtol=1e-9)
    np.testing.assert_allclose(norm**4, 5.0025, atol=5e-5)
    angle = weight_decay.equilibrium_angle(0.1, 0.01)
    np.testing.assert_allclose(angles[-1], angle, rtol=1e-9)
    np.testing.assert_allclose(angle, np.sqrt(2 * 0.1 * 0.01), rtol=1e-3)  # the papers' first order


@pytest.mark.parametrize("start", [0.5, 3.0], ids=["from-below", "from-above"])
def test_norm_approaches_equilibrium_as_computed(start):
    norms, _ = simulate(1000, 0.01, 0.1, 1.0, start)
    found = weight_decay.norm_over_time(np.arange(1001), start, 0.01, 0.1, 1.0)
    # second-order terms are of relative size eta lam = 1e-3, and at first eta / |w|^2 below 0.04
    np.testing.assert_allclose(found, norms, rtol=0.01)
