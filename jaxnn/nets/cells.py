"""Recurrent cells: one step of time as a pure function of the carried state.

A cell's kernels are made of blocks of `unit` columns, one for each gate, in the order of `blocks`.
With W the input kernel, U the recurrent one, b the bias, and p_k = (x_t W + b + h_{t-1} U)_k what
block k receives, s the sigmoid:

    vanilla   z_t = p,                                   h_t = phi(z_t)
    LSTM      c_t = s(p_forget) c_{t-1} + s(p_input) tanh(p_candidate),  h_t = s(p_output) tanh(c_t)
    GRU       n_t = tanh((x_t W + b)_candidate + s(p_reset) ((h_{t-1} U)_candidate + b'))
              h_t = s(p_update) h_{t-1} + (1 - s(p_update)) n_t

These are the cells of flax.linen (SimpleCell, OptimizedLSTMCell, GRUCell), so weights carry over.
They are written out here because linen's show neither c_t before h_t is made of it nor a place
to add a shift. The taps of a step are `pre, post` = z_t, h_t (vanilla), c_t, h_t (LSTM) and h_t,
h_t (GRU); the shift is added to `pre` where it is made, so its gradient is the whole signal that
reaches dL/dz_t, dL/dc_t or dL/dh_t.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.activations import ACTIVATIONS
from jaxnn.types import Activation, Taps

CellStep = Callable[[dict[str, Array], Taps, Array, Array | None], Taps]
"""`(recurrent params, taps of the last step, x_t W + b [batch, block * unit], shift) -> taps`"""


class Cell(NamedTuple):
    """A recurrent cell: the blocks of its kernels, and one step of time."""

    blocks: tuple[str, ...]  # of unit columns each
    step: CellStep
    activation: Activation | None = None  # of the vanilla cell
    forget_block: str | None = None  # s of it multiplies the memory
    input_block: str | None = None  # s of it multiplies what is written, where it has its own gate
    recurrent_bias: bool = False  # b' [unit], inside the reset gate's product


def vanilla(phi: Activation) -> Cell:
    """Return the cell h_t = phi(x_t W + b + h_{t-1} U) (Elman 1990, Cognitive Science 14:179)."""

    def step(recurrent: dict[str, Array], last: Taps, drive: Array, shift: Array | None) -> Taps:
        pre = _shifted(drive + last.post @ recurrent["kernel"], shift)
        return Taps(pre, phi.function(pre))

    return Cell((phi.name,), step, phi)


def _lstm_step(recurrent: dict[str, Array], last: Taps, drive: Array, shift: Array | None) -> Taps:
    received = jnp.split(drive + last.post @ recurrent["kernel"], 4, axis=-1)
    admit, keep, show = (jax.nn.sigmoid(received[block]) for block in (0, 1, 3))
    memory = _shifted(keep * last.pre + admit * jnp.tanh(received[2]), shift)
    return Taps(memory, show * jnp.tanh(memory))


def _gru_step(recurrent: dict[str, Array], last: Taps, drive: Array, shift: Array | None) -> Taps:
    reset_in, keep_in, candidate_in = jnp.split(drive, 3, axis=-1)
    reset_back, keep_back, candidate_back = jnp.split(last.post @ recurrent["kernel"], 3, axis=-1)
    reset = jax.nn.sigmoid(reset_in + reset_back)
    keep = jax.nn.sigmoid(keep_in + keep_back)
    candidate = jnp.tanh(candidate_in + reset * (candidate_back + recurrent["bias"][None]))
    hidden = _shifted(keep * last.post + (1.0 - keep) * candidate, shift)
    return Taps(hidden, hidden)


GATED = {
    # Gers, Schmidhuber & Cummins 2000, Neural Computation 12:2451
    "lstm": Cell(
        ("input", "forget", "candidate", "output"),
        _lstm_step,
        forget_block="forget",
        input_block="input",
    ),
    # Cho et al. 2014, 1406.1078; here the reset gate multiplies after the product, as in cuDNN
    "gru": Cell(
        ("reset", "update", "candidate"), _gru_step, forget_block="update", recurrent_bias=True
    ),
}


def recurrent_cell(name: str | Activation) -> Cell:
    """Return the cell of a name: 'lstm', 'gru', or an activation for the vanilla cell.

    Raises:
        ValueError: the name is unknown.
        TypeError: neither a name nor an `Activation` came.
    """
    if isinstance(name, Activation):
        return vanilla(name)
    if not isinstance(name, str):
        raise TypeError(
            f"cell: expected 'lstm', 'gru', an activation's name or an Activation, got {name!r}"
        )
    if name in GATED:
        return GATED[name]
    if name not in ACTIVATIONS:
        known = ", ".join((*GATED, *ACTIVATIONS))
        raise ValueError(f"cell: unknown name {name!r}; known: {known}")
    return vanilla(ACTIVATIONS[name])


def _shifted(pre: Array, shift: Array | None) -> Array:
    return pre if shift is None else pre + shift
