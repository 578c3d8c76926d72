"""The builder: what it refuses, how it splits, and what standardisation is fitted on."""

import numpy as np
import pytest

from jaxnn import data

SPLITS = ("train", "validation", "test")
COUNTS = (200, 61, 20)  # examples of each class: unbalanced, and not round


def numbered(counts=COUNTS):
    """Inputs whose first feature is the row number, so that an example can be followed."""
    y = np.repeat(np.arange(len(counts)), counts)
    return np.stack([np.arange(len(y)), np.sin(np.arange(len(y)))], axis=1), y


def rows(task, split):
    return getattr(task, split).x[:, 0].astype(int)


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_splits_are_disjoint_and_complete(seed):
    x, y = numbered()
    task = data.dataset(x, y, standardize=None, seed=seed)
    together = np.concatenate([rows(task, split) for split in SPLITS])
    np.testing.assert_array_equal(np.sort(together), np.arange(len(y)))
    for split in SPLITS:  # each example keeps its own label and features
        np.testing.assert_array_equal(getattr(task, split).y, y[rows(task, split)])
        np.testing.assert_array_equal(
            getattr(task, split).x, x[rows(task, split)].astype(np.float32)
        )


@pytest.mark.parametrize(("validation", "test"), [(0.15, 0.15), (0.3, 0.1), (0.05, 0.5)])
def test_split_is_stratified_within_one_example(validation, test):
    task = data.dataset(*numbered(), validation=validation, test=test)
    for split, fraction in zip(SPLITS, (1 - validation - test, validation, test), strict=True):
        counts = np.bincount(getattr(task, split).y, minlength=len(COUNTS))
        # Two counts are rounded (each within 1/2), training is what they leave (within 1).
        assert np.all(np.abs(counts - fraction * np.array(COUNTS)) <= 1), (split, counts)


def test_same_seed_same_split_and_other_seed_another():
    first, again, other = (
        data.dataset(*numbered(), standardize=None, seed=seed) for seed in (3, 3, 4)
    )
    for split in SPLITS:
        np.testing.assert_array_equal(rows(first, split), rows(again, split))
        assert set(rows(first, split)) != set(rows(other, split))


@pytest.mark.parametrize("counts", [(100, 100, 100, 100), COUNTS], ids=["balanced", "unbalanced"])
def test_every_prefix_is_nearly_balanced(counts):
    train = data.dataset(*numbered(counts)).train
    shown = np.cumsum(train.y[:, None] == np.arange(len(counts)), axis=0)  # [prefix, class]
    share = shown[-1] / len(train.y)
    expected = np.arange(1, len(train.y) + 1)[:, None] * share
    # Up to point t of the order, class c has shown t n_c within 1/2, so a prefix of m examples has
    # m = t n within C/2; together |shown - m share| <= 1/2 + (C/2) share: 1 for balanced classes.
    bound = 0.5 + len(counts) / 2 * share
    assert np.all(np.abs(shown - expected) <= bound + 1e-9)


def test_order_within_a_class_is_random():
    task = data.dataset(*numbered((2000,)), standardize=None)
    order = rows(task, "train")
    # For a random order of n, the correlation of place and row has standard deviation 1/sqrt(n-1).
    correlation = np.corrcoef(np.arange(len(order)), order)[0, 1]
    assert abs(correlation) < 4 / np.sqrt(len(order) - 1)


def test_ties_between_classes_are_broken_at_random():
    """In blocks of one example a class, each class must lead about equally often."""
    y = data.dataset(*numbered((1000, 1000))).train.y
    leads = y.reshape(-1, 2)[:, 0].mean()
    assert abs(leads - 0.5) < 4 * 0.5 / np.sqrt(len(y) / 2)


def test_output_is_float32_and_int32_numpy():
    task = data.dataset(*numbered())
    assert task.num_train is None
    for split in SPLITS:
        batch = getattr(task, split)
        assert isinstance(batch.x, np.ndarray)
        assert (batch.x.dtype, batch.y.dtype, batch.weight) == (np.float32, np.int32, None)


def test_regression_targets_are_kept_as_they_are():
    x = np.random.default_rng(0).normal(size=(50, 3))
    task = data.dataset(x, x[:, :2] * 100 + 7, standardize=None)
    for split, size in zip(SPLITS, (34, 8, 8), strict=True):  # round(0.15 * 50) = round(7.5) = 8
        batch = getattr(task, split)
        assert batch.y.shape == (size, 2)
        assert batch.y.dtype == np.float32
        np.testing.assert_allclose(batch.y, batch.x[:, :2] * 100 + 7, rtol=1e-5)


