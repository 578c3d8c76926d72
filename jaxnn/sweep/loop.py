"""The sweep itself: plan, store, members, dataset."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from jaxnn.sweep.dataset import to_dataset
from jaxnn.sweep.description import Description
from jaxnn.sweep.driver import run_members
from jaxnn.sweep.halving import Halving
from jaxnn.sweep.planning import plan, shallowest_traces
from jaxnn.sweep.plans import Plan
from jaxnn.sweep.progress import progress
from jaxnn.sweep.provenance import provenance
from jaxnn.sweep.results import no_results
from jaxnn.sweep.store import open_store

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
    options = {"tile_size": tile_size, "layout": layout, "devices": devices, "stop": stop}
    chosen = plan(run, num_seeds=num_seeds, **options, **axes)
    words = chosen.explain()
    logger.info("%s", words)
    origin = {**provenance(run, chosen.mesh.devices), "plan": words, "root_seed": seed}
    results, keep = no_results(chosen.grid, chosen.outputs), None
    if store is not None:
        description = Description(chosen.grid, chosen.outputs, _identity(run, chosen, seed), origin)
        keep = open_store(store, description, chunk=chosen.chunk, resume=resume)
        results = keep.read()
    with progress(results.done.size, int(results.done.sum())) as advance:
        driven = run_members(chosen, results, keep, jax.random.key(seed), advance)
    attrs = {**origin, "wall_seconds": time.perf_counter() - begin, **driven._asdict()}
    return to_dataset(chosen.grid, chosen.outputs, results, attrs)


def _identity(run: Callable[..., Any], chosen: Plan, seed: int) -> dict[str, Any]:
    """Return what two sweeps must share for one to go on where the other stopped.

    The computation is told by the programs of the smallest depths in the exact layout, with the
    arrays they close over; layout, tiles and devices may differ, since no member's numbers depend
    on them.
    """
    digests = [each.digest() for each in shallowest_traces(run, chosen.grid)]
    told = {**chosen.grid.to_json(), "seed": seed, "computation": digests}
    return told if chosen.stop is None else {**told, "stop": list(chosen.stop)}
