"""The data-size study: its fits on exact power laws, its claims on a dataset made of the theory."""

import numpy as np
import pytest
import xarray as xr

from experiments import data_size

SPECTRUM, MNIST = np.array([20, 40, 80]), np.array([50, 200, 800, 3200])


@pytest.fixture(scope="module")
def ds():
    """A dataset whose measurements are the theory's, with a noise of 1% over seeds."""
    generator = np.random.default_rng(0)

    def noisy(values, num=8):
        return values * (1 + 0.01 * generator.standard_normal((num, *values.shape)))

    power = np.stack([SPECTRUM**-0.5, SPECTRUM**-1.0], axis=1)
    accuracy = np.stack([np.full((8, 4), 0.1), 1.0 - noisy(2.0 * MNIST**-0.5 + 0.01)], axis=1)
    spectrum = ("spectrum_seed", "spectrum_size", "spectrum_exponent")
    return xr.Dataset(
        {
            "spectrum_error": (spectrum, noisy(power)),
            "spectrum_theory": (spectrum, np.stack([power] * 8)),
            "mnist_validation_accuracy": (("mnist_seed", "mnist_step", "mnist_size"), accuracy),
        },
        {
            "spectrum_size": SPECTRUM,
            "spectrum_exponent": [0.5, 1.0],
            "mnist_size": MNIST,
            "mnist_step": [0, 300],
        },
        {"spectrum_features": 1000},
    )


def failing(ds):
    found = [claim.check(ds).holds for claim in data_size.CLAIMS]
    return [place for place, holds in enumerate(found) if not holds]


def test_claims_hold_on_the_theory(ds):
    assert failing(ds) == []


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("spectrum_error", lambda each: 1.2 * each, [0]),
        ("spectrum_error", lambda each: each * (each["spectrum_size"] / 40) ** 0.2, [1]),
        (
            "mnist_validation_accuracy",
            lambda each: 1 - (1 - each) * xr.where(each["mnist_size"] == 800, 2.5, 1.0),
            [2],
        ),
        ("mnist_validation_accuracy", lambda each: 1 - (1 - each) ** 3, [3]),
    ],
)
def test_claims_fail_on_other_numbers(ds, name, change, expected):
    assert failing(ds.assign({name: change(ds[name]).transpose(*ds[name].dims)})) == expected


def test_power_law_is_found_again():
    sizes = np.geomspace(50, 3200, 7)
    errors = xr.DataArray(2.0 * sizes**-0.6 + 0.01, {"size": sizes}, ("size",))
    (factor, exponent, floor), explained = data_size.power_law(errors)
    assert (factor, exponent, floor) == pytest.approx((2.0, 0.6, 0.01), rel=1e-3)
    assert explained == pytest.approx(1.0)


def test_slope_is_the_exponent():
    errors = xr.DataArray(3.0 * SPECTRUM**-0.7, {"size": SPECTRUM}, ("size",))
    assert float(data_size.slope(errors)) == pytest.approx(-0.7)


def test_figure_draws_and_labels_both_panels(ds):
    axes = data_size.figure(ds).axes
    assert len(axes) == 2
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes)
    assert all("8 seeds" in ax.get_title() for ax in axes)


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("data_size") == []
