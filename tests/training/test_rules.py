"""Every optimiser through one table of contracts, and the parts of a chain one by one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.training import stopping
from tests.training import problem

# name -> rule, a learning rate that suits the quadratic below, options; all are traced
OPTIMIZERS = {
    "sgd": ("sgd", 0.1, {}),
    "momentum": ("sgd", 0.1, {"momentum": 0.9}),
    "adam": ("adam", 0.05, {"b1": 0.9, "b2": 0.99, "eps": 1e-8}),
    "adamw": ("adamw", 0.05, {"weight_decay": 0.1}),
    "nadam": ("nadam", 0.05, {"b1": 0.8}),
    "rmsprop": ("rmsprop", 0.02, {"decay": 0.9}),
    "lion": ("lion", 0.02, {"b1": 0.9, "b2": 0.99}),
    "muon": ("muon", 0.05, {"beta": 0.9, "b1": 0.9}),
    "sam": ("sgd", 0.1, {"sam": 0.05}),
    "every_part": (
        "sgd",
        0.1,
        {
            "l2": 0.01,
            "clip_norm": 5.0,
            "clip_value": 1.0,
            "clip_adaptive": 0.5,
            "weight_decay": 0.01,
            "l1": 0.001,
            "max_norm": 1.5,
        },
    ),
}
NUM_STEPS = 3
GROUPS = {
    "first": (4, 4),
    "hidden": (2, 4, 4),
    "readout": (4, 4),
}  # few shapes: eager compiles each


def tree(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        group: {
            "kernel": rng.standard_normal(shape).astype(dtype),
            "bias": rng.standard_normal((*shape[:-2], shape[-1])).astype(dtype),
        }
        for group, shape in GROUPS.items()
    }


START, TARGET = tree(0), tree(1)


def relaxed():
    """Dtype promotion as users have it: optax mixes floats with int counts."""
    return jax.numpy_dtype_promotion("standard")


def quadratic(params):
    """Half the squared distance to the target, curvatures between 1 and 2."""
    parts = jax.tree.map(
        lambda w, t: jnp.sum((1.0 + jnp.abs(jnp.sin(t))) * (w - t) ** 2) / 2,
        params,
        {"hidden": TARGET["hidden"]},
    )
    return sum(jax.tree.leaves(parts))


def descend(name, rate, options):
    """Take a few steps: the parameters at the end, and the losses `[step]`.

    A kernel and a bias are enough, since eager calls compile every operation on every shape.
    """
    optimizer = optax.with_extra_args_support(jn.optimizer(OPTIMIZERS[name][0], rate, **options))
    params = jax.tree.map(jnp.asarray, {"hidden": START["hidden"]})

    def step(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(quadratic)(params)
        updates, state = optimizer.update(gradients, state, params, grad_fn=jax.grad(quadratic))
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=NUM_STEPS)
    return params, losses


@functools.cache
def program(name):
    """Two calls of a jitted batch of three: what the second found, and how often it was traced."""
    _, rate, options = OPTIMIZERS[name]
    traced = []

    @jax.jit
    @jax.vmap
    def run(rate, options):
        traced.append(None)
        return descend(name, rate, options)

    def batch(scales):
        scales = np.array(scales, np.float32)
        return rate * scales, {key: np.full(3, value, np.float32) for key, value in options.items()}

    with relaxed():
        run(*batch([0.1, 0.2, 0.3]))
        return jax.device_get(run(*batch([1.0, 0.5, 0.0]))), len(traced)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_member_of_a_jitted_batch_equals_the_optimiser_alone_and_eager(name):
    _, rate, options = OPTIMIZERS[name]
    (params, losses), _ = program(name)
    with relaxed(), jax.disable_jit():
        alone, alone_losses = descend(name, rate, options)
    # three steps of float32, 6e-8 a rounding; muon and rmsprop divide by norms of order 1
    np.testing.assert_allclose(losses[0], alone_losses, rtol=1e-5)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-5),
        params,
        alone,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimiser_moves_downhill(name):
    (params, losses), _ = program(name)
    assert np.all(np.isfinite(losses))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))
    assert np.all(np.diff(losses[:2], axis=1) < 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimiser_compiles_once_for_all_numbers(name):
    assert program(name)[1] == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learning_rate_of_zero_stands_still(name):
    """But for the projection, which a start outside of it moves."""
    params = program(name)[0][0]["hidden"]
    expected = START["hidden"]["kernel"]
    if name == "every_part":
        length = np.linalg.norm(expected, axis=-2, keepdims=True)
        expected = expected * np.minimum(1.0, 1.5 / length)
    np.testing.assert_allclose(params["kernel"][2], expected, rtol=1e-6)
    np.testing.assert_array_equal(params["bias"][2], START["hidden"]["bias"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimiser_keeps_dtypes(name, dtype):
    rule, rate, options = OPTIMIZERS[name]
    with jax.enable_x64(dtype == np.float64), relaxed():
        transform = optax.with_extra_args_support(jn.optimizer(rule, dtype(rate), **options))

        def update(params):
            state = transform.init(params)
            updates, after = transform.update(params, state, params, grad_fn=lambda p: p)
            return updates, state, after

        updates, state, after = jax.eval_shape(update, tree(0, dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {np.dtype(dtype)}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )


def test_axes_of_a_run_are_all_traced():
    """One program for all values of every number of training."""

    def run(key, *, learning_rate, momentum, patience, **parts):
        del key
        optimizer = jn.optimizer("sgd", learning_rate, momentum=momentum, **parts)
        return problem.fit_linear(optimizer, stop=stopping.patience(patience))

    names = ["learning_rate", "momentum", "patience", "sam", *OPTIMIZERS["every_part"][2]]
    assert len(jn.plan(run, **{name: [0.1, 0.2] for name in names}).programs) == 1


# One part at a time


def one_step(rule, gradients, params, rate=1.0, **options):
    """Return the first update."""
    transform = jn.optimizer(rule, rate, **options)
    with relaxed():
        found, _ = jax.jit(transform.update)(gradients, transform.init(params), params)
    return jax.device_get(found)


def layers_apart(params):
    """The same parameters with every hidden layer in a group of its own, which is not stacked."""
    apart = {group: leaf for group, leaf in params.items() if group != "hidden"}
    for number in range(2):
        layer = jax.tree.map(lambda leaf, n=number: np.asarray(leaf[n]), params["hidden"])
        apart[f"layer_{number}"] = layer
    return apart


@pytest.mark.parametrize("part", [{"clip_adaptive": 0.3}, {"max_norm": 1.2}], ids=str)
def test_norms_of_stacked_layers_are_those_of_the_layers_apart(part):
    gradients, params = (
        {**each, "hidden": {**each["hidden"], "scale": each["hidden"]["bias"][:, 0]}}
        for each in (TARGET, START)
    )
    found = one_step("sgd", gradients, params, **part)
    expected = one_step("sgd", layers_apart(gradients), layers_apart(params), **part)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), layers_apart(found), expected
    )


def test_adaptive_clipping_equals_optax_on_layers_of_their_own():
    """But for the readout, which is left as it is."""
    ours = one_step("sgd", layers_apart(TARGET), layers_apart(START), clip_adaptive=0.3)
    chain = optax.chain(optax.adaptive_grad_clip(0.3), optax.scale(-1.0))
    theirs, _ = jax.jit(chain.update)(
        layers_apart(TARGET), chain.init(layers_apart(START)), layers_apart(START)
    )
    for group in ("first", "layer_0", "layer_1"):
        for leaf in ("kernel", "bias"):
            np.testing.assert_allclose(ours[group][leaf], theirs[group][leaf], rtol=1e-6)
    np.testing.assert_array_equal(ours["readout"]["kernel"], -TARGET["readout"]["kernel"])


def test_unit_of_zeros_is_clipped_as_one_of_a_thousandth():
    zeros = jax.tree.map(np.zeros_like, START)
    found = one_step("sgd", TARGET, zeros, clip_adaptive=0.5)["first"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 0.5e-3, rtol=1e-6)


def test_max_norm_projects_long_units_and_leaves_the_others_bitwise():
    bound = 1.5
    found = one_step("sgd", TARGET, START, 0.1, max_norm=bound)
    free = one_step("sgd", TARGET, START, 0.1)
    for group in GROUPS:
        moved = START[group]["kernel"] + free[group]["kernel"]
        length = np.linalg.norm(moved, axis=-2, keepdims=True)
        after = START[group]["kernel"] + found[group]["kernel"]
        # |w| of order 1: a few float32 roundings
        np.testing.assert_allclose(after, moved * np.minimum(1, bound / length), atol=1e-6)
        short = np.broadcast_to(length <= bound, moved.shape)
        np.testing.assert_array_equal(found[group]["kernel"][short], free[group]["kernel"][short])
        np.testing.assert_array_equal(found[group]["bias"], free[group]["bias"])
    lengths = np.linalg.norm(START["hidden"]["kernel"], axis=-2)
    assert lengths.min() < bound < lengths.max()


@pytest.mark.parametrize("part", ["clip_adaptive", "max_norm"])
def test_infinite_bound_is_bitwise_none(part):
    found = one_step("sgd", TARGET, START, **{part: math.inf})
    jax.tree.map(np.testing.assert_array_equal, found, one_step("sgd", TARGET, START))


def newton_schulz(matrix, num_steps=5):
    """The quintic iteration of Jordan et al. 2024, in numpy."""
    x = matrix.astype(np.float64) / np.linalg.norm(matrix)
    for _ in range(num_steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@functools.cache
def muon_step():
    return one_step("muon", TARGET, START, b1=0.8)


def test_muon_orthogonalises_each_hidden_layer_on_its_own():
    """The first step's momentum is the gradient; a square matrix keeps its scale."""
    found = muon_step()["hidden"]["kernel"]
    for layer in range(2):
        expected = -newton_schulz(TARGET["hidden"]["kernel"][layer])
        # the iteration multiplies small singular values, and their float32 errors, by 3.4^5 = 480
        np.testing.assert_allclose(found[layer], expected, atol=480 * 1e-6)
        assert np.all(np.abs(np.linalg.svd(found[layer])[1] - 0.9) < 0.4)


