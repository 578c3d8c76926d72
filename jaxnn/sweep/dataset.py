"""From the members' arrays to a labelled `xarray.Dataset` on the grid."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnn.sweep.grid import Grid
from jaxnn.sweep.outputs import Outputs, Variable
from jaxnn.sweep.results import Results
from jaxnn.sweep.store import read_store

if TYPE_CHECKING:
    import xarray as xr


def to_dataset(
    grid: Grid, outputs: Outputs, results: Results, attrs: Mapping[str, Any]
) -> "xr.Dataset":
    """Lay the members' arrays out on the grid; members that are not done read NaN."""
    import xarray as xr

    coordinates: dict[str, Any] = {axis.name: (axis.name, axis.coordinate()) for axis in grid.axes}
    coordinates["seed"] = ("seed", np.arange(grid.num_seeds))
    for name, each in outputs.coordinates.items():
        labels = {"units": each.unit, "long_name": each.long_name}
        coordinates[name] = (name, np.asarray(each.values), labels)
    variables = {}
    for name, variable in outputs.variables.items():
        values = _masked(results.arrays[name], results.done)
        labels = {"units": variable.unit, "long_name": variable.long_name}
        variables[name] = (*_on_grid(grid, variable, values), labels)
    return xr.Dataset(variables, coordinates, {**attrs, "members_done": int(results.done.sum())})


def load(path: str | os.PathLike[str]) -> "xr.Dataset":
    """Open a sweep's store, finished or not, as a dataset on its grid.

    Returns:
        What `sweep` returned or would return; members that are not done read NaN, and while there
        are any, integers become float64. `attrs["members_done"]` counts the others.

    Raises:
        ValueError: the path holds no store of a sweep.
    """
    description, store = read_store(path)
    return to_dataset(description.grid, description.outputs, store.read(), description.provenance)


def _masked(values: np.ndarray, done: np.ndarray) -> np.ndarray:
    if done.all():
        return values
    dtype = values.dtype if values.dtype.kind == "f" else np.float64
    missing = ~done.reshape(-1, *[1] * (values.ndim - 1))
    return np.where(missing, np.nan, values.astype(dtype))


def _on_grid(
    grid: Grid, variable: Variable, values: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return a variable's dims and values with the axes in the order the user gave them."""
    numbered = [axis.name for axis in grid.numbered_axes]
    order = [numbered.index(axis.name) for axis in grid.axes]
    rest = range(len(order), 1 + len(order) + len(variable.shape))
    grown = values.reshape(*grid.shape, *variable.shape).transpose(*order, *rest)
    return (*(axis.name for axis in grid.axes), "seed", *variable.dims), grown
