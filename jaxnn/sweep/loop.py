"""The sweep itself: a loop over tiles that anyone can read.

A sweep is a list of tiles. A tile is a batch of members that share one compiled program. A
finished tile is written into the store and marked done. Resuming skips what is marked.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnn.sweep.dataset import to_dataset
from jaxnn.sweep.description import Description
from jaxnn.sweep.jaxprs import computation_digest
from jaxnn.sweep.planning import plan
from jaxnn.sweep.plans import Plan, Program
from jaxnn.sweep.progress import progress
from jaxnn.sweep.provenance import provenance
from jaxnn.sweep.store import Results, in_memory, open_store
from jaxnn.sweep.tiles import Constants, start_compiling
from jaxnn.sweep.trace import Trace, trace
from jaxnn.types import Coordinate, Depth

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
    **axes: Any,
) -> "xr.Dataset":
    """Run a pure function on every point of a grid, in a few compiled programs on every device.

    Args:
        run: `(key, **arguments) -> dictionary of arrays`, a pure function of one member.
        num_seeds: members at each grid point; seed s has the key `fold_in(jax.random.key(seed),
            s)` at every point, so points are compared on common random numbers.
        store: directory to keep finished tiles in; None keeps them in memory.
        resume: go on with the store's finished tiles; False starts afresh.
        tile_size: members that a device trains at once; chosen for the machine unless given.
        layout: 'exact' (one program a depth) or 'masked' (one for all); the plan's choice if None.
        seed: root of all random keys.
        devices: local devices to use; all unless given.
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
    chosen = plan(
        run, num_seeds=num_seeds, tile_size=tile_size, layout=layout, devices=devices, **axes
    )
    words = chosen.explain()
    logger.info("%s", words)
    origin = {**provenance(run, chosen.mesh.devices), "plan": words, "root_seed": seed}
    if store is None:
        results = in_memory(chosen.grid, chosen.outputs)
    else:
        identity = _identity(run, chosen, seed)
        tile = chosen.programs[0].tile
        description = Description(chosen.grid, chosen.outputs, identity, origin)
        results = open_store(store, description, tile=tile, resume=resume)
    compile_seconds = _run_tiles(chosen, results, jax.random.key(seed))
    attrs = {
        **origin,
        "wall_seconds": time.perf_counter() - begin,
        "compile_seconds": compile_seconds,
    }
    return to_dataset(chosen.grid, chosen.outputs, results, attrs)


def _run_tiles(chosen: Plan, results: Results, root: jax.Array) -> float:
    """Run every tile that is not done, and return the seconds until all programs were compiled.

    A tile is dispatched before the last one's results are fetched, so devices do not wait.
    """
    begin = time.perf_counter()
    done = np.asarray(results.done[:])
    todo = [each for each in chosen.programs if not done[each.start : each.stop].all()]
    constants = Constants(chosen.mesh)
    running: deque[tuple[np.ndarray, Program, Any]] = deque()
    compiled_at = begin
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(done.size, int(done.sum())) as advance,
    ):

        def finish_oldest() -> None:
            numbers, program, values = running.popleft()
            results.write(numbers, _named(program.trace, jax.device_get(values)))
            advance(len(numbers))

        futures = start_compiling(chosen, todo, pool)
        for future in as_completed(futures):
            program, compiled = futures[future], future.result()
            compiled_at = time.perf_counter()
            placed = constants.place(program.trace.constants)
            for numbers in _tiles(program, done):
                filled = np.pad(numbers, (0, program.tile - len(numbers)), mode="edge")
                running.append(
                    (numbers, program, compiled(placed, root, chosen.points(program, filled)))
                )
                if len(running) > 1:
                    finish_oldest()
        while running:
            finish_oldest()
    return compiled_at - begin


def _tiles(program: Program, done: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of consecutive members that are not done, a tile at a time."""
    waiting = program.start + np.flatnonzero(~done[program.start : program.stop])
    for stretch in np.split(waiting, np.flatnonzero(np.diff(waiting) > 1) + 1):
        for start in range(0, len(stretch), program.tile):
            yield stretch[start : start + program.tile]


def _named(traced: Trace, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return a tile's outputs by name."""
    named = jax.tree.unflatten(jax.tree.structure(traced.outputs), values)
    return {n: each.values for n, each in named.items() if not isinstance(each, Coordinate)}


def _identity(run: Callable[..., Any], chosen: Plan, seed: int) -> dict[str, Any]:
    """Return what two sweeps must share for one to go on where the other stopped.

    The computation is told by the programs of the smallest depths in the exact layout, with the
    arrays they close over; layout, tiles and devices may differ, since no member's numbers depend
    on them.
    """
    least = {a.name: min(a.values) for a in chosen.grid.axes if a.kind == "depth"}
    if chosen.layout == "exact":
        programs = [p for p in chosen.programs if least.items() <= dict(p.fixed).items()]
        traces = [program.trace for program in programs]
    else:
        batched = [axis for axis in chosen.grid.numbered_axes if axis.kind == "traced"]
        depths = {name: Depth(depth) for name, depth in least.items()}
        traces = [trace(run, batched, {**p.fixed, **depths}) for p in chosen.programs]
    digests = [computation_digest(each.jaxpr, each.constants) for each in traces]
    return {**chosen.grid.to_json(), "seed": seed, "computation": digests}
