"""The stack against an independent numpy network: values, gradients, depth layouts, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.types import Activation, Depth
from tests import reference

BATCH, FEATURES, WIDTH, OUT = 6, 3, 4, 3
DEEPEST = 5

# (activation, residual, depth): each activation in a plain or residual deep stack, and the edges
CASES = [
    ("tanh", False, 1),
    ("relu", True, 1),
    ("tanh", True, 2),
    ("selu", False, 2),
    ("tanh", False, 5),
    ("tanh", True, 5),
    ("relu", False, 5),
    ("relu", True, 5),
    ("gelu", True, 5),
    ("hard_tanh", False, 5),
]
IDS = [f"{name}-{'residual' if residual else 'plain'}-{depth}" for name, residual, depth in CASES]
STACKS = pytest.mark.parametrize(("name", "residual", "depth"), CASES, ids=IDS)

RNG = np.random.default_rng(5)
X = RNG.standard_normal((BATCH, FEATURES))
LABELS = RNG.integers(0, OUT, BATCH)
SHIFT = 0.1 * RNG.standard_normal((DEEPEST, BATCH, WIDTH))


def network_of(depth, seed=0):
    return reference.random_network(seed, [FEATURES, *[WIDTH] * depth, OUT], gain=1.3)


def pull(model, params, x, labels, shift):
    """Outputs and taps, and the gradient of the mean cross entropy for params and shift."""

    def objective(params, shift):
        outputs, taps, _ = model.apply({"params": params}, x, shift=shift)
        return jnp.mean(jn.cross_entropy(outputs, labels)), (outputs, taps)

    gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (_, (outputs, taps)), (gradients, signals) = gradient(params, shift)
    return outputs, taps, gradients, signals


def as_arrays(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def data_of(dtype):
    return jnp.asarray(X, dtype), jnp.asarray(LABELS, jnp.int32), jnp.asarray(SHIFT, dtype)


def assert_equal_to_reference(found, network, phi, residual, *, rtol, atol):
    """Compare everything that a pass shows with the numpy network on the same numbers."""
    outputs, taps, gradients, signals = jax.device_get(found)
    depth = len(network) - 1
    expected = reference.evaluate(network, X, LABELS, phi, residual=residual, shift=SHIFT)
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    close(outputs, expected.passed.outputs)
    close(taps.pre[:depth], expected.passed.pre)
    close(taps.post[:depth], expected.passed.post)
    close(signals[:depth], expected.signals)
    found_gradients = reference.unstacked(gradients)
    for level, pair in enumerate(expected.gradients):
        place = level if level < depth else -1
        for ours, theirs in zip(found_gradients[place], pair, strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("name", sorted(reference.PHIS))
def test_reference_gradient_equals_central_difference(name, residual):
    """The yardstick itself: along a random direction, for parameters and shift at once."""
    network, direction = network_of(3), network_of(3, seed=1)
    nudge = RNG.standard_normal((3, BATCH, WIDTH))
    phi, step = reference.PHIS[name], 1e-6

    def loss(sign):
        moved = [
            (kernel + sign * step * kernel_step, bias + sign * step * bias_step)
            for (kernel, bias), (kernel_step, bias_step) in zip(network, direction, strict=True)
        ]
        shift = SHIFT[:3] + sign * step * nudge
        return reference.evaluate(moved, X, LABELS, phi, residual=residual, shift=shift).loss

    result = reference.evaluate(network, X, LABELS, phi, residual=residual, shift=SHIFT)
    slope = reference.flattened(result.gradients) @ reference.flattened(direction)
    slope += np.sum(np.stack(result.signals) * nudge)
    # rounding eps L / step = 2e-10 against truncation step^2 L''' = 1e-10
    np.testing.assert_allclose((loss(1) - loss(-1)) / (2 * step), slope, rtol=1e-7, atol=1e-8)


@STACKS
def test_values_and_gradients_equal_reference_float64(name, residual, depth):
    with jax.enable_x64(True):
        x, labels, shift = data_of(jnp.float64)
        network = network_of(depth)
        model = jn.mlp(depth, WIDTH, OUT, name, residual=residual)
        params = as_arrays(reference.stacked(network), jnp.float64)
        found = jax.jit(functools.partial(pull, model))(params, x, labels, shift[:depth])
        # sums of six products through five layers: 1e-14, with room for cancellation
        assert_equal_to_reference(
            found, network, reference.PHIS[name], residual, rtol=1e-10, atol=1e-13
        )


@pytest.mark.parametrize(
    ("name", "residual", "depth", "own"),
    [(*CASES[1], True), (*CASES[4], False), (*CASES[8], False)],
    ids=[f"{IDS[1]}-own", IDS[4], IDS[8]],
)
def test_values_and_gradients_equal_reference_float32(name, residual, depth, own):
    """Also with the variables that the model itself drew."""
    x, labels, shift = data_of(jnp.float32)
    model = jn.mlp(depth, WIDTH, OUT, name, residual=residual, biases=jn.uniform(0.1))
    if own:
        params = jax.jit(model.init)(jax.random.key(1), x)["params"]
    else:
        params = as_arrays(reference.stacked(network_of(depth)), jnp.float32)
    found = jax.jit(functools.partial(pull, model))(params, x, labels, shift[:depth])
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    # eps = 6e-8, gain about 2 a layer and ten sums: 1e-5 of numbers of order 1
    assert_equal_to_reference(
        found,
        reference.unstacked(params),
        reference.PHIS[name],
        residual,
        rtol=1e-4,
        atol=1e-5,
    )


def test_jit_equals_eager():
    x, _, shift = data_of(jnp.float32)
    model = jn.mlp(3, WIDTH, OUT, "tanh", residual=True)
    params = as_arrays(reference.stacked(network_of(3)), jnp.float32)
    arguments = ({"params": params}, x)
    eager = model.apply(*arguments, shift=shift[:3])
    compiled = jax.jit(lambda *given: model.apply(*given, shift=shift[:3]))(*arguments)
    for ours, theirs in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)  # float32, fused or not


def test_vmap_lane_equals_alone():
    """Three networks in one program; each lane is the numpy network with its own numbers.

    The strength of the identity path is one of them.
    """
    strengths = np.array([0.0, 0.5, 1.0])

    def run(strength, *arguments):
        return pull(jn.mlp(3, WIDTH, OUT, "tanh", residual=strength), *arguments)

    with jax.enable_x64(True):
        x, labels, shift = data_of(jnp.float64)
        networks = [network_of(3, seed) for seed in range(3)]
        params = [as_arrays(reference.stacked(network), jnp.float64) for network in networks]
        lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        batched = jax.jit(jax.vmap(run, in_axes=(0, 0, None, None, None)))
        found = batched(strengths, lanes, x, labels, shift[:3])
        for lane, network in enumerate(networks):
            assert_equal_to_reference(
                jax.tree.map(lambda leaf, lane=lane: leaf[lane], found),
                network,
                reference.PHIS["tanh"],
                strengths[lane],
                rtol=1e-10,
                atol=1e-13,
            )


# Depth layouts


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "residual"])
def masked(request):
    """One program of a network masked to each depth; x, and what it finds, by depth."""

    @jax.jit
    def run(active, params, *data):
        depth = Depth(DEEPEST, active)
        model = jn.mlp(depth, WIDTH, OUT, "tanh", residual=request.param)
        return pull(model, params, *data), model.active

    with jax.enable_x64(True):
        params = as_arrays(reference.stacked(network_of(DEEPEST)), jnp.float64)
        data = data_of(jnp.float64)
        found = {active: jax.device_get(run(active, params, *data)) for active in (1, 2, 4, 5)}
        assert run._cache_size() == 1  # the number of layers is data
        return request.param, found


@pytest.mark.parametrize("active", [1, 2, 4, 5])
def test_masked_depth_equals_exact_depth(masked, active):
    """Outputs, active taps, signals and gradients, against numpy without the other layers."""
    residual, found = masked
    network = network_of(DEEPEST)
    exact = [*network[:active], network[-1]]
    assert_equal_to_reference(
        found[active][0], exact, reference.PHIS["tanh"], residual, rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize("active", [1, 2, 4])
def test_masked_layers_get_exactly_no_gradient(masked, active):
    (_, taps, gradients, signals), _ = masked[1][active]
    for leaf in jax.tree.leaves(gradients["hidden"]):
        assert np.all(leaf[active - 1 :] == 0)
        assert np.all(np.any(leaf[: active - 1] != 0, axis=tuple(range(1, leaf.ndim))))
    assert np.all(signals[active:] == 0)
    # the identity: what leaves the last active layer leaves the stack, bit for bit
    np.testing.assert_array_equal(
        taps.post[active:], np.stack([taps.post[active - 1]] * (5 - active))
    )


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.int64], ids=["int32", "int64"])
def test_masked_depth_takes_any_integer_in_float64_mode(dtype):
    """Under strict dtype promotion, as everywhere in these tests."""
    with jax.enable_x64(True):
        model = jn.mlp(Depth(3, jnp.asarray(2, dtype)), WIDTH, OUT)
        np.testing.assert_array_equal(model.active, [True, True, False])


@pytest.mark.parametrize("active", [1, 2, 4, 5])
def test_active_tells_the_layers_of_a_masked_member(masked, active):
    np.testing.assert_array_equal(masked[1][active][1], np.arange(1, DEEPEST + 1) <= active)


def test_exact_depth_has_no_mask():
    assert jn.mlp(DEEPEST, WIDTH, OUT).active is None
    assert jn.mlp(Depth(DEEPEST), WIDTH, OUT).active is None


# Initialisation


def fingerprint(key, shape, dtype):
    """Fill an array with a number of the key it is drawn from: equal keys are equal draws.

    Random draws compile ten times as long, and jax vouches for them.
    """
    low, high = jax.random.key_data(key) >> 8
    return jnp.full(shape, low.astype(dtype) + high.astype(dtype) / 2**24)


@pytest.fixture(scope="module")
def drawn():
    """Variables of depth 5, 2 and masked 2 of 5, from one key."""
    x = jnp.ones((2, FEATURES))
    depths = {"five": 5, "two": 2, "masked": Depth(5, jnp.int32(2))}

    @jax.jit
    def draw(key):
        return {
            name: jn.mlp(depth, WIDTH, OUT, weights=fingerprint, biases=fingerprint).init(key, x)[
                "params"
            ]
            for name, depth in depths.items()
        }

    return jax.device_get(draw(jax.random.key(3)))


def test_deeper_network_starts_with_the_shallower_ones_layers(drawn):
    for group in ("first", "readout"):
        for name in ("kernel", "bias"):
            np.testing.assert_array_equal(drawn["five"][group][name], drawn["two"][group][name])
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(
            drawn["five"]["hidden"][name][:1], drawn["two"]["hidden"][name]
        )


def test_masked_network_draws_the_exact_ones_layers_and_zeros_past_them(drawn):
    def kept(leaf):
        return np.concatenate([leaf[:1], np.zeros_like(leaf[1:])])  # 2 of 5 layers: one is hidden

    expected = {**drawn["five"], "hidden": jax.tree.map(kept, drawn["five"]["hidden"])}
    jax.tree.map(np.testing.assert_array_equal, drawn["masked"], expected)


def test_layers_are_drawn_independently(drawn):
    """No two kernels or biases of a network share a key: 2 for each of the 6 layers."""
    numbers = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(drawn["five"])])
    assert len(np.unique(numbers)) == 2 * 6


def test_shapes_are_as_the_contract_says(drawn):
    shapes = jax.tree.map(np.shape, drawn["five"])
    assert shapes == {
        "first": {"kernel": (FEATURES, WIDTH), "bias": (WIDTH,)},
        "hidden": {"kernel": (4, WIDTH, WIDTH), "bias": (4, WIDTH)},
        "readout": {"kernel": (WIDTH, OUT), "bias": (OUT,)},
    }


def shapes_of(model, x_shape):
    """Shapes of the parameters, the outputs and the taps; nothing is computed."""
    x = jax.ShapeDtypeStruct(x_shape, jnp.float32)

    def run(x):
        variables = model.init(jax.random.key(0), x)
        return variables["params"], *model.apply(variables, x)[:2]

    return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(run, x))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_taps_have_a_layer_axis(depth):
    params, outputs, taps = shapes_of(jn.mlp(depth, WIDTH, OUT), (BATCH, FEATURES))
    assert outputs == (BATCH, OUT)
    assert taps.pre == taps.post == (depth, BATCH, WIDTH)
    assert ("hidden" in params) == (depth > 1)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)], ids=str)
def test_images_are_flattened(shape):
    params, outputs, _ = shapes_of(jn.mlp(1, WIDTH, OUT), (BATCH, *shape))
    assert params["first"]["kernel"] == (6, WIDTH)
    assert outputs == (BATCH, OUT)


def test_image_gives_the_outputs_of_its_flat_form():
    x = RNG.standard_normal((BATCH, 3, 1)).astype(np.float32)
    network = network_of(1)
    params = as_arrays(reference.stacked(network), jnp.float32)
    outputs = jn.mlp(1, WIDTH, OUT, "tanh").apply({"params": params}, jnp.asarray(x))[0]
    expected = reference.forward(network, x.reshape(BATCH, -1), reference.PHIS["tanh"]).outputs
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)  # float32


def test_readout_and_biases_have_their_own_initialisers():
    model = jn.mlp(
        2, WIDTH, OUT, weights=jn.constant(1.0), biases=jn.constant(2.0), readout=jn.constant(3.0)
    )
    params = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, FEATURES)))["params"]
    for group, kernel in (("first", 1.0), ("hidden", 1.0), ("readout", 3.0)):
        assert np.all(params[group]["kernel"] == kernel)
        assert np.all(params[group]["bias"] == 2.0)


def test_variables_come_back_as_they_went_in():
    params = as_arrays(reference.stacked(network_of(1)), jnp.float32)
    variables = {"params": params}
    assert jn.mlp(1, WIDTH, OUT).apply(variables, jnp.ones((1, FEATURES)))[2] is variables


def test_own_activation_is_used():
    square = Activation("square", lambda z: z**2, lambda z: 2 * z)
    model = jn.mlp(1, WIDTH, OUT, square)
    network = network_of(1)
    params = as_arrays(reference.stacked(network), jnp.float32)
    _, taps, _ = model.apply({"params": params}, jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(taps.post, taps.pre**2, rtol=1e-6)  # one float32 product
    assert model.activation is square


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"activation": "rellu"}, ValueError, "activation: unknown name 'rellu'"),
        ({"activation": jnp.tanh}, TypeError, "lacks its slope"),
        ({"depth": 0}, ValueError, "depth: expected at least 1, got 0"),
        ({"depth": -3}, ValueError, "depth: expected at least 1, got -3"),
        ({"depth": 2.0}, TypeError, "depth: expected an int, or mark the sweep's axis"),
        ({"width": 8.0}, TypeError, "width: expected an int, got 8.0"),
        ({"width": 0}, ValueError, "width: expected at least 1, got 0"),
        ({"out": 3.0}, TypeError, "out: expected an int, got 3.0"),
        ({"out": -1}, ValueError, "out: expected at least 1, got -1"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_wrong_argument_is_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        jn.mlp(**{"depth": 2, "width": 4, "out": 3, **change})


@pytest.mark.parametrize("name", ["depth", "width", "out"])
def test_traced_size_is_refused_by_name(name):
    def run(size):
        return jn.mlp(**{"depth": 2, "width": 4, "out": 3, name: size})

    with pytest.raises(
        TypeError, match=f"{name}: expected an int.*fixed when the program is built"
    ):
        jax.eval_shape(run, jnp.int32(3))


@pytest.mark.parametrize(
    ("maximum", "error"), [(0, ValueError), (2.0, TypeError)], ids=["zero", "float"]
)
def test_depth_with_wrong_maximum_is_refused_by_name(maximum, error):
    with pytest.raises(error, match="depth: expected"):
        jn.mlp(Depth(maximum), WIDTH, OUT)
