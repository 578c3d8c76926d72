"""Successive halving: at each rung the worst members stop, and their share of the work is saved."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxnn.sweep.outputs import Outputs, Variable

STOPPED_AT = "stopped_at"


class Halving(NamedTuple):
    """A stopping rule over all members of a sweep, made by `halving`."""

    metric: str  # a scalar record
    steps: tuple[int, ...]  # the rungs, ascending
    keep: float  # share of the members that goes on from a rung
    highest: bool  # the best have the highest value, not the lowest

    def stopped(self, values: np.ndarray, rung: int) -> np.ndarray:
        """Return which members stop at a rung, or have stopped before, `[member] bool`.

        Args:
            values: [member] the metric of all members there, not finite for those that are not.
            rung: number of the rung.
        """
        worth = np.where(np.isfinite(values), values if self.highest else -values, -np.inf)
        best = np.argsort(-worth, kind="stable")[: math.ceil(self.keep ** (rung + 1) * len(values))]
        stop = np.ones(len(values), bool)
        stop[best] = False
        return stop


def halving(metric: str, at: Sequence[int], *, keep: float = 0.5, highest: bool = False) -> Halving:
    """Stop all but the best members at each rung (Jamieson & Talwalkar 2016, 1502.07943).

    The run must return a `Training` (`jn.training`); all members are held in memory at once.
    Records of a stopped member read NaN past the rung, and `stopped_at` names its step.

    Args:
        metric: name of a record with one number a member, such as `"validation_loss"`.
        at: steps of the rungs; records stand at them.
        keep: share of the members that goes on from each rung, rounded up; below 1.
        highest: whether the best members have the highest value.

    Raises:
        ValueError: `at` is empty or does not ascend, or `keep` is no share.
    """
    steps = tuple(int(step) for step in at)
    if not steps or sorted(set(steps)) != list(steps):
        raise ValueError(f"at: expected ascending steps, got {at!r}")
    if not 0.0 < keep < 1.0:
        raise ValueError(f"keep: expected a share between 0 and 1, got {keep!r}")
    return Halving(metric, steps, keep, highest)


def with_stops(outputs: Outputs, rule: Halving) -> Outputs:
    """Return a sweep's outputs as they are under a rule: records with gaps, and `stopped_at`.

    Raises:
        ValueError: the run makes no such record.
    """
    step = outputs.coordinates.get("step")
    known = outputs.variables.get(rule.metric)
    if step is None or known is None or known.dims != ("step",):
        records = [name for name, each in outputs.variables.items() if each.dims == ("step",)]
        raise ValueError(
            f"stop: expected a record with one number a member, one of {records}, got "
            f"{rule.metric!r}; the run must return jn.training(...)"
        )
    if missing := sorted(set(rule.steps) - set(step.values[1:-1])):
        raise ValueError(
            f"stop: expected rungs at records between the first and the last, {step.values}, got "
            f"{missing}"
        )
    variables = {name: _with_gaps(each) for name, each in outputs.variables.items()}
    told = Variable((), (), np.dtype(np.float32), "step", "step at which the rule stopped it")
    return outputs._replace(variables={**variables, STOPPED_AT: told})


def _with_gaps(variable: Variable) -> Variable:
    if "step" not in variable.dims or variable.dtype.kind == "f":
        return variable
    return variable._replace(dtype=np.promote_types(variable.dtype, np.float32))
