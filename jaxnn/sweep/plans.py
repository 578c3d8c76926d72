"""A plan: which programs, which members in each, how many at once; and its words."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.sweep.devices import hangs_on_several
from jaxnn.sweep.grid import Grid
from jaxnn.sweep.halving import Halving
from jaxnn.sweep.outputs import Outputs
from jaxnn.sweep.trace import Trace


class Tile(NamedTuple):
    """How many members a device holds in one call, and how many of these train side by side."""

    slots: int
    lanes: int


class Program(NamedTuple):
    """One compiled program and the members it serves."""

    trace: Trace
    fixed: Mapping[str, Any]  # values of the axes that are not batched in it
    numbers: np.ndarray  # [member] in the order in which they enter
    tile: Tile
    flops: np.ndarray  # [member] of the matrix products of its own layers


@dataclass(frozen=True)
class Plan:
    """How a sweep will run. `explain()` says it in words; nothing has been compiled yet."""

    grid: Grid
    layout: str
    reason: str  # why this layout
    programs: tuple[Program, ...]
    outputs: Outputs
    mesh: jax.sharding.Mesh
    computation: tuple[str, ...]  # digests of what is computed, whatever the layout
    stop: Halving | None = None
    tunes: bool = True  # whether lanes may be tried out and changed while it runs

    def points(self, program: Program, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return what a program takes of its members: `{batched axis or "seed": [member]}`."""
        values = self.grid.values(numbers)
        return {name: values[name].astype(dtype) for name, dtype in program.trace.point.items()}

    @property
    def chunk(self) -> int:
        """Members in a file of a store: those of a tile."""
        program = self.programs[0]
        return min(program.tile.slots * self.mesh.devices.size, len(program.numbers))

    def explain(self) -> str:
        """Return the plan in words: programs, members, tiles, padded work, flops, bytes.

        Flops are those of the matrix products. Padding is what members spend on layers that they
        do not have, and lanes that repeat a member to fill a tile.
        """
        return "\n".join(_words(self))


def _words(plan: Plan) -> list[str]:
    devices = plan.mesh.devices
    kind = devices.flat[0].device_kind
    lines = [
        f"{plan.grid.num_members} members in {len(plan.programs)} programs, depth layout "
        f"{plan.layout!r}, on {devices.size} device{'s' * (devices.size > 1)} ({kind})"
    ]
    lines += [f"layout {plan.layout!r}: {plan.reason}"] if plan.reason else []
    useful = spent = 0.0
    calls = 0
    for program in plan.programs:
        members, tile = len(program.numbers), program.tile
        calls += math.ceil(members / (tile.slots * devices.size))
        useful, spent = useful + program.flops.sum(), spent + _spent(plan.layout, program)
        words = ", ".join(f"{name}={value}" for name, value in _told(plan, program).items())
        flops = f"{program.flops.max() / 1e9:.3g} GFLOP"
        lines.append(
            f"  {words or 'all members'}: {members} members, {tile.slots * devices.size} in a "
            f"tile, {tile.lanes} at once on a device, up to {flops} a member"
        )
    variables = plan.outputs.variables
    size = sum(math.prod(each.shape) * each.dtype.itemsize for each in variables.values())
    padding = (spent - useful) / max(spent, 1.0)
    lines.append(
        f"{calls} tiles, up to {spent / 1e9:.4g} GFLOP, {padding:.0%} of it padding; "
        f"{size * plan.grid.num_members / 1e6:.3g} MB of results"
    )
    if devices.size == 1 and devices.flat[0].platform == "cpu":
        lines += _why_one_device(plan)
    return lines


def _spent(layout: str, program: Program) -> float:
    """Return the flops of a program with its padding: lanes that train side by side cost alike."""
    short = -len(program.flops) % program.tile.lanes
    rounds = np.pad(program.flops, (0, short), mode="edge").reshape(-1, program.tile.lanes)
    dearest = rounds.max(axis=1) if layout != "masked" else program.flops.max()
    return float(np.broadcast_to(dearest, len(rounds)).sum() * program.tile.lanes)


def _told(plan: Plan, program: Program) -> dict[str, Any]:
    """Return what tells a program's members from the others': fixed values, ranges of depths."""
    values = plan.grid.values(program.numbers)
    ranges = {
        axis.name: f"{values[axis.name].min()}..{values[axis.name].max()}"
        for axis in plan.grid.axes
        if axis.kind == "depth" and axis.name not in program.fixed
    }
    return {**program.fixed, **ranges}


def _why_one_device(plan: Plan) -> list[str]:
    if jax.local_device_count() == 1 and (os.cpu_count() or 1) > 1:
        return ["one CPU device: import jaxnn before JAX starts, and every core is one"]
    if any(hangs_on_several(p.jaxpr) for each in plan.programs for p in each.trace.parts):
        return ["one device: the run calls LAPACK, which can hang on several before jax 0.12"]
    return []
