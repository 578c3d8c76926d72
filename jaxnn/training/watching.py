"""Watching a training for a stopping rule: its best variables so far, and the stop itself."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.training.stopping import Stopping, never_nan
from jaxnn.types import Variables


class Watch(NamedTuple):
    """What a training that a rule may stop keeps beside its state."""

    rule: Any  # the rule's own state
    best: Variables  # those of the lowest validation loss at a record
    lowest: Array  # [] that loss
    best_step: Array  # [] int, its step
    stopped_at: Array  # [] step at which the rule stopped; NaN for not


def first_watch(
    rule: Stopping, variables: Variables, training_loss: Array, validation_loss: Array
) -> Watch:
    """Begin to watch a training at record 0."""
    never = jnp.full((), jnp.nan, jnp.result_type(float))
    start = rule.init(training_loss, validation_loss)
    return Watch(start, variables, never_nan(validation_loss), jnp.int32(0), never)


def next_watch(
    rule: Stopping,
    watch: Watch,
    variables: Variables,
    step: Array,
    alive: Array,
    training_loss: Array,
    validation_loss: Array,
) -> tuple[Watch, Variables]:
    """Watch a later record, and give a training that stops there its best variables.

    Args:
        rule: the stopping rule.
        watch: up to the last record.
        variables: at this record.
        step: `[]` of this record.
        alive: `[]` bool; False leaves everything as it is.
        training_loss: `[]`.
        validation_loss: `[]`.
    """
    state, stop = rule.update(watch.rule, training_loss, validation_loss)
    better = validation_loss < watch.lowest
    best = _where(better, variables, watch.best)
    lowest = jnp.where(better, validation_loss, watch.lowest)
    best_step = jnp.where(better, step, watch.best_step)
    stopped_at = jnp.where(stop, step.astype(watch.stopped_at.dtype), watch.stopped_at)
    new = Watch(state, best, lowest, best_step, stopped_at)
    return _where(alive, new, watch), _where(alive & stop, best, variables)


def _where(condition: Array, ours: Any, others: Any) -> Any:
    return jax.tree.map(lambda one, other: jnp.where(condition, one, other), ours, others)
