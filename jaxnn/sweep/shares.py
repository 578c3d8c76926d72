"""Sharing a sweep between processes: each takes stretches of members, and writes them itself.

A stretch is whole files of the one store, so no two processes write the same file. This is all that
distributing is: deciding who runs which members.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, as_completed
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnn.sweep.driver import Driven, run_members
from jaxnn.sweep.planning import plan
from jaxnn.sweep.plans import Plan
from jaxnn.sweep.results import no_results
from jaxnn.sweep.store import Store, open_arrays

MOST_STRETCHES = 64


class Job(NamedTuple):
    """A sweep as another process needs it."""

    run: Callable[..., Any]
    arguments: Mapping[str, Any]  # of `plan`: options and axes
    seed: int
    store: str
    float64: bool  # jax_enable_x64, which other processes do not inherit


def stretches(store: Store) -> list[tuple[int, int]]:
    """Return stretches of members, whole files each, as `[start, stop)`."""
    starts = range(0, store.done.shape[0], store.chunk)
    parts = np.array_split(starts, min(len(starts), MOST_STRETCHES))
    return [(int(part[0]), int(part[-1]) + store.chunk) for part in parts]


def run_on(executor: Executor, job: Job, store: Store, advance: Callable[[int], None]) -> None:
    """Run what is left of a store's members on an executor.

    Args:
        executor: of the `concurrent.futures` interface.
        job: the sweep.
        store: its store, opened here.
        advance: told of members as they are done.
    """
    done = np.asarray(store.done[:])
    left = [each for each in stretches(store) if not done[slice(*each)].all()]
    futures = [executor.submit(run_job, job, [each]) for each in left]
    try:
        for future in as_completed(futures):
            advance(future.result())
    finally:
        for future in futures:
            future.cancel()


def run_job(job: Job, mine: list[tuple[int, int]]) -> int:
    """Run stretches of members in this process, write them, and return how many there were."""
    with jax.enable_x64(job.float64):
        chosen = plan(job.run, **job.arguments)
        store = open_arrays(job.store, chosen.outputs)
        finished: list[int] = []
        run_share(chosen, store, mine, jax.random.key(job.seed), finished.append)
    return sum(finished)


def run_share(
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
