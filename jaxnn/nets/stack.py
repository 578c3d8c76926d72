"""The stack that the dense and the convolutional family share: equal layers, one behind the other.

Contract, for layer l = 1 ... depth, with z the pre-activations, phi the activation, N the
normalisation, D the dropout and * the family's product (dense, convolution):

    h_0 = D(x)
    z_1 = N(W_1 * h_0 + b_1)
    z_l = residual z_{l-1} + N(W_l * h_{l-1} + b_l)
    h_l = D(phi(z_l))
    y = W_out pool(h_depth) + b_out

`depth` counts hidden layers; there are depth + 1 weight arrays. All layers above the first are one
block applied in a loop, so compile time does not grow with depth. Taps and shifts are flattened to
`[layer, batch, unit]`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.depth import active_layers, layers_present
from jaxnn.nets.dropout import dropout_keys, dropped
from jaxnn.nets.initialisers import Initialiser
from jaxnn.nets.layers import apply_layers
from jaxnn.nets.norms import Norm
from jaxnn.nets.stacked import chosen, dense, draw, layer_keys, part, repeated, without
from jaxnn.types import Activation, Depth, Model, Scalar, Taps, Variables


class Family(NamedTuple):
    """What makes a stack dense or convolutional."""

    window: tuple[int, ...]  # leading axes of a kernel [*window, fan_in, unit]
    features: Callable[[Array], Array]  # x -> [batch, ..., feature]
    product: Callable[..., Array]  # (params, h, *, first: bool) -> W * h + b
    pool: Callable[[Array], Array]  # h -> [batch, unit]


class Stack(NamedTuple):
    """What a network of equal layers is made of."""

    family: Family
    depth: Depth
    units: int
    out: int
    phi: Activation
    kernel: Initialiser
    bias: Initialiser
    readout: Initialiser
    residual: bool | Scalar
    norm: Norm
    dropout: Scalar | None
    input_dropout: Scalar | None


class Layer(NamedTuple):
    """What is a hidden layer's own; above the first, each leaf is `[layer, ...]`."""

    params: dict[str, Any]
    stats: dict[str, Array]  # of its normalisation
    shift: Array | None  # [batch, ..., unit]
    key: Array | None  # [] of its dropout
    active: Array | None  # [] False: a masked member lacks it


class Signals(NamedTuple):
    """What a hidden layer hands on."""

    pre: Array  # [batch, ..., unit]
    post: Array  # [batch, ..., unit]
    stats: dict[str, Array]


def stacked_model(stack: Stack) -> Model:
    """Return the stack as a `Model`."""
    init, apply = functools.partial(_init, stack), functools.partial(_apply, stack)
    return Model(init, apply, stack.phi, active_layers(stack.depth))


def _init(stack: Stack, key: Array, x: Array) -> Variables:
    features = stack.family.features(x).shape[-1]
    window, units, above = stack.family.window, stack.units, stack.depth.maximum - 1
    bias_keys, kernel_keys = layer_keys(key, stack.depth.maximum)
    biases = draw(stack.bias, bias_keys[1:], (units,), x.dtype)
    norm, stats = stack.norm.init(units, x.dtype)
    extra = {"norm": norm} if norm else {}
    params: dict[str, Any] = {
        "first": {
            "kernel": stack.kernel(kernel_keys[1], (*window, features, units), x.dtype),
            "bias": biases[0],
            **extra,
        },
        "readout": {
            "kernel": stack.readout(kernel_keys[0], (units, stack.out), x.dtype),
            "bias": stack.bias(bias_keys[0], (stack.out,), x.dtype),
        },
    }
    moving = {"first": stats}
    if above:
        moving["hidden"] = repeated(stats, above)
        kernels = draw(stack.kernel, kernel_keys[2:], (*window, units, units), x.dtype)
        hidden = {"kernel": kernels, "bias": biases[1:], **repeated(extra, above)}
        active = active_layers(stack.depth)
        params["hidden"] = hidden if active is None else without(hidden, ~active[1:])
    return {"params": params, "batch_stats": moving} if stats else {"params": params}


def _apply(
    stack: Stack,
    variables: Variables,
    x: Array,
    *,
    key: Array | None = None,
    train: bool = False,
    shift: Array | None = None,
) -> tuple[Array, Taps, Variables]:
    params, stats = variables["params"], variables.get("batch_stats", {})
    rates = (stack.input_dropout, stack.dropout)
    drops = dropout_keys(key, stack.depth.maximum) if train and rates != (None, None) else None
    h = dropped(part(drops, 0), stack.family.features(x), stack.input_dropout)
    z = stack.family.product(params["first"], h, first=True)
    shifts = None if shift is None else shift.reshape(-1, *z.shape)

    def layer(group: str, where: int | slice) -> Layer:
        above, keys = part(active_layers(stack.depth), where), part(drops, slice(1, None))
        own_stats, own_shift = stats.get(group, {}), part(shifts, where)
        return Layer(params[group], own_stats, own_shift, part(keys, where), above)

    first = _activated(stack, train, layer("first", 0), z)
    last, every, moved = first, jax.tree.map(lambda leaf: leaf[None], first), {"first": first.stats}
    if stack.depth.maximum > 1:
        step = functools.partial(_step, stack, train)
        present = layers_present(stack.depth, train=train, before=1)
        last, rest = apply_layers(step, first, layer("hidden", slice(1, None)), present)
        every = jax.tree.map(lambda *parts: jnp.concatenate(parts), every, rest)
        moved["hidden"] = rest.stats
    y = dense(params["readout"], stack.family.pool(last.post))
    if stats:
        variables = {**variables, "batch_stats": moved}
    return y, Taps(*(leaf.reshape(*leaf.shape[:2], -1) for leaf in every[:2])), variables


def _step(stack: Stack, train: bool, below: Signals, layer: Layer) -> Signals:
    """Apply a layer above the first; where a masked member lacks it, the identity."""
    z = stack.family.product(layer.params, below.post, first=False)
    new = _activated(stack, train, layer, z, below.pre)
    return chosen(layer.active, new, below._replace(stats=layer.stats))


def _activated(
    stack: Stack, train: bool, layer: Layer, z: Array, below: Array | None = None
) -> Signals:
    """Finish a layer from its product; `below` is the last layer's pre-activation."""
    norm = layer.params.get("norm", {})
    pre, stats = stack.norm.apply(norm, layer.stats, z, train=train)
    if below is not None and stack.residual is not False:
        pre = jnp.asarray(stack.residual, pre.dtype) * below + pre
    pre = pre if layer.shift is None else pre + layer.shift
    return Signals(pre, dropped(layer.key, stack.phi.function(pre), stack.dropout), stats)
