"""Deep linear networks: how their modes are learnt, and the landscape of a linear autoencoder.

`mode_*`: a network of D weight matrices on whitened inputs, from small and aligned weights, learns
each singular mode of the input-output correlation alone. Time is that of gradient flow,
`dW/dt = -dL/dW` with `L = 1/2 |error|^2` summed over outputs and averaged over examples, so step k
of gradient descent is at `t = k * learning_rate`.

`autoencoder_*`: all critical points of `L(A, B) = 1/2 E|x - B A x|^2` with a bottleneck of k units,
known in closed form. They are host-side counts: plain numpy.
"""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar

_NODES = 64  # of the quadrature over a layer's weight; its integrand is smooth


def mode_strength(time: Scalar, final: Scalar, initial: Scalar) -> Array:
    """Compute the strength of a mode of a network of two weight matrices over time.

    `u(t) = s e^(2st) / (e^(2st) - 1 + s/u0)`, the solution of `du/dt = 2u (s - u)`.

    Args:
        time: t, of gradient flow.
        final: s, the singular value of the input-output correlation.
        initial: u0, the product of the two layers' weights at time 0, in (0, s).

    Returns:
        u, of the arguments' shape.

    Source: Saxe, McClelland and Ganguli, 2013, arXiv:1312.6120.

    Example:
        >>> print(mode_strength(mode_time(2.0, 4.0, 0.001), 4.0, 0.001).round(4))
        2.0
    """
    time, final, initial = floats(time, final, initial)
    return final / (1 + (final / initial - 1) * jnp.exp(-2 * final * time))


def mode_velocity(strength: Scalar, final: Scalar, depth: Scalar) -> Array:
    """Compute du/dt of a mode: `D u^(2 - 2/D) (s - u)`, the right-hand side for any depth.

    Args:
        strength: u, the product of the weights of all layers, which are equal (balanced).
        final: s, the singular value of the input-output correlation.
        depth: D, the number of weight matrices, 1 or more.

    Returns:
        The velocity, of the arguments' shape.

    Source: Saxe, McClelland and Ganguli, 2013, arXiv:1312.6120.
    """
    strength, final, depth = floats(strength, final, depth)
    return depth * strength ** (2 - 2 / depth) * (final - strength)


def mode_time(strength: Scalar, final: Scalar, initial: Scalar, depth: Scalar = 2) -> Array:
    """Compute the time at which a mode reaches a strength: the integral of `du / velocity`.

    With `y = (u/s)^(1/D)`, the weight of one layer over its final value,
    `t = s^(2/D - 2) * integral of (y^(1-D) + y / (1 - y^D)) dy`. For D = 2 that is
    `ln[u (s - u0) / (u0 (s - u))] / (2s)`; for other depths a part without singularities is left to
    Gauss-Legendre quadrature (error below 1e-12 to D = 50). Curves over time are drawn from it as
    pairs `(mode_time(u), u)`.

    Args:
        strength: u, in (u0, s).
        final: s, the singular value of the input-output correlation.
        initial: u0, in (0, s).
        depth: D, the number of weight matrices, 1 or more.

    Returns:
        t, of the arguments' shape; inf at u = s.

    Source: Saxe, McClelland and Ganguli, 2013, arXiv:1312.6120, for D = 2 and the velocity; the
        integral for other D is ours.

    Example:
        >>> print(mode_time(0.5, 1.0, 0.001, depth=3).round(3))
        9.145
    """
    arguments = floats(strength, final, initial, depth)
    strength, final, initial, depth = jnp.broadcast_arrays(*arguments)
    start = (initial / final) ** (1 / depth)
    stop = (strength / final) ** (1 / depth)
    points, weights = (jnp.asarray(a, start.dtype) for a in np.polynomial.legendre.leggauss(_NODES))
    points, weights = (a.reshape(_NODES, *(1,) * start.ndim) for a in (points, weights))
    log_y = jnp.log((start[None] + stop[None]) / 2 + (stop - start)[None] / 2 * points)
    rest = jnp.exp(log_y) * jnp.expm1((depth - 2)[None] * log_y) / jnp.expm1(depth[None] * log_y)
    rest = jnp.sum(weights * rest, axis=0) * (stop - start) / 2
    arriving = (jnp.log1p(-initial / final) - jnp.log1p(-strength / final)) / depth + rest
    length = jnp.log(strength / initial) / depth
    leaving = start ** (2 - depth) * length * _exprel((2 - depth) * length)
    return final ** (2 / depth - 2) * (leaving + arriving)


def mode_half_time(final: Scalar, initial: Scalar, depth: Scalar = 2) -> Array:
    """Compute the time at which a mode is half learnt; `ln(s/u0 - 1) / (2s)` for two matrices.

    Args:
        final: s, the singular value of the input-output correlation.
        initial: u0, in (0, s/2).
        depth: D, the number of weight matrices.

    Returns:
        The half-time, of the arguments' shape.

    Source: Saxe, McClelland and Ganguli, 2013, arXiv:1312.6120.
    """
    (half,) = floats(final)
    return mode_time(half / 2, half, initial, depth)


