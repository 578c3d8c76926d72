"""Build a `Dataset` from a pair of arrays: check them, split them, standardise them.

Host side and numpy only: it runs once, before any tracing. The contract of what comes out:

- `x` is float32 `[batch, ...]`.
- `y` is int32 `[batch]` (classes `0..C-1`) or float32 `[batch, out]` (real targets).
- Every class is in every split, in the proportion it has in the whole set.
- Each split is in a random order in which the classes take turns, so that any prefix is both a
  random and a nearly balanced sample: training sets of different sizes are nested.
- Whatever is fitted (the standardisation) is fitted on the training examples alone.

It does not augment and does not stream: a task is arrays that fit in memory.
"""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from jaxnn.data.checks import checked_seed
from jaxnn.data.splits import shuffle, split
from jaxnn.types import Batch, Dataset

STANDARDIZE = ("feature", "global", None)
"""What `standardize` may be."""

CHUNK = 2**16  # numbers that are held in float64 at a time: they fit a core's cache


class Split(TypedDict, total=False):
    """The sizes of the splits, as `dataset` takes them."""

    validation: float
    test: float


def dataset(
    x: ArrayLike,
    y: ArrayLike,
    *,
    validation: float = 0.15,
    test: float | tuple[ArrayLike, ArrayLike] = 0.15,
    standardize: str | None = "feature",
    seed: int = 0,
) -> Dataset:
    """Split and standardise arrays into a task that `fit` and `sweep` take.

    With the mean `m` and standard deviation `s` of the training split, inputs become `(x - m) / s`.
    `standardize="feature"` takes `m` and `s` for each feature: right for columns with units of
    their own. `"global"` takes one `m` and one `s` over all examples and features: right for
    images, where a pixel that is lit in few images has a tiny `s` of its own and would become an
    outlier of tens of standard deviations. Both give training inputs of second moment 1, the `q0`
    that mean-field theory starts from. A feature that is constant in training keeps `s = 1` and
    becomes 0. Targets are never changed.

    Args:
        x: `[example, ...]` real inputs, all finite.
        y: `[example]` integer classes `0..C-1`, or `[example, out]` floating-point targets.
        validation: fraction of the examples (of each class) for validation, above 0.
        test: fraction of the examples (of each class) for the test split, above 0; or the test
            examples themselves, a pair `(x, y)`, where a task comes with its own.
        standardize: `"feature"`, `"global"` or `None` (inputs as they are).
        seed: non-negative integer that decides who is in which split, and the order.

    Returns:
        A `Dataset` of numpy arrays with `num_train=None`. Each class has
        `round(fraction * its count)` examples in validation and in test.

    Raises:
        ValueError: an argument breaks the contract above; the message names it and the fix.

    Example:
        >>> import numpy as np
        >>> task = dataset(np.arange(80.0).reshape(40, 2), np.arange(40) % 2, seed=1)
        >>> task.train.x.shape, task.validation.y.shape, task.test.y.shape
        ((28, 2), (6,), (6,))
        >>> [int(label) for label in np.bincount(task.train.y[:14])]
        [7, 7]
    """
    x, y = _checked_arrays("x", x, "y", y)
    _check_classes(y)
    given = _checked_test(test, x, y) if isinstance(test, tuple) else None
    fraction = 0.0 if isinstance(test, tuple) else test
    _check_fractions(validation, fraction, given is not None)
    if standardize not in STANDARDIZE:
        raise ValueError(f"standardize must be one of {STANDARDIZE}, got {standardize!r}")
    generator = np.random.default_rng(checked_seed(seed))
    train, held_out, unseen = split(_strata(y), validation, fraction, generator)
    test_x, test_y = (x, y) if given is None else given
    unseen = unseen if given is None else shuffle(_strata(test_y), generator)
    moments = _moments(x, train, standardize)
    return Dataset(
        _batch(x, y, train, *moments),
        _batch(x, y, held_out, *moments),
        _batch(test_x, test_y, unseen, *moments),
    )


def _checked_arrays(
    x_name: str, x: ArrayLike, y_name: str, y: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Return x as it is and y in its final dtype, or say what is wrong with them."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "biuf" or x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"{x_name} must be a non-empty array of real numbers [example, ...], got shape "
            f"{x.shape} and dtype {x.dtype}; for one number an example give x[:, None]"
        )
    if y.ndim == 0 or len(x) != len(y):
        raise ValueError(
            f"{x_name} and {y_name} must have one row for each example, got {x_name} of shape "
            f"{x.shape} and {y_name} of shape {y.shape}"
        )
    _check_finite(x_name, x)
    return x, _checked_targets(y_name, y)


