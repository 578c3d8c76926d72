"""Rank, similarity, Jacobian, regions, tangent kernel and skipped layers against plain numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.types import Batch, Depth
from tests import reference
from tests.probes import recorded

EACH_MEMBER = pytest.mark.parametrize("member", recorded.MEMBERS)
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)


# Rank and similarity


@EACH_MEMBER
def test_effective_rank_is_the_exponential_of_the_entropy(member):
    for level, post in enumerate(recorded.evaluated(member).passed.post):
        values = np.linalg.svd(post[: recorded.IN_USE], compute_uv=False)
        shares = values[values > 0] / values.sum()
        expected = np.exp(-np.sum(shares * np.log(shares)))
        close(recorded.found("effective_rank", member)[level], expected, rtol=1e-7)


def alignment(left, right):
    """Linear CKA by its definition, with cross products of units."""
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    norm = np.linalg.norm
    return norm(left.T @ right) ** 2 / (norm(left.T @ left) * norm(right.T @ right))


@EACH_MEMBER
def test_layer_cka_equals_its_definition(member):
    post = [each[: recorded.IN_USE] for each in recorded.evaluated(member).passed.post]
    expected = [[alignment(left, right) for right in post] for left in post]
    close(recorded.found("layer_cka", member), expected)


def test_cka_sees_past_rotation_and_scale():
    rng = np.random.default_rng(7)
    left, right = rng.standard_normal((9, 4)), rng.standard_normal((9, 6))
    turn, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    with jax.enable_x64(True):
        run = jax.jit(probes.cka)
        close(run(left, right), alignment(left, right))
        close(run(left, 3.0 * left @ turn + 1.0), 1.0)
        weight = np.array([0.5, 0.5, *[0.0] * 7])
        twice = run(left, left @ np.diag([1.0, 2.0, 3.0, 4.0]), weight)
    close(twice, 1.0)  # of two examples there is but one similarity


def test_layers_that_repeat_the_last_one_count_for_nothing():
    """A masked layer in a scan passes on what it got; in the members recorded it is not run."""
    chosen = [probes.effective_rank, probes.layer_cka, probes.linear_regions()]

    @jax.jit
    def run(params, depth):
        model = recorded.model(Depth(recorded.DEEPEST, depth))
        batch = Batch(recorded.X, jnp.asarray(recorded.LABELS), jnp.asarray(recorded.WEIGHT))
        flow = probes.flow(model, jn.cross_entropy, {"params": params}, batch)
        return probes.measure(chosen, flow)

    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf[0], recorded.padded())
        found = jax.device_get(run(params, recorded.DEPTH))
    for probe in chosen:
        close(found[probe.name].values, recorded.run()[probe.name].values[0, 0])


# Jacobian


@EACH_MEMBER
def test_jacobian_singular_values_equal_a_dense_svd(member):
    network = recorded.NETWORKS[member]
    passed = recorded.evaluated(member).passed
    expected = []
    for example in range(recorded.NUM_EXAMPLES):
        jacobian = np.eye(recorded.FEATURES)  # d h / d x, [feature, unit]
        for (kernel, _), pre in zip(network, [z[example] for z in passed.pre], strict=False):
            jacobian = (jacobian @ kernel) * recorded.RELU.slope(pre)
        expected.append(np.linalg.svd(jacobian @ network[-1][0], compute_uv=False))
    close(recorded.found("jacobian_sv", member), expected)


@pytest.mark.parametrize("probe", [probes.jacobian_sv, probes.linear_regions()])
def test_integer_inputs_are_refused_where_they_must_move(probe):
    flow = probes.Flow(*[None] * 11)._replace(x=np.ones((2, 1), np.int32))
    flow = flow._replace(activation=jn.activation("relu"), tapped=flow)
    with pytest.raises(TypeError, match=rf"{probe.name}.*expected float inputs, got int32"):
        probe.measure(flow)


# Linear regions


def crossings(network, start, end):
    """Where on the segment a unit's pre-activation is 0: exact, by pieces that are affine."""
    ends = np.array([0.0, 1.0])
    found = []

    def pre(level, parts):
        passed = reference.forward(
            network, start + parts[:, None] * (end - start)[None], recorded.RELU
        )
        return passed.pre[level]

    for level in range(len(network) - 1):
        new = []
        for left, right in itertools.pairwise(ends):
            low, high = pre(level, np.array([left, right]))
            with np.errstate(divide="ignore", invalid="ignore"):
                where = left + (right - left) * low / (low - high)
            # dead inputs leave a unit at 0 + bias: no crossing
            new += [t for t in where if left < t < right]
        found += new
        ends = np.unique(np.concatenate([ends, new]))
    return found


@EACH_MEMBER
def test_linear_regions_equal_an_exact_count(member):
    found = crossings(recorded.NETWORKS[member], recorded.X[0], recorded.X[1])
    gaps = np.diff(np.sort(found), prepend=0.0, append=1.0)
    assert recorded.found("linear_regions", member) == 1 + len(found)
    assert np.min(gaps) > 1e-9  # no two at one place


def test_regions_of_a_smooth_or_closed_network_are_refused():
    model = recorded.model()

    def count(model):
        flow = probes.flow(
            model,
            jn.cross_entropy,
            {"params": jax.tree.map(jnp.asarray, reference.stacked(recorded.NETWORKS[0]))},
            Batch(jnp.asarray(recorded.X), jnp.asarray(recorded.LABELS)),
        )
        return probes.linear_regions().measure(flow)

    def closed(*args, **kwargs):
        outputs, _, variables = model.apply(*args, **kwargs)
        return outputs, None, variables

    with jax.enable_x64(True):
        with pytest.raises(ValueError, match="expected a piecewise linear activation, got 'tanh'"):
            jax.eval_shape(lambda: count(model._replace(activation=jn.activation("tanh"))))
        with pytest.raises(ValueError, match=r"linear_regions.*returned taps=None"):
            jax.eval_shape(lambda: count(model._replace(apply=closed)))


