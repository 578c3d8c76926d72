"""The sweep itself: plan, store, members, dataset."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnn.sweep.dataset import to_dataset
from jaxnn.sweep.description import Description
from jaxnn.sweep.driver import Driven, run_members
from jaxnn.sweep.halving import Halving
from jaxnn.sweep.planning import plan
from jaxnn.sweep.plans import Plan
from jaxnn.sweep.progress import progress
from jaxnn.sweep.provenance import provenance
from jaxnn.sweep.results import Results, no_results
from jaxnn.sweep.shares import Job, check_shared, open_together, share_members
from jaxnn.sweep.store import Store

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
    check_shared(run, store, executor, devices, stop)
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
        keep = open_together(store, description, chosen.chunk, resume)
        if executor is not None or jax.process_count() > 1:
            job = Job(run, {**options, **axes}, seed, os.fspath(store))
            with progress(keep.done.shape[0], int(np.sum(keep.done[:]))) as advance:
                driven = share_members(chosen, keep, job, executor, advance)
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


def _identity(chosen: Plan, seed: int) -> dict[str, Any]:
    """Return what two sweeps must share for one to go on where the other stopped."""
    told = {**chosen.grid.to_json(), "seed": seed, "computation": list(chosen.computation)}
    return told if chosen.stop is None else {**told, "stop": list(chosen.stop)}
