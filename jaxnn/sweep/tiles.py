"""Sizes of tiles: how many members train side by side, from what they hold in memory."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxnn.sweep.jaxprs import largest_bytes
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

    On a CPU as many members train side by side as fit the cache of a core: fewer waste vector width
    and calls, more stream through memory. On an accelerator as many as fill it within its memory.
    """
    share = math.ceil(members / devices.size)
    known = lanes or recall("lanes", tuning_name(traced, devices))
    lanes = min(int(known or _first_lanes(traced, devices)), share)
    rounds = math.ceil(share / lanes)
    calls = 1 if all_at_once else math.ceil(rounds / MAX_ROUNDS)
    return Tile(lanes * math.ceil(rounds / calls), lanes)


def tuning_name(traced: Trace, devices: np.ndarray) -> str:
    """Return the name under which the best lanes of a program are remembered."""
    kinds = [f"{device.platform} {device.device_kind}" for device in devices.flat]
    return f"{kinds} {[part.digest for part in traced.parts]}"


def _first_lanes(traced: Trace, devices: np.ndarray) -> int:
    size = max(1, *(largest_bytes(part.jaxpr) for part in traced.parts))
    fitting = _memory_bytes(devices.flat[0]) / size
    return 2 ** round(math.log2(min(max(fitting, 1), MOST_LANES)))


def _memory_bytes(device: Any) -> float:
    """Return the memory that members may fill: half of a core's cache, or a share of a device's.

    A sixteenth of an accelerator's memory leaves room for what loops keep besides what they carry,
    and for twice the lanes, if these are tried.
    """
    if device.platform == "cpu":
        return core_cache_bytes() / 2
    return (device.memory_stats() or {}).get("bytes_limit", 2**34) / 16


def core_cache_bytes() -> int:
    """Return the size of a core's own (second level) cache, 1 MiB where it is not told."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 2**20
