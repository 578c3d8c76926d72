"""Minibatches: uniform, without replacement where promised, and the same under every transform."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import data
from jaxnn.types import Batch, Dataset

BOTH = pytest.mark.parametrize(
    "draw", [data.epoch_indices, data.sample_indices], ids=["epoch", "sample"]
)
WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


def jitted(draw, batch_size):
    return jax.jit(functools.partial(draw, batch_size=batch_size))


def chi_square(counts):
    """Pearson's statistic of counts against equal expected counts."""
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


def chi_square_bound(freedom, log_odds=10.0):
    """P(chi-square >= bound) <= exp(-10) = 5e-5 (Laurent and Massart 2000, lemma 1)."""
    return freedom + 2 * math.sqrt(freedom * log_odds) + 2 * log_odds


@functools.partial(jax.jit, static_argnums=(2, 3))
def stream(key, num_examples, num_steps, batch_size):
    """All indices of a run, end to end; the size of the training set is traced."""
    draw = jax.vmap(lambda step: data.epoch_indices(key, step, num_examples, batch_size))
    return draw(jnp.arange(num_steps)).reshape(-1)


def orders(num_examples, seed=0, num_steps=4096, batch_size=64):
    """The whole epochs of a run, [epoch, place]. One compile serves every number of examples."""
    indices = np.asarray(stream(jax.random.key(seed), num_examples, num_steps, batch_size))
    num_epochs = len(indices) // num_examples
    return indices[: num_epochs * num_examples].reshape(num_epochs, num_examples)


@pytest.mark.parametrize("num_examples", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("batch_size", [3, 64])
def test_every_example_comes_exactly_once_an_epoch(num_examples, batch_size):
    """Batches straddle epochs, and hold several of them where the set is smaller."""
    found = np.sort(orders(num_examples, seed=1, batch_size=batch_size), axis=1)
    assert len(found) > 3
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(num_examples), found.shape))


def test_long_run_does_not_overflow():
    """Near step 2^31 positions are near 2^37, and epochs are still whole."""
    num_examples, batch_size = 96, 64
    first = (2**31 - 1) // num_examples * num_examples - num_examples  # a whole number of epochs
    key = jax.random.key(0)
    draw = jax.jit(lambda step: data.epoch_indices(key, step, num_examples, batch_size))
    late = np.concatenate([draw(first + step) for step in range(6)]).reshape(-1, num_examples)
    np.testing.assert_array_equal(np.sort(late, axis=1), np.tile(np.arange(num_examples), (4, 1)))
    assert len(np.unique(late, axis=0)) == 4


@pytest.mark.parametrize("num_examples", [2, 3, 5, 13])
def test_each_place_holds_each_example_equally_often(num_examples):
    counts = (orders(num_examples)[:, :, None] == np.arange(num_examples)).sum(0)
    # Rows and columns of this table [place, example] sum to the epochs by construction; with
    # uniform orders (n - 1) / n of the statistic is chi-square with (n - 1)^2 degrees of freedom.
    statistic = chi_square(counts) * (num_examples - 1) / num_examples
    assert statistic < chi_square_bound((num_examples - 1) ** 2)


@pytest.mark.parametrize("num_examples", [2, 3, 4, 5])
def test_each_order_is_equally_likely(num_examples):
    _, counts = np.unique(orders(num_examples, seed=1), axis=0, return_counts=True)
    assert len(counts) == math.factorial(num_examples)
    assert chi_square(counts) < chi_square_bound(len(counts) - 1)


def test_neighbours_in_an_epoch_are_independent():
    """Ordered pairs of different examples at two places are equally likely."""
    _, counts = np.unique(orders(13, seed=2)[:, 4:6], axis=0, return_counts=True)
    assert len(counts) == 13 * 12
    assert chi_square(counts) < chi_square_bound(13 * 12 - 1)


def test_consecutive_epochs_are_independent():
    at_one_place = orders(7, seed=3)[:, 2]
    pairs = np.stack([at_one_place[:-1], at_one_place[1:]], axis=1)
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert len(counts) == 49
    assert chi_square(counts) < chi_square_bound(48)


def test_orders_of_a_large_set_are_all_different():
    found = np.concatenate([orders(1000)[:50], orders(1000, seed=1)[:50]])
    assert len(np.unique(found, axis=0)) == 100
    # Two random orders agree in 1 place on average (Poisson); 4950 pairs: mean 1 +- 1/sqrt(4950).
    agree = (found[:, None] == found[None]).sum(-1)[np.triu_indices(100, 1)]
    assert abs(agree.mean() - 1) < 4 / math.sqrt(len(agree))


def test_sampling_with_replacement_is_uniform():
    draw = jax.jit(jax.vmap(lambda step: data.sample_indices(jax.random.key(0), step, 11, 50)))
    counts = np.bincount(np.asarray(draw(jnp.arange(400))).ravel(), minlength=11)
    assert len(counts) == 11
    assert chi_square(counts) < chi_square_bound(10)


