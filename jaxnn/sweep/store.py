"""Where a sweep's results go: arrays of all members, in memory or in a zarr store that survives.

A store holds each variable as `[member, ...]`, the members' coordinates, and `done [member]`,
written after a tile's data. Files appear whole or not at all, so a kill at any moment loses only
the tiles that were running, and partial results open.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnn.sweep.grid import Grid
from jaxnn.sweep.outputs import Outputs, Variable

DESCRIPTION = "jaxnn"  # the attribute that says what the store holds


class Results(NamedTuple):
    """Arrays of all members, by variable; zarr arrays or numpy's, written alike."""

    arrays: dict[str, Any]  # [member, ...]
    done: Any  # [member] bool

    def write(self, numbers: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Write the variables of consecutive members, then mark these members done."""
        members = slice(int(numbers[0]), int(numbers[-1]) + 1)
        for name, array in self.arrays.items():
            found = values[name][: len(numbers)]
            widths = [(0, most - size) for most, size in zip(array.shape, found.shape, strict=True)]
            widths[0] = (0, 0)
            if any(after for _, after in widths):
                found = np.pad(found.astype(array.dtype), widths, constant_values=np.nan)
            array[members] = found
        self.done[members] = True


def in_memory(grid: Grid, outputs: Outputs) -> Results:
    """Return empty results as numpy arrays."""
    members = grid.num_members
    arrays = {n: np.zeros((members, *v.shape), v.dtype) for n, v in outputs.variables.items()}
    return Results(arrays, np.zeros(members, bool))


def open_store(
    path: str | os.PathLike[str],
    grid: Grid,
    outputs: Outputs,
    identity: dict[str, Any],
    *,
    tile: int,
    resume: bool,
) -> Results:
    """Open a store to resume it, or create it.

    Args:
        path: a directory, made if it does not exist.
        grid: the sweep's grid.
        outputs: what the sweep returns.
        identity: what must agree for the sweep to go on, by name.
        tile: members in one write.
        resume: go on with what is there; False starts afresh.

    Raises:
        ValueError: the path is a file, holds something else, or another sweep.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"store: expected a directory, got the file {str(path)!r}; name another path"
        )
    if path.is_dir() and any(path.iterdir()):
        known = describe(path)
        if resume:
            _check_identity(path, known["identity"], identity)
            return _open_results(path, known)
        shutil.rmtree(path)
    description = {"grid": grid.to_json(), "identity": identity, "outputs": _outputs_json(outputs)}
    _create(path, grid, outputs, description, tile)
    return _open_results(path, description)


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a store says of itself.

    Raises:
        ValueError: the path holds no store of a sweep.
    """
    import zarr

    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
        return json.loads(str(group.attrs[DESCRIPTION]))
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise ValueError(
            f"store: expected a sweep's store or an empty directory, got {str(path)!r}; "
            "name another path"
        ) from error


def read_store(path: str | os.PathLike[str]) -> tuple[Grid, Outputs, Results]:
    """Open a store, finished or not, to read it."""
    description = describe(path)
    grid = Grid.from_json(description["grid"])
    return grid, _outputs_from_json(description["outputs"]), _open_results(Path(path), description)


def _open_results(path: Path, description: dict[str, Any]) -> Results:
    import zarr

    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    return Results(
        {name: group[name] for name in description["outputs"]["variables"]}, group["done"]
    )


def _create(
    path: Path, grid: Grid, outputs: Outputs, description: dict[str, Any], tile: int
) -> None:
    """Allocate the arrays beside the path, then move the whole store there at once."""
    import zarr

    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.open_group(partial, mode="w", zarr_format=3)
    members = grid.num_members

    def allocate(name: str, variable: Variable) -> Any:
        return group.create_array(
            name,
            shape=(members, *variable.shape),
            chunks=(min(tile, members), *(max(size, 1) for size in variable.shape)),
            dtype=variable.dtype,
            fill_value=np.nan if variable.dtype.kind == "f" else 0,
            dimension_names=("member", *variable.dims),
            attributes={"units": variable.unit, "long_name": variable.long_name},
        )

    for name, variable in outputs.variables.items():
        allocate(name, variable)
    allocate("done", Variable((), (), np.dtype(bool), "1", "written"))
    for name, values in grid.values(np.arange(members)).items():
        if values.dtype.kind in "biuf":
            allocate(name, Variable((), (), values.dtype, "1", name))[:] = values
    group.attrs[DESCRIPTION] = json.dumps(description)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rmdir()
    os.replace(partial, path)


def _check_identity(path: Path, known: dict[str, Any], wanted: dict[str, Any]) -> None:
    odd = [
        name for name, value in wanted.items() if known.get(name) != json.loads(json.dumps(value))
    ]
    if odd:
        raise ValueError(
            f"store: {str(path)!r} holds another sweep, it differs in {', '.join(odd)}: "
            f"expected {wanted[odd[0]]}, got {known.get(odd[0])}; name another path, "
            "or pass resume=False to start it afresh"
        )


def _outputs_json(outputs: Outputs) -> dict[str, Any]:
    variables = {
        n: [v.dims, v.shape, str(v.dtype), v.unit, v.long_name]
        for n, v in outputs.variables.items()
    }
    coordinates = {n: [c.values, c.unit, c.long_name] for n, c in outputs.coordinates.items()}
    return {"variables": variables, "coordinates": coordinates}


def _outputs_from_json(described: dict[str, Any]) -> Outputs:
    from jaxnn.types import Coordinate

    variables = {
        name: Variable(tuple(dims), tuple(shape), np.dtype(dtype), unit, long_name)
        for name, (dims, shape, dtype, unit, long_name) in described["variables"].items()
    }
    coordinates = {
        name: Coordinate(tuple(values), unit, long_name)
        for name, (values, unit, long_name) in described["coordinates"].items()
    }
    return Outputs(variables, coordinates)
