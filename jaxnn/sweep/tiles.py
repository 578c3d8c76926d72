"""Sizes of tiles: how many members train side by side, from what they hold in memory."""

import math
from pathlib import Path

import numpy as np

from jaxnn.sweep.jaxprs import largest_bytes, program_digest
from jaxnn.sweep.machine import recall
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

    On a CPU as many members train side by side as fit half the cache that a core has for itself:
    fewer waste vector width and calls, more stream through memory.
    """
    if lanes is None:
        lanes = recall("lanes", tuning_name(traced, devices)) or _first_lanes(traced, devices)
    share = math.ceil(members / devices.size)
    lanes = min(lanes, share)
    rounds = math.ceil(share / lanes)
    calls = 1 if all_at_once else math.ceil(rounds / MAX_ROUNDS)
    return Tile(lanes * math.ceil(rounds / calls), lanes)


def tuning_name(traced: Trace, devices: np.ndarray) -> str:
    """Return the name under which the best lanes of a program are remembered."""
    kinds = [f"{device.platform} {device.device_kind}" for device in devices.flat]
    return f"{kinds} {[program_digest(part.jaxpr) for part in traced.parts]}"


def _first_lanes(traced: Trace, devices: np.ndarray) -> int:
    if devices.flat[0].platform != "cpu":
        return MOST_LANES
    size = max(largest_bytes(part.jaxpr) for part in traced.parts)
    fitting = core_cache_bytes() / 2 / max(size, 1)
    return 2 ** round(math.log2(min(max(fitting, 1), MOST_LANES)))


def core_cache_bytes() -> int:
    """Return the size of a core's own (second level) cache, 1 MiB where it is not told."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 2**20
