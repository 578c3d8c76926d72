"""Noise and stability of gradient descent on a quadratic, and what noise means for batch size.

The `*_limit` functions bound the sharpness: on a quadratic, descent diverges exactly when the
Hessian's largest eigenvalue is above, and full-batch training of networks hovers there (the edge of
stability). Measuring noise in a network is for `jaxnn.probes`.
"""

import jax.numpy as jnp
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar


def heavy_ball_limit(learning_rate: Scalar, momentum: Scalar = 0.0) -> Array:
    """Compute the sharpness above which gradient descent with momentum diverges: `(2 + 2b) / eta`.

    Steps `v = b v + g`, `w = w - eta v`; without momentum the limit is `2 / eta`.

    Args:
        learning_rate: eta.
        momentum: b, in [0, 1).

    Returns:
        The limit, of the arguments' shape.

    Source: Cohen et al., 2021, arXiv:2103.00065.
    """
    rate, momentum = floats(learning_rate, momentum)
    return (2 + 2 * momentum) / rate


def nesterov_limit(learning_rate: Scalar, momentum: Scalar) -> Array:
    """Compute the sharpness above which Nesterov's momentum diverges: `(2 + 2b)/(eta (1 + 2b))`.

    Steps `v = b v + g`, `w = w - eta (g + b v)`.

    Args:
        learning_rate: eta.
        momentum: b, in [0, 1).

    Returns:
        The limit, of the arguments' shape.

    Source: Cohen et al., 2021, arXiv:2103.00065.
    """
    rate, momentum = floats(learning_rate, momentum)
    return (2 + 2 * momentum) / (rate * (1 + 2 * momentum))


def adam_limit(learning_rate: Scalar, momentum: Scalar = 0.9) -> Array:
    """Compute the preconditioned sharpness above which Adam diverges: `(2 + 2b) / (eta (1 - b))`.

    That of `P^-1 H`, with P the diagonal `sqrt(v) + eps` held still: `38 / eta` for b = 0.9. The
    bias correction of the first steps is left out.

    Args:
        learning_rate: eta.
        momentum: b, Adam's beta_1.

    Returns:
        The limit, of the arguments' shape.

    Source: Cohen et al., 2022, arXiv:2207.14484.
    """
    rate, momentum = floats(learning_rate, momentum)
    return (2 + 2 * momentum) / (rate * (1 - momentum))


def stationary_variance(
    learning_rate: Scalar,
    curvature: Scalar,
    noise: Scalar,
    batch: Scalar = 1,
    momentum: Scalar = 0.0,
) -> Array:
    """Compute the variance of a weight that SGD holds at the minimum of a quadratic.

    `eta s^2 / (B lam) * (1 + b) / ((1 - b) (2 + 2b - eta lam))`; without momentum
    `eta s^2 / (B lam (2 - eta lam))`. So noise depends on `eta / B` alone only while `eta lam` is
    small, and diverges at `heavy_ball_limit`.

    Args:
        learning_rate: eta.
        curvature: lam of the loss `lam/2 w^2`.
        noise: s^2, the variance of one example's gradient.
        batch: B, examples a step.
        momentum: b, of heavy ball: `v = b v + g`, `w = w - eta v`.

    Returns:
        Var w, of the arguments' shape; inf from the limit of stability on.

    Source: Goyal et al., 2017, arXiv:1706.02677, for the rule of `eta / B`; the variance of an
        autoregressive process, exact.

    Example:
        >>> print(stationary_variance(0.1, 1.0, 1.0, batch=4).round(5))
        0.01316
    """
    rate, lam, noise, batch, b = floats(learning_rate, curvature, noise, batch, momentum)
    margin = 2 + 2 * b - rate * lam
    stable = margin > 0
    factor = (1 + b) / ((1 - b) * jnp.where(stable, margin, 1))
    return jnp.where(stable, rate * noise / (batch * lam) * factor, jnp.inf)


def largest_step(gradient: Array, hessian: Array) -> Array:
    """Compute the learning rate of the best step along a gradient without noise.

    `eps_max = |G|^2 / G'HG`.

    Args:
        gradient: `[parameter]` G, of the expected loss.
        hessian: `[parameter, parameter]` H.

    Returns:
        eps_max, `[]`.

    Source: McCandlish et al., 2018, arXiv:1812.06162.
    """
    return gradient @ gradient / (gradient @ hessian @ gradient)


def noise_scale(gradient: Array, hessian: Array, covariance: Array) -> Array:
    """Compute the batch size at which noise takes half of a step's gain: `tr(H S) / G'HG`.

    With H a multiple of the identity it is the simple noise scale `tr S / |G|^2`.

    Args:
        gradient: `[parameter]` G, of the expected loss.
        hessian: `[parameter, parameter]` H.
        covariance: `[parameter, parameter]` S, of the gradients of single examples.

    Returns:
        B_noise in examples, `[]`.

    Source: McCandlish et al., 2018, arXiv:1812.06162.
    """
    return jnp.sum(hessian * covariance.T) / (gradient @ hessian @ gradient)


def optimal_learning_rate(largest: Scalar, noise_scale: Scalar, batch: Scalar) -> Array:
    """Compute the learning rate that lowers the expected loss most: `eps_max / (1 + B_noise/B)`.

    The decrease falls by the same factor.

    Args:
        largest: eps_max, that of an infinite batch.
        noise_scale: B_noise, in examples.
        batch: B.

    Returns:
        eps_opt, of the arguments' shape.

    Source: McCandlish et al., 2018, arXiv:1812.06162.
    """
    largest, scale, batch = floats(largest, noise_scale, batch)
    return largest / (1 + scale / batch)


def steps_and_examples(
    batch: Scalar, least_steps: Scalar, least_examples: Scalar
) -> tuple[Array, Array]:
    """Compute the price of a training at a batch size, in steps and in examples.

    `S = S_min (1 + B_crit/B)` and `E = B S = E_min (1 + B/B_crit)` with `B_crit = E_min / S_min`, a
    point of the hyperbola `(S/S_min - 1) (E/E_min - 1) = 1`.

    Args:
        batch: B.
        least_steps: S_min, the steps that no batch size undercuts.
        least_examples: E_min, the examples that no batch size undercuts.

    Returns:
        `(steps, examples)` to the same loss, each of the arguments' shape.

    Source: McCandlish et al., 2018, arXiv:1812.06162.
    """
    batch, least_steps, least_examples = floats(batch, least_steps, least_examples)
    steps = least_steps + least_examples / batch
    return steps, batch * steps
