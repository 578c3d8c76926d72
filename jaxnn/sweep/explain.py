"""A plan in words, with its work counted from the traced programs."""

import math
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxnn.sweep.jaxprs import calls_lapack, matrix_flops

if TYPE_CHECKING:
    from jaxnn.sweep.planning import Plan, Program


def explain(plan: "Plan") -> str:
    """Describe a plan: programs, members, tiles, padded work, flops and bytes of results.

    Flops are those of the matrix products; padding is what the lanes that repeat a member to fill
    a tile, and the masked layers, add to the members' own work.
    """
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
            f"({program.lanes} at once on a device), {flops / 1e9:.3g} GFLOP a member"
        )
    variables = plan.outputs.variables
    size = sum(math.prod(each.shape) * each.dtype.itemsize for each in variables.values())
    lines.append(
        f"{tiles} tiles, {spent / 1e9:.4g} GFLOP, {(spent - useful) / max(spent, 1.0):.0%} of it "
        f"padding; {size * plan.grid.num_members / 1e6:.3g} MB of results"
    )
    if devices.size == 1 and devices.flat[0].platform == "cpu":
        lines += _why_one_device(plan)
    return "\n".join(lines)


def _why_one_device(plan: "Plan") -> list[str]:
    if jax.local_device_count() == 1:
        return ["one CPU device: import jaxnn before JAX starts, and every core is one"]
    if any(calls_lapack(program.trace.jaxpr) for program in plan.programs):
        return ["one device: the run calls LAPACK, which can hang on several before jax 0.12"]
    return []


def _active_share(plan: "Plan", program: "Program") -> float:
    """Return the mean share of a masked program's layers that its members have."""
    depths = [a.values for a in plan.grid.axes if a.kind == "depth" and a.name not in program.fixed]
    return math.prod(float(np.mean(values)) / max(values) for values in depths)
