"""Gradient flow: descent in continuous time, the limit of discrete training at small rates."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.probes import Probe, flow, measure
from jaxnn.training.descent import evaluated
from jaxnn.types import Batch, Coordinate, Labelled, Loss, Model, Variables

UNIT = "learning rate x step"
RESERVED = ("time", "layer", "failed_at")  # names of what is returned beside the records


def gradient_flow(
    model: Model,
    loss: Loss,
    batch: Batch,
    times: Sequence[float],
    *,
    probes: Sequence[Probe],
    key: Array | None = None,
    variables: Variables | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 100_000,
) -> dict[str, Labelled | Coordinate]:
    """Follow d params / dt = - d loss / d params, and measure probes at given times.

    Plain full-batch descent with rate eta is its Euler method: after n steps it stands near time
    n eta. The solver is explicit with error control (Tsitouras' fifth order), so its work grows
    with the largest curvature times the last time. Network and loss are those of evaluation. Pure:
    it can be jitted, vmapped and swept; differences to discrete training below 1e-6 need float64.

    Args:
        model: the network.
        loss: per-example loss; the flow descends its mean over the batch.
        batch: all examples.
        times: at which to measure, ascending, in units of learning rate times step; the flow
            starts at 0.
        probes: measured on the batch; not those that read an optimiser's updates.
        key: of the initialisation.
        variables: to start from, in place of a key.
        rtol: error that one solver step may make, relative to a parameter.
        atol: the same, absolute.
        max_steps: solver steps, accepted or not, after which it gives up.

    Returns:
        One `Labelled` for each probe, with leading dim `time`; the coordinates `time` and `layer`;
        and `failed_at`, the first of the times that the solver did not reach (NaN for none: from
        there on measurements are NaN).

    Raises:
        TypeError, ValueError: an argument does not fit; nothing has been compiled then.

    Source:
        Solver: Kidger 2021, 2202.02435, by diffrax.
    """
    found = tuple(float(each) for each in times)
    _check(found, probes, key, variables, max_steps)
    batch = jax.tree.map(jnp.asarray, batch)
    start = model.init(key, batch.x[:1]) if variables is None else variables
    path = _solution(model, loss, batch, found, start, rtol, atol, max_steps)
    reached = jnp.stack([_finite(leaf) for leaf in jax.tree.leaves(path)]).all(axis=0)

    def measured(params: Any) -> dict[str, Labelled | Coordinate]:
        return measure(probes, flow(model, loss, {**start, "params": params}, batch))

    return _labelled(jax.lax.map(measured, path), reached, found)


def _solution(
    model: Model,
    loss: Loss,
    batch: Batch,
    times: tuple[float, ...],
    start: Variables,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Any:
    """Return the parameters at all times, leaves `[time, ...]`, inf where not reached."""
    import diffrax  # here, so that importing jaxnn stays light

    def downhill(time: Any, params: Any, args: Any) -> Any:
        del time, args
        gradient = jax.grad(
            lambda params: evaluated(model, loss, {**start, "params": params}, batch)
        )
        return jax.tree.map(jnp.negative, gradient(params))

    dtype = jax.tree.leaves(start["params"])[0].dtype
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(downhill),  # pyright: ignore[reportArgumentType]
        diffrax.Tsit5(),
        t0=0.0,
        t1=times[-1],
        dt0=None,
        y0=start["params"],
        saveat=diffrax.SaveAt(ts=jnp.asarray(times, dtype)),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    return solution.ys


def _labelled(
    records: dict[str, Any], reached: Array, times: tuple[float, ...]
) -> dict[str, Labelled | Coordinate]:
    """Give records `[time, ...]` their labels, and NaN where the solver did not come."""

    def label(record: Any) -> Any:
        if not isinstance(record, Labelled):
            return record
        values = record.values
        if jnp.issubdtype(values.dtype, jnp.floating):
            there = reached.reshape(-1, *[1] * (values.ndim - 1))
            values = jnp.where(there, values, jnp.nan)
        return replace(record, values=values, dims=("time", *record.dims))

    when = jnp.asarray(times, jnp.result_type(float))
    failed_at = jnp.where(jnp.all(reached), jnp.nan, when[jnp.argmin(reached)])
    return {
        **{name: label(record) for name, record in records.items()},
        "failed_at": Labelled(failed_at, (), UNIT, "first time that the solver did not reach"),
        "time": Coordinate(times, UNIT, "time of gradient flow"),
    }


def _finite(leaf: Array) -> Array:
    """Return `[time]` bool, whether all of a leaf is finite."""
    return jnp.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)


def _check(
    times: tuple[float, ...],
    probes: Sequence[Probe],
    key: Array | None,
    variables: Variables | None,
    max_steps: int,
) -> None:
    if not times or times[0] < 0 or times[-1] <= 0 or np.any(np.diff(times) <= 0):
        raise ValueError(f"times: expected ascending times from 0 on, got {times}")
    if (key is None) == (variables is None):
        raise ValueError("key, variables: expected one of them, a key to initialise or a start")
    if not probes:
        raise ValueError("probes: expected at least one, got none: the flow would return nothing")
    names = [each.name for each in probes]
    if len({*names, *RESERVED}) < len(names) + len(RESERVED):
        raise ValueError(
            f"probes: expected distinct names, other than {', '.join(RESERVED)}, got {names}"
        )
    if max_steps < 1:
        raise ValueError(f"max_steps: expected at least 1, got {max_steps}")
