"""The grid of a sweep: its axes and seeds, and how its members are numbered.

Static axes stand outermost, then depth, then traced axes, then seeds: the members of one program
are neighbours, and every layout numbers them alike.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnn.sweep.axes import Axis

ORDER = ("static", "depth", "traced")  # kinds of axes, outermost first


class Grid(NamedTuple):
    """The axes in the order given by the user, and the number of seeds."""

    axes: tuple[Axis, ...]
    num_seeds: int

    @property
    def numbered_axes(self) -> tuple[Axis, ...]:
        """The axes in the order in which members are numbered."""
        return tuple(axis for kind in ORDER for axis in self.axes if axis.kind == kind)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the numbered axes, then the number of seeds."""
        return (*(len(axis.values) for axis in self.numbered_axes), self.num_seeds)

    @property
    def num_members(self) -> int:
        """Members of the grid, seeds included."""
        return math.prod(self.shape)

    def values(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return the axes' values of members, `{axis or "seed": [member]}`."""
        *where, seed = np.unravel_index(numbers, self.shape)
        found = zip(self.numbered_axes, where, strict=True)
        return {**{axis.name: axis.coordinate()[place] for axis, place in found}, "seed": seed}

    def depth(self, numbers: np.ndarray) -> np.ndarray:
        """Return the members' depths, their sum over several axes; 0 in a sweep without them."""
        values = self.values(numbers)
        depths = [values[axis.name] for axis in self.axes if axis.kind == "depth"]
        return sum(depths, np.zeros(np.shape(numbers), int))

    def numbers(self, chosen: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Return the members that have one of the chosen values on each axis named."""
        found = np.arange(self.num_members).reshape(self.shape)
        for place, axis in enumerate(self.numbered_axes):
            if axis.name in chosen:
                known = [(type(value), value) for value in axis.values]  # True is not 1 here
                wanted = [known.index((type(value), value)) for value in chosen[axis.name]]
                found = found.take(wanted, axis=place)
        return found.ravel()

    def to_json(self) -> dict[str, Any]:
        """Return a description from which `from_json` makes the same grid."""
        axes = [[a.name, a.kind, str(a.coordinate().dtype), _plain(a.values)] for a in self.axes]
        return {"axes": axes, "num_seeds": self.num_seeds}

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> "Grid":
        """Return the grid of a description."""
        axes = []
        for name, kind, dtype, values in described["axes"]:
            axes.append(Axis(name, kind, np.asarray(values, dtype) if kind == "traced" else values))
        return cls(tuple(axes), described["num_seeds"])


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
