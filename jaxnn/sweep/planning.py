"""Planning a sweep: tracing its programs, and sizing tiles for the machine."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxnn.sweep.axes import Axis, parse_axes
from jaxnn.sweep.devices import local_mesh
from jaxnn.sweep.grid import Grid
from jaxnn.sweep.outputs import merge_outputs
from jaxnn.sweep.plans import Plan, Program
from jaxnn.sweep.trace import trace
from jaxnn.types import Depth

LAYOUTS = ("exact", "masked")
CPU_LANES = 2  # members a core trains at once: few enough that they stay in its cache
ACCELERATOR_LANES = 256
MAX_ROUNDS = 8  # batches a device works off in one call: a call is what a kill can lose


def plan(
    run: Callable[..., Any],
    *,
    num_seeds: int = 1,
    tile_size: int | None = None,
    layout: str | None = None,
    devices: Sequence[Any] | None = None,
    **axes: Any,
) -> Plan:
    """Plan a sweep: trace one program for each static combination, choose layout and tiles.

    Nothing is compiled. The arguments are those of `sweep`.

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
    layout = _checked_options(num_seeds, tile_size, layout)
    fixed = [a for a in grid.numbered_axes if _is_fixed(a, layout)]
    batched = [a for a in grid.numbered_axes if not _is_fixed(a, layout)]
    combinations = list(itertools.product(*(axis.values for axis in fixed)))
    size = grid.num_members // len(combinations)
    names = [axis.name for axis in fixed]
    chosen = [dict(zip(names, values, strict=True)) for values in combinations]
    traces = [trace(run, batched, _arguments(fixed, values)) for values in combinations]
    mesh = local_mesh(devices, [each.jaxpr for each in traces])
    lanes, tile = _tile(tile_size, size, mesh.devices)
    programs = [
        Program(traced, values, number * size, (number + 1) * size, lanes, tile)
        for number, (traced, values) in enumerate(zip(traces, chosen, strict=True))
    ]
    outputs = merge_outputs([each.outputs for each in traces], grid)
    return Plan(grid, layout, tuple(programs), outputs, mesh)


def _arguments(fixed: Sequence[Axis], values: Sequence[Any]) -> dict[str, Any]:
    """Return what a run gets of the axes that are fixed in its program."""
    depth = {axis.name for axis in fixed if axis.kind == "depth"}
    pairs = zip((axis.name for axis in fixed), values, strict=True)
    return {name: Depth(value) if name in depth else value for name, value in pairs}


def _is_fixed(axis: Axis, layout: str) -> bool:
    return axis.kind == "static" or (axis.kind == "depth" and layout == "exact")


def _tile(tile_size: int | None, members: int, devices: np.ndarray) -> tuple[int, int]:
    """Return the lanes of a device, and the members of a call, filled as evenly as can be."""
    preferred = CPU_LANES if devices.flat[0].platform == "cpu" else ACCELERATOR_LANES
    lanes = min(tile_size or preferred, -(-members // devices.size))
    batches = -(-members // (lanes * devices.size))
    calls = -(-batches // MAX_ROUNDS)
    return lanes, lanes * devices.size * -(-batches // calls)


def _checked_options(num_seeds: int, tile_size: int | None, layout: str | None) -> str:
    """Check a plan's options and return the layout."""
    for name, value in [
        ("num_seeds", num_seeds),
        ("tile_size", 1 if tile_size is None else tile_size),
    ]:
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: expected an int of at least 1, got {value!r}")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    return layout or "exact"
