"""Who is in which split, in what order: strata that take turns, and cuts of drawn examples.

Every split comes out in a random order in which the strata take turns, so that any prefix is both a
random and a nearly balanced sample.
"""

from collections.abc import Iterator

import numpy as np
from jax import Array

from jaxnn.types import Batch, Dataset


def split(
    strata: np.ndarray, validation: float, test: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of the training, validation and test examples, each in turns by stratum.

    Args:
        strata: `[example]` integers from 0.
        validation: fraction of each stratum for validation, above 0.
        test: fraction of each stratum for test; 0: none.
        generator: decides the split and the order.

    Raises:
        ValueError: a stratum would be missing in a split.
    """
    cuts = [_cut(rows, validation, test) for rows in _shuffled_strata(strata, generator)]
    train, held_out, unseen = (_in_turns(part, generator) for part in zip(*cuts, strict=True))
    return train, held_out, unseen


def shuffle(strata: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the rows of all examples in random order, in turns by stratum."""
    return _in_turns(tuple(_shuffled_strata(strata, generator)), generator)


def cut(x: Array, y: Array, num_train: int) -> Dataset:
    """Cut examples in random order into training, and halve the others to validation and test."""
    middle = (num_train + len(x)) // 2
    return Dataset(
        Batch(x[:num_train], y[:num_train]),
        Batch(x[num_train:middle], y[num_train:middle]),
        Batch(x[middle:], y[middle:]),
    )


def _shuffled_strata(strata: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the shuffled row numbers of each class."""
    for stratum in range(strata.max() + 1):
        yield generator.permutation(np.flatnonzero(strata == stratum))


def _cut(rows: np.ndarray, validation: float, test: float) -> tuple[np.ndarray, ...]:
    """Cut the rows of one class into training, validation and test."""
    num_validation, num_test = round(validation * len(rows)), round(test * len(rows))
    num_train = len(rows) - num_validation - num_test
    if min(num_train, num_validation) < 1 or (test > 0 and num_test < 1):
        raise ValueError(
            "validation and test must leave every class at least one example in each split, got "
            f"{num_train} training, {num_validation} validation and {num_test} test examples of a "
            f"class that has {len(rows)}; give more examples or larger fractions"
        )
    middle = num_train + num_validation
    return rows[:num_train], rows[num_train:middle], rows[middle:]


def _in_turns(strata: tuple[np.ndarray, ...], generator: np.random.Generator) -> np.ndarray:
    """Merge the classes evenly: example i of n in its class stands at (i + 1/2) / n of the order.

    Up to any point t each class has shown t n of its n examples, within 1/2. Ties are broken at
    random, so that balanced classes come in blocks of C with one example each, in random order.
    """
    rows = np.concatenate(strata)
    place = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in strata])
    return rows[np.lexsort((generator.random(len(rows)), place))]
