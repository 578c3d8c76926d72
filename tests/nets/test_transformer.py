"""The transformer against one written with einsum alone, in value and gradient."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.nets.transformer import transformer
from jaxnn.types import Depth

BATCH, TOKENS, FEATURES, WIDTH, HEADS, RATIO, OUT, DEEPEST = 3, 4, 3, 4, 2, 3, 2, 2
HIDDEN = RATIO * WIDTH
RNG = np.random.default_rng(6)
X = RNG.standard_normal((BATCH, TOKENS, FEATURES))
TARGETS = RNG.standard_normal((BATCH, OUT))
SHIFT = 0.1 * RNG.standard_normal((DEEPEST, BATCH, TOKENS * HIDDEN))
SIZES = {"heads": HEADS, "mlp_ratio": RATIO}


def params_of(norm_first):
    rng = np.random.default_rng(9)

    def dense(*shape, layers=(DEEPEST,)):
        kernel = rng.standard_normal((*layers, *shape)) / math.sqrt(shape[0])
        return {"kernel": kernel, "bias": 0.1 * rng.standard_normal((*layers, shape[-1]))}

    def norm(*layers):
        scale, bias = 0.1 * rng.standard_normal((2, *layers, WIDTH))
        return {"norm": {"scale": 1 + scale, "bias": bias}}

    square = {name: dense(WIDTH, WIDTH) for name in ("query", "key", "value", "out")}
    positions = {"position": rng.standard_normal((TOKENS, WIDTH))}
    return {
        "embed": {**dense(FEATURES, WIDTH, layers=()), **positions},
        "hidden": {
            "attention": {**norm(DEEPEST), **square},
            "mlp": {**norm(DEEPEST), "up": dense(WIDTH, HIDDEN), "down": dense(HIDDEN, WIDTH)},
        },
        "readout": {**dense(WIDTH, OUT, layers=()), **(norm() if norm_first else {})},
    }


# The same network with einsum alone


def linear(params, h):
    return jnp.einsum("btf,fu->btu", h, params["kernel"]) + params["bias"][None, None]


def normal(params, h):
    centred = h - jnp.sum(h, -1, keepdims=True) / WIDTH
    spread = jnp.sqrt(jnp.sum(centred**2, -1, keepdims=True) / WIDTH + 1e-5)
    scale, bias = (params["norm"][name][None, None] for name in ("scale", "bias"))
    return centred / spread * scale + bias


def attention(params, h):
    heads = {
        name: linear(params[name], h).reshape(BATCH, TOKENS, HEADS, WIDTH // HEADS)
        for name in ("query", "key", "value")
    }
    scores = jnp.einsum("bqhi,bkhi->bhqk", heads["query"], heads["key"])
    powers = jnp.exp(scores / math.sqrt(WIDTH // HEADS))
    shares = powers / jnp.sum(powers, axis=-1, keepdims=True)
    mixed = jnp.einsum("bhqk,bkhi->bqhi", shares, heads["value"])
    return linear(params["out"], mixed.reshape(BATCH, TOKENS, WIDTH))


def einsum_network(params, shift, *, depth, norm_first, scale):
    h = linear(params["embed"], jnp.asarray(X)) + params["embed"]["position"][None]
    pres, posts = [], []
    for level in range(depth):
        own = jax.tree.map(lambda leaf, level=level: leaf[level], params["hidden"])
        attended = attention(own["attention"], normal(own["attention"], h) if norm_first else h)
        h = h + scale * attended
        h = h if norm_first else normal(own["attention"], h)
        z = linear(own["mlp"]["up"], normal(own["mlp"], h) if norm_first else h)
        z = z + shift[level].reshape(z.shape)
        post = jnp.tanh(z)
        h = h + scale * linear(own["mlp"]["down"], post)
        h = h if norm_first else normal(own["mlp"], h)
        pres.append(z.reshape(BATCH, -1))
        posts.append(post.reshape(BATCH, -1))
    h = normal(params["readout"], h) if norm_first else h
    pooled = jnp.sum(h, axis=1) / TOKENS
    y = pooled @ params["readout"]["kernel"] + params["readout"]["bias"][None]
    return y, jnp.stack(pres), jnp.stack(posts)


def pull(network, params, shift):
    """What a network shows, and the gradients of half its squared error."""

    def objective(params, shift):
        y, pre, post = network(params, shift)
        return 0.5 * jnp.mean((y - jnp.asarray(TARGETS)) ** 2), (y, pre, post)

    return jax.grad(objective, (0, 1), has_aux=True)(params, shift)


def ours(depth, params, shift, *, train=False, **options):
    model = transformer(depth, WIDTH, OUT, "tanh", **SIZES, **options)
    y, taps, _ = model.apply({"params": params}, jnp.asarray(X), train=train, shift=shift)
    return y, taps.pre, taps.post


@functools.cache
def expected(depth, norm_first, scale):
    """What einsum finds with the first layers of the deepest network's parameters."""
    options = {"depth": depth, "norm_first": norm_first, "scale": scale}
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(pull, functools.partial(einsum_network, **options)))
        return jax.device_get(run(params_of(norm_first), SHIFT))


