"""The contract table of activations: values, slopes, kinks, and what saturated and dead mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.nets.activations import ACTIVATIONS
from tests import reference

NAMES = sorted(ACTIVATIONS)
EVERY = pytest.mark.parametrize("name", NAMES)

# 241 points of [-6, 6] that miss the kinks at -1, 0 and 1
POINTS = np.linspace(-6.0, 6.0, 241) + 0.0123

# is the unit dead far to the left, and far to the right?
ENDS = {
    "identity": (False, False),
    "leaky_relu": (False, False),
    **dict.fromkeys(("sigmoid", "tanh", "hard_tanh", "erf", "softsign"), (True, True)),
    **dict.fromkeys(("relu", "elu", "selu", "gelu", "silu"), (True, False)),
}


def all_of(points):
    """Value, slope and autodiff's derivative of every activation, in one program."""

    def one(each):
        return each.function(points), each.slope(points), jax.vmap(jax.grad(each.function))(points)

    return {name: one(each) for name, each in ACTIVATIONS.items()}


@pytest.fixture(scope="module")
def table():
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(all_of)(jnp.asarray(POINTS)))


@pytest.fixture(scope="module")
def single():
    """In float32, at the points, and at the kinks of all."""
    points = np.concatenate([POINTS, [-1.0, 0.0, 1.0, -1e4, 1e4]]).astype(np.float32)
    return points, jax.device_get(jax.jit(all_of)(points))


def test_reference_knows_every_activation():
    assert sorted(reference.PHIS) == NAMES == sorted(ENDS)


@EVERY
def test_value_equals_reference(table, name):
    # float64 rounding of erf, exp and tanh, ten of them at most: absolute since gelu's tail is 1e-9
    np.testing.assert_allclose(
        table[name][0], reference.PHIS[name].value(POINTS), rtol=1e-13, atol=1e-14
    )


@EVERY
def test_slope_equals_reference_and_autodiff(table, name):
    _, slope, derivative = table[name]
    # 1 - tanh^2 cancels to an absolute error of eps = 2e-16
    np.testing.assert_allclose(slope, reference.PHIS[name].slope(POINTS), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(slope, derivative, rtol=1e-12, atol=1e-15)


@EVERY
def test_float32_stays_float32_and_close(single, name):
    points, found = single
    value, slope, _ = found[name]
    assert value.dtype == slope.dtype == np.float32
    # 1e-6 is eight float32 roundings of numbers of order 1; values reach 6
    np.testing.assert_allclose(
        value[:241], reference.PHIS[name].value(points[:241].astype(float)), rtol=2e-6, atol=1e-6
    )
    np.testing.assert_allclose(
        slope[:241], reference.PHIS[name].slope(points[:241].astype(float)), rtol=2e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "kink"),
    [(name, kink) for name in NAMES for kink in ACTIVATIONS[name].kinks],
    ids=lambda each: str(each),
)
def test_slope_at_kink_equals_autodiff(single, name, kink):
    points, found = single
    _, slope, derivative = found[name]
    place = np.flatnonzero(points == kink)
    assert len(place) == 1
    # selu's constant is multiplied in another order: one rounding
    np.testing.assert_allclose(slope[place], derivative[place], rtol=2e-7)


@EVERY
def test_kinks_are_where_reference_slope_or_curvature_jumps(name):
    """Across a kink the difference quotient of the slope does not vanish with the step."""
    slope = reference.PHIS[name].slope
    step = 1e-6
    for point in (-1.0, 0.0, 1.0):
        ends = slope(np.array([point - 2 * step, point - step, point + step, point + 2 * step]))
        jump = abs(ends[2] - ends[1])
        bend = abs((ends[3] - ends[2]) - (ends[1] - ends[0])) / step
        # without a kink the jump is 2e-6 |f''| and the bend 3e-6 |f'''|, with f'' and f''' below 3
        assert (jump > 1e-4 or bend > 1e-2) == (point in ACTIVATIONS[name].kinks)


@EVERY
def test_dead_far_out_means_what_the_table_says(single, name):
    each, slope = ACTIVATIONS[name], single[1][name][1]
    found = tuple(np.abs(slope[-2:]) <= np.float32(each.dead_slope))
    assert found == ENDS[name]
    saturated = tuple(np.abs(slope[-2:]) <= np.float32(each.saturated_slope))
    assert saturated == ENDS[name]


@EVERY
def test_criteria_are_fractions_of_the_largest_slope(name):
    """Smooth: a tenth and a thousandth of the largest |slope|; exact zero where it vanishes."""
    each = ACTIVATIONS[name]
    if each.piecewise_linear:
        assert (each.saturated_slope, each.dead_slope) == (0.0, 0.0)
        return
    largest = np.abs(reference.PHIS[name].slope(np.linspace(-8, 8, 160_001))).max()
    # the grid misses the maximum by at most 5e-5, an error of 1e-8 at a flat maximum
    np.testing.assert_allclose(each.saturated_slope, 0.1 * largest, rtol=1e-7)
    np.testing.assert_allclose(each.dead_slope, 1e-3 * largest, rtol=1e-7)


@EVERY
def test_piecewise_linear_flag_tells_the_truth(name):
    each = ACTIVATIONS[name]
    num_slopes = len(np.unique(reference.PHIS[name].slope(POINTS)))
    assert (num_slopes <= len(each.kinks) + 1) == each.piecewise_linear


def test_leaky_slope_may_be_traced():
    slopes = np.array([0.0, 0.01, 0.3, 1.0], np.float32)
    points = jnp.array([-2.0, -0.5, 0.0, 1.5])

    @jax.jit
    @jax.vmap
    def both(slope):
        each = jn.leaky_relu(slope)
        return each.function(points), each.slope(points), jax.vmap(jax.grad(each.function))(points)

    value, slope, derivative = both(slopes)
    for member, number in enumerate(slopes):
        expected = reference.leaky(number)
        # one product each: exact
        np.testing.assert_array_equal(value[member], expected.value(np.asarray(points)))
        np.testing.assert_array_equal(slope[member], expected.slope(np.asarray(points)))
    np.testing.assert_array_equal(slope, derivative)


@EVERY
def test_name_finds_itself(name):
    assert jn.activation(name) is ACTIVATIONS[name]
    assert jn.activation(ACTIVATIONS[name]) is ACTIVATIONS[name]
    assert ACTIVATIONS[name].name == name


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown name 'rellu'; known: identity, .*relu"):
        jn.activation("rellu")


@pytest.mark.parametrize("value", [jnp.tanh, None, 3], ids=["function", "none", "int"])
def test_anything_but_name_or_activation_is_refused(value):
    with pytest.raises(TypeError, match="wrap it as Activation"):
        jn.activation(value)
