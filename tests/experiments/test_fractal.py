"""The fractal study: trainings against numpy and closed forms, its windows, a whole small run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import fractal

CONFIG = fractal.Config(num_steps=25, num_networks=2, cells=32, num_zooms=1)
ACTIVATIONS = {
    "tanh": lambda z: np.tanh(np.sqrt(2) * z),
    "relu": lambda z: np.sqrt(2) * np.maximum(z, 0),
    "identity": lambda z: z,
}


@pytest.fixture(scope="module")
def task():
    return fractal.draw(CONFIG, seed=3)


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    return fractal.run(CONFIG, seed=3, store=tmp_path_factory.mktemp("fractal"))


def measure_of(losses):
    """The paper's measure, from all losses at once."""
    ratios = np.asarray(losses) / losses[0]
    ratios = np.where(ratios < 1e6, ratios, 1e6)
    return -ratios.sum() if ratios[-20:].mean() < 1 else (1 / ratios).sum()


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "rates", [(0.1, 0.2), (1.001, 0.1), (0.1, 1.3), (30.0, 30.0)], ids=lambda rates: f"{rates}"
)
def test_convergence_equals_the_losses_of_a_loop(rates, double):
    curvatures, start = np.array([2.0, 1.7]), np.array([0.3, 1.0])
    losses, params = [], start
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(400):
            losses.append(0.5 * (curvatures * params**2).sum())
            params = params - np.array(rates) * curvatures * params

    def loss(params):
        return 0.5 * sum(c * each**2 for c, each in zip(curvatures, params, strict=True))

    layers = tuple(jnp.asarray(start))
    found = fractal.convergence(loss, layers, jnp.asarray(rates), num_steps=400)
    np.testing.assert_allclose(found, measure_of(losses), rtol=1e-10)


@pytest.mark.parametrize("model", ACTIVATIONS)
def test_network_equals_numpy(model, task, double):
    predict, start, targets = fractal.network_of(task, model, 1)
    num_examples = 8 if model == "identity" else 72  # the linear network has 8 examples, to fit
    x, weights = task.x[:, :num_examples].astype(float), task.weights[1].astype(float)
    hidden = ACTIVATIONS[model](weights[:8] @ x / np.sqrt(8))
    np.testing.assert_allclose(predict(start), weights[8] @ hidden / 8, rtol=1e-12)
    np.testing.assert_array_equal(targets, task.targets[:num_examples])


def test_networks_stay_the_same_when_there_are_more(task):
    more = fractal.draw(fractal.Config(num_networks=5), seed=3)
    np.testing.assert_array_equal(more.weights[:2], task.weights)
    np.testing.assert_array_equal(more.x, task.x)


@pytest.mark.parametrize("largest", [0.9, 1.9, 2.05, 3.0])
def test_control_follows_the_closed_form(largest, task, double):
    """The linearised network's residuals after t steps are (1 - K)^t of the first."""
    predict, start, targets = fractal.network_of(task, fractal.CONTROL, 0)
    slopes = [each.reshape(72, -1) for each in jax.jacobian(predict)(start)]
    kernel = 2 / 72 * (slopes[0] @ slopes[0].T + 3.0 * slopes[1] @ slopes[1].T)
    eigenvalues, modes = np.linalg.eigh(kernel)
    rate = largest / eigenvalues[-1]
    factors = (1 - rate * eigenvalues) ** np.arange(100)[:, None]
    losses = ((factors * (modes.T @ np.asarray(predict(start) - targets))) ** 2).mean(1)

    def loss(params):
        return jnp.mean((predict(params) - targets) ** 2)

    found = fractal.convergence(loss, start, rate * jnp.array([1.0, 3.0]), num_steps=100)
    np.testing.assert_allclose(found, measure_of(losses), rtol=1e-9)


def test_magnified_window_is_around_the_middle_cell_of_the_boundary():
    cells = np.zeros((2, 8, 8), bool)
    cells[0, [1, 4, 6], [7, 2, 0]] = True  # the second has no boundary
    window = np.array([[[0.0, 8.0], [-8.0, 8.0]]] * 2)
    found = fractal.magnified(window, cells, 4.0)
    np.testing.assert_allclose(found[0], [[4.5 - 1, 4.5 + 1], [-3 - 2, -3 + 2]])
    np.testing.assert_allclose(found[1], [[3.0, 5.0], [-2.0, 2.0]])


def test_map_holds_each_points_own_training(ds, task, double):
    """At rates given in decades; ten steps of chaos cost less than 1e-6 of a double's 1e-16."""
    for model, zoom, i, j in [("tanh", 0, 3, 20), ("relu", 0, 9, 8), ("linearised", 1, 30, 2)]:
        low, high = ds["window"].sel(model=model, zoom=zoom).isel(network=1).values.T
        rates = 10.0 ** (low + np.array([i, j]) / 32 * (high - low))
        predict, start, targets = fractal.network_of(task, model, 1)

        def loss(params, predict=predict, targets=targets):
            return jnp.mean((predict(params) - targets) ** 2)

        found = ds["measure"].sel(model=model, zoom=zoom).isel(network=1).values[i, j]
        alone = fractal.convergence(loss, start, jnp.asarray(rates), CONFIG.num_steps)
        np.testing.assert_allclose(found, alone, rtol=1e-6)


def test_both_precisions_train_the_same_networks(ds):
    converging = ds["measure"].sel(model="tanh").isel(input_position=0, readout_position=0, zoom=0)
    single = ds["float32_measure"].isel(input_position=0, readout_position=0, zoom=0)
    assert single.dtype == np.float32
    # 25 losses of a stable training, each with an error of some 1e-6
    np.testing.assert_allclose(single, converging, rtol=1e-4)


def test_every_claim_measures_and_the_controls_hold(ds):
    found = {claim.statement: claim.check(ds) for claim in fractal.CLAIMS}
    assert all(np.isfinite(each.value) for each in found.values())
    controls = [each.holds for statement, each in found.items() if "Control" in statement]
    assert controls == [True, True]


def test_precision_tells_points_at_the_boundary_from_those_off_it(ds):
    shifted = ds.assign(float32_measure=-ds["measure"].sel(model="tanh"))
    at, off = fractal.precision(shifted)
    np.testing.assert_array_equal(xr.concat([at, off], "where"), 1.0)
    at, off = fractal.precision(ds.assign(float32_measure=ds["measure"].sel(model="tanh")))
    np.testing.assert_array_equal(xr.concat([at, off], "where"), 0.0)


def test_figure_draws_every_map(ds):
    fig = fractal.figure(ds)
    assert len(fig.axes) == 8
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)
    assert sum(len(ax.images) for ax in fig.axes) == 7


def test_shades_keep_the_side_and_the_order():
    shades = fractal._shades(np.array([[-30.0, -2.0], [5.0, 70.0]]))
    assert shades.tolist() == [[-1.0, -0.625], [0.625, 1.0]]


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("fractal") == []
