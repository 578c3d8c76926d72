"""Multilayer perceptrons: a stack of one block, scanned, so compile time does not grow with depth.

Contract of the stack, for layer l = 1 ... depth, with z the pre-activations, phi the activation,
N the normalisation and D the dropout:

    h_0 = D(x)
    z_1 = N(W_1 h_0 + b_1)
    z_l = residual z_{l-1} + N(W_l h_{l-1} + b_l)
    h_l = D(phi(z_l))
    y = W_out h_depth + b_out

`depth` counts hidden layers; there are depth + 1 weight matrices.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.activations import activation as named_activation
from jaxnn.nets.depth import active_layers, as_depth, layers_present, static_size
from jaxnn.nets.dropout import check_rate, dropped, layer_words
from jaxnn.nets.initialisers import Initialiser, lecun, zeros
from jaxnn.nets.layers import apply_layers
from jaxnn.nets.norms import Norm, as_norm
from jaxnn.nets.stacked import chosen, dense, draw, layer_keys, part, repeated, without
from jaxnn.types import Activation, Depth, Model, Scalar, Taps, Variables


class Stack(NamedTuple):
    """What a multilayer perceptron is made of."""

    depth: Depth
    width: int
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
    """What is a hidden layer's own; in the stack, each leaf is `[layer, ...]`."""

    params: dict[str, Any]
    stats: dict[str, Array]  # of its normalisation
    shift: Array | None  # [batch, unit]
    words: Array | None  # [2] key data of its dropout
    active: Array | None  # [] False: a masked member lacks it


class Signals(NamedTuple):
    """What a hidden layer hands on."""

    pre: Array  # [batch, unit]
    post: Array  # [batch, unit]
    stats: dict[str, Array]


def mlp(
    depth: int | Depth,
    width: int,
    out: int,
    activation: str | Activation = "tanh",
    *,
    weights: Initialiser | None = None,
    biases: Initialiser | None = None,
    readout: Initialiser | None = None,
    residual: bool | Scalar = False,
    norm: str | Norm = "none",
    dropout: Scalar | None = None,
    input_dropout: Scalar | None = None,
) -> Model:
    """Build a multilayer perceptron; inputs are flattened to `[batch, feature]`.

    Args:
        depth: hidden layers, at least 1; an int, or the `Depth` that a sweep hands to a run.
        width: units in each hidden layer.
        out: outputs.
        activation: a name (`jn.activations.ACTIVATIONS`) or an `Activation`.
        weights: kernels of the hidden layers; LeCun normal unless given.
        biases: biases of all layers; zeros unless given.
        readout: kernel of the readout; that of the hidden layers unless given.
        residual: add an identity path, z_l = z_{l-1} + W phi(z_{l-1}) + b (Yang & Schoenholz 2017,
            1712.08969); a number is the path's strength and may be traced, 0 being a plain network.
        norm: 'none', 'batch', 'layer', or a `Norm` such as `jn.batch_norm(epsilon=1e-3)`.
        dropout: share of each hidden layer's activations set to 0 in training; may be traced.
        input_dropout: share of the inputs set to 0 in training; may be traced.

    Returns:
        A `Model` whose taps have a `[layer]` axis of the (maximum) depth; `post` is what the next
        layer gets.

    Raises:
        TypeError, ValueError: a size is no positive int, a name is unknown, a rate not in [0, 1).

    Example:
        >>> model = mlp(depth=3, width=8, out=2, activation="relu")
        >>> x = jnp.ones((5, 4))
        >>> variables = model.init(jax.random.key(0), x)
        >>> y, taps, _ = model.apply(variables, x)
        >>> y.shape, taps.pre.shape
        ((5, 2), (3, 5, 8))
    """
    check_rate("dropout", dropout)
    check_rate("input_dropout", input_dropout)
    kernel = weights if weights is not None else lecun()
    stack = Stack(
        as_depth(depth),
        static_size("width", width),
        static_size("out", out),
        named_activation(activation),
        kernel,
        biases if biases is not None else zeros(),
        readout if readout is not None else kernel,
        residual,
        as_norm(norm),
        dropout,
        input_dropout,
    )
    init, apply = functools.partial(_init, stack), functools.partial(_apply, stack)
    return Model(init, apply, stack.phi, active_layers(stack.depth))


