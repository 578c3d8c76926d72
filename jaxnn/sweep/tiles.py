"""Compiling a program for a tile of members, and running tiles of it on every device."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import eval_jaxpr
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn.sweep.devices import MEMBER
from jaxnn.sweep.jaxprs import array_digest
from jaxnn.sweep.plans import Plan, Program
from jaxnn.sweep.trace import Trace

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec(MEMBER)
CPU_OPTIONS = {"xla_backend_optimization_level": 2}  # compiles twice as fast as 3, runs as fast


def tile_function(traced: Trace, mesh: jax.sharding.Mesh, lanes: int) -> Any:
    """Return the jitted function of a tile: `(constants, root, points [member]) -> outputs`.

    Each device works off its share of the members, `lanes` at a time; no device waits for another.
    """

    def device(constants: Sequence[Array], root: Array, points: dict[str, Array]) -> list[Array]:
        def member(point: dict[str, Array]) -> list[Array]:
            return eval_jaxpr(traced.jaxpr, constants, *jax.tree.leaves((root, point)))

        return jax.lax.map(member, points, batch_size=lanes)

    specs = (EVERYWHERE, EVERYWHERE, SPLIT)
    sharded = jax.shard_map(device, mesh=mesh, in_specs=specs, out_specs=SPLIT, check_vma=False)
    return jax.jit(sharded)


def start_compiling(
    plan: Plan, programs: Sequence[Program], pool: ThreadPoolExecutor
) -> dict[Future[Any], Program]:
    """Lower the programs and compile them in the pool's threads, side by side."""
    on_cpu = plan.mesh.devices.flat[0].platform == "cpu"
    options = CPU_OPTIONS if on_cpu else None
    futures = {}
    for program in programs:
        numbers = np.full(program.tile, program.start)
        shapes = [jax.ShapeDtypeStruct(c.shape, c.dtype) for c in program.trace.constants]
        arguments = (tuple(shapes), jax.random.key(0), plan.points(program, numbers))
        lowered = tile_function(program.trace, plan.mesh, program.lanes).lower(*arguments)
        futures[pool.submit(lowered.compile, options)] = program
    return futures


class Constants:
    """The arrays that runs close over, such as data, put on every device once."""

    def __init__(self, mesh: jax.sharding.Mesh):
        self._everywhere = NamedSharding(mesh, EVERYWHERE)
        self._placed: dict[str, Array] = {}

    def place(self, constants: Sequence[Array]) -> tuple[Array, ...]:
        """Return the constants on every device; equal arrays share one copy."""
        return tuple(self._place(constant) for constant in constants)

    def _place(self, constant: Array) -> Array:
        digest = array_digest(constant)
        if digest not in self._placed:
            self._placed[digest] = jax.device_put(constant, self._everywhere)
        return self._placed[digest]
