"""What a leaf of the parameters is: its group, whether a kernel, and what feeds one unit.

Leaves of the group `hidden` are stacked `[layer, ...]`, so whatever takes a norm or a factorisation
of a weight must leave that axis alone. A kernel is `[..., fan_in, unit]`.
"""

from typing import Any

import jax
from jax import Array

STACKED = "hidden"  # the group whose leaves have a leading layer axis

Path = tuple[Any, ...]
"""Where a leaf lies, as `jax.tree_util` gives it."""


def kernels(params: Any) -> Any:
    """Return a tree of bools, True at the leaves called `kernel`: what penalties apply to."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def is_kernel(path: Path) -> bool:
    """Return whether a leaf is a kernel."""
    return getattr(path[-1], "key", None) == "kernel"


def group_of(path: Path) -> str:
    """Return the name of a leaf's group, the first key on its path."""
    return str(getattr(path[0], "key", path[0]))


def unit_axes(path: Path, leaf: Array) -> tuple[int, ...]:
    """Return the axes that a norm of one unit's weights runs over.

    Of a kernel these are all axes but the last; a bias counts as one whole. Layers stay apart.
    """
    kernel = int(is_kernel(path))
    stacked = group_of(path) == STACKED and leaf.ndim > 2 * kernel
    return tuple(range(int(stacked), leaf.ndim - kernel))
