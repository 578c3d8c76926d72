"""Batch norm: gradients that explode with depth, its backward pass, and what it does to skips.

Networks of infinite width at initialisation, batch norm over B examples in training mode, before
the nonlinearity, with an epsilon far below the variances. The growth of gradients is that of the
squared norm of dL/dz from one layer to the one below, away from the first layer (whose inputs are
not the output of batch norm) and from the top few.
"""

import math

import jax.numpy as jnp
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar

RELU_GRADIENT_GROWTH = math.pi / (math.pi - 1)
"""Growth of squared gradients per layer of batch norm and ReLU in the limit of large batches:
1.46694, the norm 1.2112. Source: Yang et al., 2019, arXiv:1902.08129."""


def linear_gradient_growth(batch: Scalar) -> Array:
    """Compute the growth of squared gradients per layer with batch norm and no nonlinearity.

    `(B - 2) / (B - 3)`, exact at infinite width; inf for B of 3 or less.

    Args:
        batch: B, the examples that batch norm averages over.

    Returns:
        The growth of `|dL/dz|^2` over one layer backward, of the argument's shape.

    Source: Yang et al., 2019, arXiv:1902.08129, for the effect; this form is ours.
    """
    (batch,) = floats(batch)
    finite = batch > 3
    return jnp.where(finite, (batch - 2) / jnp.where(finite, batch - 3, 1), jnp.inf)


def relu_gradient_growth(batch: Scalar) -> Array:
    """Compute the growth of squared gradients per layer with batch norm and ReLU.

    Batch norm's output y of a unit is uniform on a sphere of B - 1 dimensions, so two examples
    correlate by `rho = -1/(B-1)`, and with `p = 1/4 + asin(rho)/(2 pi)`, the probability that both
    are active, and `c = (sqrt(1-rho^2) + rho (pi - acos(rho))) / (2 pi) = E[relu(y1) relu(y2)]`,

        growth = B / ((B-1)(B-3)(1/2 - c)) * ((B-3)/2 + 1/B + (B-1)(p+c)/B),

    exact at infinite width for every B; `pi/(pi-1)` as B grows, inf for B of 3 or less. The factor
    `B/(B-3)` is `E[1/s^2]` of the batch's deviation s, whose variance is infinite up to B = 5.

    Args:
        batch: B, the examples that batch norm averages over.

    Returns:
        The growth of `|dL/dz|^2` over one layer backward, of the argument's shape.

    Source: Yang et al., 2019, arXiv:1902.08129, for the effect and the limit; this form is ours.

    Example:
        >>> print(relu_gradient_growth(16).round(3))
        1.59
    """
    (size,) = floats(batch)
    finite = size > 3
    size = jnp.where(finite, size, 4)
    rho = -1 / (size - 1)
    both = 1 / 4 + jnp.arcsin(rho) / (2 * math.pi)
    product = (jnp.sqrt(1 - rho**2) + rho * (math.pi - jnp.arccos(rho))) / (2 * math.pi)
    passed = ((size - 3) / 2 + 1 / size + (size - 1) * (both + product) / size) / (size - 1)
    return jnp.where(finite, size / (size - 3) / (1 / 2 - product) * passed, jnp.inf)


def backward_squared_norm(signal: Array, normalised: Array, scale: Scalar, std: Scalar) -> Array:
    """Compute the squared norm of a unit's gradient behind batch norm from the one before it.

    `|dL/dz|^2 = (gamma^2 / sigma^2) (|g|^2 - <1, g>^2 / m - <g, y>^2 / m)`: batch norm scales the
    gradient by gamma/sigma and takes out its mean and its part along the unit's own output.

    Args:
        signal: g, `[batch]` gradient of the loss with respect to batch norm's output.
        normalised: y, `[batch]` output of batch norm before its scale and shift, of mean 0 and
            mean square 1.
        scale: gamma.
        std: sigma, the batch's standard deviation of z.

    Returns:
        `|dL/dz|^2`, `[]`. An identity, with an epsilon of 0.

    Source: Santurkar et al., 2018, arXiv:1805.11604, theorem 4.1, which holds with equality.
    """
    mean_part = jnp.sum(signal) ** 2 / signal.shape[0]
    own_part = jnp.sum(signal * normalised) ** 2 / signal.shape[0]
    return (scale / std) ** 2 * (jnp.sum(signal**2) - mean_part - own_part)


def stream_second_moment(num_blocks: Scalar) -> Array:
    """Compute the second moment of the stream after blocks `x + W relu(BN(x))` with He weights.

    `l + 1` from inputs of second moment 1: each branch adds 1, where one without batch norm doubles
    the stream (`mean_field.residual_variance_map`).

    Source: De and Smith, 2020, arXiv:2002.10444.
    """
    (num_blocks,) = floats(num_blocks)
    return num_blocks + 1


def stream_batch_variance(num_blocks: Scalar) -> Array:
    """Compute the variance over the batch of the stream after blocks `x + W relu(BN(x))`.

    `1 + (1 - 1/pi) l`: the mean of ReLU is shared by the examples and is no part of the variance.

    Source: De and Smith, 2020, arXiv:2002.10444, for the setting; this form is ours.
    """
    (num_blocks,) = floats(num_blocks)
    return 1 + (1 - 1 / math.pi) * num_blocks


def branch_share(num_blocks: Scalar) -> Array:
    """Compute the share of the last of l branches in the stream's second moment: `1 / (l + 1)`.

    So batch norm weighs deep branches down, towards the identity; without it the share is 1/2 at
    every depth. A branch scale of 0 or `1/sqrt(l)` (SkipInit) does the same without batch norm.

    Source: De and Smith, 2020, arXiv:2002.10444.
    """
    return 1 / stream_second_moment(num_blocks)
