"""Least squares in closed form: double descent, learning over time and over the amount of data.

Linear regression on Gaussian inputs, which need not be a network to overfit. Exact at finite size
in the mean over training sets, but for `spectrum_error`, the limit of many examples and features.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar


def weak_features_risk(
    num_features: Scalar, num_examples: Scalar, chosen: Scalar, missed: Scalar, noise: Scalar
) -> Array:
    """Compute the test error of minimum-norm least squares on p of D standard normal features.

    `(|b_Tc|^2 + s^2) (1 + p/(n-p-1))` for p <= n - 2, inf for n - 1 <= p <= n + 1, and
    `|b_T|^2 (1 - n/p) + (|b_Tc|^2 + s^2) (1 + n/(p-n-1))` for p >= n + 2.

    Args:
        num_features: p, the features in use.
        num_examples: n.
        chosen: |b_T|^2, the squared norm of the teacher's weights on them.
        missed: |b_Tc|^2, that on the other D - p features.
        noise: s^2, the variance of the targets' noise, which the error includes.

    Returns:
        `E (y - x w)^2` over training sets and a new example, of the arguments' shape. (Its variance
        over training sets is infinite close to p = n.)

    Source: Belkin, Hsu and Xu, 2019, arXiv:1903.07571.

    Example:
        >>> print(weak_features_risk(30, 40, 0.25, 0.75, 0.0).round(2))
        3.25
    """
    p, n, chosen, missed, noise = floats(num_features, num_examples, chosen, missed, noise)
    unexplained = missed + noise
    under, over = p <= n - 2, p >= n + 2
    few = unexplained * (1 + p / jnp.where(under, n - p - 1, 1))
    many = chosen * (1 - n / p) + unexplained * (1 + n / jnp.where(over, p - n - 1, 1))
    return jnp.where(under, few, jnp.where(over, many, jnp.inf))


def isotropic_excess_risk(
    num_features: Scalar, num_examples: Scalar, signal: Scalar, noise: Scalar
) -> Array:
    """Compute the excess test error of minimum-norm least squares on all of p features.

    `s^2 p/(n-p-1)` below the interpolation threshold, whatever the teacher: the learning curve of
    ordinary least squares. Above it `|b|^2 (1 - n/p) + s^2 n/(p-n-1)`; inf for |p - n| <= 1.

    Args:
        num_features: p, standard normal features.
        num_examples: n.
        signal: |b|^2, the squared norm of the teacher.
        noise: s^2, the variance of the targets' noise, which is not counted in the result.

    Returns:
        `E |w - b|^2`, of the arguments' shape.

    Source: Hastie, Montanari, Rosset and Tibshirani, 2019, arXiv:1903.08560.
    """
    p, n, signal, noise = floats(num_features, num_examples, signal, noise)
    under, over = p <= n - 2, p >= n + 2
    few = noise * p / jnp.where(under, n - p - 1, 1)
    many = signal * (1 - n / p) + noise * n / jnp.where(over, p - n - 1, 1)
    return jnp.where(under, few, jnp.where(over, many, jnp.inf))


def student_error(
    time: Scalar,
    eigenvalues: Array,
    num_examples: Scalar,
    teacher_variance: Scalar,
    initial_variance: Scalar,
    noise: Scalar,
) -> Array:
    """Compute the error of a linear student in the course of training by gradient flow.

    `E|w(t) - w*|^2 = sum_i (s_w^2 + s_0^2) e^(-2 lam_i t) + s^2 (1 - e^(-lam_i t))^2 / (lam_i P)`.
    Modes without data (lam = 0) stay at their first error; small lam learns noise late, so there is
    a best time to stop. Exact for the given inputs, in the mean over teacher, student and noise.

    Args:
        time: t, `[]`, of gradient flow on `1/(2P) |y - X w|^2`.
        eigenvalues: `[mode]` lam_i of `X'X / P`, all N of them, zeros included.
        num_examples: P.
        teacher_variance: s_w^2 of each of the teacher's weights.
        initial_variance: s_0^2 of each of the student's weights at t = 0.
        noise: s^2, the variance of the targets' noise.

    Returns:
        `[]`: for inputs of unit covariance the test error without the noise of the target.

    Source: Advani and Saxe, 2017, arXiv:1710.03667.
    """
    first = teacher_variance + initial_variance
    learnt = -jnp.expm1(-eigenvalues * time)
    positive = eigenvalues > 0
    noisy = jnp.where(positive, learnt**2 / jnp.where(positive, eigenvalues, 1), 0)
    return jnp.sum(first * (1 - learnt) ** 2 + noise / num_examples * noisy)


def optimal_ridge(num_examples: Scalar, teacher_variance: Scalar, noise: Scalar) -> Array:
    """Compute the ridge penalty of least test error: `s^2 / (s_w^2 P)`, for every design.

    Args:
        num_examples: P.
        teacher_variance: s_w^2 of each of the teacher's weights, Gaussian with mean 0.
        noise: s^2, the variance of the targets' noise.

    Returns:
        lam of `1/(2P) |y - X w|^2 + lam/2 |w|^2`, of the arguments' shape.

    Source: Advani and Saxe, 2017, arXiv:1710.03667.
    """
    num_examples, teacher_variance, noise = floats(num_examples, teacher_variance, noise)
    return noise / (teacher_variance * num_examples)


def spectrum_error(eigenvalues: Array, num_examples: Scalar) -> Array:
    """Compute the error of minimum-norm least squares on features of a given spectrum, no noise.

    `n kappa`, where `sum_i lam_i / (lam_i + kappa) = n`, in the mean over a teacher of unit
    variance on every feature. The limit of large n; within a few per cent from n = 20 on.

    Args:
        eigenvalues: `[feature]` lam_i > 0, the variances of the features.
        num_examples: n, `[]`.

    Returns:
        `E sum_i lam_i (w_i - b_i)^2`, `[]`; 0 from n = the number of features on.

    Source: Bordelon, Canatar and Pehlevan, 2020, arXiv:2002.02561, in the form for a teacher whose
        weights are equally likely in every direction.
    """
    num = jnp.asarray(num_examples, eigenvalues.dtype)
    spare = jnp.maximum(eigenvalues.size - num, 0)
    enough = spare <= 0

    def excess(log_kappa: Array) -> Array:
        return jnp.sum(eigenvalues / (eigenvalues + jnp.exp(log_kappa))) - num

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = excess(middle) > 0
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low = jnp.log(jnp.min(eigenvalues) * jnp.where(enough, 1, spare) / num)
    high = jnp.log(jnp.sum(eigenvalues) / num)
    bracket = jax.lax.stop_gradient((low, high))
    guess = jax.lax.stop_gradient(jax.lax.fori_loop(0, 60, halve, bracket)[0])
    slope = jax.lax.stop_gradient(jax.grad(excess)(guess))
    log_kappa = guess - excess(guess) / slope  # a step of Newton's, which also has the gradients
    return jnp.where(enough, 0, num * jnp.exp(log_kappa))


def power_law_error(num_examples: Scalar, exponent: Scalar) -> Array:
    """Compute the error of least squares on infinitely many features of a power-law spectrum.

    For `lam_i = i^-(1+a)` it is `n^-a (c / sin c)^(1+a)` with `c = pi / (1+a)`: the exponent of the
    learning curve is that of the spectrum less 1.

    Args:
        num_examples: n.
        exponent: a > 0.

    Returns:
        `E sum_i lam_i (w_i - b_i)^2` for a teacher of unit variance on every feature, without
        noise, of the arguments' shape; the limit of large n.

    Source: Bordelon, Canatar and Pehlevan, 2020, arXiv:2002.02561, for the exponent; the constant
        is ours, from `spectrum_error` with the sum as an integral.
    """
    num_examples, exponent = floats(num_examples, exponent)
    angle = math.pi / (1 + exponent)
    return num_examples**-exponent * (angle / jnp.sin(angle)) ** (1 + exponent)
