"""Losses of each example.

Contract: `(outputs [batch, out], targets) -> [batch]`, and for sequences
`(outputs [batch, time, out], targets [batch, time, ...]) -> [batch]`, the mean over time.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.training.numbers import check_number
from jaxnn.types import Loss, Scalar


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """Return -log softmax(outputs)[target] `[batch]` in nats; of sequences, the mean over time.

    Args:
        outputs: logits `[batch, class]` or `[batch, time, class]`.
        targets: integer classes `[batch]` or `[batch, time]`.
    """
    return _each_example(optax.softmax_cross_entropy_with_integer_labels(outputs, targets))


def smoothed_cross_entropy(smoothing: Scalar) -> Loss:
    """Return the cross-entropy with smoothed labels.

    The label's probability is 1 - smoothing + smoothing / K, that of the K - 1 other classes
    smoothing / K; 0 is `cross_entropy`. The loss includes the smoothed labels' entropy, so its
    least value is above 0.

    Args:
        smoothing: share of the label given to all classes alike, in [0, 1); may be traced.

    Raises:
        ValueError: `smoothing` is known and not in [0, 1).

    Source:
        Szegedy et al. 2016, 1512.00567, section 7.
    """
    check_number("smoothing", smoothing, "in [0, 1)", lambda each: (each >= 0) & (each < 1))

    def loss(outputs: Array, targets: Array) -> Array:
        share = jnp.asarray(smoothing, outputs.dtype)
        uniform = jax.nn.logsumexp(outputs, axis=-1) - jnp.mean(outputs, axis=-1)
        return (1 - share) * cross_entropy(outputs, targets) + share * _each_example(uniform)

    return loss


def squared_error(outputs: Array, targets: Array) -> Array:
    """Return 1/2 |outputs - target|^2 `[batch]`, the sum over outputs and the mean over time.

    Args:
        outputs: `[batch, out]` or `[batch, time, out]`.
        targets: of the same shape, or integer classes `[batch]` or `[batch, time]`, which become
            one-hot.

    Raises:
        ValueError: the shapes differ.
    """
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    if targets.shape != outputs.shape:
        raise ValueError(
            f"squared_error: expected targets of the outputs' shape {outputs.shape}, got "
            f"{targets.shape}; for one output give y[..., None]"
        )
    return _each_example(0.5 * jnp.sum((outputs - targets) ** 2, axis=-1))


def _each_example(losses: Array) -> Array:
    """Return `[batch]` losses; those of sequences are averaged over time."""
    return losses if losses.ndim == 1 else jnp.mean(losses, axis=tuple(range(1, losses.ndim)))
