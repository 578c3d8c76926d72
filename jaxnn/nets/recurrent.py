"""Recurrent networks: one cell, scanned over time, and a readout at the last step or at each.

Contract: inputs are floats `[batch, time, feature]`, and time is the layer axis of taps and shifts,
`[time, batch, unit]`. The state before the first step is zero. `jaxnn.nets.cells` gives each cell's
equations; what `pre`, `post` and the gradient of `shift` are:

    vanilla   z_t and phi(z_t); dL/dz_t, so that dL/dU = sum_t h_{t-1}^T dL/dz_t
    LSTM      the memory c_t and h_t; dL/dc_t, the memory's own signal
    GRU       h_t and h_t; dL/dh_t

Parameters are shared over time, so there are no groups `first` and `hidden` and no measurements of
weights by layer. The groups are `input` (kernel `[feature, block * unit]`, bias), `recurrent`
(kernel `[unit, block * unit]`; for the GRU the bias `[unit]` inside its reset product) and
`readout`. Each block of a gated cell is drawn by itself. Readout, input and recurrent groups draw
from `fold_in(key, 0)`, `1` and `2`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.cells import Cell, recurrent_cell
from jaxnn.nets.depth import static_size
from jaxnn.nets.initialisers import Initialiser, constant, lecun, orthogonal, zeros
from jaxnn.nets.layers import apply_layers
from jaxnn.nets.stacked import dense, draw, layer_keys
from jaxnn.types import Activation, Model, Scalar, Taps, Variables


def rnn(
    width: int,
    out: int,
    cell: str | Activation = "tanh",
    *,
    weights: Initialiser | None = None,
    recurrent: Initialiser | None = None,
    biases: Initialiser | None = None,
    readout: Initialiser | None = None,
    forget_bias: Scalar | None = None,
    chrono: Scalar | None = None,
    every_step: bool = False,
) -> Model:
    """Build a recurrent network over inputs `[batch, time, feature]`.

    Args:
        width: units of the state.
        out: outputs.
        cell: 'lstm', 'gru', or the activation of a vanilla cell (a name of
            `jn.activations.ACTIVATIONS` or an `Activation`).
        weights: input kernel; LeCun normal unless given.
        recurrent: recurrent kernel; orthogonal unless given. `orthogonal(rho)` has spectral radius
            and all singular values exactly rho, `gaussian(g)` radius g and norm 2 g for large
            widths (Pascanu et al. 2013, 1211.5063), `scaled_identity(gain)` is the IRNN's.
        biases: all biases; zeros unless given.
        readout: kernel of the readout; that of the inputs unless given.
        forget_bias: the bias of the forget gate (LSTM) or update gate (GRU), whose sigmoid
            multiplies the memory at each step; 1 in Jozefowicz et al. 2015 (PMLR 37:2342).
        chrono: the longest memory T in steps, at least 2: forget biases are log U[1, T - 1] and
            the LSTM's input biases their negatives, so that a unit's time 1 / (1 - s(bias)) is
            uniform on [2, T] (Tallec & Ollivier 2018, 1804.11188).
        every_step: read out each step, outputs `[batch, time, out]`, rather than the last one,
            `[batch, out]`.

    Returns:
        A `Model`; its `activation` is that of a vanilla cell, None for gated ones.

    Raises:
        TypeError, ValueError: a size is no positive int, the cell is unknown, it has no gate to
            bias, `chrono` is below 2, or both it and `forget_bias` are given; `init` and
            `apply` refuse inputs that are not floats `[batch, time, feature]`.

    Example:
        >>> model = rnn(width=8, out=2, cell="lstm", forget_bias=1.0)
        >>> x = jnp.ones((5, 20, 3))
        >>> variables = jax.jit(model.init)(jax.random.key(0), x)
        >>> y, taps, _ = model.apply(variables, x)
        >>> y.shape, taps.pre.shape
        ((5, 2), (20, 5, 8))
    """
    width, out = static_size("width", width), static_size("out", out)
    kind = recurrent_cell(cell)
    forget = _forget_biases(kind, forget_bias, chrono)
    weights = weights if weights is not None else lecun()
    recurrent = recurrent if recurrent is not None else orthogonal()
    biases = biases if biases is not None else zeros()
    readout = readout if readout is not None else weights

    def init(key: Array, x: Array) -> Variables:
        _check_sequences(x)
        bias_keys, kernel_keys = layer_keys(key, 2)  # of the readout, the inputs, the recurrence
        row_keys, input_keys, back_keys = (
            jax.random.split(each, len(kind.blocks)) for each in (bias_keys[1], *kernel_keys[1:])
        )
        rows = draw(biases, row_keys, (width,), x.dtype)
        if forget is not None:
            rows = _set_gates(rows, row_keys, kind, forget, tied=chrono is not None)
        inputs = draw(weights, input_keys, (x.shape[-1], width), x.dtype)
        back = draw(recurrent, back_keys, (width, width), x.dtype)
        params = {
            "input": {"kernel": _side_by_side(inputs), "bias": rows.reshape(-1)},
            "recurrent": {"kernel": _side_by_side(back)},
            "readout": {
                "kernel": readout(kernel_keys[0], (width, out), x.dtype),
                "bias": biases(bias_keys[0], (out,), x.dtype),
            },
        }
        if kind.recurrent_bias:
            params["recurrent"]["bias"] = biases(bias_keys[2], (width,), x.dtype)
        return {"params": params}

    def apply(
        variables: Variables,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
        shift: Array | None = None,
    ) -> tuple[Array, Taps, Variables]:
        _check_sequences(x)
        params = variables["params"]
        drive = dense(params["input"], jnp.swapaxes(x, 0, 1))  # all steps at once
        rest = jnp.zeros((x.shape[0], width), drive.dtype)

        def step(last: Taps, now: tuple[Array, Array | None]) -> Taps:
            return kind.step(params["recurrent"], last, *now)

        last, taps = apply_layers(step, Taps(rest, rest), (drive, shift))
        seen = jnp.swapaxes(taps.post, 0, 1) if every_step else last.post
        return dense(params["readout"], seen), taps, variables

    return Model(init, apply, kind.activation)


def scaled_identity(gain: Scalar = 1.0) -> Initialiser:
    """Fill with gain times the identity, the recurrent kernel of the IRNN.

    With relu units, zero biases and gain 1 the state's Jacobian is the identity as long as all
    units are on (Le, Jaitly & Hinton 2015, 1504.00941). A kernel that is not square gets ones on
    its leading diagonal.

    Raises:
        ValueError: the shape is no matrix.
    """

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        del key
        if len(shape) != 2:
            raise ValueError(
                f"scaled_identity: expected a kernel [fan_in, fan_out], got shape {tuple(shape)}"
            )
        return jnp.asarray(gain, dtype) * jnp.eye(*shape, dtype=dtype)

    return initialise


def _forget_biases(
    cell: Cell, forget_bias: Scalar | None, chrono: Scalar | None
) -> Initialiser | None:
    """Check what is asked of the forget gate's bias and return its initialiser."""
    given = {"forget_bias": forget_bias, "chrono": chrono}
    names = [name for name, value in given.items() if value is not None]
    if len(names) == 2:
        raise ValueError("forget_bias, chrono: both set the forget gate's bias; give one of them")
    if names and cell.forget_block is None:
        raise ValueError(
            f"{names[0]}: a vanilla cell has no gates, got {given[names[0]]!r}; "
            "leave it out, or take cell='lstm' or 'gru'"
        )
    if isinstance(chrono, int | float) and chrono < 2:
        raise ValueError(f"chrono: expected a memory of at least 2 steps, got {chrono}")
    if chrono is not None:
        return _chrono(chrono)
    return None if forget_bias is None else constant(forget_bias)