@BOTH
def test_same_key_and_step_same_batch(draw):
    single, key = jitted(draw, 32), jax.random.key(0)
    first = single(key, 5, 1000)
    assert (first.shape, first.dtype) == ((32,), jnp.int32)
    np.testing.assert_array_equal(first, draw(key, 5, 1000, 32))  # eager
    assert not np.array_equal(first, single(key, 6, 1000))
    assert not np.array_equal(first, single(jax.random.key(1), 5, 1000))


@BOTH
def test_vmapped_scan_equals_single_calls(draw):
    """Over members with keys and sizes of their own, as a sweep runs them."""
    single = jitted(draw, 16)
    keys, sizes, steps = jax.random.split(jax.random.key(3), 4), [1, 5, 64, 3000], [0, 1, 7, 500]

    @jax.jit
    @jax.vmap
    def run(key, size):
        return jax.lax.scan(lambda _, step: (None, single(key, step, size)), None, jnp.array(steps))

    _, lanes = run(keys, jnp.array(sizes))  # [member, step, batch]
    for lane, key, size in zip(lanes, keys, sizes, strict=True):
        assert 0 <= lane.min() <= lane.max() < size
        for batch, step in zip(lane, steps, strict=True):
            np.testing.assert_array_equal(batch, single(key, step, size))


def test_epochs_are_whole_with_another_generator():
    key = jax.random.key(0, impl="rbg")
    found = np.asarray(stream(key, 10, 8, 5)).reshape(4, 10)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len(np.unique(found, axis=0)) > 1


@BOTH
def test_sampling_works_in_float64_mode(draw):
    with jax.enable_x64(True):
        indices = jax.jit(lambda size: draw(jax.random.key(0), 3, size, 8))(jnp.arange(100)[50])
        assert indices.dtype == jnp.int32
        assert indices.max() < 50


def task(num_train=None, weight=None, size=20):
    """Inputs that hold their own index, and labels that are its parity."""
    index = np.arange(size)
    batch = Batch(np.float32(index)[:, None] * np.ones(3, np.float32), np.int32(index % 2), weight)
    return Dataset(batch, batch, batch, num_train)


@pytest.mark.parametrize("sampling", ["epochs", "replacement"])
def test_next_batch_keeps_examples_together_and_inside_the_training_set(sampling):
    weight = np.arange(20, dtype=np.float32)

    def draw(num_train, step):
        whole, key = task(num_train, weight), jax.random.key(0)
        return data.next_batch(whole, key, step, batch_size=8, sampling=sampling)

    batches = jax.jit(jax.vmap(draw, (None, 0)))
    for num_train in (6, 20):
        batch = batches(jnp.int32(num_train), jnp.arange(40))
        assert batch.x.shape == (40, 8, 3)
        index = np.asarray(batch.x[..., 0]).astype(int)
        np.testing.assert_array_equal(batch.y, index % 2)
        np.testing.assert_array_equal(batch.weight, index)
        # 320 draws of 20: one is missed with probability below 20 * 0.95^320 = 2e-6.
        assert set(index.ravel()) == set(range(num_train))


def test_next_batch_uses_every_example_without_num_train():
    batch = jax.jit(lambda step: data.next_batch(task(), jax.random.key(0), step, batch_size=20))(0)
    assert batch.weight is None
    np.testing.assert_array_equal(np.sort(batch.x[:, 0]), np.arange(20))


def test_next_batch_counts_epochs_of_the_examples_in_use():
    def draw(num_train, step):
        return data.next_batch(task(num_train), jax.random.key(0), step, batch_size=4).x[:, 0]

    batches = jax.jit(jax.vmap(draw, (None, 0)))(jnp.int32(6), jnp.arange(3))
    np.testing.assert_array_equal(
        np.sort(np.asarray(batches).reshape(2, 6), axis=1), np.tile(np.arange(6), (2, 1))
    )


def full(num_train, weight=None):
    whole = task(num_train, weight)
    return data.next_batch(whole, jax.random.key(0), 3, batch_size=1, sampling="full")


@WRAPS
def test_full_batch_masks_examples_past_num_train(wrap):
    batch = wrap(full)(jnp.int32(6))
    np.testing.assert_array_equal(batch.x, task().train.x)
    np.testing.assert_array_equal(batch.weight, np.arange(20) < 6)
    weighted = full(6, np.full(20, 0.5, np.float32))
    np.testing.assert_array_equal(weighted.weight, 0.5 * (np.arange(20) < 6))


def test_full_batch_without_num_train_is_the_training_set():
    batch = full(None)
    assert batch.weight is None
    np.testing.assert_array_equal(batch.x, task().train.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4, "sampling": "shuffle"}, "one of .*'epochs', 'replacement', 'full'.*'sh"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": 2**30}, "batch_size must be below 2.32 / 20 training examples"),
    ],
)
def test_next_batch_refuses_bad_options_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        data.next_batch(task(), jax.random.key(0), 0, **options)
