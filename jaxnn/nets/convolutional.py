"""Convolutional stacks for images: a strided stem, equal blocks, global average pooling.

It is the stack of `jaxnn.nets.stack` with convolutions as products and the mean over all places as
pooling. The stem is its layer 1, so `depth` counts hidden layers, and there are depth convolutions.
Taps and shifts are maps flattened to `[layer, batch, unit]`, unit = row * column * channel. Kernels
are `[row, column, in, out]`.
"""

from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.activations import activation as named_activation
from jaxnn.nets.depth import as_depth, static_size
from jaxnn.nets.dropout import check_rate
from jaxnn.nets.initialisers import Initialiser, lecun, zeros
from jaxnn.nets.norms import Norm, as_norm
from jaxnn.nets.stack import Family, Stack, stacked_model
from jaxnn.types import Activation, Depth, Model, Scalar

Padding = Literal["same", "circular"]


def cnn(
    depth: int | Depth,
    channels: int,
    out: int,
    activation: str | Activation = "relu",
    *,
    kernel: int = 3,
    stride: int = 2,
    padding: Padding = "same",
    weights: Initialiser | None = None,
    biases: Initialiser | None = None,
    readout: Initialiser | None = None,
    residual: bool | Scalar = False,
    norm: str | Norm = "none",
    dropout: Scalar | None = None,
    input_dropout: Scalar | None = None,
) -> Model:
    """Build a convolutional network over images `[batch, row, column, channel]`.

    Args:
        depth: convolutions, at least 1; an int, or the `Depth` that a sweep hands to a run.
        channels: channels of each of them.
        out: outputs.
        activation: a name (`jn.activations.ACTIVATIONS`) or an `Activation`.
        kernel: rows and columns of each kernel.
        stride: of the stem; maps have ceil(row / stride) rows.
        padding: 'same' (zeros) or 'circular', where every place of a map is alike, as in the
            theory of Xiao et al. 2018 (1806.05393).
        weights: kernels of all convolutions; LeCun normal unless given. Delta-orthogonal ones keep
            norms from map to map (1806.05393, algorithm 1).
        biases: biases of all layers; zeros unless given.
        readout: kernel of the readout; LeCun normal unless given.
        residual: add an identity path around each layer above the stem; a number is its strength
            and may be traced, 0 being a plain network.
        norm: 'none', 'batch', 'layer', or a `Norm`: of each channel over batch and places, or of
            each place over its channels.
        dropout: share of each layer's activations set to 0 in training; may be traced.
        input_dropout: share of the inputs set to 0 in training; may be traced.

    Returns:
        A `Model` whose taps have a `[layer]` axis of the (maximum) depth.

    Raises:
        TypeError, ValueError: a size is no positive int, or a name is unknown; `init` and `apply`
            refuse inputs without the four axes of images.

    Example:
        >>> model = cnn(depth=3, channels=4, out=2)
        >>> x = jnp.ones((5, 8, 8, 1))
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)  # shapes alone
        >>> y, taps, _ = jax.eval_shape(model.apply, variables, x)
        >>> y.shape, taps.pre.shape
        ((5, 2), (3, 5, 64))
    """
    if padding not in get_args(Padding):
        raise ValueError(f"padding: expected 'same' or 'circular', got {padding!r}")
    check_rate("dropout", dropout)
    check_rate("input_dropout", input_dropout)
    channels = static_size("channels", channels)
    window, strides = static_size("kernel", kernel), static_size("stride", stride)
    return stacked_model(
        Stack(
            _convolutional(channels, window, strides, padding),
            as_depth(depth),
            channels,
            static_size("out", out),
            named_activation(activation),
            weights if weights is not None else lecun(),
            biases if biases is not None else zeros(),
            readout if readout is not None else lecun(),
            residual,
            as_norm(norm),
            dropout,
            input_dropout,
        )
    )


def _convolutional(channels: int, window: int, stride: int, padding: Padding) -> Family:
    def product(params: dict[str, Any], h: Array, *, first: bool) -> Array:
        import flax.linen as nn  # here, so that importing jaxnn stays light

        layer = nn.Conv(
            channels,
            (window, window),
            stride if first else 1,
            padding.upper(),
            conv_general_dilated=_by_patches if jax.default_backend() == "cpu" else None,
        )
        own = {"kernel": params["kernel"], "bias": params["bias"]}
        return cast(Array, layer.apply({"params": own}, h))

    return Family((window, window), _images, product, lambda h: jnp.mean(h, axis=(1, 2)))


def _by_patches(
    x: Array, kernel: Array, strides: tuple[int, int], padding: str, **options: Any
) -> Array:
    """Convolve by one matrix product over the patches of a map.

    On a CPU, XLA's own convolution is slow inside a loop, as layers and steps of a training are: a
    training takes five to eight times as long with it.
    """
    rows, columns = kernel.shape[:2]
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (rows, columns), strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    tall, wide = (x.shape[1] - rows) // strides[0], (x.shape[2] - columns) // strides[1]
    patches = [
        x[:, i : i + tall * strides[0] + 1 : strides[0], j : j + wide * strides[1] + 1 : strides[1]]
        for i in range(rows)
        for j in range(columns)
    ]
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return jnp.matmul(jnp.concatenate(patches, -1), matrix, precision=options["precision"])


def _images(x: Array) -> Array:
    if x.ndim != 4:
        raise ValueError(
            f"x: expected images [batch, row, column, channel], got shape {x.shape}; give "
            "x.reshape(-1, rows, columns, channels)"
        )
    return x
