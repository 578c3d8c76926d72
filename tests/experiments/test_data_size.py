"""The data-size study: its fits against plain numpy, its claims on datasets made of the theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import data_size

SIZES, USED = np.array([5, 10, 20, 30, 40, 60]), np.array([10, 20, 40])
SPECTRUM, MNIST, STEPS = np.array([20, 40, 80]), np.array([50, 200, 800, 3200]), np.arange(11)


def made_up(seed=0):
    """A dataset whose measurements are the theory's, with a noise of 1% over seeds."""
    generator = np.random.default_rng(seed)

    def noisy(values, num=16):
        return np.asarray(values) * (1 + 0.01 * generator.standard_normal((num, *np.shape(values))))

    grid = xr.Dataset(
        coords={"regression_size": SIZES, "regression_used": USED},
        attrs={"regression_features": 40, "regression_noise": 0.5},
    )
    excess = data_size.regression_theory(grid).fillna(20.0)
    growth = np.array([0.1, 1.0, 0.2])[:, None] * STEPS  # by examples 25, 50, 100
    student = 1.0 + growth
    power = np.stack([SPECTRUM**-0.5, SPECTRUM**-1.0], axis=1)
    wrong = 2.0 * MNIST**-0.5 + 0.01
    accuracy = np.stack([0.1 + 0 * noisy(wrong), 1.0 - noisy(wrong)], axis=1)
    seeds = [f"{name}_seed" for name in ("regression", "student", "spectrum", "mnist")]
    students, spectra = ("student_size", "student_step"), ("spectrum_size", "spectrum_exponent")
    return xr.Dataset(
        {
            "regression_excess": ((seeds[0], *excess.dims), noisy(excess)),
            "student_validation_loss": ((seeds[1], *students), noisy(student) / 2),
            "student_theory": ((seeds[1], *students), np.stack([student] * 16)),
            "spectrum_error": ((seeds[2], *spectra), noisy(power)),
            "spectrum_theory": (
                (seeds[2], *spectra),
                np.stack([power] * 16),
            ),
            "mnist_validation_accuracy": ((seeds[3], "mnist_step", "mnist_size"), accuracy),
        },
        {
            **grid.coords,
            "student_size": [25, 50, 100],
            "student_step": STEPS,
            "spectrum_size": SPECTRUM,
            "spectrum_exponent": [0.5, 1.0],
            "mnist_size": MNIST,
            "mnist_step": [0, 300],
        },
        {**grid.attrs, "student_features": 50, "student_rate": 0.01, "spectrum_features": 1000},
    )


@pytest.fixture(scope="module")
def ds():
    return made_up()


def failing(ds):
    found = [claim.check(ds).holds for claim in data_size.CLAIMS]
    return [place for place, holds in enumerate(found) if not holds]


def test_claims_hold_on_the_theory(ds):
    assert failing(ds) == []


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("regression_excess", lambda each: 1.2 * each, [0, 1, 2, 3]),
        ("regression_excess", lambda each: each.clip(max=1.0), [1, 2, 3, 4]),
        ("student_validation_loss", lambda each: 1.2 * each, [5]),
        ("student_validation_loss", lambda each: 0 * each + 0.5, [5, 6]),
        ("spectrum_error", lambda each: 1.2 * each, [7]),
        ("spectrum_error", lambda each: each * (each["spectrum_size"] / 40) ** 0.2, [8]),
        ("mnist_validation_accuracy", lambda each: 1 - (1 - each) ** 3, [10]),
        (
            "mnist_validation_accuracy",
            lambda each: 1 - abs(np.sin(each["mnist_size"])) * (1 - each),
            [9],
        ),
    ],
)
def test_claims_fail_on_other_numbers(ds, name, change, expected):
    found = failing(ds.assign({name: change(ds[name]).transpose(*ds[name].dims)}))
    assert set(expected) <= set(found) <= {*expected, 9, 10}


def test_regression_theory_is_the_textbook_formula(ds):
    theory = data_size.regression_theory(ds)
    noise = 0.25
    at = {"regression_size": 60, "regression_used": 40}
    # to the digits of a float32, of which the noise is taken off
    assert float(theory.sel(at)) == pytest.approx(noise * 40 / (60 - 40 - 1), rel=1e-5)
    at = {"regression_size": 30, "regression_used": 40}
    assert float(theory.sel(at)) == pytest.approx(0.25 + noise * 30 / 9, rel=1e-5)
    assert np.isnan(theory.sel(regression_size=40, regression_used=40))


def test_minimum_norm_equals_numpy_on_the_part_in_use():
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((12, 8)), generator.standard_normal(12)
    found = jax.jit(data_size.minimum_norm)
    for size, used in [(12, 8), (5, 8), (10, 3)]:
        expected = np.zeros(8)
        expected[:used] = np.linalg.lstsq(x[:size, :used], y[:size])[0]
        given = (jnp.float32(x), jnp.float32(y), jnp.int32(size), jnp.int32(used))
        # float32 and a squared condition number of some 1e2
        np.testing.assert_allclose(found(*given), expected, atol=1e-3)


def test_power_law_is_found_again():
    sizes = np.geomspace(50, 3200, 7)
    (factor, exponent, floor), explained = data_size.power_law(sizes, 2.0 * sizes**-0.6 + 0.01)
    assert (factor, exponent, floor) == pytest.approx((2.0, 0.6, 0.01), rel=1e-3)
    assert explained == pytest.approx(1.0)


def test_slope_is_the_exponent():
    errors = xr.DataArray(3.0 * SPECTRUM**-0.7, {"size": SPECTRUM}, ("size",))
    assert float(data_size.slope(errors, "size")) == pytest.approx(-0.7)


def test_figure_draws_and_labels_every_panel(ds):
    fig = data_size.figure(ds)
    drawn = [ax for ax in fig.axes if ax.get_title()]
    assert len(drawn) == 6
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in drawn)
    assert "16 regression" in fig.get_suptitle()
