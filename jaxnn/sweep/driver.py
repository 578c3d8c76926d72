"""Driving a plan's crews until every member is done.

A program's crews train its members in calls, one round of each member at a time. Programs compile
in threads and start as soon as they are ready. While one call runs, the last one's results are
fetched and kept, so that devices do not wait.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax

from jaxnn.sweep.compiling import Constants, start_compiling
from jaxnn.sweep.crews import Crew
from jaxnn.sweep.plans import Plan, Program
from jaxnn.sweep.results import Results
from jaxnn.sweep.store import Store

IN_FLIGHT = 2  # calls handed to the devices: one runs, one waits

Compiling = dict[Future[Any], tuple[Program, deque[int]]]  # a program and its waiting members


class Driven(NamedTuple):
    """What a sweep took."""

    compile_seconds: float = 0.0  # until all programs were compiled
    chunks_run: int = 0  # chunks of steps, of all members
    chunks_saved: int = 0  # chunks that members did not take since they finished early


def run_members(
    plan: Plan,
    results: Results,
    store: Store | None,
    root: jax.Array,
    advance: Callable[[int], None],
) -> Driven:
    """Run every member that is not done.

    Args:
        plan: what to run.
        results: where members are found done, and noted when they are.
        store: where finished members are kept.
        root: the root key.
        advance: called with the number of members just finished.
    """
    begin = time.perf_counter()
    told = Driven()
    constants = Constants(plan.mesh)
    ready: deque[Crew] = deque()
    flying: deque[Crew] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiling = _start(plan, results, pool)
        while compiling or ready or flying:
            for crews in _compiled(compiling, plan, constants, block=not (ready or flying)):
                told = told._replace(compile_seconds=time.perf_counter() - begin)
                ready.extend(crews)
            if ready and len(flying) < IN_FLIGHT:
                flying.append(ready.popleft())
                flying[-1].call(root)
            elif flying:
                crew = flying.popleft()
                told = _note(crew, results, store, told, advance)
                if crew.is_ready:
                    ready.appendleft(crew)
    return told


def _start(plan: Plan, results: Results, pool: ThreadPoolExecutor) -> Compiling:
    """Start compiling every program that has members left."""
    compiling: Compiling = {}
    for program in plan.programs:
        waiting = deque(program.numbers[~results.done[program.numbers]].tolist())
        if waiting:
            compiling[start_compiling(plan, program, pool)] = program, waiting
    return compiling


def _compiled(
    compiling: Compiling, plan: Plan, constants: Constants, *, block: bool
) -> Iterator[list[Crew]]:
    """Yield crews for each program that has been compiled since; if told so, wait for one."""
    if not compiling:
        return
    for future in wait(compiling, None if block else 0.0, FIRST_COMPLETED).done:
        program, waiting = compiling.pop(future)
        placed = tuple(constants.place(part.constants) for part in program.trace.parts)
        crews = []
        while waiting and len(crews) < IN_FLIGHT:
            crews.append(Crew(plan, program, future.result(), placed, waiting))
        yield crews


def _note(
    crew: Crew,
    results: Results,
    store: Store | None,
    told: Driven,
    advance: Callable[[int], None],
) -> Driven:
    """Fetch what a crew's call showed, keep it, and let members leave and enter."""
    seen = crew.absorb()
    last = crew.program.trace.num_chunks
    ended = seen.finished | (seen.places >= last)
    results.add(seen, ended)
    if store is not None:
        store.write(results, seen.numbers[ended])
    crew.leave(seen.numbers[ended])
    crew.enter()
    advance(int(ended.sum()))
    return told._replace(
        chunks_run=told.chunks_run + int((seen.places > 0).sum()),
        chunks_saved=told.chunks_saved + int((last - seen.places[ended]).sum()),
    )
