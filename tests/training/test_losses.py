"""Losses of each example, and their gradients, against numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.training import smoothed_cross_entropy
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


# Smoothed labels and sequences


def test_smoothed_cross_entropy_is_that_of_smoothed_labels():
    """-sum_k q_k log p_k with q = (1 - s) one-hot + s / K, for traced s; 0 is cross_entropy."""
    shares = np.array([0.0, 0.1, 1.0])
    with jax.enable_x64(True):
        run = jax.jit(jax.vmap(lambda s: smoothed_cross_entropy(s)(OUTPUTS, CLASSES)))
        found = run(shares)
    log_p = OUTPUTS - np.log(np.exp(OUTPUTS).sum(axis=1, keepdims=True))
    one_hot = np.eye(4)[CLASSES]
    for losses, share in zip(found, shares, strict=True):
        expected = -np.sum(((1 - share) * one_hot + share / 4) * log_p, axis=1)
        np.testing.assert_allclose(losses, expected, rtol=1e-12)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, np.nan])
def test_smoothing_out_of_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"smoothing: expected a number in \[0, 1\)"):
        smoothed_cross_entropy(smoothing)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (jn.cross_entropy, CLASSES.reshape(3, 2)),
        (smoothed_cross_entropy(0.2), CLASSES.reshape(3, 2)),
        (jn.squared_error, CLASSES.reshape(3, 2)),
        (jn.squared_error, REALS.reshape(3, 2, 4)),
    ],
    ids=["cross_entropy", "smoothed", "squared_error_of_classes", "squared_error"],
)
def test_loss_of_a_sequence_is_the_mean_over_time(loss, targets):
    with jax.enable_x64(True):
        found = jax.jit(loss)(OUTPUTS.reshape(3, 2, 4), targets)
        steps = np.asarray(jax.jit(loss)(OUTPUTS, targets.reshape(6, *targets.shape[2:])))
    np.testing.assert_allclose(found, np.reshape(steps, (3, 2)).mean(axis=1), rtol=1e-12)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(
        ValueError, match=r"expected targets of the outputs' shape .*y\[\.\.\., None"
    ):
        jn.squared_error(jnp.ones((6, 1)), jnp.ones(6))
