"""What a store says of itself: its grid, its outputs, what it computes, and where it comes from."""

import json
from typing import Any, NamedTuple

import numpy as np

from jaxnn.sweep.grid import Grid
from jaxnn.sweep.outputs import Outputs, Variable
from jaxnn.types import Coordinate


class Description(NamedTuple):
    """Everything about a sweep but its results."""

    grid: Grid
    outputs: Outputs
    identity: dict[str, Any]  # what must agree for a sweep to be resumed, by name
    provenance: dict[str, Any]  # versions, commit, machine; plain values

    def to_json(self) -> str:
        """Return a text from which `from_json` makes the same description."""
        variables = {
            name: [v.dims, v.shape, str(v.dtype), v.unit, v.long_name]
            for name, v in self.outputs.variables.items()
        }
        coordinates = {
            name: [c.values, c.unit, c.long_name] for name, c in self.outputs.coordinates.items()
        }
        return json.dumps(
            {
                "grid": self.grid.to_json(),
                "variables": variables,
                "coordinates": coordinates,
                "identity": self.identity,
                "provenance": self.provenance,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Description":
        """Return the description of a text."""
        found = json.loads(text)
        variables = {
            name: Variable(tuple(dims), tuple(shape), np.dtype(dtype), unit, long_name)
            for name, (dims, shape, dtype, unit, long_name) in found["variables"].items()
        }
        coordinates = {
            name: Coordinate(tuple(values), unit, long_name)
            for name, (values, unit, long_name) in found["coordinates"].items()
        }
        outputs = Outputs(variables, coordinates)
        grid = Grid.from_json(found["grid"])
        return cls(grid, outputs, found["identity"], found["provenance"])

    def differences(self, other: "Description") -> list[str]:
        """Return the names of what keeps another sweep from going on with this one's results."""
        ours, theirs = (json.loads(json.dumps(each.identity)) for each in (self, other))
        return [name for name in ours if ours[name] != theirs.get(name)]
