"""Dropout whose rate may be traced, which that of linen, with a branch on its rate, cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxnn.types import Scalar


def check_rate(name: str, rate: Scalar | None) -> None:
    """Refuse a concrete rate outside [0, 1).

    Raises:
        ValueError: it lies outside.
    """
    if rate is None or isinstance(rate, Tracer):
        return
    if np.ndim(rate) or not 0 <= float(rate) < 1:
        raise ValueError(f"{name}: expected the share of units to drop, in [0, 1), got {rate!r}")


def dropped(key: Array | None, h: Array, rate: Scalar | None) -> Array:
    """Set entries to 0 with a probability, and divide the others by that of staying.

    Args:
        key: None: nothing is dropped, as in evaluation.
        h: `[..., unit]`.
        rate: probability of 0, in [0, 1); may be traced; None: 0. With the same key, what a
            smaller rate drops, a larger one drops too.

    Source:
        Srivastava et al. 2014, JMLR 15:1929, in its inverted form: evaluation needs no change.
    """
    if key is None or rate is None:
        return h
    wide = jnp.finfo(h.dtype).bits >= 32  # a small rate needs more places than bfloat16 has
    drawn = h.dtype if wide else jnp.dtype("float32")
    level = jax.random.uniform(key, h.shape, drawn)
    dropped_here = level < jnp.asarray(rate, drawn)
    return jnp.where(dropped_here, 0, h / (1 - jnp.asarray(rate, h.dtype)))


def dropout_keys(key: Array | None, num_layers: int) -> Array:
    """Return the keys `[layer + 1]` of the inputs' and each layer's dropout.

    Raises:
        ValueError: there is no key, though something is dropped.
    """
    if key is None:
        raise ValueError(
            "key: expected a key, since training with dropout draws, got None; give "
            "model.apply(..., key=key, train=True)"
        )
    numbers = jnp.arange(num_layers + 1)
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