def _exprel(x: Array) -> Array:
    """(e^x - 1) / x."""
    small = jnp.abs(x) < 1e-6
    return jnp.where(small, 1 + x / 2, jnp.expm1(x) / jnp.where(small, 1, x))


def imbalance(first: Array, second: Array) -> Array:
    """Compute what gradient flow conserves of two consecutive layers.

    `first^T first - second second^T` for kernels, whose rows are inputs (in a paper's column
    notation `W1 W1^T - W2^T W2`). It is conserved whole for linear layers, its diagonal for units
    that are positively homogeneous (ReLU) and have no bias; gradient descent drifts in proportion
    to the learning rate.

    Args:
        first: `[fan_in, unit]` kernel into the units.
        second: `[unit, fan_out]` kernel out of them.

    Returns:
        `[unit, unit]`.

    Source: Arora, Cohen and Hazan, 2018, arXiv:1802.06509; Du, Hu and Lee, 2018, arXiv:1806.00900.
    """
    return first.T @ first - second @ second.T


class CriticalPoints(NamedTuple):
    """The kinds of critical points of a linear autoencoder, one for each set of kept directions."""

    kept: np.ndarray  # [point, direction] bool: the eigenvectors that the bottleneck carries
    loss: np.ndarray  # [point] 1/2 E|x - B A x|^2
    saddle_index: np.ndarray  # [point] the number of negative eigenvalues of the Hessian


def autoencoder_critical_points(eigenvalues: np.ndarray, width: int) -> CriticalPoints:
    """List the critical points of a linear autoencoder with their exact losses and indices.

    At each the map B A is the projection on r <= k eigenvectors of the covariance, the set I. The
    loss is `1/2 sum of lambda_j over j not in I`, and the index
    `#{(i in I, j not in I): lambda_j > lambda_i} + (k - r)(d - r)`. Only the first k directions
    have index 0: there are saddles, and one minimum. The index is that of points at which the
    k - r spare units have no weights at all.

    Args:
        eigenvalues: `[direction]` of the inputs' covariance, positive and distinct.
        width: k, the units of the bottleneck.

    Returns:
        One point for each set of at most k directions.

    Raises:
        ValueError: eigenvalues not positive or not distinct, or k not in 1 to d.

    Source: Baldi and Hornik, 1989, Neural Networks 2:53-58; the index formula is ours.

    Example:
        >>> points = autoencoder_critical_points(np.array([3.0, 2.0, 1.0]), width=1)
        >>> points.loss.tolist(), points.saddle_index.tolist()
        ([3.0, 1.5, 2.0, 2.5], [3, 0, 1, 2])
    """
    eigenvalues = np.asarray(eigenvalues, float)
    dim = eigenvalues.size
    if eigenvalues.ndim != 1 or np.any(eigenvalues <= 0) or np.unique(eigenvalues).size < dim:
        raise ValueError(
            f"eigenvalues: expected a vector of positive, distinct numbers, got {eigenvalues}; "
            "with equal ones critical points are not isolated"
        )
    if not 1 <= width <= dim:
        raise ValueError(f"width: expected 1 to {dim} units, as many as directions, got {width}")
    kept = np.zeros((0, dim), bool)
    for rank in range(width + 1):
        chosen = np.array(list(itertools.combinations(range(dim), rank)), int)
        kept = np.concatenate([kept, np.any(chosen[:, :, None] == np.arange(dim), axis=1)])
    missed, rank = ~kept, kept.sum(1)
    loss = (missed * eigenvalues).sum(1) / 2
    larger = (eigenvalues[None, :] > eigenvalues[:, None]).astype(int)  # [kept, missed]
    swaps = np.einsum("pi,ij,pj->p", kept.astype(int), larger, missed.astype(int))
    return CriticalPoints(kept, loss, swaps + (width - rank) * (dim - rank))


def autoencoder_weights(
    eigenvectors: np.ndarray, kept: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Build kernels of a critical point: each kept eigenvector in one unit, spare units at 0.

    Args:
        eigenvectors: `[input, direction]`, orthonormal columns.
        kept: `[direction]` bool, at most `width` of them True.
        width: k, the units of the bottleneck.

    Returns:
        `(encoder [input, width], decoder [width, input])`.

    Source: Baldi and Hornik, 1989, Neural Networks 2:53-58.
    """
    chosen = np.asarray(eigenvectors)[:, np.asarray(kept, bool)]
    encoder = np.pad(chosen, [(0, 0), (0, width - chosen.shape[1])])
    return encoder, encoder.T
