"""Lanczos' method on a symmetric matrix that is known by its products with vectors.

For eigenvalues at the ends of the spectrum, and for quadratures over all of it. The only module
that uses matfree. No LAPACK call is made: what is small is left to `jaxnn.probes.jacobi`.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.probes.by_layer import norm
from jaxnn.probes.jacobi import tridiagonal_eigh

Product = Callable[[Array], Array]
"""`v [param] -> A v [param]`, with A symmetric."""


def extreme_values(product: Product, start: Array, num_steps: int) -> tuple[Array, Array]:
    """Return estimates of eigenvalues, largest first, with the residual of each: `[step]`.

    The residual is |A v - lambda v| for the eigenvector estimate v, of length 1, that goes with
    lambda; it follows from the recurrence without another product.

    Args:
        product: `v -> A v`.
        start: the first vector `[param]`, of any length.
        num_steps: products, at most the number of parameters.

    Source: Lanczos 1950; Parlett 1998, The Symmetric Eigenvalue Problem, section 13.2.
    """
    diagonal, links = _lanczos(product, start, min(num_steps, start.size))
    values, vectors = tridiagonal_eigh(diagonal, links[:-1])
    return values, jnp.abs(links[-1] * vectors[:, -1])


def quadrature(product: Product, vectors: Array, num_steps: int) -> tuple[Array, Array]:
    """Return a Gauss quadrature of the spectrum for each vector.

    z^T f(A) z / |z|^2 is the sum of f(eigenvalue) x share, exactly so for polynomials f of degree
    below 2 num_steps. The shares need orthogonal vectors: matfree's Arnoldi keeps them so.

    Args:
        product: `v -> A v`.
        vectors: `[vector, param]`.
        num_steps: products for each vector, at most the number of parameters.

    Returns:
        Eigenvalues and their shares, which sum to 1 for each vector: `[vector, step]` each.
    """
    from matfree.decomp import hessenberg  # here, so that importing jaxnn stays light

    arnoldi = hessenberg(min(num_steps, vectors.shape[1]), reortho="full", custom_vjp=False)
    largest = jnp.max(jnp.abs(product(vectors[0])))
    scale = jnp.where(largest > 0, largest, 1.0)  # squares of tiny products would vanish

    def one(vector: Array) -> tuple[Array, Array]:
        matrix = cast(Array, arnoldi(lambda v: product(v) / scale, vector).J_small)
        links = jnp.append(jnp.diagonal(matrix, -1), jnp.zeros((), matrix.dtype))
        diagonal, links = _ended(jnp.diagonal(matrix), links)
        values, parts = tridiagonal_eigh(diagonal, links[:-1])
        return scale * values, parts[:, 0] ** 2

    return jax.lax.map(one, vectors)


def _lanczos(product: Product, start: Array, num_steps: int) -> tuple[Array, Array]:
    """Run Lanczos' three-term recurrence, one product a step.

    Vectors are not made orthogonal anew: for the extreme eigenvalues that only adds copies of those
    that have converged, and it would cost as much as the products, and hold all vectors.

    Returns:
        The diagonal, and the links from each vector to the next, the last one beyond them.
    """

    def step(state: tuple[Array, Array, Array], _: None):
        vector, before, link = state
        image = product(vector)
        along = vector @ image
        rest = image - along * vector - link * before
        length = norm(rest)
        following = jnp.where(length > 0, rest / jnp.where(length > 0, length, 1.0), 0.0)
        return (following, vector, length), (along, length)

    first = start / norm(start)
    state = (first, jnp.zeros_like(first), jnp.zeros((), first.dtype))
    _, (diagonal, links) = jax.lax.scan(step, state, length=num_steps)
    return _ended(diagonal, links)


def _ended(diagonal: Array, links: Array) -> tuple[Array, Array]:
    """End the recurrence where a link is rounding: the vectors span all that the products reach.

    What follows is noise; it is unlinked, and given a value from within the spectrum.
    """
    sizes = jnp.abs(jnp.concatenate([diagonal, links]))
    largest = jnp.max(jnp.where(jnp.isfinite(sizes), sizes, 0.0))
    rounding = 100.0 * jnp.finfo(links.dtype).eps * largest
    linked = jnp.cumprod(links > rounding).astype(bool)
    reached = jnp.concatenate([jnp.ones((1,), bool), linked[:-1]])
    return jnp.where(reached, diagonal, diagonal[0]), jnp.where(linked, links, 0.0)
