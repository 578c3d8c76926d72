"""One training step of one member, and what is measured between steps.

A member is alive until its loss or parameters stop being finite or a rule stops it; from then on
its variables and its optimiser's state stay as they are.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.data import in_use
from jaxnn.probes import Probe, flow, mean_loss, measure
from jaxnn.training.watching import Watch
from jaxnn.types import Batch, Coordinate, Labelled, Loss, Model, Variables


class State(NamedTuple):
    """What the next step needs, and nothing that only a reader wants."""

    step: Array  # [] number of the next step
    variables: Variables
    optimizer: Any
    diverged_at: Array  # [] first step that was not finite; NaN while all were
    watch: Watch | None = None  # of the stopping rule, where there is one

    @property
    def alive(self) -> Array:
        """[] bool, False once the member is frozen."""
        alive = jnp.isnan(self.diverged_at)
        return alive if self.watch is None else alive & jnp.isnan(self.watch.stopped_at)


def take_step(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    key: Array,
) -> State:
    """Take one optimiser step, unless the member is frozen or would leave the finite numbers.

    An optimiser that asks for them gets `value`, the loss, and `grad_fn`, params -> gradient, of
    this batch with the same dropout.
    """
    params = state.variables["params"]

    def objective(params: Any) -> tuple[Array, Variables]:
        variables = {**state.variables, "params": params}
        outputs, _, moved = model.apply(variables, batch.x, key=key, train=True)
        return mean_loss(loss, outputs, batch), moved

    def value_of(params: Any) -> Array:
        return objective(params)[0]

    (value, moved), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    updates, optimizer_state = _update(optimizer, state, params, value, gradients, value_of)
    new = ({**moved, "params": optax.apply_updates(params, updates)}, optimizer_state)
    finite = jnp.isfinite(value) & _all_finite(new[0])
    alive = state.alive
    (variables, optimizer_state) = jax.tree.map(
        lambda ours, last: jnp.where(alive & finite, _of_dtype(ours, last.dtype), last),
        new,
        (state.variables, state.optimizer),
    )
    this = state.step.astype(state.diverged_at.dtype)
    diverged_at = jnp.where(alive & ~finite, this, state.diverged_at)
    return State(state.step + 1, variables, optimizer_state, diverged_at, state.watch)


def measured(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    probes: Sequence[Probe],
) -> dict[str, Labelled | Coordinate]:
    """Measure probes on a batch, with the updates that the optimiser would make of it."""
    passed = flow(model, loss, state.variables, batch)

    def value_of(params: Any) -> Array:
        return evaluated(model, loss, {**state.variables, "params": params}, batch)

    updates, _ = _update(optimizer, state, passed.params, passed.loss, passed.gradients, value_of)
    return measure(probes, passed._replace(updates=updates, optimizer_state=state.optimizer))


def evaluated(model: Model, loss: Loss, variables: Variables, batch: Batch) -> Array:
    """Return the mean loss `[]` of a batch in evaluation."""
    outputs, _, _ = model.apply(variables, jnp.asarray(batch.x))
    return mean_loss(loss, outputs, batch)


def prefix(batch: Batch, size: int, num_used: int | Array | None = None) -> Batch:
    """Return the first examples; those past the ones in use get weight 0."""
    part = jax.tree.map(lambda leaf: leaf[:size], batch)
    return part if num_used is None else in_use(part, num_used)


def _update(
    optimizer: optax.GradientTransformation,
    state: State,
    params: Any,
    value: Array,
    gradients: Any,
    value_of: Callable[[Any], Array],
) -> tuple[Any, Any]:
    """Return updates and the optimiser's next state, giving it what it asks for beyond gradients.

    Names are optax's. What a `**extra_args` takes is asked for too.
    """

    def gradient_of(params: Any, *_: Any) -> Any:
        return jax.grad(value_of)(params)

    offered = {"value": value, "grad_fn": gradient_of}
    asked = inspect.signature(optimizer.update).parameters
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in asked.values()):
        offered = {name: each for name, each in offered.items() if name in asked}
    return optimizer.update(gradients, state.optimizer, params, **offered)


def _of_dtype(value: Array, dtype: Any) -> Array:
    """Return an array in a dtype; random keys have one alone, and no conversion."""
    return value if jnp.result_type(value) == dtype else jnp.asarray(value, dtype)


def _all_finite(tree: Any) -> Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
