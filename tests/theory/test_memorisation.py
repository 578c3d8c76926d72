"""Networks written down: they do what is said of them."""

import jax
import numpy as np
import pytest

from jaxnn.theory import memorisation

pytestmark = pytest.mark.usefixtures("double_precision")


def test_memoriser_fits_any_targets_with_few_numbers():
    rng = np.random.default_rng(0)
    x, y, direction = rng.normal(size=(200, 20)), rng.normal(size=200), rng.normal(size=20)
    memoriser = memorisation.memorise(x, y, direction)
    assert sum(part.size for part in memoriser) == 2 * 200 + 20
    # slopes go to 1e4 here, so sums of 200 terms of that size round to 1e-9
    np.testing.assert_allclose(memorisation.recall(memoriser, x), y, atol=1e-8)
    far = memorisation.recall(memoriser, x + 10 * direction)  # beyond the last: linear
    twice = memorisation.recall(memoriser, x + 20 * direction)
    thrice = memorisation.recall(memoriser, x + 30 * direction)
    np.testing.assert_allclose(twice - far, thrice - twice, rtol=1e-6)


def test_memoriser_refuses_examples_that_it_cannot_tell_apart():
    x = np.array([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="direction: expected one along which all examples differ"):
        memorisation.memorise(x, np.arange(3.0), np.array([1.0, 0.0]))


@pytest.mark.parametrize(("width", "least", "most"), [(32, 0.45, 0.85), (256, 0.9999, 1.0)])
def test_network_adds_modulo_a_prime(width, least, most):
    modulus = 97
    weights = jax.jit(memorisation.modular_addition, static_argnums=(1, 2))
    first, readout = weights(jax.random.key(0), modulus, width)
    frequencies = np.argmax(np.abs(np.fft.rfft(np.asarray(first)[:modulus], axis=0)), axis=0)
    assert len(set(frequencies)) == min(width, 48)  # all that a prime of 97 has
    left, right = np.divmod(np.arange(modulus**2), modulus)
    hidden = (np.asarray(first)[left] + np.asarray(first)[modulus + right]) ** 2
    answers = np.argmax(hidden @ np.asarray(readout), axis=1)
    assert least <= np.mean(answers == (left + right) % modulus) <= most


@pytest.mark.parametrize("modulus", [2, 10])
def test_even_moduli_are_refused(modulus):
    with pytest.raises(ValueError, match="modulus: expected an odd number"):
        memorisation.modular_addition(jax.random.key(0), modulus, 8)
