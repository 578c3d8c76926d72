"""Measuring: contenders take turns, their results are compared, and only then are times quoted.

Every round times each contender once, and the matrix product too, so that ratios and shares are of
times taken side by side. A contender whose results are not those of the reference has no figures.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bench_contenders import ENTRIES, PRODUCT, PRODUCT_FLOPS
from bench_problems import Problem
from bench_workers import Worker, importable, make_inputs

STABLE = 3e-5  # largest relative effect of float32 rounding on a member that is compared
TOLERANCE = 1e-3  # largest relative difference between a contender and the reference
LEAST_STABLE = 0.5  # share of members that must be compared
COMPILES_AGAIN = 0.25  # share of the first compile time above which a warm sweep compiles anew

Replies = list[dict[str, Any]]  # of one contender: the cold sweep's, then one a round


class Spread(NamedTuple):
    """A number measured once a round."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]


class Figures(NamedTuple):
    """The figures of one contender; those without a spread are of its first sweep."""

    seconds: Spread  # a warm sweep
    members_per_second: Spread
    flops_per_second: Spread  # of the useful matrix products
    product_share: Spread  # of the matrix product's rate
    relative_time: Spread | None  # to the baseline's, paired by round
    compile_seconds: float  # the first sweep less a warm one
    first_result_seconds: float  # from the process's start
    cold_seconds: float  # from the process's start to all results
    import_seconds: float  # the part of these that starts Python and imports
    peak_bytes: int  # largest resident size of the process


class Outcome(NamedTuple):
    """What came of a contender."""

    title: str
    figures: Figures | None
    refusal: str = ""  # why there are no figures
    note: str = ""
    largest_difference: float | None = None  # relative, from the reference
    skipped: bool = False  # for want of a package


@dataclass(frozen=True)
class Measurement:
    """What came of a problem."""

    problem: Problem
    num_compared: int  # members that float32 rounding leaves alone
    product_flops_per_second: Spread
    device: str
    outcomes: dict[str, Outcome]


def measure(
    problem: Problem, names: Sequence[str], rounds: int, say: Callable[[str], None]
) -> Measurement:
    """Let contenders solve a problem in turns, the first being the baseline of relative times.

    Args:
        problem: the work.
        names: of contenders; those whose packages cannot be imported are skipped.
        rounds: times that each is timed, after a first time that compiles.
        say: takes a line about each step.
    """
    absent = {name: _absent(name) for name in names}
    present = [name for name in names if not absent[name]]
    with tempfile.TemporaryDirectory() as folder:
        say("inputs and reference results")
        inputs = make_inputs(problem, Path(folder))
        compared = stable_members(inputs)
        replies = race([PRODUCT, *present], Path(folder), rounds, say)
    product = replies.pop(PRODUCT)
    if "failed" in product[-1]:
        raise RuntimeError(f"the matrix product failed: {product[-1]['failed']}")
    rates = [PRODUCT_FLOPS / reply["seconds"] for reply in product[1:]]
    outcomes = {
        name: judged(name, replies[name], problem, inputs["exact"], compared)
        if name in replies
        else Outcome(ENTRIES[name].title, None, f"{absent[name]} is not installed", skipped=True)
        for name in names
    }
    agreeing = [name for name, outcome in outcomes.items() if not outcome.refusal]
    seconds = {name: warm_seconds(replies[name], problem) for name in agreeing}
    for name in agreeing:
        found = figures(replies[name], problem, seconds[name], seconds.get(names[0]), rates)
        outcomes[name] = outcomes[name]._replace(figures=found)
    return Measurement(problem, int(compared.sum()), spread(rates), product[0]["note"], outcomes)


def race(
    names: Sequence[str], folder: Path, rounds: int, say: Callable[[str], None]
) -> dict[str, Replies]:
    """Start a worker for each contender, one after the other, then let them take turns."""
    with ExitStack() as stack:
        workers, replies = {}, {}
        for name in names:
            say(f"{name}: first sweep")
            workers[name] = Worker(name, folder)
            stack.callback(workers[name].stop)
            replies[name] = [workers[name].reply()]
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            turn = number % len(names)
            for name in [*names[turn:], *names[:turn]]:
                if "failed" not in replies[name][-1]:
                    replies[name].append(workers[name].go())
        return replies


