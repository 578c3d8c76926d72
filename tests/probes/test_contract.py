"""The contract of probes: labels, errors by message, and one pass that feeds them all."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.probes import Probe, measurements
from jaxnn.probes.by_layer import kernels_by_layer
from jaxnn.types import Batch, Depth, Taps
from tests.probes import recorded

MODEL = jn.mlp(3, 4, 2, "relu")
X = jax.ShapeDtypeStruct((5, 3), jnp.float32)
CLASSES = jax.ShapeDtypeStruct((5,), jnp.int32)
REALS = jax.ShapeDtypeStruct((5, 2), jnp.float32)
RECORDED = recorded.model()
MEMBERS = jax.tree.map(lambda leaf: leaf.astype(np.float32), recorded.members())
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


def test_probe_may_find_several_things():
    """One probe, one computation: each array under its own name, with the probe's dims and unit."""
    found = traced(
        [
            probes.Probe(
                "size",
                ("batch",),
                "m",
                "size of outputs",
                lambda flow: {"": flow.outputs[:, 0], "standard_error": flow.outputs[:, 1]},
            )
        ]
    )
    assert list(found) == ["size", "size_standard_error"]
    for each in found.values():
        assert (each.values.shape, each.dims, each.unit) == ((5,), ("batch",), "m")
    assert found["size"].long_name == "size of outputs"
    assert found["size_standard_error"].long_name == "size of outputs, standard error"


def test_every_public_probe_is_measured_somewhere():
    """Those of `measurements` in its tests, all others in `recorded`, but one that needs Adam."""
    public = [getattr(probes, name) for name in probes.__all__]
    builders = [each for each in public if inspect.isfunction(each)]
    builders = [each for each in builders if inspect.signature(each).return_annotation is Probe]
    known = {each.name for each in recorded.ALL} | {"preconditioned_sharpness"}
    built = {(build((0.0,)) if build is probes.loss_slice else build()).name for build in builders}
    others = {each.name for each in public if isinstance(each, Probe)}
    others -= {name for name, each in vars(measurements).items() if isinstance(each, Probe)}
    assert built | others == known


def test_probes_keep_the_dtype():
    """All of them in float32, traced under strict dtype promotion."""

    def run(x, y):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], x.dtype), recorded.members())
        variables = {"params": params}
        flow = probes.flow(recorded.model(), jn.cross_entropy, variables, Batch(x, y))
        return probes.measure(recorded.ALL, flow._replace(updates=flow.gradients))

    x = jax.ShapeDtypeStruct(recorded.X.shape, jnp.float32)
    y = jax.ShapeDtypeStruct(recorded.LABELS.shape, jnp.int32)
    found = jax.eval_shape(run, x, y)
    dtypes = {name: each.values.dtype for name, each in found.items() if name != "layer"}
    assert dtypes.pop("linear_regions") == jnp.int32
    assert set(dtypes.values()) == {jnp.dtype(jnp.float32)}


# Flows


def flow_of(params):
    x, y = recorded.X.astype(np.float32), recorded.LABELS.astype(np.int32)
    flow = probes.flow(RECORDED, jn.cross_entropy, {"params": params}, Batch(x, y))
    return flow._replace(updates=flow.gradients)


def test_flow_passes_through_jit_and_vmap():
    """Made in one program, measured in another; its functions too."""

    def measured(flow):
        found = probes.measure([probes.saturated_fraction, probes.step_alpha], flow)
        return {name: found[name].values for name in ("saturated_fraction", "step_alpha")}

    def make(params):
        flow = flow_of(params)
        return flow, {**measured(flow), "loss": flow.loss_at(flow.params)}

    flows, values = jax.jit(jax.vmap(make))(MEMBERS)
    assert flows.activation is RECORDED.activation
    apart = jax.jit(jax.vmap(measured))(flows)
    for name, found in {**apart, "loss": flows.loss}.items():
        # the same operations in float32, compiled twice
        np.testing.assert_allclose(found, values[name], rtol=1e-5)


