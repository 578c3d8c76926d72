"""Where a sweep's results go: arrays of all members, in memory or in a zarr store that survives.

A store holds each variable as `[member, ...]`, the members' coordinates, and `done [member]`,
written after a tile's data. Files appear whole or not at all, so a kill at any moment loses only
the tiles that were running, and partial results open.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxnn.sweep.description import Description
from jaxnn.sweep.grid import Grid
from jaxnn.sweep.outputs import Outputs, Variable

ATTRIBUTE = "jaxnn"  # holds the store's description
DONE = "done"  # the array of finished members


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
    path: str | os.PathLike[str], description: Description, *, tile: int, resume: bool
) -> Results:
    """Open a store to resume it, or create it.

    Args:
        path: a directory, made if it does not exist.
        description: the sweep's.
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
        known = read_description(path)
        if resume:
            _check_same(path, known, description)
            return _open_results(path, known, mode="r+")
        shutil.rmtree(path)
    _create(path, description, tile)
    return _open_results(path, description, mode="r+")


def read_store(path: str | os.PathLike[str]) -> tuple[Description, Results]:
    """Open a store, finished or not, to read it.

    Raises:
        ValueError: the path holds no store of a sweep.
    """
    description = read_description(path)
    return description, _open_results(Path(path), description, mode="r")


def read_description(path: str | os.PathLike[str]) -> Description:
    """Return what a store says of itself.

    Raises:
        ValueError: the path holds no store of a sweep.
    """
    import zarr

    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
        return Description.from_json(str(group.attrs[ATTRIBUTE]))
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise ValueError(
            f"store: expected a sweep's store or an empty directory, got {str(path)!r}; "
            "name another path"
        ) from error


def _open_results(path: Path, description: Description, mode: Literal["r", "r+"]) -> Results:
    import zarr

    group = zarr.open_group(path, mode=mode, use_consolidated=False)
    return Results({name: group[name] for name in description.outputs.variables}, group[DONE])


def _create(path: Path, description: Description, tile: int) -> None:
    """Allocate the arrays beside the path, then move the whole store there at once."""
    import zarr

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    group = zarr.open_group(partial, mode="w", zarr_format=3)
    members = description.grid.num_members

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

    for name, variable in description.outputs.variables.items():
        allocate(name, variable)
    allocate(DONE, Variable((), (), np.dtype(bool), "1", "written"))
    for name, values in description.grid.values(np.arange(members)).items():
        if values.dtype.kind in "biuf":
            allocate(name, Variable((), (), values.dtype, "1", name))[:] = values
    group.attrs[ATTRIBUTE] = description.to_json()
    if path.is_dir():
        path.rmdir()
    partial.chmod(0o755)  # a temporary directory is its owner's alone
    os.replace(partial, path)


def _check_same(path: Path, known: Description, wanted: Description) -> None:
    odd = wanted.differences(known)
    if odd:
        raise ValueError(
            f"store: {str(path)!r} holds another sweep, it differs in {', '.join(odd)}: "
            f"expected {wanted.identity[odd[0]]}, got {known.identity.get(odd[0])}; name another "
            "path, or pass resume=False to start it afresh"
        )
