"""The contract table of initialisers: moments, exact structure, traced gains, dtypes, refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.nets.initialisers import INITIALISERS, delta_orthogonal, looks_linear, sparse

FAN_IN, FAN_OUT = SHAPE = (120, 200)
MEAN_FAN = (FAN_IN + FAN_OUT) / 2
SPARSE = 10
GAIN = 1.5
KEY, OTHER_KEY = jax.random.key(7), jax.random.key(8)
GAINS = (GAIN, 0.0, 0.5, 2.0)  # of the lanes of KEY; a last lane has OTHER_KEY and GAIN

# builder, Var of the nonzero weights for gain 1.5, and the distribution: each formula by hand
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
    # rows of norm gain in 200 columns: of a Haar row, E w^4 / (E w^2)^2 = 3 n / (n + 2) = 2.97
    "orthogonal": (jn.orthogonal, GAIN**2 / FAN_OUT, "normal"),
    "delta_orthogonal": (delta_orthogonal, GAIN**2 / FAN_OUT, "normal"),
    "looks_linear": (looks_linear, GAIN**2 / FAN_IN, "normal"),  # columns of norm gain, twice
    "sparse": (functools.partial(sparse, num_nonzero=SPARSE), GAIN**2 / SPARSE, "normal"),
}
EVERY = pytest.mark.parametrize("name", CASES)
WITH_FAN = pytest.mark.parametrize(
    "build",
    [jn.lecun, jn.glorot, jn.he, jn.orthogonal, delta_orthogonal, looks_linear, sparse],
    ids=lambda each: each.__name__,
)


def draw_all(gains, keys):
    """Every scheme's kernels `[lane, fan_in, fan_out]`."""

    def lanes(build):
        return jax.vmap(lambda gain, key: build(gain)(key, SHAPE, jnp.float32))(gains, keys)

    return {name: lanes(build) for name, (build, *_) in CASES.items()}


@functools.cache
def drawn():
    """Draw with all gains, in one compiled program that both calls share."""
    program = jax.jit(draw_all)
    keys = jnp.stack([KEY] * len(GAINS) + [OTHER_KEY])
    program(jnp.ones(len(keys)), keys)
    found = program(jnp.array([*GAINS, GAIN]), keys)
    return jax.device_get(found), program._cache_size()


def one(name):
    return drawn()[0][name][0].astype(float)


def assert_moments(values, variance, excess_kurtosis):
    """Within 4 standard errors: mean sigma / sqrt(n), variance sigma^2 sqrt((2 + excess) / n)."""
    count = values.size
    assert abs(values.mean()) < 4 * math.sqrt(variance / count)
    error = math.sqrt((2 + excess_kurtosis) / count)
    assert abs((values**2).mean() / variance - 1) < 4 * error


@EVERY
def test_mean_is_zero_and_variance_is_the_formula(name):
    _, variance, distribution = CASES[name]
    weights = one(name)
    # a uniform variable has excess kurtosis -1.2; entries of an orthogonal kernel are no wider
    # spread than independent normals, and the squares of a mirrored one as those of its half
    assert_moments(weights[weights != 0], variance, -1.2 if distribution == "uniform" else 0.0)


@EVERY
def test_shape_of_distribution_is_as_named(name):
    """Fourth moment over squared variance: 3 for normals, 9/5 for uniforms, which are bounded."""
    _, variance, distribution = CASES[name]
    values = one(name)
    values = values[values != 0]
    kurtosis = (values**4).mean() / (values**2).mean() ** 2
    # SE sqrt(24 / n) for normals, of which a mirrored kernel has n / 2 and a sparse one n / 12;
    # uniforms are far tighter. A Haar row's 2.97 is within the 0.03 added
    independent = values.size / (2 if name == "looks_linear" else 1)
    expected = 1.8 if distribution == "uniform" else 3.0
    assert abs(kurtosis - expected) < 4 * math.sqrt(24 / independent) + 0.03
    if distribution == "uniform":
        bound = math.sqrt(3 * variance)
        # of n draws the largest misses the bound by 1/n on average: e^-20 for 20/n
        assert bound * (1 - 20 / values.size) < np.abs(values).max() <= bound * (1 + 1e-6)


@EVERY
def test_traced_gain_in_a_lane_equals_the_number_alone(name):
    build, *_ = CASES[name]
    kernels = drawn()[0][name]
    alone = np.asarray(build(GAIN)(KEY, SHAPE, jnp.float32))
    # compiled or not: the gain is squared and rooted again in float32 or in python's float, 4
    # roundings of 6e-8; an orthogonal kernel's sums of 200 terms of at most 1 round by 1e-7 each
    np.testing.assert_allclose(kernels[0], alone, rtol=4e-7, atol=2e-6)
    for gain, kernel in zip(GAINS, kernels, strict=False):
        np.testing.assert_allclose(kernel, gain / GAIN * kernels[0], rtol=1e-6, atol=0)


