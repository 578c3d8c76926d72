"""Regularisers in closed form: dropout and early stopping as ridge, L1 as a soft threshold.

Exact for linear models on a quadratic loss, mode by mode; for networks they are what happens near a
minimum. Weight decay, which acts on any network, is in `weight_decay`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar

FILTER_RATIO = 1.2984256075256390
"""The largest ratio of the early-stopping filter to the ridge filter at `alpha = 1 / time`:
`sup (1 - e^-x) (1 + x) / x`, at x = 1.7933. Source: Ali, Kolter and Tibshirani, 2019,
arXiv:1810.10082."""

RISK_RATIO = FILTER_RATIO**2
"""1.6859, which bounds the risk of gradient flow stopped at t over that of ridge at `1 / t`, for
every design, teacher and noise. Source: Ali, Kolter and Tibshirani, 2019, arXiv:1810.10082 (1.69
there)."""

_MOST_UNITS = 20  # 2^20 masks


def dropout_penalty(weights: Array, x: Array, rate: Scalar, curvature: Scalar = 1.0) -> Array:
    """Compute the penalty that dropout of the inputs adds to a linear model's expected loss.

    `1/2 delta/(1-delta) sum_ij V_i x_ij^2 w_j^2`, summed over examples: ridge with each input
    weighed by its size. Dropout is inverted, `x_ij -> x_ij b_ij / (1-delta)`. Exact for squared
    errors; for other losses of a linear output it is the second-order term.

    Args:
        weights: `[input]` w.
        x: `[example, input]`.
        rate: delta, the probability to drop an input, in [0, 1).
        curvature: V, the second derivative of each example's loss in its output, `[]` or
            `[example]`: 1 for `1/2 error^2`, 2 for `error^2`, `p (1-p)` for logistic loss.

    Returns:
        The penalty, `[]`: the expected sum of losses less the sum without dropout.

    Source: Wager, Wang and Liang, 2013, arXiv:1307.1493.
    """
    curvature = jnp.broadcast_to(jnp.asarray(curvature, x.dtype), x.shape[:1])
    return rate / (1 - rate) * (curvature @ x**2) @ weights**2 / 2


def dropout_ridge_weights(x: Array, y: Array, rate: Scalar) -> Array:
    """Compute the weights that minimise the squared error expected under dropout of the inputs.

    `(X'X + delta/(1-delta) diag(X'X))^-1 X'y`.

    Args:
        x: `[example, input]`.
        y: `[example]` targets.
        rate: delta, the probability to drop an input, in (0, 1).

    Returns:
        `[input]`.

    Source: Wager, Wang and Liang, 2013, arXiv:1307.1493.
    """
    gram = x.T @ x
    return jnp.linalg.solve(gram + rate / (1 - rate) * jnp.diag(jnp.diag(gram)), x.T @ y)


def dropout_masks(num_units: int, rate: Scalar) -> tuple[Array, Array]:
    """List every dropout mask of a layer with its probability.

    Args:
        num_units: the units, 1 to 20.
        rate: the probability to drop a unit, in (0, 1).

    Returns:
        `(masks [mask, unit] bool, True where kept, probability [mask])`, 2^num_units of them.

    Raises:
        ValueError: more masks than memory should hold.

    Example:
        >>> masks, probability = dropout_masks(2, 0.25)
        >>> masks.astype(int).tolist(), probability.tolist()
        ([[0, 0], [0, 1], [1, 0], [1, 1]], [0.0625, 0.1875, 0.1875, 0.5625])
    """
    if not 1 <= num_units <= _MOST_UNITS:
        raise ValueError(
            f"num_units: expected 1 to {_MOST_UNITS}, since 2^num_units masks are listed, got "
            f"{num_units}; draw masks for wider layers"
        )
    (rate,) = floats(rate)
    masks = np.stack([np.arange(2**num_units) >> i & 1 for i in range(num_units)][::-1], axis=1)
    kept = jnp.asarray(masks.sum(1), rate.dtype)
    return jnp.asarray(masks == 1), rate ** (num_units - kept) * (1 - rate) ** kept


def geometric_mean(logits: Array, probability: Array) -> Array:
    """Compute the normalised geometric mean of an ensemble's predicted distributions.

    `softmax(sum_m p_m log softmax(logits_m))`. For a softmax of a linear layer under all dropout
    masks it is exactly the network with its weights times `1 - rate` (weight scaling), or with
    inverted dropout the network without dropout; for deeper networks only about so.

    Args:
        logits: `[mask, ..., class]`.
        probability: `[mask]`, of sum 1.

    Returns:
        `[..., class]` probabilities.

    Source: Srivastava et al., 2014, JMLR 15:1929; Goodfellow, Bengio and Courville, 2016, Deep
        Learning, section 7.12.
    """
    logs = jax.nn.log_softmax(logits, axis=-1)
    return jax.nn.softmax(jnp.tensordot(probability, logs, axes=1), axis=-1)


def early_stopping_filter(eigenvalue: Scalar, learning_rate: Scalar, num_steps: Scalar) -> Array:
    """Compute the part of a mode that gradient descent from 0 has learnt: `1 - (1 - eta lam)^tau`.

    Args:
        eigenvalue: lam of the Hessian, with `eta lam < 1`.
        learning_rate: eta.
        num_steps: tau.

    Returns:
        The weight over its minimiser's, of the arguments' shape.

    Source: Goodfellow, Bengio and Courville, 2016, Deep Learning, section 7.8.
    """
    eigenvalue, learning_rate, num_steps = floats(eigenvalue, learning_rate, num_steps)
    return -jnp.expm1(num_steps * jnp.log1p(-learning_rate * eigenvalue))


def ridge_filter(eigenvalue: Scalar, penalty: Scalar) -> Array:
    """Compute the part of a mode that ridge keeps: `lam / (lam + alpha)`.

    Args:
        eigenvalue: lam of the Hessian of the loss.
        penalty: alpha, of `alpha/2 |w|^2` added to the loss.

    Returns:
        The weight over its minimiser's, of the arguments' shape.

    Source: Goodfellow, Bengio and Courville, 2016, Deep Learning, section 7.1.1.
    """
    eigenvalue, penalty = floats(eigenvalue, penalty)
    return eigenvalue / (eigenvalue + penalty)


def matching_penalty(eigenvalue: Scalar, learning_rate: Scalar, num_steps: Scalar) -> Array:
    """Find the ridge penalty whose filter equals early stopping's at one eigenvalue.

    From `(1 - eta lam)^tau = alpha / (lam + alpha)`: `alpha = lam / ((1 - eta lam)^-tau - 1)`. It
    is `1 / (eta tau)` at small eigenvalues, less at large ones.

    Args:
        eigenvalue: lam, at least 0, with `eta lam < 1`.
        learning_rate: eta.
        num_steps: tau.

    Returns:
        alpha, of the arguments' shape.

    Source: Goodfellow, Bengio and Courville, 2016, Deep Learning, section 7.8.

    Example:
        >>> print(ridge_filter(2.0, matching_penalty(2.0, 0.01, 10)).round(4))
        0.1829
    """
    eigenvalue, learning_rate, num_steps = floats(eigenvalue, learning_rate, num_steps)
    positive = eigenvalue > 0
    safe = jnp.where(positive, eigenvalue, 1)
    growth = jnp.expm1(-num_steps * jnp.log1p(-learning_rate * safe))
    return jnp.where(positive, safe / growth, 1 / (learning_rate * num_steps))


def soft_threshold(weights: Array, threshold: Scalar) -> Array:
    """Shrink weights towards 0 by a threshold, to 0 exactly where they are below it.

    `sign(w) max(|w| - t, 0)`: with `t = alpha / H_ii` the minimiser of
    `sum_i H_ii/2 (w_i - w*_i)^2 + alpha |w_i|`, and with `t = eta alpha` the proximal step of L1.

    Args:
        weights: w*, of any shape.
        threshold: t, at least 0, `[]` or of the weights' shape.

    Returns:
        The shrunk weights.

    Source: Goodfellow, Bengio and Courville, 2016, Deep Learning, section 7.1.2.
    """
    return jnp.sign(weights) * jnp.maximum(jnp.abs(weights) - threshold, 0)
