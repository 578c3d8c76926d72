"""What a sweep's programs return, merged: one shape for each variable that holds all of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnn.sweep.grid import Grid
from jaxnn.types import Coordinate, Labelled

RESERVED = frozenset({"seed", "member", "done"})  # names that results and stores use themselves


class Variable(NamedTuple):
    """A variable of the result, of one member."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]  # the largest of any program along each dimension
    dtype: np.dtype
    unit: str
    long_name: str


class Outputs(NamedTuple):
    """Everything a sweep returns beside its axes."""

    variables: dict[str, Variable]
    coordinates: dict[str, Coordinate]


def merge_outputs(outputs: Sequence[dict[str, Any]], grid: Grid) -> Outputs:
    """Merge what each program returns; a program's shorter dimensions will be filled with NaN.

    Raises:
        ValueError: the programs return different names or dims, coordinates that disagree, a name
            that is taken, or two lengths of one dim.
    """
    variables: dict[str, Variable] = {}
    coordinates: dict[str, Coordinate] = {}
    for each in outputs:
        if each.keys() != outputs[0].keys():
            odd = sorted(each.keys() ^ outputs[0].keys())
            raise ValueError(f"run: expected the same outputs in every program, got {odd} in some")
        for name, value in each.items():
            if isinstance(value, Coordinate):
                coordinates[name] = _longer(name, coordinates.get(name, value), value)
            else:
                variables[name] = _wider(name, variables.get(name), value)
    merged = Outputs(variables, coordinates)
    _check_names(merged, grid)
    _check_sizes(merged)
    return merged


def _check_names(merged: Outputs, grid: Grid) -> None:
    taken = {axis.name for axis in grid.axes} | RESERVED
    for name, variable in merged.variables.items():
        for each in (name, *variable.dims):
            if each in taken:
                raise ValueError(
                    f"output {name!r}: {each!r} is the name of an axis or reserved; rename it"
                )
    for axis in grid.axes:
        if axis.name in RESERVED:
            raise ValueError(f"axis {axis.name!r}: the name is reserved; rename it")


def _check_sizes(merged: Outputs) -> None:
    sizes = {name: len(each.values) for name, each in merged.coordinates.items()}
    for name, variable in merged.variables.items():
        for dim, size in zip(variable.dims, variable.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ValueError(
                    f"output {name!r}: dim {dim!r} has length {size} here, {sizes[dim]} elsewhere"
                )


def _longer(name: str, first: Coordinate, second: Coordinate) -> Coordinate:
    short, long = sorted((first, second), key=lambda each: len(each.values))
    if long.values[: len(short.values)] != short.values:
        raise ValueError(
            f"coordinate {name!r}: expected one program's values to begin the other's, "
            f"got {short.values} and {long.values}"
        )
    return long


def _wider(name: str, known: Variable | None, value: Labelled) -> Variable:
    shape, dtype = value.values.shape, np.dtype(value.values.dtype)
    if len(value.dims) != len(shape):
        raise ValueError(f"output {name!r}: shape {shape} does not fit its dims {value.dims}")
    if dtype.kind not in "biufc":
        raise ValueError(f"output {name!r}: dtype {dtype} cannot be stored; return float32")
    if known is None:
        return Variable(value.dims, shape, dtype, value.unit, value.long_name)
    if value.dims != known.dims:
        raise ValueError(
            f"output {name!r}: dims {known.dims} in one program, {value.dims} in another"
        )
    widest = tuple(max(sizes) for sizes in zip(known.shape, shape, strict=True))
    padded = widest != known.shape or widest != shape
    dtype = np.promote_types(known.dtype, dtype)
    if padded and dtype.kind != "f":
        dtype = np.promote_types(dtype, np.float32)  # so that it can hold NaN
    return known._replace(shape=widest, dtype=dtype)
