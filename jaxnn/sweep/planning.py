"""Planning a sweep: choosing the layout of depths, tracing its programs, sizing its tiles."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxnn.sweep.axes import Axis, parse_axes
from jaxnn.sweep.devices import chosen_devices, compilers, mesh_for
from jaxnn.sweep.grid import Grid
from jaxnn.sweep.halving import Halving, with_stops
from jaxnn.sweep.jaxprs import matrix_flops, num_equations, work
from jaxnn.sweep.layouts import LAYOUTS, Choice, Cost, choose
from jaxnn.sweep.machine import costs
from jaxnn.sweep.outputs import merge_outputs
from jaxnn.sweep.plans import Plan, Program
from jaxnn.sweep.tiles import choose_tile
from jaxnn.sweep.trace import Trace, trace
from jaxnn.types import Depth


def plan(
    run: Callable[..., Any],
    *,
    num_seeds: int = 1,
    tile_size: int | None = None,
    layout: str | None = None,
    devices: Sequence[Any] | None = None,
    stop: Halving | None = None,
    **axes: Any,
) -> Plan:
    """Plan a sweep: choose the layout of depths, trace the programs, size the tiles.

    Nothing of the sweep is compiled; but once for each kind of machine a small training is timed,
    by which layouts are chosen. The arguments are those of `sweep`.

    Returns:
        The plan; `explain()` says it in words.

    Raises:
        TypeError, ValueError: an axis or an option does not fit, or the run's outputs do not.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> def run(key, *, width, scale):
        ...     return {"largest": scale * jax.random.normal(key, (width,)).max()}
        >>> found = plan(run, width=[4, 8], scale=jnp.ones(1), num_seeds=3)
        >>> len(found.programs), found.grid.num_members
        (2, 6)
    """
    grid = Grid(parse_axes(run, axes), num_seeds)
    _check_options(num_seeds, tile_size, layout)
    traces = Traces(run, grid)
    chosen = _choose(traces, layout, chosen_devices(devices))
    groups = _groups(grid, chosen.stretches)
    traced = [traces.of(group, ragged=chosen.layout == "ragged") for group in groups]
    mesh = mesh_for(devices, [part.jaxpr for each in traced for part in each.parts])
    programs = [
        _program(traces, group, each, tile_size, mesh, all_at_once=stop is not None)
        for group, each in zip(groups, traced, strict=True)
    ]
    outputs = merge_outputs([each.outputs for each in traced], grid)
    if stop is not None:
        outputs = with_stops(outputs, stop)
    return Plan(
        grid,
        chosen.layout,
        chosen.reason,
        tuple(programs),
        outputs,
        mesh,
        _computation(traces),
        stop=stop,
        tunes=tile_size is None,
    )


class Group(NamedTuple):
    """Members that share a program."""

    static: Mapping[str, Any]  # the value of each static axis
    depths: Mapping[str, tuple[int, ...]]  # of each depth axis; a single one is laid out exactly


class Traces:
    """The traces of a run, each made once."""

    def __init__(self, run: Callable[..., Any], grid: Grid):
        self.grid = grid
        self._run = run
        self._made: dict[str, Trace] = {}

    def of(self, group: Group, *, ragged: bool = False) -> Trace:
        """Return the trace of a group's members."""
        shared = {name: depths for name, depths in group.depths.items() if len(depths) > 1}
        alone = {
            name: Depth(depths[0]) for name, depths in group.depths.items() if name not in shared
        }
        label = str((group, ragged and bool(shared)))
        if label not in self._made:
            batched = [Axis(name, "depth", depths) for name, depths in shared.items()]
            batched += [axis for axis in self.grid.axes if axis.kind == "traced"]
            fixed = {**group.static, **alone}
            self._made[label] = trace(self._run, batched, fixed, ragged=ragged)
        return self._made[label]

    def by_depth(self, group: Group, cost: Callable[[Any], float]) -> Callable[[Any], Any]:
        """Return a cost of members as a linear function of depth, from two exact traces."""
        ends = []
        for end in (min, max):
            traced = self.of(group._replace(depths={n: (end(d),) for n, d in group.depths.items()}))
            ends.append((sum(end(d) for d in group.depths.values()), traced.total(cost)))
        (shallow, least), (deep, most) = ends
        layer = (most - least) / max(deep - shallow, 1)
        return lambda depth: least + layer * (depth - shallow)


