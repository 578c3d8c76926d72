"""Stopping rules: pure functions of the losses at each record.

Contract of a rule: `init(training_loss, validation_loss)` takes the losses at record 0, `update`
those at each later record, and says whether to stop there. Numbers of a rule may be traced; those
that are not are checked. Losses are those of the probes' examples; a validation loss that is not a
number is never the best, and counts as infinitely bad.

Prechelt's rules count epochs; here a record stands for an epoch. Strips of k records are records
1 to k, k + 1 to 2 k and so on; record 0, the initial network, ends the strip before them.

Source:
    Prechelt 1998, Early stopping - but when? (LNCS 1524:55), section 2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.training.numbers import check_number
from jaxnn.types import Scalar


class Stopping(NamedTuple):
    """When to stop a training: a pair of pure functions."""

    init: Callable[[Array, Array], Any]  # (training loss, validation loss) at record 0 -> state
    update: Callable[[Any, Array, Array], tuple[Any, Array]]
    # (state, training loss, validation loss) at the next record -> state, [] bool: stop


def patience(num_records: Scalar, *, min_delta: Scalar = 0.0) -> Stopping:
    """Stop after a number of records in a row without a better validation loss.

    Args:
        num_records: records to wait, at least 1.
        min_delta: a loss is better only if it is lower by more than this.

    Raises:
        ValueError: `num_records` is known and below 1.

    Example:
        >>> losses = jnp.array([1.0, 0.8, 0.5, 0.5, 0.55, 0.6])
        >>> stopped = stop_in(patience(2), losses, losses)
        >>> int(stopped.at), int(stopped.best)
        (4, 2)
    """
    check_number("num_records", num_records, "at least 1", lambda each: each >= 1)

    def init(training_loss: Array, validation_loss: Array) -> tuple[Array, Array]:
        del training_loss
        return never_nan(validation_loss), jnp.int32(0)

    def update(state: tuple[Array, Array], training_loss: Array, validation_loss: Array):
        del training_loss
        lowest, waited = state
        dtype = validation_loss.dtype
        better = validation_loss < lowest - jnp.asarray(min_delta, dtype)
        waited = jnp.where(better, 0, waited + 1)
        stop = waited.astype(dtype) >= jnp.asarray(num_records, dtype)
        return (jnp.where(better, validation_loss, lowest), waited), stop

    return Stopping(init, update)


def generalisation_loss(alpha: Scalar) -> Stopping:
    """Stop once the validation loss is alpha percent above its lowest, GL(t) > alpha.

    GL(t) = 100 (E_va(t) / min_{s <= t} E_va(s) - 1); losses are positive (Prechelt's GL_alpha).

    Args:
        alpha: the rise in percent that is borne, at least 0.

    Raises:
        ValueError: `alpha` is known and below 0.
    """
    check_number("alpha", alpha, "at least 0", lambda each: each >= 0)

    def init(training_loss: Array, validation_loss: Array) -> Array:
        del training_loss
        return never_nan(validation_loss)

    def update(lowest: Array, training_loss: Array, validation_loss: Array):
        del training_loss
        lowest = jnp.fmin(lowest, validation_loss)
        return lowest, _rise(validation_loss, lowest) > jnp.asarray(alpha, lowest.dtype)

    return Stopping(init, update)


def quotient(alpha: Scalar, *, strip: int = 5) -> Stopping:
    """Stop at the end of a strip where GL(t) / P_k(t) > alpha (Prechelt's PQ_alpha).

    P_k(t) = 1000 (mean E_tr / min E_tr - 1) over the strip's training losses, its progress: a rise
    of the validation loss is borne with while the training loss still falls fast.

    Args:
        alpha: the rise in percent borne for a progress of a thousandth, at least 0.
        strip: records k in a strip.

    Raises:
        TypeError, ValueError: `strip` is no positive int, or `alpha` is known and below 0.
    """
    _check_strip(strip)
    check_number("alpha", alpha, "at least 0", lambda each: each >= 0)

    def init(training_loss: Array, validation_loss: Array) -> tuple[Array, Array, Array]:
        window = jnp.zeros(strip, training_loss.dtype)
        return never_nan(validation_loss), window, jnp.int32(0)

    def update(state: tuple[Array, Array, Array], training_loss: Array, validation_loss: Array):
        lowest, window, count = state
        lowest, count = jnp.fmin(lowest, validation_loss), count + 1
        window = jnp.concatenate([window[1:], training_loss[None]])
        mean, least = jnp.mean(window), jnp.min(window)
        progress = jnp.where(mean > least, 1000.0 * (mean / least - 1.0), 0.0)
        bound = jnp.asarray(alpha, lowest.dtype) * progress.astype(lowest.dtype)
        stop = (count % strip == 0) & (_rise(validation_loss, lowest) > bound)
        return (lowest, window, count), stop

    return Stopping(init, update)


def successive_rises(num_strips: Scalar, *, strip: int = 5) -> Stopping:
    """Stop once the validation loss rose in a number of strips in a row (Prechelt's UP_s).

    A strip rises if the loss at its end is above that at the end of the strip before it.

    Args:
        num_strips: strips s, at least 1.
        strip: records in a strip.

    Raises:
        TypeError, ValueError: `strip` is no positive int, or `num_strips` is known and below 1.
    """
    _check_strip(strip)
    check_number("num_strips", num_strips, "at least 1", lambda each: each >= 1)

    def init(training_loss: Array, validation_loss: Array) -> tuple[Array, Array, Array]:
        del training_loss
        return validation_loss, jnp.int32(0), jnp.int32(0)

    def update(state: tuple[Array, Array, Array], training_loss: Array, validation_loss: Array):
        del training_loss
        last, rises, count = state
        count = count + 1
        ends, rose = count % strip == 0, validation_loss > last
        rises = jnp.where(ends, jnp.where(rose, rises + 1, 0), rises)
        dtype = validation_loss.dtype
        stop = rises.astype(dtype) >= jnp.asarray(num_strips, dtype)
        return (jnp.where(ends, validation_loss, last), rises, count), stop

    return Stopping(init, update)


class Stop(NamedTuple):
    """Where a rule stops recorded curves."""

    at: Array  # [] int, number of the record at which it stops; -1: never
    best: Array  # [] int, record of the lowest validation loss up to there


def stop_in(rule: Stopping, training_loss: Array, validation_loss: Array) -> Stop:
    """Find where a rule would have stopped a training whose curves were recorded.

    One training thus serves many rules, and vmap many curves or numbers of a rule.

    Args:
        rule: a stopping rule.
        training_loss: `[step]` at each record, the first before any step.
        validation_loss: `[step]`.

    Returns:
        The numbers of two records.
    """
    first = (training_loss[0], validation_loss[0])
    start = (rule.init(*first), never_nan(first[1]), jnp.int32(0), jnp.int32(-1))

    def read(carry: tuple[Any, Array, Array, Array], record: tuple[Array, Array, Array]):
        state, lowest, best, at = carry
        number, training, validation = record
        state, stop = rule.update(state, training, validation)
        going = at < 0
        better = going & (validation < lowest)
        lowest, best = jnp.where(better, validation, lowest), jnp.where(better, number, best)
        return (state, lowest, best, jnp.where(going & stop, number, at)), None

    numbers = jnp.arange(1, len(training_loss), dtype=jnp.int32)
    records = (numbers, training_loss[1:], validation_loss[1:])
    (_, _, best, at), _ = jax.lax.scan(read, start, records)
    return Stop(at, best)


def _rise(loss: Array, lowest: Array) -> Array:
    """Return by how many percent a loss is above the lowest; infinity of one that is not finite."""
    return jnp.where(jnp.isfinite(loss), 100.0 * (loss / lowest - 1.0), jnp.inf)


def never_nan(loss: Array) -> Array:
    """Return a loss, infinity where it is not a number."""
    return jnp.where(jnp.isnan(loss), jnp.inf, loss)


def _check_strip(strip: int) -> None:
    if not isinstance(strip, int) or isinstance(strip, bool):
        raise TypeError(f"strip: expected an int, got {strip!r}; it fixes the program's shape")
    if strip < 1:
        raise ValueError(f"strip: expected at least 1 record, got {strip}")
