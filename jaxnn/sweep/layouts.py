"""Depth layouts: which depths share a program.

`exact` gives each depth a program. `masked` and `ragged` let a stretch of depths share one, built
for its deepest: a shallower member then pays for each layer that it lacks, in `masked` as much as
for a layer, in `ragged`, whose loops end at the deepest member that trains side by side, a share.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from jaxnn.sweep.axes import Axis

LAYOUTS = ("exact", "masked", "ragged")
ABSENT = {"masked": 1.0, "ragged": 0.3}  # cost of a layer that a member lacks


class Cost(NamedTuple):
    """What the members and programs of a sweep cost, in seconds."""

    constant: float  # of a member without layers, on all devices together
    layer: float  # of each of its layers
    program: float  # of compiling one
    at_once: int  # programs compiled side by side


class Choice(NamedTuple):
    """A layout, and which depths share a program."""

    layout: str
    stretches: dict[str, list[list[int]]]  # by depth axis
    reason: str  # why; "" if there was no choice


def choose(layouts: Sequence[str], axis: Axis, members: int, cost: Cost) -> Choice:
    """Return the cheapest stretches of depths.

    Args:
        layouts: one of 'masked' and 'ragged', for stretches of several depths; and 'exact', if each
            depth may have a program.
        axis: the depths, in any order.
        members: of each depth.
        cost: what they cost.
    """
    (layout,) = set(layouts) - {"exact"}
    ways = stretches(sorted(axis.values), members, cost, ABSENT[layout])
    compiling = [cost.program * max(1.0, k / cost.at_once) for k in range(1, len(ways) + 1)]
    totals = [seconds + work for seconds, (work, _) in zip(compiling, ways, strict=True)]
    best = int(np.argmin(totals if "exact" in layouts else totals[:-1]))
    split = ways[best][1]
    told = (
        f"about {totals[best]:.2g} s, {compiling[best]:.2g} s of them compiling; "
        f"a program for each depth: {totals[-1]:.2g} s, one for all: {totals[0]:.2g} s"
    )
    return Choice("exact" if len(split) == len(ways) else layout, {axis.name: split}, told)


def stretches(
    depths: Sequence[int], members: int, cost: Cost, absent: float
) -> list[tuple[float, list[list[int]]]]:
    """Split sorted depths into 1, 2, ... programs with the least padded work for each number.

    The optimum, by dynamic programming over the sorted depths: the best k programs for the first j
    depths are the best k - 1 for the first i < j, and one for the rest.

    Args:
        depths: ascending.
        members: of each depth.
        cost: of a member.
        absent: cost of a layer that a member lacks, as a share of one that it has.

    Returns:
        For each number of programs, the seconds of work and the stretches of depths.
    """
    most = len(depths)
    together = np.full((most + 1, most + 1), np.inf)  # [start, stop) in one program
    for start in range(most):
        for stop in range(start + 1, most + 1):
            within = np.asarray(depths[start:stop])
            lacking = absent * (within[-1] - within)
            total = cost.constant * len(within) + cost.layer * (within + lacking).sum()
            together[start, stop] = members * total
    best = np.full((most + 1, most + 1), np.inf)
    best[0, 0] = 0.0
    cut = np.zeros((most + 1, most + 1), int)
    for programs in range(1, most + 1):
        for stop in range(programs, most + 1):
            totals = best[programs - 1, :stop] + together[:stop, stop]
            cut[programs, stop] = int(np.argmin(totals))
            best[programs, stop] = totals[cut[programs, stop]]
    return [(best[k, most], _cuts(depths, cut, k)) for k in range(1, most + 1)]


def _cuts(depths: Sequence[int], cut: np.ndarray, programs: int) -> list[list[int]]:
    stops = [len(depths)]
    for k in range(programs, 0, -1):
        stops.append(cut[k, stops[-1]])
    return [list(depths[start:stop]) for start, stop in pairwise(reversed(stops))]
