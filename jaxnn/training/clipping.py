"""Clipping: what is longer than a bound is scaled down to it, and the rest left bitwise as it is.

Lengths are taken with the largest magnitude divided out first, so that squares stay in range. What
is not finite stays so, and an infinite bound is off.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.training.param_groups import Path, group_of, unit_axes
from jaxnn.types import Scalar

SMALLEST_WEIGHT = 1e-3  # norm below which a unit counts as this large, so that zeros can learn


def clip_norm(norm: Scalar) -> optax.GradientTransformation:
    """Clip the gradient to a norm, that of all leaves together.

    Args:
        norm: largest |g|; may be traced; `inf` is off.

    Source:
        Pascanu et al. 2013, 1211.5063, algorithm 1.
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None):
        del params
        real = jnp.result_type(float)
        leaves = jax.tree.leaves(updates)
        largest = _scale(jnp.stack([_largest(leaf).astype(real) for leaf in leaves]).max())
        parts = [leaf / largest.astype(leaf.dtype) for leaf in leaves]
        length = jnp.sqrt(jnp.stack([jnp.sum(part**2, dtype=real) for part in parts]).sum())

        def clip(leaf: Array) -> Array:
            return _clipped(leaf, norm, largest.astype(leaf.dtype), length.astype(leaf.dtype))

        return jax.tree.map(clip, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)  # pyright: ignore


def clip_adaptive(ratio: Scalar) -> optax.GradientTransformation:
    """Clip each unit's gradient to a multiple of the norm of its weights.

    g <- g min(1, ratio max(|w|, 1e-3) / |g|), with norms over a unit's incoming weights; a bias
    vector counts as one unit, and the readout is left as it is, both as in the source.

    Args:
        ratio: largest |g| / |w|; may be traced; `inf` is off.

    Source:
        Brock et al. 2021, 2102.06171, equation 3; section 4.2 on the readout.
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None):
        def clip(path: Path, gradient: Array, weight: Array) -> Array:
            if group_of(path) == "readout":
                return gradient
            axes = unit_axes(path, weight)
            largest, length = _scaled_norm(weight, axes)
            size = jnp.maximum(largest * length, SMALLEST_WEIGHT)
            return shorten(gradient, jnp.asarray(ratio, size.dtype) * size, axes)

        return jax.tree_util.tree_map_with_path(clip, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)  # pyright: ignore


def shorten(leaf: Array, norm: Scalar, axes: tuple[int, ...]) -> Array:
    """Return a leaf whose parts along some axes have at most a norm.

    Args:
        leaf: of any shape.
        norm: the largest, one for all parts or an array that broadcasts with the leaf.
        axes: those of one part.
    """
    return _clipped(leaf, norm, *_scaled_norm(leaf, axes))


def _clipped(leaf: Array, norm: Scalar, largest: Array, length: Array) -> Array:
    """Return a leaf of norm largest * length, which may be out of range, with at most a norm."""
    bound = jnp.asarray(norm, leaf.dtype)
    return jnp.where(length > bound / largest, leaf / largest * (bound / length), leaf)


def _scaled_norm(leaf: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return two factors of the norm, whose product may be out of range."""
    largest = _scale(_largest(leaf, axes))
    return largest, jnp.sqrt(jnp.sum((leaf / largest) ** 2, axis=axes, keepdims=True))


def _largest(leaf: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Return the largest magnitude, or what is large enough to divide by."""
    largest = jnp.max(jnp.abs(leaf), axis=axes, keepdims=axes is not None, initial=0.0)
    enough = 1.0 / float(jnp.finfo(leaf.dtype).tiny)  # XLA multiplies by reciprocals: none below
    return jnp.minimum(largest, enough)


def _scale(largest: Array) -> Array:
    return jnp.where(largest > 0, largest, 1.0)
