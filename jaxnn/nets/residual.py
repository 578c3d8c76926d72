"""Residual networks of dense blocks, with the scalings that let them start at any depth.

Contract, for block l = 1 ... depth, with phi the activation, N the normalisations, D the dropout
and s_l the branch's scale:

    h_0 = W_in x + b_in
    z_l = N(W_1 a_l + b_1),   F_l = W_2 D(phi(z_l)) + b_2
    pre-activation:   a_l = phi(N(h_{l-1})),  h_l = h_{l-1} + s_l F_l,        y = W_out phi(h_depth)
    post-activation:  a_l = h_{l-1},          h_l = phi(h_{l-1} + s_l N(F_l)),   y = W_out h_depth

The taps are z_l and D(phi(z_l)), inside the branch. `params["hidden"]` holds the dense layers
`inner` and `outer`. The published scalings are options to spread into the call: `**jn.rezero()`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.activations import activation as named_activation
from jaxnn.nets.depth import active_layers, as_depth, layers_present, static_size
from jaxnn.nets.dropout import check_rate, dropout_keys, dropped
from jaxnn.nets.initialisers import Initialiser, he, lecun, zeros
from jaxnn.nets.layers import apply_layers
from jaxnn.nets.norms import Norm, as_norm
from jaxnn.nets.stacked import chosen, dense, draw, layer_keys, repeated, without
from jaxnn.types import Activation, Depth, Model, Scalar, Taps, Variables


class Blocks(NamedTuple):
    """What a residual network is made of."""

    depth: Depth
    width: int
    out: int
    phi: Activation
    embed: Initialiser
    kernel: Initialiser
    last: Initialiser
    bias: Initialiser
    readout: Initialiser
    norm: Norm
    preactivation: bool
    scale: Scalar
    trained_scale: bool
    dropout: Scalar | None


class Block(NamedTuple):
    """What is a block's own; in the stack, each leaf is `[layer, ...]`."""

    params: dict[str, Any]
    stats: dict[str, Any]  # of its normalisations
    shift: Array | None  # [batch, unit]
    key: Array | None  # [] of its dropout
    active: Array | None  # [] False: a masked member lacks it


class Stream(NamedTuple):
    """What a block hands on."""

    h: Array  # [batch, unit]
    taps: Taps  # [batch, unit]
    stats: dict[str, Any]


def residual_mlp(
    depth: int | Depth,
    width: int,
    out: int,
    activation: str | Activation = "relu",
    *,
    embed: Initialiser | None = None,
    weights: Initialiser | None = None,
    last: Initialiser | None = None,
    biases: Initialiser | None = None,
    readout: Initialiser | None = None,
    norm: str | Norm = "none",
    preactivation: bool = True,
    branch_scale: Scalar = 1.0,
    trained_scale: bool = False,
    dropout: Scalar | None = None,
) -> Model:
    """Build a residual network of two-layer dense blocks; inputs are flattened.

    Args:
        depth: blocks, at least 1; an int, or the `Depth` that a sweep hands to a run.
        width: units of the stream and of each branch.
        out: outputs.
        activation: a name or an `Activation`.
        embed: kernel from the inputs to the stream; LeCun normal unless given.
        weights: kernels in the branches; He normal unless given.
        last: kernels at the end of each branch; `weights` unless given.
        biases: biases; zeros unless given.
        readout: kernel of the readout; `weights` unless given.
        norm: 'none', 'batch', 'layer', or a `Norm`.
        preactivation: normalise and activate before each branch's layers, leaving the stream alone
            (He et al. 2016, 1603.05027); else activate the stream after each block (1512.03385).
        branch_scale: factor s of every branch; may be traced.
        trained_scale: make each branch's s a parameter that starts at `branch_scale`.
        dropout: share of each branch's hidden activations set to 0 in training; may be traced.

    Returns:
        A `Model` with one tapped layer a block.

    Raises:
        TypeError, ValueError: a size is no positive int, a name is unknown, a rate not in [0, 1).

    Example:
        >>> model = residual_mlp(3, 8, 2, norm="batch")
        >>> variables = model.init(jax.random.key(0), jnp.ones((5, 4)))
        >>> y, taps, moved = model.apply(variables, jnp.ones((5, 4)), train=True)
        >>> y.shape, taps.pre.shape, sorted(moved)
        ((5, 2), (3, 5, 8), ['batch_stats', 'params'])
    """
    check_rate("dropout", dropout)
    kernel = weights if weights is not None else he()
    blocks = Blocks(
        as_depth(depth),
        static_size("width", width),
        static_size("out", out),
        named_activation(activation),
        embed if embed is not None else lecun(),
        kernel,
        last if last is not None else kernel,
        biases if biases is not None else zeros(),
        readout if readout is not None else kernel,
        as_norm(norm),
        preactivation,
        branch_scale,
        trained_scale,
        dropout,
    )
    init, apply = functools.partial(_init, blocks), functools.partial(_apply, blocks)
    return Model(init, apply, blocks.phi, active_layers(blocks.depth))


