"""The activations study: its claims on data made with known answers, its helpers, its figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxnn as jn
from experiments import activations
from jaxnn.theory import linear_nets

NAMES = list(activations.NAMES)


def accuracies(by_activation):
    """`[activation, rate, seed, step]`: 0.1 at the first of two rates, 0 before training."""
    found = np.full((len(NAMES), 2, 3, 2), 0.1)
    found[:, 1] = np.array(by_activation)[:, None, None] + np.array([-0.01, 0.0, 0.01])[:, None]
    found[..., 0] = 0.0
    return found


def depth():
    names = ("activation", "learning_rate", "seed", "step", "depth")
    dims = [f"depth_{name}" for name in names]
    values = np.stack([accuracies([0.8] + [0.9] * 6), accuracies([0.1] + [0.9] * 6)], -1)
    errors = np.broadcast_to(np.array([0.5] * 6 + [1e-7])[:, None, None, None, None], values.shape)
    arrays = {"depth_accuracy": (dims, values), "depth_superposition_error": (dims, errors)}
    return xr.Dataset(arrays, {dims[0]: NAMES, dims[1]: [0.1, 0.3], dims[4]: [2, 16]})


def circle():
    dims = [f"circle_{name}" for name in ("activation", "learning_rate", "seed", "step")]
    values = accuracies([0.98] * 6 + [0.5])
    return xr.Dataset({"circle_accuracy": (dims, values)}, {dims[0]: NAMES})


def stall():
    """The top sigmoid layer falls from 0.5 by 0.1 a record, the loss stays at ln 10."""
    means = np.zeros((2, 3, 5, 4))  # activation, seed, step, layer
    means[0] = 0.5
    means[0, ..., -1] = 0.5 - 0.1 * np.arange(5)
    means[0, ..., 2] = 0.5 + 0.04 * np.arange(5)  # out of the range at the last, not at 0.2
    dims = [f"stall_{name}" for name in ("activation", "seed", "step", "layer")]
    coords = {dims[0]: ["sigmoid", "tanh"], dims[2]: 25 * np.arange(5), dims[3]: [1, 2, 3, 4]}
    arrays = {
        "stall_act_mean": (dims, means - 1e-6),
        "stall_loss": (dims[:3], np.full((2, 3, 5), np.log(10.0))),
    }
    return xr.Dataset(arrays, coords)


def mode():
    """Theory's own curves, plus an error in proportion to the learning rate."""
    steps, rates, finals = np.arange(0, 6000, 100), np.array([1e-3, 2e-3]), np.array([1.0, 3.0])
    values = np.zeros((3, 2, 1, steps.size, 2))
    for i, d in enumerate((1, 2, 4)):
        for j, rate in enumerate(rates):
            for k, final in enumerate(finals):
                curve = activations.mode_curve(final, 0.05, d + 1)
                values[i, j, 0, :, k] = np.interp(steps * rate, *curve) + 4.0 * rate * final
    dims = [f"mode_{name}" for name in ("depth", "learning_rate", "seed", "step", "mode")]
    coords = dict(zip(dims, ([1, 2, 4], rates, [0], steps, finals), strict=True))
    return xr.Dataset({"mode_mode_strength": (dims, values)}, coords)


def speed():
    """Losses that fall below 5% at step 20, or 24 if deep, or never from Gaussian weights."""
    steps = 4 * np.arange(100)
    loss = np.ones((2, 2, 2, 3, steps.size))  # depth, orthogonal, rate, seed, step
    loss[0, 1, 1, :, steps >= 20] = 0.01
    loss[1, 1, 1, :, steps >= 24] = 0.01
    loss[0, 0, 1, :, steps >= 200] = 0.01
    dims = [f"speed_{name}" for name in ("depth", "orthogonal", "rate", "seed", "step")]
    coords = {dims[0]: [7, 31], dims[1]: [0.0, 1.0], dims[2]: [0.2, 0.4], dims[4]: steps}
    return xr.Dataset({"speed_loss": (dims, loss)}, coords)


@pytest.fixture(scope="module")
def ds():
    found = xr.merge([depth(), circle(), stall(), mode(), speed()])
    return found.assign_attrs(start=0.05, num_steps=100)


def test_claims_hold_where_the_answers_are_those_of_theory(ds):
    found = {claim.statement: claim.check(ds) for claim in activations.CLAIMS}
    assert [statement for statement, each in found.items() if not each.holds] == []


