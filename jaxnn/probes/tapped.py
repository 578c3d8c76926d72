"""One tapped forward and backward pass: the raw material of every probe."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.types import Activation, Batch, Loss, Model, Taps, Variables


class Flow(NamedTuple):
    """What one pass over a batch shows; a probe is a pure function of it."""

    loss: Array  # [] mean loss of the batch
    outputs: Array  # [batch, out]
    targets: Array  # [batch] or [batch, out]
    weight: Array  # [batch] weights of the examples, their sum 1
    taps: Taps  # [layer, batch, unit] pre and post
    backward: Array  # [layer, batch, unit] dL/dz, L the mean loss
    params: dict[str, Any]
    gradients: dict[str, Any]  # dL/dparams
    updates: dict[str, Any] | None  # what the optimiser would add to params for these gradients
    activation: Activation | None
    active: Array | None  # [layer] bool


def example_weight(batch: Batch, dtype: Any) -> Array:
    """Return the examples' weights `[batch]`, scaled to sum 1 (uniform where none are given).

    Where all are 0 they stay 0.
    """
    size = batch.x.shape[0]
    if batch.weight is None:
        return jnp.full((size,), 1.0 / size, dtype)
    weight = jnp.asarray(batch.weight, dtype)
    total = jnp.sum(weight)
    return weight / jnp.where(total > 0, total, 1.0)


def mean_loss(loss: Loss, outputs: Array, batch: Batch) -> Array:
    """Return the weighted mean of the examples' losses."""
    return jnp.sum(example_weight(batch, outputs.dtype) * loss(outputs, jnp.asarray(batch.y)))


def flow(
    model: Model,
    loss: Loss,
    variables: Variables,
    batch: Batch,
    *,
    key: Array | None = None,
    train: bool = False,
) -> Flow:
    """Run one forward and one backward pass over a batch and return all that it shows.

    The backward signals are the gradient of the mean loss with respect to `shift`, a zero added to
    every pre-activation. Under jit, whatever no probe reads is never computed.

    Args:
        model: the network.
        loss: per-example loss, `(outputs, targets) -> [batch]`.
        variables: the network's variables.
        batch: the examples to measure on.
        key: for layers that draw.
        train: pass through the network as in training (dropout, batch statistics).
    """
    rest = {name: group for name, group in variables.items() if name != "params"}
    x = jnp.asarray(batch.x)

    def objective(params: dict[str, Any], shift: Array | None) -> tuple[Array, tuple[Array, Taps]]:
        outputs, taps, _ = model.apply(
            {**rest, "params": params}, x, key=key, train=train, shift=shift
        )
        return mean_loss(loss, outputs, batch), (outputs, taps)

    params = variables["params"]
    pre = jax.eval_shape(objective, params, None)[1][1].pre
    shift = jnp.zeros(pre.shape, pre.dtype)
    gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (value, (outputs, taps)), (gradients, backward) = gradient(params, shift)
    return Flow(
        value,
        outputs,
        jnp.asarray(batch.y),
        example_weight(batch, outputs.dtype),
        taps,
        backward,
        params,
        gradients,
        None,
        model.activation,
        model.active,
    )