def test_muon_scales_a_wide_matrix_by_its_aspect():
    """sqrt(6 / 2) for a kernel of 2 inputs and 6 units, stacked kernels of images included."""
    rng = np.random.default_rng(2)
    for shape in [(2, 6), (3, 1, 2, 1, 6)]:
        group = "recurrent" if len(shape) == 2 else "hidden"
        kernel = rng.standard_normal(shape).astype(np.float32)
        found = one_step("muon", {group: {"kernel": kernel}}, {group: {"kernel": kernel}})
        for ours, theirs in zip(
            found[group]["kernel"].reshape(-1, 2, 6), kernel.reshape(-1, 2, 6), strict=True
        ):
            expected = -math.sqrt(3.0) * newton_schulz(theirs)
            np.testing.assert_allclose(ours, expected, atol=480 * 1e-6)


def test_muon_leaves_the_rest_to_adam():
    found = muon_step()
    expected = one_step("adam", TARGET, START, b1=0.8)
    for group in GROUPS:
        for leaf in ("kernel", "bias"):
            if (group, leaf) != ("hidden", "kernel"):
                np.testing.assert_allclose(found[group][leaf], expected[group][leaf], rtol=1e-6)


def test_lion_steps_by_the_rate_in_the_sign_of_its_momentum():
    found = one_step("lion", TARGET, START, 0.3)
    jax.tree.map(
        lambda step, g: np.testing.assert_allclose(step, -0.3 * np.sign(g), rtol=1e-6),
        found,
        TARGET,
    )


