"""Batch and layer norm, alone and in the stack, against their formulas and against numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.types import Batch

BATCH, FEATURES, WIDTH, OUT, DEPTH = 6, 3, 4, 2, 3
RNG = np.random.default_rng(3)
X = RNG.standard_normal((BATCH, FEATURES))
TARGETS = RNG.standard_normal((BATCH, OUT))
EPSILON, MOMENTUM = 1e-3, 0.8
NORMS = {
    "batch": jn.batch_norm(momentum=MOMENTUM, epsilon=EPSILON),
    "layer": jn.layer_norm(epsilon=EPSILON),
}


def normalised(kind, params, stats, z, train):
    """The formulas in plain jax.numpy: normalised z, and the moved statistics."""
    axis = 0 if kind == "batch" else 1
    mean, var = z.mean(axis, keepdims=True), z.var(axis, keepdims=True)
    if kind == "batch" and not train:
        mean, var = stats["mean"][None], stats["var"][None]
    if kind == "batch" and train:
        new = {"mean": mean[0], "var": var[0]}
        stats = {name: MOMENTUM * stats[name] + (1 - MOMENTUM) * new[name] for name in new}
    normal = (z - mean) / jnp.sqrt(var + EPSILON)
    return params["scale"][None] * normal + params["bias"][None], stats


def layers(tree):
    """The stack as a list of single layers."""
    above = [jax.tree.map(lambda leaf, i=i: leaf[i], tree["hidden"]) for i in range(DEPTH - 1)]
    return [tree["first"], *above]


def plain(kind, train, variables, x, shift):
    """The whole network, a loop over layers."""
    stats = layers(variables["batch_stats"]) if kind == "batch" else [{}] * DEPTH
    h, moved = x, []
    for level, params in enumerate(layers(variables["params"])):
        z = h @ params["kernel"] + params["bias"][None]
        z, new = normalised(kind, params["norm"], stats[level], z, train)
        h = jnp.tanh(z + shift[level])
        moved.append(new)
    readout = variables["params"]["readout"]
    return h @ readout["kernel"] + readout["bias"][None], moved


def ours(model, train, variables, x, shift):
    y, _, moved = model.apply(variables, x, train=train, shift=shift)
    return y, layers(moved["batch_stats"]) if "batch_stats" in moved else [{}] * DEPTH


def pulled(network, variables, x, shift):
    """Outputs, statistics, and gradients for everything."""

    def objective(params, shift):
        y, moved = network({**variables, "params": params}, x, shift)
        return jnp.sum((y - TARGETS) ** 2), (y, moved)

    return jax.value_and_grad(objective, (0, 1), has_aux=True)(variables["params"], shift)


@pytest.mark.parametrize("train", [True, False], ids=["train", "evaluate"])
@pytest.mark.parametrize("kind", sorted(NORMS))
def test_stack_with_a_norm_equals_plain_jax_in_value_and_gradient(kind, train):
    with jax.enable_x64(True):
        model = jn.mlp(DEPTH, WIDTH, OUT, norm=NORMS[kind], biases=jn.gaussian(0.3))

        @jax.jit
        def both(key, x, shift):
            variables = model.init(key, x)
            noise = functools.partial(jax.tree.map, lambda leaf: leaf * (1.5 + jnp.sin(leaf)))
            variables = noise(variables)  # scales and statistics other than 1 and 0
            networks = (
                functools.partial(ours, model, train),
                functools.partial(plain, kind, train),
            )
            return [pulled(network, variables, x, shift) for network in networks]

        shift = 0.1 * RNG.standard_normal((DEPTH, BATCH, WIDTH))
        found, expected = jax.device_get(
            both(jax.random.key(0), jnp.asarray(X), jnp.asarray(shift))
        )
    # a few hundred roundings of 1e-16, divided by standard deviations of at least 1e-2
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
    jax.tree.map(close, found, expected)


def test_statistics_move_in_training_and_hold_in_evaluation():
    model = jn.mlp(DEPTH, WIDTH, OUT, norm="batch")
    x = jnp.asarray(X, jnp.float32)
    apply = jax.jit(model.apply, static_argnames="train")
    variables = jax.jit(model.init)(jax.random.key(0), x)
    _, _, held = apply(variables, x)
    jax.tree.map(np.testing.assert_array_equal, held, variables)
    moved = variables
    for _ in range(200):
        _, _, moved = apply(moved, x, train=True)
    _, taps, _ = apply(moved, x, train=True)
    y_train, _, _ = apply(moved, x, train=True)
    y, seen, _ = apply(moved, x)
    # 0.9^200 = 7e-10 is left of the start: evaluation on the training batch is training
    np.testing.assert_allclose(y, y_train, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.pre, taps.pre, rtol=1e-4, atol=1e-5)


def test_batch_norm_of_a_scaled_layer_is_the_same_and_its_gradient_smaller():
    """BN((aW)u) = BN(Wu), d/d(aW) = (1/a) d/dW, <W, dL/dW> = 0 (claims C1), with epsilon 0."""
    model = jn.mlp(DEPTH, WIDTH, OUT, norm=jn.batch_norm(epsilon=0.0))
    factor = 3.0

    with jax.enable_x64(True):

        @jax.jit
        def run(key, x):
            variables = model.init(key, x)
            hidden = variables["params"]["hidden"]
            scaled = {**hidden, "kernel": factor * hidden["kernel"]}
            other = {**variables, "params": {**variables["params"], "hidden": scaled}}
            shift = jnp.zeros((DEPTH, BATCH, WIDTH))
            network = functools.partial(ours, model, True)
            return hidden["kernel"], [
                pulled(network, each, x, shift) for each in (variables, other)
            ]

        kernel, (one, more) = jax.device_get(run(jax.random.key(1), jnp.asarray(X)))
    np.testing.assert_allclose(more[0][1][0], one[0][1][0], rtol=1e-10)
    slope, smaller = (found[1][0]["hidden"]["kernel"] for found in (one, more))
    np.testing.assert_allclose(smaller, slope / factor, rtol=1e-9, atol=1e-12)
    along = np.sum(kernel * slope, axis=(1, 2)) / np.linalg.norm(slope, axis=(1, 2))
    assert np.all(np.abs(along) < 1e-10)


def test_batch_norm_gradient_obeys_santurkars_identity():
    """|dL/dy|^2 = (gamma / sigma)^2 (|g|^2 - <1, g>^2 / m - <g, yhat>^2 / m); claims C2."""
    norm, m = jn.batch_norm(epsilon=0.0), 32
    y, upstream = RNG.standard_normal((2, m, 1))
    gamma = 1.7

    with jax.enable_x64(True):

        @jax.jit
        def back(y, upstream):
            params, stats = norm.init(1, jnp.float64)
            params = {**params, "scale": jnp.full(1, gamma)}
            _, pull = jax.vjp(lambda y: norm.apply(params, stats, y, train=True)[0], y)
            return pull(upstream)[0]

        found = np.sum(np.square(jax.device_get(back(jnp.asarray(y), jnp.asarray(upstream)))))
    normal, g = ((y - y.mean()) / y.std()).ravel(), upstream.ravel()
    expected = (g @ g - g.sum() ** 2 / m - (g @ normal) ** 2 / m) * (gamma / y.std()) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-10)  # both sides are sums of 32 terms


@pytest.mark.parametrize(
    ("activation", "batch", "rate"), [("relu", 32, 1.518), ("identity", 8, 1.2)]
)
def test_gradient_explodes_through_batch_norm_at_the_rate_of_theory(activation, batch, rate):
    """Relu pi / (pi - 1) with its finite-batch value, linear (B - 2) / (B - 3); claims A13.

    The first layer has raw inputs and the topmost ones still remember the readout: left out.
    """
    width, depth, networks = 256, 12, 8
    model = jn.mlp(depth, width, 1, activation, norm="batch", weights=jn.gaussian(1.0))

    @jax.jit
    @jax.vmap
    def signals(key):
        keys = jax.random.split(key, 3)
        x, upstream = jax.random.normal(keys[0], (batch, width)), keys[1]
        variables = model.init(keys[2], x)
        batch_of = Batch(x, jax.random.normal(upstream, (batch, 1)))

        def loss(outputs, targets):
            return jnp.sum(outputs * targets, axis=-1)

        flow = probes.flow(model, loss, variables, batch_of, train=True)
        return jnp.log(jnp.mean(flow.backward**2, axis=(1, 2)))

    logs = np.asarray(signals(jax.random.split(jax.random.key(2), networks)))
    slopes = (logs[:, 1] - logs[:, -4]) / (depth - 5)
    error = slopes.std(ddof=1) / np.sqrt(networks)
    # finite width biases the rate by about 1 / width a layer; claims ask for 2%
    assert abs(slopes.mean() - np.log(rate)) < max(3 * error, 0.01)
    assert error < 0.01


def test_unknown_norm_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="norm: unknown name 'bach'; known: none, batch, layer"):
        jn.mlp(2, 3, 1, norm="bach")
    with pytest.raises(TypeError, match=r"norm: expected a name or a Norm, got None"):
        jn.mlp(2, 3, 1, norm=None)


def test_network_of_one_layer_sweeps_with_batch_norm(digits):
    """It has no layers above the first, whose statistics would be arrays of no entries."""

    def run(key, *, learning_rate):
        model, optimizer = jn.mlp(1, 4, 10, norm="batch"), jn.optimizer("sgd", learning_rate)
        counts = {"num_steps": 2, "record_every": 1, "batch_size": 8, "probe_size": 8}
        loss = [jn.probes.loss]
        return jn.training(
            model, jn.cross_entropy, optimizer, digits, key=key, probes=loss, **counts
        )

    assert jn.sweep(run, learning_rate=[0.1, 0.2])["loss"].notnull().all()


def test_statistics_keep_a_narrow_dtype():
    """In bfloat16 sums are taken in float32, and what a scan carries on stays bfloat16."""
    model = jn.mlp(2, 4, 2, norm="batch")
    x = jax.ShapeDtypeStruct((5, 3), jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):  # linen promotes the sums
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        _, _, moved = jax.eval_shape(functools.partial(model.apply, train=True), variables, x)
    assert moved == variables
