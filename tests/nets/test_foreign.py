"""A user's own network as a `Model`: linen, nnx and functions, against the same in plain numpy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxnn as jn
from jaxnn.nets.foreign import from_functions, from_linen, from_nnx, tap

BATCH, FEATURES, WIDTH, OUT = 6, 3, 4, 2
RNG = np.random.default_rng(2)
X = RNG.standard_normal((BATCH, FEATURES)).astype(np.float32)
SHIFT = 0.1 * RNG.standard_normal((2, BATCH, WIDTH)).astype(np.float32)
SPREAD = nn.initializers.constant(0.1)  # random draws take ten times as long to compile


class Block(nn.Module):
    """A tapped layer; its module comes later in the alphabet than the one after it."""

    @nn.compact
    def __call__(self, h):
        return tap(self, nn.Dense(WIDTH)(h), jnp.tanh)


class LinenNet(nn.Module):
    """Two tapped layers (one of them rematerialised), batch norm and dropout."""

    @nn.compact
    def __call__(self, x, train):
        h = nn.remat(Block)(name="z_first")(x)
        h = Block(name="a_second")(h)
        h = nn.BatchNorm(use_running_average=not train, momentum=0.9)(h)
        h = nn.Dropout(0.5, deterministic=not train)(h)
        return nn.Dense(OUT)(h)


class NnxNet(nnx.Module):
    """The same in nnx; it counts its passes of training besides."""

    def __init__(self, rngs):
        sizes = ((FEATURES, WIDTH), (WIDTH, WIDTH))
        self.layers = nnx.List([nnx.Linear(*each, rngs=rngs) for each in sizes])
        self.norm = nnx.BatchNorm(WIDTH, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(WIDTH, OUT, rngs=rngs)
        self.count = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        for layer in self.layers:
            x = tap(self, layer(x), jnp.tanh)
        self.count[...] += 1
        return self.last(self.dropout(self.norm(x)))


def functions():
    """The same two tapped layers without norm; dropout of the inputs by hand."""

    def init(key, x):
        kernels = jax.random.normal(key, (2, WIDTH, WIDTH), x.dtype)
        return {"in": kernels[0, : x.shape[-1]], "up": kernels[1], "out": kernels[1, :, :OUT]}

    def apply(params, x, key, train):
        if train:
            x = x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)
        h = tap(None, x @ params["in"], jn.activation("tanh"))
        return tap(None, h @ params["up"], jnp.tanh) @ params["out"]

    return from_functions(init, apply, activation="tanh")


BUILDERS = {
    "linen": lambda: from_linen(LinenNet(), activation="tanh"),
    "nnx": lambda: from_nnx(lambda rngs: NnxNet(rngs), activation="tanh"),
    "functions": functions,
}
FAMILIES = pytest.mark.parametrize("family", BUILDERS)


@functools.cache
def seen(family):
    """All that the tests look at, in one program."""
    model, x = BUILDERS[family](), jnp.asarray(X)

    @jax.jit
    def run(key):
        variables = model.init(key, x)
        keys = jax.random.split(key)

        def weighted(shift):
            y, taps, _ = model.apply(variables, x, shift=shift)
            return jnp.sum(y * jnp.arange(OUT, dtype=y.dtype)[None]), taps

        return {
            "variables": variables,
            "evaluated": model.apply(variables, x),
            "keyed": model.apply(variables, x, key=keys[0])[0],
            "shifted": jax.grad(weighted, has_aux=True)(jnp.asarray(SHIFT)),
            "trained": [model.apply(variables, x, key=each, train=True) for each in keys],
            "again": model.apply(variables, x, key=keys[0], train=True)[0],
        }

    return jax.device_get(run(jax.random.key(4)))


def parts_of(family, variables):
    """Kernels and biases of the three layers, and the rest, as plain arrays."""
    params = variables["params"]
    if family == "functions":
        return [(params[name], 0.0) for name in ("in", "up", "out")]
    if family == "linen":
        layers = [params["z_first"]["Dense_0"], params["a_second"]["Dense_0"], params["Dense_0"]]
    else:
        layers = [params["layers"][0], params["layers"][1], params["last"]]
    return [(layer["kernel"], layer["bias"]) for layer in layers]


def forward(layers, shift, scale):
    pre = np.stack([X @ layers[0][0] + layers[0][1] + shift[0]] * 2)
    pre[1] = np.tanh(pre[0]) @ layers[1][0] + layers[1][1] + shift[1]
    return pre, scale * np.tanh(pre[1]) @ layers[2][0] + layers[2][1]


def scale_of(family):
    """What a fresh batch norm does in evaluation: 1 / sqrt(1 + epsilon)."""
    return 1.0 if family == "functions" else 1 / np.sqrt(1 + 1e-5)


@FAMILIES
def test_values_and_signals_equal_plain_numpy(family):
    found = seen(family)
    layers, scale = parts_of(family, found["variables"]), scale_of(family)
    y, taps, _ = found["evaluated"]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)  # float32
    pre, wanted = forward(layers, np.zeros_like(SHIFT), scale)
    close(y, wanted)
    close(taps.pre, pre)
    close(taps.post, np.tanh(pre))
    signals, taps = found["shifted"]
    pre, _ = forward(layers, SHIFT, scale)
    close(taps.pre, pre)
    last = scale * (np.arange(OUT) @ layers[2][0].T) * (1 - np.tanh(pre[1]) ** 2)
    close(signals[1], last)
    close(signals[0], last @ layers[1][0].T * (1 - np.tanh(pre[0]) ** 2))


@FAMILIES
def test_training_draws_from_its_key_and_evaluation_does_not(family):
    found = seen(family)
    first, second = (each[0] for each in found["trained"])
    assert np.any(first != second)
    np.testing.assert_array_equal(first, found["again"])
    np.testing.assert_array_equal(found["keyed"], found["evaluated"][0])


@pytest.mark.parametrize("family", ["linen", "nnx"])
def test_statistics_move_in_training_and_hold_in_evaluation(family):
    found = seen(family)
    jax.tree.map(np.testing.assert_array_equal, found["evaluated"][2], found["variables"])
    moved = found["trained"][0][2]
    jax.tree.map(np.testing.assert_array_equal, moved["params"], found["variables"]["params"])
    stats = moved["batch_stats"]["norm" if family == "nnx" else "BatchNorm_0"]
    post = found["evaluated"][1].post[1]
    np.testing.assert_allclose(stats["mean"], 0.1 * post.mean(0), rtol=1e-4, atol=1e-6)  # float32
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * post.var(0), rtol=1e-5)


def test_other_state_of_nnx_moves_too():
    found = seen("nnx")
    assert found["variables"]["state"]["count"] == found["evaluated"][2]["state"]["count"] == 0
    assert found["trained"][0][2]["state"]["count"] == 1


@FAMILIES
def test_variables_are_plain_dictionaries_of_arrays(family):
    def kinds(tree):
        return set().union(*map(kinds, tree.values())) if type(tree) is dict else {type(tree)}

    assert kinds(seen(family)["variables"]) == {np.ndarray}


@FAMILIES
def test_float64_is_kept(family):
    with jax.enable_x64(True):
        model, x = BUILDERS[family](), jax.ShapeDtypeStruct(X.shape, jnp.float64)
        key = jax.eval_shape(jax.random.key, 0)
        variables = jax.eval_shape(model.init, key, x)
        shown = jax.eval_shape(model.apply, variables, x)
    floats = {leaf.dtype for leaf in jax.tree.leaves((variables, shown))} - {jnp.dtype("int32")}
    assert floats == {jnp.dtype("float64")}


# Networks without taps, and flags


def test_without_taps_the_taps_are_none():
    linen = nn.Dense(OUT, kernel_init=SPREAD)
    for model in (
        from_linen(linen),
        from_nnx(lambda rngs: nnx.Linear(FEATURES, OUT, kernel_init=SPREAD, rngs=rngs)),
        from_functions(lambda key, x: jnp.full((FEATURES, OUT), 0.1), lambda params, x: x @ params),
    ):
        y, taps, _ = model.apply(model.init(jax.random.key(0), X), jnp.asarray(X))
        assert taps is None
        assert model.activation is None
        np.testing.assert_allclose(y, 0.1 * X.sum(1, keepdims=True) + np.zeros(OUT), rtol=1e-5)


@pytest.mark.parametrize("flag", ["train", "training", "deterministic"])
def test_flag_of_training_is_passed_by_its_name(flag):
    source = f"def apply(params, x, {flag}): return params, {flag}"
    scope = {}
    exec(source, scope)
    model = from_functions(lambda key, x: x, scope["apply"])
    for train in (True, False):
        _, told = model.apply({"params": X}, X, train=train)[0]
        assert told is (train if flag != "deterministic" else not train)


def test_tap_elsewhere_is_the_activation_alone():
    """The module can be applied as ever, and a tap of one model is not heard by another."""
    model = from_linen(LinenNet())
    variables = jax.eval_shape(model.init, jax.random.key(0), X)
    plain = jax.eval_shape(functools.partial(LinenNet().apply, train=False), variables, X)
    assert plain.shape == (BATCH, OUT)
    np.testing.assert_array_equal(tap(None, X, np.tanh), np.tanh(X))


# Errors


class Unequal(nn.Module):
    """Two tapped layers of different widths."""

    @nn.compact
    def __call__(self, x):
        h = tap(self, nn.Dense(WIDTH)(x), nn.relu)
        return tap(self, nn.Dense(OUT)(h), nn.relu)


class Looped(nn.Module):
    """A tap in a lifted loop, from which nothing that is sown comes back."""

    @nn.compact
    def __call__(self, x):
        def body(block, h):
            return block(h), None

        loop = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return loop(Block(), jnp.concatenate([x, x[:, :1]], axis=1))[0]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Unequal(), r"tap: expected 2 layers of one shape .*, got \[\(6, 4\), \(6, 2\)\]"),
        (Looped(), r"tap: expected . layers of one shape .*got \[\].*none in a lifted loop"),
    ],
    ids=["unequal", "looped"],
)
def test_taps_that_cannot_be_stacked_are_refused(module, message):
    model = from_linen(module)
    variables = jax.eval_shape(model.init, jax.random.key(0), X)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, variables, X)


def test_nnx_training_without_a_key_is_refused():
    model = BUILDERS["nnx"]()
    variables = jax.eval_shape(model.init, jax.random.key(0), X)
    with pytest.raises(ValueError, match="key: expected one, since this module draws"):
        jax.eval_shape(functools.partial(model.apply, train=True), variables, X)


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation: unknown name 'rellu'"):
        from_linen(LinenNet(), activation="rellu")