def rezero() -> dict[str, Any]:
    """Return the options of ReZero (Bachlechner et al. 2020, 2003.04887): trained scales from 0.

    In this block it is also SkipInit (De & Smith 2020, 2002.10444): every block starts as identity.
    """
    return {"branch_scale": 0.0, "trained_scale": True}


def fixup(depth: int | Depth, gain: Scalar = 1.0) -> dict[str, Any]:
    """Return the options of Fixup: one step changes the function by O(learning rate) at any depth.

    Branches of m = 2 layers: He kernels times depth^(-1/(2m-2)) = depth^(-1/2), zeros at the end of
    each branch and in the readout, and trained scales from 1. Where the paper adds scalar biases,
    every layer here has a vector of them.

    Args:
        depth: blocks of the network.
        gain: factor of the inner kernels; may be traced.

    Source:
        Zhang, Dauphin & Ma 2019, 1901.09321, section 3.
    """
    scale = jnp.asarray(as_depth(depth).num_layers, jnp.result_type(float)) ** -0.5
    last = {"last": zeros(), "readout": zeros()}
    return {"weights": he(gain * scale), **last, "trained_scale": True}


def _init(blocks: Blocks, key: Array, x: Array) -> Variables:
    width, layers = blocks.width, blocks.depth.maximum
    bias_keys, kernel_keys = layer_keys(key, layers)
    ends, inputs = jax.random.split(kernel_keys[0]), math.prod(x.shape[1:])
    norm, stats = blocks.norm.init(width, x.dtype)
    norms = {"branch_norm": norm, "norm": norm} if norm else {}
    params: dict[str, Any] = {
        "embed": {"kernel": blocks.embed(ends[0], (inputs, width), x.dtype)},
        "readout": {"kernel": blocks.readout(ends[1], (width, blocks.out), x.dtype)},
    }
    for (name, units), bias_key in zip(
        {"embed": width, "readout": blocks.out}.items(), jax.random.split(bias_keys[0]), strict=True
    ):
        params[name]["bias"] = blocks.bias(bias_key, (units,), x.dtype)
    hidden: dict[str, Any] = repeated(norms, layers)
    for name, kernel, place in (("inner", blocks.kernel, 0), ("outer", blocks.last, 1)):
        own = jax.vmap(jax.random.split)(kernel_keys[1:])[:, place]
        own_bias = jax.vmap(jax.random.split)(bias_keys[1:])[:, place]
        hidden[name] = {
            "kernel": draw(kernel, own, (width, width), x.dtype),
            "bias": draw(blocks.bias, own_bias, (width,), x.dtype),
        }
    if blocks.trained_scale:
        hidden["scale"] = jnp.full(layers, jnp.asarray(blocks.scale, x.dtype))
    active = active_layers(blocks.depth)
    params["hidden"] = hidden if active is None else without(hidden, ~active)
    if not stats:
        return {"params": params}
    return {
        "params": params,
        "batch_stats": repeated({"branch_norm": stats, "norm": stats}, layers),
    }


def _apply(
    blocks: Blocks,
    variables: Variables,
    x: Array,
    *,
    key: Array | None = None,
    train: bool = False,
    shift: Array | None = None,
) -> tuple[Array, Taps, Variables]:
    params, stats = variables["params"], variables.get("batch_stats", {})
    drops = train and blocks.dropout is not None
    keys = dropout_keys(key, blocks.depth.maximum)[1:] if drops else None
    h = dense(params["embed"], x.reshape(x.shape[0], -1))
    stack = Block(params["hidden"], stats, shift, keys, active_layers(blocks.depth))
    bottom = Stream(h, Taps(h, h), jax.tree.map(lambda leaf: leaf[0], stats))
    present = layers_present(blocks.depth, train=train)
    step = functools.partial(_step, blocks, train)
    last, every = apply_layers(step, bottom, stack, present)
    top = blocks.phi.function(last.h) if blocks.preactivation else last.h
    y = dense(params["readout"], top)
    if stats:
        variables = {**variables, "batch_stats": every.stats}
    return y, every.taps, variables


def _step(blocks: Blocks, train: bool, below: Stream, block: Block) -> Stream:
    """Apply a block; where a masked member lacks it, the identity."""
    new = _block(blocks, train, block, below.h)
    return chosen(block.active, new, below._replace(stats=block.stats))


def _block(blocks: Blocks, train: bool, block: Block, h: Array) -> Stream:
    params, moved = block.params, {}

    def normal(name: str, z: Array) -> Array:
        stats = block.stats.get(name, {})
        z, moved[name] = blocks.norm.apply(params.get(name, {}), stats, z, train=train)
        return z

    phi = blocks.phi.function
    pre = dense(params["inner"], phi(normal("branch_norm", h)) if blocks.preactivation else h)
    pre = normal("norm", pre)
    pre = pre if block.shift is None else pre + block.shift
    post = dropped(block.key, phi(pre), blocks.dropout)
    branch = dense(params["outer"], post)
    if not blocks.preactivation:
        branch = normal("branch_norm", branch)
    scale = params["scale"] if blocks.trained_scale else jnp.asarray(blocks.scale, h.dtype)
    new = h + scale * branch
    new = new if blocks.preactivation else phi(new)
    return Stream(new, Taps(pre, post), {name: each for name, each in moved.items() if each})