@pytest.mark.parametrize(
    ("name", "change", "failing"),
    [
        ("depth_accuracy", lambda x: 0.5 * x, 1),
        ("circle_accuracy", lambda x: 0.9 * x, 1),
        ("circle_accuracy", lambda x: x + 0.2, 1),
        ("depth_superposition_error", lambda x: x + 1e-3, 1),
        ("depth_superposition_error", lambda x: 0.1 * x, 1),
        ("stall_loss", lambda x: 0.9 * x, 1),
        ("stall_act_mean", lambda x: x + 0.35 * (x["stall_activation"] == "tanh"), 1),
        ("stall_act_mean", lambda x: x + 0.2 * (x["stall_layer"] == 1), 1),
        ("mode_mode_strength", lambda x: 1.01 * x, 4),  # three depths and the order
        ("speed_loss", lambda x: x.copy(data=x.values[:, ::-1]), 2),
    ],
)
def test_claims_fail_where_the_answers_are_wrong(ds, name, change, failing):
    wrong = ds.assign({name: change(ds[name])})
    found = [claim.check(wrong).holds for claim in activations.CLAIMS]
    assert found.count(False) == failing


def test_a_top_layer_that_is_never_driven_is_told(ds):
    high = ds.assign(stall_act_mean=ds["stall_act_mean"] + 0.2)
    with pytest.raises(ValueError, match="never fell below"):
        activations.driven(high)


def test_steps_to_learn_are_those_at_the_best_rate_and_infinite_for_never(ds):
    found = activations.steps_to_learn(ds)
    assert found.values.tolist() == [[200.0, 20.0], [np.inf, 24.0]]


def test_mode_error_is_relative_to_the_final_value(ds):
    found = activations.mode_error(ds)
    np.testing.assert_allclose(found.sel(mode_learning_rate=1e-3), 4e-3, rtol=1e-6)


def test_mode_curve_is_the_closed_form_of_two_matrices():
    time, strength = activations.mode_curve(3.0, 0.05, 2)
    expected = linear_nets.mode_strength(time, np.float32(3.0), np.float32(0.05))
    np.testing.assert_allclose(strength, expected, rtol=1e-4)  # float32, times the slope s u


def test_chosen_activation_is_the_one_of_its_number():
    z = jnp.linspace(-3.0, 3.0, 7)

    @jax.jit
    def both():
        def values(each):
            return each.function(z), each.slope(z)

        numbers = jnp.arange(len(NAMES))
        known = [values(jn.activation(name)) for name in NAMES]
        return jax.vmap(lambda number: values(activations.chosen(number)))(numbers), known

    found, known = both()
    for number in range(len(NAMES)):
        one = [each[number] for each in found]
        np.testing.assert_allclose(one, known[number], rtol=1e-6, atol=1e-6)  # float32


def test_whitened_inputs_have_second_moment_one_and_no_mean():
    batch = activations.whitened(jnp.array([1.0, 2.0, 3.0])).train
    np.testing.assert_allclose(batch.x.T @ batch.x / len(batch.x), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(batch.x.sum(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(batch.y.T @ batch.x / 6, np.diag([1.0, 2.0, 3.0]), atol=1e-6)


def test_superposition_and_mode_probes_on_known_maps():
    batch = activations.whitened(jnp.array([1.0, 2.0])).train
    model = jn.mlp(1, 2, 2, "identity", weights=jn.scaled_identity(3.0), biases=jn.constant(1.0))

    @jax.jit
    def measured():
        variables = model.init(jax.random.key(0), batch.x)
        flow = jn.probes.flow(model, jn.squared_error, variables, batch)
        probes = [activations.superposition_error, activations.mode_strength]
        curved = flow._replace(network=lambda params, x: x**2)
        return jn.probes.measure(probes, flow), activations.superposition_error.measure(curved)

    found, error = measured()
    np.testing.assert_allclose(found["superposition_error"].values, 0.0, atol=1e-6)
    # W2 (W1 x + 1) + 1 = 9 x + 4: at x = 2^1/2, over 2^1/2
    np.testing.assert_allclose(found["mode_strength"].values, 9.0 + 4.0 / 2**0.5, rtol=1e-6)
    # a^2 + b^2 - (a + b)^2 = -2ab: b is the example from the other end, -a's other axis
    a = np.asarray(batch.x)
    expected = np.sqrt(np.mean((2 * a * a[::-1]) ** 2) / np.mean(a**4))
    np.testing.assert_allclose(error, expected, atol=1e-6)


def test_figure_draws_four_panels_with_labels(ds):
    fig = activations.figure(ds)
    assert len(fig.axes) == 4
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)
    entries = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert entries == [name.replace("_", " ") for name in NAMES]
