"""Tasks that need memory: sequences whose answer depends on inputs long past.

Drawn by JAX from a key, so a sweep can draw each member's own task inside its program. The
contract: inputs are float32 `[batch, time, feature]`; examples are independent, so any prefix of
the training set is a fair sample. Beside each task stands the exact loss of the best answer that
remembers nothing: a network that is not below it has learnt nothing of the dependence, and one
below it at the start has a fault in its loss or its mask.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.data.checks import check_counts
from jaxnn.data.splits import cut
from jaxnn.types import Dataset

NUM_DISTRACTORS = 4
NUM_MARKS = 2  # the symbols A and B of temporal order


def copy_memory(
    key: Array,
    delay: int,
    num_train: int = 5000,
    *,
    num_symbols: int = 8,
    length: int = 10,
    num_held_out: int = 1000,
) -> Dataset:
    """Draw sequences to be repeated after a delay of T steps.

    A sequence is `length` random symbols, T - 1 blanks, a sign to start, and `length` blanks:
    `T + 2 length` steps in all. The target is blank for `T + length` steps, then the symbols in
    their order. Inputs are one-hot over the symbols, the blank (class `num_symbols`) and the sign
    (the class after it).

    Args:
        key: draws the symbols; may be traced.
        delay: T, steps from the end of the symbols to where they are to be repeated.
        num_train: training sequences.
        num_symbols: different symbols, each equally likely.
        length: symbols to remember.
        num_held_out: sequences in validation, and in test.

    Returns:
        A `Dataset` with inputs `[batch, T + 2 length, num_symbols + 2]` and the class of every
        step, int32 `[batch, T + 2 length]`.

    Raises:
        ValueError: a size is no positive integer, or there are fewer than 2 symbols.

    Source:
        S. Hochreiter, J. Schmidhuber (1997), Long short-term memory; in the form of M. Arjovsky,
        A. Shah, Y. Bengio (2016), arXiv:1511.06464, section 5.1.
    """
    check_counts(delay=delay, length=length, num_train=num_train, num_held_out=num_held_out)
    check_counts(2, num_symbols=num_symbols)
    return _copy_memory(key, (num_train, num_held_out), delay, num_symbols, length)


def copy_memory_baseline(delay: int, *, num_symbols: int = 8, length: int = 10) -> float:
    """Return the least mean cross entropy of `copy_memory` without memory, in nats a step.

    `length ln(num_symbols) / (T + 2 length)`: the time is known, so the `T + length` blanks cost
    nothing, and each remembered symbol costs the entropy of a uniform guess.

    Source:
        M. Arjovsky, A. Shah, Y. Bengio (2016), arXiv:1511.06464, section 5.1: 10 ln 8 / (T + 20).

    Example:
        >>> round(copy_memory_baseline(100), 4)
        0.1733
    """
    return length * math.log(num_symbols) / (delay + 2 * length)


def adding(
    key: Array, num_steps: int, num_train: int = 5000, *, num_held_out: int = 1000
) -> Dataset:
    """Draw sequences of numbers of which two are marked; the target is the sum of these two.

    Feature 0 is uniform in [0, 1); feature 1 is 1 at the two marked steps and 0 elsewhere. One mark
    is uniform in the first half, `[0, T // 2)`, the other in the second, `[T // 2, T)`.

    Args:
        key: draws the numbers and the marks; may be traced.
        num_steps: length T of a sequence, at least 2.
        num_train: training sequences.
        num_held_out: sequences in validation, and in test.

    Returns:
        A `Dataset` with inputs `[batch, T, 2]` and targets float32 `[batch, 1]`.

    Raises:
        ValueError: a size is no positive integer, or T is below 2.

    Source:
        S. Hochreiter, J. Schmidhuber (1997), Long short-term memory; marks as in M. Arjovsky,
        A. Shah, Y. Bengio (2016), arXiv:1511.06464, section 5.2.
    """
    check_counts(2, num_steps=num_steps)
    check_counts(num_train=num_train, num_held_out=num_held_out)
    return _adding(key, (num_train, num_held_out), num_steps)


def adding_baseline() -> float:
    """Return the least mean squared error of `adding` for an answer that is always the same.

    1/6, the variance of a sum of two uniform numbers; the best constant is 1. (Of
    `squared_error`, which halves the square, 1/12.)

    Source:
        M. Arjovsky, A. Shah, Y. Bengio (2016), arXiv:1511.06464, section 5.2 (0.167).
    """
    return 1 / 6


def temporal_order(
    key: Array, num_steps: int, num_train: int = 5000, *, num_held_out: int = 1000
) -> Dataset:
    """Draw sequences to be classed by the order of two marks among distractors.

    One of the symbols A and B stands at a random step in `[0.1 T, 0.2 T)` and one in
    `[0.5 T, 0.6 T)` (rounded down), every other step is one of 4 distractors. The class is 0 for A
    then A, 1 for A then B, 2 for B then A, 3 for B then B; all are equally likely. Inputs are
    one-hot: A, B, then the distractors.

    Args:
        key: draws the symbols and their places; may be traced.
        num_steps: length T of a sequence, at least 10.
        num_train: training sequences.
        num_held_out: sequences in validation, and in test.

    Returns:
        A `Dataset` with inputs `[batch, T, 6]` and classes int32 `[batch]`.

    Raises:
        ValueError: a size is no positive integer, or T is below 10.

    Source:
        S. Hochreiter, J. Schmidhuber (1997), Long short-term memory, task 6a; places as in
        R. Pascanu, T. Mikolov, Y. Bengio (2013), arXiv:1211.5063, section 4.1.1.
    """
    check_counts(10, num_steps=num_steps)
    check_counts(num_train=num_train, num_held_out=num_held_out)
    return _temporal_order(key, (num_train, num_held_out), num_steps)


def temporal_order_baseline() -> float:
    """Return the least cross entropy of `temporal_order` without memory, in nats.

    ln 4: the last step is a distractor whatever the class, and the four classes are equally likely.
    """
    return math.log(NUM_MARKS**2)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _copy_memory(
    key: Array, sizes: tuple[int, int], delay: int, num_symbols: int, length: int
) -> Dataset:
    num_examples = sizes[0] + 2 * sizes[1]
    symbols = jax.random.randint(key, (num_examples, length), 0, num_symbols, jnp.int32)

    def constant(symbol: int, num_steps: int) -> Array:
        return jnp.full((num_examples, num_steps), symbol, jnp.int32)

    blank, sign = num_symbols, num_symbols + 1
    shown = [symbols, constant(blank, delay - 1), constant(sign, 1), constant(blank, length)]
    tokens = jnp.concatenate(shown, axis=1)
    targets = jnp.concatenate([constant(blank, delay + length), symbols], axis=1)
    return cut(jax.nn.one_hot(tokens, num_symbols + 2, dtype=jnp.float32), targets, sizes[0])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _adding(key: Array, sizes: tuple[int, int], num_steps: int) -> Dataset:
    num_examples = sizes[0] + 2 * sizes[1]
    value_key, first_key, second_key = jax.random.split(key, 3)
    values = jax.random.uniform(value_key, (num_examples, num_steps), jnp.float32)
    half = num_steps // 2
    first = _mark(first_key, num_examples, num_steps, 0, half)
    second = _mark(second_key, num_examples, num_steps, half, num_steps)
    marks = (first | second).astype(jnp.float32)
    targets = jnp.sum(values * marks, axis=1, keepdims=True)
    return cut(jnp.stack([values, marks], axis=-1), targets, sizes[0])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _temporal_order(key: Array, sizes: tuple[int, int], num_steps: int) -> Dataset:
    num_examples = sizes[0] + 2 * sizes[1]
    distractor_key, symbol_key, first_key, second_key = jax.random.split(key, 4)
    shape = (num_examples, num_steps)
    tokens = NUM_MARKS + jax.random.randint(distractor_key, shape, 0, NUM_DISTRACTORS, jnp.int32)
    symbols = jax.random.randint(symbol_key, (num_examples, 2), 0, NUM_MARKS, jnp.int32)
    tenth = [tenths * num_steps // 10 for tenths in range(7)]
    first = _mark(first_key, *shape, tenth[1], tenth[2])
    second = _mark(second_key, *shape, tenth[5], tenth[6])
    tokens = jnp.where(first, symbols[:, :1], jnp.where(second, symbols[:, 1:], tokens))
    x = jax.nn.one_hot(tokens, NUM_MARKS + NUM_DISTRACTORS, dtype=jnp.float32)
    return cut(x, NUM_MARKS * symbols[:, 0] + symbols[:, 1], sizes[0])


def _mark(key: Array, num_examples: int, num_steps: int, start: int, stop: int) -> Array:
    """Return True at one random step in [start, stop) of each example, [example, time]."""
    place = jax.random.randint(key, (num_examples, 1), start, stop, jnp.int32)
    return jnp.arange(num_steps, dtype=jnp.int32)[None] == place
