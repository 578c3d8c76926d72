"""Tuning how many members of a program train side by side, on its own members, where that pays.

No member's numbers depend on it. So calls of a long program are timed with half and twice the
lanes; the best go on, and are remembered for the next sweep of the program.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from jaxnn.sweep.compiling import Compiled, start_compiling
from jaxnn.sweep.machine import remember
from jaxnn.sweep.plans import Plan, Program
from jaxnn.sweep.tiles import tuning_name

PAYS = 10.0  # work left, as a multiple of the compiling of other sizes, from which they are tried
TIMES = 2  # calls that are timed with each
GAIN = 0.95  # of a round's time that another size may take at most: clocks are noisy


class Size(NamedTuple):
    """A program compiled for a number of lanes, and how long its rounds took."""

    program: Program
    compiled: Compiled
    seconds: list[float]  # a member and round


class Tuning:
    """The sizes of one program."""

    def __init__(self, plan: Plan, program: Program, compiled: Compiled, pool: ThreadPoolExecutor):
        self._plan, self._pool = plan, pool
        self._first = Size(program, compiled, [])
        self._sizes = [self._first]
        self._compiling: dict[Future[Compiled], Program] = {}
        self._is_over = not plan.tunes

    @property
    def is_compiling(self) -> bool:
        """Whether sizes are being compiled, which takes time from what runs."""
        return any(not future.done() for future in self._compiling)

    def size(self) -> Size:
        """Return the size to use next: one that has not been timed enough, or else the best."""
        for future in [future for future in self._compiling if future.done()]:
            self._sizes.append(Size(self._compiling.pop(future), future.result(), []))
        if self._is_over or len(self._sizes) == 1:
            return min(self._sizes, key=self._cost)
        untimed = [size for size in self._sizes if len(size.seconds) < TIMES]
        if untimed:
            return untimed[0]
        best = min(self._sizes, key=self._cost)
        self._is_over = not self._compiling
        if self._is_over:
            name = tuning_name(best.program.trace, self._plan.mesh.devices)
            remember("lanes", name, best.program.tile.lanes)
        return best

    def time(self, size: Size, seconds: float, left: int) -> None:
        """Note how long a round of a member took, and try other sizes if much is left.

        Args:
            size: what ran.
            seconds: that a member and round took.
            left: rounds of members that are left.
        """
        size.seconds.append(seconds)
        others = self._others()
        trying = PAYS * len(others) * max(self._first.compiled.seconds, 0.1)
        if not self._is_over and len(self._sizes) == 1 and not self._compiling:
            if seconds * left < trying:
                return
            for program in others:
                self._compiling[start_compiling(self._plan, program, self._pool)] = program

    def _others(self) -> list[Program]:
        program = self._first.program
        slots, lanes = program.tile
        sizes = [each for each in (lanes // 2, 2 * lanes) if 1 <= each <= slots]
        return [program._replace(tile=program.tile._replace(lanes=each)) for each in sizes]

    def _cost(self, size: Size) -> float:
        factor = 1.0 if size is not self._first else GAIN
        return factor * min(size.seconds, default=0.0 if size is self._first else float("inf"))
