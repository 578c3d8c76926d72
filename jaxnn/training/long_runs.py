"""Long trainings that survive being killed: resume points on disk, by orbax, in this module only.

A resume point is written beside the others and renamed when whole, so that what is found after a
kill at any moment is whole. It holds the training's state and all records so far; there is no
loader to restore, since batches are functions of key and step.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxnn.types import Coordinate, Labelled, Training, whole_run

Leaves = list[np.ndarray]


def long_run(
    training: Training,
    directory: str | os.PathLike[str],
    *,
    save_every: int = 1,
    keep: int = 2,
) -> dict[str, Labelled | Coordinate]:
    """Run one training to its end, or on from where an earlier call was killed.

    The numbers are those of an undisturbed call, bit for bit on the same machine and versions, and
    those of `fit` up to rounding. A call on a directory whose run has ended returns its results
    again. Call it outside of jit; the trainings of a sweep are kept by the sweep's own store.

    Args:
        training: of one member, such as `jn.training(...)`.
        directory: of this run alone; made where there is none.
        save_every: records between resume points. A point takes about 0.1 s and holds all records
            so far: one in a minute or so costs nothing.
        keep: newest resume points that are kept, at least 1.

    Returns:
        What `fit` returns, as numpy arrays.

    Raises:
        TypeError, ValueError: a count is no positive int, or the directory holds another run, one
            with another start, program, data or steps, or other probes.
    """
    _check_count("save_every", save_every)
    _check_count("keep", keep)
    start, last = jax.jit(training.init)(), len(training.steps) - 1
    advance = jax.jit(training.advance)
    observe = jax.jit(lambda state: (training.records(state), training.finished(state)))
    first, _ = jax.device_get(observe(start))
    points = _ResumePoints(training, start, first, Path(directory), keep)
    try:
        place, state, records = points.newest()
        while place < last:
            state = advance(state)
            seen, finished = jax.device_get(observe(state))
            reached = last if finished else place + 1  # later records equal this one
            for array, leaf in zip(records, jax.tree.leaves(seen), strict=True):
                array[place + 1 : reached + 1] = leaf
            place = reached
            if place % save_every == 0 or place == last:
                points.save(place, state, records)
    finally:
        points.close()
    told = jax.tree.unflatten(jax.tree.structure(first), records)
    outcome = jax.device_get(jax.jit(training.outcome)(state))
    return whole_run(told, outcome, training.steps)


class _ResumePoints:
    """The resume points of one run in its directory, named by their steps."""

    def __init__(self, training: Training, start: Any, first: Any, directory: Path, keep: int):
        import orbax.checkpoint as ocp  # here, so that importing jaxnn stays light

        self._start, self._first, self._steps = start, jax.tree.leaves(first), training.steps
        self._fingerprint = _fingerprint(training, start, first)
        self._args, self._directory = ocp.args, directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def newest(self) -> tuple[int, Any, Leaves]:
        """Return the place, state and records of the newest point, or those of the start.

        Records have room for all of the run: `[record, ...]`.
        """
        records = [np.empty((len(self._steps), *x.shape), x.dtype) for x in self._first]
        step = self._manager.latest_step()
        if step is None:
            for array, leaf in zip(records, self._first, strict=True):
                array[0] = leaf
            return 0, self._start, records
        self._check_same_run(step)
        place, state = self._steps.index(step), _plain(self._start)
        expected = _numbered([*state, *(array[: place + 1] for array in records)])
        item = self._args.StandardRestore(expected)
        found = self._manager.restore(step, args=self._args.Composite(arrays=item))["arrays"]
        for number, array in enumerate(records, start=len(state)):
            if str(number) in found:
                array[: place + 1] = found[str(number)]
        state = [found.get(str(number), leaf) for number, leaf in enumerate(state)]
        return place, _with_keys(state, self._start), records

    def save(self, place: int, state: Any, records: Leaves) -> None:
        """Write a point, and delete those too many."""
        arrays = _numbered([*_plain(state), *(array[: place + 1] for array in records)])
        self._manager.save(
            self._steps[place],
            args=self._args.Composite(
                arrays=self._args.StandardSave(arrays),
                about=self._args.JsonSave({"fingerprint": self._fingerprint}),
            ),
        )

    def close(self) -> None:
        """End what orbax runs in the background."""
        self._manager.close()

    def _check_same_run(self, step: int) -> None:
        item = self._args.Composite(about=self._args.JsonRestore())
        if self._manager.restore(step, args=item)["about"]["fingerprint"] != self._fingerprint:
            raise ValueError(
                "directory: expected one that is new or holds this very run, got "
                f"{str(self._directory)!r}, whose run has another start, program, data or steps, "
                "or other probes; give this run a directory of its own"
            )


def _fingerprint(training: Training, start: Any, first: Any) -> str:
    """Return a digest of what two runs must share for one to go on where the other stopped.

    It holds the programs of the steps and of what is told, the data that they hold, and the labels.
    """

    def told(state: Any) -> Any:
        return training.records(state), training.outcome(state)

    programs = [jax.make_jaxpr(function)(start) for function in (training.advance, told)]
    structures = jax.tree.structure((start, first))
    text = f"{training.steps} {structures} {[str(each.jaxpr) for each in programs]}"
    text = re.sub(r"0x[0-9a-f]+", "", text)  # without addresses of functions
    digest = hashlib.sha256(text.encode())
    for leaf in _plain([start, *map(_constants, programs)]):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return digest.hexdigest()


def _constants(program: ClosedJaxpr | Jaxpr) -> list[Any]:
    """Return the arrays that a program holds, those of jitted functions in it too."""
    found = list(program.consts) if isinstance(program, ClosedJaxpr) else []
    for equation in program.eqns:
        for inner in jax.tree.leaves(equation.params, is_leaf=_is_program):
            found += _constants(inner) if _is_program(inner) else []
    return found


def _is_program(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)


def _numbered(leaves: Leaves) -> dict[str, np.ndarray]:
    """Return leaves by their numbers, without those of no entries, which orbax refuses."""
    return {str(number): leaf for number, leaf in enumerate(leaves) if leaf.size}


def _plain(tree: Any) -> Leaves:
    """Return the leaves of a tree on the host, plain arrays for random keys."""
    leaves = [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree)]
    return [np.asarray(leaf) for leaf in jax.device_get(leaves)]


def _with_keys(leaves: Leaves, like: Any) -> Any:
    """Return the tree whose leaves `_plain` gave."""
    old, structure = jax.tree.flatten(like)
    wrap = jax.random.wrap_key_data
    new = [
        wrap(jnp.asarray(leaf), impl=jax.random.key_impl(was)) if _is_key(was) else leaf
        for leaf, was in zip(leaves, old, strict=True)
    ]
    return jax.tree.unflatten(structure, new)


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key)


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