def test_nadam_first_step_looks_ahead():
    """m = (b1 (1 - b1) / (1 - b1^2) + 1) g, v = g^2 (Dozat 2016)."""
    found = one_step("nadam", TARGET, START, b1=0.9)["first"]["kernel"]
    expected = -(0.9 * 0.1 / (1 - 0.9**2) + 1.0) * np.sign(TARGET["first"]["kernel"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# What an optimiser is given by fit


def test_sam_in_fit_equals_numpy_and_optax():
    @jax.jit
    def run(radii):
        adversary = optax.chain(optax.contrib.normalize(), optax.sgd(radii[0]))
        theirs = optax.contrib.sam(optax.sgd(0.1), adversary, opaque_mode=True)
        chains = [*(jn.optimizer("sgd", 0.1, sam=radius) for radius in radii), theirs]
        return [problem.fit_linear(each)["parameters"].values for each in chains]

    with jax.enable_x64(True):
        ours, off, theirs = jax.device_get(run(np.array([0.2, 0.0])))
    for found, radius in [(ours, 0.2), (theirs, 0.2), (off, 0.0)]:
        weights = [np.zeros(4)]
        for _ in range(problem.NUM_STEPS):
            gradient = problem.CURVATURES * (weights[-1] - 1)
            worst = weights[-1] + radius * gradient / np.linalg.norm(gradient)
            weights.append(weights[-1] - 0.1 * problem.CURVATURES * (worst - 1))
        np.testing.assert_allclose(found, weights, rtol=1e-10)  # five steps of float64


def test_updates_that_probes_see_are_those_of_sam():
    """The probe reads what the next step, on the same full batch, adds to the weights."""

    @probes.probe(("weight",), long_name="the next step")
    def step_taken(flow):
        return flow.updates["readout"]["kernel"][:, 0]

    with jax.enable_x64(True):
        run = jax.jit(
            lambda radius: problem.fit_linear(
                jn.optimizer("sgd", 0.1, sam=radius), probes=[problem.parameters, step_taken]
            )
        )
        found = jax.device_get(run(0.2))
    moved = np.diff(found["parameters"].values, axis=0)
    np.testing.assert_allclose(found["step_taken"].values[:-1], moved, rtol=1e-10)


def test_sam_without_a_gradient_function_is_refused():
    transform = jn.optimizer("sgd", 0.1, sam=0.1)
    with pytest.raises(TypeError, match="sam: expected grad_fn"):
        transform.update(START, transform.init(START), START)


def test_polyak_step_in_fit_uses_the_loss_of_the_batch():
    """gamma = loss / |g|^2, so the first step has length loss / |g|."""
    with jax.enable_x64(True), relaxed():
        run = jax.jit(lambda: problem.fit_linear(optax.polyak_sgd(max_learning_rate=1e9)))
        found = jax.device_get(run())
    moved = np.linalg.norm(found["parameters"].values[1])
    loss, norm = found["loss"].values[0], np.linalg.norm(problem.CURVATURES)
    np.testing.assert_allclose(moved, loss / norm, rtol=1e-10)
