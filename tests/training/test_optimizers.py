"""The optimiser's parts in closed form: decoupled decay, the L1 limit, clipping that is off."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as jn
from jaxnn.training import kernels, proximal_l1
from jaxnn.training.descent import State, take_step
from jaxnn.types import Batch

WEIGHTS = np.array([[1.0, -0.7, 0.3], [0.05, -2.0, 0.5]])


def descend(transform, gradient, weights, num_steps):
    """Run an optimiser on one kernel for many steps."""
    params = {"kernel": jnp.asarray(weights)}

    def body(carry, _):
        params, state = carry
        updates, state = transform.update({"kernel": gradient(params["kernel"])}, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(body, (params, transform.init(params)), length=num_steps)[0][0]["kernel"]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def relaxed():
    """Dtype promotion as users have it: optax's Adam raises floats to an int count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("float64", "relaxed")
def test_adamw_without_gradient_shrinks_weights_exactly():
    """w_T = (1 - lr wd)^T w_0 (Loshchilov & Hutter 2017); claims D8."""
    rates, decays, steps = np.array([1e-3, 0.1]), np.array([0.5, 3.0]), 100

    @jax.jit
    @jax.vmap
    def run(rate, decay):
        transform = jn.optimizer("adamw", rate, weight_decay=decay)
        return descend(transform, jnp.zeros_like, WEIGHTS, steps)

    factors = (1 - rates * decays) ** steps
    # 100 products of relative rounding 1e-16
    np.testing.assert_allclose(run(rates, decays), factors[:, None, None] * WEIGHTS, rtol=1e-13)


@pytest.mark.usefixtures("float64", "relaxed")
def test_adam_with_l2_moves_by_the_rate_whatever_the_penalty():
    """Adam divides the penalty by its own size: claims D8, the reason for decoupling."""
    rate, steps = 1e-3, 100
    penalties = np.array([1e-4, 1e-2, 1.0])

    @jax.jit
    @jax.vmap
    def run(l2):
        return descend(jn.optimizer("adam", rate, l2=l2), jnp.zeros_like, np.ones((1, 1)), steps)

    found = np.asarray(run(penalties))[:, 0, 0]
    # claims D8 measured .90175, .90174, .90174; the sign-only limit is 1 - 100 lr = .900
    np.testing.assert_allclose(found, 0.90175, atol=2e-5)
    assert np.ptp(found) < 1e-3


@pytest.mark.usefixtures("float64")
def test_l1_on_a_quadratic_reaches_the_soft_threshold():
    """Minimum of 1/2 sum H (w - w*)^2 + a |w|_1: sign(w*) max(|w*| - a / H, 0); claims D10."""
    curvature, penalty = np.array([[1.0, 0.5, 2.0], [1.5, 1.0, 0.8]]), 0.4

    @jax.jit
    def run(penalty):
        def gradient(weights):
            return curvature * (weights - WEIGHTS)

        transform = jn.optimizer("sgd", 0.4, l1=penalty)
        return descend(transform, gradient, np.zeros_like(WEIGHTS), 400)

    limit = np.sign(WEIGHTS) * np.maximum(np.abs(WEIGHTS) - penalty / curvature, 0.0)
    found = np.asarray(run(penalty))
    # the slowest mode contracts by 1 - 0.4 * 0.5 a step: 0.8^400 = 1e-39
    np.testing.assert_allclose(found, limit, rtol=1e-12)
    assert np.sum(limit == 0) == 3
    np.testing.assert_array_equal(found == 0, limit == 0)


TREE = {"layer": {"kernel": np.full((2, 3), 2.0, np.float32), "bias": np.ones(3, np.float32)}}
GRADIENTS = {"layer": {"kernel": np.full((2, 3), 3.0, np.float32), "bias": -np.ones(3, np.float32)}}


def one_step(transform, gradients=GRADIENTS):
    params = jax.tree.map(jnp.asarray, TREE)
    updates, _ = jax.jit(transform.update)(
        jax.tree.map(jnp.asarray, gradients), transform.init(params), params
    )
    return jax.tree.map(np.asarray, updates["layer"])


