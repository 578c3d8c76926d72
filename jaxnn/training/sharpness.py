"""Sharpness-aware minimisation as the first part of a chain."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnn.types import Scalar


def sharpness_aware(radius: Scalar) -> optax.GradientTransformationExtraArgs:
    """Replace the gradient by the one at W + radius g / |g|, the worst point near by.

    It costs a second gradient a step, of the same batch with the same dropout, and as much again
    wherever a probe reads the optimiser's updates. |g| is the norm of all gradients together.

    Args:
        radius: the paper's rho; may be traced; 0 is off, at the same cost.

    Returns:
        A transformation whose update needs `grad_fn(params) -> gradients`; `fit` gives it.

    Raises:
        TypeError: at the update, without `grad_fn`.

    Source:
        Foret et al. 2021, 2010.01412, equations 2 and 3.
    """

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        grad_fn: Callable[[Any], Any] | None = None,
        **others: Any,
    ):
        del others
        if grad_fn is None:
            raise TypeError(
                "sam: expected grad_fn, since a second gradient is taken, got none; call "
                "update(gradients, state, params, grad_fn=jax.grad(loss)), as jn.fit does"
            )
        norm = optax.tree.norm(updates)
        scale = jnp.asarray(radius, norm.dtype) / jnp.where(norm > 0, norm, 1.0)
        worst = jax.tree.map(lambda w, g: w + scale.astype(w.dtype) * g, params, updates)
        return grad_fn(worst), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
