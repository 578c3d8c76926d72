"""Noise of the gradient against gradients of single examples, and alpha on exact parabolas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.types import Batch, Model
from tests import reference
from tests.probes import recorded

EACH_MEMBER = pytest.mark.parametrize("member", recorded.MEMBERS)
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)


def example_gradients(member):
    """The gradient of each example in use, as a numpy network."""
    return [
        reference.evaluate(
            recorded.NETWORKS[member], recorded.X[[i]], recorded.LABELS[[i]], recorded.RELU
        ).gradients
        for i in range(recorded.IN_USE)
    ]


def signal_and_noise(gradients):
    """|G|^2 and tr Sigma of gradients `[example, entry]`, by the formula with two batch sizes.

    Example i is in part i mod 3; six examples are in use, so that B = 6 and b = 2.
    """
    parts = [gradients[start :: recorded.NUM_PARTS].mean(axis=0) for start in range(3)]
    large, small = 6, 2
    of_batch = np.sum(gradients.mean(axis=0) ** 2)
    of_part = np.mean([np.sum(part**2) for part in parts])
    signal = (large * of_batch - small * of_part) / (large - small)
    return signal, (of_part - of_batch) / (1 / small - 1 / large)


@EACH_MEMBER
def test_gradient_noise_equals_its_formula(member):
    flat = np.array([reference.flattened(each) for each in example_gradients(member)])
    signal, trace = signal_and_noise(flat)
    close(recorded.found("gradient_noise_signal", member), signal)
    close(recorded.found("gradient_noise_trace", member), trace)


@EACH_MEMBER
def test_snr_equals_its_formula_for_each_layer(member):
    gradients = example_gradients(member)
    for level in range(recorded.DEPTH):
        kernels = np.array([each[level][0].ravel() for each in gradients])
        signal, trace = signal_and_noise(kernels)
        close(recorded.found("grad_snr", member)[level], signal / trace)


POPULATION, BATCH, BATCHES, DIMENSIONS = 40, 12, 4000, 3


def linear():
    """A linear network without taps."""

    def apply(variables, x, **_):
        return x @ variables["params"]["kernel"], None, variables

    return Model(lambda key, x: {"params": {"kernel": jnp.zeros((x.shape[1], 1))}}, apply)


@functools.cache
def estimates():
    """The exact |G|^2 and tr Sigma of a linear regression, and estimates from many batches."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((POPULATION, DIMENSIONS))
    weights = rng.standard_normal((DIMENSIONS, 1))
    targets = x @ rng.standard_normal((DIMENSIONS, 1)) + rng.standard_normal((POPULATION, 1))
    each = x * (x @ weights - targets)  # of 1/2 (w x - t)^2
    mean = each.mean(axis=0)
    exact = np.sum(mean**2), np.mean(np.sum((each - mean) ** 2, axis=1))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def run(kernel, x, targets):
        # unequal weights count too: the last part has fewer examples, and they weigh half as much
        weight = jnp.where(jnp.arange(BATCH) < BATCH - 4, 1.0, 0.5)
        batch = Batch(x, targets, weight)
        flow = probes.flow(linear(), jn.squared_error, {"params": {"kernel": kernel}}, batch)
        found = probes.measure([probes.gradient_noise(5)], flow)
        return [found[f"gradient_noise_{name}"].values for name in ("signal", "trace")]

    drawn = rng.integers(0, POPULATION, (BATCHES, BATCH))
    with jax.enable_x64(True):
        return exact, jax.device_get(run(weights, x[drawn], targets[drawn]))


@pytest.mark.parametrize("place", [0, 1], ids=["signal", "trace"])
def test_estimates_are_unbiased(place):
    """E3. Three standard errors of the mean over independent batches."""
    exact, found = estimates()
    error = np.std(found[place], ddof=1) / np.sqrt(BATCHES)
    assert abs(np.mean(found[place]) - exact[place]) < 3 * error
    assert error < 0.05 * exact[place]  # the test sees biases of a seventh


def test_noise_scale_of_averages_is_the_exact_one():
    """The ratio's error to first order (delta method), three of them; single ratios are far off."""
    (signal, trace), (signals, traces) = estimates()
    expected = trace / signal
    found = probes.noise_scale(traces, signals)
    spread = np.std(traces / signal - expected * signals / signal, ddof=1) / np.sqrt(BATCHES)
    assert abs(found - expected) < 3 * spread
    assert abs(np.mean(traces / signals) - expected) > 10 * spread


@EACH_MEMBER
def test_grad_cosine_equals_the_mean_over_pairs(member):
    signals = recorded.evaluated(member).signals
    for level, signal in enumerate(signals):
        used = signal[: recorded.IN_USE]
        length = np.linalg.norm(used, axis=1)
        unit = used / np.where(length > 0, length, 1.0)[:, None]
        pairs = unit @ unit.T
        n = recorded.IN_USE
        expected = (pairs.sum() - np.trace(pairs)) / (n * (n - 1))
        close(recorded.found("grad_cosine", member)[level], expected)


