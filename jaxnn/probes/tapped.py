"""One tapped forward and backward pass: the raw material of every probe."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from jaxnn.types import Activation, Batch, Loss, Model, Taps, Variables


class Flow(NamedTuple):
    """What one pass over a batch shows, and the network itself; a probe is a pure function of it.

    A pytree of arrays: `activation` and the functions inside the `Partial`s are static. Where the
    network shows no taps, `taps`, `backward` and `tapped` are None, and `measure` refuses probes
    that have the dim "layer".
    """

    loss: Array  # [] mean loss of the batch
    outputs: Array  # [batch, ..., out]
    targets: Array  # [batch] or [batch, out]; [batch, time] where outputs have a time axis
    weight: Array  # [batch] weights of the examples, their sum 1
    taps: Taps  # [layer, batch, unit] pre and post
    backward: Array  # [layer, batch, unit] dL/dz, L the mean loss
    params: dict[str, Any]
    gradients: dict[str, Any]  # dL/dparams
    updates: dict[str, Any] | None  # what the optimiser would add to params for these gradients
    activation: Activation | None
    active: Array | None  # [layer] bool
    x: Any = None  # [batch, ...] the inputs
    network: Any = None  # Partial (params, x) -> outputs, the evaluation pass
    tapped: Any = None  # Partial (params, x, shift) -> (outputs, taps), the evaluation pass
    example_loss: Any = None  # Partial (outputs, targets) -> [batch]
    optimizer_state: Any = None  # before the updates; None unless set

    def loss_at(self, params: Any) -> Array:
        """Return the mean loss `[]` of the batch at other parameters, in evaluation."""
        losses = self.example_loss(self.network(params, self.x), self.targets)
        return jnp.sum(self.weight * losses)


class _Outputs(NamedTuple):
    """The evaluation pass; equal for equal networks, so that flows of one have one structure."""

    apply: Callable[..., Any]

    def __call__(self, rest: Variables, params: Any, x: Array) -> Array:
        return self.apply({**rest, "params": params}, x)[0]


class _OutputsAndTaps(NamedTuple):
    """The evaluation pass with its taps and shifts."""

    apply: Callable[..., Any]

    def __call__(
        self, rest: Variables, params: Any, x: Array, shift: Array | None
    ) -> tuple[Array, Taps]:
        outputs, taps, _ = self.apply({**rest, "params": params}, x, shift=shift)
        return outputs, taps


_ACTIVATION = Flow._fields.index("activation")


def _leaves_and_static(flow: Flow) -> tuple[tuple[Any, ...], Activation | None]:
    return flow[:_ACTIVATION] + flow[_ACTIVATION + 1 :], flow.activation


def _whole(static: Activation | None, leaves: tuple[Any, ...]) -> Flow:
    return Flow._make([*leaves[:_ACTIVATION], static, *leaves[_ACTIVATION:]])


jax.tree_util.register_pytree_node(Flow, _leaves_and_static, _whole)


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
        train: pass through the network as in training (dropout, batch statistics). The functions
            that the flow holds evaluate, whatever this is.
    """
    rest = {name: group for name, group in variables.items() if name != "params"}
    x = jnp.asarray(batch.x)

    def objective(
        params: dict[str, Any], shift: Array | None
    ) -> tuple[Array, tuple[Array, Taps | None]]:
        outputs, taps, _ = model.apply(
            {**rest, "params": params}, x, key=key, train=train, shift=shift
        )
        return mean_loss(loss, outputs, batch), (outputs, taps)

    params = variables["params"]
    shown = jax.eval_shape(objective, params, None)[1][1]
    shift = None if shown is None else jnp.zeros(shown.pre.shape, shown.pre.dtype)
    gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (value, (outputs, taps)), (gradients, backward) = gradient(params, shift)
    return Flow(
        value,
        outputs,
        jnp.asarray(batch.y),
        example_weight(batch, outputs.dtype),
        cast(Taps, taps),
        backward,
        params,
        gradients,
        None,
        model.activation,
        model.active,
        x,
        Partial(_Outputs(model.apply), rest),
        None if taps is None else Partial(_OutputsAndTaps(model.apply), rest),
        Partial(loss),
    )
