"""Tracing a run into a program: a function of member points whose large arrays are arguments."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.interpreters.partial_eval import dce_jaxpr

from jaxnn.sweep.axes import Axis
from jaxnn.sweep.jaxprs import array_digest, program_digest
from jaxnn.types import Coordinate, Depth, Labelled, Training, whole_run

Point = dict[str, Any]  # traced values of one member: axis -> [], and `seed`


class Part(NamedTuple):
    """A traced function of the root key, a point and a state."""

    jaxpr: Any
    constants: tuple[Array, ...]  # arrays that it closes over, arguments when compiled
    digest: str  # of the program, whatever the values of its constants


class Trace(NamedTuple):
    """A run traced for one member of one program, as a training in chunks of steps.

    A run that returns arrays is a training without state or chunks: all is in what it observes.
    """

    point: dict[str, np.dtype]  # of a member: its batched axes and seed, in order of their names
    init: Part  # (root, point) -> leaves of the state
    advance: Part  # (root, point, state) -> leaves of the state
    observe: Part  # (root, point, state) -> leaves of `observed`
    state: tuple[jax.ShapeDtypeStruct, ...]  # leaves of the state
    observed: "Observed"  # with shapes for arrays
    steps: tuple[int, ...]  # of the records; () for a run that returns arrays

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        """The three parts in this order: init, advance, observe."""
        return self.init, self.advance, self.observe

    def total(self, cost: Callable[[Any], float]) -> float:
        """Return a cost of the parts' programs, added up over a member's whole run."""
        init, advance, observe = (cost(part.jaxpr) for part in self.parts)
        return init + self.num_chunks * advance + (self.num_chunks + 1) * observe

    def digest(self) -> str:
        """Return a digest of what a member computes, arrays that the run closes over included."""
        parts = [[part.digest, *map(array_digest, part.constants)] for part in self.parts]
        return hashlib.sha256(str(parts).encode()).hexdigest()

    def uses(self, axis: str) -> bool:
        """Return whether the run reads its argument of a batched axis."""
        return any(_reads(part.jaxpr, 1 + list(self.point).index(axis)) for part in self.parts)

    @property
    def num_chunks(self) -> int:
        """Chunks of steps that a member takes to its end."""
        return max(len(self.steps) - 1, 0)

    @property
    def outputs(self) -> dict[str, Labelled | Coordinate]:
        """The whole run's outputs, with shapes for arrays; records have a leading step."""
        if not self.steps:
            return self.observed.outcome
        records, outcome, _ = self.observed
        stacked = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((len(self.steps), *leaf.shape), leaf.dtype), records
        )
        return whole_run(stacked, outcome, self.steps)


class Observed(NamedTuple):
    """What a round shows of a member."""

    records: dict[str, Any]  # one record
    outcome: dict[str, Any]  # as if the run ended here
    finished: Any  # [] bool, every later record would equal this one


def trace(
    run: Callable[..., Any],
    batched: Sequence[Axis],
    fixed: Mapping[str, Any],
    *,
    ragged: bool = False,
) -> Trace:
    """Trace a run for the members of one program.

    Args:
        run: `(key, **arguments) -> dictionary of arrays`, or a `Training`.
        batched: the axes whose values are data; a depth axis among them is masked.
        fixed: values of the other axes, a `Depth` for a depth axis laid out exactly.
        ragged: tell members the depth of the deepest one that runs beside them.

    Raises:
        TypeError: a traced axis is used as a shape or in Python control flow, or the run returns
            no dictionary of arrays.
    """

    def called(root: Array, point: Point, **concrete: Any) -> Any:
        values = {axis.name: _argument(axis, point[axis.name], ragged) for axis in batched}
        key = jax.random.fold_in(root, point["seed"])
        return run(key, **{**fixed, **values, **concrete})

    def whole(root: Array, point: Point, **concrete: Any) -> Any:
        found = called(root, point, **concrete)
        return _passed_through(found) if isinstance(found, Training) else _checked(found)

    root = jax.eval_shape(jax.random.key, 0)
    point = {axis.name: jax.ShapeDtypeStruct((), dtype_of(axis)) for axis in batched}
    point["seed"] = jax.ShapeDtypeStruct((), jnp.int32)
    try:
        return _traced(called, root, point)
    except (TypeError, IndexError, jax.errors.JAXTypeError) as error:
        for axis in batched:
            if axis.kind == "traced" and _runs_with(whole, root, point, axis):
                raise TypeError(
                    f"axis {axis.name!r}: its values are traced, but run uses them as a shape, an "
                    f"index or in Python control flow; give ints ({axis.name}=[16, 32]), one "
                    "program a value, or keep the value out of shapes"
                ) from error
        raise


