"""Multilayer perceptrons: a stack of one block, scanned, so compile time does not grow with depth.

Contract of the stack, for layer l = 1 ... depth, with z the pre-activations and phi the activation:

    z_1 = W_1 x + b_1
    z_l = residual z_{l-1} + W_l phi(z_{l-1}) + b_l
    y = W_out phi(z_depth) + b_out

`depth` counts hidden layers; there are depth + 1 weight matrices. Layer l draws from
`fold_in(key, l)` and the readout from `fold_in(key, 0)`: a deeper network starts with the shallower
one's layers, whatever the layout.
"""

import math
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.activations import activation as named_activation
from jaxnn.nets.depth import active_layers, as_depth, layers_present, static_size
from jaxnn.nets.initialisers import Initialiser, lecun, zeros
from jaxnn.nets.layers import apply_layers
from jaxnn.types import Activation, Depth, Model, Scalar, Taps, Variables

if TYPE_CHECKING:
    import flax.linen as nn


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

    Returns:
        A `Model` whose taps have a `[layer]` axis of the (maximum) depth.

    Raises:
        TypeError, ValueError: a size is no positive int, or the activation is unknown.

    Example:
        >>> model = mlp(depth=3, width=8, out=2, activation="relu")
        >>> x = jnp.ones((5, 4))
        >>> variables = model.init(jax.random.key(0), x)
        >>> y, taps, _ = model.apply(variables, x)
        >>> y.shape, taps.pre.shape
        ((5, 2), (3, 5, 8))
    """
    import flax.linen as nn  # here, so that importing jaxnn stays light

    levels = as_depth(depth)
    width, out = static_size("width", width), static_size("out", out)
    phi = named_activation(activation)
    kernel = weights if weights is not None else lecun()
    bias = biases if biases is not None else zeros()
    readout_kernel = readout if readout is not None else kernel
    layer, last = nn.Dense(width), nn.Dense(out)
    active = active_layers(levels)

    def init(key: Array, x: Array) -> Variables:
        features = math.prod(x.shape[1:])
        keys = _layer_keys(key, levels.maximum)
        bias_keys, kernel_keys = keys[:, 0], keys[:, 1]
        hidden_biases = _draw(bias, bias_keys[1:], (width,), x.dtype)
        params = {
            "first": {
                "kernel": kernel(kernel_keys[1], (features, width), x.dtype),
                "bias": hidden_biases[0],
            },
            "readout": {
                "kernel": readout_kernel(kernel_keys[0], (width, out), x.dtype),
                "bias": bias(bias_keys[0], (out,), x.dtype),
            },
        }
        if levels.maximum > 1:
            kernels = _draw(kernel, kernel_keys[2:], (width, width), x.dtype)
            hidden = {"kernel": kernels, "bias": hidden_biases[1:]}
            params["hidden"] = hidden if active is None else _without(hidden, ~active[1:])
        return {"params": params}

    def apply(
        variables: Variables,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
        shift: Array | None = None,
    ) -> tuple[Array, Taps, Variables]:
        params = variables["params"]
        pre = _dense(layer, params["first"], _flat(x))
        pre = pre if shift is None else pre + shift[0]
        first = Taps(pre, phi.function(pre))
        taps = jax.tree.map(lambda leaf: leaf[None], first)
        last_taps = first
        if levels.maximum > 1:
            step = _hidden_step(layer, phi, residual)
            inputs = (params["hidden"], _tail(shift), _tail(active))
            present = layers_present(levels, train=train)
            last_taps, rest = apply_layers(step, first, inputs, present)
            taps = jax.tree.map(lambda *parts: jnp.concatenate(parts), taps, rest)
        y = _dense(last, params["readout"], last_taps.post)
        return y, taps, variables

    return Model(init, apply, phi, active)


def _hidden_step(layer: "nn.Dense", phi: Activation, residual: bool | Scalar):
    """Return the scan's body: one hidden layer, the identity where a masked member lacks it."""

    def step(carry: Taps, inputs: tuple[Any, Array | None, Array | None]) -> Taps:
        params, shift, active = inputs
        pre = _dense(layer, params, carry.post)
        if residual is not False:
            pre = jnp.asarray(residual, pre.dtype) * carry.pre + pre
        pre = pre if shift is None else pre + shift
        new = Taps(pre, phi.function(pre))
        if active is not None:
            new = jax.tree.map(lambda ours, past: jnp.where(active, ours, past), new, carry)
        return new

    return step


def _dense(layer: "nn.Dense", params: dict[str, Array], x: Array) -> Array:
    return cast(Array, layer.apply({"params": params}, x))


def _layer_keys(key: Array, depth: int) -> Array:
    """Return keys `[depth + 1, 2]` for bias and kernel: the readout's, then each hidden layer's."""
    numbers = jnp.arange(depth + 1)
    return jax.vmap(lambda number: jax.random.split(jax.random.fold_in(key, number)))(numbers)


def _without(layers: dict[str, Array], absent: Array) -> dict[str, Array]:
    """Zero the layers that a masked member lacks, so that norms and penalties do not see them."""
    return {
        name: jnp.where(absent.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf)
        for name, leaf in layers.items()
    }


def _draw(initialise: Initialiser, keys: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Draw one array for each key; all of a shape at once, since each shape costs compile time."""
    return jax.vmap(lambda key: initialise(key, shape, dtype))(keys)


def _flat(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


def _tail(leading: Array | None) -> Array | None:
    return None if leading is None else leading[1:]
