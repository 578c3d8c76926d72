"""Training as pure functions: in chunks of steps between records, or as one run to its end.

Records stand at steps 0, k, 2k, ..., num_steps, so initialisation is always measured. A member
whose loss or parameters stop being finite freezes at its last finite parameters and says when.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.data import Augmentation, Sampling, next_batch
from jaxnn.probes import Probe
from jaxnn.training.checks import (
    check_augment,
    check_counts,
    check_data,
    check_examples_count,
    check_probes,
    check_sampling,
    check_stop,
)
from jaxnn.training.descent import State, evaluated, measured, prefix, take_step
from jaxnn.training.stopping import Stopping
from jaxnn.training.watching import first_watch, next_watch
from jaxnn.types import (
    Batch,
    Coordinate,
    Dataset,
    Labelled,
    Loss,
    Model,
    Training,
    Variables,
    whole_run,
)

EXAMPLE_DIMS = ("batch", "example", "other_example")  # of probes that show single examples
AUGMENT_KEY = 3  # the run's key is split in three; its own stream of augmentations is folded in


def fit(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    data: Dataset,
    *,
    key: Array,
    num_steps: int,
    record_every: int,
    probes: Sequence[Probe],
    validation_probes: Sequence[Probe] = (),
    batch_size: int = 64,
    sampling: Sampling = "replacement",
    probe_size: int = 256,
    augment: Sequence[Augmentation] = (),
    stop: Stopping | None = None,
) -> dict[str, Labelled | Coordinate]:
    """Train a model and return its records; pure, so it can be jitted, vmapped and swept.

    Args:
        model: the network.
        loss: per-example loss.
        optimizer: any optax chain; its numbers may be traced. One whose update asks for `value`,
            the loss, or `grad_fn`, params -> gradients, is given them for the batch.
        data: the task; its `num_train` may be traced.
        key: initialisation, batches and dropout all follow from it.
        num_steps: training steps; 0 measures initialisation only.
        record_every: steps between records; divides `num_steps`.
        probes: measured on the first `probe_size` training examples, in evaluation: without
            dropout, and with batch norm's averages of the steps so far (0 and 1 at step 0).
        validation_probes: measured on the first `probe_size` validation examples, and recorded
            under the name `validation_...`.
        batch_size: examples in a training step.
        sampling: 'replacement', 'epochs' (without replacement) or 'full' (the whole training set).
        probe_size: examples that probes see, the same ones at every record.
        augment: random changes of each training batch's inputs, applied in this order, such as
            `jn.data.add_noise(0.1)`; probes see the examples as they are.
        stop: a rule such as `jn.stopping.patience(5)`, fed the losses of the probes' training and
            validation examples at each record. Where it stops, the network gets the variables of
            the record with the lowest validation loss, and later records repeat that one.

    Returns:
        One `Labelled` for each probe, with leading dim `step`; the coordinates `step` and `layer`
        (1 is the first hidden layer); and `diverged_at`, the first step whose loss or update was
        not finite (NaN for none: from there on the records repeat those of the last finite
        parameters, whose loss may be infinite). With `stop` also `stopped_at`, the step at which
        the rule stopped (NaN for never), and `best_step`, that of the lowest validation loss.

    Raises:
        ValueError, TypeError: an argument does not fit; nothing has been compiled then.
    """
    return _run_to_end(
        training(
            model,
            loss,
            optimizer,
            data,
            key=key,
            num_steps=num_steps,
            record_every=record_every,
            probes=probes,
            validation_probes=validation_probes,
            batch_size=batch_size,
            sampling=sampling,
            probe_size=probe_size,
            augment=augment,
            stop=stop,
        )
    )


def training(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    data: Dataset,
    *,
    key: Array,
    num_steps: int,
    record_every: int,
    probes: Sequence[Probe],
    validation_probes: Sequence[Probe] = (),
    batch_size: int = 64,
    sampling: Sampling = "replacement",
    probe_size: int = 256,
    augment: Sequence[Augmentation] = (),
    stop: Stopping | None = None,
) -> Training:
    """Build the training that `fit` runs to its end, for a sweep to drive in chunks of steps.

    The arguments and errors are those of `fit`. A member is finished once it has diverged or was
    stopped: a sweep then gives its place to one that waits, and its records repeat the last one,
    as in `fit`.
    """
    check_counts(num_steps, record_every, batch_size, probe_size)
    check_probes(probes, validation_probes, data)
    check_sampling(sampling)
    check_stop(stop, data)
    check_data(data, model)
    check_examples_count(data, model, sampling)
    check_augment(augment, data, batch_size)
    data = jax.tree.map(jnp.asarray, data)
    init_key, data_key, train_key = jax.random.split(key, 3)

    def losses(variables: Variables) -> tuple[Array, Array]:
        seen = prefix(data.train, probe_size, data.num_train)
        unseen = prefix(data.validation, probe_size)
        return evaluated(model, loss, variables, seen), evaluated(model, loss, variables, unseen)

    def init() -> State:
        variables = model.init(init_key, data.train.x[:1])
        never = jnp.full((), jnp.nan, jnp.result_type(float))
        watch = None if stop is None else first_watch(stop, variables, *losses(variables))
        return State(jnp.int32(0), variables, optimizer.init(variables["params"]), never, watch)

    def step(state: State) -> State:
        batch = next_batch(data, data_key, state.step, batch_size=batch_size, sampling=sampling)
        if augment:
            batch = _augmented(augment, jax.random.fold_in(key, AUGMENT_KEY), state.step, batch)
        step_key = jax.random.fold_in(train_key, state.step)
        return take_step(model, loss, optimizer, state, batch, step_key)

    def advance(state: State) -> State:
        state, _ = jax.lax.scan(lambda state, _: (step(state), None), state, length=record_every)
        if stop is None or state.watch is None:
            return state
        watch, variables = next_watch(
            stop, state.watch, state.variables, state.step, state.alive, *losses(state.variables)
        )
        return state._replace(variables=variables, watch=watch)

    def records(state: State) -> dict[str, Labelled | Coordinate]:
        seen = prefix(data.train, probe_size, data.num_train)
        found = measured(model, loss, optimizer, state, seen, probes)
        if validation_probes:
            unseen = prefix(data.validation, probe_size)
            more = measured(model, loss, optimizer, state, unseen, validation_probes)
            found |= dict(_of_validation(name, value) for name, value in more.items())
        return found

    steps = tuple(range(0, num_steps + 1, record_every))
    return Training(init, advance, records, _outcome, lambda state: ~state.alive, steps)


def _augmented(augment: Sequence[Augmentation], key: Array, step: Array, batch: Batch) -> Batch:
    key, x = jax.random.fold_in(key, step), batch.x
    for number, change in enumerate(augment):
        x = change(jax.random.fold_in(key, number), x)
    return batch._replace(x=x)


def _outcome(state: State) -> dict[str, Labelled]:
    told = {"diverged_at": (state.diverged_at, "first step that was not finite")}
    if state.watch is not None:
        told["stopped_at"] = (state.watch.stopped_at, "step at which the rule stopped it")
        told["best_step"] = (state.watch.best_step, "step of the lowest validation loss")
    return {name: Labelled(value, (), "step", words) for name, (value, words) in told.items()}


def _run_to_end(training: Training) -> dict[str, Labelled | Coordinate]:
    """Run a training through all of its records, and give these their step axis."""

    def chunk(state: Any, _: None) -> tuple[Any, dict[str, Labelled | Coordinate]]:
        state = training.advance(state)
        return state, records_of(state)

    records_of = jax.jit(training.records)  # traced once, though needed in two places
    start = training.init()
    state, later = jax.lax.scan(chunk, start, length=len(training.steps) - 1)
    first = records_of(start)
    records = jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, later)
    return whole_run(records, training.outcome(state), training.steps)


def _of_validation(name: str, value: Labelled | Coordinate) -> tuple[str, Labelled | Coordinate]:
    """Return a measurement under its validation name; its axes of examples are others too."""
    if not isinstance(value, Labelled):
        return name, value
    dims = (f"validation_{dim}" if dim in EXAMPLE_DIMS else dim for dim in value.dims)
    return f"validation_{name}", replace(value, dims=tuple(dims))
