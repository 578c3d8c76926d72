"""What a sweep has found so far: arrays of all members, in memory."""

from typing import NamedTuple

import numpy as np

from jaxnn.sweep.crews import Seen
from jaxnn.sweep.grid import Grid
from jaxnn.sweep.outputs import Outputs


class Results(NamedTuple):
    """Arrays of all members by variable, and which members are done."""

    arrays: dict[str, np.ndarray]  # [member, ...]
    done: np.ndarray  # [member] bool

    def add(self, seen: Seen, ended: np.ndarray) -> None:
        """Note what a call showed.

        Args:
            seen: the records made, and the outcomes as if the members ended here.
            ended: [member] bool, they do; their later records repeat the last one.
        """
        for name, values in seen.records.items():
            array = self.arrays[name]
            inner = tuple(slice(size) for size in values.shape[1:])
            array[(seen.numbers, seen.places, *inner)] = values
            for place in np.unique(seen.places[ended]):
                numbers = seen.numbers[ended & (seen.places == place)]
                array[numbers, place + 1 :] = array[numbers, place, None]
        for name, values in seen.outcome.items():
            inner = tuple(slice(size) for size in values.shape[1:])
            self.arrays[name][(seen.numbers, *inner)] = values
        self.done[seen.numbers[ended]] = True


def no_results(grid: Grid, outputs: Outputs) -> Results:
    """Return the results of a sweep that has not begun; NaN where a member's arrays are shorter."""
    members = grid.num_members
    arrays = {}
    for name, each in outputs.variables.items():
        fill = np.nan if each.dtype.kind == "f" else 0
        arrays[name] = np.full((members, *each.shape), fill, each.dtype)
    return Results(arrays, np.zeros(members, bool))
