"""Training-set size and label noise: what they change, and that both can be traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import data
from jaxnn.types import Batch, Dataset

NUM_CLASSES = 5
SIZE = 4000


def task(y=None):
    y = np.arange(SIZE, dtype=np.int32) % NUM_CLASSES if y is None else y
    batch = Batch(np.zeros((len(y), 2), np.float32), y)
    return Dataset(batch, batch, batch)


@jax.jit
def noisy_labels(fraction, seed=7):
    key = jax.random.key(seed)
    return data.with_label_noise(task(), fraction, key=key, num_classes=NUM_CLASSES).train.y


@pytest.mark.parametrize("num_train", [1, SIZE, np.int64(10), jnp.int32(10)])
def test_train_size_is_set_and_arrays_are_kept(num_train):
    smaller = data.with_train_size(task(), num_train)
    assert smaller.num_train == num_train
    assert smaller.train.x.shape == (SIZE, 2)
    assert task().num_train is None


def test_train_size_may_be_traced():
    def use(num_train):
        smaller = data.with_train_size(task(), num_train)
        return data.next_batch(smaller, jax.random.key(0), 0, batch_size=1, sampling="full").weight

    weights = jax.jit(jax.vmap(use))(jnp.array([1, 10, SIZE]))
    np.testing.assert_array_equal(weights.sum(1), [1, 10, SIZE])


@pytest.mark.parametrize("num_train", [0, -1, SIZE + 1, 10.0, None, np.array([3, 4])])
def test_bad_train_size_is_refused(num_train):
    with pytest.raises(ValueError, match=f"num_train must be an integer from 1 to the {SIZE}"):
        data.with_train_size(task(), num_train)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_label_noise_changes_the_expected_part(fraction):
    labels = np.asarray(noisy_labels(fraction))
    assert (labels.dtype, labels.shape) == (np.int32, (SIZE,))
    wrong = fraction * (1 - 1 / NUM_CLASSES)  # a drawn class is the true one in 1 of C cases
    error = np.sqrt(wrong * (1 - wrong) / SIZE)
    assert abs((labels != task().train.y).mean() - wrong) <= 4 * error


def test_full_label_noise_is_uniform_and_forgets_the_class():
    table = np.zeros((NUM_CLASSES, NUM_CLASSES))
    np.add.at(table, (task().train.y, np.asarray(noisy_labels(1.0))), 1)
    expected = SIZE / NUM_CLASSES**2
    freedom = NUM_CLASSES * (NUM_CLASSES - 1)  # each row sums to SIZE / C
    statistic = ((table - expected) ** 2 / expected).sum()
    # Laurent and Massart (2000): exceeded with probability exp(-10).
    assert statistic < freedom + 2 * np.sqrt(10 * freedom) + 20


def test_label_noise_is_nested_as_it_grows():
    clean, some, more = (np.asarray(noisy_labels(fraction)) for fraction in (0.0, 0.2, 0.6))
    np.testing.assert_array_equal(clean, task().train.y)
    touched = some != clean
    assert touched.any()
    np.testing.assert_array_equal(more[touched], some[touched])
    assert (more != clean).sum() > touched.sum()


def test_label_noise_follows_its_key():
    np.testing.assert_array_equal(noisy_labels(0.5), noisy_labels(0.5))
    assert not np.array_equal(noisy_labels(0.5), noisy_labels(0.5, seed=8))


def test_label_noise_leaves_held_out_labels_alone():
    noisy = data.with_label_noise(task(), 1.0, key=jax.random.key(0))
    np.testing.assert_array_equal(noisy.validation.y, task().validation.y)
    np.testing.assert_array_equal(noisy.test.y, task().test.y)
    np.testing.assert_array_equal(noisy.train.x, task().train.x)


def test_label_noise_of_a_traced_fraction_equals_single_calls():
    lanes = jax.vmap(noisy_labels)(jnp.array([0.0, 0.25, 1.0]))
    for lane, fraction in zip(lanes, [0.0, 0.25, 1.0], strict=True):
        eager = data.with_label_noise(task(), fraction, key=jax.random.key(7))
        np.testing.assert_array_equal(lane, eager.train.y)


def test_number_of_classes_is_inferred_from_labels():
    noisy = data.with_label_noise(task(), 1.0, key=jax.random.key(7))
    np.testing.assert_array_equal(noisy.train.y, noisy_labels(1.0))


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan"), np.array([0.1, 0.2])])
def test_bad_noise_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction must be one probability in"):
        data.with_label_noise(task(), fraction, key=jax.random.key(0))


def test_label_noise_refuses_real_targets():
    with pytest.raises(ValueError, match=r"needs a dataset with integer classes.*float32"):
        data.with_label_noise(task(np.zeros((9, 1), np.float32)), 0.1, key=jax.random.key(0))


def test_label_noise_needs_enough_classes():
    with pytest.raises(ValueError, match=r"num_classes must be at least 5 .*num_classes=4"):
        data.with_label_noise(task(), 0.1, key=jax.random.key(0), num_classes=4)


def test_label_noise_on_traced_labels_needs_num_classes():
    def noisy(y):
        return data.with_label_noise(task(y), 0.1, key=jax.random.key(0)).train.y

    with pytest.raises(ValueError, match="num_classes must be given where the labels are traced"):
        jax.jit(noisy)(jnp.zeros(4, jnp.int32))
