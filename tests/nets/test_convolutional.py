"""The convolutional stack against plain jax.numpy sums over places, in value and gradient."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.nets.convolutional import cnn
from jaxnn.nets.initialisers import delta_orthogonal
from jaxnn.types import Depth

BATCH, SIDE, COLOURS, CHANNELS, OUT, DEEPEST = 3, 5, 2, 3, 2, 3
RNG = np.random.default_rng(3)
X = RNG.standard_normal((BATCH, SIDE, SIDE + 1, COLOURS))
TARGETS = RNG.standard_normal((BATCH, OUT))
PLACES = 3 * 3  # of maps after a stride of 2


def params_of(depth, kernel=3, norm=False):
    def layers(*shape):
        scales = {"norm": {"scale": 1 + 0.1 * draw(*shape), "bias": 0.1 * draw(*shape)}}
        return scales if norm else {}

    def draw(*shape):
        return rng.standard_normal(shape)

    rng, fan = np.random.default_rng(8), kernel**2
    return {
        "first": {
            "kernel": draw(kernel, kernel, COLOURS, CHANNELS) / math.sqrt(COLOURS * fan),
            "bias": 0.1 * draw(CHANNELS),
            **layers(CHANNELS),
        },
        "hidden": {
            "kernel": draw(depth - 1, kernel, kernel, CHANNELS, CHANNELS)
            / math.sqrt(CHANNELS * fan),
            "bias": 0.1 * draw(depth - 1, CHANNELS),
            **layers(depth - 1, CHANNELS),
        },
        "readout": {"kernel": draw(CHANNELS, OUT), "bias": draw(OUT)},
    }


# The same network in plain jax.numpy: no convolution, no loop over stacked layers.


def places_read(size, offset, stride, padding, kernel):
    """Which row each output row reads for one row of the kernel, and whether it is in the image."""
    outputs = -(-size // stride)
    before = (kernel - 1) // 2
    if padding == "same":
        before = max((outputs - 1) * stride + kernel - size, 0) // 2
    places = np.arange(outputs) * stride + offset - before
    is_inside = (places >= 0) & (places < size)
    return places % size, is_inside | (padding == "circular")


def convolved(layer, h, stride, padding):
    kernel, total = layer["kernel"], 0.0
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            rows, tall = places_read(h.shape[1], i, stride, padding, kernel.shape[0])
            columns, wide = places_read(h.shape[2], j, stride, padding, kernel.shape[1])
            seen = h[:, rows][:, :, columns] * np.outer(tall, wide).astype(float)[None, :, :, None]
            total = total + jnp.einsum("brci,io->brco", seen, kernel[i, j])
    return total + layer["bias"][None, None, None]


def normalised(layer, z):
    """Batch norm in training, and the mean and variance that it saw."""
    mean, var = jnp.mean(z, (0, 1, 2), keepdims=True), jnp.var(z, (0, 1, 2), keepdims=True)
    scale, bias = layer["norm"]["scale"], layer["norm"]["bias"]
    return (z - mean) / jnp.sqrt(var + 1e-5) * scale[None, None, None] + bias[None, None, None]


def plain_network(params, shift, depth, *, stride, padding, residual, norm, phi):
    h, pre, post = jnp.asarray(X), None, []
    pres = []
    for level in range(depth):
        layer = params["first"]
        if level:
            layer = jax.tree.map(lambda leaf, level=level: leaf[level - 1], params["hidden"])
        z = convolved(layer, h, 1 if level else stride, padding)
        z = normalised(layer, z) if norm else z
        z = z + residual * pre if level else z
        pre = z + shift[level].reshape(z.shape)
        h = phi(pre)
        pres.append(pre.reshape(BATCH, -1))
        post.append(h.reshape(BATCH, -1))
    pooled = jnp.mean(h.reshape(BATCH, -1, CHANNELS), axis=1)
    y = pooled @ params["readout"]["kernel"] + params["readout"]["bias"][None]
    return y, jnp.stack(pres), jnp.stack(post)


def pull(network, params, shift):
    """What a network shows, and the gradients of half its squared error."""

    def objective(params, shift):
        y, pre, post = network(params, shift)
        return 0.5 * jnp.mean((y - jnp.asarray(TARGETS, y.dtype)) ** 2), (y, pre, post)

    return jax.grad(objective, (0, 1), has_aux=True)(params, shift)


def ours(model, variables, params, shift, **options):
    y, taps, _ = model.apply(
        {**variables, "params": params}, jnp.asarray(X), shift=shift, **options
    )
    return y, taps.pre, taps.post


def shift_of(depth, places=PLACES):
    return 0.1 * np.random.default_rng(4).standard_normal((depth, BATCH, places * CHANNELS))


@functools.cache
def expected(depth, stride=2, padding="same", residual=0.0, norm=False, kernel=3):
    """What plain jax.numpy finds with the first layers of the deepest network's parameters."""
    options = {"stride": stride, "padding": padding, "residual": residual, "norm": norm}
    network = functools.partial(plain_network, depth=depth, phi=jnp.tanh, **options)
    params, places = params_of(DEEPEST, kernel, norm), PLACES if stride == 2 else X[0, ..., 0].size
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(pull, network))
        return jax.device_get(run(params, shift_of(DEEPEST, places)))


