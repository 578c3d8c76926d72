"""Networks known in closed form: one that memorises anything, one that adds modulo p.

The first shows that fitting random labels is no feat: `2n + d` numbers suffice. The second is a
solution that generalises, to which networks that grok are compared.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Memoriser(NamedTuple):
    """A network of n ReLU units that share their input weights: `2n + d` numbers."""

    direction: np.ndarray  # [input] of every unit
    thresholds: np.ndarray  # [unit]
    weights: np.ndarray  # [unit] of the readout


def memorise(x: np.ndarray, y: np.ndarray, direction: np.ndarray) -> Memoriser:
    """Build a network of one hidden ReLU layer that maps each example to its target exactly.

    `f(x) = sum_j w_j max(<a, x> - b_j, 0)`. Along the direction a the examples are a sequence; each
    threshold is the projection before, which makes the system for w triangular, and its solution
    the change of slope of the line through the examples. Computed on the host in float64: slopes
    are as steep as the projections are close.

    Args:
        x: `[example, input]`.
        y: `[example]` any targets.
        direction: `[input]` a; a random one separates distinct examples with probability 1.

    Returns:
        The network; evaluate it by `recall`.

    Raises:
        ValueError: two examples have the same projection.

    Source: Zhang et al., 2017, arXiv:1611.03530, theorem 1, with thresholds that let w be written
        down.
    """
    x, y, direction = (np.asarray(each, float) for each in (x, y, direction))
    projections = x @ direction
    order = np.argsort(projections)
    sequence = projections[order]
    gaps = np.diff(sequence, prepend=sequence[0] - 1)
    if np.any(gaps <= 0):
        raise ValueError(
            "direction: expected one along which all examples differ, got one that projects two "
            "to the same number; draw another, and take out equal examples"
        )
    slopes = np.diff(y[order], prepend=0.0) / gaps
    return Memoriser(direction, sequence - gaps, np.diff(slopes, prepend=0.0))


def recall(memoriser: Memoriser, x: np.ndarray) -> np.ndarray:
    """Evaluate a memoriser: `[example, input]` to `[example]`, in float64.

    Example:
        >>> x, y = np.array([[0.0], [1.0], [3.0]]), np.array([5.0, -1.0, 2.0])
        >>> recall(memorise(x, y, np.ones(1)), x).tolist()
        [5.0, -1.0, 2.0]
    """
    projections = np.asarray(x, float) @ memoriser.direction
    active = np.maximum(projections[:, None] - memoriser.thresholds, 0)
    return active @ memoriser.weights


def modular_addition(key: Array, modulus: int, width: int) -> tuple[Array, Array]:
    """Write down a network of one hidden layer of squares that adds two numbers modulo p.

    Unit k computes `(cos(2 pi f_k n / p + u_k) + cos(2 pi f_k m / p + v_k))^2` and answers q with
    weight `cos(2 pi f_k q / p + u_k + v_k)`. The terms that agree are those with q = n + m; random
    phases u, v average out all others. Frequencies run through 1 to (p-1)/2 in random order, again
    and again. For p = 97 some 70% of sums are right at 32 units, 95% at 64, all at 256.

    Args:
        key: of the phases and the order of frequencies.
        modulus: p, odd.
        width: the units.

    Returns:
        `(first [2 p, width], readout [width, p])`, for inputs that are two one-hot vectors after
        one another: `logits = (x @ first)**2 @ readout`.

    Raises:
        ValueError: a modulus that is even or below 3.

    Source: Gromov, 2023, arXiv:2301.02679.
    """
    if modulus < 3 or modulus % 2 == 0:
        raise ValueError(f"modulus: expected an odd number of 3 or more, got {modulus}")
    order_key, phase_key = jax.random.split(key)
    distinct = jax.random.permutation(order_key, (modulus - 1) // 2) + 1
    frequencies = jnp.resize(distinct, (width,))
    numbers = jnp.arange(modulus)
    turns = numbers[:, None] * frequencies[None, :] % modulus  # exact: integers
    angles = 2 * jnp.pi / modulus * turns.astype(float)
    phases = jax.random.uniform(phase_key, (2, 1, width), maxval=2 * jnp.pi)
    first = jnp.concatenate([jnp.cos(angles + phases[0]), jnp.cos(angles + phases[1])])
    return first, jnp.cos(angles + phases[0] + phases[1]).T
