"""Residual networks against a loop in plain jax.numpy, and their scalings against the papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.types import Batch, Depth

BATCH, FEATURES, WIDTH, OUT, DEPTH = 5, 3, 4, 2, 3
RNG = np.random.default_rng(8)
X = RNG.standard_normal((BATCH, FEATURES))
TARGETS = RNG.standard_normal((BATCH, OUT))
SHIFT = 0.1 * RNG.standard_normal((DEPTH, BATCH, WIDTH))
EPSILON = 1e-3
NORMS = {
    "none": "none",
    "batch": jn.batch_norm(epsilon=EPSILON),
    "layer": jn.layer_norm(epsilon=EPSILON),
}


def normalised(kind, params, z):
    if kind == "none":
        return z
    axis = 0 if kind == "batch" else 1
    normal = (z - z.mean(axis, keepdims=True)) / jnp.sqrt(z.var(axis, keepdims=True) + EPSILON)
    return params["scale"][None] * normal + params["bias"][None]


def affine(params, h):
    return h @ params["kernel"] + params["bias"][None]


def stream(kind, preactivation, params, x, shift):
    """The stream after each block, a loop over blocks, with tanh."""
    h = affine(params["embed"], x)
    seen = [h]
    for level in range(shift.shape[0]):
        block = jax.tree.map(lambda leaf, level=level: leaf[level], params["hidden"])
        a = jnp.tanh(normalised(kind, block.get("branch_norm"), h)) if preactivation else h
        z = normalised(kind, block.get("norm"), affine(block["inner"], a)) + shift[level]
        branch = affine(block["outer"], jnp.tanh(z))
        if not preactivation:
            branch = normalised(kind, block.get("branch_norm"), branch)
        h = h + block["scale"] * branch
        h = h if preactivation else jnp.tanh(h)
        seen.append(h)
    return seen


def plain(kind, preactivation, params, x, shift):
    h = stream(kind, preactivation, params, x, shift)[-1]
    return affine(params["readout"], jnp.tanh(h) if preactivation else h)


def pulled(network, params, shift):
    def objective(params, shift):
        y = network(params, shift)
        return jnp.sum((y - TARGETS) ** 2), y

    return jax.value_and_grad(objective, (0, 1), has_aux=True)(params, shift)


@pytest.mark.parametrize(
    ("kind", "preactivation"),
    [("none", True), ("none", False), ("batch", True), ("batch", False), ("layer", True)],
    ids=lambda value: {True: "pre", False: "post"}.get(value, value),
)
def test_network_equals_plain_jax_in_value_and_gradient(kind, preactivation):
    with jax.enable_x64(True):
        model = jn.residual_mlp(
            DEPTH,
            WIDTH,
            OUT,
            "tanh",
            norm=NORMS[kind],
            preactivation=preactivation,
            biases=jn.gaussian(0.3),
            branch_scale=0.7,
            trained_scale=True,
        )

        @jax.jit
        def both(key, x, shift):
            variables = model.init(key, x)

            def ours(params, shift):
                now = {**variables, "params": params}
                return model.apply(now, x, train=True, shift=shift)[0]

            def theirs(params, shift):
                return plain(kind, preactivation, params, x, shift)

            return [pulled(each, variables["params"], shift) for each in (ours, theirs)]

        arguments = jax.random.key(0), jnp.asarray(X), jnp.asarray(SHIFT)
        found, expected = jax.device_get(both(*arguments))
    # a few hundred roundings of 1e-16, divided by standard deviations of at least 1e-2
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11), found, expected
    )


def test_masked_depth_equals_exact_depth():
    with jax.enable_x64(True):

        @functools.partial(jax.jit, static_argnames="most")
        def run(key, x, most, active):
            model = jn.residual_mlp(Depth(most, active), WIDTH, OUT, "tanh", norm="layer")
            variables = model.init(key, x)

            def loss(params):
                return jnp.sum(model.apply({"params": params}, x, train=True)[0] ** 2)

            return jax.value_and_grad(loss)(variables["params"])

        key, x = jax.random.key(1), jnp.asarray(X)
        value, slopes = jax.device_get(run(key, x, most=4, active=jnp.int32(2)))
        alone, exact = jax.device_get(run(key, x, most=2, active=jnp.int32(2)))
    np.testing.assert_allclose(value, alone, rtol=1e-12)
    cut = {**slopes, "hidden": jax.tree.map(lambda leaf: leaf[:2], slopes["hidden"])}
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13)
    jax.tree.map(close, cut, exact)
    assert all(np.all(leaf[2:] == 0) for leaf in jax.tree.leaves(slopes["hidden"]))


def test_rezero_starts_as_the_network_without_blocks():
    """x + 0 F(x): whatever the depth, the same outputs and input Jacobian; claims A16."""
    with jax.enable_x64(True):

        @functools.partial(jax.jit, static_argnames="depth")
        def jacobian(key, x, depth):
            model = jn.residual_mlp(depth, WIDTH, OUT, "identity", **jn.rezero())
            variables = model.init(key, x)
            return jax.jacrev(lambda x: model.apply(variables, x)[0])(x), variables["params"]

        key, x = jax.random.key(2), jnp.asarray(X)
        shallow, params = jax.device_get(jacobian(key, x, depth=1))
        deep, _ = jax.device_get(jacobian(key, x, depth=20))
    np.testing.assert_array_equal(shallow, deep)
    whole = params["embed"]["kernel"] @ params["readout"]["kernel"]
    np.testing.assert_allclose(deep[0, :, 0], whole.T, rtol=1e-12)


def test_first_step_of_fixup_does_not_grow_with_depth():
    """sum_l |dL/dW2_l|^2: 1.0 at all depths, but proportional to depth without its scale; A15."""
    width, deepest = 64, 64
    x = jnp.asarray(RNG.standard_normal((16, width)), jnp.float32)
    batch = Batch(x, jnp.asarray(RNG.standard_normal((16, 1)), jnp.float32))
    readout = jn.gaussian(1.0)  # a zero readout lets no gradient through at step 0

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    @functools.partial(jax.vmap, in_axes=(0, None))
    def squared(key, active):
        depth = Depth(deepest, active)
        scalings = jn.fixup(depth), {"last": jn.zeros(), "trained_scale": True}
        sums = []
        for options in scalings:
            model = jn.residual_mlp(depth, width, 1, "relu", **{**options, "readout": readout})
            flow = probes.flow(model, jn.squared_error, model.init(key, x), batch)
            sums.append(jnp.sum(flow.gradients["hidden"]["outer"]["kernel"] ** 2))
        return jnp.stack(sums)

    found = jax.device_get(
        squared(jax.random.split(jax.random.key(3), 8), jnp.array([4, 16, 64], jnp.int32))
    )
    fixed, free = np.moveaxis(np.median(found, axis=1), -1, 0)
    # the blocks' inputs are all h_0, so each adds the same in expectation; claims [.8, 1.25]
    assert np.all((fixed / fixed[0] > 0.8) & (fixed / fixed[0] < 1.25))
    np.testing.assert_allclose(free / free[0], [1, 4, 16], rtol=0.25)


@pytest.mark.parametrize(("norm", "growth"), [("batch", "linear"), ("none", "double")])
def test_stream_grows_linearly_with_batch_norm_and_doubles_without(norm, growth):
    """E h_l^2 = 1 + l, or 2^l: a branch's share is 1 / (l + 1), or a half; claims A17, 5%.

    Relu branches on normalised inputs have second moment 1, or that of the stream, under He.
    """
    width, depth, batch = 256, 5, 128
    model = jn.residual_mlp(
        depth, width, 1, norm=norm, embed=lambda key, shape, dtype: jnp.eye(width)
    )

    @jax.jit
    @jax.vmap
    def moments(key):
        keys = jax.random.split(key)
        x = jax.random.normal(keys[0], (batch, width))
        variables = model.init(keys[1], x)
        _, taps, _ = model.apply(variables, x, train=True)
        outers, seen = variables["params"]["hidden"]["outer"], [x]
        for level in range(depth):
            outer = jax.tree.map(lambda leaf, level=level: leaf[level], outers)
            seen.append(seen[-1] + affine(outer, taps.post[level]))
        return jnp.stack([jnp.mean(each**2) for each in seen])

    found = np.mean(moments(jax.random.split(jax.random.key(4), 6)), axis=0)
    levels = np.arange(depth + 1)
    expected = 1.0 + levels if growth == "linear" else 2.0**levels
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_branch_scale_is_data():
    """One program for all strengths; 0 is no block at all."""
    x = jnp.asarray(X, jnp.float32)

    @jax.jit
    @jax.vmap
    def outputs(scale):
        model = jn.residual_mlp(DEPTH, WIDTH, OUT, branch_scale=scale)
        return model.apply(model.init(jax.random.key(5), x), x)[0]

    found = np.asarray(outputs(jnp.array([0.0, 0.1, 1.0])))
    assert outputs._cache_size() == 1
    moved = np.abs(found - found[0]).max(axis=(1, 2))
    assert moved[0] == 0
    assert 0 < moved[1] < moved[2]
