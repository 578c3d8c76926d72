"""Normalisation as a choice of a block: batch norm, layer norm or none, behind one contract.

A `Norm` is a pair of pure functions. It normalises over the last axis' units: batch norm takes the
mean and variance of each unit over all other axes, layer norm those of each example over its units.
What batch norm moves in training (`mean` and `var`, exponential averages) is handed in and out; in
evaluation it normalises by these and leaves them as they are: before training they are 0 and 1, so
a network evaluated at step 0 is one without normalisation. Every example of the batch counts, those
of weight 0 too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
from jax import Array

Leaves = dict[str, Array]


class Norm(NamedTuple):
    """A normalisation of `[..., unit]` as a pair of pure functions."""

    init: Callable[[int, Any], tuple[Leaves, Leaves]]  # (units, dtype) -> params, statistics
    apply: Callable[..., tuple[Array, Leaves]]
    # (params, statistics, z, *, train) -> normalised z, statistics


def no_norm() -> Norm:
    """Leave signals as they are."""
    return Norm(lambda units, dtype: ({}, {}), lambda params, stats, z, *, train: (z, stats))


def batch_norm(*, momentum: float = 0.9, epsilon: float = 1e-5) -> Norm:
    """Normalise each unit over the batch: scale (z - mean) / sqrt(var + epsilon) + bias.

    Args:
        momentum: share of the moving averages that a training step keeps.
        epsilon: added to the variance.

    Source:
        Ioffe & Szegedy 2015, 1502.03167, algorithms 1 and 2.
    """

    def init(units: int, dtype: Any) -> tuple[Leaves, Leaves]:
        stats = {"mean": jnp.zeros(units, dtype), "var": jnp.ones(units, dtype)}
        return _scale_and_bias(units, dtype), stats

    def apply(params: Leaves, stats: Leaves, z: Array, *, train: bool) -> tuple[Array, Leaves]:
        import flax.linen as nn  # here, so that importing jaxnn stays light

        averages = {"use_running_average": not train, "momentum": momentum}
        layer = nn.BatchNorm(epsilon=epsilon, **averages, **_precision(z))
        variables = {"params": params, "batch_stats": stats}
        normal, moved = cast(Any, layer.apply(variables, z, mutable=["batch_stats"]))
        return normal, {
            name: moved["batch_stats"][name].astype(stats[name].dtype) for name in stats
        }

    return Norm(init, apply)


def layer_norm(*, epsilon: float = 1e-5) -> Norm:
    """Normalise each example over its units: scale (z - mean) / sqrt(var + epsilon) + bias.

    Args:
        epsilon: added to the variance.

    Source:
        Ba, Kiros & Hinton 2016, 1607.06450, equation 4.
    """

    def init(units: int, dtype: Any) -> tuple[Leaves, Leaves]:
        return _scale_and_bias(units, dtype), {}

    def apply(params: Leaves, stats: Leaves, z: Array, *, train: bool) -> tuple[Array, Leaves]:
        import flax.linen as nn

        layer = nn.LayerNorm(epsilon=epsilon, **_precision(z))
        return cast(Array, layer.apply({"params": params}, z)), stats

    return Norm(init, apply)


NORMS = {"none": no_norm, "batch": batch_norm, "layer": layer_norm}


def as_norm(norm: str | Norm) -> Norm:
    """Return the normalisation of a name, or the one given.

    Raises:
        ValueError: the name is unknown.
        TypeError: neither a name nor a `Norm` came.
    """
    if isinstance(norm, Norm):
        return norm
    if not isinstance(norm, str):
        raise TypeError(f"norm: expected a name or a Norm, got {norm!r}; write jn.batch_norm()")
    if norm not in NORMS:
        raise ValueError(f"norm: unknown name {norm!r}; known: {', '.join(NORMS)}")
    return NORMS[norm]()


def _scale_and_bias(units: int, dtype: Any) -> Leaves:
    return {"scale": jnp.ones(units, dtype), "bias": jnp.zeros(units, dtype)}


def _precision(z: Array) -> dict[str, Any]:
    """Return how linen should sum: no narrower than float32, and no variance below 0."""
    narrow = jnp.finfo(z.dtype).bits < 32
    wide = {"use_fast_variance": False, "force_float32_reductions": narrow}
    return {**wide, "param_dtype": z.dtype}
