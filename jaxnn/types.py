"""The contracts of jaxnn, stated once: what a model, a batch, a dataset and a labelled array are.

Everything else in the package is a pure function between these records. The module knows nothing
of the rest of jaxnn; every other folder may import it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
from jax import Array

Variables = dict[str, Any]
"""A plain dictionary of arrays. `variables["params"]` is trained; of its groups a family has some:
`embed` (before the hidden layers, not tapped), `first` (one tapped layer), `hidden` (layers stacked
on a leading axis `[layer, ...]`) and `readout`, with leaves called `kernel` `[..., fan_in, unit]`
and `bias`. `variables["batch_stats"]`, where it is there, moves in training."""

Loss = Callable[[Array, Array], Array]
"""`(outputs [batch, ..., out], targets [batch, ...]) -> [batch]`, the loss of each example."""

Scalar = float | Array
"""A number that may be traced: a hyperparameter that a sweep can batch over."""


class Activation(NamedTuple):
    """An elementwise nonlinearity with the facts of its derivative that probes and theory use."""

    name: str
    function: Callable[[Array], Array]
    slope: Callable[[Array], Array]  # the derivative; at a kink, the value that autodiff uses
    saturated_slope: Scalar = 0.0  # |slope| at or below this: the unit is saturated at this input
    dead_slope: Scalar = 0.0  # |slope| at or below this on every input: the unit passes no gradient
    kinks: tuple[float, ...] = ()  # where the function or a derivative of it jumps
    piecewise_linear: bool = False  # linear between its kinks


class Taps(NamedTuple):
    """What a forward pass shows of the hidden layers."""

    pre: Array  # [layer, batch, unit] before the nonlinearity
    post: Array  # [layer, batch, unit] after it


class Model(NamedTuple):
    """A network as a pair of pure functions, with the facts that probes need.

    `apply` always returns the taps: under jit unused ones cost nothing. They are None for a user's
    network that shows none; then there are no per-layer measurements. `shift` is added to every
    pre-activation, so its gradient is the backward signal dL/dz of each layer. `variables` comes
    back because some layers move their statistics in training.
    """

    init: Callable[..., Variables]  # (key, x [batch, ...]) -> variables
    apply: Callable[..., tuple[Array, Taps | None, Variables]]
    # (variables, x, *, key=None, train=False, shift=None) -> (y [batch, out], taps, variables)
    activation: Activation | None = None  # of the hidden layers; None: no saturation, no dead units
    active: Array | None = (
        None  # [layer] bool, False past a masked member's depth; None: all active
    )


class Batch(NamedTuple):
    """Examples with their targets and weights; a weight of 0 takes an example out."""

    x: Array  # [batch, ...]
    y: Array  # [batch] or [batch, time] integer class, or [batch, (time,) out] real target
    weight: Array | None = None  # [batch]; None: all 1


class Dataset(NamedTuple):
    """A task as arrays. Its training examples are in random order, so a prefix is a fair sample."""

    train: Batch
    validation: Batch
    test: Batch
    num_train: int | Array | None = (
        None  # examples in use, a prefix of train; may be traced; None: all
    )


class Training(NamedTuple):
    """A training in chunks of steps: pure functions of its state, a pytree of arrays.

    A run that returns one lets a sweep drive it: a member that is finished leaves its place to one
    that waits.
    """

    init: Callable[[], Any]  # () -> state before the first step
    advance: Callable[[Any], Any]  # state -> state after the steps to the next record
    records: Callable[[Any], dict[str, Any]]  # state -> what it shows, one array a measurement
    outcome: Callable[[Any], dict[str, Any]]  # last state -> what is told once of the whole run
    finished: Callable[[Any], Array]  # state -> [] bool, True: every later record equals this one
    steps: tuple[int, ...]  # the steps at which records stand; the first is 0


class Depth(NamedTuple):
    """A number of hidden layers: how many are built, and how many of these a member has.

    A model that takes one builds `maximum` layers and leaves out those past `active`. Where
    `deepest` is given, no member of the batch has layers past it, so a loop may end there.
    """

    maximum: int  # static
    active: Array | None = None  # [] int, may be traced; None: all of them
    deepest: Array | None = None  # [] int, may be traced, at least 1; None: loops go to the maximum

    @property
    def num_layers(self) -> int | Array:
        """The hidden layers that this member has, as a number to compute with."""
        return self.maximum if self.active is None else self.active


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Labelled:
    """An array with its labels, which are static: they pass through jit and vmap untouched."""

    values: Array
    dims: tuple[str, ...] = field(default=(), metadata={"static": True})
    unit: str = field(default="1", metadata={"static": True})
    long_name: str = field(default="", metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Coordinate:
    """The values along a dimension, known when the program is traced; no array in it."""

    values: tuple[int | float, ...] = field(default=(), metadata={"static": True})
    unit: str = field(default="1", metadata={"static": True})
    long_name: str = field(default="", metadata={"static": True})


def whole_run(
    records: dict[str, Any], outcome: dict[str, Any], steps: tuple[int, ...]
) -> dict[str, Labelled | Coordinate]:
    """Return the outputs of a training's whole run.

    Args:
        records: of all steps; each `Labelled` holds `[step, ...]` but its dims leave `step` out.
        outcome: what is told once.
        steps: of the records.
    """
    named = {
        name: replace(each, dims=("step", *each.dims)) if isinstance(each, Labelled) else each
        for name, each in records.items()
    }
    return {**named, **outcome, "step": Coordinate(steps, "step", "training step")}
