"""The loop over the layers that are present, against the scan over as many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn.nets.layers import apply_layers, pullback_parts

LAYERS, BATCH, WIDTH = 5, 3, 4


def step(carry, layer):
    """A layer with a nonlinearity, a skip connection, a mask, and a carry of two arrays."""
    kernel, bias, is_on = layer
    pre = carry["h"] @ kernel + bias[None]
    new = {"h": jnp.tanh(pre) + 0.5 * carry["h"], "sum": carry["sum"] + jnp.sum(pre**2)}
    return jax.tree.map(lambda new, old: jnp.where(is_on, new, old), new, carry)


def problem():
    keys = jax.random.split(jax.random.key(0), 4)
    kernels = jax.random.normal(keys[0], (LAYERS, WIDTH, WIDTH)) / 2
    biases = jax.random.normal(keys[1], (LAYERS, WIDTH))
    start = jax.random.normal(keys[2], (BATCH, WIDTH))
    weights = jax.random.normal(keys[3], (LAYERS, BATCH, WIDTH))
    return kernels, biases, start, weights


def objective(kernels, biases, start, weights, number=None, is_on=None):
    """A function of the last carry and of every carry, so that all cotangents matter."""
    is_on = jnp.ones(len(kernels), bool) if is_on is None else is_on
    first = {"h": start, "sum": jnp.zeros(())}
    last, carries = apply_layers(step, first, (kernels, biases, is_on), number)
    return jnp.sum(last["h"] ** 3) + last["sum"] + jnp.sum(weights * carries["h"])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("present", [0, 1, 3, 5])
def test_loop_equals_the_scan_over_the_layers_present(wrap, present):
    kernels, biases, start, weights = problem()
    gradient = jax.value_and_grad(objective, (0, 1, 2))
    found = wrap(gradient)(kernels, biases, start, weights, jnp.int32(present))
    value, slopes = gradient(kernels[:present], biases[:present], start, weights[:present])
    np.testing.assert_allclose(found[0], value, rtol=1e-5)
    for ours, theirs in zip(found[1][:2], slopes[:2], strict=True):
        np.testing.assert_allclose(ours[:present], theirs, rtol=2e-4, atol=1e-5)
        assert not np.any(ours[present:])
    np.testing.assert_allclose(found[1][2], slopes[2], rtol=2e-4, atol=1e-5)


def test_batched_loop_ends_at_the_deepest_member_and_masks_the_others():
    kernels, biases, start, weights = problem()
    depths = jnp.array([1, 4, 2])

    def member(depth, start):
        is_on = jnp.arange(LAYERS) < depth
        return jax.grad(objective, (0, 2))(
            kernels, biases, start, 0 * weights, jnp.max(depths), is_on
        )

    starts = jnp.stack([start, 2 * start, -start])
    found = jax.jit(jax.vmap(member))(depths, starts)
    for place, depth in enumerate(depths.tolist()):
        alone = jax.grad(objective, (0, 2))(
            kernels[:depth], biases[:depth], starts[place], 0 * weights[:depth]
        )
        np.testing.assert_allclose(found[0][place, :depth], alone[0], rtol=2e-4, atol=1e-5)
        assert not np.any(found[0][place, depth:])
        np.testing.assert_allclose(found[1][place], alone[1], rtol=2e-4, atol=1e-5)


def test_pullback_of_a_layer_is_not_saved_twice():
    """Of exp(x W) the pullback needs x, W and the output: nothing beyond what is there anyway."""
    shape = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
    extra, _, places = pullback_parts(lambda x, w: jnp.exp(x @ w), shape, shape)
    assert extra == []
    assert set(places) <= {0, 1, 2}