def _init(stack: Stack, key: Array, x: Array) -> Variables:
    features, width, above = math.prod(x.shape[1:]), stack.width, stack.depth.maximum - 1
    bias_keys, kernel_keys = layer_keys(key, stack.depth.maximum)
    hidden_biases = draw(stack.bias, bias_keys[1:], (width,), x.dtype)
    norm, stats = stack.norm.init(width, x.dtype)
    extra = {"norm": norm} if norm else {}
    params: dict[str, Any] = {
        "first": {
            "kernel": stack.kernel(kernel_keys[1], (features, width), x.dtype),
            "bias": hidden_biases[0],
            **extra,
        },
        "readout": {
            "kernel": stack.readout(kernel_keys[0], (width, stack.out), x.dtype),
            "bias": stack.bias(bias_keys[0], (stack.out,), x.dtype),
        },
    }
    if above:
        kernels = draw(stack.kernel, kernel_keys[2:], (width, width), x.dtype)
        hidden = {"kernel": kernels, "bias": hidden_biases[1:], **repeated(extra, above)}
        active = active_layers(stack.depth)
        params["hidden"] = hidden if active is None else without(hidden, ~active[1:])
    if not stats:
        return {"params": params}
    return {"params": params, "batch_stats": {"first": stats, "hidden": repeated(stats, above)}}


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
    words = layer_words(key, stack.depth.maximum) if train and rates != (None, None) else None
    h = dropped(part(words, 0), x.reshape(x.shape[0], -1), stack.input_dropout)

    def layer(group: str, where: int | slice) -> Layer:
        above = part(active_layers(stack.depth), where)
        shifts, keys = part(shift, where), part(words, slice(1, None))
        return Layer(params[group], stats.get(group, {}), shifts, part(keys, where), above)

    first = _hidden_layer(stack, train, layer("first", 0), h)
    last, taps = first, jax.tree.map(lambda leaf: leaf[None], first)
    if stack.depth.maximum > 1:
        step = functools.partial(_step, stack, train)
        present = layers_present(stack.depth, train=train, before=1)
        last, rest = apply_layers(step, first, layer("hidden", slice(1, None)), present)
        taps = jax.tree.map(lambda *parts: jnp.concatenate(parts), taps, rest)
    y = dense(params["readout"], last.post)
    if stats:
        moved = {"first": first.stats, "hidden": jax.tree.map(lambda leaf: leaf[1:], taps.stats)}
        variables = {**variables, "batch_stats": moved}
    return y, Taps(taps.pre, taps.post), variables


def _hidden_layer(
    stack: Stack, train: bool, layer: Layer, h: Array, below: Array | None = None
) -> Signals:
    """Apply one hidden layer to h `[batch, unit]`; `below` is the last layer's pre-activation."""
    norm = layer.params.get("norm", {})
    pre, stats = stack.norm.apply(norm, layer.stats, dense(layer.params, h), train=train)
    if below is not None and stack.residual is not False:
        pre = jnp.asarray(stack.residual, pre.dtype) * below + pre
    pre = pre if layer.shift is None else pre + layer.shift
    return Signals(pre, dropped(layer.words, stack.phi.function(pre), stack.dropout), stats)


def _step(stack: Stack, train: bool, below: Signals, layer: Layer) -> Signals:
    """Apply a layer of the stack; where a masked member lacks it, the identity."""
    new = _hidden_layer(stack, train, layer, below.post, below.pre)
    return chosen(layer.active, new, below._replace(stats=layer.stats))