def _checked_targets(name: str, y: np.ndarray) -> np.ndarray:
    """Return integer classes as int32 [example], real targets as float32 [example, out]."""
    if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] > 0:
        _check_finite(name, y)
        return y.astype(np.float32)
    if y.dtype.kind not in "biu" or y.ndim != 1:
        raise ValueError(
            f"{name} must be integer classes [example] or floating-point targets [example, out], "
            f"got shape {y.shape} and dtype {y.dtype}; for classes give y.astype(int) (one-hot: "
            "y.argmax(1)), for regression y.astype(float) with two axes (y[:, None])"
        )
    return y.astype(np.int32)


def _check_classes(y: np.ndarray) -> None:
    present = np.unique(y)
    if y.ndim == 1 and not np.array_equal(present, np.arange(len(present))):
        raise ValueError(
            f"y must hold the classes 0..C-1, each at least once, got {len(present)} classes from "
            f"{present[0]} to {present[-1]}; renumber them by np.unique(y, return_inverse=True)[1]"
        )


def _checked_test(
    test: tuple[ArrayLike, ArrayLike], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the given test examples, or say how they differ from the others."""
    if len(test) != 2:
        raise ValueError(f"test must be a fraction or a pair (x, y), got {len(test)} entries")
    test_x, test_y = _checked_arrays("test x", test[0], "test y", test[1])
    alike = test_x.shape[1:] == x.shape[1:] and test_y.shape[1:] == y.shape[1:]
    if not alike or test_y.dtype != y.dtype:
        raise ValueError(
            f"test must hold examples like the others: x of shape {x.shape[1:]} and y of shape "
            f"{y.shape[1:]} and dtype {y.dtype} each, got x of shape {test_x.shape[1:]} and y of "
            f"shape {test_y.shape[1:]} and dtype {test_y.dtype} each"
        )
    if y.ndim == 1 and not 0 <= test_y.min() <= test_y.max() <= y.max():
        raise ValueError(
            f"test y must hold classes from 0 to {y.max()}, those of y, got {test_y.min()} to "
            f"{test_y.max()}"
        )
    return test_x, test_y


def _check_finite(name: str, values: np.ndarray) -> None:
    if values.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32)).reshape(len(values), -1)
    bad = np.logical_not(finite.all(axis=1))
    if bad.any():
        raise ValueError(
            f"{name} must be finite in float32, got NaN or Inf in {bad.sum()} of {len(bad)} "
            f"examples, the first at index {bad.argmax()}; drop or impute them"
        )


def _check_fractions(validation: float, test: float, given: bool) -> None:
    if not (0 < validation < 1 and (given or 0 < test < 1) and validation + test < 1):
        raise ValueError(
            "validation and test must be fractions above 0 that leave some examples for training "
            f"(validation + test < 1), got validation={validation} and test={test}"
        )


def _strata(y: np.ndarray) -> np.ndarray:
    """Return the classes; of real targets, one stratum."""
    return y if y.ndim == 1 else np.zeros(len(y), np.int32)


def _moments(
    x: np.ndarray, rows: np.ndarray, standardize: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation of some rows to standardise by, in float64."""
    if standardize is None:
        return np.zeros(()), np.ones(())
    axis = 0 if standardize == "feature" else None
    count = len(rows) if standardize == "feature" else len(rows) * x[0].size
    used = x[rows]
    mean = sum(chunk.sum(axis) for chunk in _chunks(used)) / count
    variance = sum(((chunk - mean) ** 2).sum(axis) for chunk in _chunks(used)) / count
    varies = used.max(axis) > used.min(axis)
    return np.asarray(mean), np.where(varies, np.sqrt(variance), 1.0)


def _chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield all examples in float64, some at a time: images of bytes would be 8 times as large."""
    num_rows = max(1, CHUNK // x[0].size)
    for start in range(0, len(x), num_rows):
        yield x[start : start + num_rows].astype(np.float64)


def _batch(
    x: np.ndarray, y: np.ndarray, rows: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> Batch:
    """Return some examples, their inputs standardised: numpy's arrays until a run takes them."""
    inputs, filled = np.empty((len(rows), *x.shape[1:]), np.float32), 0
    for chunk in _chunks(x[rows]):
        inputs[filled : filled + len(chunk)] = (chunk - mean) / std
        filled += len(chunk)
    return Batch(inputs, y[rows])  # pyright: ignore[reportArgumentType]
