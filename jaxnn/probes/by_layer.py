"""What probes by layer share: reductions of kernels and signals that keep the layer axis.

Sizes are taken with the largest magnitude divided out first: squares of a vanishing or exploding
gradient leave the range of float32 long before the gradient does.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.probes.tapped import Flow


def rms(values: Array, weight: Array | None = None) -> Array:
    """Return the rms over all axes, or of `[batch, unit]` by the examples' weights."""
    scale = _scale(values)
    squares = (values / scale) ** 2
    mean = jnp.mean(squares) if weight is None else jnp.mean(weight @ squares)
    return scale * jnp.sqrt(mean)


def norm(values: Array) -> Array:
    """Return the Euclidean norm over all axes."""
    scale = _scale(values)
    return scale * jnp.sqrt(jnp.sum((values / scale) ** 2))


def _scale(values: Array) -> Array:
    largest = jnp.max(jnp.abs(values))
    return jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)


def kernels_by_layer(name: str, params: Any, reduce: Callable[[Array], Array]) -> Array:
    """Reduce each hidden layer's kernel entries, all of them end to end, to a number: `[layer]`.

    Args:
        name: of the probe, for the error.
        params: parameters, or a tree like them; the layers are the group `first`, if it is there,
            and those stacked in `hidden`. A layer may hold several leaves called `kernel`.
        reduce: `[entry] -> []`.

    Raises:
        ValueError: neither group holds a kernel.
    """
    first, hidden = (_kernels(params, group) for group in ("first", "hidden"))
    if not first and not hidden:
        groups = list(params) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(
            f"probe {name!r}: expected params with kernels by layer, in the group 'first' (one "
            f"layer) or 'hidden' (stacked [layer, ...]), got {groups}; name the groups so, or "
            "leave the probe out"
        )

    def one(leaves: list[Array]) -> Array:
        return reduce(jnp.concatenate([leaf.ravel() for leaf in leaves]))

    parts = [one(first)[None]] if first else []
    parts += [jax.vmap(one)(hidden)] if hidden else []
    return jnp.concatenate(parts)


def _kernels(params: Any, group: str) -> list[Array]:
    if not isinstance(params, Mapping):
        return []
    leaves = jax.tree_util.tree_leaves_with_path(params.get(group, {}))
    return [leaf for path, leaf in leaves if getattr(path[-1], "key", None) == "kernel"]


def mean_by_layer(values: Array, flow: Flow) -> Array:
    """Average `[layer, batch, unit]` over examples and units."""
    return jnp.einsum("lbu,b->l", values, flow.weight) / values.shape[-1]


def example_signal(backward: Array, weight: Array) -> Array:
    """Return dl_i/dz, of each example's own loss, from dL/dz of the mean: `[..., batch, unit]`.

    Of L = sum_i w_i l_i, dL/dz_i = w_i dl_i/dz_i. An example of weight 0 has signal 0 here.
    """
    used = (weight > 0)[:, None]
    scale = jnp.where(used, weight[:, None], 1.0)
    return jax.vmap(lambda each: jnp.where(used, each / scale, 0.0))(backward)


def signal_rms(backward: Array, weight: Array) -> Array:
    """Return sqrt(E (dl_i/dz)^2) of each layer, from dL/dz `[layer, batch, unit]`."""
    return jax.vmap(rms, (0, None))(example_signal(backward, weight), weight)


def pair_cosine(vectors: Array, weight: Array) -> Array:
    """Return the mean over pairs i != j of cos(v_i, v_j), weighted by w_i w_j: `[layer]`.

    NaN for a single example; a zero vector counts as orthogonal to all.

    Args:
        vectors: `[layer, batch, unit]`.
        weight: of the examples `[batch]`, its sum 1.
    """
    largest = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True)
    scaled = vectors / jnp.where(largest > 0, largest, 1.0)
    length = jnp.sqrt(jnp.sum(scaled**2, axis=-1, keepdims=True))
    unit = scaled / jnp.where(length > 0, length, 1.0)
    centre = jnp.einsum("lbu,b->lu", unit, weight)
    itself = jnp.einsum("lbu,b->l", unit**2, weight**2)
    return (jnp.sum(centre**2, axis=-1) - itself) / (1.0 - jnp.sum(weight**2))