def skewed(num_examples=400):
    generator = np.random.default_rng(5)
    x = generator.normal([3.0, -50.0, 0.1], [0.1, 20.0, 0.0], size=(num_examples, 3))
    return x, np.arange(num_examples) % 2


def test_feature_standardisation_is_fitted_on_training_examples_only():
    task = data.dataset(*skewed())
    # float32 rounding of n = 280 values of size 1: below 1e-6 on the mean.
    np.testing.assert_allclose(task.train.x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(task.train.x.std(0), [1, 1, 0], atol=1e-6)
    for held_out in (task.validation.x, task.test.x):
        deviation = np.abs(held_out[:, :2].mean(0))
        assert np.all(deviation > 1e-4)  # fitted on itself it would be 0 to rounding
        assert np.all(deviation < 5 * np.sqrt(1 / 60 + 1 / 280))  # standard error of a difference
        assert np.all(np.abs(held_out[:, :2].std(0) - 1) > 1e-4)


def test_held_out_examples_do_not_move_the_training_inputs():
    x, y = skewed()
    task = data.dataset(x, y, standardize=None, seed=2)
    changed = np.where(np.isin(x[:, 0].astype(np.float32), task.test.x[:, 0])[:, None], 1e6, x)
    before, after = data.dataset(x, y, seed=2), data.dataset(changed, y, seed=2)
    np.testing.assert_array_equal(before.train.x, after.train.x)
    np.testing.assert_array_equal(before.validation.x, after.validation.x)
    assert np.all(after.test.x[:, 0] > 1e5)


def test_constant_feature_becomes_zero():
    task = data.dataset(*skewed())
    # 0.1 minus a float64 mean of 280 times 0.1, divided by 1.
    np.testing.assert_allclose(task.train.x[:, 2], 0, atol=1e-15)


def test_global_standardisation_keeps_ratios_and_gives_unit_second_moment():
    x, y = skewed()
    task = data.dataset(x, y, standardize="global")
    raw = data.dataset(x, y, standardize=None).train.x.astype(np.float64)
    np.testing.assert_allclose((task.train.x.astype(np.float64) ** 2).mean(), 1, rtol=1e-6)
    np.testing.assert_allclose(task.train.x, (raw - raw.mean()) / raw.std(), atol=1e-5)


def test_none_leaves_inputs_unchanged():
    task = data.dataset(*numbered(), standardize=None)
    assert set(rows(task, "train")) < set(range(sum(COUNTS)))


def test_given_test_examples_are_the_test_split_and_fit_nothing():
    x, y = skewed()
    other_x, other_y = x[:100] + 1000, np.repeat([1, 0], [70, 30])
    task = data.dataset(x, y, test=(other_x, other_y), validation=0.1, standardize=None)
    assert [len(batch.y) for batch in task[:3]] == [360, 40, 100]
    row = {tuple(each): place for place, each in enumerate(other_x.astype(np.float32))}
    places = [row[tuple(each)] for each in task.test.x]
    np.testing.assert_array_equal(np.sort(places), np.arange(100))
    np.testing.assert_array_equal(task.test.y, other_y[places])
    assert abs(task.test.y[:50].sum() - 35) <= 1  # the classes take turns
    scaled = data.dataset(x, y, test=(other_x, other_y), validation=0.1)
    moved = data.dataset(x, y, test=(other_x * 2, other_y), validation=0.1)
    np.testing.assert_array_equal(scaled.train.x, moved.train.x)
    assert scaled.test.x[:, 0].min() > 1000


def test_given_test_examples_may_miss_classes_and_be_real():
    x, y = numbered((20, 20))
    task = data.dataset(x, y, test=(x[:3], y[:3]))
    np.testing.assert_array_equal(task.test.y, [0, 0, 0])
    task = data.dataset(x, x[:, :1] * 1.0, test=(x[:3], x[:3, :1] * 1.0), standardize=None)
    np.testing.assert_array_equal(task.test.x[:, :1], task.test.y)


@pytest.mark.parametrize("standardize", ["feature", "global", None])
def test_bytes_are_standardised_as_floats_are(standardize):
    """Also where the examples are more than are held in float64 at a time."""
    x = np.random.default_rng(0).integers(0, 256, (300, 8000), np.uint8)
    x[:, 0] = 7
    y = np.arange(300) % 2
    found = data.dataset(x, y, standardize=standardize)
    raw = data.dataset(x, y, standardize=None).train.x.astype(np.float64)
    axis = 0 if standardize == "feature" else None
    mean, std = (raw.mean(axis), raw.std(axis)) if standardize else (0.0, 1.0)
    expected = (raw - mean) / np.where(std == 0, 1.0, std)
    np.testing.assert_allclose(found.train.x, expected, rtol=1e-6, atol=1e-6)


GOOD_X, GOOD_Y = numbered((20, 20))


def changed(array, index, value):
    array = array.astype(type(value))
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (changed(GOOD_X, (7, 1), np.nan), GOOD_Y, {}, "x must be finite.* 1 of 40 .*index 7"),
        (changed(GOOD_X, (0, 0), np.inf), GOOD_Y, {}, "x must be finite.*drop or impute"),
        (changed(GOOD_X, (9, 0), 1e39), GOOD_Y, {}, "x must be finite in float32"),
        (GOOD_X, changed(GOOD_X, (3, 0), np.nan), {}, "y must be finite.*index 3"),
        (GOOD_X[:-1], GOOD_Y, {}, r"one row for each example, got x of shape \(39, 2\)"),
        (GOOD_X, np.int32(1), {}, "one row for each example"),
        (GOOD_X[:0], GOOD_Y[:0], {}, r"x must be a non-empty array.*\(0, 2\)"),
        (GOOD_X[:, 0], GOOD_Y, {}, r"x must be.*x\[:, None\]"),
        (GOOD_X.astype(str), GOOD_Y, {}, "x must be a non-empty array of real numbers"),
        (GOOD_X, GOOD_Y - 1, {}, r"classes 0\.\.C-1.*from -1 to 0; renumber"),
        (GOOD_X, GOOD_Y * 2, {}, r"classes 0\.\.C-1.*got 2 classes from 0 to 2"),
        (GOOD_X, GOOD_Y.astype(float), {}, r"float64; for classes give y.astype\(int\)"),
        (GOOD_X, np.eye(2, dtype=int)[GOOD_Y], {}, r"one-hot: y.argmax\(1\)"),
        (GOOD_X, GOOD_Y.astype(str), {}, "y must be integer classes"),
        (GOOD_X, GOOD_Y, {"validation": 0.0}, "fractions above 0.*validation=0.0"),
        (GOOD_X, GOOD_Y, {"test": -0.1}, "fractions above 0.*test=-0.1"),
        (GOOD_X, GOOD_Y, {"test": np.nan}, "fractions above 0.*test=nan"),
        (GOOD_X, GOOD_Y, {"test": (GOOD_X, GOOD_Y, GOOD_Y)}, r"a pair \(x, y\), got 3 entries"),
        (
            GOOD_X,
            GOOD_Y,
            {"test": (GOOD_X[:, :1], GOOD_Y)},
            r"test must hold examples like.*\(1,\)",
        ),
        (GOOD_X, GOOD_Y, {"test": (GOOD_X, GOOD_X)}, "test must hold examples like.*float32"),
        (GOOD_X, GOOD_Y, {"test": (GOOD_X, GOOD_Y + 1)}, "test y must hold classes from 0 to 1"),
        (GOOD_X, GOOD_Y, {"test": (GOOD_X[:0], GOOD_Y[:0])}, "test x must be a non-empty"),
        (GOOD_X, GOOD_Y, {"test": (GOOD_X, GOOD_Y), "validation": 0.0}, "validation=0.0"),
        (GOOD_X, GOOD_Y, {"validation": 0.5, "test": 0.5}, r"validation \+ test < 1"),
        (GOOD_X, GOOD_Y, {"test": 0.02}, "every class at least one.*0 test examples"),
        (GOOD_X, GOOD_Y, {"validation": 0.49, "test": 0.5}, "every class.*got 0 training"),
        (GOOD_X, GOOD_Y, {"standardize": "pixel"}, "standardize must be one of.*got 'pixel'"),
        (GOOD_X, GOOD_Y, {"standardize": True}, "standardize must be one of.*got True"),
        (GOOD_X, GOOD_Y, {"seed": -1}, "seed must be a non-negative integer, got -1"),
        (GOOD_X, GOOD_Y, {"seed": 0.5}, "seed must be a non-negative integer, got 0.5"),
        (GOOD_X, GOOD_Y, {"seed": None}, "seed must be a non-negative integer, got None"),
    ],
)
def test_bad_input_is_refused_by_name(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        data.dataset(x, y, **options)