def _check_sequences(x: Array) -> None:
    if x.ndim != 3:
        raise ValueError(
            f"x: expected sequences [batch, time, feature], got shape {x.shape}; "
            "sequences of numbers need a feature axis: x[..., None]"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x: expected floats, got {x.dtype}; tokens: jax.nn.one_hot(x, number)")


def _side_by_side(kernels: Array) -> Array:
    """Join blocks `[block, fan_in, unit]` to one kernel `[fan_in, block * unit]`."""
    return jnp.concatenate(tuple(kernels), axis=-1)


def _chrono(longest: Scalar) -> Initialiser:
    """Draw log U[1, longest - 1]."""

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        share = jax.random.uniform(key, tuple(shape), dtype)
        return jnp.log1p((jnp.asarray(longest, dtype) - 2.0) * share)

    return initialise


def _set_gates(rows: Array, keys: Array, cell: Cell, forget: Initialiser, *, tied: bool) -> Array:
    """Set the forget gate's row of the biases `[block, unit]`; tied: the input gate's to minus it.

    The row draws from the key of its own block.
    """
    place = cell.blocks.index(cell.forget_block)
    row = forget(keys[place], rows.shape[1:], rows.dtype)
    rows = rows.at[place].set(row)
    if tied and cell.input_block is not None:
        rows = rows.at[cell.blocks.index(cell.input_block)].set(-row)
    return rows
