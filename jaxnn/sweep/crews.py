"""Crews: the members that train side by side in the slots of one program.

Continuous batching: after each call, members that are at their end or finished early leave their
slots, and members that wait enter. No member's numbers depend on who trains beside it.
"""

import time
from collections import deque
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxnn.sweep.plans import Plan, Program
from jaxnn.sweep.rounds import SPLIT, Schedule, num_rounds
from jaxnn.sweep.tuning import Size, Tuning
from jaxnn.types import Coordinate

FREE = -1  # instead of a member's number in a free slot
OUTSIDE = -1  # instead of a record's number: the member has not entered yet


class Seen(NamedTuple):
    """What one call showed of the members that it worked on."""

    numbers: np.ndarray  # [member]
    places: np.ndarray  # [member] of the record just made; 0 is that of step 0
    records: dict[str, np.ndarray]  # [member, ...] one record of each
    outcome: dict[str, np.ndarray]  # [member, ...] as if they ended here
    finished: np.ndarray  # [member] bool, every later record would be the same
    size: Size  # what ran
    called_at: float  # seconds on the clock


class Crew:
    """Slots of a compiled program on every device, the members in them and their states."""

    def __init__(
        self, plan: Plan, program: Program, tuning: Tuning, constants: Any, waiting: "deque[int]"
    ):
        self.program, self.tuning = program, tuning
        self._plan, self._constants, self._waiting = plan, constants, waiting
        shape = plan.mesh.devices.size, program.tile.slots
        self._members = np.full(shape, FREE)
        self._places = np.full(shape, OUTSIDE)
        self._called: Any = None
        sharding = NamedSharding(plan.mesh, SPLIT)
        self._state = [
            jax.device_put(np.zeros((self._members.size, *leaf.shape), leaf.dtype), sharding)
            for leaf in program.trace.state
        ]
        self.enter()

    @property
    def rounds_left(self) -> int:
        """Rounds that members in it and members that wait will take at most."""
        rounds = self.program.trace.num_chunks + 1
        inside = rounds - 1 - self._places[self._members != FREE]
        return int(inside.sum()) + rounds * len(self._waiting)

    @property
    def is_empty(self) -> bool:
        """Whether no member is in it."""
        return bool((self._members == FREE).all())

    def is_ready(self, pause: float) -> bool:
        """Return whether a member is in it that has not come to the record `pause`."""
        return bool(self._ready(pause).any())

    def enter(self) -> None:
        """Let members that wait enter free slots: a round's worth to each device in turn."""
        device, slot = np.nonzero(self._members == FREE)
        order = np.lexsort((slot, device, slot // self.program.tile.lanes))
        for place in order[: len(self._waiting)]:
            self._members[device[place], slot[place]] = self._waiting.popleft()
            self._places[device[place], slot[place]] = OUTSIDE

    def call(self, root: Any, pause: float) -> None:
        """Start a round for every member that has not come to the record `pause`."""
        ready = self._ready(pause)
        numbers = np.where(self._members == FREE, self.program.numbers[0], self._members)
        points = self._plan.points(self.program, numbers.ravel())
        depth = self._plan.grid.depth(numbers)
        size = self.tuning.size()
        schedule = make_schedule(size.program, ready, self._places == OUTSIDE, depth)
        arguments = (self._constants, root, points, self._state, schedule)
        self._state, observed = size.compiled.call(*arguments)
        self._called = size, time.perf_counter(), ready, observed

    def absorb(self) -> Seen:
        """Wait for the call and return the records that its members have made."""
        size, called_at, ready, observed = self._called
        leaves = [leaf[ready.ravel()] for leaf in jax.device_get(observed)]
        tree = jax.tree.structure(self.program.trace.observed)
        records, outcome, finished = jax.tree.unflatten(tree, leaves)
        self._places[ready] += 1
        numbers, places = self._members[ready], self._places[ready]
        return Seen(numbers, places, _arrays(records), _arrays(outcome), finished, size, called_at)

    def leave(self, numbers: np.ndarray) -> None:
        """Free the slots of members."""
        self._members[np.isin(self._members, numbers)] = FREE

    def _ready(self, pause: float) -> np.ndarray:
        return (self._members != FREE) & (self._places < pause)


def make_schedule(
    program: Program, ready: np.ndarray, outside: np.ndarray, depth: np.ndarray
) -> Schedule:
    """Put members into rounds, those of about the same depth together.

    Args:
        program: the program.
        ready: [device, slot] whether it takes part.
        outside: [device, slot] whether its member enters; the others advance.
        depth: [device, slot] of the members.
    """
    lanes, devices = program.tile.lanes, len(ready)
    most = num_rounds(program)
    slots = np.zeros((devices, most, lanes), np.int32)
    enter = np.zeros((devices, most), bool)
    count = np.zeros(devices, np.int32)
    for device in range(devices):
        for entering in (True, False):
            (places,) = np.nonzero(ready[device] & (outside[device] == entering))
            places = places[np.argsort(depth[device, places], kind="stable")]
            for start in range(0, len(places), lanes):
                chosen = places[start : start + lanes]
                slots[device, count[device]] = np.pad(chosen, (0, lanes - len(chosen)), mode="edge")
                enter[device, count[device]] = entering
                count[device] += 1
    return Schedule(slots, enter, count)


def _arrays(values: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: v.values for name, v in values.items() if not isinstance(v, Coordinate)}
