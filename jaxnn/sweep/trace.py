"""Tracing a run into a program: a function of member points whose large arrays are arguments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.sweep.axes import Axis
from jaxnn.types import Coordinate, Depth, Labelled

Point = dict[str, Any]  # traced values of one member: axis -> [], and `seed`


class Trace(NamedTuple):
    """A run traced for one member of one program."""

    jaxpr: Any  # of (root key, point); arrays the run closes over are its constants, not in it
    constants: tuple[Array, ...]
    outputs: Any  # the run's result, with shapes for arrays


def trace(
    run: Callable[..., Any],
    batched: Sequence[Axis],
    fixed: Mapping[str, Any],
) -> Trace:
    """Trace a run for the members of one program.

    Args:
        run: `(key, **arguments) -> dictionary of arrays`.
        batched: the axes whose values are data; a depth axis among them is masked.
        fixed: values of the other axes, a `Depth` for a depth axis laid out exactly.

    Raises:
        TypeError: a traced axis is used as a shape or in Python control flow, or the run returns
            no dictionary of arrays.
    """

    def member(root: Array, point: Point, **concrete: Any) -> dict[str, Any]:
        values = {axis.name: _argument(axis, point[axis.name]) for axis in batched}
        key = jax.random.fold_in(root, point["seed"])
        return _checked(run(key, **{**fixed, **values, **concrete}))

    root = jax.eval_shape(jax.random.key, 0)
    point = {axis.name: jax.ShapeDtypeStruct((), dtype_of(axis)) for axis in batched}
    point["seed"] = jax.ShapeDtypeStruct((), jnp.int32)
    try:
        closed, outputs = jax.make_jaxpr(member, return_shape=True)(root, point)
    except (TypeError, IndexError, jax.errors.JAXTypeError) as error:
        for axis in batched:
            if axis.kind == "traced" and _runs_with(member, root, point, axis):
                raise TypeError(
                    f"axis {axis.name!r}: its values are traced, but run uses them as a shape, an "
                    f"index or in Python control flow; give ints ({axis.name}=[16, 32]), one "
                    "program a value, or keep the value out of shapes"
                ) from error
        raise
    return Trace(closed.jaxpr, tuple(closed.consts), outputs)


def _argument(axis: Axis, value: Array) -> Any:
    return Depth(max(axis.values), value) if axis.kind == "depth" else value


def dtype_of(axis: Axis) -> np.dtype:
    """Return the dtype in which an axis is handed to the run: JAX's default float or int."""
    kind = float if np.asarray(axis.values).dtype.kind == "f" else int
    return np.dtype(jnp.result_type(kind))


def _runs_with(member: Callable[..., Any], root: Any, point: Any, axis: Axis) -> bool:
    """Whether the run traces once this axis is a Python number."""
    value = np.asarray(axis.values)[0].item()
    value = int(value) if float(value).is_integer() else value
    try:
        jax.eval_shape(lambda root, point: member(root, point, **{axis.name: value}), root, point)
    except Exception:  # whatever it is, this axis alone does not explain the failure
        return False
    return True


def _checked(outputs: Any) -> dict[str, Any]:
    """Return the run's outputs with every array labelled."""
    if not isinstance(outputs, Mapping) or not outputs:
        raise TypeError(
            f"run: expected a dictionary of arrays, got {type(outputs).__name__}; "
            'return {"name": array, ...}'
        )
    return {name: _labelled(name, value) for name, value in outputs.items()}


def _labelled(name: str, value: Any) -> Labelled | Coordinate:
    if isinstance(value, Labelled | Coordinate):
        return value
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"run: output {name!r} is no array but {type(value).__name__}") from error
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise TypeError(f"run: output {name!r} is a random key; return jax.random.key_data of it")
    return Labelled(array, tuple(f"{name}_{axis}" for axis in range(array.ndim)))
