"""Check of a number that may be traced, where it enters."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.core import Tracer


def check_number(name: str, value: Any, expected: str, holds: Callable[[Any], Any]) -> None:
    """Check a number that is known before the program runs; one that is traced is let through.

    Args:
        name: of the argument.
        value: a number, or None for an argument that was left out.
        expected: what it should be, in words.
        holds: whether it is so; given numpy, so that nothing is traced.

    Raises:
        ValueError: it is not so; NaN never is.
    """
    if value is None or isinstance(value, Tracer):
        return
    if not np.all(holds(np.asarray(value))):
        raise ValueError(f"{name}: expected a number {expected}, got {value!r}")
