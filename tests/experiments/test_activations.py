"""The activations study: its claims on data made with known answers, its helpers, its figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxnn as jn
from experiments import activations
from jaxnn.report import gather

NAMES = list(activations.GAINS)


def accuracies(by_activation):
    """`[activation, rate, seed, step]`: 0.1 at the first of two rates, 0 before training."""
    found = np.full((len(NAMES), 2, 3, 2), 0.1)
    found[:, 1] = np.array(by_activation)[:, None, None] + np.array([-0.01, 0.0, 0.01])[:, None]
    found[..., 0] = 0.0
    return found


def deep():
    dims = ("activation", "learning_rate", "seed", "step", "depth")
    values = np.stack([accuracies([0.8] + [0.9] * 6), accuracies([0.1] + [0.9] * 6)], -1)
    errors = np.broadcast_to(np.array([0.5] * 6 + [1e-7])[:, None, None, None, None], values.shape)
    arrays = {"accuracy": (dims, values), "superposition_error": (dims, errors)}
    return xr.Dataset(arrays, {dims[0]: NAMES, dims[1]: [0.1, 0.3], dims[4]: [2, 16]})


def circle():
    dims = ("activation", "learning_rate", "seed", "step")
    return xr.Dataset({"accuracy": (dims, accuracies([0.98] * 6 + [0.5]))}, {dims[0]: NAMES})


def stall():
    """The top sigmoid layer falls from 0.5 by 0.1 a record, the loss stays at ln 10."""
    means = np.zeros((2, 3, 5, 4))  # activation, seed, step, layer
    means[0] = 0.5
    means[0, ..., -1] = 0.5 - 0.1 * np.arange(5)
    means[0, ..., 2] = 0.5 + 0.04 * np.arange(5)  # out of the range at the last, not at 0.2
    dims = ("activation", "seed", "step", "layer")
    coords = {dims[0]: ["sigmoid", "tanh"], dims[2]: 25 * np.arange(5), dims[3]: [1, 2, 3, 4]}
    loss = np.full((2, 3, 5), np.log(10.0))
    return xr.Dataset({"act_mean": (dims, means - 1e-6), "loss": (dims[:3], loss)}, coords)


@pytest.fixture(scope="module")
def ds():
    return gather({"deep": deep(), "circle": circle(), "stall": stall()}, num_steps=100)


def failing(ds):
    return [claim.statement for claim in activations.CLAIMS if not claim.check(ds).holds]


def test_claims_hold_where_the_answers_are_those_of_theory(ds):
    assert failing(ds) == []


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("deep_accuracy", lambda x: 0.5 * x, "deep tanh networks train"),
        ("circle_accuracy", lambda x: 0.9 * x, "Every other activation can"),
        ("circle_accuracy", lambda x: x + 0.2, "cannot tell circles apart"),
        ("deep_superposition_error", lambda x: x + 1e-3, "superposition holds"),
        ("deep_superposition_error", lambda x: 0.1 * x, "no other activation obeys"),
        ("stall_loss", lambda x: 0.9 * x, "still at ln C"),
        ("stall_act_mean", lambda x: x + 0.35 * (x["stall_activation"] == "tanh"), "no layer"),
        ("stall_act_mean", lambda x: x + 0.2 * (x["stall_layer"] == 1), "layers below"),
    ],
)
def test_a_claim_fails_where_its_answer_is_wrong(ds, name, change, words):
    (statement,) = failing(ds.assign({name: change(ds[name])}))
    assert words in statement


def test_a_top_layer_that_is_never_driven_is_told(ds):
    high = ds.assign(stall_act_mean=ds["stall_act_mean"] + 0.2)
    with pytest.raises(ValueError, match="never fell below"):
        activations.driven(high)


def test_chosen_activation_is_the_one_of_its_number():
    z = jnp.linspace(-3.0, 3.0, 7)

    @jax.jit
    def both():
        def values(each):
            return each.function(z), each.slope(z)

        numbers = jnp.arange(len(NAMES))
        known = [values(jn.activation(name)) for name in NAMES]
        return jax.vmap(lambda number: values(activations.chosen(number, NAMES)))(numbers), known

    found, known = both()
    for number in range(len(NAMES)):
        one = [each[number] for each in found]
        np.testing.assert_allclose(one, known[number], rtol=1e-6, atol=1e-6)  # float32


def test_superposition_holds_of_a_linear_map_and_not_of_a_square():
    x = jax.random.normal(jax.random.key(0), (6, 2))
    batch = jn.Batch(x, x)
    model = jn.mlp(1, 2, 2, "identity", weights=jn.scaled_identity(3.0), biases=jn.constant(1.0))

    @jax.jit
    def measured():
        variables = model.init(jax.random.key(0), batch.x)
        flow = jn.probes.flow(model, jn.squared_error, variables, batch)
        curved = flow._replace(network=lambda params, x: x**2)
        return [activations.superposition_error.measure(each) for each in (flow, curved)]

    linear, curved = measured()
    np.testing.assert_allclose(linear, 0.0, atol=1e-6)
    a = np.asarray(x)  # a^2 + b^2 - (a + b)^2 = -2ab: b is the example from the other end
    expected = np.sqrt(np.mean((2 * a * a[::-1]) ** 2) / np.mean(a**4))
    np.testing.assert_allclose(curved, expected, rtol=1e-5)  # float32


def test_figure_draws_three_panels_with_labels(ds):
    fig = activations.figure(ds)
    assert len(fig.axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)
    entries = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert entries == [name.replace("_", " ") for name in NAMES]
    widths = [bar.get_width() for bar in fig.axes[2].patches]
    np.testing.assert_allclose(widths, [0.98] * 6 + [0.5])


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("activations") == []
