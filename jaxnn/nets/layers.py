"""Applying a stack of equal layers: by a scan, or by a loop that may end before the last of them.

The loop has only reverse-mode derivatives, of first order; the scan has all.

Contract: `step(carry, layer) -> carry`, where `layer` is one slice `[...]` of the stacked inputs
`[layer, ...]`. The result is the last carry and all carries `[layer, ...]`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Step = Callable[[Any, Any], Any]


def apply_layers(
    step: Step, first: Any, layers: Any, num_present: int | Array | None = None
) -> tuple[Any, Any]:
    """Apply stacked layers one after the other.

    Args:
        step: `(carry, layer) -> carry`.
        first: the carry before the first layer.
        layers: pytree of `[layer, ...]`.
        num_present: loop over so many of them, an int or a traced one; None scans them all.

    Returns:
        The last carry, and the carries after each layer, `[layer, ...]`; zeros where not applied.
    """
    if num_present is not None:
        return _loop(step, first, layers, num_present)

    def scanned(carry: Any, layer: Any) -> tuple[Any, Any]:
        new = step(carry, layer)
        return new, new

    return jax.lax.scan(scanned, first, layers)


def _loop(step: Step, first: Any, layers: Any, num_present: int | Array) -> tuple[Any, Any]:
    """Loop over the layers that are present, in both directions: absent ones cost nothing.

    JAX differentiates no loop of unknown length in reverse, so both directions are written out.
    Of each layer's pullback, arrays that are its inputs or its output are not saved again.
    """
    shapes = jax.eval_shape(lambda: (first, _at(layers, 0)))
    extra, tree, places = pullback_parts(step, *shapes)

    is_static = isinstance(num_present, int)  # then a loop whose work can be counted

    def forward(first: Any, layers: Any, traced: Array) -> tuple[Any, Any]:
        def body(number: Array, state: Any) -> Any:
            carry, carries, saved = state
            new, pull = jax.vjp(step, carry, _at(layers, number))
            leaves = jax.tree.leaves(pull)
            kept = [leaf for leaf, place in zip(leaves, places, strict=True) if place is None]
            return new, _put(carries, new, number), _put(saved, kept, number)

        size = len(jax.tree.leaves(layers)[0])
        empty = _stacked_zeros((first, extra), size)
        last, carries, saved = jax.lax.fori_loop(
            0, num_present if is_static else traced, body, (first, *empty)
        )
        return (last, carries), (first, layers, traced, carries, saved)

    def backward(residuals: Any, cotangents: Any) -> Any:
        first, layers, traced, carries, saved = residuals
        present = num_present if is_static else traced

        def body(done: Array, state: Any) -> Any:
            slope, slopes = state
            number = present - 1 - done
            before = _at(carries, jnp.maximum(number - 1, 0))
            carry = jax.tree.map(lambda a, b: jnp.where(number > 0, a, b), before, first)
            known = jax.tree.leaves((carry, _at(layers, number), _at(carries, number)))
            spare = iter(_at(saved, number))
            leaves = [next(spare) if place is None else known[place] for place in places]
            total = jax.tree.map(jnp.add, slope, _at(cotangents[1], number))
            slope, layer_slope = jax.tree.unflatten(tree, leaves)(total)
            return slope, _put(slopes, _floats(layer_slope, layers), number)

        zeros = _floats(jax.tree.map(jnp.zeros_like, layers), layers)
        slope, slopes = jax.lax.fori_loop(0, present, body, (cotangents[0], zeros))
        found = iter(slopes)
        slopes = jax.tree.map(lambda leaf: next(found) if _is_float(leaf) else None, layers)
        return slope, slopes, None

    applied = jax.custom_vjp(lambda *arguments: forward(*arguments)[0])
    applied.defvjp(forward, backward)
    return applied(first, layers, jnp.asarray(num_present))


def pullback_parts(step: Step, carry: Any, layer: Any) -> tuple[list[Any], Any, list[int | None]]:
    """Return what a pullback of the step is made of.

    Returns:
        The shapes of the arrays that only the pullback has, the pullback's tree, and for each of
        its leaves the place among the leaves of `(carry, layer, new carry)`, or None.
    """
    found: list[Any] = []

    def pullback(carry: Any, layer: Any) -> list[Array]:
        new, pull = jax.vjp(step, carry, layer)
        leaves, tree = jax.tree.flatten(pull)
        known = jax.tree.leaves((carry, layer, new))
        places = [next((i for i, k in enumerate(known) if k is leaf), None) for leaf in leaves]
        found.extend([tree, places])
        return [leaf for leaf, place in zip(leaves, places, strict=True) if place is None]

    extra = jax.eval_shape(pullback, carry, layer)
    return extra, *found


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _floats(slopes: Any, layers: Any) -> list[Array]:
    """Return the slopes of the layers' real arrays; masks have none."""
    pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(layers), strict=True)
    return [slope for slope, leaf in pairs if _is_float(leaf)]


def _at(tree: Any, number: Array | int) -> Any:
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), tree
    )


def _put(stacked: Any, values: Any, number: Array) -> Any:
    return jax.tree.map(
        lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, number, 0), stacked, values
    )


def _stacked_zeros(tree: Any, size: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), tree)
