"""Compiling programs: side by side in threads, and once for programs that are equal."""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from jaxnn.sweep.devices import compile_options
from jaxnn.sweep.jaxprs import array_digest, program_digest
from jaxnn.sweep.plans import Plan, Program
from jaxnn.sweep.rounds import EVERYWHERE, Schedule, num_rounds, rounds_function

MOST_KEPT = 64  # compiled programs that a process keeps for its next sweep

_kept: "dict[str, Compiled]" = {}


class Compiled(NamedTuple):
    """An executable of `rounds_function`."""

    call: Any
    seconds: float  # that compiling took


def start_compiling(plan: Plan, program: Program, pool: ThreadPoolExecutor) -> "Future[Compiled]":
    """Compile a program in one of the pool's threads, unless this process has an equal one."""
    name = program_name(program, plan.mesh)
    if name in _kept:
        known: Future[Compiled] = Future()
        known.set_result(_kept[name])
        return known
    lowered = lower(plan, program)
    options = compile_options(plan.mesh.devices.flat[0])

    def compiled() -> Compiled:
        begin = time.perf_counter()
        call = lowered.compile(options)
        if len(_kept) >= MOST_KEPT:
            _kept.pop(next(iter(_kept)), None)
        _kept[name] = Compiled(call, time.perf_counter() - begin)
        return _kept[name]

    return pool.submit(compiled)


def lower(plan: Plan, program: Program) -> Any:
    """Lower a program for the plan's devices."""
    return rounds_function(program.trace, plan.mesh).lower(*_shapes(program, plan.mesh))


def program_name(program: Program, mesh: Mesh) -> str:
    """Return a digest of all that decides what a program compiles to."""
    parts = program.trace.parts
    constants = [[(c.shape, str(c.dtype)) for c in part.constants] for part in parts]
    where = [(device.platform, device.id) for device in mesh.devices.flat]
    texts = [program_digest(part.jaxpr) for part in parts]
    return hashlib.sha256(str((texts, constants, where, program.tile)).encode()).hexdigest()


def _shapes(program: Program, mesh: Mesh) -> tuple[Any, ...]:
    """Return shapes of the arguments of a program's rounds function."""
    shape, devices = jax.ShapeDtypeStruct, mesh.devices.size
    everywhere = devices * program.tile.slots
    points = {name: shape((everywhere,), dtype) for name, dtype in program.trace.point.items()}
    state = [shape((everywhere, *leaf.shape), leaf.dtype) for leaf in program.trace.state]
    constants = tuple(
        tuple(shape(constant.shape, constant.dtype) for constant in part.constants)
        for part in program.trace.parts
    )
    rounds = num_rounds(program)
    schedule = Schedule(
        shape((devices, rounds, program.tile.lanes), np.int32),
        shape((devices, rounds), bool),
        shape((devices,), np.int32),
    )
    return constants, jax.random.key(0), points, state, schedule


class Constants:
    """The arrays that runs close over, such as data, put on every device once."""

    def __init__(self, mesh: Mesh):
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
