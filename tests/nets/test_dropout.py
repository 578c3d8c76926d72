"""Dropout with a traced rate: what it drops, what evaluation does, and its exact companions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.nets.dropout import dropped

RNG = np.random.default_rng(12)
X = RNG.standard_normal((16, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 400)


@pytest.fixture(scope="module")
def passes():
    """Of a wide linear network at four rates: one evaluation, and training passes."""

    @jax.jit
    @jax.vmap
    def run(rate):
        model = jn.mlp(2, 50, 2, "identity", biases=jn.gaussian(0.5), dropout=rate)
        variables = model.init(jax.random.key(1), jnp.asarray(X))
        y, taps, _ = model.apply(variables, jnp.asarray(X))
        trained = jax.vmap(lambda key: model.apply(variables, X, key=key, train=True)[:2])(KEYS)
        return y, taps, trained

    rates = np.array([0.0, 0.25, 0.5, 0.75], np.float32)
    found = jax.device_get(run(rates))
    assert run._cache_size() == 1
    return rates, found


def test_share_of_zeros_is_the_rate_in_each_layer(passes):
    rates, (_, _, (_, taps)) = passes
    share = np.mean(taps.post == 0, axis=(1, 3, 4))
    draws = taps.post[0, :, 0].size
    error = 4 * np.sqrt(rates * (1 - rates) / draws)[:, None]
    assert np.all(np.abs(share - rates[:, None]) <= error)


def test_what_stays_is_divided_by_its_share(passes):
    rates, (_, _, (_, taps)) = passes
    first, pre = taps.post[:, :, 0], taps.pre[:, :, 0]
    expected = np.where(first == 0, 0, pre / (1 - rates[:, None, None, None]))
    np.testing.assert_allclose(first, expected, rtol=1e-6)  # one float32 division


def test_a_larger_rate_drops_what_a_smaller_one_drops(passes):
    zeros = passes[1][2][1].post[:, :, 0] == 0
    for fewer, more in itertools.pairwise(zeros):
        assert np.all(more[fewer])


def test_evaluation_drops_nothing_and_is_the_mean_of_linear_training(passes):
    """The network is linear: the expectation over masks is evaluation (inverted dropout)."""
    rates, (y, taps, (trained, _)) = passes
    assert np.all(taps.post != 0)
    np.testing.assert_allclose(y, np.broadcast_to(y[0], y.shape), rtol=1e-5, atol=1e-5)
    error = 5 * trained.std(axis=1) / np.sqrt(len(KEYS))
    assert np.all(np.abs(trained.mean(axis=1) - y) <= error + 1e-5)
    np.testing.assert_array_equal(trained[0, 0], trained[0, 1])  # nothing dropped at rate 0
    assert len(rates) == len(y)


def test_dropout_on_inputs_is_ridge_on_average():
    """E |y - Xw|^2 + rate / (1 - rate) sum_j w_j^2 |X_j|^2 (Wager et al. 2013; claims D6)."""
    rate, y = 0.4, RNG.standard_normal(16)
    w = np.array([0.5, -1.0, 0.8], np.float32)
    model = jn.mlp(1, 1, 1, "identity", readout=jn.constant(1.0), input_dropout=rate)
    params = {"first": {"kernel": w[:, None], "bias": np.zeros(1, np.float32)}}
    ones = {"kernel": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    variables = {"params": {**params, "readout": ones}}

    @jax.jit
    @jax.vmap
    def outputs(key):
        return model.apply(variables, jnp.asarray(X), key=key, train=True)[0][:, 0]

    drawn = np.asarray(outputs(jax.random.split(jax.random.key(2), 20_000)))
    losses = np.sum((drawn - y) ** 2, axis=1)
    ridge = np.sum(w**2 * np.sum(X**2, axis=0)) * rate / (1 - rate)
    expected = np.sum((X @ w - y) ** 2) + ridge
    error = losses.std() / np.sqrt(len(losses))
    assert abs(losses.mean() - expected) < 3.5 * error
    assert error < 0.01 * expected


def test_evaluation_is_the_geometric_mean_over_all_masks():
    """Softmax of a linear readout: renormalised, exactly (Srivastava et al. 2014; claims D7)."""
    width, classes, inputs = 4, 3, X[:1]
    model = jn.mlp(1, width, classes, "tanh", dropout=0.5)
    variables = model.init(jax.random.key(3), jnp.asarray(inputs))
    evaluated = np.asarray(jax.nn.softmax(model.apply(variables, jnp.asarray(inputs))[0]))[0]

    # all 16 masks come up in 400 draws but for a chance of 16 (15/16)^400 = 1e-10
    @jax.jit
    @jax.vmap
    def passed(key):
        y, taps, _ = model.apply(variables, jnp.asarray(inputs), key=key, train=True)
        return taps.post[0, 0] != 0, jax.nn.log_softmax(y)[0]

    masks, logs = (np.asarray(each) for each in passed(KEYS))
    _, firsts = np.unique(masks, axis=0, return_index=True)
    assert len(firsts) == 2**width
    geometric = np.exp(logs[firsts].mean(axis=0))
    np.testing.assert_allclose(geometric / geometric.sum(), evaluated, rtol=2e-6)  # float32


def test_training_without_a_key_is_refused():
    model = jn.mlp(2, 4, 2, dropout=0.1)
    variables = model.init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="key: expected a key, since training with dropout"):
        model.apply(variables, X, train=True)


@pytest.mark.parametrize("name", ["dropout", "input_dropout"])
@pytest.mark.parametrize("rate", [1.0, -0.1, np.zeros(2)], ids=["one", "negative", "two"])
def test_rate_outside_its_range_is_refused(name, rate):
    with pytest.raises(ValueError, match=rf"{name}: expected the share of units to drop, in \[0,"):
        jn.mlp(2, 4, 2, **{name: rate})


@pytest.mark.parametrize("depth", [3, jn.Depth(3, deepest=jnp.int32(3))], ids=["scan", "loop"])
def test_keys_of_any_kind_and_narrow_numbers_train(depth):
    """By shapes and types alone: a small rate is not a multiple of bfloat16's 1/128."""
    model = jn.mlp(depth, 4, 2, dropout=0.001)

    def run(key):
        x = jnp.ones((5, 3), jnp.bfloat16)
        params = model.init(key, x)["params"]
        return jax.grad(
            lambda params: model.apply({"params": params}, x, key=key, train=True)[0].sum()
        )(params)

    slopes = jax.eval_shape(run, jax.random.key(0, impl="rbg"))
    assert {leaf.dtype for leaf in jax.tree.leaves(slopes)} == {jnp.dtype("bfloat16")}
    h = jax.jit(lambda key: dropped(key, jnp.ones((1000, 1000), jnp.bfloat16), 0.001))(KEYS[0])
    assert abs(np.mean(np.asarray(h) == 0) - 0.001) < 5 * (0.001 / h.size) ** 0.5
