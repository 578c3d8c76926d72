"""What families of stacked layers share: keys by layer, draws of a whole stack, its dense layers.

Layer l draws from `fold_in(key, l)` and the readout from `fold_in(key, 0)`: a deeper network starts
with the shallower one's layers, whatever the layout.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.initialisers import Initialiser


def layer_keys(key: Array, depth: int) -> tuple[Array, Array]:
    """Return the keys `[depth + 1]` of biases and of kernels: the readout's, then each layer's."""
    numbers = jnp.arange(depth + 1)
    keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(key, number)))(numbers)
    return keys[:, 0], keys[:, 1]


def draw(initialise: Initialiser, keys: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draw one array for each key; all of a shape at once, since each shape costs compile time."""
    return jax.vmap(lambda key: initialise(key, shape, dtype))(keys)


def repeated(tree: Any, num_layers: int) -> Any:
    """Return the same leaves for each layer: `[layer, ...]`."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_layers, *leaf.shape)), tree)


def without(layers: Any, absent: Array) -> Any:
    """Zero the layers that a masked member lacks, so that norms and penalties do not see them."""
    return jax.tree.map(
        lambda leaf: jnp.where(absent.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf), layers
    )


def chosen(active: Array | None, new: Any, past: Any) -> Any:
    """Return what a layer made, or the past where a masked member lacks the layer."""
    if active is None:
        return new
    return jax.tree.map(lambda ours, last: jnp.where(active, ours, last), new, past)


def dense(params: dict[str, Any], h: Array) -> Array:
    """Return `h W + b` `[..., unit]`."""
    import flax.linen as nn  # here, so that importing jaxnn stays light

    own = {"kernel": params["kernel"], "bias": params["bias"]}
    return cast(Array, nn.Dense(own["bias"].shape[-1]).apply({"params": own}, h))


def part(stacked: Array | None, where: int | slice) -> Array | None:
    """Return some layers of what may be there, `[layer, ...]`, or None."""
    return None if stacked is None else stacked[where]
