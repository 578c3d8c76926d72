"""Clipping of gradients by the size of what they change."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.training.param_groups import Path, group_of, unit_axes
from jaxnn.types import Scalar

SMALLEST_WEIGHT = 1e-3  # norm below which a unit counts as this large, so that zeros can learn


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
            size = jnp.maximum(_norm(weight, axes), SMALLEST_WEIGHT)
            limit = jnp.asarray(ratio, gradient.dtype) * size
            norm = _norm(gradient, axes)
            return jnp.where(norm > limit, gradient * (limit / norm), gradient)

        return jax.tree_util.tree_map_with_path(clip, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)  # pyright: ignore


def _norm(leaf: Array, axes: tuple[int, ...]) -> Array:
    return jnp.sqrt(jnp.sum(leaf**2, axis=axes, keepdims=True))
