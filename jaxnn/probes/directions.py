"""Random vectors in the space of the parameters, the same for a layer in every layout of a network.

The numbers are drawn end to end: for all other groups first, then for the stacked layers one after
the other. So a deeper network, or one with masked layers, has the shallower one's numbers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.probes.tapped import Flow

STACKED = "hidden"  # the group whose leaves have a leading layer axis


def signs(flow: Flow, seed: int, num_vectors: int = 1) -> Array:
    """Draw vectors of random signs, flat as `ravel_pytree` has the parameters: `[vector, param]`.

    They are drawn when the program is traced and are constants of it, so that all members of a
    sweep share them. In layers that a masked member lacks they are 0.
    """

    def vector(number: int) -> np.ndarray:
        def numbers(size: int) -> np.ndarray:
            positive = np.random.default_rng((seed, number)).random(size) < 0.5
            return np.where(positive, np.int8(1), np.int8(-1))

        tree = spread(numbers, flow.params)
        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])

    dtype = ravel_pytree(flow.params)[0].dtype
    drawn = jnp.asarray(np.stack([vector(number) for number in range(num_vectors)])).astype(dtype)
    if flow.active is None:
        return drawn
    present = jax.tree_util.tree_map_with_path(_present(flow.active), flow.params)
    return drawn * ravel_pytree(present)[0][None]


def spread(draw: Callable[[int], Any], params: Any) -> Any:
    """Lay numbers drawn end to end out as a tree like the parameters.

    Args:
        draw: `size -> [size]`, whose first numbers are the same for any size.
        params: the tree to be like.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    num_layers = max([leaf.shape[0] for path, leaf in leaves if is_stacked(path, leaf)], default=0)
    sizes = [leaf.size // num_layers if is_stacked(path, leaf) else 0 for path, leaf in leaves]
    rest = sum(leaf.size for path, leaf in leaves if not is_stacked(path, leaf))
    numbers = draw(rest + num_layers * sum(sizes))
    free, layers = numbers[:rest], numbers[rest:].reshape(num_layers, sum(sizes))
    laid, used, column = [], 0, 0
    for (path, leaf), size in zip(leaves, sizes, strict=True):
        if is_stacked(path, leaf):
            laid.append(layers[:, column : column + size].reshape(leaf.shape))
            column += size
        else:
            laid.append(free[used : used + leaf.size].reshape(leaf.shape))
            used += leaf.size
    return jax.tree.unflatten(tree, laid)


def is_stacked(path: tuple[Any, ...], leaf: Array) -> bool:
    """Return whether a leaf's leading axis is that of the stacked layers."""
    return getattr(path[0], "key", None) == STACKED and leaf.ndim > 0


def _present(active: Array) -> Callable[[tuple[Any, ...], Array], Array]:
    """Return a function that makes a leaf 1, or 0 in layers that a masked member lacks."""

    def mask(path: tuple[Any, ...], leaf: Array) -> Array:
        if not is_stacked(path, leaf):
            return jnp.ones_like(leaf)
        there = active[-leaf.shape[0] :].reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.broadcast_to(there, leaf.shape).astype(leaf.dtype)

    return mask