def _computation(traces: Traces) -> tuple[str, ...]:
    """Return digests of what a sweep computes: of its shallowest networks, laid out exactly.

    Layout, tiles and devices may differ between sweeps that are the same, since no member's numbers
    depend on them.
    """
    axes = [axis for axis in traces.grid.axes if axis.kind == "depth"]
    depths = {axis.name: (min(axis.values),) for axis in axes}
    groups = [Group(static, depths) for static in _static_values(traces.grid)]
    return tuple(traces.of(group).digest() for group in groups)


def _choose(traces: Traces, layout: str | None, devices: Sequence[Any]) -> Choice:
    """Return the layout: as asked, or the one that costs least."""
    axes = [axis for axis in traces.grid.axes if axis.kind == "depth"]
    exact = Choice("exact", {axis.name: [[depth] for depth in axis.values] for axis in axes}, "")
    if layout == "exact" or all(len(axis.values) == 1 for axis in axes):
        return exact
    if len(axes) > 1:
        together = {axis.name: [list(axis.values)] for axis in axes}
        return exact if layout is None else Choice(layout, together, "")
    (axis,) = axes
    (static, *others) = _static_values(traces.grid)
    shared = "ragged" if devices[0].platform == "cpu" else "masked"
    if layout is None:
        sharing = Group(static, {axis.name: tuple(axis.values)})
        if not _can_share(traces, sharing, axis, ragged=shared == "ragged"):
            told = "the run does not take depths that share a program (Depth.active)"
            return exact._replace(reason=told)
    programs = 1 + len(others)
    members = traces.grid.num_members // len(axis.values)
    cost = _cost(traces, static, axis, programs, devices)
    return choose([layout] if layout else ["exact", shared], axis, members, cost)


def _can_share(traces: Traces, group: Group, axis: Axis, *, ragged: bool) -> bool:
    """Return whether a run is written for depths that share a program."""
    try:
        return traces.of(group, ragged=ragged).uses(axis.name)
    except Exception:  # an error of the run itself is raised when its exact programs are traced
        return False


def _cost(
    traces: Traces, static: Mapping[str, Any], axis: Axis, programs: int, devices: Sequence[Any]
) -> Cost:
    """Estimate what a member and a program cost, from the shallowest and the deepest network."""
    group = Group(static, {axis.name: tuple(axis.values)})
    machine = costs(devices[0])
    seconds = traces.by_depth(group, lambda jaxpr: work(jaxpr) * machine.seconds_per_work)
    layer = (seconds(1) - seconds(0)) / len(devices)
    deep = traces.of(Group(static, {axis.name: (max(axis.values),)}))
    compiling = machine.compile_seconds(sum(num_equations(part.jaxpr) for part in deep.parts))
    return Cost(
        constant=seconds(0) / len(devices),
        layer=layer,
        program=programs * compiling,
        at_once=compilers(),
    )


def _static_values(grid: Grid) -> list[dict[str, Any]]:
    static = [axis for axis in grid.numbered_axes if axis.kind == "static"]
    names = [axis.name for axis in static]
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(axis.values for axis in static))
    ]


def _groups(grid: Grid, stretches: Mapping[str, Sequence[Sequence[int]]]) -> list[Group]:
    """Return a group for each combination of static values and stretches of depths."""
    return [
        Group(static, {n: tuple(s) for n, s in zip(stretches, chosen, strict=True)})
        for static in _static_values(grid)
        for chosen in itertools.product(*stretches.values())
    ]


def _program(
    traces: Traces,
    group: Group,
    traced: Trace,
    tile_size: int | None,
    mesh: Mesh,
    *,
    all_at_once: bool,
) -> Program:
    """Return the program of a group; its deepest members enter first."""
    grid = traces.grid
    numbers = grid.numbers({**{n: (v,) for n, v in group.static.items()}, **group.depths})
    alone = {name: depths[0] for name, depths in group.depths.items() if len(depths) == 1}
    numbers = numbers[np.argsort(-grid.depth(numbers), kind="stable")]
    tile = choose_tile(traced, len(numbers), mesh.devices, tile_size, all_at_once=all_at_once)
    flops = traces.by_depth(group, matrix_flops)(grid.depth(numbers))
    return Program(traced, {**group.static, **alone}, numbers, tile, flops)


def _check_options(num_seeds: int, tile_size: int | None, layout: str | None) -> None:
    for name, value in [
        ("num_seeds", num_seeds),
        ("tile_size", 1 if tile_size is None else tile_size),
    ]:
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: expected an int of at least 1, got {value!r}")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
