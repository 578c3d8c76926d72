"""Standard errors against their formulas, and the first time that something holds."""

import math

import numpy as np
import pytest
import xarray as xr

from jaxnn.report import first_where, jackknife, mean_and_error

VALUES = xr.DataArray([[1.0, 2.0], [3.0, 2.0], [8.0, 5.0]], dims=("seed", "cell"))


def test_mean_and_error_along_a_dimension():
    mean, error = mean_and_error(VALUES)
    np.testing.assert_allclose(mean, [4.0, 3.0])
    np.testing.assert_allclose(error, [(13.0 / 3.0) ** 0.5, 1.0])  # sqrt(26 / 2 / 3), sqrt(6 / 6)


def test_one_seed_has_no_error_and_a_nan_no_mean():
    mean, error = mean_and_error(VALUES.isel(seed=[0]))
    np.testing.assert_allclose(mean, [1.0, 2.0])
    assert error.isnull().all()
    assert mean_and_error(VALUES.where(VALUES < 8.0))[0].isnull().values.tolist() == [True, False]


def test_jackknife_of_a_mean_is_the_standard_error():
    column = VALUES.isel(cell=0)
    value, error = jackknife(column, lambda some: some.mean())
    mean, expected = mean_and_error(column)
    assert value == float(mean)
    assert error == pytest.approx(float(expected), rel=1e-12)


def test_jackknife_of_a_ratio_is_that_of_the_delta_method():
    """sqrt(a^2 + b^2 - 2 cov) relative; 400 seeds: the jackknife differs by O(1/n)."""
    rng = np.random.default_rng(0)
    above, below = 3.0 + rng.normal(size=400), 5.0 + rng.normal(size=400)
    ds = xr.Dataset({"above": ("run", above), "below": ("run", below)})
    ratio, error = jackknife(ds, lambda some: some["above"].mean() / some["below"].mean(), "run")
    means, covariance = (above.mean(), below.mean()), np.cov(above, below) / 400
    slopes = np.array([1.0 / means[1], -means[0] / means[1] ** 2])
    assert ratio == pytest.approx(means[0] / means[1])
    assert error == pytest.approx((slopes @ covariance @ slopes) ** 0.5, rel=0.01)


def test_jackknife_of_one_seed_has_no_error():
    value, error = jackknife(VALUES.isel(seed=[0], cell=0), lambda some: some.mean())
    assert value == 1.0
    assert math.isnan(error)


def test_first_where_is_the_coordinate_or_infinity():
    steps = {"step": [0, 10, 20]}
    low = xr.DataArray([[5.0, 1.0, 3.0], [5.0, 4.0, 3.0]], steps, ("seed", "step")) < 2.0
    assert first_where(low).values.tolist() == [10.0, math.inf]
