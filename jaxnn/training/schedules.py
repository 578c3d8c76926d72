"""Learning rates as functions of the step, every number of which may be traced.

Contract: a builder returns `step -> rate []`, pure, in JAX's default float. It serves as
`learning_rate` of `jn.optimizer` and of optax. Steps count from 0; past its last step a schedule
stays where it ends. optax's own schedules work as well, but their lengths are static.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxnn.training.numbers import check_number
from jaxnn.types import Scalar

Schedule = Callable[[Any], Array]
"""`step [] -> rate []`."""


def constant(rate: Scalar) -> Schedule:
    """Keep one rate."""
    return lambda step: _real(rate)


def cosine(peak: Scalar, num_steps: Scalar, *, final: Scalar = 0.0) -> Schedule:
    """Fall from `peak` to `final` along half a cosine (Loshchilov & Hutter 2016, 1608.03983).

    Args:
        peak: rate at step 0.
        num_steps: steps of the fall, above 0.
        final: rate from then on.

    Example:
        >>> schedule = cosine(0.2, 100)
        >>> [round(float(schedule(step)), 3) for step in (0, 50, 100, 200)]
        [0.2, 0.1, 0.0, 0.0]
    """
    _check_positive("num_steps", num_steps)
    return lambda step: _half_cosine(peak, final, _share(step, num_steps))


def warm_up(num_steps: Scalar, then: Scalar | Schedule, *, start: Scalar = 0.0) -> Schedule:
    """Rise linearly from `start`, then follow a schedule from its own step 0.

    Args:
        num_steps: steps of the rise; 0 is none.
        then: a number, or a schedule such as `cosine(...)`.
        start: rate at step 0.

    Source:
        Goyal et al. 2017, 1706.02677, section 2.2.
    """

    def schedule(step: Any) -> Array:
        after = jnp.maximum(_real(step) - _real(num_steps), 0.0)
        follow = then if callable(then) else constant(then)
        share = _real(step) / jnp.maximum(_real(num_steps), 1e-9)
        rising = _real(start) + share * (follow(jnp.zeros_like(after)) - _real(start))
        return jnp.where(_real(step) < _real(num_steps), rising, follow(after))

    return schedule


def one_cycle(
    peak: Scalar,
    num_steps: Scalar,
    *,
    rise: Scalar = 0.3,
    start_ratio: Scalar = 1 / 25,
    final_ratio: Scalar = 4e-6,
) -> Schedule:
    """Rise to `peak` and fall far below the start, both along half cosines.

    Args:
        peak: the highest rate.
        num_steps: steps of the whole cycle, above 0.
        rise: share of them on which the rate rises, between 0 and 1.
        start_ratio: rate at step 0 over `peak`.
        final_ratio: rate at the end over `peak`.

    Source:
        Smith & Topin 2017, 1708.07120; the cosines are fastai's.
    """
    _check_positive("num_steps", num_steps)
    check_number("rise", rise, "between 0 and 1", lambda each: (each > 0) & (each < 1))

    def schedule(step: Any) -> Array:
        place, turn = _share(step, num_steps), _real(rise)
        low, high, last = _real(start_ratio), _real(1.0), _real(final_ratio)
        rising = _half_cosine(low, high, place / turn)
        falling = _half_cosine(high, last, (place - turn) / (1.0 - turn))
        return _real(peak) * jnp.where(place < turn, rising, falling)

    return schedule


def step_decay(rate: Scalar, every: Scalar, *, factor: Scalar = 0.1) -> Schedule:
    """Multiply the rate by `factor` every so many steps (He et al. 2015, 1512.03385)."""
    _check_positive("every", every)

    def schedule(step: Any) -> Array:
        falls = jnp.floor_divide(_real(step), _real(every))  # exact; XLA divides by reciprocals
        return _real(rate) * _real(factor) ** falls

    return schedule


def cycle(low: Scalar, high: Scalar, half_cycle: Scalar) -> Schedule:
    """Go up from `low` to `high` and down again in straight lines, for ever.

    Args:
        low: rate at step 0 and after each cycle.
        high: rate in the middle of each.
        half_cycle: steps of the way up, above 0; as many lead down.

    Source:
        Smith 2017, 1506.01186, section 3.1 (triangular).
    """
    _check_positive("half_cycle", half_cycle)

    def schedule(step: Any) -> Array:
        place = jnp.mod(_real(step) / _real(half_cycle), 2.0)
        return _real(low) + (_real(high) - _real(low)) * (1.0 - jnp.abs(place - 1.0))

    return schedule


def ramp(low: Scalar, high: Scalar, num_steps: Scalar) -> Schedule:
    """Raise the rate from `low` to `high` by the same factor at each step: a range test.

    `jn.range_test.steepest_fall` and `divergence` read its losses.

    Args:
        low: rate at step 0, above 0.
        high: rate at step `num_steps` and after it.
        num_steps: steps of the rise, above 0.

    Source:
        Smith 2017, 1506.01186, section 3.3, with the rate growing exponentially.
    """
    _check_positive("low", low)
    _check_positive("high", high)
    _check_positive("num_steps", num_steps)
    return lambda step: _real(low) * (_real(high) / _real(low)) ** _share(step, num_steps)


def _real(value: Any) -> Array:
    return jnp.asarray(value, jnp.result_type(float))


def _share(step: Any, num_steps: Scalar) -> Array:
    """Return how much of its way a schedule has gone, 0 to 1."""
    return jnp.clip(_real(step) / _real(num_steps), 0.0, 1.0)


def _half_cosine(start: Scalar, end: Scalar, share: Array) -> Array:
    return _real(end) + (_real(start) - _real(end)) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))


def _check_positive(name: str, value: Scalar) -> None:
    check_number(name, value, "above 0", lambda each: each > 0)
