"""Where a sweep's results survive: a zarr store that holds finished members.

A store holds each variable as `[member, ...]`, the members' coordinates, and `done [member]`,
written after the data. A file holds a chunk of consecutive members and appears whole or not at all,
so a kill at any moment loses only members that were training, and partial results open.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxnn.sweep.description import Description
from jaxnn.sweep.outputs import Outputs, Variable
from jaxnn.sweep.results import Results

ATTRIBUTE = "jaxnn"  # holds the store's description
DONE = "done"  # the array of finished members


class Store(NamedTuple):
    """A store's arrays, opened."""

    arrays: dict[str, Any]  # zarr arrays [member, ...], by variable
    done: Any  # zarr array [member] bool
    chunk: int  # members in a file

    def read(self) -> Results:
        """Return what it holds."""
        arrays = {name: np.asarray(array[:]) for name, array in self.arrays.items()}
        return Results(arrays, np.asarray(self.done[:]))

    def write(self, results: Results, numbers: np.ndarray) -> None:
        """Write the files of these members that are complete, then mark their members done."""
        for chunk in np.unique(numbers // self.chunk):
            members = slice(chunk * self.chunk, (chunk + 1) * self.chunk)
            if results.done[members].all():
                for name, array in self.arrays.items():
                    array[members] = results.arrays[name][members]
                self.done[members] = True


def open_store(
    path: str | os.PathLike[str], description: Description, *, chunk: int, resume: bool
) -> Store:
    """Open a store to resume it, or create it.

    Args:
        path: a directory, made if it does not exist.
        description: the sweep's.
        chunk: members in a file, if the store is created.
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
            return open_arrays(path, known.outputs, mode="r+")
        shutil.rmtree(path)
    _create(path, description, chunk)
    return open_arrays(path, description.outputs, mode="r+")


def read_store(path: str | os.PathLike[str]) -> tuple[Description, Store]:
    """Open a store, finished or not, to read it.

    Raises:
        ValueError: the path holds no store of a sweep.
    """
    description = read_description(path)
    return description, open_arrays(path, description.outputs, mode="r")


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


def open_arrays(
    path: str | os.PathLike[str], outputs: Outputs, *, mode: Literal["r", "r+"] = "r+"
) -> Store:
    """Open the arrays of a store that is known to hold these outputs."""
    import zarr

    group = zarr.open_group(Path(path), mode=mode, use_consolidated=False)
    done: Any = group[DONE]
    return Store({name: group[name] for name in outputs.variables}, done, done.chunks[0])


def _create(path: Path, description: Description, chunk: int) -> None:
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
            chunks=(min(chunk, members), *(max(size, 1) for size in variable.shape)),
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
