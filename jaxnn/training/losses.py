"""Losses of each example. Contract: `(outputs [batch, out], targets) -> [batch]`."""

import jax
import jax.numpy as jnp
import optax
from jax import Array


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """Return -log softmax(outputs)[target] in nats for integer classes `[batch]`."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def squared_error(outputs: Array, targets: Array) -> Array:
    """Return 1/2 |outputs - target|^2, the sum over outputs; integer classes become one-hot."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    return 0.5 * jnp.sum((outputs - targets) ** 2, axis=-1)
