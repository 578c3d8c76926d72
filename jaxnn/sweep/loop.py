"""The sweep itself: plan, store, members, dataset; in one process or shared by several."""

import logging
import os
import pickle
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxnn.sweep.dataset import to_dataset
from jaxnn.sweep.description import Description
from jaxnn.sweep.driver import Driven, run_members
from jaxnn.sweep.halving import Halving
from jaxnn.sweep.planning import plan
from jaxnn.sweep.plans import Plan
from jaxnn.sweep.progress import progress
from jaxnn.sweep.provenance import provenance
from jaxnn.sweep.results import Results, no_results
from jaxnn.sweep.shares import Job, run_on, run_share, stretches
from jaxnn.sweep.store import Store, open_arrays, open_store

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger("jaxnn")


def sweep(
    run: Callable[..., Any],
    *,
    num_seeds: int = 1,
    store: str | os.PathLike[str] | None = None,
    resume: bool = True,
    tile_size: int | None = None,
    layout: str | None = None,
    seed: int = 0,
    devices: Sequence[Any] | None = None,
    stop: Halving | None = None,
    executor: Executor | None = None,
    **axes: Any,
) -> "xr.Dataset":
    """Run a pure function on every point of a grid, in a few compiled programs on every device.

    Args:
        run: a pure function of one member, `(key, **arguments) -> dictionary of arrays`; or
            `-> Training`, which is driven in chunks, so that members that finish early leave
            their place to others.
        num_seeds: members at each grid point; seed s has the key `fold_in(jax.random.key(seed),
            s)` at every point, so points are compared on common random numbers.
        store: directory to keep finished tiles in; None keeps them in memory.
        resume: go on with the store's finished tiles; False starts afresh.
        tile_size: members that a device trains at once; chosen for the machine unless given.
        layout: of depths: 'exact' (a program for each), 'masked' or 'ragged' (depths share
            programs); the cheapest by the plan's estimate if None.
        seed: root of all random keys.
        devices: local devices to use; all unless given.
        stop: a rule by which members stop early, `jn.halving(...)`; for runs that return a
            `jn.training`.
        executor: of the `concurrent.futures` interface, to share the members between processes
            that all see the store: `jn.spawn_pool(4)`, Dask's `client.get_executor()`,
            `jn.RayExecutor()`, `jn.SlurmExecutor(...)`. Under `jax.distributed` none is needed:
            each process that calls `sweep` takes its share.
        **axes: the grid. Floats are batched in one program; ints, strings, bools and None get a
            program a value, unless wrapped in `jn.traced`; `jn.depths` marks depths.

    Returns:
        A dataset with the axes, `seed` and the outputs' own dims; NaN past a member's depth;
        provenance in `attrs`, with the seconds that this call took.

    Raises:
        TypeError, ValueError: an axis, an option or the store does not fit; nothing has been
            compiled then.

    Example:
        >>> import jax.numpy as jnp
        >>> def run(key, *, scale):
        ...     return {"square": scale**2}
        >>> sweep(run, scale=[1.0, 2.0, 3.0])["square"].values.ravel().tolist()
        [1.0, 4.0, 9.0]
    """
    begin = time.perf_counter()
    _check_shared(run, store, executor, devices, stop)
    options = {"num_seeds": num_seeds, "tile_size": tile_size, "layout": layout}
    chosen = plan(run, **options, devices=devices, stop=stop, **axes)
    words = chosen.explain()
    logger.info("%s", words)
    origin = {**provenance(run, chosen.mesh.devices), "plan": words, "root_seed": seed}
    root = jax.random.key(seed)
    if store is None:
        results = no_results(chosen.grid, chosen.outputs)
        driven = _run(chosen, results, None, root)
    else:
        description = Description(chosen.grid, chosen.outputs, _identity(chosen, seed), origin)
        keep = _open_together(store, description, chosen.chunk, resume)
        if executor is not None or jax.process_count() > 1:
            job = Job(run, {**options, **axes}, seed, os.fspath(store), _float64())
            driven = _share(chosen, keep, root, executor, job)
            results = keep.read()
        else:
            results = keep.read()
            driven = _run(chosen, results, keep, root)
    attrs = {**origin, "wall_seconds": time.perf_counter() - begin, **driven._asdict()}
    return to_dataset(chosen.grid, chosen.outputs, results, attrs)


def _run(chosen: Plan, results: Results, keep: Store | None, root: jax.Array) -> Driven:
    """Run all members in this process."""
    with progress(results.done.size, int(results.done.sum())) as advance:
        return run_members(chosen, results, keep, root, advance)


def _share(
    chosen: Plan, keep: Store, root: jax.Array, executor: Executor | None, job: Job
) -> Driven:
    """Run all members in several processes: an executor's, or those of `jax.distributed`."""
    with progress(keep.done.shape[0], int(np.sum(keep.done[:]))) as advance:
        if executor is not None:
            run_on(executor, job, keep, advance)
            return Driven()
        mine = stretches(keep)[jax.process_index() :: jax.process_count()]
        driven = run_share(chosen, keep, mine, root, advance)
        _meet("jaxnn: all members done")
        return driven


def _open_together(
    store: str | os.PathLike[str], description: Description, chunk: int, resume: bool
) -> Store:
    """Open a store; of several processes the first one creates it."""
    if jax.process_index() == 0:
        keep = open_store(store, description, chunk=chunk, resume=resume)
        _meet("jaxnn: store made")
        return keep
    _meet("jaxnn: store made")
    return open_arrays(store, description.outputs)


def _float64() -> bool:
    return jnp.result_type(float) == jnp.float64


def _meet(where: str) -> None:
    """Wait until every process of `jax.distributed` is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def _check_shared(
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


def _identity(chosen: Plan, seed: int) -> dict[str, Any]:
    """Return what two sweeps must share for one to go on where the other stopped."""
    told = {**chosen.grid.to_json(), "seed": seed, "computation": list(chosen.computation)}
    return told if chosen.stop is None else {**told, "stop": list(chosen.stop)}
