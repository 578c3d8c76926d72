"""Risks against simulated regressions, and against exact means over teachers and noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from jaxnn.theory import least_squares

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("num_features", [8, 13, 30, 60])
def test_weak_features_risk_is_that_of_simulated_fits(num_features):
    rng, num, total, repeats, noise = np.random.default_rng(0), 20, 60, 2000, 0.5
    teacher = np.linspace(0.05, 0.3, total)
    x = rng.normal(size=(repeats, num, total))
    y = x @ teacher + noise * rng.normal(size=(repeats, num))
    used = x[:, :, :num_features]
    if num_features < num:
        gram = used.transpose(0, 2, 1) @ used
        w = np.linalg.solve(gram, used.transpose(0, 2, 1) @ y[:, :, None])[:, :, 0]
    else:
        gram = used @ used.transpose(0, 2, 1)
        w = (used.transpose(0, 2, 1) @ np.linalg.solve(gram, y[:, :, None]))[:, :, 0]
    chosen, missed = teacher[:num_features], teacher[num_features:]
    risks = np.sum((w - chosen) ** 2, axis=1) + missed @ missed + noise**2
    expected = least_squares.weak_features_risk(
        num_features, num, chosen @ chosen, missed @ missed, noise**2
    )
    assert abs(risks.mean() - expected) < 4 * risks.std() / math.sqrt(repeats)


def test_risks_have_their_published_values_and_threshold():
    np.testing.assert_allclose(
        least_squares.weak_features_risk(100, 40, 1.0, 0.0, 0.25), 1.0195, atol=5e-5
    )
    p = np.array([1, 10, 38, 39, 40, 41, 42, 100])
    whole = jax.jit(least_squares.weak_features_risk)(p, 40, 1.3, 0.0, 0.25)
    excess = jax.jit(least_squares.isotropic_excess_risk)(p, 40, 1.3, 0.25)
    np.testing.assert_array_equal(np.isinf(excess), np.abs(p - 40) <= 1)
    np.testing.assert_allclose(whole - 0.25, excess, rtol=1e-12)
    np.testing.assert_allclose(excess[1], 0.25 * 10 / (40 - 10 - 1), rtol=1e-12)


@pytest.mark.parametrize("num", [9, 4], ids=["more-examples", "fewer-examples"])
def test_student_error_is_the_mean_over_teachers_and_noise(num):
    x = np.random.default_rng(0).normal(size=(num, 6))
    covariance = x.T @ x / num
    times, found = np.array([0.0, 0.3, 2.0, 50.0]), []
    for t in times:  # w(t) - w* = F (w_0 - w*) + G X'e / P, F = exp(-At), A G = 1 - F
        left = linalg.expm(-covariance * t)
        learnt = np.linalg.pinv(covariance) @ (np.eye(6) - left) @ x.T / num
        found.append((0.7 + 0.1) * np.sum(left**2) + 0.4 * np.sum(learnt**2))
    eigenvalues = np.linalg.eigvalsh(covariance)
    eigenvalues = np.where(eigenvalues > 1e-12, eigenvalues, 0)
    expected = jax.jit(jax.vmap(least_squares.student_error, (0, *(None,) * 5)))(
        times, eigenvalues, num, 0.7, 0.1, 0.4
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_optimal_ridge_is_where_the_risk_is_least():
    eigenvalues, num, signal, noise = jnp.array([3.0, 1.0, 0.2, 0.0]), 12, 0.6, 0.3

    def risk(penalty):  # of ridge, in the mean over teachers and noise
        bias = signal * (penalty / (eigenvalues + penalty)) ** 2
        return jnp.sum(bias + noise / num * eigenvalues / (eigenvalues + penalty) ** 2)

    best = least_squares.optimal_ridge(num, signal, noise)
    slope, curvature = jax.jit(lambda p: (jax.grad(risk)(p), jax.hessian(risk)(p)))(best)
    assert abs(slope) < 1e-12 < curvature


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_spectrum_error_is_that_of_simulated_fits(exponent):
    rng, total, num, repeats = np.random.default_rng(0), 600, 30, 150
    eigenvalues = np.arange(1.0, total + 1) ** -(1 + exponent)
    x = rng.normal(size=(repeats, num, total)) * np.sqrt(eigenvalues)
    teacher = rng.normal(size=(repeats, total, 1))
    w = x.transpose(0, 2, 1) @ np.linalg.solve(x @ x.transpose(0, 2, 1), x @ teacher)
    errors = np.sum(eigenvalues * ((w - teacher)[:, :, 0]) ** 2, axis=1)
    expected = jax.jit(least_squares.spectrum_error)(eigenvalues, num)
    # 4 standard errors of a mean over fits, and 1% for corrections in 1 / n
    error = 4 * errors.std() / math.sqrt(repeats) + 0.01 * expected
    assert abs(errors.mean() - expected) < error


def test_spectrum_error_solves_its_equation():
    eigenvalues = jnp.array([4.0, 2.0, 1.0, 0.5, 0.1])
    error = jax.jit(jax.vmap(least_squares.spectrum_error, (None, 0)))
    found = error(eigenvalues, np.array([1.0, 3.0, 4.9, 5.0, 9.0]))
    np.testing.assert_array_equal(found[3:], 0)
    for n, kappa in zip((1.0, 3.0, 4.9), found / np.array([1.0, 3.0, 4.9, 5.0, 9.0]), strict=False):
        np.testing.assert_allclose(np.sum(eigenvalues / (eigenvalues + kappa)), n, rtol=1e-12)
    slope = jax.jit(jax.grad(least_squares.spectrum_error, 1))(eigenvalues, 3.0)
    ahead, behind = error(eigenvalues, np.array([3 + 1e-5, 3 - 1e-5]))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-6)


def test_learning_curve_of_a_power_law_has_its_exponent():
    num, error = np.array([100.0, 1000.0]), jax.jit(least_squares.spectrum_error)
    for exponent in (1.0, 2.0):
        found = least_squares.power_law_error(num, exponent)
        np.testing.assert_allclose(np.log10(found[1] / found[0]), -exponent, rtol=1e-12)
        eigenvalues = np.arange(1.0, 100_001) ** -(1 + exponent)
        # the sum differs from the integral by 1 / (2n), and features end at 100 n
        finite = error(eigenvalues, 1000.0)
        np.testing.assert_allclose(finite, found[1], rtol=0.015)
    # 2,500 features, n = 20 to 160: slopes -.575 and -.981 were measured, to some 0.03
    curve = [error(np.arange(1.0, 2501) ** -1.5, n) for n in (20.0, 160.0)]
    assert abs(np.log(curve[1] / curve[0]) / math.log(8) + 0.575) < 0.03
