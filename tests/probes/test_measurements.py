"""Every probe against its formula in numpy, on plain, residual and masked stacks with weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.probes import measurements
from jaxnn.types import Batch, Depth
from tests import reference

BATCH, FEATURES, WIDTH, OUT, DEEPEST, ACTIVE = 7, 3, 5, 4, 4, 2
ALL = [
    probes.loss,
    probes.accuracy,
    probes.grad_rms,
    probes.preact_grad_rms,
    probes.act_mean,
    probes.act_var,
    probes.preact_second_moment,
    probes.saturated_fraction,
    probes.dead_fraction,
    probes.weight_rms,
    probes.update_ratio,
    probes.preact_cosine,
]
PER_LAYER = [each for each in ALL if each.dims == ("layer",)]
SCALARS = [each for each in ALL if each.dims == ()]
RATE = 0.03  # the "optimiser" of update_ratio: -0.03 times the gradient

RNG = np.random.default_rng(11)
X = RNG.standard_normal((BATCH, FEATURES))
LABELS = RNG.integers(0, OUT, BATCH)
WEIGHT = np.array([1.0, 2.0, 0.0, 0.5, 1.0, 0.0, 3.0])

# activation, gain of the weights (3: some tanh units saturate), residual, layers in use
STACKS = {
    "plain": ("relu", 1.5, False, DEEPEST),
    "residual": ("tanh", 3.0, True, DEEPEST),
    "masked": ("hard_tanh", 1.5, True, ACTIVE),
}


def network_of(gain):
    network = reference.random_network(2, [FEATURES, *[WIDTH] * DEEPEST, OUT], gain)
    # biases large enough that one relu unit of the first layer is dead on all examples
    network[0][1][0] = -20.0
    return network


def runner(stack):
    """The jitted pass and measurement of a stack, for any numbers."""
    name, _, residual, active = STACKS[stack]

    @jax.jit
    def run(params, x, weight, active):
        depth = Depth(DEEPEST, active) if stack == "masked" else DEEPEST
        model = jn.mlp(depth, WIDTH, OUT, name, residual=residual)
        batch = Batch(x, jnp.asarray(LABELS), weight)
        flow = probes.flow(model, jn.cross_entropy, {"params": params}, batch)
        updates = jax.tree.map(lambda leaf: -RATE * leaf, flow.gradients)
        # an activation's functions are no arrays
        return flow._replace(activation=None), probes.measure(ALL, flow._replace(updates=updates))

    return lambda x, weight, params: run(params, x, weight, active)


class Case:
    """What jaxnn finds on a stack, and the numpy network of the layers that it has."""

    def __init__(self, stack):
        self.stack = stack
        name, gain, self.residual, self.active = STACKS[stack]
        self.phi, network = reference.PHIS[name], network_of(gain)
        self.network = [*network[: self.active], network[-1]]
        self.criteria = jn.activation(name).saturated_slope, jn.activation(name).dead_slope
        self.params = jax.tree.map(jnp.asarray, reference.stacked(network))
        self.run = runner(stack)
        self.flow, self.found = self.find(X, WEIGHT)

    def find(self, x, weight):
        return jax.device_get(self.run(jnp.asarray(x), jnp.asarray(weight), self.params))

    def expect(self, x, weight, labels=LABELS):
        return by_hand(self, x, weight / weight.sum(), labels)


def by_hand(case, x, w, labels):
    """Each probe's formula, straight from its docstring; `w` sums to 1."""
    result = reference.evaluate(case.network, x, labels, case.phi, weight=w, residual=case.residual)
    pre, post = result.passed.pre, result.passed.post
    hidden = range(len(pre))
    slopes = [np.abs(case.phi.slope(z)) for z in pre]
    saturated, dead = case.criteria
    used = w > 0

    def mean(values):
        return np.sum(w[:, None] * values) / values.shape[1]

    def rms(values):
        return np.sqrt(np.mean(values**2))

    def example_signal(level):  # dl_i/dz of each example's own loss
        return result.signals[level][used] / w[used, None]

    def cosine(z):
        unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-300)
        pairs = [
            (w[i] * w[j], unit[i] @ unit[j]) for i in range(len(w)) for j in range(len(w)) if i != j
        ]
        return sum(p * c for p, c in pairs) / sum(p for p, _ in pairs)

    kernels = [kernel for kernel, _ in case.network]
    gradients = [gradient for gradient, _ in result.gradients]
    return {
        "loss": result.loss,
        "accuracy": np.sum(w * (result.passed.outputs.argmax(axis=1) == labels)),
        "grad_rms": [rms(gradients[l]) for l in hidden],
        "preact_grad_rms": [
            np.sqrt(np.sum(w[used, None] * example_signal(l) ** 2) / WIDTH) for l in hidden
        ],
        "act_mean": [mean(h) for h in post],
        "act_var": [mean(h**2) - mean(h) ** 2 for h in post],
        "preact_second_moment": [mean(z**2) for z in pre],
        "saturated_fraction": [mean((s <= saturated).astype(float)) for s in slopes],
        "dead_fraction": [np.mean(np.all(s[used] <= dead, axis=0)) for s in slopes],
        "weight_rms": [rms(kernels[l]) for l in hidden],
        "update_ratio": [RATE * rms(gradients[l]) / rms(kernels[l]) for l in hidden],
        "preact_cosine": [cosine(z) for z in pre],
    }


@functools.cache
def case_of(stack):
    with jax.enable_x64(True):
        return Case(stack)


