"""A small transformer encoder over float tokens: equal blocks of attention and a perceptron.

Contract, for block l = 1 ... depth, with N layer norm, A self-attention over all tokens and s the
branches' scale:

    h_0 = W_in x + b_in + position
    pre-norm:   a = h_{l-1} + s A(N h_{l-1}),   z_l = W_up N a + b_up,
                h_l = a + s (W_down phi(z_l) + b_down),   y = W_out mean(N h_depth) + b_out
    post-norm:  a = N(h_{l-1} + s A(h_{l-1})),  z_l = W_up a + b_up,
                h_l = N(a + s (W_down phi(z_l) + b_down)),   y = W_out mean(h_depth) + b_out

The means are over tokens. The taps are z_l and phi(z_l), flattened to `[layer, batch, unit]` with
unit = token * (mlp_ratio width); what a masked member lacks leaves h as it is. Kernels of attention
are `[width, head * place in head]`, and `[head * place in head, width]` for the one that ends it.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.activations import activation as named_activation
from jaxnn.nets.depth import active_layers, as_depth, layers_present, static_size
from jaxnn.nets.initialisers import Initialiser, gaussian, lecun, zeros
from jaxnn.nets.layers import apply_layers
from jaxnn.nets.norms import layer_norm
from jaxnn.nets.stacked import chosen, dense, draw, layer_keys, repeated, without
from jaxnn.types import Activation, Depth, Model, Scalar, Taps, Variables

HEADED: tuple[str, ...] = ("query", "key", "value")  # the projections of attention to its heads


class Encoder(NamedTuple):
    """What a transformer is made of."""

    depth: Depth
    width: int
    out: int
    phi: Activation
    heads: int
    hidden: int
    norm_first: bool
    kernel: Initialiser
    last: Initialiser
    bias: Initialiser
    position: Initialiser
    readout: Initialiser
    scale: Scalar


class Block(NamedTuple):
    """What is a block's own; in the stack, each leaf is `[layer, ...]`."""

    params: dict[str, Any]
    shift: Array | None  # [batch, unit]
    active: Array | None  # [] False: a masked member lacks it


class Stream(NamedTuple):
    """What a block hands on."""

    h: Array  # [batch, token, width]
    taps: Taps  # [batch, unit]


def transformer(
    depth: int | Depth,
    width: int,
    out: int,
    activation: str | Activation = "gelu",
    *,
    heads: int = 4,
    mlp_ratio: int = 4,
    norm_first: bool = True,
    weights: Initialiser | None = None,
    last: Initialiser | None = None,
    biases: Initialiser | None = None,
    positions: Initialiser | None = None,
    readout: Initialiser | None = None,
    branch_scale: Scalar = 1.0,
) -> Model:
    """Build a transformer encoder over tokens `[batch, token, feature]`.

    Args:
        depth: blocks, at least 1; an int, or the `Depth` that a sweep hands to a run.
        width: units of the stream; a multiple of `heads`.
        out: outputs.
        activation: of the perceptrons; a name or an `Activation`.
        heads: of each attention.
        mlp_ratio: units of a perceptron's hidden layer, for each unit of the stream.
        norm_first: normalise before each branch and once at the end (pre-norm, Xiong et al. 2020,
            2002.04745); else after each branch is added (post-norm, Vaswani et al. 2017).
        weights: kernels; LeCun normal unless given.
        last: kernels at the end of each branch; `weights` unless given.
        biases: biases; zeros unless given.
        positions: of each token's learned position, drawn as a bias is; `gaussian(0.02)` (the
            usual choice, Dosovitskiy et al. 2020, 2010.11929) unless given.
        readout: kernel of the readout; `weights` unless given.
        branch_scale: factor s of every branch; may be traced.

    Returns:
        A `Model` whose taps are the hidden layers of the perceptrons.

    Raises:
        TypeError, ValueError: a size is no positive int, `heads` does not divide `width`, or the
            activation is unknown; `init` and `apply` refuse inputs without the three axes.

    Source:
        Vaswani et al. 2017, 1706.03762, sections 3.1 to 3.3.

    Example:
        >>> model = transformer(depth=2, width=8, out=3, heads=2)
        >>> x = jnp.ones((5, 6, 4))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)  # shapes alone
        >>> y, taps, _ = jax.eval_shape(model.apply, variables, x)
        >>> y.shape, taps.pre.shape
        ((5, 3), (2, 5, 192))
    """
    kernel = weights if weights is not None else lecun()
    width, heads = static_size("width", width), static_size("heads", heads)
    if width % heads:
        raise ValueError(f"heads: expected a divisor of width={width}, got {heads}")
    encoder = Encoder(
        as_depth(depth),
        width,
        static_size("out", out),
        named_activation(activation),
        heads,
        width * static_size("mlp_ratio", mlp_ratio),
        norm_first,
        kernel,
        last if last is not None else kernel,
        biases if biases is not None else zeros(),
        positions if positions is not None else gaussian(0.02),
        readout if readout is not None else kernel,
        branch_scale,
    )
    init, apply = functools.partial(_init, encoder), functools.partial(_apply, encoder)
    return Model(init, apply, encoder.phi, active_layers(encoder.depth))