def assert_same(found, wanted, depth=DEEPEST):
    """Compare outputs, taps, gradients and signals of the first layers."""
    (gradients, signals), (y, pre, post) = jax.device_get(found)
    (wanted_gradients, wanted_signals), (wanted_y, wanted_pre, wanted_post) = wanted
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-13)
    # float64 sums of a dozen products through two blocks: 1e-14; the gradients of the keys'
    # biases are 0 in theory (a softmax takes no notice), hence the absolute term
    close(y, wanted_y)
    close(pre[:depth], wanted_pre)
    close(post[:depth], wanted_post)
    close(signals, wanted_signals)
    jax.tree.map(close, gradients, wanted_gradients)


@pytest.mark.parametrize(("norm_first", "scale"), [(True, 0.7), (False, 1.0)], ids=["pre", "post"])
def test_values_and_gradients_equal_einsum(norm_first, scale):
    with jax.enable_x64(True):
        network = functools.partial(ours, DEEPEST, norm_first=norm_first, branch_scale=scale)
        found = jax.jit(functools.partial(pull, network))(params_of(norm_first), SHIFT)
    assert_same(found, expected(DEEPEST, norm_first, scale))


@pytest.fixture(scope="module")
def layouts():
    """One program for all depths; what a scan finds, and the loop of training that ends early."""

    @jax.jit
    def run(active, params):
        options = {"branch_scale": 0.7}
        masked = functools.partial(ours, Depth(DEEPEST, active), **options)
        ragged = functools.partial(ours, Depth(DEEPEST, active, active), train=True, **options)
        return [pull(network, params, SHIFT) for network in (masked, ragged)]

    with jax.enable_x64(True):
        found = {
            active: jax.device_get(run(active, params_of(True))) for active in (1, 2)
        }  # 2 is all of them
        assert run._cache_size() == 1  # the number of blocks is data
    return found


@pytest.mark.parametrize("layout", ["masked", "ragged"])
@pytest.mark.parametrize("active", [1, 2])
def test_masked_depth_equals_exact_depth(layouts, layout, active):
    found = layouts[active][("masked", "ragged").index(layout)]
    assert_same(found, expected(active, True, 0.7), active)
    (gradients, signals), _ = found
    for leaf in (*jax.tree.leaves(gradients["hidden"]), signals):
        assert np.all(leaf[active:] == 0)
    assert np.any(signals[:active] != 0)


# Hyperparameters as data


def cosines(gain):
    """Fill with numbers that depend on the key; random draws take ten times as long to compile."""

    def initialise(key, shape, dtype):
        phase = jnp.sum(jax.random.key_data(key) >> 8).astype(dtype) / 2**22
        waves = jnp.cos(phase + 1.7 * jnp.arange(math.prod(shape), dtype=dtype)).reshape(shape)
        return jnp.asarray(gain, dtype) * waves / math.sqrt(math.prod(shape[:-1]))

    return initialise


def test_gain_and_branch_scale_are_data_of_one_program():
    """Each lane is the network of its own numbers, alone."""
    x = jnp.asarray(X, jnp.float32)

    def run(gain, scale):
        options = {"weights": cosines(gain), "positions": cosines(0.1), "branch_scale": scale}
        model = transformer(2, WIDTH, OUT, **SIZES, **options)
        return model.apply(model.init(jax.random.key(1), x), x)[1].pre

    lanes, alone = jax.jit(jax.vmap(run)), jax.jit(run)
    gains, scales = jnp.array([0.5, 1.0]), jnp.array([1.0, 0.5])
    found, swapped = lanes(gains, scales), lanes(gains[::-1], scales[::-1])
    assert lanes._cache_size() == 1
    np.testing.assert_allclose(swapped[::-1], found, rtol=1e-5, atol=1e-6)  # float32
    np.testing.assert_allclose(found[1], alone(1.0, 0.5), rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(found[0] - found[1])) > 0.1


