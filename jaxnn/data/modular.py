"""Modular arithmetic: the whole table of an operation, part of it held out (the task of grokking).

Split by JAX from a key, which may be traced, so a sweep can give each member a split of its own.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.data.checks import check_counts
from jaxnn.data.splits import cut
from jaxnn.types import Dataset

OPERATIONS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "add": lambda a, b, modulus: (a + b) % modulus,
    "subtract": lambda a, b, modulus: (a - b) % modulus,
    "multiply": lambda a, b, modulus: a * b % modulus,
    "divide": lambda a, b, modulus: a * _inverses(modulus)[b] % modulus,
}
"""`(a [pair], b [pair], modulus) -> [pair]`, the table's answers."""


def modular_arithmetic(
    key: Array,
    modulus: int = 97,
    operation: str = "divide",
    *,
    train_fraction: float = 0.5,
    flat: bool = True,
) -> Dataset:
    """Make the table of `a o b mod p` for all pairs, and split it at random.

    There are p^2 pairs; division leaves out b = 0, so it has p (p - 1). The pairs that are not for
    training are halved into validation and test. The training pairs are in random order: to sweep
    over the fraction in one program, take the largest and use `with_train_size`, which also leaves
    the held-out pairs the same for all.

    Args:
        key: decides the split and the order; may be traced.
        modulus: prime p.
        operation: 'add', 'subtract', 'multiply' or 'divide'.
        train_fraction: part of all pairs that is for training, in (0, 1).
        flat: inputs are `[batch, 2 p]`, the one-hot a beside the one-hot b; if False, two tokens
            `[batch, 2, p]`.

    Returns:
        A `Dataset` with float32 inputs and the answers as classes, int32 `[batch]` in `[0, p)`.

    Raises:
        ValueError: p is no prime, the operation is unknown, or the fraction leaves a split empty.

    Source:
        A. Power et al. (2022), Grokking, arXiv:2201.02177, appendix A.1.1; A. Gromov (2023),
        arXiv:2301.02679 (one-hot pairs).

    Example:
        >>> task = modular_arithmetic(jax.random.key(0), 5, "add")
        >>> task.train.x.shape, task.validation.y.shape, task.test.y.shape
        ((12, 10), (6,), (7,))
    """
    check_counts(2, modulus=modulus)
    if any(modulus % divisor == 0 for divisor in range(2, int(modulus**0.5) + 1)):
        raise ValueError(f"modulus must be a prime, got {modulus}")
    if operation not in OPERATIONS:
        raise ValueError(f"operation must be one of {tuple(OPERATIONS)}, got {operation!r}")
    num_pairs = modulus * (modulus - (operation == "divide"))
    num_train = round(train_fraction * num_pairs)
    if not 1 <= num_train <= num_pairs - 2:
        raise ValueError(
            f"train_fraction must leave each split some of the {num_pairs} pairs, got "
            f"{train_fraction}, which is {num_train} for training"
        )
    return _table(key, modulus, operation, num_train, flat)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _table(key: Array, modulus: int, operation: str, num_train: int, flat: bool) -> Dataset:
    first, second = np.divmod(np.arange(modulus**2, dtype=np.int32), modulus)
    if operation == "divide":
        first, second = first[second > 0], second[second > 0]
    answers = OPERATIONS[operation](first, second, modulus).astype(np.int32)
    order = jax.random.permutation(key, len(answers))
    pairs = jnp.stack([first, second], axis=1)[order]
    x = jax.nn.one_hot(pairs, modulus, dtype=jnp.float32)
    x = x.reshape(len(answers), 2 * modulus) if flat else x
    y = jnp.asarray(answers)[order]
    return cut(x, y, num_train)


def _inverses(modulus: int) -> np.ndarray:
    """Return b^-1 mod p at place b, [p]; at 0, which has none, 0."""
    return np.array([0, *(pow(b, -1, modulus) for b in range(1, modulus))])