@pytest.fixture(scope="module", params=list(STACKS))
def case(request):
    with jax.enable_x64(True):
        yield case_of(request.param)


EVERY = pytest.mark.parametrize("probe", ALL, ids=lambda each: each.name)
EVERY_PER_LAYER = pytest.mark.parametrize("probe", PER_LAYER, ids=lambda each: each.name)

# float64 sums of some ten terms through four layers, with room for the cancellation in variances
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13)


def test_every_measurement_is_in_the_table():
    public = [each for each in vars(measurements).values() if isinstance(each, probes.Probe)]
    assert {each.name for each in public} == {each.name for each in ALL}
    assert all(getattr(probes, each.name) is each for each in public)


@EVERY
def test_probe_equals_its_formula(case, probe):
    found, expected = case.found[probe.name].values, case.expect(X, WEIGHT)[probe.name]
    close(found[: case.active] if probe.dims else found, expected)


def test_examples_show_saturation_and_death():
    """The table above tests something: fractions strictly between 0 and 1 occur."""
    with jax.enable_x64(True):
        dead = case_of("plain").found["dead_fraction"].values
        saturated = case_of("residual").found["saturated_fraction"].values
    assert 0 < dead[0] < 1
    assert np.all((saturated > 0) & (saturated < 1))


def test_probe_keeps_its_labels(case):
    for probe in ALL:
        found = case.found[probe.name]
        assert (found.dims, found.unit, found.long_name) == probe[1:4]
        assert found.values.shape == (DEEPEST,) * len(probe.dims)


@EVERY_PER_LAYER
def test_layers_past_a_masked_members_depth_read_nan(probe):
    with jax.enable_x64(True):
        found = case_of("masked").found[probe.name].values
    np.testing.assert_array_equal(np.isnan(found), [False] * ACTIVE + [True] * (DEEPEST - ACTIVE))


def test_weight_gradient_is_activation_times_backward_signal(case):
    """dL/dW_l = h_{l-1}^T dL/dz_l and dL/db_l = sum_batch dL/dz_l, for every layer in use."""
    flow = case.flow
    inputs = [X, *flow.taps.post]
    gradients = reference.unstacked(flow.gradients)
    for level in range(DEEPEST):
        kernel_gradient, bias_gradient = gradients[level]
        # past a masked member's depth both sides are exactly 0
        close(kernel_gradient, inputs[level].T @ flow.backward[level])
        close(bias_gradient, flow.backward[level].sum(axis=0))
    assert np.all(flow.backward[case.active :] == 0)


def test_flow_equals_reference(case):
    expected = reference.evaluate(
        case.network, X, LABELS, case.phi, weight=WEIGHT, residual=case.residual
    )
    close(case.flow.outputs, expected.passed.outputs)
    close(case.flow.taps.pre[: case.active], expected.passed.pre)
    close(case.flow.backward[: case.active], expected.signals)
    close(case.flow.weight, WEIGHT / WEIGHT.sum())


def test_examples_of_weight_zero_change_nothing(case):
    """Neither by what they are, nor by being there."""
    other = np.where(WEIGHT[:, None] > 0, X, 100.0 * RNG.standard_normal(X.shape))
    _, found = case.find(other, WEIGHT)
    used = WEIGHT > 0
    alone = case.expect(X[used], WEIGHT[used], LABELS[used])
    for probe in ALL:
        close(found[probe.name].values, case.found[probe.name].values)
        values = found[probe.name].values
        close(values[: case.active] if probe.dims else values, alone[probe.name])


def test_scale_of_weights_changes_nothing(case):
    _, found = case.find(X, 17.0 * WEIGHT)
    for probe in ALL:
        close(found[probe.name].values, case.found[probe.name].values)


def test_no_weights_are_equal_weights():
    with jax.enable_x64(True):
        batch = Batch(X, LABELS)
        np.testing.assert_array_equal(
            probes.example_weight(batch, jnp.float64), [1 / BATCH] * BATCH
        )
        outputs = jnp.asarray(RNG.standard_normal((BATCH, OUT)))
        expected = reference.cross_entropy(np.asarray(outputs), LABELS)[0].mean()
        found = jax.jit(functools.partial(probes.mean_loss, jn.cross_entropy))(outputs, batch)
        close(found, expected)


def test_mean_loss_gives_examples_of_any_loss_their_weight():
    with jax.enable_x64(True):
        outputs, targets = RNG.standard_normal((2, BATCH, OUT))
        batch = Batch(X, targets, WEIGHT)
        expected = reference.squared_error(outputs, targets)[0] @ (WEIGHT / WEIGHT.sum())
        close(probes.mean_loss(jn.squared_error, jnp.asarray(outputs), batch), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e30], ids=["vanishing", "exploding"])
def test_rms_of_gradient_keeps_the_range_of_float32(scale):
    """Its square, 1e-60 or 1e60, is far outside."""
    model = jn.mlp(1, 4, 2, "identity", weights=jn.gaussian(), readout=jn.constant(scale))
    x = jnp.ones((3, 5))
    batch = jn.Batch(x, jnp.ones((3, 2)))
    passed = probes.flow(
        model, lambda y, t: jnp.sum(y, axis=1), model.init(jax.random.key(0), x), batch
    )
    found = probes.measure([probes.preact_grad_rms], passed)["preact_grad_rms"].values
    np.testing.assert_allclose(found, 2 * scale, rtol=1e-5)  # dl/dz = the sum over 2 outputs