def test_new_gains_compile_nothing():
    assert drawn()[1] == 1


@EVERY
def test_draws_are_finite_and_follow_the_key(name):
    kernels = drawn()[0][name]
    assert kernels.dtype == np.float32
    assert np.isfinite(kernels).all()
    assert not np.array_equal(kernels[0], kernels[-1])


@EVERY
def test_dtype_is_kept(name):
    build, *_ = CASES[name]
    with jax.enable_x64(True):
        for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
            draw = functools.partial(build(GAIN), shape=(6, 8), dtype=dtype)
            assert jax.eval_shape(draw, KEY).dtype == dtype


@pytest.mark.parametrize("shape", [SHAPE, (40, 24)], ids=str)
def test_orthogonal_kernel_is_orthogonal(shape):
    kernel = one("orthogonal")
    if shape != SHAPE:
        draw = jax.jit(lambda key: jn.orthogonal(GAIN)(key, shape, jnp.float32))
        kernel = np.asarray(draw(KEY), float)
    gram = kernel.T @ kernel if shape[0] >= shape[1] else kernel @ kernel.T
    # sums of 200 products and as many reflections in float32: a few eps = 6e-8, times gain^2
    np.testing.assert_allclose(gram, GAIN**2 * np.eye(min(shape)), atol=1e-5)


