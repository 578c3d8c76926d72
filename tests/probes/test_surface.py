"""Slices of the loss surface against losses at moved weights in numpy, and their invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.types import Batch
from tests import reference
from tests.probes import recorded

EACH_MEMBER = pytest.mark.parametrize("member", recorded.MEMBERS)
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)


def loss_at(network):
    return reference.evaluate(
        network, recorded.X, recorded.LABELS, recorded.RELU, weight=recorded.WEIGHT
    ).loss


def moved(network, *steps):
    """The network moved by (offset, direction) pairs."""
    for offset, direction in steps:
        network = [
            (kernel + offset * kernel_step, bias + offset * bias_step)
            for (kernel, bias), (kernel_step, bias_step) in zip(network, direction, strict=True)
        ]
    return network


@functools.cache
def directions():
    """The two directions of `loss_slice`, of each member, as numpy networks."""

    @jax.jit
    @jax.vmap
    def run(params):
        keys = jax.random.split(jax.random.key(0))
        return [probes.filter_direction(key, params) for key in keys]

    with jax.enable_x64(True):
        found = jax.device_get(run(recorded.members()))

    def of_member(stacked, member):
        return reference.unstacked(jax.tree.map(lambda leaf: leaf[member], stacked))

    return [[of_member(each, member) for each in found] for member in recorded.MEMBERS]


@EACH_MEMBER
def test_slice_shows_the_losses_at_moved_weights(member):
    one, other = directions()[member]
    network = recorded.NETWORKS[member]
    expected = [
        [loss_at(moved(network, (a, one), (b, other))) for b in recorded.OTHERS]
        for a in recorded.OFFSETS
    ]
    close(recorded.found("loss_slice", member), expected)
    close(expected[1][1], recorded.evaluated(member).loss)


@EACH_MEMBER
def test_direction_is_as_long_as_the_weights_of_each_unit(member):
    for direction in directions()[member]:
        for (step, bias_step), (kernel, _) in zip(
            direction, recorded.NETWORKS[member], strict=True
        ):
            close(np.linalg.norm(step, axis=0), np.linalg.norm(kernel, axis=0))
            assert np.all(bias_step == 0)


def test_directions_are_independent_normal_ones():
    """Of one layer each: units' directions are uniform on the sphere, so that a product of two has
    mean 0 and variance 1 / fan_in; five deviations over all units."""
    one, other = directions()[0]
    cosines, variance = [], 0.0
    for (step, _), (step_2, _) in zip(one, other, strict=True):
        length = np.linalg.norm(step, axis=0) * np.linalg.norm(step_2, axis=0)
        cosines += list(np.sum(step * step_2, axis=0) / length)
        variance += step.shape[1] / step.shape[0]
    assert abs(np.sum(cosines)) < 5 * np.sqrt(variance)
    assert np.std(cosines) > 0.1


def test_deeper_networks_share_the_shallower_ones_direction():
    """Before units are scaled to their weights: here all weights of a unit are 1."""
    with jax.enable_x64(True):

        def drawn(depth):
            params = {
                "first": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)},
                "hidden": {"kernel": jnp.ones((depth - 1, 3, 3)), "bias": jnp.ones((depth - 1, 3))},
                "readout": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
            }
            return probes.filter_direction(jax.random.key(3), params)

        shallow, deep = jax.jit(lambda: (drawn(2), drawn(4)))()
    close(deep["first"]["kernel"], shallow["first"]["kernel"])
    close(deep["readout"]["kernel"], shallow["readout"]["kernel"])
    close(deep["hidden"]["kernel"][:1], shallow["hidden"]["kernel"])


def test_filter_normalised_slices_do_not_see_a_rescaling():
    """G5: relu units' weights times s and the next layer's by 1 / s compute the same network."""
    scales = [1.0, 50.0]
    offsets = np.linspace(-1, 1, 5)
    (w1, b1), (w2, b2), (w3, b3), readout = recorded.NETWORKS[0]
    network = [(s * w1, s * b1) for s in scales], [(w2 / s, b2) for s in scales]
    stacked = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        *[
            reference.stacked([first, second, (w3, b3), readout])
            for first, second in zip(*network, strict=True)
        ],
    )

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def run(params, offsets):
        batch = Batch(recorded.X, jnp.asarray(recorded.LABELS))
        flow = probes.flow(recorded.model(), jn.cross_entropy, {"params": params}, batch)
        key = jax.random.key(1)
        raw = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), params)
        line = functools.partial(probes.loss_line, flow.loss_at, params, offsets=offsets)
        return line(direction=probes.filter_normalised(raw, params)), line(direction=raw)

    with jax.enable_x64(True):
        normalised, raw = jax.device_get(run(stacked, offsets))
    close(normalised[0], normalised[1], rtol=1e-11)
    assert np.abs(raw[0] / raw[1] - 1).max() > 0.1


def test_interpolated_loss_is_the_loss_between():
    one, other, *_ = recorded.NETWORKS
    fractions = np.array([0.0, 0.3, 1.0, 1.5])

    @jax.jit
    def run(start, end, fractions):
        batch = Batch(recorded.X, jnp.asarray(recorded.LABELS), jnp.asarray(recorded.WEIGHT))
        flow = probes.flow(recorded.model(), jn.cross_entropy, {"params": start}, batch)
        return probes.interpolated_loss(flow.loss_at, start, end, fractions)

    with jax.enable_x64(True):
        found = run(reference.stacked(one), reference.stacked(other), fractions)
    difference = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(one, other, strict=True)]
    close(found, [loss_at(moved(one, (t, difference))) for t in fractions])


@pytest.mark.parametrize("offsets", [([],), ([0.0], [])], ids=["line", "plane"])
def test_slice_without_offsets_is_refused(offsets):
    with pytest.raises(ValueError, match="offsets: expected at least one"):
        probes.loss_slice(*offsets)
