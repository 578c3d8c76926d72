"""The minimum of the unconstrained-features model against a numerical one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxnn.theory import neural_collapse

pytestmark = pytest.mark.usefixtures("double_precision")

CLASSES, PER_CLASS, DIM = 4, 2, 5
DECAY, FEATURE_DECAY = 0.02, 0.005
LABELS = np.repeat(np.arange(CLASSES), PER_CLASS)


def objective(flat):
    weights, features = jnp.split(flat, [CLASSES * DIM])
    weights, features = weights.reshape(CLASSES, DIM), features.reshape(DIM, -1)
    logs = jax.nn.log_softmax((weights @ features).T, axis=1)
    loss = -jnp.mean(logs[np.arange(LABELS.size), LABELS])
    return loss + DECAY / 2 * jnp.sum(weights**2) + FEATURE_DECAY / 2 * jnp.sum(features**2)


def test_collapse_is_where_descent_ends():
    start = np.random.default_rng(0).normal(size=DIM * (CLASSES + LABELS.size))
    found = optimize.minimize(
        jax.jit(jax.value_and_grad(objective)), start, jac=True, options={"gtol": 1e-9}
    ).x
    weights, features = np.split(found, [CLASSES * DIM])
    weights, features = weights.reshape(CLASSES, DIM), features.reshape(DIM, -1)
    means = features.reshape(DIM, CLASSES, PER_CLASS).mean(2).T
    directions = means - means.mean(0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    frame = neural_collapse.simplex_frame(CLASSES)
    # 1e-5: gradients of 1e-9 over curvatures from 1e-3 on
    np.testing.assert_allclose(directions @ directions.T, frame @ frame.T, atol=1e-5)
    cosine = neural_collapse.simplex_cosine(CLASSES)
    np.testing.assert_allclose(directions[0] @ directions[1:].T, cosine, atol=1e-5)
    np.testing.assert_allclose(features, np.repeat(means, PER_CLASS, axis=0).T, atol=1e-5)

    gap = neural_collapse.collapsed_logit_gap(CLASSES, DECAY, FEATURE_DECAY, PER_CLASS)
    logits = weights @ means.T
    np.testing.assert_allclose(logits, gap * (np.eye(CLASSES) - 1 / CLASSES), atol=1e-4)
    size = np.sum(weights**2)
    expected = gap * (CLASSES - 1) * math.sqrt(PER_CLASS * FEATURE_DECAY / DECAY)
    np.testing.assert_allclose(size, expected, rtol=1e-5)
    np.testing.assert_allclose(np.sum(features**2), size * DECAY / FEATURE_DECAY, rtol=1e-5)


def test_strong_decay_collapses_all_to_zero():
    found = neural_collapse.collapsed_logit_gap(CLASSES, np.array([0.24, 0.26]), 0.25)
    assert found[0] > 0  # sqrt(0.24 * 0.25) < 1/4 = 1/C
    assert found[1] == 0


def test_frame_has_unit_rows_that_sum_to_zero():
    frame = np.asarray(neural_collapse.simplex_frame(7))
    np.testing.assert_allclose(np.sum(frame**2, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(frame.sum(0), 0, atol=1e-15)
    with pytest.raises(ValueError, match="num_classes: expected 2 or more"):
        neural_collapse.simplex_frame(1)