def _init(encoder: Encoder, key: Array, x: Array) -> Variables:
    _check_tokens(x)
    width, dtype = encoder.width, x.dtype
    bias_keys, kernel_keys = layer_keys(key, encoder.depth.maximum)
    ends, end_biases = jax.random.split(kernel_keys[0]), jax.random.split(bias_keys[0], 3)
    places = jax.random.split(end_biases[2], x.shape[1])
    norm = layer_norm().init(width, dtype)[0]
    final = {"norm": norm} if encoder.norm_first else {}
    hidden = _drawn_blocks(encoder, bias_keys[1:], kernel_keys[1:], dtype)
    active = active_layers(encoder.depth)
    params = {
        "embed": {
            "kernel": encoder.kernel(ends[0], (x.shape[-1], width), dtype),
            "bias": encoder.bias(end_biases[0], (width,), dtype),
            "position": draw(encoder.position, places, (width,), dtype),
        },
        "hidden": hidden if active is None else without(hidden, ~active),
        "readout": {
            "kernel": encoder.readout(ends[1], (width, encoder.out), dtype),
            "bias": encoder.bias(end_biases[1], (encoder.out,), dtype),
            **final,
        },
    }
    return {"params": params}


def _drawn_blocks(encoder: Encoder, bias_keys: Array, kernel_keys: Array, dtype: Any) -> Any:
    """Draw the parameters of all blocks, `[layer, ...]`; what is alike in one draw."""
    width, hidden = encoder.width, encoder.hidden

    def drawn(initialise: Initialiser, keys: Array, *shape: int) -> Array:
        """Draw `[kind, layer, *shape]` with keys `[layer, kind]`."""
        return jax.vmap(lambda each: draw(initialise, each, shape, dtype), 1)(keys)

    keys = jax.vmap(lambda key: jax.random.split(key, 6))(kernel_keys)
    projections = drawn(encoder.kernel, keys[:, :3], width, width)
    kernels = {
        **dict(zip(HEADED, projections, strict=True)),
        "out": drawn(encoder.last, keys[:, 3:4], width, width)[0],
        "up": drawn(encoder.kernel, keys[:, 4:5], width, hidden)[0],
        "down": drawn(encoder.last, keys[:, 5:], hidden, width)[0],
    }
    keys = jax.vmap(lambda key: jax.random.split(key, 6))(bias_keys)
    rows = drawn(encoder.bias, keys[:, :5], width)
    biases = dict(zip((*HEADED, "out", "down"), rows, strict=True))
    biases["up"] = drawn(encoder.bias, keys[:, 5:], hidden)[0]
    layers = {name: {"kernel": kernels[name], "bias": biases[name]} for name in kernels}
    norm = repeated({"norm": layer_norm().init(width, dtype)[0]}, len(keys))
    perceptron = {name: layers.pop(name) for name in ("up", "down")}
    return {"attention": {**norm, **layers}, "mlp": {**norm, **perceptron}}


def _apply(
    encoder: Encoder,
    variables: Variables,
    x: Array,
    *,
    key: Array | None = None,
    train: bool = False,
    shift: Array | None = None,
) -> tuple[Array, Taps, Variables]:
    _check_tokens(x)
    params = variables["params"]
    h = dense(params["embed"], x) + params["embed"]["position"][None]
    none = jnp.zeros((len(x), x.shape[1] * encoder.hidden), h.dtype)
    blocks = Block(params["hidden"], shift, active_layers(encoder.depth))
    present = layers_present(encoder.depth, train=train)
    step = functools.partial(_step, encoder)
    last, every = apply_layers(step, Stream(h, Taps(none, none)), blocks, present)
    top = _normal(params["readout"], last.h) if encoder.norm_first else last.h
    return dense(params["readout"], jnp.mean(top, axis=1)), every.taps, variables


def _step(encoder: Encoder, below: Stream, block: Block) -> Stream:
    """Apply a block; where a masked member lacks it, the identity."""
    return chosen(block.active, _block(encoder, block, below.h), below)


def _block(encoder: Encoder, block: Block, h: Array) -> Stream:
    attention, perceptron = block.params["attention"], block.params["mlp"]
    scale = jnp.asarray(encoder.scale, h.dtype)

    def entering(params: dict[str, Any], h: Array) -> Array:
        return _normal(params, h) if encoder.norm_first else h

    def joined(params: dict[str, Any], h: Array, branch: Array) -> Array:
        h = h + scale * branch
        return h if encoder.norm_first else _normal(params, h)

    h = joined(attention, h, _attended(encoder, attention, entering(attention, h)))
    pre = dense(perceptron["up"], entering(perceptron, h))
    pre = pre if block.shift is None else pre + block.shift.reshape(pre.shape)
    post = encoder.phi.function(pre)
    h = joined(perceptron, h, dense(perceptron["down"], post))
    return Stream(h, Taps(*(each.reshape(len(each), -1) for each in (pre, post))))


def _normal(params: dict[str, Any], h: Array) -> Array:
    return layer_norm().apply(params["norm"], {}, h, train=False)[0]


def _attended(encoder: Encoder, params: dict[str, Any], h: Array) -> Array:
    """Return the attention of each token to all, `[batch, token, width]`."""
    import flax.linen as nn  # here, so that importing jaxnn stays light

    split = (encoder.heads, encoder.width // encoder.heads)
    by_head: dict[str, Any] = {
        name: {
            "kernel": params[name]["kernel"].reshape(encoder.width, *split),
            "bias": params[name]["bias"].reshape(split),
        }
        for name in HEADED
    }
    end = {**params["out"], "kernel": params["out"]["kernel"].reshape(*split, encoder.width)}
    layer = nn.MultiHeadDotProductAttention(encoder.heads)
    return cast(Array, layer.apply({"params": {**by_head, "out": end}}, h))


def _check_tokens(x: Array) -> None:
    if x.ndim != 3:
        raise ValueError(
            f"x: expected tokens [batch, token, feature], got shape {x.shape}; give "
            "x.reshape(-1, tokens, features)"
        )
