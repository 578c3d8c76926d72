"""Exact laws of norms at initialisation in networks of finite width, without biases.

In a random Gaussian layer the ratio `r = (|h_out|^2 / n_out) / (|h_in|^2 / n_in)` is independent of
the input. So the logarithm of the norm after L layers is a sum of independent terms: its mean and
its variance are the sums over the layers of the moments given here. The same law holds for the
squared norm of the input-output Jacobian times a fixed vector.

Logarithms, because the moments of r itself are ruled by rare networks once the sum of 1/n_l is
near 1. The usual approximations, -5/(2n) and 5/n for ReLU, are 25% off at n = 20.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import digamma, polygamma


def linear_log_moments(width: int) -> tuple[Array, Array]:
    """Compute the mean and the variance of ln r of a linear layer, weights `N(0, 1 / fan_in)`.

    `r ~ chi2_n / n`: mean `psi(n/2) + ln(2/n)`, variance `psi_1(n/2)`.

    Args:
        width: n, the units of the layer's output.

    Returns:
        `(mean, variance)`, each `[]`, of one layer.

    Source: Hanin and Nica, 2018, arXiv:1812.05994, for the general setting; a standard law.
    """
    half = jnp.asarray(width / 2, float)
    return digamma(half) - jnp.log(half), polygamma(1, half)


def relu_log_moments(width: int) -> tuple[Array, Array]:
    """Compute the mean and the variance of ln r of a ReLU layer with He weights `N(0, 2 / fan_in)`.

    `r ~ (2/n) chi2_K` with `K ~ Binomial(n, 1/2)` active units, given that `K >= 1`. So the mean
    is `E psi(K/2) + ln(4/n)` and the variance `E psi_1(K/2) + Var psi(K/2)`.

    Args:
        width: n, the units of the layer's output; a Python integer, as the sum has n terms.

    Returns:
        `(mean, variance)`, each `[]`, of one layer. A layer without active units, of probability
        2^-n, is left out.

    Source: Hanin, 2018, arXiv:1801.03744, and Hanin and Rolnick, 2018, arXiv:1803.01719, for the
        product of chi-squared variables; the digamma form is ours.

    Example:
        >>> mean, variance = relu_log_moments(20)
        >>> print((5 * variance).round(3))  # ln r after 5 layers; 5 L / n would say 1.25
        1.559
    """
    active = np.arange(1, width + 1)
    log_odds = np.cumsum(np.log((width - active + 1) / active))  # of K = 1..n, up to a constant
    odds = np.exp(log_odds - log_odds.max())
    probability, half = jnp.asarray(odds / odds.sum()), jnp.asarray(active / 2)
    centred = digamma(half) - np.log(width / 4)
    mean = jnp.sum(probability * centred)
    spread = jnp.sum(probability * (centred - mean) ** 2)
    return mean, jnp.sum(probability * polygamma(1, half)) + spread