def test_branches_of_scale_zero_leave_the_embedding():
    """Every block then sees the same stream, and the outputs are those of its mean."""
    with jax.enable_x64(True):
        x, params = jnp.asarray(X), params_of(True)
        model = transformer(DEEPEST, WIDTH, OUT, **SIZES, branch_scale=0.0)
        y = jax.jit(lambda params: model.apply({"params": params}, x)[0])(params)
        h = X @ params["embed"]["kernel"] + params["embed"]["bias"] + params["embed"]["position"]
        pooled = np.asarray(normal(params["readout"], h)).mean(axis=1)
    wanted = pooled @ params["readout"]["kernel"] + params["readout"]["bias"]
    np.testing.assert_allclose(y, wanted, rtol=1e-12)  # float64, a dozen operations


# Initialisation


@pytest.fixture(scope="module")
def drawn():
    """Parameters of depth 3, 2 and masked 2 of 3, from one key."""

    def start(depth):
        options = {"last": jn.zeros(), "positions": cosines(1.0), "weights": cosines(1.0)}
        model = transformer(depth, WIDTH, OUT, **SIZES, **options)
        return model.init(jax.random.key(5), jnp.asarray(X, jnp.float32))["params"]

    depths = {"three": 3, "two": 2, "masked": Depth(3, jnp.int32(2))}
    return jax.device_get(jax.jit(lambda: {name: start(each) for name, each in depths.items()})())


def test_shapes_are_as_the_contract_says(drawn):
    dense = {"kernel": (3, WIDTH, WIDTH), "bias": (3, WIDTH)}
    norm = {"scale": (3, WIDTH), "bias": (3, WIDTH)}
    assert jax.tree.map(np.shape, drawn["three"]) == {
        "embed": {
            "kernel": (FEATURES, WIDTH),
            "bias": (WIDTH,),
            "position": (TOKENS, WIDTH),
        },
        "hidden": {
            "attention": {"norm": norm, "query": dense, "key": dense, "value": dense, "out": dense},
            "mlp": {
                "norm": norm,
                "up": {"kernel": (3, WIDTH, HIDDEN), "bias": (3, HIDDEN)},
                "down": {"kernel": (3, HIDDEN, WIDTH), "bias": (3, WIDTH)},
            },
        },
        "readout": {
            "kernel": (WIDTH, OUT),
            "bias": (OUT,),
            "norm": {"scale": (WIDTH,), "bias": (WIDTH,)},
        },
    }


def test_deeper_network_starts_with_the_shallower_ones_blocks(drawn):
    deep = drawn["three"]
    cut = {**deep, "hidden": jax.tree.map(lambda leaf: leaf[:2], deep["hidden"])}
    jax.tree.map(np.testing.assert_array_equal, drawn["two"], cut)


def test_masked_network_has_zeros_past_its_depth(drawn):
    kept = jax.tree.map(
        lambda leaf: np.concatenate([leaf[:2], np.zeros_like(leaf[2:])]), drawn["three"]["hidden"]
    )
    jax.tree.map(np.testing.assert_array_equal, drawn["masked"]["hidden"], kept)


def test_kernels_are_drawn_independently(drawn):
    """No two of the blocks' kernels share a key, and the ends of branches have their own draw."""
    hidden = drawn["three"]["hidden"]
    kernels = [hidden["attention"][name]["kernel"] for name in ("query", "key", "value")]
    firsts = np.concatenate(
        [kernel[:, 0, 0] for kernel in (*kernels, hidden["mlp"]["up"]["kernel"])]
    )
    assert len(np.unique(firsts)) == 4 * 3
    assert not np.any(hidden["attention"]["out"]["kernel"])
    assert not np.any(hidden["mlp"]["down"]["kernel"])
    assert len(np.unique(drawn["three"]["embed"]["position"][:, 0])) == TOKENS


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"depth": 0}, ValueError, "depth: expected at least 1, got 0"),
        ({"heads": 3}, ValueError, "heads: expected a divisor of width=4, got 3"),
        ({"heads": 0}, ValueError, "heads: expected at least 1, got 0"),
        ({"mlp_ratio": 0.5}, TypeError, "mlp_ratio: expected an int, got 0.5"),
        ({"activation": "rellu"}, ValueError, "activation: unknown name 'rellu'"),
    ],
)
def test_bad_argument_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        transformer(**{"depth": 2, "width": WIDTH, "out": 2, **change})


def test_flat_inputs_are_refused():
    with pytest.raises(ValueError, match=r"x: expected tokens .*, got shape \(5, 64\)"):
        transformer(2, WIDTH, OUT).init(jax.random.key(0), jnp.ones((5, 64)))
