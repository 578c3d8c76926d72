"""Teachers: the targets are what the docstrings say, against least squares and theory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import data

DRAWS = 128


@functools.cache
def linear(noise_std=0.5):
    """Many tasks at once: 10 features, 50 training examples."""

    def draw(key):
        return data.teacher_regression(
            key, 50, num_features=10, noise_std=noise_std, num_held_out=200
        )

    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), DRAWS))
    return jax.tree.map(np.asarray, drawn)


def solve(batch, lane):
    return np.linalg.lstsq(batch.x[lane], batch.y[lane])[0]


def standard_error(values):
    return values.std() / np.sqrt(len(values))


def test_linear_teacher_is_a_unit_vector_and_held_out_targets_are_its_own():
    for lane in range(8):
        weights = solve(linear().validation, lane)
        # 200 exact equations in float32: rounding of 6e-8 in each.
        np.testing.assert_allclose(np.linalg.norm(weights), 1, rtol=1e-5)
        test = linear().test
        np.testing.assert_allclose(test.x[lane] @ weights, test.y[lane], atol=1e-5)


def test_noise_is_on_training_targets_with_its_standard_deviation():
    noise = np.concatenate(
        [
            linear().train.y[lane] - linear().train.x[lane] @ solve(linear().test, lane)
            for lane in range(DRAWS)
        ]
    )
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(len(noise))
    assert abs(noise.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * len(noise))


def test_least_squares_has_its_exact_excess_error():
    """sigma^2 d / (n - d - 1) for n examples of d Gaussian features (claim D13)."""
    test = linear().test
    excess = np.array(
        [
            ((test.x[lane] @ solve(linear().train, lane) - test.y[lane]) ** 2).mean()
            for lane in range(DRAWS)
        ]
    )
    assert abs(excess.mean() - 0.5**2 * 10 / (50 - 10 - 1)) < 4 * standard_error(excess)


def test_noise_may_be_traced_and_only_scales_the_noise():
    def targets(noise_std):
        task = data.teacher_regression(jax.random.key(3), 40, noise_std=noise_std, num_held_out=20)
        return task.train.y, task.test.y

    levels = jnp.array([0.0, 0.5, 2.0])
    train, test = jax.jit(jax.vmap(targets))(levels)
    # 2.0 times the noise is 4 times 0.5 times the noise: rounding of numbers of size 5.
    np.testing.assert_allclose(train[2] - train[0], 4 * (train[1] - train[0]), atol=5e-6)
    assert np.abs(train[1] - train[0]).max() > 0.5
    np.testing.assert_array_equal(test[0], test[2])


def test_network_teacher_has_unit_variance_and_is_not_linear():
    def draw(key):
        return data.teacher_regression(
            key, 1, num_features=5, num_hidden=8, noise_std=0.0, num_held_out=400
        ).test

    test = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), DRAWS))
    power = (np.asarray(test.y) ** 2).mean((1, 2))
    assert abs(power.mean() - 1) < 4 * standard_error(power)
    # tanh of a unit normal: the linear part has the share (E z tanh z)^2 / E tanh^2 = 0.93 of one
    # unit's variance, 7% is left for what no line fits.
    left = [
        ((test.x[lane] @ solve(test, lane) - test.y[lane]) ** 2).mean() for lane in range(DRAWS)
    ]
    assert 0.02 < np.mean(left) < 0.2


def test_two_classes_are_balanced_and_noise_mislabels_as_many_as_it_should():
    def draw(noise_std):
        return data.teacher_classification(
            jax.random.key(2), 4000, num_features=500, noise_std=noise_std, num_held_out=1
        ).train.y

    clean, noisy = np.asarray(jax.jit(jax.vmap(draw))(jnp.array([0.0, 1.0])))
    assert abs(clean.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(clean))
    # The difference of the outputs has variance 2 (1 - r), r the teachers' overlap, of the noises
    # 2: signs differ with probability arctan(1 / sqrt(1 - r)) / pi = 1/4 + r / (4 pi). r has
    # standard deviation 1 / sqrt(500).
    tolerance = 4 * np.sqrt(0.25 * 0.75 / len(clean) + (1 / (4 * np.pi)) ** 2 / 500)
    assert abs((clean != noisy).mean() - 0.25) < tolerance


def power_law(key, exponent, num_train, num_features, num_held_out):
    return data.power_law_regression(
        key, num_train, num_features=num_features, exponent=exponent, num_held_out=num_held_out
    )


def test_power_law_features_have_their_spectrum():
    draw = jax.jit(jax.vmap(lambda a: power_law(jax.random.key(0), a, 4000, 20, 1).train.x))
    exponents = np.array([0.0, 1.0, 2.5])
    for a, x in zip(exponents, np.asarray(draw(jnp.float32(exponents))), strict=True):
        expected = np.arange(1.0, 21) ** -(1 + a)
        covariance = x.T @ x / len(x)
        # Entries of a sample covariance of n: standard error sqrt((1 + [i = j]) l_i l_j / n).
        correlation = covariance / np.sqrt(np.outer(expected, expected))
        np.testing.assert_allclose(correlation, np.eye(20), atol=5 * np.sqrt(2 / len(x)))


def test_power_law_interpolants_learn_at_their_rate():
    """The smallest-norm interpolant's error falls as n^-a (claim D13), here a = 1."""
    draw = jax.jit(jax.vmap(lambda key: power_law(key, 1.0, 160, 1000, 50)))
    tasks = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(5), 8)))
    sizes = np.array([20, 40, 80, 160])
    error = np.zeros(len(sizes))
    for lane in range(8):
        x, y = tasks.train.x[lane].astype(float), tasks.train.y[lane].astype(float)
        for place, size in enumerate(sizes):
            kernel = x[:size] @ x[:size].T
            dual = np.linalg.solve(kernel, y[:size])
            predicted = tasks.test.x[lane] @ (x[:size].T @ dual)
            error[place] += ((predicted - tasks.test.y[lane]) ** 2).mean() / 8
    slope = np.polyfit(np.log(sizes), np.log(error), 1)[0]
    # Known to 0.1 at these sizes: the spectrum ends at 1000, which bends the curve down.
    assert abs(slope + 1) < 0.1, slope