def test_flows_of_one_model_have_one_structure():
    """So that a program made for one takes the next."""
    alone = jax.tree.map(lambda leaf: leaf[0], MEMBERS)
    one, other = (jax.eval_shape(flow_of, alone) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(other)


# Users' networks


def closed(model):
    """The model without taps."""

    def apply(*args, **kwargs):
        outputs, _, variables = model.apply(*args, **kwargs)
        return outputs, None, variables

    return model._replace(apply=apply)


def test_network_without_taps_has_every_probe_but_those_by_layer():
    chosen = [
        each for each in recorded.ALL if "layer" not in each.dims and each.name != "linear_regions"
    ]
    found = traced([probes.loss, probes.accuracy], model=closed(MODEL))
    assert found["accuracy"].values.shape == ()

    def run(x, y):
        variables = MODEL.init(jax.random.key(0), x)
        flow = probes.flow(closed(MODEL), jn.cross_entropy, variables, Batch(x, y))
        return probes.measure(chosen, flow._replace(updates=flow.gradients))

    assert set(jax.eval_shape(run, X, CLASSES)) >= {"hessian_max", "jacobian_sv", "loss_slice"}


@pytest.mark.parametrize("probe", [probes.act_var, probes.grad_rms, probes.layer_cka])
def test_probe_by_layer_without_taps_is_refused(probe):
    words = rf"probe '{probe.name}'.*taps=None; return Taps\(pre, post\).*leave the probe out"
    with pytest.raises(ValueError, match=words):
        traced([probe], model=closed(MODEL))


def test_kernels_of_a_layer_may_be_several_and_nested():
    params = {
        "embed": {"kernel": jnp.full((2, 2), 100.0)},
        "hidden": {
            "inner": {"kernel": jnp.array([[[1.0, 3.0]], [[2.0, 4.0]]]), "bias": jnp.ones((2, 2))},
            "outer": {"dense": {"kernel": jnp.array([[[5.0]], [[6.0]]])}},
        },
    }
    first = {"first": {"kernel": jnp.full((3, 1), 7.0)}}

    @jax.jit
    def sums(*trees):
        return [kernels_by_layer("grad_rms", params, jnp.sum) for params in trees]

    found = sums(params, {**params, **first}, first)
    expected = [[1.0 + 3 + 5, 2.0 + 4 + 6], [21.0, 9.0, 12.0], [21.0]]
    assert [each.tolist() for each in found] == expected


@pytest.mark.parametrize(
    "params", [{"dense": {"kernel": 1.0}}, {"hidden": {"scale": 1.0}}, [1.0]], ids=str
)
def test_params_without_kernels_by_layer_are_refused(params):
    with pytest.raises(ValueError, match=r"probe 'weight_rms'.*'first'.*'hidden'.*got (\[|list)"):
        kernels_by_layer("weight_rms", params, jnp.sum)


def test_layers_of_kernels_and_of_taps_must_agree():
    """As in a recurrent network, whose taps have a layer a time step."""
    params = {"hidden": {"kernel": jnp.ones((3, 4, 4))}}
    blank = probes.Flow(*[None] * 11)._replace(params=params)

    def run(pre):
        return probes.measure([probes.weight_rms], blank._replace(taps=Taps(pre, pre)))

    with pytest.raises(ValueError, match=r"probe 'weight_rms'.*each of the 2 layers.*got 3"):
        jax.eval_shape(run, jnp.ones((2, 5, 4)))


def test_accuracy_averages_over_a_time_axis():
    classes = np.array([[0, 1, 1], [2, 2, 0]])
    outputs = np.eye(3, dtype=np.float32)[classes]
    targets, weight = np.array([[0, 1, 2], [1, 1, 0]]), np.array([0.75, 0.25], np.float32)
    blank = probes.Flow(*[None] * 11)
    flow = blank._replace(outputs=outputs, targets=targets, weight=weight)
    share = jax.jit(probes.accuracy.measure)(flow)
    assert share.shape == ()
    assert abs(share - (0.75 * 2 / 3 + 0.25 / 3)) < 1e-6


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


def test_probes_that_show_the_same_are_refused():
    """A dictionary's parts get names when measured: here both show `loss_b`."""
    several = probes.Probe("loss", (), "1", "several", lambda flow: {"b": flow.loss})
    other = probes.Probe("loss_b", (), "1", "one", lambda flow: flow.loss)

    def measured(x):
        model = jn.mlp(1, 2, 2)
        batch = Batch(x, jnp.zeros(3, jnp.int32))
        variables = model.init(jax.random.key(0), x)
        return probes.measure(
            [several, other], probes.flow(model, jn.cross_entropy, variables, batch)
        )

    with pytest.raises(ValueError, match="probe 'loss_b': shows loss_b, as another probe does"):
        jax.eval_shape(measured, jnp.ones((3, 2)))


def test_measure_init_is_measured_at_the_random_start(digits):
    batch, key = Batch(digits.train.x[:5], digits.train.y[:5]), jax.random.key(0)
    model = jn.mlp(2, 4, 10, "tanh")

    @jax.jit
    def both(key):
        start = model.init(key, jnp.asarray(batch.x))
        flow = probes.flow(model, jn.cross_entropy, start, Batch(*map(jnp.asarray, batch[:2])))
        chosen = [probes.loss, probes.act_var]
        return (
            probes.measure_init(chosen, model, jn.cross_entropy, key, batch)["act_var"].values,
            probes.measure(chosen, flow)["act_var"].values,
        )

    found, expected = both(key)
    assert found.shape == (2,)
    np.testing.assert_array_equal(found, expected)
