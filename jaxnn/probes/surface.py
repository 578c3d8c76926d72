"""Slices of the loss surface: along one or two directions, filter-normalised, or between two nets.

An objective is any `params -> []`, such as `Flow.loss_at`. Slices are vmapped, and pass through
jit, vmap and a sweep themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.probes.contract import Probe
from jaxnn.probes.directions import is_stacked, spread
from jaxnn.probes.tapped import Flow

Objective = Callable[[Any], Array]


def filter_direction(key: Array, params: Any) -> Any:
    """Draw a random direction in the parameters, filter-normalised; see `filter_normalised`.

    Args:
        key: of its normal numbers.
        params: the tree to be like.
    """
    drawn = spread(lambda size: jax.random.normal(key, (size,)), params)
    like = jax.tree.map(lambda step, leaf: step.astype(leaf.dtype), drawn, params)
    return filter_normalised(like, params)


def filter_normalised(direction: Any, params: Any) -> Any:
    """Scale a direction so that each unit's part is as long as the unit's weights.

    A unit is an index of the last axis, in each layer of the group `hidden` for itself. Leaves with
    no more than that axis (biases, scales of norms) get 0. Then two networks that differ by a
    rescaling of their units, and compute the same, have the same slice.

    Args:
        direction: a tree like the parameters.
        params: the parameters.

    Source: Li et al. 2018, section 4, 1712.09913.
    """

    def scaled(path: tuple[Any, ...], step: Array, weights: Array) -> Array:
        stacked = int(is_stacked(path, weights))
        if weights.ndim - stacked <= 1:
            return jnp.zeros_like(step)
        axes = tuple(range(stacked, weights.ndim - 1))
        length, wanted = (
            jnp.sqrt(jnp.sum(leaf**2, axis=axes, keepdims=True)) for leaf in (step, weights)
        )
        return step * (wanted / jnp.where(length > 0, length, 1.0))

    return jax.tree_util.tree_map_with_path(scaled, direction, params)


def loss_line(objective: Objective, params: Any, direction: Any, offsets: Array) -> Array:
    """Compute the loss at params + a direction for each offset a: `[offset]`.

    Args:
        objective: `params -> []`.
        params: the middle.
        direction: a tree like them.
        offsets: `[offset]`.

    Example:
        >>> square = lambda w: jnp.sum(w**2)
        >>> loss_line(square, jnp.ones(2), jnp.array([1.0, -1.0]), jnp.array([0.0, 1.0])).tolist()
        [2.0, 4.0]
    """
    return jax.vmap(lambda offset: objective(_moved(params, direction, offset)))(offsets)


def loss_plane(
    objective: Objective, params: Any, directions: Sequence[Any], offsets: Array, others: Array
) -> Array:
    """Compute the loss at params + a d_1 + b d_2 for each a and b: `[offset, other_offset]`.

    Args:
        objective: `params -> []`.
        params: the middle.
        directions: two trees like them, d_1 and d_2.
        offsets: a, `[offset]`; one at a time is in memory with all b.
        others: b, `[other_offset]`.
    """
    one, other = directions
    return jax.lax.map(
        lambda offset: loss_line(objective, _moved(params, one, offset), other, others), offsets
    )


def interpolated_loss(objective: Objective, start: Any, end: Any, fractions: Array) -> Array:
    """Compute the loss at (1 - t) start + t end for each fraction t: `[fraction]`.

    Args:
        objective: `params -> []`.
        start: parameters at t = 0.
        end: parameters at t = 1.
        fractions: `[fraction]`, beyond 0 and 1 too.

    Source: Goodfellow et al. 2015, 1412.6544.
    """

    def at(fraction: Array) -> Array:
        return objective(
            jax.tree.map(
                lambda a, b: (1 - _like(fraction, a)) * a + _like(fraction, b) * b, start, end
            )
        )

    return jax.vmap(at)(fractions)


def loss_slice(
    offsets: Sequence[float], other_offsets: Sequence[float] | None = None, *, seed: int = 0
) -> Probe:
    """Build the probe of the batch's loss along one or two filter-normalised random directions.

    Args:
        offsets: where on the first direction, in lengths of the weights: -1 to 1 is customary.
        other_offsets: where on the second; None for a slice of one dimension.
        seed: of the directions, the same at every record and in every member.

    Raises:
        ValueError: there are no offsets.

    Source: Li et al. 2018, 1712.09913.
    """
    if not len(offsets) or (other_offsets is not None and not len(other_offsets)):
        raise ValueError(
            "offsets: expected at least one, such as jnp.linspace(-1, 1, 21), got none"
        )

    def measure(flow: Flow) -> Array:
        keys = jax.random.split(jax.random.key(seed))
        dtype = flow.loss.dtype
        where = jnp.asarray(offsets, dtype)
        one = filter_direction(keys[0], flow.params)
        if other_offsets is None:
            return loss_line(flow.loss_at, flow.params, one, where)
        other = filter_direction(keys[1], flow.params)
        others = jnp.asarray(other_offsets, dtype)
        return loss_plane(flow.loss_at, flow.params, (one, other), where, others)

    dims = ("offset",) if other_offsets is None else ("offset", "other_offset")
    return Probe("loss_slice", dims, "1", "mean loss on a slice of the surface", measure)


def _moved(params: Any, direction: Any, offset: Array) -> Any:
    return jax.tree.map(lambda leaf, step: leaf + _like(offset, leaf) * step, params, direction)


def _like(offset: Array, leaf: Array) -> Array:
    return offset.astype(leaf.dtype)