# Tangent kernel


@EACH_MEMBER
def test_ntk_is_the_product_of_jacobians(member):
    jacobian = recorded.derivatives()[member][1].reshape(recorded.NUM_EXAMPLES, recorded.OUT, -1)
    used = jacobian[: recorded.NUM_NTK]
    close(recorded.found("ntk", member), np.einsum("iop,jop->ij", used, used))


def test_kernel_distance_is_that_of_directions():
    first, later = (recorded.found("ntk", member) for member in (0, 1))
    cosine = np.sum(first * later) / (np.linalg.norm(first) * np.linalg.norm(later))
    with jax.enable_x64(True):
        run = jax.jit(probes.kernel_distance)
        close(run(first, later), 1 - cosine)
        close(run(first, 5.0 * first), 0.0)
    assert 1e-3 < 1 - cosine < 1


# Skipped layers


def signal_with(network, passed, signals, skipped):
    """dL/dz of the layers below a skipped one, by hand: its Jacobian is left out."""
    below = {}
    signal = signals[skipped]
    for level in range(skipped - 1, -1, -1):
        if level < skipped - 1:
            signal = (signal @ network[level + 1][0].T) * recorded.RELU.slope(passed.pre[level])
        below[level] = signal
    return below


@EACH_MEMBER
def test_skipping_a_layer_leaves_its_jacobian_out(member):
    network, result = recorded.NETWORKS[member], recorded.evaluated(member)
    found = recorded.found("skip_grad_rms", member)
    firsts = [result.signals[0]] + [
        signal_with(network, result.passed, result.signals, skipped)[0]
        for skipped in range(1, recorded.DEPTH)
    ]
    for level, signal in enumerate(firsts):
        of_examples = signal[: recorded.IN_USE] * recorded.IN_USE  # dL/dz is w_i dl_i/dz
        close(found[level], np.sqrt(np.mean(of_examples**2)))


def test_skipped_signals_are_those_of_every_layer_below():
    with jax.enable_x64(True):

        @jax.jit
        @functools.partial(jax.vmap, in_axes=(0, None))
        def run(layer, params):
            flow = probes.flow(
                recorded.model(),
                jn.cross_entropy,
                {"params": params},
                Batch(recorded.X, jnp.asarray(recorded.LABELS), jnp.asarray(recorded.WEIGHT)),
            )
            return probes.skipped_signals(flow, layer)

        params = reference.stacked(recorded.NETWORKS[0])
        found = jax.device_get(run(np.array([2, 3]), params))
    result = recorded.evaluated(0)
    for place, layer in enumerate((2, 3)):
        below = signal_with(recorded.NETWORKS[0], result.passed, result.signals, layer - 1)
        for level in range(recorded.DEPTH):
            close(found[place][level], below.get(level, 0.0 * result.signals[level]))


def test_skip_analysis_blames_the_layer_that_kills_the_signal():
    """A network of equal orthogonal layers, one of which has weights a thousandth as large."""
    width, depth, weak = 6, 5, 4
    rng = np.random.default_rng(0)
    kernels = np.stack([np.linalg.qr(rng.standard_normal((width, width)))[0] for _ in range(6)])
    kernels[weak - 1] *= 1e-3
    network = [(kernel, np.zeros(width)) for kernel in kernels]
    model = jn.mlp(depth, width, width, "identity")
    with jax.enable_x64(True):

        @jax.jit
        def run(params):
            batch = Batch(jnp.eye(width), jnp.ones((width, width)))
            flow = probes.flow(model, jn.squared_error, {"params": params}, batch)
            return probes.measure([probes.skip_grad_rms], flow)["skip_grad_rms"].values

        found = np.asarray(run(reference.stacked(network)))
    # all Jacobians are rotations, but the weak one's, which is a rotation times 1e-3
    others = np.arange(1, depth + 1) != weak
    close(found[others], found[0])
    close(found[weak - 1], 1e3 * found[0])


# Far from the data


def test_relu_networks_are_sure_of_themselves_far_away():
    """G7: in the last linear region logits grow linearly, so that the largest softmax tends to 1
    along every ray on which two logits' slopes differ (Hein et al. 2019, 1812.05720)."""
    network = reference.random_network(0, [2, 24, 24, 3], np.sqrt(2))
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    scales = np.array([1.0, 10.0, 1e5, 1e6, 2e6])
    model = jn.mlp(2, 24, 3, "relu")
    with jax.enable_x64(True):

        @jax.jit
        def run(params, x):
            return jax.vmap(lambda x: model.apply({"params": params}, x)[0])(x)

        x = scales[:, None, None] * rays
        logits = np.asarray(run(reference.stacked(network), x))
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    sure = np.mean(shifted.max(axis=-1) / shifted.sum(axis=-1) > 0.99, axis=1)
    assert sure[0] < 0.2
    assert sure[-1] > 0.99
    # from 1e6 to 2e6 as much is added as from 0 to 1e6, to the part that biases make of it
    slopes = (logits[4] - logits[3]) / 1e6, (logits[3] - logits[2]) / 9e5
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-5 * np.abs(slopes[0]).max())