def stable_members(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return which members float32 rounding leaves alone: those that programs can agree on.

    Raises:
        ValueError: they are too few to say that programs did the same work.
    """
    stable = np.all(relative_difference(inputs["rounded"], inputs["exact"]) <= STABLE, axis=0)
    if stable.mean() < LEAST_STABLE:
        raise ValueError(
            f"rounding decides the results of {np.sum(~stable)} of {len(stable)} members; "
            "choose a smaller learning rate"
        )
    return stable


def relative_difference(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return |found - expected| / |expected|, infinite where either is not a finite number."""
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.abs(found - expected) / np.abs(expected)
    return np.where(np.isfinite(difference), difference, np.inf)


def judged(
    name: str, replies: Replies, problem: Problem, exact: np.ndarray, compared: np.ndarray
) -> Outcome:
    """Return a contender's outcome, without figures: refused if any sweep of its disagrees."""
    title = ENTRIES[name].title
    if "failed" in replies[-1]:
        return Outcome(title, None, replies[-1]["failed"])
    members = _members(replies, problem)
    differences = [
        np.where(compared[members], relative_difference(reply["values"], exact[members]), 0.0)
        for reply in replies
    ]
    worst = np.max(differences, axis=0)
    largest, where = float(worst.max()), problem.members[members[int(worst.argmax())]]
    refusal = f"its results are off by {largest:.2g} ({where})" if largest > TOLERANCE else ""
    return Outcome(title, None, refusal, _note(replies, problem), largest)


def warm_seconds(replies: Replies, problem: Problem) -> list[float]:
    """Return the time of each warm sweep of all members, less its compiling if it compiles anew."""
    factor, anew = _extrapolation(replies, problem), _compiles_again(replies)
    return [factor * (each["seconds"] - anew * each["compile_seconds"]) for each in replies[1:]]


def figures(
    replies: Replies,
    problem: Problem,
    seconds: list[float],
    baseline: list[float] | None,
    product_rates: list[float],
) -> Figures:
    """Return a contender's figures from its replies and its warm times."""
    cold = replies[0]
    first_sweep = _extrapolation(replies, problem) * cold["seconds"]
    rates = [problem.matrix_flops / each for each in seconds]
    shares = [rate / most for rate, most in zip(rates, product_rates, strict=True)]
    ratios = [ours / base for ours, base in zip(seconds, baseline or seconds, strict=True)]
    return Figures(
        seconds=spread(seconds),
        members_per_second=spread([len(problem.members) / each for each in seconds]),
        flops_per_second=spread(rates),
        product_share=spread(shares),
        relative_time=spread(ratios) if baseline else None,
        compile_seconds=max(0.0, first_sweep - statistics.median(seconds)),
        first_result_seconds=cold["first_result_seconds"],
        cold_seconds=cold["cold_seconds"] - cold["seconds"] + first_sweep,
        import_seconds=cold["import_seconds"],
        peak_bytes=max(reply["peak_bytes"] for reply in replies),
    )


def spread(values: Sequence[float]) -> Spread:
    """Return numbers with their median and range."""
    return Spread(statistics.median(values), min(values), max(values), tuple(values))


def _absent(name: str) -> str:
    """Return the first package that a contender needs and that cannot be imported, or nothing."""
    return next((each for each in ENTRIES[name].packages if not importable(each)), "")


def _members(replies: Replies, problem: Problem) -> list[int]:
    """Return the numbers of the members that a contender trained."""
    sample = replies[0]["members"]
    return list(range(len(problem.members))) if sample is None else sample


def _extrapolation(replies: Replies, problem: Problem) -> float:
    return len(problem.members) / len(_members(replies, problem))


def _compiles_again(replies: Replies) -> bool:
    """Return whether warm sweeps compile as the first one did, instead of using its programs."""
    first, *again = (reply["compile_seconds"] for reply in replies)
    return statistics.median(again) > COMPILES_AGAIN * first


def _note(replies: Replies, problem: Problem) -> str:
    notes = [replies[0]["note"]] if replies[0]["note"] else []
    if _extrapolation(replies, problem) > 1:
        size = len(_members(replies, problem))
        notes.append(f"times extrapolated from {size} of {len(problem.members)} members")
    if _compiles_again(replies):
        notes.append("warm sweeps compile again: what ran meanwhile is not in their times")
    return "; ".join(notes)
