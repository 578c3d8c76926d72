"""Checks of a task's arguments: each message names the argument, what was expected, what came."""

import math
import operator

import numpy as np
from jax.core import Tracer

from jaxnn.types import Scalar


def check_counts(least: int = 1, **counts: int) -> None:
    """Refuse each named value that is no integer of at least `least`."""
    expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
    for name, value in counts.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:
            raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_amounts(**amounts: Scalar) -> None:
    """Refuse each named concrete value that is not one finite number of at least 0."""
    for name, value in amounts.items():
        if isinstance(value, Tracer):
            continue
        if np.ndim(value) != 0 or not 0 <= value < math.inf:
            raise ValueError(
                f"{name} must be one finite number of at least 0, got {value!r}; for several, vmap "
                "or sweep over it"
            )


def checked_seed(seed: int) -> int:
    """Return a seed as a Python integer, or say what is wrong with it."""
    try:
        if (number := operator.index(seed)) >= 0:
            return number
    except TypeError:
        pass
    raise ValueError(f"seed must be a non-negative integer, got {seed!r}")
