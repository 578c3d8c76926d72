"""Modular arithmetic: the tables are exact, and each pair is in one split."""

import functools

import jax
import numpy as np
import pytest

from jaxnn import data

PRIME = 11
# Each is checked by an identity in Python's integers that does not repeat the code.
HOLDS = {
    "add": lambda a, b, answer: (answer - a - b) % PRIME == 0,
    "subtract": lambda a, b, answer: (answer + b - a) % PRIME == 0,
    "multiply": lambda a, b, answer: (a * b - answer) % PRIME == 0,
    "divide": lambda a, b, answer: (answer * b - a) % PRIME == 0,
}
each_operation = pytest.mark.parametrize("operation", HOLDS)


@functools.cache
def table(operation, seed=0, flat=True):
    key = jax.random.key(seed)
    task = data.modular_arithmetic(key, PRIME, operation, train_fraction=0.4, flat=flat)
    return jax.tree.map(np.asarray, task)


def pairs(batch):
    """Decode one-hot pairs to integers [pair, 2]."""
    tokens = batch.x.reshape(len(batch.x), 2, PRIME)
    np.testing.assert_array_equal(np.sort(tokens, axis=-1)[..., -2:], [[[0, 1]] * 2] * len(tokens))
    return tokens.argmax(-1)


@each_operation
def test_answers_are_exact(operation):
    for batch in table(operation)[:3]:
        for (a, b), answer in zip(pairs(batch).tolist(), batch.y.tolist(), strict=True):
            assert HOLDS[operation](a, b, answer), (a, b, answer)
            assert 0 <= answer < PRIME


@each_operation
def test_every_pair_is_in_exactly_one_split(operation):
    found = np.concatenate([pairs(batch) for batch in table(operation)[:3]])
    divisors = range(1 if operation == "divide" else 0, PRIME)
    expected = [(a, b) for a in range(PRIME) for b in divisors]
    assert sorted(map(tuple, found.tolist())) == expected
    train, validation, test = (len(batch.y) for batch in table(operation)[:3])
    assert train == round(0.4 * len(expected))
    assert 0 <= test - validation <= 1


def test_key_decides_who_is_in_training():
    first, other = (set(map(tuple, pairs(table("add", seed).train))) for seed in (0, 1))
    # Of 48 of 121 pairs drawn twice, 19 agree on average (hypergeometric, standard deviation 2.7).
    assert 8 < len(first & other) < 30


def test_tokens_hold_the_same_as_the_flat_pairs():
    flat, tokens = table("add"), table("add", flat=False)
    assert tokens.train.x.shape == (48, 2, PRIME)
    np.testing.assert_array_equal(tokens.train.x.reshape(48, -1), flat.train.x)
    np.testing.assert_array_equal(tokens.test.y, flat.test.y)


def test_default_is_the_published_table():
    task = jax.eval_shape(lambda: data.modular_arithmetic(jax.random.key(0)))
    assert task.train.x.shape == (97 * 96 // 2, 2 * 97)
