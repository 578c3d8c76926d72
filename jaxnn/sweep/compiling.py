"""Compiling programs: side by side in threads, and once for programs that are equal."""

import hashlib
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from jaxnn.sweep.devices import compile_options, compilers
from jaxnn.sweep.jaxprs import array_digest
from jaxnn.sweep.plans import Plan, Program
from jaxnn.sweep.rounds import EVERYWHERE, Schedule, num_rounds, rounds_function

MOST_KEPT = 64  # compiled programs that a process keeps for its next sweep

_kept: "dict[str, Future[Compiled]]" = {}


class Compiled(NamedTuple):
    """An executable of `rounds_function`."""

    call: Any
    seconds: float  # that compiling took


def start_compiling(plan: Plan, program: Program, pool: ThreadPoolExecutor) -> "Future[Compiled]":
    """Compile a program in one of the pool's threads, unless this process has an equal one."""
    name = program_name(program, plan.mesh)
    known = _kept.get(name)
    if known is not None and not (known.done() and known.exception()):
        return known
    lowered = lower(plan, program)
    options = compile_options(plan.mesh.devices.flat[0])

    def compiled() -> Compiled:
        begin = time.perf_counter()
        return Compiled(lowered.compile(options), time.perf_counter() - begin)

    if len(_kept) >= MOST_KEPT:
        _kept.pop(next(iter(_kept)))
    _kept[name] = pool.submit(compiled)
    return _kept[name]


class Compiling:
    """Programs on their way: a few compile side by side, in order, and one more is prepared."""

    def __init__(self, plan: Plan, programs: Sequence[Program], pool: ThreadPoolExecutor):
        self._plan, self._pool = plan, pool
        self._waiting = deque(programs)
        self._running: list[tuple[Program, Future[Compiled]]] = []

    def __bool__(self) -> bool:
        """Whether any is left."""
        return bool(self._waiting or self._running)

    def finished(self, *, block: bool) -> list[tuple[Program, Compiled]]:
        """Return the programs compiled since; if told so, wait for one."""
        while self._waiting and len(self._running) <= compilers():
            program = self._waiting.popleft()
            self._running.append((program, start_compiling(self._plan, program, self._pool)))
        futures = [future for _, future in self._running]
        done = wait(futures, None if block else 0.0, FIRST_COMPLETED).done
        ended = [(program, future.result()) for program, future in self._running if future in done]
        self._running = [each for each in self._running if each[1] not in done]
        return ended


def lower(plan: Plan, program: Program) -> Any:
    """Lower a program for the plan's devices."""
    return rounds_function(program.trace, plan.mesh, program.tile.lanes).lower(
        *_shapes(program, plan.mesh)
    )


def program_name(program: Program, mesh: Mesh) -> str:
    """Return a digest of all that decides what a program compiles to."""
    parts = program.trace.parts
    constants = [[(c.shape, str(c.dtype)) for c in part.constants] for part in parts]
    where = [(device.platform, device.id) for device in mesh.devices.flat]
    texts = [part.digest for part in parts]
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
