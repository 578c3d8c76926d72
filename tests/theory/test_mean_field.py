"""Mean field against scipy integrals, closed forms, published limits and finite differences."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import integrate, optimize, special

from jaxnn.nets import activations
from jaxnn.theory import mean_field as mf
from jaxnn.types import Activation

# Compiling takes most of the time of these many small programs: the compiler is told to be quick.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772  # SELU


def normal_pdf(z):
    return np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def step(u):
    return np.where(u > 0, 1.0, 0.0)


def negative_exp(u):
    return np.exp(np.minimum(u, 0.0))


REFERENCE = {  # name: (function, slope, kinks), written again in numpy
    "identity": (lambda u: u, np.ones_like, ()),
    "sigmoid": (special.expit, lambda u: special.expit(u) * special.expit(-u), ()),
    "tanh": (np.tanh, lambda u: np.cosh(np.minimum(np.abs(u), 300)) ** -2.0, ()),
    "hard_tanh": (
        lambda u: np.clip(u, -1, 1),
        lambda u: np.where(np.abs(u) < 1, 1.0, 0.0),
        (-1.0, 1.0),
    ),
    "erf": (
        lambda u: special.erf(math.sqrt(math.pi) / 2 * u),
        lambda u: np.exp(-math.pi / 4 * u**2),
        (),
    ),
    "softsign": (lambda u: u / (1 + np.abs(u)), lambda u: (1 + np.abs(u)) ** -2.0, (0.0,)),
    "relu": (lambda u: u * step(u), step, (0.0,)),
    "leaky_relu": (
        lambda u: np.where(u > 0, u, 0.2 * u),
        lambda u: 0.2 + 0.8 * step(u),
        (0.0,),
    ),
    "elu": (lambda u: np.where(u > 0, u, negative_exp(u) - 1), negative_exp, (0.0,)),
    "selu": (
        lambda u: SCALE * np.where(u > 0, u, ALPHA * (negative_exp(u) - 1)),
        lambda u: SCALE * np.where(u > 0, 1.0, ALPHA * negative_exp(u)),
        (0.0,),
    ),
    "gelu": (
        lambda u: u * special.ndtr(u),
        lambda u: special.ndtr(u) + u * normal_pdf(u),
        (),
    ),
    "silu": (
        lambda u: u * special.expit(u),
        lambda u: special.expit(u) * (1 + u * special.expit(-u)),
        (),
    ),
}


def activation_of(name):
    return activations.leaky_relu(0.2) if name == "leaky_relu" else getattr(activations, name)


every_activation = pytest.mark.parametrize("name", REFERENCE)


def mean(f, q, kinks=(), accuracy=1e-13):
    """E[f(sqrt(q) z)] by adaptive quadrature between 0, +-1/sqrt(q) and the kinks."""
    s = math.sqrt(q)
    edges = sorted({-12.0, 12.0, *(e / s for e in (-1, 0, 1, *kinks) if abs(e / s) < 12)})
    parts = (
        integrate.quad(lambda z: f(s * z) * normal_pdf(z), a, b, epsabs=accuracy, epsrel=1e-12)[0]
        for a, b in itertools.pairwise(edges)
    )
    return sum(parts)


def pair_mean(f, c, q, kinks):
    """E[f(u1) f(u2)], conditioning on u1; c in (-1, 1)."""
    s, spread = math.sqrt(q), math.sqrt(1 - c**2)
    points, weights = np.polynomial.legendre.leggauss(120)

    def given(u1):
        middles = [(k - c * u1) / (s * spread) for k in (kinks or (0.0,))]
        edges = np.array([-9.0, *np.clip(middles, -9, 9), 9.0])
        half = (edges[1:] - edges[:-1])[:, None] / 2
        z = (edges[1:] + edges[:-1])[:, None] / 2 + half * points
        return np.sum(f(c * u1 + s * spread * z) * normal_pdf(z) * half * weights)

    return mean(lambda u: f(u) * given(u), q, kinks, 1e-10)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@functools.partial(jit, static_argnums=(0, 1))
def lanes(function, name, *arguments):
    """The function of a named activation, over lanes of its other arguments."""
    return jax.vmap(lambda *a: getattr(mf, function)(activation_of(name), *a))(*arguments)


def arrays(*columns):
    return [jnp.asarray(column, float) for column in columns]


# Gaussian means


@every_activation
def test_variance_map_and_chi_equal_adaptive_quadrature(name):
    function, slope, kinks = REFERENCE[name]
    q = np.array([1e-3, 0.5, 12.0, 100.0])
    ones = np.ones_like(q)
    variance = lanes("variance_map", name, *arrays(q, 1.3 * ones, 0.4 * ones))
    growth = lanes("chi", name, *arrays(q, 1.3 * ones))
    expected = [1.69 * mean(lambda u: function(u) ** 2, x, kinks) + 0.16 for x in q]
    np.testing.assert_allclose(variance, expected, rtol=1e-9)  # the accuracy that is promised: 1e-8
    expected = [1.69 * mean(lambda u: slope(u) ** 2, x, kinks) for x in q]
    np.testing.assert_allclose(growth, expected, rtol=1e-9)


@functools.partial(jit, static_argnums=0)
def four_pairs(name, c, q):
    """`[lane, 2]`: the correlation map and its derivative, at sigma_w = 1 and sigma_b = .5."""

    def one(c, q):
        def mapped(c):
            return mf.correlation_map(activation_of(name), c, q, 1.0, 0.5)

        return jnp.stack(jax.jvp(mapped, (c,), (jnp.ones_like(c),)))

    return jax.vmap(one)(c, q)


@every_activation
def test_correlation_map_and_slope_equal_conditional_quadrature(name):
    function, slope, kinks = REFERENCE[name]
    points = [(-0.6, 2.0), (0.0, 2.0), (0.7, 12.0), (0.999, 2.0)]
    found = four_pairs(name, *jnp.array(points).T)
    expected = [
        [(pair_mean(function, c, q, kinks) + 0.25) / q, pair_mean(slope, c, q, kinks)]
        for c, q in points
    ]
    np.testing.assert_allclose(found, expected, atol=2e-8)  # the accuracy that is promised


@every_activation
def test_correlation_map_at_one_is_the_variance_map(name):
    q = jnp.array([1e-3, 0.5, 12.0, 100.0])
    ones = jnp.ones_like(q)
    mapped, sloped = four_pairs(name, ones, q).T
    np.testing.assert_allclose(
        mapped * q, lanes("variance_map", name, q, ones, ones / 2), rtol=1e-9
    )
    np.testing.assert_allclose(sloped, lanes("chi", name, q, ones), atol=2e-8)


def test_relu_maps_equal_arc_cosine_kernels():
    c = np.array([-1.0, -0.999, -0.5, 0.0, 0.5, 0.99, 1 - 1e-6, 1 - 1e-10, 1.0])
    kernel = (np.sqrt(1 - c**2) + c * (math.pi - np.arccos(c))) / math.pi
    slope = 1 - np.arccos(c) / math.pi

    def he(x):
        return mf.correlation_map(activations.relu, x, 3.0, 2**0.5, 0.0)

    mapped, derivative = jit(jax.vmap(jax.value_and_grad(he)))(jnp.asarray(c))
    np.testing.assert_allclose(mapped, kernel, atol=1e-10)  # scale-free: panels fit it to rounding
    np.testing.assert_allclose(derivative, slope, atol=2e-9)  # 1e-9 at c = -0.999


def test_relu_is_critical_at_he_only():
    line = lanes("critical_line", "relu", jnp.array([0.1, 1.0, 30.0]))
    np.testing.assert_allclose(line[0], 2**0.5, rtol=1e-13)
    np.testing.assert_array_equal(line[1], 0.0)
    found = lanes("critical_sigma_w", "relu", jnp.array([0.0, 0.1]))
    np.testing.assert_allclose(found, [2**0.5, np.nan], rtol=1e-13)


# The edge of chaos and the fixed points

EDGE = {  # sigma_w^2 / sigma_b^2 at q = .2, .5, 1, 2; Hayou et al. 2019 give the formulas
    "tanh": [(1.3264, 0.0048), (1.6880, 0.0380), (2.1533, 0.1510), (2.8612, 0.5123)],
    "erf": [(1.2761, 0.0039), (1.6034, 0.0351), (2.0351, 0.1484), (2.6987, 0.5206)],
    "hard_tanh": [(1.0260, 0.0040), (1.1866, 0.0596), (1.4651, 0.2439), (1.9209, 0.7671)],
    "elu": [(1.2873, 0.0027), (1.4010, 0.0123), (1.4968, 0.0347), (1.5931, 0.0881)],
    "selu": [(0.7103, 0.0047), (0.8244, 0.0225), (0.9330, 0.0670), (1.0561, 0.1809)],
    "silu": [(3.4265, 0.0066), (2.9877, 0.0262), (2.6352, 0.0625), (2.3426, 0.1279)],
    "gelu": [(2.9351, 0.0113), (2.4555, 0.0345), (2.1937, 0.0672), (2.0429, 0.1163)],
}


@pytest.mark.parametrize("name", EDGE)
def test_critical_line_equals_table(name):
    line = lanes("critical_line", name, jnp.array([0.2, 0.5, 1.0, 2.0]))
    # half of the last digit; the entries of activations with kinks are from a coarser uniform grid
    tolerance = 5e-4 if REFERENCE[name][2] else 5.1e-5
    np.testing.assert_allclose(np.stack(line, -1) ** 2, EDGE[name], atol=tolerance)


def test_critical_line_is_nan_where_no_bias_makes_it_critical():
    sigma_w, sigma_b = lanes("critical_line", "sigmoid", jnp.array([0.5]))  # E[phi^2] > q E[phi'^2]
    assert np.isfinite(sigma_w).all()
    assert np.isnan(sigma_b).all()


def test_critical_sigma_w_of_tanh_equals_known_values():
    bias_variance = np.array([0.0, 0.01, 0.05, 0.09, 0.1, 0.2])
    found = lanes("critical_sigma_w", "tanh", *arrays(np.sqrt(bias_variance)))
    expected = [1.0, 1.4242, 1.7610, 1.9477, 1.9861, 2.2852]
    np.testing.assert_allclose(found**2, expected, atol=5.1e-5)  # half of the last digit
    q = lanes("fixed_point_variance", "tanh", found[2:3], jnp.sqrt(jnp.array([0.05])))
    np.testing.assert_allclose(q, 0.5701, atol=1e-4)  # q* of the rounded 1.7610: a digit more


def summary(name, sigma_w, sigma_b):
    """`[lane, 5]`: q*, chi_1, c*, xi_q, xi_c. Padded to 8 lanes: one compile for all tests."""
    num_lanes = len(sigma_w)
    padded = [
        jnp.concatenate([x, jnp.broadcast_to(x[:1], 8 - num_lanes)]) for x in (sigma_w, sigma_b)
    ]
    return eight_summaries(name, *padded)[:num_lanes]


@functools.partial(jit, static_argnums=0)
def eight_summaries(name, sigma_w, sigma_b):

    def one(w, b):
        functions = (
            mf.fixed_point_variance,
            mf.chi_1,
            mf.fixed_point_correlation,
            mf.depth_scale_variance,
            mf.depth_scale_correlation,
        )
        return jnp.stack([f(activation_of(name), w, b) for f in functions])

    return jax.vmap(one)(sigma_w, sigma_b)


def test_poole_table_of_tanh():
    found = summary("tanh", *arrays([1.3, 2.5, 4.0], [0.3] * 3))
    table = [  # the last row differs from that of 201-point Gauss-Hermite: 12.6034, 2.3749, .530
        [0.6070, 0.9398, 1.0, 1.338, 16.108],
        [4.0791, 1.5852, 0.1221, 0.688, 5.109],
        [12.6041, 2.3673, 0.0297, 0.490, 3.639],
    ]
    digits = np.array([5e-5, 5e-5, 5e-5, 5e-4, 5e-4])
    assert (np.abs(found - np.array(table)) < 1.02 * digits).all()


@pytest.mark.parametrize("sigma_w", [1.3, 4.0], ids=["ordered", "chaotic"])
def test_fixed_points_of_tanh_equal_scipy_roots(sigma_w):
    function, slope, _ = REFERENCE["tanh"]
    q = optimize.brentq(
        lambda x: sigma_w**2 * mean(lambda u: function(u) ** 2, x) + 0.09 - x, 0.1, 20, xtol=1e-12
    )
    growth = sigma_w**2 * mean(lambda u: slope(u) ** 2, q)
    rate = sigma_w**2 * mean(lambda u: function(u) * slope(u) * u, q) / q  # d/dq E[phi^2]
    c, correlation_rate = 1.0, growth
    if growth > 1:
        c = optimize.brentq(
            lambda x: (sigma_w**2 * pair_mean(function, x, q, ()) + 0.09) / q - x, 0, 0.9
        )
        correlation_rate = sigma_w**2 * pair_mean(slope, c, q, ())
    expected = [q, growth, c, -1 / math.log(rate), -1 / math.log(correlation_rate)]
    found = summary("tanh", *arrays([1.3, 2.5, 4.0], [0.3] * 3))[[1.3, 2.5, 4.0].index(sigma_w)]
    np.testing.assert_allclose(found, expected, rtol=1e-7)  # 1e-8 over the gap 1 - dV/dq of the map


def test_schoenholz_table_of_tanh():
    table = np.array(  # sigma_w^2, chi_1, 6 xi_c, its last digit; sigma_b^2 = .05
        [
            (1.0, 0.759, 21.8, 0.1),
            (1.25, 0.863, 40.8, 0.1),
            (1.5, 0.939, 94.7, 0.1),
            (1.7, 0.987, 450, 1),
            (2.0, 1.048, 151, 1),
            (2.5, 1.134, 70.8, 0.1),
            (3.0, 1.209, 54.3, 0.1),
            (4.0, 1.342, 41.9, 0.1),
        ]
    )
    found = summary("tanh", *arrays(np.sqrt(table[:, 0]), [0.05**0.5] * 8))
    np.testing.assert_allclose(found[:, 1], table[:, 1], atol=5.1e-4)
    assert (np.abs(6 * found[:, 4] - table[:, 2]) < 0.51 * table[:, 3]).all()
    np.testing.assert_allclose(found[4, 2], 0.744, atol=5.1e-4)
    np.testing.assert_array_equal(found[:4, 2], 1.0)  # ordered


def test_summary_of_relu_equals_closed_form():
    found = summary("relu", *arrays([1.2, 1.3, 2**0.5, 1.5], [0.0, 0.3, 0.0, 0.3]))
    growth = 0.845  # sigma_w^2 / 2 of the second lane, and q* = sigma_b^2 / (1 - growth)
    scale = -1 / math.log(growth)
    expected = [
        [0.0, 0.72, 1.0, -1 / math.log(0.72), -1 / math.log(0.72)],  # every variance shrinks
        [0.09 / (1 - growth), growth, 1.0, scale, scale],
        [1.0, 1.0, 1.0, np.inf, np.inf],  # He: every variance is a fixed point
        [np.inf, 1.125, np.nan, np.inf, np.nan],  # every variance grows
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # quadrature at the cap q = 1e12: 1e-7


def test_summary_of_tanh_without_bias_is_sane():
    found = summary("tanh", *arrays([0.5, 0.9, 1.0, 1.001], [0.0] * 4))
    np.testing.assert_array_equal(found[:2, 0], 0.0)
    np.testing.assert_allclose(found[:2, 1], [0.25, 0.81], rtol=1e-12)  # sigma_w^2 phi'(0)^2
    np.testing.assert_allclose(found[:2, 3:], -1 / np.log([[0.25] * 2, [0.81] * 2]), rtol=1e-9)
    assert found[2, 0] < 1e-11  # critical: a double root at 0
    np.testing.assert_array_equal(found[:3, 2], 1.0)
    # V(q) = w^2 (q - 2 q^2 + 17/3 q^3 ..), so q* = (w^2 - 1) / (2 w^2) to relative order 3 q*
    np.testing.assert_allclose(found[3, 0], 0.5 * (1 - 1.001**-2), rtol=5e-3)


@pytest.mark.parametrize("excess", [1e-2, 1e-4, 1e-6])
def test_fixed_point_correlation_near_criticality(excess):
    sigma_b = 0.05**0.5
    critical = lanes("critical_sigma_w", "tanh", jnp.array([sigma_b]))
    found = summary("tanh", critical * (1 + jnp.array([-excess, excess])), *arrays([sigma_b] * 2))
    assert found[0, 1] < 1 < found[1, 1]
    assert found[0, 2] == 1
    # h(c) = C(c) - c is (1-c)^2 C''(1)/2 - (1-c)(chi-1) near 1, and C''(1) does not vanish there,
    # so 1 - c* = 2 (chi - 1) / C''(1) and xi_c is the same on both sides, to leading order.
    q = float(found[1, 0])
    curvature = (
        float(critical[0]) ** 2 * q * mean(lambda u: (2 * np.tanh(u) * np.cosh(u) ** -2.0) ** 2, q)
    )
    relative = max(20 * excess, 3e-3)  # next order; and 1e-9 of quadrature over chi - 1 = 1e-6
    np.testing.assert_allclose(1 - found[1, 2], 2 * (found[1, 1] - 1) / curvature, rtol=relative)
    np.testing.assert_allclose(found[0, 4], found[1, 4], rtol=relative)


# Depth


def iterate(name, c, q, sigma_w, sigma_b, num_layers):
    def layer(c, _):
        c = mf.correlation_map(activation_of(name), c, q, sigma_w, sigma_b)
        return c, c

    return np.asarray(jit(lambda c: lax.scan(layer, c, None, num_layers)[1])(jnp.asarray(c)))


def test_relu_correlation_nears_one_as_the_square_of_depth():
    c = iterate("relu", 0.5, 1.0, 2**0.5, 0.0, 1000)
    assert abs(1000**2 * (1 - c[-1]) / (4.5 * math.pi**2) - 1) < 0.05  # corrections ln(l)/l: 3%
    assert abs(10**6 * (1 - c[-1]) - 43.13) < 0.3  # start at .5 or elsewhere: 2 c_0 layers of 1000


def test_tanh_correlation_nears_one_as_depth_at_the_edge_of_chaos():
    q = 0.5701  # sigma_b^2 = .05
    sigma_w, sigma_b = (float(x[0]) for x in lanes("critical_line", "tanh", jnp.array([q])))
    slope = mean(lambda u: np.cosh(u) ** -4.0, q)
    bend = mean(lambda u: (2 * np.tanh(u) * np.cosh(u) ** -2.0) ** 2, q)
    beta = 2 * slope / (q * bend)
    c = iterate("tanh", 0.5, q, sigma_w, sigma_b, 1000)
    assert abs(beta - 6.171) < 2e-3
    assert abs(1000 * (1 - c[-1]) / beta - 1) < 0.02  # corrections ln(l)/l


@pytest.mark.parametrize("sigma_w2", [1.25, 2.5], ids=["ordered", "chaotic"])
def test_depth_scales_equal_decay_of_iterated_maps(sigma_w2):
    sigma_w, sigma_b = sigma_w2**0.5, 0.05**0.5
    q, _, c, xi_q, xi_c = (float(x[0]) for x in summary("tanh", *arrays([sigma_w], [sigma_b])).T)
    path = np.abs(iterate("tanh", 0.5, q, sigma_w, sigma_b, 120) - c)
    # the distance is below 1e-3 after 80 layers and its square is what the linear rate leaves out
    assert abs(40 / np.log(path[79] / path[119]) / xi_c - 1) < 1e-3
    variances = [np.asarray(q + 1e-4)]
    for _ in range(4):
        variances.append(
            lanes("variance_map", "tanh", *arrays(variances[-1:], [sigma_w], [sigma_b]))[0]
        )
    assert abs(4 / np.log((variances[0] - q) / (variances[-1] - q)) / xi_q - 1) < 1e-3


def test_residual_maps_add_the_skip():
    q, w, b = arrays([2.0], [1.5], [0.5])
    np.testing.assert_allclose(lanes("residual_variance_map", "relu", q, w, b), 2 + 2.25 + 0.25)
    np.testing.assert_allclose(lanes("residual_chi", "relu", q, w), 1 + 1.125)


# Transformations


def differences(values, step):
    """Central differences `[output, input]` of values `[2 * input, output]` at x + and - step."""
    half = len(values) // 2
    return (values[:half] - values[half:]).T / (2 * step)


def around(x, step):
    shifts = step * jnp.eye(x.size)
    return jnp.concatenate([x[None] + shifts, x[None] - shifts])


@pytest.mark.parametrize(
    ("mode", "name", "column"),
    [
        (jax.jacfwd, "depth_scale_variance", 3),  # a function of q*
        (jax.jacrev, "depth_scale_correlation", 4),  # a function of q*, chi_1 and c*
    ],
    ids=["variance-forward", "correlation-reverse"],
)
def test_gradients_of_depth_scales_equal_finite_differences(mode, name, column):
    points = jnp.array([(1.3, 0.3), (2.2, 0.3)])  # ordered, chaotic
    scale = getattr(mf, name)
    found = jit(jax.vmap(mode(lambda x: scale(activations.tanh, *x))))(points)
    for x, gradient in zip(points, found, strict=True):
        expected = differences(summary("tanh", *around(x, 1e-5).T)[:, column], 1e-5)
        # h^2 times the third derivative, over 6, is 1e-10 of it; rounding over h is 1e-9 of f
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_gradient_of_critical_sigma_w_is_the_tangent_of_the_critical_line():
    q, one = jnp.array(0.7), jnp.array(1.0)
    (_, sigma_b), (rise, run) = jit(
        lambda q: jax.jvp(functools.partial(mf.critical_line, activations.tanh), (q,), (one,))
    )(q)
    slope = jit(jax.grad(functools.partial(mf.critical_sigma_w, activations.tanh)))(sigma_b)
    np.testing.assert_allclose(slope, rise / run, rtol=1e-9)  # both are free of differences


late_relu = Activation(
    "late_relu",
    lambda u: jnp.maximum(u - 0.5, 0),
    lambda u: (u > 0.5).astype(u.dtype),
    kinks=(0.5,),
)


def test_gradients_of_maps_equal_finite_differences():
    def maps(x):
        c, q, w, b = x
        phi = late_relu  # a kink away from 0, which moves with q
        line = mf.critical_line(phi, q)
        values = [mf.variance_map(phi, q, w, b), mf.chi(phi, q, w)]
        pairs = [mf.correlation_map(phi, c, q, w, b), mf.correlation_slope(phi, c, q, w)]
        return jnp.stack([*values, *pairs, *line])

    x = jnp.array([0.6, 1.7, 1.2, 0.3])
    expected = differences(jit(jax.vmap(maps))(around(x, 1e-5)), 1e-5)
    np.testing.assert_allclose(jit(jax.jacfwd(maps))(x), expected, rtol=1e-6, atol=1e-7)


def test_slope_of_leaky_relu_may_be_traced():
    def growth(slope):
        return mf.chi_1(activations.leaky_relu(slope), 1.1, 0.3)

    slopes = jnp.array([0.0, 0.1, 0.5])
    value, gradient = jit(jax.vmap(jax.value_and_grad(growth)))(slopes)
    np.testing.assert_allclose(value, 1.21 * (1 + slopes**2) / 2, rtol=1e-12)
    np.testing.assert_allclose(gradient, 1.21 * slopes, rtol=1e-9, atol=1e-12)


def test_lanes_of_vmap_equal_single_calls():
    w, b = arrays([1.3, 2.0, 2.5], [0.2, 0.1, 0.3])
    alone = jnp.concatenate([summary("tanh", w[i : i + 1], b[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(summary("tanh", w, b), alone, rtol=1e-12)


def test_eager_call_with_python_floats_equals_jit():
    eager = mf.chi(activations.tanh, 4.0, 2.5)
    np.testing.assert_allclose(eager, lanes("chi", "tanh", *arrays([4.0], [2.5]))[0], rtol=1e-13)


def test_single_precision_is_followed():
    w, b = arrays([1.3, 2.5], [0.3, 0.3])
    single = lanes("depth_scale_correlation", "tanh", *(x.astype(jnp.float32) for x in (w, b)))
    assert single.dtype == jnp.float32
    # float32 sums of 4000 terms err by 1e-6, and 1 - chi_1 = .06 divides the error
    np.testing.assert_allclose(single, summary("tanh", w, b)[:, 4], rtol=2e-4)
    with jax.enable_x64(False):
        alone = jit(lambda: mf.critical_sigma_w(activations.tanh, 0.05**0.5))()
    assert alone.dtype == jnp.float32
    np.testing.assert_allclose(alone**2, 1.7610, atol=6e-5)  # half a digit, and rounding
