"""Training as pure functions: in chunks of steps between records, or as one run to its end.

Records stand at steps 0, k, 2k, ..., num_steps, so initialisation is always measured. A member
whose loss or parameters stop being finite freezes at its last finite parameters and says when.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.data import Sampling, in_use, next_batch
from jaxnn.probes import Probe, flow, mean_loss, measure
from jaxnn.training.checks import check_counts, check_data, check_probes, check_sampling
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


class State(NamedTuple):
    """What the next step needs, and nothing that only a reader wants."""

    step: Array  # [] number of the next step
    variables: Variables
    optimizer: Any
    diverged_at: Array  # [] first step that was not finite; NaN while all were


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
) -> dict[str, Labelled | Coordinate]:
    """Train a model and return its records; pure, so it can be jitted, vmapped and swept.

    Args:
        model: the network.
        loss: per-example loss.
        optimizer: any optax chain; its numbers may be traced.
        data: the task; its `num_train` may be traced.
        key: initialisation, batches and dropout all follow from it.
        num_steps: training steps; 0 measures initialisation only.
        record_every: steps between records; divides `num_steps`.
        probes: measured on the first `probe_size` training examples.
        validation_probes: measured on the first `probe_size` validation examples, and recorded
            under the name `validation_...`.
        batch_size: examples in a training step.
        sampling: 'replacement', 'epochs' (without replacement) or 'full' (the whole training set).
        probe_size: examples that probes see, the same ones at every record.

    Returns:
        One `Labelled` for each probe, with leading dim `step`; the coordinates `step` and `layer`
        (1 is the first hidden layer); and `diverged_at`, the first step whose loss or update was
        not finite (NaN for none: from there on the records repeat those of the last finite
        parameters, whose loss may be infinite).

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
) -> Training:
    """Build the training that `fit` runs to its end, for a sweep to drive in chunks of steps.

    The arguments and errors are those of `fit`. A member is finished once it has diverged: a sweep
    then gives its place to one that waits, and its records repeat the last one, as in `fit`.
    """
    check_counts(num_steps, record_every, batch_size, probe_size)
    check_probes(probes, validation_probes, data)
    check_sampling(sampling)
    check_data(data, model)
    data = jax.tree.map(jnp.asarray, data)
    init_key, data_key, train_key = jax.random.split(key, 3)

    def init() -> State:
        variables = model.init(init_key, data.train.x[:1])
        never = jnp.full((), jnp.nan, jnp.result_type(float))
        return State(jnp.int32(0), variables, optimizer.init(variables["params"]), never)

    def step(state: State) -> State:
        batch = next_batch(data, data_key, state.step, batch_size=batch_size, sampling=sampling)
        return _step(
            model, loss, optimizer, state, batch, jax.random.fold_in(train_key, state.step)
        )

    def advance(state: State) -> State:
        return jax.lax.scan(lambda state, _: (step(state), None), state, length=record_every)[0]

    def records(state: State) -> dict[str, Labelled | Coordinate]:
        seen = _prefix(data.train, probe_size, data.num_train)
        found = _measure(model, loss, optimizer, state, seen, probes)
        if validation_probes:
            unseen = _prefix(data.validation, probe_size)
            more = _measure(model, loss, optimizer, state, unseen, validation_probes)
            found |= {_validation_name(name): value for name, value in more.items()}
        return found

    def outcome(state: State) -> dict[str, Labelled]:
        long_name = "first step that was not finite"
        return {"diverged_at": Labelled(state.diverged_at, (), "step", long_name)}

    def finished(state: State) -> Array:
        return ~jnp.isnan(state.diverged_at)

    steps = tuple(range(0, num_steps + 1, record_every))
    return Training(init, advance, records, outcome, finished, steps)


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


def _step(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    key: Array,
) -> State:
    """Take one optimiser step, unless it would leave the finite numbers."""
    params = state.variables["params"]

    def objective(params: Any) -> tuple[Array, Variables]:
        variables = {**state.variables, "params": params}
        outputs, _, moved = model.apply(variables, batch.x, key=key, train=True)
        return mean_loss(loss, outputs, batch), moved

    (value, moved), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, params)
    new = ({**moved, "params": optax.apply_updates(params, updates)}, optimizer_state)
    finite = jnp.isfinite(value) & _all_finite(new[0])
    alive = jnp.isnan(state.diverged_at)
    (variables, optimizer_state) = jax.tree.map(
        lambda ours, last: jnp.where(alive & finite, ours, last),
        new,
        (state.variables, state.optimizer),
    )
    this = state.step.astype(state.diverged_at.dtype)
    diverged_at = jnp.where(alive & ~finite, this, state.diverged_at)
    return State(state.step + 1, variables, optimizer_state, diverged_at)


def _all_finite(tree: Any) -> Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()


def _measure(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    probes: Sequence[Probe],
) -> dict[str, Labelled | Coordinate]:
    passed = flow(model, loss, state.variables, batch)
    updates, _ = optimizer.update(passed.gradients, state.optimizer, passed.params)
    return measure(probes, passed._replace(updates=updates))


def _validation_name(name: str) -> str:
    return name if name == "layer" else f"validation_{name}"


def _prefix(batch: Batch, size: int, num_used: int | Array | None = None) -> Batch:
    """Return the first examples; those past the ones in use get weight 0."""
    part = jax.tree.map(lambda leaf: leaf[:size], batch)
    return part if num_used is None else in_use(part, num_used)
