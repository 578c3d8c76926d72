"""Gradient correlations against simulated backward passes, products written out and exponents."""

import math

import jax
import numpy as np
import pytest

from jaxnn.theory import shattering

pytestmark = pytest.mark.usefixtures("double_precision")


def correlation(gradients):
    """The correlation of two vectors in each of many networks, `[net, 2, unit]`, pooled."""
    products = np.einsum("niu,nju->ij", gradients, gradients)
    return products[0, 1] / math.sqrt(products[0, 0] * products[1, 1])


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_gradients_behind_independent_gates_decorrelate(residual):
    rng, nets, width = np.random.default_rng(0), 16, 300
    signal = np.broadcast_to(rng.normal(size=(nets, 1, width)), (nets, 2, width))
    law = shattering.residual_correlation if residual else shattering.centred_correlation
    for num_layers in range(1, 5):
        gates = rng.random((nets, 2, width)) < 0.5  # pre-activations of two inputs: uncorrelated
        weights = rng.normal(size=(nets, width, width)) * math.sqrt(2 / width)
        branch = (signal * gates) @ weights
        signal = signal + branch if residual else branch
        # 5 standard errors of a correlation of nets x width pairs, and as much for earlier layers
        assert abs(correlation(signal) - law(num_layers)) < 2 * 5 / math.sqrt(nets * width)


def test_laws_have_their_closed_values():
    layers = np.arange(1, 9)
    np.testing.assert_allclose(shattering.centred_correlation(layers), 0.5**layers, rtol=1e-14)
    np.testing.assert_allclose(shattering.residual_correlation(layers), 0.75**layers, rtol=1e-13)
    weak = shattering.residual_correlation(10, 0.1)
    np.testing.assert_allclose(weak, (1.005 / 1.01) ** 10, rtol=1e-13)


def test_batch_norm_product_equals_a_loop_and_its_exponent():
    product, products = 1.0, []
    for block in range(24):
        variance = 1 + (1 - 1 / math.pi) * block
        product *= (1 + 0.5 / variance) / (1 + 1 / variance)
        products.append(product)
    depths = np.arange(1, 25)
    found = jax.jit(shattering.batch_norm_residual_correlation)(depths)
    np.testing.assert_allclose(found, products, rtol=1e-12)
    np.testing.assert_allclose(found[np.array([9, 23])], [0.275, 0.156], atol=5e-4)
    far = jax.jit(shattering.batch_norm_residual_correlation)(np.array([1e5, 2e5]))
    exponent = np.log2(far[1] / far[0])
    np.testing.assert_allclose(exponent, -math.pi / (2 * (math.pi - 1)), atol=1e-4)  # O(1/L)


def test_plain_he_network_has_its_simulated_correlation():
    rng, nets, width, depth = np.random.default_rng(0), 120, 100, 4
    x = np.linalg.qr(rng.normal(size=(nets, width, 2)))[0].transpose(0, 2, 1)  # orthogonal inputs
    weights = rng.normal(size=(depth, nets, width, width)) * math.sqrt(2 / width)
    gates = []
    for w in weights:
        z = x @ w
        gates.append(z > 0)
        x = np.maximum(z, 0)
    signal = np.broadcast_to(rng.normal(size=(nets, 1, width)), (nets, 2, width))
    for w, gate in zip(weights[::-1], gates[::-1], strict=True):
        signal = (signal * gate) @ w.transpose(0, 2, 1)
    norms = np.linalg.norm(signal, axis=2)
    found = np.sum(signal[:, 0] * signal[:, 1], axis=1) / norms[:, 0] / norms[:, 1]
    error = 4 * found.std() / math.sqrt(nets)  # of corrections in 1 / width there is no sign
    assert abs(found.mean() - shattering.plain_he_correlation(0.0, depth)[-1]) < error
    assert abs(found.mean() - 2.0**-depth) > error  # the law of centred networks is another


def test_plain_he_network_follows_a_power_of_depth():
    found = shattering.plain_he_correlation(np.array([0.0, 0.9]), 4000)
    assert found.shape == (4000, 2)
    np.testing.assert_allclose(found[np.array([23, 49]), 0], [5.5e-3, 9.1e-4], rtol=0.01)
    slope = np.log2(found[3999] / found[1999])
    np.testing.assert_allclose(slope, -3, atol=0.05)  # its corrections are of order ln L / L