def convolved(kernel, x):
    """Convolve `[batch, height, width, channel]` with a `[height, width, in, out]` kernel."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def test_delta_orthogonal_convolution_multiplies_norms_by_the_gain():
    """Xiao et al. 2018: |conv(x)| = gain |x|, pixel by pixel, where the window is odd and even."""
    x = np.random.default_rng(0).standard_normal((2, 7, 6, 8)).astype(np.float32)

    @jax.jit
    def run(gain):
        kernel = delta_orthogonal(gain)(KEY, (3, 4, 8, 12), jnp.float32)
        return kernel, convolved(kernel, x)

    kernel, y = jax.device_get(run(GAIN))
    assert np.count_nonzero(np.abs(kernel).sum(axis=(2, 3))) == 1
    # 12 products and 8 reflections in float32, rounding at random: 1e-7 * sqrt(20)
    expected = GAIN * np.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), expected, rtol=1e-6)


def test_sparse_units_have_that_many_weights():
    """Of a fan_in of 3 x 4 over a window; all of it where more are asked for."""

    @jax.jit
    def kernels(counts):
        def draw(count):
            return sparse(GAIN, num_nonzero=count)(KEY, (3, 4, 50), jnp.float32)

        return jax.vmap(draw)(counts), draw(5)

    traced, static = jax.device_get(kernels(jnp.array([1, 5, 12, 40])))
    incoming = np.count_nonzero(traced, axis=(1, 2))
    np.testing.assert_array_equal(incoming, np.tile([[1], [5], [12], [12]], (1, 50)))
    np.testing.assert_array_equal(traced[1] != 0, static != 0)


def test_sparse_places_are_uniform():
    """Each row is met equally often: chi squared of the 2000 places in 120 rows."""
    met = np.count_nonzero(one("sparse"), axis=1)
    expected = SPARSE * FAN_OUT / FAN_IN
    # mean 119 (1 - 10 / 120) and sd below sqrt(2 * 119): 4 of them
    assert abs(((met - expected) ** 2 / expected).sum() - 110) < 4 * math.sqrt(238)


def test_network_that_looks_linear_is_linear_and_an_isometry():
    """y(x) = x M for every x, with M M^T the identity, through 12 layers (Balduzzi et al. 2017)."""
    features, width, out = 5, 16, 8
    x = np.random.default_rng(3).standard_normal((9, features))

    def outputs(phi, gain=1.0):
        weights, readout = looks_linear(gain), looks_linear(layer="readout")
        model = jn.mlp(12, width, out, phi, weights=weights, readout=readout)
        return model.apply(model.init(KEY, x), np.concatenate([np.eye(features), x]))[0]

    @jax.jit
    def everything(slopes):
        # leaky relu multiplies by 1 + slope, which the gain of the 12 kernels below it undoes
        leaky = jax.vmap(lambda slope: outputs(jn.leaky_relu(slope), 1 / (1 + slope)))(slopes)
        return outputs("relu"), outputs("silu"), *leaky

    with jax.enable_x64(True):
        found = jax.device_get(everything(jnp.array([0.1, 0.5])))
    assert len(found) == 4
    for y in found:
        matrix, images = y[:features], y[features:]
        # 13 layers of sums of 16 terms in float64, each rounding by 1e-16: far below the 1e-6 asked
        np.testing.assert_allclose(images, x @ matrix, atol=1e-13)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(features), atol=1e-13)


MIRRORED = [  # layer, shape, sides that are mirrored
    (None, (6, 8), {"columns"}),
    (None, (8, 8), {"rows", "columns"}),
    ("first", (8, 8), {"columns"}),
    ("readout", (8, 4), {"rows"}),
    ("hidden", (3, 2, 8, 8), {"rows", "columns"}),
]


def test_looks_linear_mirrors_the_sides_of_its_layer():
    draws = jax.jit(
        lambda key: [looks_linear(GAIN, layer=layer)(key, shape) for layer, shape, _ in MIRRORED]
    )
    for kernel, (_, shape, sides) in zip(jax.device_get(draws(KEY)), MIRRORED, strict=True):
        assert kernel.shape == shape
        for side, axis in (("rows", -2), ("columns", -1)):
            upper, lower = np.split(kernel, 2, axis=axis)
            assert np.array_equal(upper, -lower) == (side in sides)


@pytest.mark.parametrize(
    ("build", "variance", "excess"),
    [(jn.gaussian, GAIN**2, 0.0), (jn.uniform, GAIN**2 / 3, -1.2)],
    ids=["gaussian", "uniform"],
)
def test_bias_has_no_fan(build, variance, excess):
    draw = np.asarray(build(GAIN)(KEY, (20_000,), jnp.float32), float)
    assert_moments(draw, variance, excess)
    if build is jn.uniform:
        assert np.abs(draw).max() <= math.sqrt(3 * variance) * (1 + 1e-6)


@WITH_FAN
def test_scheme_with_a_fan_is_refused_for_biases(build):
    with pytest.raises(ValueError, match=r"expected a kernel.*\(7,\); biases have no fan"):
        build()(KEY, (7,), jnp.float32)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: delta_orthogonal()(KEY, (3, 3, 9, 8)), r"in <= out, got shape \(3, 3, 9, 8\)"),
        (lambda: looks_linear()(KEY, (5, 7)), r"even width .* first kernel, got shape \(5, 7\)"),
        (lambda: looks_linear()(KEY, (7, 7)), r"even width .* hidden kernel"),
        (lambda: looks_linear(layer="readout")(KEY, (7, 2)), r"even width .* readout kernel"),
        (lambda: looks_linear(layer="last"), r"layer: expected 'first', .*got 'last'"),
        (lambda: sparse(num_nonzero=0), r"num_nonzero: expected at least 1, got 0"),
    ],
    ids=["narrowing", "odd_first", "odd_hidden", "odd_readout", "unknown_layer", "none_nonzero"],
)
def test_impossible_request_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_constant_may_be_traced_and_zeros_are_zero():
    found = jax.vmap(lambda value: jn.constant(value)(KEY, (2, 3), jnp.float32))(
        jnp.array([1.0, -2.5])
    )
    np.testing.assert_array_equal(found, np.broadcast_to([[[1.0]], [[-2.5]]], (2, 2, 3)))
    np.testing.assert_array_equal(jn.zeros()(KEY, (4,), jnp.float32), np.zeros(4))
    with jax.enable_x64(True):
        assert jn.constant(GAIN)(KEY, (2,), jnp.float64).dtype == jnp.float64


NAMED = {  # name -> its case
    "gaussian": "gaussian",
    "standard": "uniform",
    "lecun": "lecun_in_normal",
    "glorot": "glorot_normal",
    "he": "he_in_normal",
    "orthogonal": "orthogonal",
    "delta_orthogonal": "delta_orthogonal",
}


@pytest.mark.parametrize("name", INITIALISERS)
def test_name_builds_the_scheme(name):
    found = np.asarray(jn.initialiser(name, GAIN)(KEY, SHAPE, jnp.float32))
    if name == "sparse":
        np.testing.assert_array_equal(np.count_nonzero(found, axis=0), np.full(FAN_OUT, 15))
    else:  # tolerance as of the lane against the number alone
        np.testing.assert_allclose(found, drawn()[0][NAMED[name]][0], rtol=4e-7, atol=2e-6)


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown name 'xavier'; known: gaussian, .*glorot"):
        jn.initialiser("xavier")


@pytest.mark.parametrize(
    "build", [jn.gaussian, jn.uniform, jn.lecun, jn.he], ids=lambda each: each.__name__
)
def test_unknown_fan_is_refused(build):
    with pytest.raises(ValueError, match=r"fan: expected 'in' or 'out', got 'up'"):
        build(fan="up")
