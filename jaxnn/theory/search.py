"""Search of hyperparameters: what chance gives, and the schedule of Hyperband.

The laws of random and grid search need nothing of the objective but how much of the space is good.
The table of Hyperband is counted in integers, as logarithms in floats lose a bracket at exact
powers.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar


def random_success(num_trials: Scalar, fraction: Scalar) -> Array:
    """Compute the probability that one of n random trials is among the best: `1 - (1 - q)^n`.

    Args:
        num_trials: n, drawn independently.
        fraction: q, the part of the space that is good, in the measure of the draws.

    Returns:
        The probability, of the arguments' shape.

    Source: Bergstra and Bengio, 2012, JMLR 13:281.

    Example:
        >>> print(random_success(60, 0.05).round(4))
        0.9539
    """
    num_trials, fraction = floats(num_trials, fraction)
    return -jnp.expm1(num_trials * jnp.log1p(-fraction))


def trials_for(success: float, fraction: float) -> int:
    """Count the random trials that hit the best part of a space with a given probability.

    Args:
        success: the probability wanted, in (0, 1).
        fraction: q, the part of the space that is good, in (0, 1).

    Returns:
        The least n with `1 - (1 - q)^n >= success`.

    Raises:
        ValueError: a probability outside (0, 1).

    Source: Bergstra and Bengio, 2012, JMLR 13:281.

    Example:
        >>> trials_for(0.95, 0.05)
        59
    """
    for name, value in (("success", success), ("fraction", fraction)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: expected a probability between 0 and 1, got {value}")
    return math.ceil(math.log1p(-success) / math.log1p(-fraction))


def grid_success(num_values: Scalar, widths: Array) -> Array:
    """Compute the probability that a grid hits a good box: `prod over axes of min(1, k q_j)`.

    For a grid of k equally spaced values on each axis, its offset random, and a box that is q_j of
    axis j wide. Only axes that matter count: with d axes of which one does, the k^d trials of a
    grid try k values of it, and those of a random search k^d (`random_success`).

    Args:
        num_values: k, `[]`.
        widths: `[axis]` q_j of the axes that matter.

    Returns:
        The probability, `[]`.

    Source: Bergstra and Bengio, 2012, JMLR 13:281, for the argument; the formula is ours.
    """
    return jnp.prod(jnp.minimum(1, num_values * widths))


class Rung(NamedTuple):
    """One round of successive halving."""

    num_members: int  # trials that run
    resource: float  # of each trial, in total


def hyperband(
    max_resource: int, reduction: int = 3, *, truncated: bool = False
) -> tuple[tuple[Rung, ...], ...]:
    """List the brackets of Hyperband, each a successive halving, the most eager first.

    With `s_max = floor(log_eta R)`, bracket s starts `n = ceil((s_max + 1) eta^s / (s + 1))` trials
    and its rung i runs `floor(n / eta^i)` of them to `R eta^(i - s)`.

    Args:
        max_resource: R, the most that one trial is given, for instance steps.
        reduction: eta; one trial in eta is promoted.
        truncated: start `floor((s_max + 1) / (s + 1)) eta^s` trials instead, as early versions of
            the paper and code with integer division did.

    Returns:
        The brackets s = s_max to 0, each a tuple of rungs.

    Raises:
        ValueError: a resource below 1, or a reduction below 2.

    Source: Li et al., 2016, arXiv:1603.06560, algorithm 1.

    Example:
        >>> for bracket in hyperband(9):
        ...     print(*(f"{rung.num_members} x {rung.resource:g}" for rung in bracket))
        9 x 1 3 x 3 1 x 9
        5 x 3 1 x 9
        3 x 9
    """
    if max_resource < 1:
        raise ValueError(f"max_resource: expected 1 or more, got {max_resource}")
    if reduction < 2:
        raise ValueError(f"reduction: expected 2 or more, got {reduction}")
    most = 0
    while reduction ** (most + 1) <= max_resource:
        most += 1
    return tuple(_bracket(s, most, max_resource, reduction, truncated) for s in range(most, -1, -1))


def _bracket(
    s: int, most: int, max_resource: int, reduction: int, truncated: bool
) -> tuple[Rung, ...]:
    if truncated:
        num = (most + 1) // (s + 1) * reduction**s
    else:
        num = -(-(most + 1) * reduction**s // (s + 1))
    return tuple(
        Rung(num // reduction**i, max_resource / reduction ** (s - i)) for i in range(s + 1)
    )
