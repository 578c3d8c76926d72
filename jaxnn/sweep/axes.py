"""Axes of a sweep: which values are data of one program, and which need a program each.

Floats are traced: they are batched in one program. Ints, strings, bools and None are static, one
program a value, unless wrapped in `traced(...)`. `depths(...)` marks a depth axis, which the plan
may lay out either way.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

OPTIONS = frozenset(
    {"num_seeds", "store", "resume", "tile_size", "layout", "seed", "devices", "stop", "executor"}
)  # what sweep takes beside axes

Kind = Literal["static", "depth", "traced"]


class Depths(NamedTuple):
    """A depth axis, made by `depths`."""

    values: tuple[int, ...]


class Traced(NamedTuple):
    """An axis of ints or floats that is batched in one program, made by `traced`."""

    values: np.ndarray


class Axis(NamedTuple):
    """A named axis of the grid."""

    name: str
    kind: Kind
    values: np.ndarray | tuple[Any, ...]

    def coordinate(self) -> np.ndarray:
        """Return the labels along this axis."""
        labels = np.asarray(self.values)
        return labels if labels.dtype.kind in "biuf" else np.asarray([str(v) for v in self.values])


def depths(values: Sequence[int]) -> Depths:
    """Mark an axis as depths; the run gets a `Depth` where it would get an int.

    Raises:
        TypeError, ValueError: they are no ints of at least 1.
    """
    found = np.asarray(values)
    if found.ndim != 1 or not found.size:
        raise ValueError(f"depths: expected a list of ints, got {values!r}")
    if found.dtype.kind not in "iu":
        raise TypeError(f"depths: expected ints, got {values!r}")
    if found.min() < 1:
        raise ValueError(f"depths: expected at least 1 hidden layer, got {found.min()}")
    return Depths(tuple(int(each) for each in found))


def traced(values: Sequence[float]) -> Traced:
    """Mark an axis of ints as data: batched in one program, not usable as a shape."""
    return Traced(np.asarray(values))


def parse_axes(run: Callable[..., Any], given: Mapping[str, Any]) -> tuple[Axis, ...]:
    """Return the axes of a sweep in the order given, each checked against the run's signature.

    Raises:
        TypeError, ValueError: a name the run does not take, an empty axis, values of no axis.
    """
    _check_names(run, given)
    return tuple(_axis(name, values) for name, values in given.items())


def _axis(name: str, values: Any) -> Axis:
    if isinstance(values, Depths):
        return _distinct(Axis(name, "depth", values.values))
    marked = isinstance(values, Traced)
    values = values.values if marked else values
    if isinstance(values, str | bytes) or not hasattr(values, "__len__") or not np.ndim(values):
        raise TypeError(
            f"axis {name!r}: expected a list or an array of values, got {values!r}; "
            f"for a fixed argument write {name}=[{values!r}] or use functools.partial"
        )
    if len(values) == 0:
        raise ValueError(f"axis {name!r}: expected at least one value, got an empty axis")
    if np.ndim(values) != 1:
        raise ValueError(
            f"axis {name!r}: expected one dimension, got shape {np.shape(values)}; flatten it"
        )
    kind = _element_kind(values)
    if kind == "f" or (marked and kind in "iu"):
        array = np.asarray(values)
        if np.isnan(array).any():
            raise ValueError(f"axis {name!r}: expected numbers, got NaN in {values!r}")
        return _distinct(Axis(name, "traced", array))
    if marked:
        raise TypeError(f"axis {name!r}: jn.traced takes numbers, got {values!r}")
    static = tuple(v.item() if isinstance(v, np.generic) else v for v in _listed(values))
    if any(isinstance(value, float) for value in static):
        raise TypeError(
            f"axis {name!r}: expected floats, or else ints, strings, bools or None, got both in "
            f"{values!r}; say None as a number (inf, 0)"
        )
    for value in static:
        if not isinstance(value, int | str | None):
            raise TypeError(
                f"axis {name!r}: expected floats, ints, strings, bools or None, got {value!r}; "
                "sweep a name and let the run look the object up"
            )
    return _distinct(Axis(name, "static", static))


def _element_kind(values: Any) -> str:
    """Return 'f' where a value is a float, else numpy's kind of the whole."""
    if isinstance(values, list | tuple) and any(isinstance(v, str | bool | None) for v in values):
        return "O"
    return np.asarray(values).dtype.kind


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else np.asarray(values).tolist()


def _distinct(axis: Axis) -> Axis:
    if len(set(axis.coordinate().tolist())) < len(axis.values):
        raise ValueError(f"axis {axis.name!r}: expected distinct values, got {axis.values!r}")
    return axis


def _check_names(run: Callable[..., Any], given: Mapping[str, Any]) -> None:
    parameters = list(inspect.signature(run).parameters.values())
    if not parameters:
        raise TypeError("run: expected a function of a key and keyword arguments, got no parameter")
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    names = [each.name for each in parameters[1:]]
    if taken := sorted(OPTIONS.intersection(names)):
        raise TypeError(f"run: its argument {taken[0]!r} is an option of sweep; rename it")
    unknown = [name for name in given if name not in names]
    if unknown:
        raise TypeError(f"axis {unknown[0]!r}: run takes no such argument; it takes {names}")
    missing = [p.name for p in parameters[1:] if p.default is p.empty and p.name not in given]
    if missing:
        raise TypeError(f"run: no axis for its argument {missing[0]!r}; give {missing[0]}=[...]")
