"""Schemes that start a network from the variables of another start: rescaled, or redrawn.

An initialiser of `jaxnn.nets.initialisers` sees one kernel's shape. These see the whole network:
what flows through it, or its biases beside its kernels.

Contract: a pure function returns new variables of the same shapes and dtypes. Only the tapped
layers change, the kernels (and biases) of `first` and `hidden`; embedding and readout stay. In a
run, such a start is the model's own:

    plain = jn.mlp(depth, width, out, "relu")
    model = plain._replace(init=lambda key, x: jn.rai(key, plain.init(key, x)))
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.stacked import layer_keys
from jaxnn.types import Model, Variables

RAI_STD = 0.6007  # of a weight, times sqrt(fan_in): Lu et al. 2019, 1903.06733


def lsuv(model: Model, variables: Variables, x: Array) -> Variables:
    """Rescale the kernels, first layer to last, until each layer's pre-activations have variance 1.

    The variance is that over the batch and all units. A layer whose biases are zero and that adds
    no residual path reaches it in one rescaling, W <- W / sqrt(Var z); biases or a residual path
    add what no rescaling takes away. A layer without any variance (a dead one, or one that a masked
    member lacks) stays as it is. The paper starts from orthonormal kernels: `weights=orthogonal()`.

    All layers share one loop, whose body is a pass through the whole network, so this costs as much
    as depth forward passes over the batch; the compiled program does not grow with depth.

    Args:
        model: whose taps are those of `first` and `hidden`, in this order.
        variables: to start from.
        x: inputs to measure on, `[batch, ...]`.

    Returns:
        The variables with rescaled kernels.

    Raises:
        ValueError: the variables have no tapped kernels, or the taps are of other layers.

    Source:
        Mishkin & Matas 2015, algorithm 1, 1511.06422.

    Example:
        >>> from jaxnn.nets import mlp, orthogonal
        >>> plain = mlp(depth=4, width=32, out=2, activation="tanh", weights=orthogonal())
        >>> batch = jax.random.normal(jax.random.key(1), (64, 8))
        >>> def init(key, x):
        ...     return lsuv(plain, plain.init(key, x), batch)
        >>> model = plain._replace(init=init)  # what fit, training and probes take
        >>> @jax.jit
        ... def variances(key):
        ...     _, taps, _ = model.apply(model.init(key, batch[:1]), batch)
        ...     return taps.pre.var(axis=(1, 2))
        >>> print(variances(jax.random.key(0)).round(3))
        [1. 1. 1. 1.]
    """
    _check_layers("lsuv", variables, ("kernel",))
    params = variables["params"]
    num_layers = _num_layers(params)
    ones = jnp.ones(num_layers, params["first"]["kernel"].dtype)

    def rescale(number: Array, scales: Array) -> Array:
        _, taps, _ = model.apply(_rescaled(variables, scales), x)
        if taps is None or len(taps.pre) != num_layers:
            raise ValueError(
                f"lsuv: expected taps of the {num_layers} layers of 'first' and 'hidden', "
                f"got {'none' if taps is None else len(taps.pre)}"
            )
        variance = jnp.var(taps.pre[number]).astype(scales.dtype)
        return scales.at[number].set(jnp.where(variance > 0, jax.lax.rsqrt(variance), 1.0))

    return _rescaled(variables, jax.lax.fori_loop(0, num_layers, rescale, ones))


def _rescaled(variables: Variables, scales: Array) -> Variables:
    """Multiply the kernel of each tapped layer by its scale `[layer]`."""
    params = variables["params"]
    first = {**params["first"], "kernel": scales[0] * params["first"]["kernel"]}
    groups = {**params, "first": first}
    if "hidden" in params:
        kernels = params["hidden"]["kernel"]
        by_layer = scales[1:].reshape(-1, *[1] * (kernels.ndim - 1))
        groups["hidden"] = {**params["hidden"], "kernel": by_layer * kernels}
    return {**variables, "params": groups}


def rai(key: Array, variables: Variables) -> Variables:
    """Redraw kernels and biases by the randomised asymmetric scheme, against born-dead relus.

    Each unit's fan_in weights and its bias are drawn N(0, 0.6007^2 / fan_in); then one of these
    fan_in + 1 numbers, chosen uniformly, is drawn from Beta(2, 1) instead, which is positive.

    Layer l draws from `fold_in(key, l)`. A layer whose kernel is all zero, as of one that a masked
    member lacks, stays zero.

    Args:
        key: of the draws; may be the one that the variables come from.
        variables: whose shapes and dtypes are kept.

    Returns:
        The variables with redrawn layers.

    Raises:
        ValueError: the variables have no tapped layers with kernel and bias.

    Source:
        Lu, Shin, Su & Karniadakis 2019, 1903.06733.

    Example:
        >>> from jaxnn.nets import mlp
        >>> plain = mlp(depth=9, width=2, out=1, activation="relu")
        >>> model = plain._replace(init=lambda key, x: rai(key, plain.init(key, x)))
        >>> params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 1)))["params"]
        >>> params["hidden"]["kernel"].shape, params["hidden"]["bias"].shape
        ((8, 2, 2), (8, 2))
    """
    _check_layers("rai", variables, ("kernel", "bias"))
    params = variables["params"]
    chance_keys, draw_keys = layer_keys(key, _num_layers(params))
    groups = {**params, "first": _asymmetric(draw_keys[1], chance_keys[1], params["first"])}
    if "hidden" in params:
        redraw = jax.vmap(_asymmetric)
        groups["hidden"] = redraw(draw_keys[2:], chance_keys[2:], params["hidden"])
    return {**variables, "params": groups}


def _asymmetric(draw_key: Array, chance_key: Array, layer: dict[str, Array]) -> dict[str, Array]:
    kernel = layer["kernel"]
    fan_in, units, dtype = math.prod(kernel.shape[:-1]), kernel.shape[-1], kernel.dtype
    draws = RAI_STD / math.sqrt(fan_in) * jax.random.normal(draw_key, (fan_in + 1, units), dtype)
    wide = (
        dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
    )  # a half one cannot count to fan_in
    where, how_large = jax.random.uniform(chance_key, (2, 1, units), wide)
    chosen = jnp.arange(fan_in + 1, dtype=wide)[:, None] == jnp.floor((fan_in + 1) * where)
    draws = jnp.where(chosen, jnp.sqrt(how_large).astype(dtype), draws)  # Beta(2, 1)
    draws = jnp.where(jnp.any(kernel != 0), draws, 0)
    return {**layer, "kernel": draws[:-1].reshape(kernel.shape), "bias": draws[-1]}


def _num_layers(params: dict[str, Any]) -> int:
    return 1 + (len(params["hidden"]["kernel"]) if "hidden" in params else 0)


def _check_layers(scheme: str, variables: Variables, names: tuple[str, ...]) -> None:
    """Refuse variables whose tapped layers lack one of the leaves."""
    params = variables.get("params", {})
    groups = {group: params.get(group, {}) for group in ("first", "hidden")}
    if not groups["hidden"]:
        groups.pop("hidden")  # one layer only
    for group, layer in groups.items():
        for name in names:
            if name not in layer:
                raise ValueError(
                    f"{scheme}: expected variables['params']['{group}'] with a {name}, "
                    f"got {sorted(layer)}; give the variables of a network of tapped layers, "
                    "such as mlp"
                )
