"""Minibatches as pure functions of a key and a step.

The contract: nothing is stored between steps. The same key and step give the same batch, in jit,
vmap and scan, so a run resumes at any step without a loader to restore. Pass one sampling key for
the whole run and let the step count: the functions fold it in. `num_examples` may be traced, so one
compiled program serves every size of the training set.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.types import Batch, Dataset

Sampling = Literal["epochs", "replacement", "full"]
"""How `next_batch` chooses examples."""

NUM_ROUNDS = 24
"""Rounds of the epoch shuffle. Each halves what is left of the starting order: 2^-24 at the end."""


def sample_indices(
    key: Array, step: int | Array, num_examples: int | Array, batch_size: int
) -> Array:
    """Draw a batch of indices uniformly with replacement.

    Args:
        key: the sampling key of the run.
        step: number of the step, may be traced.
        num_examples: indices lie in `[0, num_examples)`; may be traced.
        batch_size: number of indices; may exceed `num_examples`.

    Returns:
        `[batch]` int32 indices, uniform to within `num_examples` / 2^32.
    """
    words = jax.random.bits(jax.random.fold_in(key, step), (batch_size,), jnp.uint32)
    return _scaled(words, jnp.uint32(num_examples)).astype(jnp.int32)


def epoch_indices(
    key: Array, step: int | Array, num_examples: int | Array, batch_size: int
) -> Array:
    """Draw a batch of indices without replacement: every example exactly once an epoch.

    All batches laid end to end are one epoch after the other, each in a random order of its own. A
    batch may straddle two epochs, or hold several if `batch_size` exceeds `num_examples`.

    No order is ever stored or sorted: the example at a place of an epoch is computed from the place
    by a keyed permutation of `[0, num_examples)`, the swap-or-not shuffle. In each round a random
    `c` pairs every `i` with `c - i` (mod n), and a random bit for each pair says whether its two
    members trade places. Work and memory are O(batch), without a loop that waits for its slowest
    member.

    Args:
        key: the sampling key of the run.
        step: number of the step, counted from 0; may be traced.
        num_examples: size n of the training set; may be traced. `num_examples * batch_size` must be
            below 2^32. The number of steps is limited only by its own int32.
        batch_size: number of indices.

    Returns:
        `[batch]` int32 indices.

    Source:
        V. T. Hoang, B. Morris, P. Rogaway (2012), An enciphering scheme based on a card shuffle,
        arXiv:1208.1176, figure 1.
    """
    epoch, place = _epoch_and_place(jnp.uint32(step), jnp.uint32(num_examples), batch_size)
    return _shuffled(key, epoch, place, jnp.uint32(num_examples)).astype(jnp.int32)


def next_batch(
    dataset: Dataset,
    key: Array,
    step: int | Array,
    *,
    batch_size: int,
    sampling: Sampling = "epochs",
) -> Batch:
    """Return the training batch of a step.

    Only the first `dataset.num_train` training examples are used where that is set.

    Args:
        dataset: the task; its arrays may be numpy's or traced.
        key: the sampling key of the run, the same at every step.
        step: number of the step, counted from 0; may be traced.
        batch_size: number of examples; may exceed the training set. Ignored by `"full"`.
        sampling: `"epochs"` (every example once an epoch), `"replacement"` (independent draws) or
            `"full"` (the whole training set in its own order, with weight 0 past `num_train`).

    Returns:
        A `Batch` with a leading axis of `batch_size`, or of the training set for `"full"`.

    Raises:
        ValueError: `sampling` is unknown, `batch_size` is below 1, or the training set times
            `batch_size` is too large for `epoch_indices`.
    """
    train = jax.tree.map(jnp.asarray, dataset.train)
    size = train.x.shape[0]
    num_train = size if dataset.num_train is None else dataset.num_train
    if sampling == "full":
        return train if dataset.num_train is None else in_use(train, num_train)
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling must be one of {get_args(Sampling)}, got {sampling!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size}")
    if sampling == "epochs" and size * batch_size >= 2**32:
        raise ValueError(
            f"batch_size must be below 2^32 / {size} training examples for sampling='epochs', got "
            f"{batch_size}; use sampling='full' or 'replacement'"
        )
    draw = epoch_indices if sampling == "epochs" else sample_indices
    indices = draw(key, step, num_train, batch_size)
    return jax.tree.map(lambda array: jnp.take(array, indices, axis=0, mode="clip"), train)


def in_use(batch: Batch, num_used: int | Array) -> Batch:
    """Give weight 0 to the examples of a batch past the first `num_used`, which may be traced."""
    size = batch.x.shape[0]
    weight = jnp.ones(size, jnp.float32) if batch.weight is None else batch.weight
    used = jnp.arange(size, dtype=jnp.int32) < jnp.asarray(num_used, jnp.int32)
    return batch._replace(weight=jnp.where(used, weight, 0))


def _epoch_and_place(step: Array, num_examples: Array, batch_size: int) -> tuple[Array, Array]:
    """Return the epoch and the place in it, both [batch], of each position of a step's batch.

    Position `step * batch_size + i` would overflow in a long run. Since `num_examples` steps are
    exactly `batch_size` epochs, only the step's remainder has to be multiplied out.
    """
    cycle, step = step // num_examples, step % num_examples
    position = step * jnp.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
    epoch = cycle * jnp.uint32(batch_size) + position // num_examples
    return epoch, position % num_examples


def _shuffled(key: Array, epoch: Array, place: Array, num_examples: Array) -> Array:
    """Return the example at each place of each epoch, all [batch], by swap-or-not."""
    words = jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, epoch))  # [batch, 2]
    rounds = jnp.arange(NUM_ROUNDS, dtype=jnp.uint32)[:, None] * jnp.uint32(0x9E3779B9)
    centers = _scaled(_mix(words[None, :, 0] + rounds), num_examples)  # [round, batch]
    salts = _mix(words[None, :, 1] + rounds)

    def swap_or_not(index: Array, center_and_salt: tuple[Array, Array]) -> tuple[Array, None]:
        center, salt = center_and_salt
        partner = jnp.where(index <= center, center - index, center + num_examples - index)
        pair = jnp.maximum(index, partner)
        return jnp.where(_mix(pair ^ salt) >> 31 == 1, partner, index), None

    index, _ = jax.lax.scan(swap_or_not, place, (centers, salts))
    return index


def _scaled(word: Array, size: Array) -> Array:
    """Map 32-bit words evenly to `[0, size)`: floor(word * size / 2^32) by 16-bit halves.

    A remainder would do as well, but its integer division makes the whole shuffle five times slower
    on a CPU.
    """
    low, high, size_low, size_high = word & 0xFFFF, word >> 16, size & 0xFFFF, size >> 16
    middle = high * size_low + (low * size_low >> 16)
    carry = low * size_high + (middle & 0xFFFF)
    return high * size_high + (middle >> 16) + (carry >> 16)


def _mix(word: Array) -> Array:
    """Scramble 32-bit words so that each bit in moves each bit out half the time (a bijection)."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
    word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
    return word ^ (word >> 16)
