"""What all closed forms of scalars share: dtypes, tracing, lanes and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.theory import (
    arguments,
    batch_norm,
    dead_units,
    least_squares,
    linear_nets,
    neural_collapse,
    noise,
    recurrent,
    regularisers,
    search,
    shattering,
    weight_decay,
)

FORMS = [  # each with arguments at which it is smooth
    (linear_nets.mode_strength, (0.7, 2.0, 0.1)),
    (linear_nets.mode_velocity, (0.7, 2.0, 3.0)),
    (linear_nets.mode_time, (0.7, 2.0, 0.1, 3.0)),
    (linear_nets.mode_half_time, (2.0, 0.1, 2.0)),
    (batch_norm.linear_gradient_growth, (8.0,)),
    (batch_norm.relu_gradient_growth, (8.0,)),
    (batch_norm.stream_second_moment, (3.0,)),
    (batch_norm.stream_batch_variance, (3.0,)),
    (batch_norm.branch_share, (3.0,)),
    (dead_units.death_probability, (3.0, 5.0)),
    (dead_units.line_death_bounds, (3.0, 5.0)),
    (shattering.centred_correlation, (4.0,)),
    (shattering.residual_correlation, (4.0, 0.5)),
    (shattering.batch_norm_residual_correlation, (4.0,)),
    (regularisers.early_stopping_filter, (2.0, 0.1, 5.0)),
    (regularisers.ridge_filter, (2.0, 0.3)),
    (regularisers.matching_penalty, (2.0, 0.1, 5.0)),
    (weight_decay.decoupled_factor, (0.1, 0.01, 5.0)),
    (weight_decay.normalised_decay, (0.1, 32.0, 1000.0, 10.0)),
    (weight_decay.equilibrium_norm, (0.1, 0.01, 2.0)),
    (weight_decay.equilibrium_angle, (0.1, 0.01)),
    (weight_decay.norm_over_time, (30.0, 0.5, 0.1, 0.01, 2.0)),
    (least_squares.weak_features_risk, (5.0, 20.0, 0.4, 0.6, 0.1)),
    (least_squares.isotropic_excess_risk, (30.0, 20.0, 0.4, 0.1)),
    (least_squares.optimal_ridge, (20.0, 0.4, 0.1)),
    (least_squares.power_law_error, (20.0, 0.7)),
    (noise.heavy_ball_limit, (0.1, 0.9)),
    (noise.nesterov_limit, (0.1, 0.9)),
    (noise.adam_limit, (0.1, 0.5)),
    (noise.stationary_variance, (0.1, 2.0, 0.5, 8.0, 0.5)),
    (noise.optimal_learning_rate, (0.1, 50.0, 8.0)),
    (noise.steps_and_examples, (8.0, 100.0, 5000.0)),
    (recurrent.jacobian_bound, (0.9, 5.0, 0.25)),
    (recurrent.latch_state, (1.5,)),
    (recurrent.latch_contraction, (1.5,)),
    (recurrent.memory_factor, (1.0, 5.0)),
    (recurrent.half_life, (1.0,)),
    (recurrent.chrono_bias, (10.0,)),
    (search.random_success, (10.0, 0.1)),
    (neural_collapse.simplex_cosine, (5.0,)),
    (neural_collapse.collapsed_logit_gap, (5.0, 0.01, 0.02, 3.0)),
]
# Compiling takes the time of these tests: the compiler is told to be quick.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

POINTS = [list(point) for _, point in FORMS]
NAMES = [f"{form.__module__}.{form.__name__}" for form, _ in FORMS]


def values(points):
    """The value of every form, `[form]`, where each is a sum over what it returns."""
    return jnp.stack([sum(jax.tree.leaves(f(*p))) for (f, _), p in zip(FORMS, points, strict=True)])


def arrays(dtype):
    return jax.tree.map(lambda value: jnp.asarray(value, dtype), POINTS)


def test_forms_keep_their_dtype_and_agree_in_single_precision():
    single = jit(values)(arrays(jnp.float32))
    with jax.enable_x64(True):
        double = jit(values)(arrays(jnp.float64))
    assert (single.dtype, double.dtype) == (jnp.float32, jnp.float64)
    worst = np.abs(np.asarray(single) / np.asarray(double) - 1)
    # 5e-6: some 40 roundings of 6e-8 and quotients of what they left
    assert np.all(worst < 5e-6), dict(zip(NAMES, worst, strict=True))


def test_forms_are_vmapped_and_differentiated():
    with jax.enable_x64(True):
        lanes = jax.tree.map(lambda value: jnp.array([value, 1.001 * value], jnp.float64), POINTS)
        value, slope = jit(jax.vmap(lambda points: jax.jvp(values, (points,), (points,))))(lanes)
    # along the point itself value(1.001 p) - value(p) is .001 slope, by the trapezoidal rule to
    # third order
    value, slope = np.asarray(value), np.asarray(slope)
    change = value[1] - value[0]
    middle = 0.001 * (slope[0] + slope[1] / 1.001) / 2
    np.testing.assert_allclose(change, middle, rtol=1e-4, atol=1e-12)


def test_integers_take_the_dtype_of_the_others():
    assert [each.dtype for each in arguments.floats(3, jnp.arange(2))] == [jnp.float32] * 2
    with jax.enable_x64(True):
        assert [each.dtype for each in arguments.floats(3, 0.5)] == [jnp.float64] * 2
        mixed = arguments.floats(np.arange(2), jnp.float32(0.5), 2.0)
        assert [each.dtype for each in mixed] == [jnp.float32] * 3


def test_counts_may_be_integer_arrays_and_traced():
    found = jax.jit(dead_units.death_probability)(np.array([2, 3]), 4)
    np.testing.assert_allclose(found, 1 - (1 - 0.5 ** np.array([2, 3])) ** 4, rtol=1e-6)