def assert_same(found, wanted, depth=DEEPEST):
    """Compare outputs, taps, gradients and signals of the first layers."""
    (gradients, signals), (y, pre, post) = jax.device_get(found)
    (wanted_gradients, wanted_signals), (wanted_y, wanted_pre, wanted_post) = wanted
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13)
    # float64 sums of 27 products through three layers: 1e-14, with room for cancellation
    close(y, wanted_y)
    close(pre[:depth], wanted_pre)
    close(post[:depth], wanted_post)
    close(signals[:depth], wanted_signals[:depth])
    jax.tree.map(close, gradients, wanted_gradients)


CASES = {
    "plain": {},
    "circular-even-residual": {"padding": "circular", "kernel": 2, "residual": 0.5, "stride": 1},
    "batch-norm": {"norm": True, "residual": 1.0},
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_plain_sums(case):
    options = CASES[case]
    norm, train = ("batch", True) if options.get("norm") else ("none", False)
    kernel = options.get("kernel", 3)
    wanted = expected(DEEPEST, **options)
    with jax.enable_x64(True):
        model = cnn(DEEPEST, CHANNELS, OUT, "tanh", **{**options, "norm": norm})
        stats = {"mean": np.zeros(CHANNELS), "var": np.ones(CHANNELS)}
        stacked = jax.tree.map(lambda leaf: np.stack([leaf] * (DEEPEST - 1)), stats)
        variables = {"batch_stats": {"first": stats, "hidden": stacked}} if train else {}
        network = functools.partial(ours, model, variables, train=train)
        params = params_of(DEEPEST, kernel, bool(options.get("norm")))
        shift = shift_of(DEEPEST, PLACES if options.get("stride", 2) == 2 else X[0, ..., 0].size)
        assert_same(jax.jit(functools.partial(pull, network))(params, shift), wanted)


def test_accelerators_convolution_equals_matrix_product(monkeypatch):
    """On a CPU maps are convolved by a matrix product, elsewhere by XLA's own convolution."""
    with jax.enable_x64(True):
        variables = {"params": params_of(DEEPEST)}
        model, x = cnn(DEEPEST, CHANNELS, OUT, "tanh"), jnp.asarray(X)
        programs = []
        for backend in ("cpu", "gpu"):
            monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
            programs.append(jax.jit(lambda *given: model.apply(*given)[1]).lower(variables, x))
        monkeypatch.undo()
        assert ["stablehlo.convolution" in each.as_text() for each in programs] == [False, True]
        products, convolutions = (each.compile()(variables, x) for each in programs)
    np.testing.assert_allclose(products.pre, convolutions.pre, rtol=1e-10, atol=1e-13)  # float64


# Depth layouts


@pytest.fixture(scope="module")
def layouts():
    """One program for all depths; what a scan finds, and the loop of training that ends early."""

    @jax.jit
    def run(active, params, shift):
        masked = cnn(Depth(DEEPEST, active), CHANNELS, OUT, "tanh")
        ragged = cnn(Depth(DEEPEST, active, active), CHANNELS, OUT, "tanh")
        networks = (
            functools.partial(ours, masked, {}),
            functools.partial(ours, ragged, {}, train=True),
        )
        return [pull(network, params, shift) for network in networks]

    with jax.enable_x64(True):
        given = params_of(DEEPEST), shift_of(DEEPEST)
        found = {active: jax.device_get(run(active, *given)) for active in (1, 2)}
        assert run._cache_size() == 1  # the number of layers is data
    return found


@pytest.mark.parametrize("layout", ["masked", "ragged"])
@pytest.mark.parametrize("active", [1, 2])
def test_masked_depth_equals_exact_depth(layouts, layout, active):
    found = layouts[active][("masked", "ragged").index(layout)]
    assert_same(found, expected(active), active)
    (gradients, signals), _ = found
    for leaf in (*gradients["hidden"].values(), signals[1:]):
        assert np.all(leaf[active - 1 :] == 0)
        assert np.all(np.any(leaf[: active - 1] != 0, axis=tuple(range(1, leaf.ndim))))


# Hyperparameters as data


def cosines(gain):
    """Fill with numbers that depend on the key; random draws take ten times as long to compile."""

    def initialise(key, shape, dtype):
        phase = jnp.sum(jax.random.key_data(key) >> 8).astype(dtype) / 2**22
        waves = jnp.cos(phase + 1.7 * jnp.arange(math.prod(shape), dtype=dtype)).reshape(shape)
        return jnp.asarray(gain, dtype) * waves / math.sqrt(math.prod(shape[:-1]))

    return initialise


def test_gain_and_residual_are_data_of_one_program():
    """Each lane is the network of its own numbers, alone."""

    def run(gain, residual):
        options = {"weights": cosines(gain), "readout": cosines(1.0), "residual": residual}
        model = cnn(3, CHANNELS, OUT, **options)
        x = jnp.asarray(X, jnp.float32)
        return model.apply(model.init(jax.random.key(1), x), x)[1].pre

    lanes = jax.jit(jax.vmap(run))
    found = lanes(jnp.array([0.5, 1.0, 2.0]), jnp.array([0.0, 0.5, 1.0]))
    again = lanes(jnp.array([2.0, 1.0, 1.0]), jnp.array([1.0, 0.0, 1.0]))
    assert lanes._cache_size() == 1
    np.testing.assert_allclose(again[0], found[2], rtol=1e-5, atol=1e-6)  # float32
    alone = jax.jit(run)
    for gain, residual, lane in ((0.5, 0.0, found[0]), (1.0, 0.5, found[1])):
        np.testing.assert_allclose(lane, alone(gain, residual), rtol=1e-5, atol=1e-6)  # float32


def test_delta_orthogonal_maps_keep_norms():
    """|conv(x)| = gain |x| at each layer (Xiao et al. 2018, 1806.05393, section 2)."""
    with jax.enable_x64(True):
        x = jnp.asarray(X)
        options = {"weights": delta_orthogonal(1.5), "readout": jn.zeros(), "stride": 1}
        paddings = ("same", "circular")
        models = [cnn(3, 4, OUT, "identity", padding=padding, **options) for padding in paddings]

        @jax.jit
        def run(key):
            variables = models[0].init(key, x)
            return [model.apply(variables, x)[1].pre for model in models]

        norms = [np.linalg.norm(pre, axis=-1) for pre in run(jax.random.key(2))]
    wanted = 1.5 ** np.arange(1, 4)[:, None] * np.linalg.norm(X.reshape(BATCH, -1), axis=1)
    np.testing.assert_allclose(norms, [wanted, wanted], rtol=1e-12)  # orthogonal to rounding


# Initialisation and statistics


def test_shapes_and_layers_of_a_shallower_network():
    def drawn(depth):
        options = {"weights": cosines(1.0), "readout": cosines(1.0), "norm": "batch"}
        return cnn(depth, CHANNELS, OUT, **options).init(jax.random.key(5), jnp.asarray(X))

    deep, shallow, masked = jax.device_get(
        jax.jit(lambda: [drawn(depth) for depth in (4, 2, Depth(4, jnp.int32(2)))])()
    )
    assert jax.tree.map(np.shape, deep["params"]) == {
        "first": {
            "kernel": (3, 3, COLOURS, CHANNELS),
            "bias": (CHANNELS,),
            "norm": {"scale": (CHANNELS,), "bias": (CHANNELS,)},
        },
        "hidden": {
            "kernel": (3, 3, 3, CHANNELS, CHANNELS),
            "bias": (3, CHANNELS),
            "norm": {"scale": (3, CHANNELS), "bias": (3, CHANNELS)},
        },
        "readout": {"kernel": (CHANNELS, OUT), "bias": (OUT,)},
    }
    assert jax.tree.map(np.shape, deep["batch_stats"]["hidden"]) == {"mean": (3, 3), "var": (3, 3)}
    params = deep["params"]
    first_only = {**params, "hidden": jax.tree.map(lambda leaf: leaf[:1], params["hidden"])}
    jax.tree.map(np.testing.assert_array_equal, shallow["params"], first_only)
    kept = jax.tree.map(
        lambda leaf: np.concatenate([leaf[:1], np.zeros_like(leaf[1:])]), params["hidden"]
    )
    jax.tree.map(np.testing.assert_array_equal, masked["params"]["hidden"], kept)
    assert len(np.unique(params["hidden"]["kernel"][:, 0, 0, 0, 0])) == 3  # keys of their own


def test_statistics_move_in_training_and_hold_in_evaluation():
    """mean <- 0.9 mean + 0.1 (mean over batch and places), and the same of the variance."""
    x = jnp.asarray(X, jnp.float32)
    model = cnn(1, CHANNELS, OUT, weights=cosines(1.0), readout=cosines(1.0), norm="batch")

    @jax.jit
    def run(key):
        variables = model.init(key, x)
        return variables, *(model.apply(variables, x, train=train)[2] for train in (True, False))

    start, moved, held = jax.device_get(run(jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, held, start)
    z = np.asarray(convolved(start["params"]["first"], X, 2, "same"))
    stats = moved["batch_stats"]["first"]
    np.testing.assert_allclose(stats["mean"], 0.1 * z.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * z.var((0, 1, 2)), rtol=1e-5)  # float32


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"depth": 0}, ValueError, "depth: expected at least 1, got 0"),
        ({"channels": 2.5}, TypeError, "channels: expected an int, got 2.5"),
        ({"kernel": 0}, ValueError, "kernel: expected at least 1, got 0"),
        ({"stride": 0}, ValueError, "stride: expected at least 1, got 0"),
        ({"padding": "valid"}, ValueError, "padding: expected 'same' or 'circular', got 'valid'"),
        ({"activation": "rellu"}, ValueError, "activation: unknown name 'rellu'"),
        ({"norm": "group"}, ValueError, "norm: unknown name 'group'"),
    ],
)
def test_bad_argument_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        cnn(**{"depth": 2, "channels": 3, "out": 2, **change})


def test_flat_images_are_refused():
    model = cnn(2, 3, 2)
    with pytest.raises(ValueError, match=r"x: expected images .*, got shape \(5, 64\)"):
        model.init(jax.random.key(0), jnp.ones((5, 64)))
