"""Losses of each example. Contract: `(outputs [batch, out], targets) -> [batch]`."""

import jax
import jax.numpy as jnp
import optax
from jax import Array


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """Return -log softmax(outputs)[target] `[batch]` in nats.

    Args:
        outputs: logits `[batch, class]`.
        targets: integer classes `[batch]`.
    """
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def squared_error(outputs: Array, targets: Array) -> Array:
    """Return 1/2 |outputs - target|^2 `[batch]`, the sum over outputs.

    Args:
        outputs: `[batch, out]`.
        targets: `[batch, out]`, or integer classes `[batch]`, which become one-hot.

    Raises:
        ValueError: the shapes differ.
    """
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    if targets.shape != outputs.shape:
        raise ValueError(
            f"squared_error: expected targets of the outputs' shape {outputs.shape}, got "
            f"{targets.shape}; for one output give y[:, None]"
        )
    return 0.5 * jnp.sum((outputs - targets) ** 2, axis=-1)
