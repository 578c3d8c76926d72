"""A plan: which programs, which members in each, in tiles of what size; and its words."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.sweep.devices import hangs_on_several
from jaxnn.sweep.grid import Grid
from jaxnn.sweep.jaxprs import matrix_flops
from jaxnn.sweep.outputs import Outputs
from jaxnn.sweep.trace import Trace, dtype_of


class Program(NamedTuple):
    """One compiled program and the members it serves: those numbered start to stop."""

    trace: Trace
    fixed: Mapping[str, Any]  # values of the axes that are not batched in it
    start: int
    stop: int
    lanes: int  # members that a device trains at once
    tile: int  # members in one call, over all devices: lanes x rounds x devices


@dataclass(frozen=True)
class Plan:
    """How a sweep will run. `explain()` says it in words; nothing has been compiled yet."""

    grid: Grid
    layout: str
    programs: tuple[Program, ...]
    outputs: Outputs
    mesh: jax.sharding.Mesh

    def points(self, program: Program, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return what a program takes of its members: `{batched axis or "seed": [member]}`."""
        values = self.grid.values(numbers)
        batched = [axis for axis in self.grid.axes if axis.name not in program.fixed]
        points = {axis.name: values[axis.name].astype(dtype_of(axis)) for axis in batched}
        return {**points, "seed": values["seed"].astype(np.int32)}

    def explain(self) -> str:
        """Return the plan in words: programs, members, tiles, padded work, flops, bytes.

        Flops are those of the matrix products; padding is what the lanes that repeat a member to
        fill a tile, and the masked layers, add to the members' own work.
        """
        return "\n".join(_words(self))


def _words(plan: Plan) -> list[str]:
    devices = plan.mesh.devices
    kind = devices.flat[0].device_kind
    lines = [
        f"{plan.grid.num_members} members in {len(plan.programs)} programs, depth layout "
        f"{plan.layout!r}, on {devices.size} device{'s' * (devices.size > 1)} ({kind})"
    ]
    useful = spent = 0.0
    tiles = 0
    for program in plan.programs:
        count = program.stop - program.start
        calls = -(-count // program.tile)
        flops = matrix_flops(program.trace.jaxpr)
        tiles, spent = tiles + calls, spent + flops * calls * program.tile
        useful += flops * count * _active_share(plan, program)
        words = ", ".join(f"{name}={value}" for name, value in program.fixed.items())
        lines.append(
            f"  {words or 'all members'}: {count} members, {calls} tiles of {program.tile} "
            f"({program.lanes} at once on a device), up to {flops / 1e9:.3g} GFLOP a member"
        )
    variables = plan.outputs.variables
    size = sum(math.prod(each.shape) * each.dtype.itemsize for each in variables.values())
    padding = (spent - useful) / max(spent, 1.0)
    lines.append(
        f"{tiles} tiles, up to {spent / 1e9:.4g} GFLOP, {padding:.0%} of it padding; "
        f"{size * plan.grid.num_members / 1e6:.3g} MB of results"
    )
    if devices.size == 1 and devices.flat[0].platform == "cpu":
        lines += _why_one_device(plan)
    return lines


def _why_one_device(plan: Plan) -> list[str]:
    if jax.local_device_count() == 1 and (os.cpu_count() or 1) > 1:
        return ["one CPU device: import jaxnn before JAX starts, and every core is one"]
    if any(hangs_on_several(program.trace.jaxpr) for program in plan.programs):
        return ["one device: the run calls LAPACK, which can hang on several before jax 0.12"]
    return []


def _active_share(plan: Plan, program: Program) -> float:
    """Return the mean share of a masked program's layers that its members have."""
    depths = [a.values for a in plan.grid.axes if a.kind == "depth" and a.name not in program.fixed]
    return math.prod(float(np.mean(values)) / max(values) for values in depths)