def _traced(called: Callable[..., Any], root: Any, point: Any) -> Trace:
    """Trace what a run returns: arrays in one part, a training in three."""
    steps: list[tuple[int, ...]] = []
    impls: list[Any] = []  # of the random keys in the state, None for its plain arrays

    def observe_all(root: Array, point: Point) -> Observed:
        found = called(root, point)
        if isinstance(found, Training):
            steps.append(tuple(found.steps))
            return Observed({}, {}, True)
        return Observed({}, _checked(found), jnp.bool_(True))

    def init(root: Array, point: Point) -> Any:
        state = called(root, point).init()
        leaves = jax.tree.leaves(state)
        impls[:] = [jax.random.key_impl(x) if _is_key(x) else None for x in leaves]
        return _without_keys(state)

    def advance(root: Array, point: Point, state: Any) -> Any:
        return _without_keys(called(root, point).advance(keyed(state)))

    def observe(root: Array, point: Point, state: Any) -> Observed:
        training, state = called(root, point), keyed(state)
        finished = jnp.asarray(training.finished(state), bool)
        records, outcome = training.records(state), training.outcome(state)
        return Observed(_checked(records), _checked(outcome), finished)

    dtypes = {name: point[name].dtype for name in sorted(point)}
    observed, shapes = _part(observe_all, root, point)
    if not steps:
        nothing, _ = _part(lambda root, point: [], root, point)
        return Trace(dtypes, nothing, nothing, observed, (), shapes, ())

    def keyed(raw: Any) -> Any:
        leaves, tree = jax.tree.flatten(raw)
        pairs = zip(leaves, impls, strict=True)
        wrap = jax.random.wrap_key_data
        return jax.tree.unflatten(tree, [wrap(x, impl=i) if i else x for x, i in pairs])

    started, raw = _part(init, root, point)
    advanced, same = _part(advance, root, point, raw)
    _check_state(raw, same)
    observed, shapes = _part(observe, root, point, raw)
    return Trace(dtypes, started, advanced, observed, tuple(jax.tree.leaves(raw)), shapes, steps[0])


def _part(function: Callable[..., Any], *arguments: Any) -> tuple[Part, Any]:
    """Trace a function, without what its outputs do not need."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    needed = [True] * len(closed.jaxpr.outvars)
    jaxpr, _ = dce_jaxpr(closed.jaxpr, needed, instantiate=True)
    return Part(jaxpr, tuple(closed.consts), program_digest(jaxpr)), shapes


def _reads(jaxpr: Any, place: int) -> bool:
    """Return whether a program reads an argument for more than the depth of its batch."""
    if place >= len(jaxpr.invars):
        return False
    variable = jaxpr.invars[place]
    return any(
        variable is each
        for equation in jaxpr.eqns
        if equation.primitive.name != "custom_vmap_call"
        for each in equation.invars
    )


def _passed_through(training: Training) -> Any:
    """Use every function of a training once."""
    state = training.advance(training.init())
    return training.records(state), training.outcome(state), training.finished(state)


def _check_state(before: Any, after: Any) -> None:
    def shape(leaf: Any) -> tuple[Any, ...]:
        return leaf.shape, leaf.dtype

    if jax.tree.map(shape, before) != jax.tree.map(shape, after):
        raise TypeError(
            "run: expected Training.advance to return a state of the shapes and dtypes that init "
            f"returns, {before}, got {after}"
        )


def _without_keys(state: Any) -> Any:
    """Return a state with plain arrays for its random keys."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else jnp.asarray(x), state)


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key)


def _argument(axis: Axis, value: Array, ragged: bool) -> Any:
    if axis.kind != "depth":
        return value
    return Depth(max(axis.values), value, _deepest(value) if ragged else None)


@jax.custom_batching.custom_vmap
def _deepest(active: Array) -> Array:
    """Return the largest depth of the batch: one number, the same for all of its members."""
    return active


@_deepest.def_vmap
def _deepest_of_batch(axis_size: int, in_batched: Any, active: Array) -> tuple[Array, bool]:
    return _deepest(jnp.max(active)), False


def dtype_of(axis: Axis) -> np.dtype:
    """Return the dtype in which an axis is handed to the run: JAX's default float or int."""
    kind = float if np.asarray(axis.values).dtype.kind == "f" else int
    return np.dtype(jnp.result_type(kind))


def _runs_with(whole: Callable[..., Any], root: Any, point: Any, axis: Axis) -> bool:
    """Return whether the run traces once this axis is a Python number."""
    value = np.asarray(axis.values)[0].item()
    value = int(value) if float(value).is_integer() else value
    try:
        jax.eval_shape(lambda root, point: whole(root, point, **{axis.name: value}), root, point)
    except Exception:  # whatever it is, this axis alone does not explain the failure
        return False
    return True


def _checked(outputs: Any) -> dict[str, Any]:
    """Return the run's outputs with every array labelled."""
    if not isinstance(outputs, Mapping) or not outputs:
        raise TypeError(
            f"run: expected a dictionary of arrays or a Training, got {type(outputs).__name__}; "
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
