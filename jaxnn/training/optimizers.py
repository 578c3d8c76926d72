"""An optax chain whose every number may be traced: rule, penalties, clipping, in the right order.

Any other `optax.GradientTransformation` works in `fit` too. What this adds is the order of the
parts, penalties on kernels only, and the proximal step, in one call that a sweep can batch over.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.types import Scalar


def _sgd(momentum: Scalar | None = None, nesterov: bool = False):
    return optax.identity() if momentum is None else optax.trace(momentum, nesterov)


RULES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adam": optax.scale_by_adam,
    "adamw": optax.scale_by_adam,
    "rmsprop": optax.scale_by_rms,
}
ADAMW_WEIGHT_DECAY = 1e-4  # optax.adamw's


def optimizer(
    rule: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    l2: Scalar | None = None,
    weight_decay: Scalar | None = None,
    l1: Scalar | None = None,
    clip_norm: Scalar | None = None,
    clip_value: Scalar | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """Build an optimiser; every number may be traced, and None leaves its part out.

    In order: the gradient of the L2 penalty in the loss, l2 W, is added; the gradient is clipped;
    the rule scales it; decoupled decay adds weight_decay W; the learning rate scales the step; the
    proximal step of the L1 penalty follows. The penalties touch kernels, not biases.

    Args:
        rule: 'sgd' (options `momentum`, `nesterov`), 'adam' and 'adamw' (`b1`, `b2`, `eps`; adamw
            decays by 1e-4 unless told), or 'rmsprop' (`decay`, `eps`).
        learning_rate: a number, or an optax schedule `step -> rate`.
        l2: coefficient of 1/2 |W|^2 in the loss.
        weight_decay: decoupled decay, W -= learning_rate weight_decay W
            (Loshchilov & Hutter 2017, 1711.05101).
        l1: coefficient of |W|_1; weights reach exactly 0 (soft threshold, Goodfellow et al. 7.1.2).
        clip_norm: largest global gradient norm; `inf` is off (Pascanu et al. 2013, 1211.5063).
        clip_value: largest magnitude of one gradient entry; `inf` is off.
        **options: the rule's own.

    Raises:
        ValueError: the rule is unknown.

    Example:
        >>> transform = optimizer("sgd", 0.1, momentum=0.9, clip_norm=1.0)
        >>> isinstance(transform, optax.GradientTransformation)
        True
    """
    if rule not in RULES:
        raise ValueError(f"rule: unknown optimiser {rule!r}; known: {', '.join(RULES)}")
    if rule == "adamw" and weight_decay is None:
        weight_decay = ADAMW_WEIGHT_DECAY
    parts = [
        None if l2 is None else optax.add_decayed_weights(l2, mask=kernels),
        None if clip_norm is None else optax.clip_by_global_norm(clip_norm),  # pyright: ignore
        None if clip_value is None else optax.clip(clip_value),
        RULES[rule](**options),
        None if weight_decay is None else optax.add_decayed_weights(weight_decay, mask=kernels),
        optax.scale_by_learning_rate(learning_rate),
        None if l1 is None else proximal_l1(l1, learning_rate),
    ]
    return optax.chain(*(part for part in parts if part is not None))


def kernels(params: Any) -> Any:
    """Return a tree of bools, True at the leaves called `kernel`: what penalties apply to."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_kernel(path), params)


def _is_kernel(path: tuple[Any, ...]) -> bool:
    return getattr(path[-1], "key", None) == "kernel"


class ProximalState(NamedTuple):
    """State of `proximal_l1`."""

    num_steps: Array  # [] taken


def proximal_l1(l1: Scalar, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """End a chain with the proximal step of l1 |W|_1: W <- soft(W + update, learning_rate l1).

    soft(w, t) = sign(w) max(|w| - t, 0). Unlike the subgradient it sets weights to exactly zero.
    """

    def init(params: Any) -> ProximalState:
        del params
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: ProximalState, params: Any = None):
        now = learning_rate(state.num_steps) if callable(learning_rate) else learning_rate
        rate = jnp.asarray(now)

        def shrink(path: tuple[Any, ...], step: Array, weight: Array) -> Array:
            if not _is_kernel(path):
                return step
            threshold = rate.astype(weight.dtype) * jnp.asarray(l1, weight.dtype)
            moved = weight + step
            return jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0.0) - weight

        new = jax.tree_util.tree_map_with_path(shrink, updates, params)
        return new, ProximalState(state.num_steps + 1)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
