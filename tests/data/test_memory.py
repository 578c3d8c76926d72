"""Tasks that need memory: what is to be remembered, and what is lost without memory."""

import functools
import math

import jax
import numpy as np
import pytest

from jaxnn import data

NUM_TRAIN = 4000


@functools.cache
def copies():
    task = data.copy_memory(jax.random.key(0), 7, NUM_TRAIN, num_symbols=4, length=3)
    return np.asarray(task.train.x), np.asarray(task.train.y)


@functools.cache
def sums(num_steps=9):
    train = data.adding(jax.random.key(1), num_steps, NUM_TRAIN, num_held_out=10).train
    return np.asarray(train.x), np.asarray(train.y)


@functools.cache
def orders(num_steps=30):
    train = data.temporal_order(jax.random.key(2), num_steps, NUM_TRAIN, num_held_out=10).train
    return np.asarray(train.x), np.asarray(train.y)


def assert_uniform(values, start, stop):
    """All integers of [start, stop) occur, equally often."""
    counts = np.bincount(values, minlength=stop)
    assert counts[:start].sum() == 0
    assert len(counts) == stop
    share = 1 / (stop - start)
    error = np.sqrt(share * (1 - share) * len(values))
    np.testing.assert_allclose(counts[start:], share * len(values), atol=4.5 * error)


def test_copy_shows_symbols_blanks_and_the_sign_one_hot():
    x, _ = copies()
    np.testing.assert_array_equal(np.sort(x, axis=-1)[..., -1], 1)
    np.testing.assert_array_equal(x.sum(-1), 1)
    tokens = x.argmax(-1)  # T = 7: 3 symbols, 6 blanks, the sign, 3 blanks
    np.testing.assert_array_equal(tokens[:, 3:], np.tile([4] * 6 + [5] + [4] * 3, (NUM_TRAIN, 1)))
    for place in range(3):
        assert_uniform(tokens[:, place], 0, 4)


def test_copy_targets_repeat_the_symbols_after_the_delay():
    x, y = copies()
    np.testing.assert_array_equal(y[:, :-3], 4)
    np.testing.assert_array_equal(y[:, -3:], x.argmax(-1)[:, :3])
    # T steps from the end of the symbols to the first answer, which comes just after the sign.
    assert y.shape[1] - 3 - 3 == 7
    np.testing.assert_array_equal(x.argmax(-1)[:, -4], 5)


def test_copy_has_the_published_alphabet_and_length():
    task = jax.eval_shape(lambda: data.copy_memory(jax.random.key(0), 100, 2, num_held_out=1))
    assert task.train.x.shape == (2, 120, 10)


def test_copy_baseline_is_the_cross_entropy_of_knowing_the_time_alone():
    _, y = copies()
    guess = np.full((y.shape[1], 6), 1e-300)
    guess[:-3, 4] = 1
    guess[-3:, :4] = 1 / 4
    loss = -np.log(guess[np.arange(y.shape[1]), y]).mean()
    np.testing.assert_allclose(loss, data.copy_memory_baseline(7, num_symbols=4, length=3))
    # No guess of the time is better: at each step the classes seen are uniform, as tested above.


@pytest.mark.parametrize(
    ("delay", "expected"), [(100, 0.1733), (200, 0.0945), (500, 0.0400), (1000, 0.0204)]
)
def test_copy_baseline_has_the_published_values(delay, expected):
    assert data.copy_memory_baseline(delay) == pytest.approx(10 * math.log(8) / (delay + 20))
    assert round(data.copy_memory_baseline(delay), 4) == expected


def test_adding_target_is_the_sum_of_the_two_marked():
    x, y = sums()
    marks = x[..., 1]
    np.testing.assert_array_equal(np.unique(marks), [0, 1])
    np.testing.assert_array_equal(marks.sum(1), 2)
    # A sum of two float32 below 2: one rounding of 1.2e-7.
    np.testing.assert_allclose((x[..., 0] * marks).sum(1, keepdims=True), y, atol=2e-7)
    assert x[..., 0].min() >= 0
    assert x[..., 0].max() < 1


def test_adding_marks_one_step_of_each_half():
    x, _ = sums()
    first, second = np.nonzero(x[..., 1])[1].reshape(-1, 2).T
    assert_uniform(first, 0, 4)
    assert_uniform(second, 4, 9)


def test_adding_baseline_is_the_variance_of_the_target():
    _, y = sums()
    assert data.adding_baseline() == 1 / 6
    # s - 1 of two uniforms: E (s - 1)^2 = 1/6, E (s - 1)^4 = 1/15.
    error = np.sqrt((1 / 15 - 1 / 36) / len(y))
    assert abs(((y - 1) ** 2).mean() - data.adding_baseline()) < 4 * error
    assert abs(y.mean() - 1) < 4 * np.sqrt(1 / 6 / len(y))


@pytest.mark.parametrize("num_steps", [10, 30, 37])
def test_temporal_order_places_two_marks_among_distractors(num_steps):
    x, y = orders(num_steps)
    np.testing.assert_array_equal(x.sum(-1), 1)
    tokens = x.argmax(-1)
    rows, places = np.nonzero(tokens < 2)
    np.testing.assert_array_equal(rows, np.repeat(np.arange(NUM_TRAIN), 2))
    first, second = places.reshape(-1, 2).T
    assert_uniform(first, num_steps // 10, 2 * num_steps // 10)
    assert_uniform(second, 5 * num_steps // 10, 6 * num_steps // 10)
    marked = tokens[rows, places].reshape(-1, 2)
    np.testing.assert_array_equal(y, 2 * marked[:, 0] + marked[:, 1])
    assert_uniform(y, 0, 4)
    assert_uniform(tokens[:, -1], 2, 6)  # the last step tells nothing
    assert data.temporal_order_baseline() == pytest.approx(math.log(4))
