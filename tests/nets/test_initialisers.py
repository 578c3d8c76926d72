"""The contract table of initialisers: moments, bounds, orthogonality, traced gains, dtypes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.nets.initialisers import INITIALISERS

FAN_IN, FAN_OUT = SHAPE = (120, 200)
GAIN = 1.5
MEAN_FAN = (FAN_IN + FAN_OUT) / 2

# builder, Var W for gain 1.5, and the distribution: each scheme's formula by hand
CASES = {
    "gaussian": (jn.gaussian, GAIN**2 / FAN_IN, "normal"),
    "gaussian_out": (functools.partial(jn.gaussian, fan="out"), GAIN**2 / FAN_OUT, "normal"),
    "uniform": (jn.uniform, GAIN**2 / 3 / FAN_IN, "uniform"),
    "uniform_out": (functools.partial(jn.uniform, fan="out"), GAIN**2 / 3 / FAN_OUT, "uniform"),
    **{
        f"{scheme}_{fan}_{distribution}": (
            functools.partial(build, fan=fan, distribution=distribution),
            square * GAIN**2 / size,
            distribution,
        )
        for scheme, build, square in (("lecun", jn.lecun, 1.0), ("he", jn.he, 2.0))
        for fan, size in (("in", FAN_IN), ("out", FAN_OUT))
        for distribution in ("normal", "uniform")
    },
    **{
        f"glorot_{distribution}": (
            functools.partial(jn.glorot, distribution=distribution),
            GAIN**2 / MEAN_FAN,
            distribution,
        )
        for distribution in ("normal", "uniform")
    },
    "orthogonal": (jn.orthogonal, GAIN**2 / FAN_OUT, "normal"),  # rows of norm gain in 200 columns
}
EVERY = pytest.mark.parametrize(
    ("build", "variance", "distribution"), CASES.values(), ids=CASES.keys()
)
BUILDERS = pytest.mark.parametrize("build", [case[0] for case in CASES.values()], ids=CASES.keys())
ONE_D = pytest.mark.parametrize(
    ("build", "variance"),
    [
        (jn.gaussian, GAIN**2),
        (jn.uniform, GAIN**2 / 3),
    ],
    ids=["gaussian", "uniform"],
)
KEY = jax.random.key(7)


def assert_moments(draw, variance, excess_kurtosis):
    """Within 4 standard errors: mean sigma / sqrt(n), variance sigma^2 sqrt((2 + excess) / n)."""
    values = np.asarray(draw, float)
    count = values.size
    assert abs(values.mean()) < 4 * math.sqrt(variance / count)
    error = math.sqrt((2 + excess_kurtosis) / count)
    assert abs((values**2).mean() / variance - 1) < 4 * error


@EVERY
def test_mean_is_zero_and_variance_is_the_formula(build, variance, distribution):
    # a uniform variable has excess kurtosis -1.2; entries of an orthogonal kernel are no wider
    # spread than independent normals
    excess = -1.2 if distribution == "uniform" else 0.0
    assert_moments(build(GAIN)(KEY, SHAPE, jnp.float32), variance, excess)


@EVERY
def test_shape_of_distribution_is_as_named(build, variance, distribution):
    """Fourth moment over squared variance: 3 for normals, 9/5 for uniforms, which are bounded."""
    values = np.asarray(build(GAIN)(KEY, SHAPE, jnp.float32), float)
    kurtosis = (values**4).mean() / (values**2).mean() ** 2
    # Var z^4 = 96 for normals: 4 SE of the mean fourth moment is 0.25, and of 6 times the variance
    # 0.22 (they are correlated); uniforms are far tighter
    expected = 1.8 if distribution == "uniform" else 3.0
    assert abs(kurtosis - expected) < 0.3
    if distribution == "uniform":
        bound = math.sqrt(3 * variance)
        # of n draws the largest misses the bound by 1/n on average: e^-20 for 20/n
        assert bound * (1 - 20 / values.size) < np.abs(values).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("shape", [SHAPE, (40, 24)], ids=str)
def test_orthogonal_kernel_is_orthogonal(shape):
    kernel = np.asarray(jn.orthogonal(GAIN)(KEY, shape, jnp.float32), float)
    gram = kernel.T @ kernel if shape[0] >= shape[1] else kernel @ kernel.T
    # a float32 QR: a few eps = 6e-8 per entry, times gain^2
    np.testing.assert_allclose(gram, GAIN**2 * np.eye(min(shape)), atol=1e-5)


@BUILDERS
def test_traced_gain_equals_loop(build):
    gains = jnp.array([0.0, 0.5, 2.0])
    found = jax.vmap(lambda gain: build(gain)(KEY, SHAPE, jnp.float32))(gains)
    for member, gain in enumerate((0.0, 0.5, 2.0)):
        # the gain is squared and rooted again in float32 or in python's float: 4 roundings of 6e-8
        np.testing.assert_allclose(found[member], build(gain)(KEY, SHAPE, jnp.float32), rtol=4e-7)


@BUILDERS
def test_dtype_is_kept_and_same_key_same_draw(build):
    first, again = (build(GAIN)(KEY, SHAPE, jnp.float32) for _ in range(2))
    assert first.dtype == jnp.float32
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, build(GAIN)(jax.random.key(8), SHAPE, jnp.float32))


@pytest.mark.parametrize(
    "build", [jn.gaussian, jn.uniform, jn.orthogonal, jn.constant], ids=lambda each: each.__name__
)
def test_float64_is_kept(build):
    with jax.enable_x64(True):
        draw = functools.partial(build(GAIN), shape=(6, 8), dtype=jnp.float64)
        assert jax.eval_shape(draw, KEY).dtype == jnp.float64


@ONE_D
def test_bias_has_no_fan(build, variance):
    uniform = build is jn.uniform or isinstance(build, functools.partial)
    draw = build(GAIN)(KEY, (20_000,), jnp.float32)
    assert draw.shape == (20_000,)
    assert_moments(draw, variance, -1.2 if uniform else 0.0)
    if uniform:
        assert np.abs(draw).max() <= math.sqrt(3 * variance) * (1 + 1e-6)


@pytest.mark.parametrize(
    "build", [jn.lecun, jn.glorot, jn.he, jn.orthogonal], ids=lambda each: each.__name__
)
def test_scheme_with_a_fan_is_refused_for_biases(build):
    with pytest.raises(ValueError, match=r"expected a kernel.*\(7,\); biases have no fan"):
        build()(KEY, (7,), jnp.float32)


def test_constant_may_be_traced_and_zeros_are_zero():
    found = jax.vmap(lambda value: jn.constant(value)(KEY, (2, 3), jnp.float32))(
        jnp.array([1.0, -2.5])
    )
    np.testing.assert_array_equal(found, np.broadcast_to([[[1.0]], [[-2.5]]], (2, 2, 3)))
    np.testing.assert_array_equal(jn.zeros()(KEY, (4,), jnp.float32), np.zeros(4))


@pytest.mark.parametrize("name", sorted(INITIALISERS))
def test_name_builds_the_scheme(name):
    found = jn.initialiser(name, GAIN)(KEY, SHAPE, jnp.float32)
    np.testing.assert_array_equal(found, INITIALISERS[name](GAIN)(KEY, SHAPE, jnp.float32))


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown name 'xavier'; known: gaussian, .*glorot"):
        jn.initialiser("xavier")


@pytest.mark.parametrize(
    "build", [jn.gaussian, jn.uniform, jn.lecun, jn.he], ids=lambda each: each.__name__
)
def test_unknown_fan_is_refused(build):
    with pytest.raises(ValueError, match=r"fan: expected 'in' or 'out', got 'up'"):
        build(fan="up")
