"""Driving a plan's crews until every member is done.

A program's crews train its members in calls, one round of each member at a time. Programs compile
in threads and start as soon as they are ready. While one call runs, the last one's results are
fetched and kept, so that devices do not wait.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from jaxnn.sweep.compiling import Compiling, Constants
from jaxnn.sweep.crews import Crew, Seen
from jaxnn.sweep.devices import compilers
from jaxnn.sweep.halving import STOPPED_AT, Halving
from jaxnn.sweep.plans import Plan
from jaxnn.sweep.results import Results
from jaxnn.sweep.store import Store
from jaxnn.sweep.tuning import Tuning

IN_FLIGHT = 2  # calls handed to the devices: one runs, one waits


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
    with ThreadPoolExecutor(compilers()) as pool:
        running = _Running(plan, results, store, root, advance, pool)
        if plan.stop is not None:
            steps = plan.outputs.coordinates["step"].values
            for rung, step in enumerate(plan.stop.steps):
                running.run_to(steps.index(step))
                running.stop_worst(plan.stop, rung, steps.index(step))
        running.run_to(math.inf)
    return running.told


class _Running:
    """A sweep that runs: its crews, the programs that still compile, and what it took so far."""

    def __init__(
        self,
        plan: Plan,
        results: Results,
        store: Store | None,
        root: jax.Array,
        advance: Callable[[int], None],
        pool: ThreadPoolExecutor,
    ):
        self.told = Driven()
        self._plan, self._results, self._store, self._root = plan, results, store, root
        self._advance, self._pool = advance, pool
        todo = [each for each in plan.programs if not results.done[each.numbers].all()]
        self._compiling = Compiling(plan, todo, pool)
        self._begin = self._last_seen = time.perf_counter()
        self._constants = Constants(plan.mesh)
        self._paused: list[Crew] = []

    def run_to(self, pause: float) -> None:
        """Run every member to its record `pause`, or to its end."""
        ready, self._paused = deque(self._paused), []
        flying: deque[Crew] = deque()
        while self._compiling or ready or flying:
            ready.extend(self._newly_compiled(block=not (ready or flying)))
            if ready and len(flying) < IN_FLIGHT:
                flying.append(ready.popleft())
                flying[-1].call(self._root, pause)
            elif flying:
                crew = flying.popleft()
                self._note(crew)
                if crew.is_ready(pause):
                    ready.appendleft(crew)
                elif not crew.is_empty:
                    self._paused.append(crew)

    def stop_worst(self, rule: Halving, rung: int, place: int) -> None:
        """Let the members that the rule stops at a rung leave; its record is number `place`."""
        stopped = np.flatnonzero(rule.stopped(self._results.arrays[rule.metric][:, place], rung))
        numbers = stopped[~self._results.done[stopped]]
        self._results.arrays[STOPPED_AT][numbers] = rule.steps[rung]
        self._results.done[numbers] = True
        for crew in self._paused:
            chunks = crew.program.trace.num_chunks - place
            self._leave(crew, numbers[np.isin(numbers, crew.program.numbers)], chunks)
        self._paused = [crew for crew in self._paused if not crew.is_empty]

    def _newly_compiled(self, *, block: bool) -> list[Crew]:
        """Return crews for the programs compiled since; if told so, wait for one."""
        made = []
        for program, compiled in self._compiling.finished(block=block):
            seconds = time.perf_counter() - self._begin
            self.told = self.told._replace(compile_seconds=seconds)
            waiting = deque(program.numbers[~self._results.done[program.numbers]].tolist())
            placed = tuple(self._constants.place(part.constants) for part in program.trace.parts)
            tuning = Tuning(self._plan, program, compiled, self._pool)
            for _ in range(IN_FLIGHT):
                if waiting:
                    made.append(Crew(self._plan, program, tuning, placed, waiting))
        return made

    def _note(self, crew: Crew) -> None:
        """Fetch what a crew's call showed, keep it, and let members leave and enter."""
        seen = crew.absorb()
        self._time(crew, seen)
        last = crew.program.trace.num_chunks
        ended = seen.finished | (seen.places >= last)
        self._results.add(seen, ended)
        run = self.told.chunks_run + int((seen.places > 0).sum())
        self.told = self.told._replace(chunks_run=run)
        self._leave(crew, seen.numbers[ended], last - seen.places[ended])
        crew.enter()

    def _time(self, crew: Crew, seen: Seen) -> None:
        """Time a call, if nothing compiled beside it and all of its members did the same."""
        now = time.perf_counter()
        begin, self._last_seen = max(self._last_seen, seen.called_at), now
        alike = crew.program.trace.num_chunks == 0 or (seen.places > 0).all()
        if alike and not self._compiling and not crew.tuning.is_compiling:
            crew.tuning.time(seen.size, (now - begin) / len(seen.numbers), crew.rounds_left)

    def _leave(self, crew: Crew, numbers: np.ndarray, chunks_left: np.ndarray | int) -> None:
        """Take members that are done out of a crew, and keep what they found."""
        crew.leave(numbers)
        if self._store is not None:
            self._store.write(self._results, numbers)
        self._advance(len(numbers))
        saved = self.told.chunks_saved + int(np.sum(np.broadcast_to(chunks_left, numbers.shape)))
        self.told = self.told._replace(chunks_saved=saved)
