"""LSUV, RAI, and the death of relu networks that RAI is against, measured on real networks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.nets.reinitialise import lsuv, rai
from jaxnn.types import Depth, Model, Taps
from tests import reference

DEPTH, WIDTH, FEATURES, BATCH, SEEDS = 6, 128, 20, 256, 8
X = np.random.default_rng(2).standard_normal((BATCH, FEATURES)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(4), SEEDS)
RAI_STD = 0.6007  # of Lu et al.


def assert_within_three_errors(found, probability, count):
    """A share of independent networks, against its probability: 3 binomial standard errors."""
    assert abs(found - probability) < 3 * math.sqrt(probability * (1 - probability) / count)


# LSUV


def plain_mlp(activation, depth=DEPTH, gain=1.0, width=WIDTH):
    return jn.mlp(depth, width, 2, activation, weights=jn.orthogonal(gain))


@functools.cache
def rescaled(activation):
    """Variables before and after LSUV and its variances `[seed, layer]`; start gains differ."""

    def one(key, gain):
        model = plain_mlp(activation, gain=gain)
        before = model.init(key, X[:1])
        after = lsuv(model, before, X)
        return before, after, jnp.var(model.apply(after, X)[1].pre, axis=(1, 2))

    return jax.device_get(jax.jit(jax.vmap(one))(KEYS, jnp.linspace(0.3, 3.0, SEEDS)))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_lsuv_gives_every_layer_unit_variance(activation):
    variances = rescaled(activation)[2]
    assert variances.shape == (SEEDS, DEPTH)
    # the paper asks for [0.9, 1.1]; one rescaling is exact but for the float32 mean of 3e4 squares
    np.testing.assert_allclose(variances, 1.0, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_lsuv_finds_the_gain_of_mean_field_theory(activation):
    """He's 2 for relu, 1 / E[phi^2] for tanh: sigma_w^2 E[phi(z)^2] = 1 with z normal (A18)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    squares = reference.PHIS[activation].value(nodes) ** 2
    expected = 0.5 if activation == "relu" else weights @ squares / weights.sum()
    # 1 / sigma_w^2 is the mean of phi^2 over units and batch. Deep relu layers see one direction,
    # so its error is up to sqrt(5 / 128 units) = 0.2 in one layer, 0.2 / sqrt(8 seeds * 5) = 3% in
    # all; tanh's squares spread less. The claim is 5%
    kernels = rescaled(activation)[1]["params"]["hidden"]["kernel"]
    found = (1 / (WIDTH * (kernels**2).mean(axis=(2, 3)))).mean()
    assert abs(found / expected - 1) < 0.05


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_lsuv_equals_the_algorithm_in_numpy(activation):
    """Layer after layer, on each lane's own kernels; biases and readout are left alone."""
    before, after, _ = rescaled(activation)
    for lane in range(SEEDS):
        start, found = (
            reference.unstacked(jax.tree.map(lambda leaf: leaf[lane], each["params"]))  # noqa: B023
            for each in (before, after)
        )
        h = X.astype(float)
        for (kernel, _), (ours, bias) in zip(start[:-1], found[:-1], strict=True):
            expected = kernel / (h @ kernel).std()
            # variances of 3e4 numbers in float32, through 6 layers: 1e-6 each
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(bias, np.zeros(WIDTH))
            h = reference.PHIS[activation].value(h @ expected)
        for ours, theirs in zip(start[-1], found[-1], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_lsuv_of_masked_depths_equals_exact_ones_and_leaves_absent_layers_zero():
    width = 8

    @jax.jit
    def found(key, active):
        depths = (Depth(5, active, active), 3, 1)
        models = [plain_mlp("tanh", depth, gain=2.0, width=width) for depth in depths]
        params = models[0].init(key, X)["params"]
        shallow = {"first": params["first"], "readout": params["readout"]}
        exact = {**shallow, "hidden": jax.tree.map(lambda leaf: leaf[:2], params["hidden"])}
        starts = (params, exact, shallow)
        return [
            lsuv(model, {"params": start}, X)["params"]
            for model, start in zip(models, starts, strict=True)
        ]

    masked, exact, shallow = jax.device_get(found(KEYS[0], 3))
    assert "hidden" not in shallow
    for each in (masked, shallow):
        np.testing.assert_allclose(each["first"]["kernel"], exact["first"]["kernel"], rtol=1e-5)
    hidden = masked["hidden"]["kernel"]
    np.testing.assert_allclose(hidden[:2], exact["hidden"]["kernel"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(hidden[2:], np.zeros((2, width, width)))


def test_lsuv_leaves_layers_without_variance_as_they_are():
    network = reference.random_network(1, [FEATURES, 8, 8, 2])
    quiet = [(kernel, np.zeros_like(bias)) for kernel, bias in network]
    start = jax.tree.map(jnp.float32, reference.stacked(quiet))
    model = plain_mlp("relu", depth=2, width=8)
    rescale = jax.jit(jax.vmap(lambda x: lsuv(model, {"params": start}, x)["params"]))
    after = rescale(np.stack([X, np.zeros_like(X)]))
    for ours, theirs in zip(jax.tree.leaves(after), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(ours[1], theirs)
    assert not np.allclose(after["first"]["kernel"][0], start["first"]["kernel"])


def convolutions(num_layers, channels):
    """Return a stack of convolutions whose taps are flattened maps `[layer, batch, unit]`."""

    def conv(kernel, h):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=layout)

    def init(key, x):
        first, *hidden = jax.random.split(key, num_layers)
        draw = jn.he()
        kernels = [draw(each, (3, 3, channels, channels), x.dtype) for each in hidden]
        stem = draw(first, (3, 3, x.shape[-1], channels), x.dtype)
        return {"params": {"first": {"kernel": stem}, "hidden": {"kernel": jnp.stack(kernels)}}}

    def apply(variables, x):
        def step(h, kernel):
            z = conv(kernel, jnp.tanh(h))
            return z, z

        first = conv(variables["params"]["first"]["kernel"], x)
        last, rest = jax.lax.scan(step, first, variables["params"]["hidden"]["kernel"])
        pre = jnp.concatenate([first[None], rest]).reshape(num_layers, len(x), -1)
        return last, Taps(pre, jnp.tanh(pre)), variables

    return Model(init, apply)


def test_lsuv_rescales_convolutions():
    images = X.reshape(-1, 5, 4, 1)[:32]
    model = convolutions(4, 6)

    @jax.jit
    def variances(key):
        variables = lsuv(model, model.init(key, images), images)
        return jnp.var(model.apply(variables, images)[1].pre, axis=(1, 2))

    np.testing.assert_allclose(variances(KEYS[0]), np.ones(4), atol=1e-4)


def test_scheme_refuses_variables_without_tapped_layers():
    model = plain_mlp("relu", depth=2, width=4)
    with pytest.raises(ValueError, match=r"lsuv: expected .*\['first'\] with a kernel, got \[\]"):
        lsuv(model, {"params": {"readout": {}}}, X)
    hidden = {"first": {"kernel": X, "bias": X}, "hidden": {"inner": X}}
    with pytest.raises(ValueError, match=r"rai: .*\['hidden'\] with a kernel, got \['inner'\]"):
        rai(KEYS[0], {"params": hidden})
    fewer = model._replace(
        apply=lambda variables, x: (x, Taps(x[None], x[None]), variables)  # one layer of taps
    )
    with pytest.raises(ValueError, match=r"lsuv: expected taps of the 2 layers .*, got 1"):
        jax.eval_shape(lambda key: lsuv(fewer, model.init(key, X), X), KEYS[0])


# RAI


def layer_of(shape, stack=()):
    bias = np.zeros((*stack, shape[-1]), np.float32)
    return {"kernel": np.ones((*stack, *shape), np.float32), "bias": bias}


def stack_of(depth, width):
    """Return params of a network of one input and one output."""
    hidden = layer_of((width, width), (depth - 1,))
    return {"first": layer_of((1, width)), "hidden": hidden, "readout": layer_of((width, 1))}


def test_rai_replaces_one_number_a_unit_by_a_beta_draw():
    """Moments of both kinds, and one large positive entry a unit, weights and bias alike."""
    fan_in, units = 400, 600
    start = {"first": layer_of((fan_in, units)), "readout": layer_of((units, 1))}
    found = jax.jit(lambda key: rai(key, {"params": start}))(KEYS[0])["params"]
    np.testing.assert_array_equal(found["readout"]["kernel"], start["readout"]["kernel"])
    layer = jax.device_get(found["first"])
    numbers = np.concatenate([layer["kernel"], layer["bias"][None]]).astype(float)
    assert numbers.shape == (fan_in + 1, units)
    # Beta(2, 1) is above 0.2 with probability 0.96; a normal of sd 0.6 / sqrt(400) never is
    large = numbers > 0.2
    assert large.sum(axis=0).max() == 1
    assert_within_three_errors(large.sum() / units, 1 - 0.2**2, units)
    beta, normal = numbers[large], numbers[~large & (np.abs(numbers) < 0.12)]
    # above 0.2, E b = int_.2^1 2 b^2 db / 0.96 and sd 0.22
    assert abs(beta.mean() - (2 / 3) * (1 - 0.2**3) / 0.96) < 3 * 0.22 / math.sqrt(beta.size)
    # Beta draws below 0.12 (9 of 2e5 numbers) have up to 16 times the square: 7e-4 of all; normals
    # above 0.12 are 4 sd away: 1e-3 of all
    error = math.sqrt(2 / normal.size)
    assert abs((normal**2).mean() * fan_in / RAI_STD**2 - 1) < 3 * error + 2e-3


def test_rai_places_are_uniform_over_weights_and_bias():
    """Of fan_in + 1 = 3 places each is met a third of the time."""
    nets = 4000
    start = {"first": layer_of((2, 2))}
    keys = jax.random.split(KEYS[1], nets)
    layer = jax.jit(jax.vmap(lambda key: rai(key, {"params": start})))(keys)["params"]["first"]
    numbers = np.concatenate([layer["kernel"], layer["bias"][:, None]], axis=1).astype(float)
    # E of a place: (1/3) E Beta = 2/9; its second moment: (1/3) E Beta^2 + (2/3) 0.6007^2 / 2
    second = 1 / 6 + (2 / 3) * RAI_STD**2 / 2
    errors = math.sqrt((second - (2 / 9) ** 2) / (2 * nets))
    means = numbers.mean(axis=(0, 2))
    np.testing.assert_allclose(means, np.full(3, 2 / 9), atol=3 * errors)
    # sd of a square below 0.31, that of Beta(2, 1)'s
    np.testing.assert_allclose(
        (numbers**2).mean(axis=(0, 2)), np.full(3, second), atol=3 * 0.31 / math.sqrt(2 * nets)
    )


def test_rai_keeps_shallow_layers_and_absent_ones():
    """Layer l draws from fold_in(key, l) whatever the depth; a masked member's rest stays zero."""
    exact = stack_of(3, 4)
    masked = stack_of(5, 4)
    masked["hidden"]["kernel"][2:] = 0
    redraw = jax.jit(lambda key: [rai(key, {"params": each})["params"] for each in (exact, masked)])
    exact, masked = jax.device_get(redraw(KEYS[0]))
    np.testing.assert_array_equal(masked["first"]["bias"], exact["first"]["bias"])
    for leaf, shallow in exact["hidden"].items():
        np.testing.assert_array_equal(masked["hidden"][leaf][:2], shallow)
        np.testing.assert_array_equal(masked["hidden"][leaf][2:], np.zeros_like(shallow))


def test_schemes_keep_shapes_and_dtypes():
    model = plain_mlp("relu", depth=3, width=4)

    def both(key, x):
        variables = model.init(key, x)
        convolution = jax.tree.map(lambda leaf: leaf.astype(x.dtype), layer_of((3, 2, 4, 5)))
        window = {"params": {"first": convolution}}
        return [
            (variables, rai(key, variables), lsuv(model, variables, x)),
            (window, rai(key, window)),
        ]

    with jax.enable_x64(True):
        for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
            for before, *after in jax.eval_shape(both, KEYS[0], jnp.zeros((3, 2), dtype)):
                assert {leaf.dtype for leaf in jax.tree.leaves(before)} == {jnp.dtype(dtype)}
                assert all(each == before for each in after)


# death of relu networks (Lu, Shin, Su & Karniadakis 2019, 1903.06733)


def constant_layers(model, variables, x):
    """Return `[layer]` True where no unit depends on the input at any of the points.

    Its derivative dh/dx tells without rounding: constants may be large beside what varies.
    """

    def post(x):
        return model.apply(variables, x)[1].post

    return jnp.all(jax.jvp(post, (x,), (jnp.ones_like(x),))[1] == 0, axis=(1, 2))


# (width, hidden layers) -> share of He's networks that are constant on the whole line, of 2e5 in a
# plain numpy simulation (standard errors up to 0.001)
LINE = {(2, 9): 0.881, (2, 19): 0.993, (4, 19): 0.627}


@pytest.mark.parametrize("width", [2, 4])
def test_networks_die_as_lu_et_al_say(width):
    """A layer is off with probability 2^-N: at one input, dead with 1 - (1 - 2^-N)^H, exactly."""
    nets = 4096
    model = jn.mlp(19, width, 1, "relu", weights=jn.he())
    x = jnp.array([[-1.0], [1.0]])  # without biases, as good as the whole line

    @jax.jit
    @jax.vmap
    def dead(key):
        variables = model.init(key, x)
        silent = jnp.all(model.apply(variables, x)[1].post[:, 0] == 0, axis=-1)
        return silent, constant_layers(model, variables, x)

    found = dead(jax.random.split(KEYS[0], nets))
    at_one_input, on_line = (np.asarray(each).mean(axis=0) for each in found)
    for depth in (1, 4, 9, 19):
        assert_within_three_errors(at_one_input[depth - 1], 1 - (1 - 2.0**-width) ** depth, nets)
    # after two layers exactly: one ray survives the first, with probability 2^(1-N), or both do
    one_ray = 2.0 ** (1 - width)
    exact = one_ray * 2.0**-width + (1 - one_ray) * 4.0**-width
    assert_within_three_errors(on_line[1], exact, nets)
    for (_, depth), share in {case: LINE[case] for case in LINE if case[0] == width}.items():
        assert_within_three_errors(on_line[depth - 1], share, nets)


# (width, hidden layers) -> share of networks born constant on [-2, 2], of 1e5 in a plain numpy
# simulation (standard errors 0.001)
BORN_DEAD = {(2, 9): 0.228, (2, 19): 0.520, (4, 19): 0.059}


@pytest.mark.parametrize("width", [2, 4])
def test_rai_has_fewer_networks_born_dead(width):
    nets = 4096
    model = jn.mlp(19, width, 1, "relu")
    start = {"params": stack_of(19, width)}
    x = jnp.linspace(-2.0, 2.0, 41)[:, None]

    @jax.jit
    @jax.vmap
    def dead(key):
        return constant_layers(model, rai(key, start), x)

    shares = np.asarray(dead(jax.random.split(KEYS[1], nets))).mean(axis=0)
    for (_, depth), share in {case: BORN_DEAD[case] for case in LINE if case[0] == width}.items():
        assert_within_three_errors(shares[depth - 1], share, nets)


def test_leaky_relu_has_no_dead_units_and_keeps_the_variance():
    """With slope a > 0 nothing dies, and Var W = 2 / ((1 + a^2) n) keeps E z^2; a is traced."""
    nets, width, depth = 2048, 4, 12
    slopes = jnp.array([0.0, 0.003, 0.1, 0.3])
    x = jnp.linspace(-2.0, 2.0, 10)[:, None]

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def measured(slope, key):
        phi = jn.leaky_relu(slope)
        model = jn.mlp(depth, width, 1, phi, weights=jn.he((1 + slope**2) ** -0.5))
        variables = model.init(key, x)
        pre = model.apply(variables, x)[1].pre
        dead_units = jnp.all(jnp.abs(phi.slope(pre)) <= phi.dead_slope, axis=1)
        ratio = jnp.sum(pre[2] ** 2) / jnp.sum(pre[0] ** 2)
        return jnp.mean(dead_units), constant_layers(model, variables, x)[-1], ratio

    units, networks, ratios = jax.device_get(measured(slopes, jax.random.split(KEYS[2], nets)))
    assert (units[1:] == 0).all()
    assert not networks[1:].any()
    assert units[0].mean() > 0.1
    assert networks[0].mean() > 0.1
    # E |z_3|^2 / |z_1|^2 = 1 exactly: 4 standard errors of the sample
    error = ratios.std(axis=1) / math.sqrt(nets)
    np.testing.assert_array_less(np.abs(ratios.mean(axis=1) - 1), 4 * error)
