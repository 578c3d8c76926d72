"""Numbers over seeds: means with standard errors, a jackknife, the first time something holds."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


def mean_and_error(
    values: "xr.DataArray", over: str = "seed"
) -> "tuple[xr.DataArray, xr.DataArray]":
    """Return the mean along a dimension and its standard error, NaN of a single value.

    A NaN among the values gives NaN: drop members on purpose, not by accident.
    """
    count = values.sizes[over]
    if count == 1:
        mean = values.isel({over: 0}, drop=True)
        return mean, mean * np.nan
    mean = values.mean(over, skipna=False)
    return mean, values.std(over, ddof=1, skipna=False) / count**0.5


def jackknife(
    data: Any, statistic: Callable[[Any], Any], over: str = "seed"
) -> tuple[float, float]:
    """Return a statistic of all seeds, and its standard error from leaving out one at a time.

    For a mean this is the standard error of the mean; it holds for smooth functions of means
    (ratios, fitted slopes, correlations) and not for medians (Efron and Stein 1981).

    Args:
        data: an `xarray.Dataset` or `DataArray` with the dimension.
        statistic: from such data, with any number of seeds, to one number.
        over: the dimension of independent repetitions.

    Returns:
        The number, and its standard error; NaN where there is one seed.

    Example:
        >>> import numpy as np, xarray as xr
        >>> values = xr.DataArray([1.0, 2.0, 3.0], dims="seed")
        >>> value, error = jackknife(values, lambda some: some.mean())
        >>> value, round(error, 4)
        (2.0, 0.5774)
    """
    value, count = float(statistic(data)), data.sizes[over]
    if count == 1:
        return value, math.nan
    numbers = np.arange(count)
    left_out = [float(statistic(data.isel({over: numbers != each}))) for each in numbers]
    return value, float(np.std(left_out) * (count - 1) ** 0.5)


def first_where(condition: "xr.DataArray", along: str = "step") -> "xr.DataArray":
    """Return the first coordinate at which a condition holds, infinity where it never does."""
    return condition[along].where(condition, np.inf).min(along)