@pytest.mark.parametrize("clip", ["clip_norm", "clip_value"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e38], ids=["zero", "one", "huge"])
def test_infinite_clip_is_bitwise_no_clip(clip, scale):
    gradients = jax.tree.map(lambda leaf: np.float32(scale) * leaf, GRADIENTS)
    found = one_step(jn.optimizer("sgd", 0.1, **{clip: math.inf}), gradients)
    plain = one_step(jn.optimizer("sgd", 0.1), gradients)
    jax.tree.map(np.testing.assert_array_equal, found, plain)


def test_norm_that_is_clipped_is_that_of_all_gradients():
    """Six 3s and three -1s have norm sqrt(57)."""
    found = one_step(jn.optimizer("sgd", 1.0, clip_norm=2.0))
    for name in ("kernel", "bias"):
        expected = -GRADIENTS["layer"][name] * 2.0 / math.sqrt(57)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)  # three float32 roundings


# part of a chain with rate 1 -> update of TREE's kernel and bias by GRADIENTS times 1e38
HUGE = {
    "clip_norm": (2.0, -6.0 / math.sqrt(57), 2.0 / math.sqrt(57)),
    "clip_adaptive": (0.5, -1.0, 0.5),  # half the weights, as a unit's entries are equal
    "max_norm": (1.0, -math.sqrt(0.5) - 2.0, 1e38),  # two weights into each unit
}


@pytest.mark.parametrize("part", HUGE)
def test_gradient_whose_square_is_out_of_range_is_clipped_to_the_bound(part):
    bound, kernel, bias = HUGE[part]
    gradients = jax.tree.map(lambda leaf: np.float32(1e38) * leaf, GRADIENTS)
    found = one_step(jn.optimizer("sgd", 1.0, **{part: bound}), gradients)
    for name, expected in [("kernel", kernel), ("bias", bias)]:
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)  # a few float32 roundings


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("part", HUGE)
def test_gradient_that_is_not_finite_is_not_made_so(part, value):
    gradients = jax.tree.map(np.copy, GRADIENTS)
    gradients["layer"]["kernel"][0, 0] = value
    found = one_step(jn.optimizer("sgd", 1.0, **{part: HUGE[part][0]}), gradients)
    assert not np.isfinite(found["kernel"][0, 0])


def test_l2_is_part_of_the_gradient_that_is_clipped_and_decay_is_not():
    """In the order of the docstring: 3 + 2 * 2 = 7 is clipped to 5; then decay adds 2 * 2."""
    found = one_step(jn.optimizer("sgd", 1.0, l2=2.0, clip_value=5.0, weight_decay=2.0))
    np.testing.assert_array_equal(found["kernel"], np.full((2, 3), -5.0 - 4.0))
    np.testing.assert_array_equal(found["bias"], np.ones(3))


@pytest.mark.parametrize("penalty", ["l1", "l2", "weight_decay"])
def test_penalty_leaves_biases_alone(penalty):
    found = one_step(jn.optimizer("sgd", 0.1, **{penalty: 0.5}))
    plain = one_step(jn.optimizer("sgd", 0.1))
    np.testing.assert_array_equal(found["bias"], plain["bias"])
    assert np.all(found["kernel"] != plain["kernel"])


@pytest.mark.usefixtures("relaxed")
def test_adamw_decays_by_default_and_adam_does_not():
    gradients = jax.tree.map(np.zeros_like, GRADIENTS)
    # lr wd W = 0.1 * 1e-4 * 2, in float32
    np.testing.assert_allclose(
        one_step(jn.optimizer("adamw", 0.1), gradients)["kernel"], -2e-5, rtol=1e-6
    )
    assert np.all(one_step(jn.optimizer("adam", 0.1), gradients)["kernel"] == 0)


@pytest.mark.usefixtures("relaxed")
def test_adamw_told_its_decay_is_adam_operation_for_operation():
    programs = []
    for rule in ("adam", "adamw"):
        transform = jn.optimizer(rule, 0.1, weight_decay=0.3, l2=0.1, b1=0.8)
        state = jax.eval_shape(transform.init, TREE)
        programs.append(str(jax.make_jaxpr(transform.update)(GRADIENTS, state, TREE)))
    assert programs[0] == programs[1]


