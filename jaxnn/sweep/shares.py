"""Sharing a sweep between processes: each takes stretches of members, and writes them itself.

A stretch is whole files of the one store, so no two processes write the same file. This is all that
distributing is: deciding who runs which members.
"""

import os
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxnn.sweep.description import Description
from jaxnn.sweep.driver import Driven, run_members
from jaxnn.sweep.halving import Halving
from jaxnn.sweep.planning import plan
from jaxnn.sweep.plans import Plan
from jaxnn.sweep.results import no_results
from jaxnn.sweep.store import Store, open_arrays, open_store

MOST_STRETCHES = 64


class Job(NamedTuple):
    """A sweep as another process needs it."""

    run: Callable[..., Any]
    arguments: Mapping[str, Any]  # of `plan`: options and axes
    seed: int
    store: str


def check_shared(
    run: Callable[..., Any],
    store: Any,
    executor: Executor | None,
    devices: Any,
    stop: Halving | None,
) -> None:
    """Check the options of a sweep that several processes share."""
    if executor is None and jax.process_count() == 1:
        return
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor: expected a concurrent.futures.Executor, got {executor!r}; "
            "make one: jn.spawn_pool(4)"
        )
    if store is None:
        raise ValueError(
            "store: several processes share the sweep, expected a directory that all of them see, "
            "got None"
        )
    for name, value in (("devices", devices), ("stop", stop)):
        if value is not None:
            raise ValueError(
                f"{name}: expected None where several processes share a sweep, got {value!r}"
            )
    if isinstance(executor, ProcessPoolExecutor):
        try:
            pickle.dumps(run)
        except (AttributeError, pickle.PicklingError) as error:
            raise ValueError(
                "run: expected a function that other processes can import, got "
                f"{run!r}; define it at the top of a module, not in a function or a lambda"
            ) from error


def open_together(
    store: str | os.PathLike[str], description: Description, chunk: int, resume: bool
) -> Store:
    """Open a store; of several processes the first one creates it."""
    if jax.process_index() == 0:
        keep = open_store(store, description, chunk=chunk, resume=resume)
        _meet("jaxnn: store made")
        return keep
    _meet("jaxnn: store made")
    return open_arrays(store, description.outputs)


def share_members(
    chosen: Plan,
    store: Store,
    job: Job,
    executor: Executor | None,
    advance: Callable[[int], None],
) -> Driven:
    """Run all members in several processes: an executor's, or those of `jax.distributed`."""
    if executor is not None:
        _run_on(executor, job, store, advance)
        return Driven()
    mine = _stretches(store)[jax.process_index() :: jax.process_count()]
    driven = _run_stretches(chosen, store, mine, jax.random.key(job.seed), advance)
    _meet("jaxnn: all members done")
    return driven


def _meet(where: str) -> None:
    """Wait until every process of `jax.distributed` is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def _stretches(store: Store) -> list[tuple[int, int]]:
    """Return stretches of members, whole files each, as `[start, stop)`."""
    starts = range(0, store.done.shape[0], store.chunk)
    parts = np.array_split(starts, min(len(starts), MOST_STRETCHES))
    return [(int(part[0]), int(part[-1]) + store.chunk) for part in parts]


def _run_on(executor: Executor, job: Job, store: Store, advance: Callable[[int], None]) -> None:
    """Run what is left of a store's members on an executor.

    Args:
        executor: of the `concurrent.futures` interface.
        job: the sweep.
        store: its store, opened here.
        advance: told of members as they are done.
    """
    done = np.asarray(store.done[:])
    left = [each for each in _stretches(store) if not done[slice(*each)].all()]
    float64 = jnp.result_type(float) == jnp.float64  # which other processes do not inherit
    futures = [executor.submit(run_job, job, [each], float64) for each in left]
    try:
        for future in as_completed(futures):
            advance(future.result())
    finally:
        for future in futures:
            future.cancel()


def run_job(job: Job, mine: list[tuple[int, int]], float64: bool) -> int:
    """Run stretches of members in this process, write them, and return how many there were."""
    with jax.enable_x64(float64):
        chosen = plan(job.run, **job.arguments)
        store = open_arrays(job.store, chosen.outputs)
        finished: list[int] = []
        _run_stretches(chosen, store, mine, jax.random.key(job.seed), finished.append)
    return sum(finished)


def _run_stretches(
    chosen: Plan,
    store: Store,
    mine: list[tuple[int, int]],
    root: jax.Array,
    advance: Callable[[int], None],
) -> Driven:
    """Run those members of some stretches that are not done, and write them."""
    results = no_results(chosen.grid, chosen.outputs)
    found = np.asarray(store.done[:])
    results.done[:] = True
    for start, stop in mine:
        results.done[start:stop] = found[start:stop]
    return run_members(chosen, results, store, root, advance)
