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

import operator
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from jaxnn.types import Batch, Dataset

STANDARDIZE = ("feature", "global", None)
"""What `standardize` may be."""


def dataset(
    x: ArrayLike,
    y: ArrayLike,
    *,
    validation: float = 0.15,
    test: float = 0.15,
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
        test: fraction of the examples (of each class) for the test split, above 0.
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
    x, y = _checked_arrays(x, y)
    _check_fractions(validation, test)
    if standardize not in STANDARDIZE:
        raise ValueError(f"standardize must be one of {STANDARDIZE}, got {standardize!r}")
    generator = np.random.default_rng(_checked_seed(seed))
    strata = y if y.ndim == 1 else np.zeros(len(y), np.int32)  # real targets: one stratum
    parts = _split(strata, validation, test, generator)
    mean, std = _moments(x[parts[0]], standardize)
    inputs = [((x[part] - mean) / std).astype(np.float32) for part in parts]
    train, held_out, unseen = (  # numpy's arrays until a run takes them to its device
        Batch(part_x, y[part])  # pyright: ignore[reportArgumentType]
        for part_x, part in zip(inputs, parts, strict=True)
    )
    return Dataset(train, held_out, unseen)


def _checked_arrays(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return x in float64 and y in its final dtype, or say what is wrong with them."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "biuf" or x.ndim < 2 or x.size == 0:
        raise ValueError(
            f"x must be a non-empty array of real numbers [example, ...], got shape {x.shape} and "
            f"dtype {x.dtype}; for one number an example give x[:, None]"
        )
    if y.ndim == 0 or len(x) != len(y):
        raise ValueError(
            f"x and y must have one row for each example, got x of shape {x.shape} and y of shape "
            f"{y.shape}"
        )
    _check_finite("x", x)
    return x.astype(np.float64), _checked_targets(y)


def _checked_targets(y: np.ndarray) -> np.ndarray:
    """Return integer classes as int32 [example], real targets as float32 [example, out]."""
    if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] > 0:
        _check_finite("y", y)
        return y.astype(np.float32)
    if y.dtype.kind not in "biu" or y.ndim != 1:
        raise ValueError(
            "y must be integer classes [example] or floating-point targets [example, out], got "
            f"shape {y.shape} and dtype {y.dtype}; for classes give y.astype(int) (one-hot: "
            "y.argmax(1)), for regression y.astype(float) with two axes (y[:, None])"
        )
    present = np.unique(y)
    if not np.array_equal(present, np.arange(len(present))):
        raise ValueError(
            f"y must hold the classes 0..C-1, each at least once, got {len(present)} classes from "
            f"{present[0]} to {present[-1]}; renumber them by np.unique(y, return_inverse=True)[1]"
        )
    return y.astype(np.int32)


def _check_finite(name: str, values: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32)).reshape(len(values), -1)
    bad = np.logical_not(finite.all(axis=1))
    if bad.any():
        raise ValueError(
            f"{name} must be finite in float32, got NaN or Inf in {bad.sum()} of {len(bad)} "
            f"examples, the first at index {bad.argmax()}; drop or impute them"
        )


def _check_fractions(validation: float, test: float) -> None:
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise ValueError(
            "validation and test must be fractions above 0 that leave some examples for training "
            f"(validation + test < 1), got validation={validation} and test={test}"
        )


def _checked_seed(seed: int) -> int:
    try:
        if (number := operator.index(seed)) >= 0:
            return number
    except TypeError:
        pass
    raise ValueError(f"seed must be a non-negative integer, got {seed!r}")


def _split(
    strata: np.ndarray, validation: float, test: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices of the training, validation and test examples, each in turns by class."""
    cuts = [_cut(rows, validation, test) for rows in _shuffled_strata(strata, generator)]
    train, held_out, unseen = (_in_turns(part, generator) for part in zip(*cuts, strict=True))
    return train, held_out, unseen


def _shuffled_strata(strata: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the shuffled row numbers of each class."""
    for stratum in range(strata.max() + 1):
        yield generator.permutation(np.flatnonzero(strata == stratum))


def _cut(rows: np.ndarray, validation: float, test: float) -> tuple[np.ndarray, ...]:
    """Cut the rows of one class into training, validation and test."""
    num_validation, num_test = round(validation * len(rows)), round(test * len(rows))
    num_train = len(rows) - num_validation - num_test
    if min(num_train, num_validation, num_test) < 1:
        raise ValueError(
            "validation and test must leave every class at least one example in each split, got "
            f"{num_train} training, {num_validation} validation and {num_test} test examples of a "
            f"class that has {len(rows)}; give more examples or larger fractions"
        )
    return rows[:num_train], rows[num_train : num_train + num_validation], rows[-num_test:]


def _in_turns(strata: tuple[np.ndarray, ...], generator: np.random.Generator) -> np.ndarray:
    """Merge the classes evenly: example i of n in its class stands at (i + 1/2) / n of the order.

    Up to any point t each class has shown t n of its n examples, within 1/2. Ties are broken at
    random, so that balanced classes come in blocks of C with one example each, in random order.
    """
    rows = np.concatenate(strata)
    place = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in strata])
    return rows[np.lexsort((generator.random(len(rows)), place))]


def _moments(x: np.ndarray, standardize: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation to standardise by, in float64."""
    if standardize is None:
        return np.zeros(()), np.ones(())
    axis = 0 if standardize == "feature" else None
    return x.mean(axis), np.where(np.ptp(x, axis) > 0, x.std(axis), 1.0)
