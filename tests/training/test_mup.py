"""muP: its table of multipliers, and the coordinate check of claims E5."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as jn
from jaxnn.training import mup_readout_gain, scale_by_mup

ONE = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
STACK = jax.tree.map(lambda leaf: leaf[None], ONE)  # of one layer


@pytest.mark.parametrize(
    ("rule", "groups", "kernels", "biases"),
    [
        ("sgd", ("first", "hidden", "readout"), (4.0, 1.0, 0.25), (4.0, 4.0, 1.0)),
        ("adam", ("first", "hidden", "readout"), (1.0, 0.25, 0.25), (1.0, 1.0, 1.0)),
        ("sgd", ("embed", "first", "readout"), (4.0, 1.0, 0.25), (4.0, 4.0, 1.0)),
        ("adam", ("embed", "first", "readout"), (1.0, 0.25, 0.25), (1.0, 1.0, 1.0)),
        ("adam", ("input", "recurrent", "readout"), (1.0, 0.25, 0.25), (1.0, 1.0, 1.0)),
    ],
)
def test_multipliers_are_those_of_the_table(rule, groups, kernels, biases):
    transform = scale_by_mup(rule, 4.0)
    params = {group: STACK if group == "hidden" else ONE for group in groups}
    found, _ = transform.update(params, transform.init(params))
    for group, kernel, bias in zip(groups, kernels, biases, strict=True):
        assert np.all(found[group]["kernel"] == kernel)
        assert np.all(found[group]["bias"] == bias)


def test_norm_before_the_readout_is_as_wide_as_the_network():
    params = {
        "embed": ONE,
        "hidden": {"mlp": STACK},
        "readout": {**ONE, "norm": {"scale": ONE["bias"]}},
    }
    transform = scale_by_mup("sgd", 4.0)
    found, _ = transform.update(params, transform.init(params))
    assert np.all(found["readout"]["norm"]["scale"] == 4.0)
    assert np.all(found["readout"]["bias"] == 1.0)
    assert np.all(found["hidden"]["mlp"]["kernel"] == 1.0)


def test_single_number_of_a_branch_does_not_grow_with_the_width():
    """The scale of a block of `jn.rezero()`, one for each layer, beside a scale a unit."""
    scales = {"scale": np.ones(3, np.float32), "norm": {"scale": np.ones((3, 2), np.float32)}}
    found, _ = scale_by_mup("sgd", 4.0).update({"hidden": scales}, ())
    assert np.all(found["hidden"]["scale"] == 1.0)
    assert np.all(found["hidden"]["norm"]["scale"] == 4.0)


def test_ratio_of_one_is_the_base_network_and_may_be_traced():
    params = {"first": ONE, "hidden": STACK, "readout": ONE}
    for rule in ("sgd", "adam"):
        found = jax.jit(lambda r, rule=rule: scale_by_mup(rule, r).update(params, ())[0])(1.0)
        jax.tree.map(np.testing.assert_array_equal, found, params)


def test_unknown_rule_and_group_are_refused():
    with pytest.raises(ValueError, match="rule: expected one of sgd, adam, got 'muon'"):
        scale_by_mup("muon", 2.0)
    with pytest.raises(ValueError, match=r"params: expected groups among .*got \['Dense_0'\]"):
        scale_by_mup("sgd", 2.0).init({"Dense_0": ONE})


# The coordinate check (Yang et al. 2022, appendix D.1; claims E5)

WIDTHS = (32, 512)
RATES = {"sgd": 0.05, "adam": 0.01}
GAIN = 0.1  # of the readout: outputs of order 1 at the start would vanish with the width in muP


@functools.cache
def changes():
    """Root mean square change after two steps of the last layer and of the output.

    `[rule, with muP or without, layer or output, width]`, over 4 networks of each width.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 8)).astype(np.float32)
    y = rng.standard_normal((16, 1)).astype(np.float32)

    def moved(model, start, rule, ratio):
        chain = optax.chain(jn.optimizer(rule, RATES[rule]), scale_by_mup(rule, ratio))

        def loss(params):
            return jnp.mean(jn.squared_error(model.apply({"params": params}, x)[0], y))

        def step(carry, _):
            params, state = carry
            updates, state = chain.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = start["params"], chain.init(start["params"])
        (params, _), _ = jax.lax.scan(step, carry, length=2)
        before, taps, _ = model.apply(start, x)
        after, later, _ = model.apply({"params": params}, x)
        parts = later.post[-1] - taps.post[-1], after - before
        return jnp.stack([jnp.sqrt(jnp.mean(part**2)) for part in parts])

    def of_width(width):
        @jax.jit
        def run(keys, ratios):
            def member(ratio, key):
                readout = jn.gaussian(mup_readout_gain(ratio, GAIN))
                model = jn.mlp(2, width, 1, "relu", weights=jn.he(), readout=readout)
                start = model.init(key, x)
                return jnp.stack([moved(model, start, rule, ratio) for rule in RATES])

            batch = jax.vmap(jax.vmap(member, (0, None), 1), (None, 0))  # [key, rule, ratio, part]
            return jnp.mean(batch(ratios, keys), axis=0)

        keys = jax.random.split(jax.random.key(1), 4)
        return run(keys, np.array([width / WIDTHS[0], 1.0], np.float32))

    with jax.numpy_dtype_promotion("standard"):
        return np.stack([of_width(width) for width in WIDTHS], axis=-1)


def slopes(rule):
    """Powers of the width by which [mup or not] x [layer, output] change."""
    logs = np.log(changes()[list(RATES).index(rule)])
    return np.polyfit(np.log(WIDTHS), logs.reshape(-1, len(WIDTHS)).T, 1)[0].reshape(2, 2)


@pytest.mark.parametrize("rule", RATES)
def test_activations_move_alike_at_all_widths(rule):
    """Claims E5: |slope| < 0.2 with muP, above 0.5 without."""
    with_mup, without = slopes(rule)
    assert np.all(np.abs(with_mup) < 0.2), with_mup
    assert np.all(without > 0.5), without
