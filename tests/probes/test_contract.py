"""The contract of probes: labels, errors by message, and one pass that feeds them all."""

import jax
import jax.numpy as jnp
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.types import Batch, Depth

MODEL = jn.mlp(3, 4, 2, "relu")
X = jax.ShapeDtypeStruct((5, 3), jnp.float32)
CLASSES = jax.ShapeDtypeStruct((5,), jnp.int32)
REALS = jax.ShapeDtypeStruct((5, 2), jnp.float32)
WHAT_A_FLOW_SHOWS = [
    probes.loss,
    probes.accuracy,
    probes.grad_rms,
    probes.preact_grad_rms,
    probes.act_var,
    probes.dead_fraction,
    probes.weight_rms,
]


def traced(chosen, *, model=MODEL, targets=CLASSES, loss=jn.cross_entropy):
    """Trace one measurement; nothing is compiled."""

    def run(x, y):
        variables = model.init(jax.random.key(0), x)
        return probes.measure(chosen, probes.flow(model, loss, variables, Batch(x, y)))

    return jax.eval_shape(run, X, targets)


def counting(model):
    """The model, and the list that grows by one whenever it is applied."""
    calls = []

    def apply(*args, **kwargs):
        calls.append(1)
        return model.apply(*args, **kwargs)

    return model._replace(apply=apply), calls


@pytest.mark.parametrize(
    "chosen", [[], WHAT_A_FLOW_SHOWS[:1], WHAT_A_FLOW_SHOWS], ids=["none", "one", "seven"]
)
def test_one_pass_feeds_all_probes(chosen):
    """The network is traced twice, whatever is measured: for the taps' shape, and for the pass."""
    model, calls = counting(MODEL)
    traced(chosen, model=model)
    assert len(calls) == 2


def test_probe_takes_the_name_of_its_function():
    @probes.probe(("batch", "unit"), unit="nat", long_name="outputs")
    def everything(flow):
        """Say what is measured."""
        return flow.outputs

    assert everything[:4] == ("everything", ("batch", "unit"), "nat", "outputs")
    found = traced([everything])["everything"]
    assert found.values.shape == (5, 2)
    assert (found.dims, found.unit, found.long_name) == (("batch", "unit"), "nat", "outputs")


@pytest.mark.parametrize("dims", [(), ("unit",), ("batch", "unit", "layer")], ids=len)
def test_probe_with_the_wrong_number_of_dims_is_refused(dims):
    outputs = probes.Probe("everything", dims, "1", "outputs", lambda flow: flow.outputs)
    with pytest.raises(ValueError, match=r"probe 'everything'.*shape \(5, 2\).*give each axis a"):
        traced([outputs])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_masked_layers_read_nan_on_any_axis(axis):
    """The layer dimension need not come first."""
    dims = ["batch", "unit"]
    dims.insert(axis, "layer")
    post = probes.Probe(
        "post", tuple(dims), "1", "activation", lambda flow: jnp.moveaxis(flow.taps.post, 0, axis)
    )
    model = jn.mlp(Depth(3, jnp.int32(2)), 4, 2, "relu")
    params = {
        "first": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
        "hidden": {"kernel": jnp.ones((2, 4, 4)), "bias": jnp.ones((2, 4))},
        "readout": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)},
    }
    taps = jn.Taps(*[jnp.ones((3, 5, 4))] * 2)
    unread = [None] * 5
    flow = probes.Flow(
        jnp.zeros(()), *unread[:3], taps, None, params, *unread[:2], None, model.active
    )
    values = jnp.moveaxis(probes.measure([post], flow)["post"].values, axis, 0)
    assert jnp.all(values[:2] == 1)
    assert jnp.all(jnp.isnan(values[2]))


def test_accuracy_of_regression_is_refused():
    with pytest.raises(TypeError, match=r"probe 'accuracy'.*got float32 targets"):
        traced([probes.accuracy], targets=REALS, loss=jn.squared_error)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
@pytest.mark.parametrize("enable_x64", [False, True], ids=["x32", "x64"])
def test_accuracy_takes_labels_of_any_integer_dtype(dtype, enable_x64):
    """Under strict dtype promotion, as everywhere in these tests."""
    with jax.enable_x64(enable_x64):
        labels = jax.ShapeDtypeStruct((5,), jax.dtypes.canonicalize_dtype(dtype))
        assert traced([probes.accuracy], targets=labels)["accuracy"].values.dtype == jnp.float32


def test_update_ratio_without_updates_is_refused():
    with pytest.raises(ValueError, match=r"update_ratio.*measure it through jn\.fit"):
        traced([probes.update_ratio])


@pytest.mark.parametrize(
    "probe", [probes.saturated_fraction, probes.dead_fraction], ids=lambda each: each.name
)
def test_saturation_without_an_activation_is_refused(probe):
    with pytest.raises(ValueError, match=r"need Model\.activation, got None"):
        traced([probe], model=MODEL._replace(activation=None))


def test_loss_sees_the_batchs_own_targets():
    def spy(outputs, targets):
        assert (outputs.shape, targets.shape, targets.dtype) == ((5, 2), (5, 2), jnp.float32)
        return jn.squared_error(outputs, targets)

    assert traced([probes.loss], targets=REALS, loss=spy)["loss"].values.shape == ()
