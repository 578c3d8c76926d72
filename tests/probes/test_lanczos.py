"""Lanczos' method on small matrices: exact moments, and those on which a recurrence goes wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.probes import lanczos

# sums of some hundred terms of order 1 in float64
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def small():
    """A symmetric matrix [11, 11] with a cluster, and quadratures of it by 4 and by all steps."""
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.standard_normal((11, 11)))
    matrix = (basis * np.array([*np.linspace(-2, 1, 8), 1.5, 1.5 + 1e-6, 7.0])) @ basis.T
    vectors = rng.choice([-1.0, 1.0], (3, 11))

    @jax.jit
    def run(matrix, vectors):
        product = functools.partial(jnp.matmul, matrix)
        return [lanczos.quadrature(product, vectors, steps) for steps in (4, 50)]

    with jax.enable_x64(True):
        return matrix, vectors, jax.device_get(run(matrix, vectors))


def test_quadrature_has_exact_moments(small):
    """k steps: z^T A^p z / |z|^2 for p up to 2 k - 1, and no further."""
    matrix, vectors, ((values, shares), _) = small
    for power in range(9):
        exact = np.einsum("vi,ij,vj->v", vectors, np.linalg.matrix_power(matrix, power), vectors)
        moments = np.sum(shares * values**power, axis=1)
        if power < 8:
            close(moments, exact / 11)
        else:
            assert np.all(np.abs(moments / (exact / 11) - 1) > 1e-6)


def test_quadrature_of_all_steps_is_the_spectrum(small):
    matrix, vectors, (_, (values, shares)) = small
    exact, basis = np.linalg.eigh(matrix)
    close(np.sort(values, axis=1), [exact] * 3, rtol=1e-7, atol=1e-9)
    expected = (vectors @ basis) ** 2 / 11
    order = np.argsort(values, axis=1)
    found = np.take_along_axis(shares, order, axis=1)
    # all but the two of the cluster, whose vectors mix
    close(found[:, [*range(8), 10]], expected[:, [*range(8), 10]], rtol=1e-6, atol=1e-8)
    close(shares.sum(axis=1), 1.0)


SPECIAL = {  # matrices on which the recurrence ends early, or whose squares leave float32
    "zero": (np.zeros(6), 1.0),
    "identity": (np.ones(6), 1.0),
    "rank_one": (np.array([3.0, 0, 0, 0, 0, 0]), 1.0),
    "positive": (np.array([2.0, 2, 2, 5, 5, 5]), 1.0),
    "tiny": (np.arange(1.0, 7.0), 1e-30),
    "huge": (np.arange(1.0, 7.0), 1e30),
}


@pytest.fixture(scope="module")
def special():
    """Extremes and quadratures of the special matrices, in one float32 program."""

    @jax.jit
    @jax.vmap
    def run(matrix, vectors):
        product = functools.partial(jnp.matmul, matrix)
        return (
            lanczos.extreme_values(product, vectors[0], 5),
            lanczos.quadrature(product, vectors, 5),
        )

    rng = np.random.default_rng(8)
    vectors = rng.choice([-1.0, 1.0], (2, 6)).astype(np.float32)
    basis = {"zero": np.eye(6), "identity": np.eye(6)}
    turned, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    matrices = [
        ((basis.get(name, turned) * values) @ basis.get(name, turned).T * scale).astype(np.float32)
        for name, (values, scale) in SPECIAL.items()
    ]
    results = jax.device_get(run(np.stack(matrices), np.stack([vectors] * len(SPECIAL))))

    def of_matrix(place):
        return jax.tree.map(lambda leaf: leaf[place], results)

    return {name: of_matrix(place) for place, name in enumerate(SPECIAL)}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_matrices_keep_their_extremes(special, name):
    """Nothing is reached outside the spectrum, and all of it where few steps span the space."""
    values, scale = SPECIAL[name]
    (found, residuals), (nodes, shares) = special[name]
    size = np.abs(values).max() * scale
    tolerance = 1e-5 * size  # float32: rounding 6e-8 x a row sum of the small matrix x its steps
    for each in (found, nodes):
        assert np.all(np.isfinite(each))
        assert np.all(each <= (values.max()) * scale + tolerance)
        assert np.all(each >= (values.min()) * scale - tolerance)
    assert residuals[0] <= 0.2 * size
    if name not in ("tiny", "huge"):  # at most two distinct eigenvalues
        np.testing.assert_allclose(found[0], values.max() * scale, atol=tolerance)
        np.testing.assert_allclose(residuals[0], 0, atol=tolerance)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)


def test_extremes_survive_the_copies_of_converged_eigenvalues():
    """60 steps in float32, long after the recurrence has lost its vectors' right angles."""
    exact = np.concatenate([[-3.0], np.linspace(-1, 1, 197), [5.0, 9.0]]).astype(np.float32)
    start = np.random.default_rng(0).choice([-1.0, 1.0], 200).astype(np.float32)
    run = jax.jit(lambda exact, start: lanczos.extreme_values(lambda v: exact * v, start, 60))
    values, residuals = jax.device_get(run(exact, start))
    rounding = 60 * 9 * 1.2e-7  # of each step, times the norm
    assert abs(values[0] - 9) < rounding
    assert abs(values[-1] + 3) < rounding
    assert max(residuals[0], residuals[-1]) < rounding