def test_kernels_marks_kernels_at_any_depth():
    tree = {"kernel": 1, "bias": 2, "deep": {"kernel": 3, "scale": 4}}
    assert kernels(tree) == {
        "kernel": True,
        "bias": False,
        "deep": {"kernel": True, "scale": False},
    }


def test_proximal_step_follows_a_schedule():
    """Its own count of steps: thresholds 0.1, 0.2, 0.3 with rates 1, 2, 3 and l1 = 0.1."""
    transform = proximal_l1(0.1, lambda count: (count + 1).astype(jnp.float32))
    params = {"kernel": jnp.array([[1.0, -1.0]])}
    state = transform.init(params)
    for expected in (0.9, 0.7, 0.4):
        updates, state = transform.update({"kernel": jnp.zeros((1, 2))}, state, params)
        params = optax.apply_updates(params, updates)
        # a few float32 roundings
        np.testing.assert_allclose(params["kernel"], [[expected, -expected]], rtol=1e-6)


NAMELESS = {"dense": {"weight": np.ones((2, 2), np.float32)}}


@pytest.mark.parametrize("part", ["l1", "l2", "weight_decay", "max_norm"])
def test_part_that_finds_no_kernel_is_refused_at_init(part):
    transform = jn.optimizer("sgd", 0.1, **{part: 0.5})
    with pytest.raises(ValueError, match=rf"{part}: expected params with leaves called 'kernel'"):
        transform.init(NAMELESS)


def test_muon_that_finds_no_matrix_is_refused_at_init_and_default_decay_is_not():
    with pytest.raises(ValueError, match=r"rule 'muon': expected .* hidden or recurrent.*'layer'"):
        jn.optimizer("muon", 0.1).init(TREE)
    jn.optimizer("adamw", 0.1).init(NAMELESS)


@pytest.mark.parametrize(
    "name",
    [
        "learning_rate",
        "l1",
        "l2",
        "weight_decay",
        "max_norm",
        "clip_norm",
        "clip_value",
        "clip_adaptive",
    ],
)
def test_negative_number_is_refused_unless_traced(name):
    def build(value):
        jn.optimizer("sgd", **{"learning_rate": 0.1, name: value})
        return value

    for value in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"{name}: expected a number at least 0, got "):
            build(value)
    jax.eval_shape(build, -0.1)


# name of a traced number -> rule
WIDER = {
    "momentum": "sgd",
    "b1": "adam",
    "decay": "rmsprop",
    "beta": "muon",
    "l2": "sgd",
    "clip_value": "sgd",
    "clip_norm": "sgd",
}


@pytest.mark.usefixtures("float64", "relaxed")
@pytest.mark.parametrize("name", WIDER)
def test_number_wider_than_the_parameters_trains_them_in_their_dtype(name):
    """A float64 axis, float32 data; momentum makes what the number touches part of the state."""
    params = {"hidden": {"kernel": jnp.ones((1, 2, 2), jnp.float32)}}
    batch = Batch(jnp.ones((3, 2), jnp.float32), jnp.ones((3, 2), jnp.float32))

    def apply(variables, x, **_):
        return x @ variables["params"]["hidden"]["kernel"][0], None, variables

    def run(number):
        rest = {"momentum": 0.9} if WIDER[name] == "sgd" else {}
        transform = jn.optimizer(WIDER[name], 0.1, **{**rest, name: number})
        state = State(jnp.int32(0), {"params": params}, transform.init(params), jnp.float64("nan"))

        def step(state, _):
            model = jn.Model(None, apply)
            return take_step(model, jn.squared_error, transform, state, batch, None), None

        return jax.lax.scan(step, state, length=2)[0].variables["params"]

    found = jax.eval_shape(run, jnp.asarray(np.float64(0.5)))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


def test_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"rule: unknown optimiser 'adamm'; known: sgd, adam, "):
        jn.optimizer("adamm", 0.1)
