"""What ends a chain: steps that put the weights, once moved, where they are allowed to be."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.training.clipping import shorten
from jaxnn.training.param_groups import Path, is_kernel, unit_axes
from jaxnn.types import Scalar


class ProximalState(NamedTuple):
    """State of `proximal_l1`."""

    num_steps: Array  # [] taken


def proximal_l1(l1: Scalar, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """End a chain with the proximal step of l1 |W|_1: W <- soft(W + update, learning_rate l1).

    soft(w, t) = sign(w) max(|w| - t, 0). Unlike the subgradient it sets weights to exactly zero.
    """

    def init(params: Any) -> ProximalState:
        del params
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: ProximalState, params: Any = None):
        now = learning_rate(state.num_steps) if callable(learning_rate) else learning_rate
        rate = jnp.asarray(now)

        def shrink(path: Path, step: Array, weight: Array) -> Array:
            if not is_kernel(path):
                return step
            threshold = rate.astype(weight.dtype) * jnp.asarray(l1, weight.dtype)
            moved = weight + step
            return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0.0) - weight

        new = jax.tree_util.tree_map_with_path(shrink, updates, params)
        return new, ProximalState(state.num_steps + 1)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def max_norm(norm: Scalar) -> optax.GradientTransformation:
    """End a chain with a projection: each unit's incoming weights get at most this norm.

    w <- w min(1, norm / |w|) after the step, for the kernel's weights into each unit.

    Args:
        norm: largest |w|; may be traced; `inf` is off.

    Source:
        Srivastava et al. 2014, JMLR 15:1929, section 5.1.
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None):
        def project(path: Path, step: Array, weight: Array) -> Array:
            if not is_kernel(path):
                return step
            moved = weight + step
            short = shorten(moved, norm, unit_axes(path, weight))
            return jnp.where(short == moved, step, short - weight)

        return jax.tree_util.tree_map_with_path(project, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)  # pyright: ignore
