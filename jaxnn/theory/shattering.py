"""Shattered gradients: how the gradients at two inputs decorrelate with depth in ReLU networks.

The correlation of the gradients of the output with respect to two inputs, at initialisation and
infinite width. The first laws are for pre-activations that stay uncorrelated between the inputs,
as under batch norm or centring, where two inputs share a quarter of the active units at each layer.
Plain networks with He weights do not: their inputs' correlation tends to 1, and `plain_he` holds.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar


def centred_correlation(num_layers: Scalar) -> Array:
    """Compute the gradients' correlation in a feed-forward network of centred layers: `2^-L`.

    White noise in the limit: 1/4 of the units are active at both inputs, 1/2 at one.

    Source: Balduzzi et al., 2017, arXiv:1702.08591.
    """
    (num_layers,) = floats(num_layers)
    return jnp.exp2(-num_layers)


def residual_correlation(num_blocks: Scalar, branch_scale: Scalar = 1.0) -> Array:
    """Compute the gradients' correlation over residual blocks `x + beta W relu(z)` with He weights.

    `((1 + beta^2/2) / (1 + beta^2))^L`, which is `(3/4)^L` at beta = 1.

    Args:
        num_blocks: L.
        branch_scale: beta, the factor of the branch.

    Returns:
        The correlation, of the arguments' shape.

    Source: Balduzzi et al., 2017, arXiv:1702.08591.
    """
    num_blocks, branch_scale = floats(num_blocks, branch_scale)
    squared = branch_scale**2
    return ((1 + squared / 2) / (1 + squared)) ** num_blocks


def batch_norm_residual_correlation(num_blocks: Scalar) -> Array:
    """Compute the gradients' correlation over residual blocks `x + W relu(BN(x))` with He weights.

    `prod over l = 0..L-1 of (1 + 1/(2 s_l^2)) / (1 + 1/s_l^2)`, `s_l^2 = 1 + (1 - 1/pi) l` the
    stream's variance over the batch (`batch_norm.stream_batch_variance`). It falls as
    `L^(-pi / (2 pi - 2)) = L^-0.733`. The paper's `1/sqrt(L)` counts the mean of ReLU in s.

    Source: Balduzzi et al., 2017, arXiv:1702.08591, for the setting; this product is ours.
    """
    (num_blocks,) = floats(num_blocks)
    per_block = 1 - 1 / math.pi
    first, second = 1.5 / per_block, 2 / per_block  # s^2 + 1/2 and s^2 + 1 over (1 - 1/pi), at 0
    shift = math.lgamma(second) - math.lgamma(first)
    return jnp.exp(gammaln(num_blocks + first) - gammaln(num_blocks + second) + shift)


def plain_he_correlation(correlation: Scalar, num_layers: int) -> Array:
    """Compute the gradients' correlation in a plain ReLU network with He weights, layer by layer.

    `prod over l of (1 - acos(c_l)/pi)`, with the inputs' correlation mapped by
    `c' = (sqrt(1 - c^2) + c (pi - acos c)) / pi`; it falls as `L^-3`, not `2^-L`.

    Args:
        correlation: c of the first layer's pre-activations: the cosine of the inputs.
        num_layers: L, a Python integer.

    Returns:
        `[layer]`, or `[layer, ...]` for an array: the correlation over the first 1, 2, ..., L
        layers.

    Source: Schoenholz et al., 2017, arXiv:1611.01232, for the maps; Balduzzi et al., 2017,
        arXiv:1702.08591, for the question.
    """
    (start,) = floats(correlation)

    def layer(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        angle, gradients = carry
        gradients = gradients * (1 - angle / math.pi)
        cosine = (jnp.sin(angle) + (math.pi - angle) * jnp.cos(angle)) / math.pi
        return (jnp.arccos(jnp.minimum(cosine, 1)), gradients), gradients

    first = (jnp.arccos(start), jnp.ones_like(start))
    return jax.lax.scan(layer, first, None, num_layers)[1]
