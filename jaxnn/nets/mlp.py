"""Multilayer perceptrons: the stack of `jaxnn.nets.stack` with dense layers."""

from jax import Array

from jaxnn.nets.activations import activation as named_activation
from jaxnn.nets.depth import as_depth, static_size
from jaxnn.nets.dropout import check_rate
from jaxnn.nets.initialisers import Initialiser, lecun, zeros
from jaxnn.nets.norms import Norm, as_norm
from jaxnn.nets.stack import Family, Stack, stacked_model
from jaxnn.nets.stacked import dense
from jaxnn.types import Activation, Depth, Model, Scalar


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
        >>> import jax
        >>> import jax.numpy as jnp
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
    return stacked_model(
        Stack(
            DENSE,
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
    )


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


DENSE = Family((), _flat, lambda params, h, *, first: dense(params, h), lambda h: h)
