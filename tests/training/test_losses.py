"""Losses of each example, and their gradients, against numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from tests import reference

RNG = np.random.default_rng(3)
OUTPUTS = 3.0 * RNG.standard_normal((6, 4))
CLASSES = RNG.integers(0, 4, 6)
REALS = RNG.standard_normal((6, 4))


@pytest.mark.parametrize(
    ("ours", "theirs", "targets"),
    [
        (jn.cross_entropy, reference.cross_entropy, CLASSES),
        (jn.squared_error, reference.squared_error, REALS),
        (jn.squared_error, reference.squared_error, CLASSES),
    ],
    ids=["cross_entropy", "squared_error", "squared_error_of_classes"],
)
def test_loss_and_gradient_equal_reference(ours, theirs, targets):
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(jax.vjp, ours))
        losses, pull = run(jnp.asarray(OUTPUTS), jnp.asarray(targets))
        gradient = pull(jnp.ones(6))[0]
        # a few float64 roundings
        for found, expected in zip((losses, gradient), theirs(OUTPUTS, targets), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_cross_entropy_of_huge_outputs_is_finite():
    """log-sum-exp does not overflow: the loss of a wrong class is the difference of outputs."""
    found = jax.jit(jn.cross_entropy)(jnp.array([[1e30, 0.0], [0.0, -1e30]]), jnp.array([1, 0]))
    np.testing.assert_allclose(found, [1e30, 0.0], rtol=1e-6)  # one float32 rounding


def test_losses_keep_float32():
    outputs = jax.ShapeDtypeStruct((6, 4), jnp.float32)
    targets = jax.ShapeDtypeStruct((6,), jnp.int32)
    for loss in (jn.cross_entropy, jn.squared_error):
        found = jax.eval_shape(loss, outputs, targets)
        assert (found.shape, found.dtype) == ((6,), jnp.float32)
