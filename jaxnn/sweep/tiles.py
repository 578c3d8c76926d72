"""Sizes of tiles: how many members train side by side, from what they hold in memory."""

import math
from pathlib import Path

import numpy as np

from jaxnn.sweep.jaxprs import largest_bytes
from jaxnn.sweep.plans import Tile
from jaxnn.sweep.trace import Trace

MAX_ROUNDS = 8  # that a device works off in one call: a call is what a kill can lose
MOST_LANES = 256


def choose_tile(
    traced: Trace,
    members: int,
    devices: np.ndarray,
    lanes: int | None,
    *,
    all_at_once: bool = False,
) -> Tile:
    """Return slots for each device, filled as evenly as can be, and the lanes of a round.

    On a CPU as many members train side by side as fit the cache that a core has for itself: fewer
    waste vector width and calls, more stream through memory.
    """
    if lanes is None:
        lanes = _cpu_lanes(traced) if devices.flat[0].platform == "cpu" else MOST_LANES
    share = math.ceil(members / devices.size)
    lanes = min(lanes, share)
    rounds = math.ceil(share / lanes)
    calls = 1 if all_at_once else math.ceil(rounds / MAX_ROUNDS)
    return Tile(lanes * math.ceil(rounds / calls), lanes)


def _cpu_lanes(traced: Trace) -> int:
    size = max(largest_bytes(part.jaxpr) for part in traced.parts)
    fitting = core_cache_bytes() / max(size, 1)
    return 2 ** round(math.log2(min(max(fitting, 2), MOST_LANES)))


def core_cache_bytes() -> int:
    """Return the size of a core's own (second level) cache, 1 MiB where it is not told."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 2**20
