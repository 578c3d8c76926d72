"""The linear_networks study: its claims on data of known answers, its helpers, its figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxnn as jn
from experiments import linear_networks
from jaxnn.report import gather, part
from jaxnn.theory import linear_nets


def mode():
    """Theory's own curves, plus an error in proportion to the learning rate."""
    dims = ("depth", "learning_rate", "step", "mode")
    coords = ([2, 3, 5], [1e-3, 2e-3], np.arange(0, 6000, 100), [1.0, 3.0])
    ds = xr.Dataset(coords=dict(zip(dims, coords, strict=True)), attrs={"start": 0.05})
    return ds.assign(
        mode_strength=linear_networks.theory(ds) + 4.0 * ds["learning_rate"] * ds["mode"]
    )


def speed():
    """Losses that fall below 5% at step 20, or 24 if deep, or never from Gaussian weights."""
    steps = 4 * np.arange(100)
    loss = np.ones((2, 2, 2, 3, steps.size))  # depth, orthogonal, rate, seed, step
    loss[0, 1, 1, :, steps >= 20] = 0.01
    loss[1, 1, 1, :, steps >= 24] = 0.01
    loss[0, 0, 1, :, steps >= 200] = 0.01
    dims = ("depth", "orthogonal", "rate", "seed", "step")
    coords = {dims[0]: [8, 32], dims[1]: [0.0, 1.0], dims[2]: [0.2, 0.4], dims[4]: steps}
    return xr.Dataset({"loss": (dims, loss)}, coords)


@pytest.fixture(scope="module")
def ds():
    return gather({"mode": mode(), "speed": speed()}, start=0.05)


def failing(ds):
    return [claim.statement for claim in linear_networks.CLAIMS if not claim.check(ds).holds]


def test_claims_hold_where_the_answers_are_those_of_theory(ds):
    assert failing(ds) == []


@pytest.mark.parametrize(
    ("name", "change", "count"),
    [
        ("mode_mode_strength", lambda x: 1.01 * x, 4),  # three depths and the order
        ("speed_loss", lambda x: x.copy(data=x.values[:, ::-1]), 2),
    ],
)
def test_claims_fail_where_the_answers_are_wrong(ds, name, change, count):
    assert len(failing(ds.assign({name: change(ds[name])}))) == count


def test_steps_to_learn_are_those_at_the_best_rate_and_infinite_for_never(ds):
    found = linear_networks.steps_to_learn(ds)
    assert found.values.tolist() == [[200.0, 20.0], [np.inf, 24.0]]


def test_mode_error_is_relative_to_the_final_value(ds):
    found = linear_networks.mode_error(part(ds, "mode"))
    np.testing.assert_allclose(found.sel(learning_rate=1e-3), 4e-3, rtol=1e-6)


def test_theory_is_the_closed_form_of_two_matrices(ds):
    found = linear_networks.theory(part(ds, "mode")).sel(depth=2, mode=3.0, learning_rate=1e-3)
    times = np.float32(1e-3) * np.arange(0, 6000, 100, dtype=np.float32)
    expected = linear_nets.mode_strength(times, np.float32(3.0), np.float32(0.05))
    np.testing.assert_allclose(found, expected, rtol=1e-3)  # interpolated


def test_whitened_inputs_have_second_moment_one_and_no_mean():
    batch = linear_networks.whitened(jnp.array([1.0, 2.0, 3.0])).train
    np.testing.assert_allclose(batch.x.T @ batch.x / len(batch.x), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(batch.x.sum(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(batch.y.T @ batch.x / 6, np.diag([1.0, 2.0, 3.0]), atol=1e-6)


def test_mode_strength_is_the_product_of_the_weights():
    batch = linear_networks.whitened(jnp.array([1.0, 2.0])).train
    model = jn.mlp(1, 2, 2, "identity", weights=jn.scaled_identity(3.0))

    @jax.jit
    def measured():
        variables = model.init(jax.random.key(0), batch.x)
        flow = jn.probes.flow(model, jn.squared_error, variables, batch)
        return linear_networks.mode_strength.measure(flow)

    np.testing.assert_allclose(measured(), [9.0, 9.0], rtol=1e-6)


def test_figure_draws_both_panels_with_labels(ds):
    fig = linear_networks.figure(ds)
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)
    entries = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in fig.axes]
    assert entries[0] == ["2 matrices", "3 matrices", "5 matrices"]
    assert [entry.split(",")[0] for entry in entries[1]] == ["Gaussian"] * 2 + ["orthogonal"] * 2


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("linear_networks") == []
