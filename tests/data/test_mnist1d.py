"""MNIST-1D: the published steps, against a plain version, and the published difficulty."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from jaxnn import data
from jaxnn.data.mnist1d import TEMPLATES, _draw, _signals


@pytest.fixture(scope="module")
def task():
    return data.mnist1d()


def plain(template, draws, row):
    """One signal, step by step as the paper tells it, by numpy's own pad, interp and roll."""
    x = (template - template.mean()) / template.std()
    x = (x - x[0]) / 6
    inside = np.ones_like(x)  # how much of the template is at a point
    x, inside = (np.pad(each, (0, draws.padding[row])) for each in (x, inside))
    old, new = np.linspace(0, 1, len(x)), np.linspace(0, 1, 72)
    x, inside = np.interp(new, old, x), np.interp(new, old, inside)
    x = np.roll(draws.scale[row] * x, draws.shift[row])
    inside = np.roll(inside, draws.shift[row])
    x = np.where(inside > 0, x, gaussian_filter(0.25 * draws.wandering[row], 2))
    x = x + 0.02 * draws.noise[row] - draws.slope[row] * np.linspace(-0.5, 0.5, 72)
    return np.interp(np.linspace(0, 1, 40), new, x)


def test_signals_equal_a_plain_version():
    y = np.arange(200) % 10
    draws = _draw(200, np.random.default_rng(0))
    expected = [plain(TEMPLATES[label], draws, row) for row, label in enumerate(y)]
    np.testing.assert_allclose(_signals(y, draws), expected, atol=1e-12)


def test_draws_cover_their_published_ranges():
    draws = _draw(20_000, np.random.default_rng(1))
    # An end of 48 values is missed by 20,000 draws with probability exp(-400).
    assert (draws.padding.min(), draws.padding.max()) == (36, 60)
    assert (draws.shift.min(), draws.shift.max()) == (0, 47)
    # The most extreme of 20,000 uniforms is within 1e-3 of the end with probability 1 - exp(-20).
    for values, width, centre in ((draws.scale, 0.4, 1.0), (draws.slope, 0.75, 0.0)):
        ends = centre + width * np.array([-0.5, 0.5])
        np.testing.assert_allclose([values.min(), values.max()], ends, atol=1e-3 * width)
        assert ends[0] <= values.min()
        assert values.max() <= ends[1]


def test_sizes_are_the_published_ones_and_classes_balanced(task):
    for batch, size in zip(task[:3], (4000, 500, 500), strict=True):
        assert batch.x.shape == (size, 40)
        assert (batch.x.dtype, batch.y.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(np.bincount(batch.y), size // 10)
    assert len(np.unique(np.concatenate([batch.x for batch in task[:3]]), axis=0)) == 5000
    np.testing.assert_allclose((task.train.x.astype(float) ** 2).mean(), 1, rtol=1e-6)


def test_linear_model_is_as_bad_as_published(task):
    """Logistic regression reads 32 +- 1 % in the paper's table."""
    x, y = (np.concatenate([getattr(b, name) for b in task[1:3]]) for name in ("x", "y"))
    with threadpool_limits(1):  # threads cost more than they bring on 40 features
        fitted = LogisticRegression(max_iter=200).fit(task.train.x, task.train.y)
    accuracy = fitted.score(x, y)
    assert abs(accuracy - 0.32) < 4 * np.sqrt(0.32 * 0.68 / len(y) + 0.01**2)


def test_seed_and_options_decide_the_task(task):
    small = data.mnist1d(100, flat=False, validation=0.3, standardize=None, seed=1)
    assert (small.train.x.shape, small.validation.x.shape) == ((60, 40, 1), (30, 40, 1))
    again, other = (data.mnist1d(100, flat=False, seed=seed, standardize=None) for seed in (1, 2))
    assert again.train.x.shape == (80, 40, 1)
    assert set(small.train.x[:, 0, 0]) < set(
        np.concatenate([batch.x[:, 0, 0] for batch in again[:3]])
    )
    assert not np.array_equal(again.train.x, other.train.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_examples": 0}, "num_examples must be a positive integer, got 0"),
        ({"num_examples": 20}, "every class at least one example"),
        ({"seed": -1}, "seed must be a non-negative integer"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.mnist1d(**options)
