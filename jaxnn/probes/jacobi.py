"""Singular values and eigenvectors of small matrices by Jacobi rotations, in array operations.

For the few rows of a Lanczos matrix or of a network's Jacobian. Unlike LAPACK's they run on every
device side by side (`jaxnn.sweep` gives programs that call LAPACK one CPU device before jaxlib
0.12), and small singular values keep their leading digits. Rows are rotated in pairs until all are
orthogonal; a round rotates half as many pairs as there are rows, and a sweep meets every pair once.
"""

import jax
import jax.numpy as jnp
from jax import Array

NUM_SWEEPS = 12  # 20 random rows are orthogonal to 1e-16 after 8, 64 after 9


def singular_values(matrix: Array) -> Array:
    """Return the singular values of a small matrix, largest first.

    Args:
        matrix: `[row, column]`.

    Returns:
        `[min(row, column)]`.

    Source: Hestenes 1958 (SIAM J. 6:51), one-sided Jacobi; pairs by Brent & Luk 1985.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    scale = _nonzero(jnp.max(jnp.abs(wide)))
    rows = _orthogonal_rows(wide / scale)
    return scale * jnp.sort(_lengths(rows), descending=True)[: wide.shape[0]]


def tridiagonal_eigh(diagonal: Array, off_diagonal: Array) -> tuple[Array, Array]:
    """Return the eigenvalues of a symmetric tridiagonal matrix, largest first, and eigenvectors.

    The absolute error is rounding times the largest row sum of magnitudes.

    Args:
        diagonal: `[row]`.
        off_diagonal: `[row - 1]`.

    Returns:
        Eigenvalues `[row]` and eigenvectors as rows, `[eigenvalue, row]`.
    """
    size = diagonal.shape[0]
    matrix = jnp.diag(diagonal) + jnp.diag(off_diagonal, 1) + jnp.diag(off_diagonal, -1)
    scale = _nonzero(jnp.max(jnp.sum(jnp.abs(matrix), axis=1)))
    # eigenvalues now in [1, 3], where the rows of the rotated matrix are eigenvalue x eigenvector
    rows = _orthogonal_rows(matrix / scale + 2.0 * jnp.eye(size, dtype=matrix.dtype))
    lengths = _lengths(rows)
    order = jnp.argsort(lengths, descending=True)[:size]
    vectors = rows[order] / lengths[order, None]
    return scale * (lengths[order] - 2.0), vectors


def _orthogonal_rows(matrix: Array) -> Array:
    """Rotate a matrix's rows among themselves until orthogonal; an odd number gets a zero row."""
    rows = jnp.pad(matrix, ((0, matrix.shape[0] % 2), (0, 0)))
    half = rows.shape[0] // 2
    num_rounds = NUM_SWEEPS * max(rows.shape[0] - 1, 1)

    def turn(pairs: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        upper, lower = _rotated(*pairs)
        if half > 1:  # all rows but one move on by a place, so that each meets each
            upper, lower = (
                jnp.concatenate([upper[:1], lower[:1], upper[1:-1]]),
                jnp.concatenate([lower[1:], upper[-1:]]),
            )
        return (upper, lower), None

    pairs, _ = jax.lax.scan(turn, (rows[:half], rows[half:]), length=num_rounds)
    return jnp.concatenate(pairs)


def _rotated(upper: Array, lower: Array) -> tuple[Array, Array]:
    """Rotate each pair of rows, `[pair, column]` each, by the smaller angle that parts them."""
    overlap = jnp.sum(upper * lower, axis=1)
    apart = jnp.sum(lower**2, axis=1) - jnp.sum(upper**2, axis=1)
    cotangent = apart / (2.0 * jnp.where(overlap == 0, 1.0, overlap))  # of twice the angle
    sign = jnp.where(cotangent < 0, -1.0, 1.0)
    tangent = sign / (jnp.abs(cotangent) + jnp.sqrt(1.0 + cotangent**2))
    tangent = jnp.where(overlap == 0, 0.0, tangent)
    cosine = (1.0 / jnp.sqrt(1.0 + tangent**2))[:, None]
    sine = cosine * tangent[:, None]
    return cosine * upper - sine * lower, sine * upper + cosine * lower


def _lengths(rows: Array) -> Array:
    return jnp.sqrt(jnp.sum(rows**2, axis=1))


def _nonzero(scale: Array) -> Array:
    return jnp.where(scale == 0, 1.0, scale)