def test_grad_cosine_of_vanishing_signals_is_that_of_their_directions():
    """In float32, at 1e-30, where squares are 0."""
    rng = np.random.default_rng(1)
    signals = rng.standard_normal((1, 4, 6)).astype(np.float32)
    blank = probes.Flow(*[None] * 11)._replace(weight=jnp.full(4, 0.25))
    run = jax.jit(lambda signals: probes.grad_cosine.measure(blank._replace(backward=signals)))
    np.testing.assert_allclose(run(signals * np.float32(1e-30)), run(signals), rtol=1e-5)


# Autocorrelation


def test_autocorrelation_equals_its_formula():
    """Of a quadratic network, whose input gradient is known."""
    rng = np.random.default_rng(4)
    matrix, x = rng.standard_normal((2, 2)), rng.standard_normal((9, 2))

    def network(matrix, x):
        return 0.5 * jnp.sum((x @ matrix) * x, axis=1, keepdims=True)

    with jax.enable_x64(True):
        run = jax.jit(
            lambda matrix, x: probes.gradient_autocorrelation(network, matrix, x, num_lags=3)
        )
        found = run(matrix, x)
    slopes = x @ (matrix + matrix.T) / 2
    slopes = slopes - slopes.mean(axis=0)
    expected = [np.sum(slopes[: 9 - lag] * slopes[lag:]) for lag in range(4)]
    close(found, np.array(expected) / expected[0])


def test_autocorrelation_with_too_few_points_is_refused():
    with pytest.raises(ValueError, match="num_lags: expected 0 to 4 for 5 inputs, got 5"):
        probes.gradient_autocorrelation(lambda p, x: x, None, jnp.ones((5, 1)), num_lags=5)


# Alpha


def test_alpha_tells_where_on_a_parabola_the_step_ends():
    """L = c/2 |w|^2 and a step of -rate c w: the minimum is at t = 1 / (rate c), so
    alpha = rate c - 1; and for unequal curvatures the parabola along the step."""
    curvature = np.array([1.0, 4.0])
    start = np.array([[2.0], [1.0]])

    def loss(outputs, targets):
        del targets
        return 0.5 * outputs[:, 0] ** 2  # rows of x pick a weight each, scaled

    @jax.jit
    @jax.vmap
    def run(x, rate):
        flow = probes.flow(linear(), loss, {"params": {"kernel": jnp.asarray(start)}}, Batch(x, x))
        updates = jax.tree.map(lambda leaf: -rate * leaf, flow.gradients)
        return probes.measure([probes.step_alpha], flow._replace(updates=updates))

    with jax.enable_x64(True):
        round_bowl, long_bowl = np.eye(2) * np.sqrt(2), np.diag(np.sqrt(2 * curvature))
        rates = np.array([1e-6, 1.0, 2.0, 0.2])
        inputs = np.stack([round_bowl] * 3 + [long_bowl])
        found = run(inputs, rates)["step_alpha"].values
    gradient = curvature * start[:, 0]
    minimum = gradient @ gradient / (0.2 * gradient @ (curvature * gradient))
    # differences of losses over a step of 1e-6 lose six digits
    np.testing.assert_allclose(found, [-1 + 1e-6, 0, 1, 1 / minimum - 1], rtol=1e-9, atol=1e-9)


@EACH_MEMBER
def test_alpha_equals_a_least_squares_fit(member):
    """The four equations of value and slope at both ends, solved by numpy."""
    network, step = recorded.NETWORKS[member], recorded.evaluated(member).gradients
    moved = [
        (kernel - recorded.RATE * gradient, bias - recorded.RATE * bias_gradient)
        for (kernel, bias), (gradient, bias_gradient) in zip(network, step, strict=True)
    ]
    ends = [
        reference.evaluate(each, recorded.X, recorded.LABELS, recorded.RELU, weight=recorded.WEIGHT)
        for each in (network, moved)
    ]
    direction = -recorded.RATE * reference.flattened(step)
    slopes = [reference.flattened(end.gradients) @ direction for end in ends]
    rows = np.array([[0, 0, 1], [1, 1, 1], [0, 1, 0], [2, 1, 0]], float)  # of a t^2 + b t + c
    (a, b, _), *_ = np.linalg.lstsq(rows, [ends[0].loss, ends[1].loss, *slopes], rcond=None)
    close(recorded.found("step_alpha", member), -(2 * a + b) / b, rtol=1e-8)


@pytest.mark.parametrize("build", [probes.gradient_noise, probes.grad_snr])
def test_one_part_is_refused(build):
    with pytest.raises(ValueError, match="num_parts: expected at least 2, got 1"):
        build(1)
