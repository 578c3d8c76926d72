"""Weight decay in closed form: alone, and against gradients of scale-invariant weights.

`decoupled_factor` is AdamW's decay. The others are for weights followed by batch norm: their
gradient is orthogonal to them and goes as 1 / |w|, so that decay and gradient reach an equilibrium
in which the norm stands still and the direction turns by a constant angle.
"""

import jax.numpy as jnp
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar


def decoupled_factor(learning_rate: Scalar, weight_decay: Scalar, num_steps: Scalar) -> Array:
    """Compute what decoupled weight decay leaves of a weight without gradients: `(1-eta lam)^T`.

    Exact for AdamW, and for SGD with L2, whose penalty is `lam/2 |w|^2`. Adam with the same penalty
    in its loss instead moves by about eta a step whatever lam is.

    Args:
        learning_rate: eta.
        weight_decay: lam, with `eta lam < 1`.
        num_steps: T.

    Returns:
        The weight over its initial value, of the arguments' shape.

    Source: Loshchilov and Hutter, 2017, arXiv:1711.05101.
    """
    learning_rate, weight_decay, num_steps = floats(learning_rate, weight_decay, num_steps)
    return jnp.exp(num_steps * jnp.log1p(-learning_rate * weight_decay))


def normalised_decay(
    weight_decay: Scalar, batch: Scalar, num_examples: Scalar, num_epochs: Scalar
) -> Array:
    """Scale a normalised weight decay to a training budget: `lam_norm sqrt(b / (B T))`.

    Args:
        weight_decay: lam_norm, the value that carries over between budgets.
        batch: b, examples of a batch.
        num_examples: B, examples of the training set.
        num_epochs: T.

    Returns:
        lam for this budget, of the arguments' shape.

    Source: Loshchilov and Hutter, 2017, arXiv:1711.05101.
    """
    decay, batch, examples, epochs = floats(weight_decay, batch, num_examples, num_epochs)
    return decay * jnp.sqrt(batch / (examples * epochs))


def equilibrium_norm(learning_rate: Scalar, weight_decay: Scalar, gradient_norm: Scalar) -> Array:
    """Compute the norm at which gradients and decay balance in scale-invariant weights.

    `|w|^4 = eta |g|^2 / (lam (2 - eta lam))`, exact for SGD's steps `w - eta (g / |w| + lam w)`
    with g orthogonal to w and of constant norm; the papers' form is its first order,
    `eta |g|^2 / (2 lam)`.

    Args:
        learning_rate: eta.
        weight_decay: lam, of `lam/2 |w|^2`.
        gradient_norm: |g|, the norm of the gradient times that of the weights (which is that of the
            gradient on the unit sphere).

    Returns:
        |w|, of the arguments' shape.

    Source: van Laarhoven, 2017, arXiv:1706.05350; Wan et al., 2020, arXiv:2006.08419.

    Example:
        >>> print(equilibrium_norm(0.1, 0.01, 1.0).round(4))
        1.4955
    """
    rate, decay, gradient = floats(learning_rate, weight_decay, gradient_norm)
    return (rate * gradient**2 / (decay * (2 - rate * decay))) ** 0.25


def equilibrium_angle(learning_rate: Scalar, weight_decay: Scalar) -> Array:
    """Compute the angle by which scale-invariant weights turn at each step in equilibrium.

    `acos(1 - eta lam)`, to first order `sqrt(2 eta lam)`: only the product of the two matters.

    Args:
        learning_rate: eta.
        weight_decay: lam, of `lam/2 |w|^2`.

    Returns:
        Radians per step, of the arguments' shape.

    Source: Wan et al., 2020, arXiv:2006.08419, for the first order; the exact form is ours.
    """
    rate, decay = floats(learning_rate, weight_decay)
    return 2 * jnp.arcsin(jnp.sqrt(rate * decay / 2))


def norm_over_time(
    num_steps: Scalar,
    initial_norm: Scalar,
    learning_rate: Scalar,
    weight_decay: Scalar,
    gradient_norm: Scalar,
) -> Array:
    """Compute the norm of scale-invariant weights on the way to equilibrium.

    `|w|^4 = E + (|w_0|^4 - E) e^(-4 eta lam t)`, E the fourth power of `equilibrium_norm`: small
    steps, eta lam << 1. Equilibrium takes several times `1 / (4 eta lam)` steps.

    Args:
        num_steps: t.
        initial_norm: |w_0|.
        learning_rate: eta.
        weight_decay: lam, of `lam/2 |w|^2`.
        gradient_norm: |g|, the norm of the gradient on the unit sphere.

    Returns:
        |w| after t steps, of the arguments' shape.

    Source: van Laarhoven, 2017, arXiv:1706.05350, for the equilibrium; the approach is ours.
    """
    steps, initial, rate, decay = floats(num_steps, initial_norm, learning_rate, weight_decay)
    final = equilibrium_norm(learning_rate, weight_decay, gradient_norm) ** 4
    left = jnp.exp(-4 * rate * decay * steps)
    return (final + (initial**4 - final) * left) ** 0.25
