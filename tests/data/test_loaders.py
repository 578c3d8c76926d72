"""The ready tasks: sizes, value ranges, and that each is the problem it says it is."""

import numpy as np
import pytest

from jaxnn import data

LOADERS = {
    "digits": (data.digits, (1259, 269, 269), (64,), 10),
    "mnist5k": (data.mnist5k, (3500, 750, 750), (784,), 10),
    "two_spirals": (data.two_spirals, (700, 150, 150), (2,), 2),
    "blobs": (data.blobs, (700, 150, 150), (2,), 3),
    "circles": (data.circles, (700, 150, 150), (2,), 2),
}


@pytest.mark.parametrize(("load", "sizes", "shape", "num_classes"), LOADERS.values(), ids=LOADERS)
def test_loader_gives_standardised_splits_of_all_classes(load, sizes, shape, num_classes):
    task = load()
    for batch, size in zip(task[:3], sizes, strict=True):
        assert batch.x.shape == (size, *shape)
        assert (batch.x.dtype, batch.y.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(np.unique(batch.y), np.arange(num_classes))
    # Second moment 1, to the rounding of float32 inputs (6e-8 each, averaged).
    np.testing.assert_allclose((task.train.x.astype(np.float64) ** 2).mean(), 1, rtol=1e-6)


@pytest.mark.parametrize("load", [loader[0] for loader in LOADERS.values()], ids=LOADERS)
def test_loader_passes_split_options_through(load):
    small = load(validation=0.3, test=0.4, standardize=None, seed=7)
    sizes = np.array([len(batch.y) for batch in small[:3]])
    # At most 10 classes, each within 1 example of its share.
    np.testing.assert_allclose(sizes, np.array([0.3, 0.3, 0.4]) * sizes.sum(), atol=10)
    again, other = (load(validation=0.3, test=0.4, standardize=None, seed=seed) for seed in (7, 8))
    np.testing.assert_array_equal(small.train.x, again.train.x)
    assert not np.array_equal(small.train.x, other.train.x)
    assert abs((small.train.x**2).mean() - 1) > 1e-3  # not standardised


@pytest.mark.parametrize(
    ("load", "maximum", "image"),
    [(data.digits, 16, (8, 8, 1)), (data.mnist5k, 255, (28, 28, 1))],
    ids=["digits", "mnist5k"],
)
def test_pixels_have_their_range_and_images_their_shape(load, maximum, image):
    flat, images = load(standardize=None), load(standardize=None, flat=False)
    assert (flat.train.x.min(), flat.train.x.max()) == (0, maximum)
    np.testing.assert_array_equal(flat.train.x, np.round(flat.train.x))
    assert images.train.x.shape[1:] == image
    np.testing.assert_array_equal(images.test.x.reshape(flat.test.x.shape), flat.test.x)


def test_mnist_has_500_images_of_each_digit():
    task = data.mnist5k()
    labels = np.concatenate([batch.y for batch in task[:3]])
    np.testing.assert_array_equal(np.bincount(labels), 500)
    np.testing.assert_array_equal(np.bincount(task.train.y[:1000]), 100)  # nested and balanced
    images = np.concatenate([batch.x for batch in task[:3]])
    assert len(np.unique(images, axis=0)) > 4990  # real images: (nearly) none twice


def test_mnist_classes_have_different_mean_images():
    """Nearest mean image, fitted on training alone, reads most unseen digits; chance is 10%."""
    task = data.mnist5k()
    means = np.stack([task.train.x[task.train.y == digit].mean(0) for digit in range(10)])
    distance = ((task.test.x[:, None] - means) ** 2).sum(-1)
    # LeCun et al. (1998) report 88% for a linear classifier; the mean classifier is one.
    assert (distance.argmin(1) == task.test.y).mean() > 0.7


def test_mnist_zero_is_hollow_and_one_is_upright():
    images = data.mnist5k(standardize=None, flat=False).train
    zero, one = (images.x[images.y == digit].mean(0)[..., 0] for digit in (0, 1))
    assert zero[14, 14] < zero.max() / 4 < one[14, 14]
    assert one[:, :6].max() < 10  # of 255: no ink at the left edge


def test_mnist_global_standardisation_has_no_outlier_pixels():
    assert np.abs(data.mnist5k().train.x).max() < 4
    assert np.abs(data.mnist5k(standardize="feature").train.x).max() > 20


def spirals(**options):
    return data.two_spirals(4000, standardize=None, noise=0.0, **options)


def test_spirals_lie_on_their_arms():
    task = spirals(turns=3.0)
    radius = np.linalg.norm(task.train.x, axis=1)
    angle = 6 * np.pi * radius + np.pi * task.train.y
    # float32 inputs: rounding of 6e-8 in the radius times 6 pi.
    on_arm = radius * np.stack([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(task.train.x.T, on_arm, atol=5e-6)
    assert radius.max() <= 1
    # Even along the arm: r^2 is uniform, mean 1/2, standard deviation 1/sqrt(12).
    assert abs((radius**2).mean() - 0.5) < 4 / np.sqrt(12 * len(radius))


def test_spirals_are_not_linearly_separable():
    """Any line through the centre cuts 2 turns into half turns of mass 7, 5, 3, 1 sixteenths.

    Of alternate signs, so the best line has at most (7 + 3) / 16 of a class on its side. The
    accuracies of all lines are uniformly within 4 * 0.5 / sqrt(n) of it, up to their small number.
    """
    train = spirals().train
    direction = np.linspace(0, np.pi, 180)
    side = train.x @ np.stack([np.cos(direction), np.sin(direction)]) > 0
    accuracy = (side == (train.y == 1)[:, None]).mean(0)
    bound = 10 / 16 + 4 * 0.5 / np.sqrt(len(train.y))
    assert np.maximum(accuracy, 1 - accuracy).max() < bound
    assert np.maximum(accuracy, 1 - accuracy).max() > 10 / 16 - 4 * 0.5 / np.sqrt(len(train.y))


def test_spirals_are_told_apart_by_their_nearest_neighbour():
    task = data.two_spirals(2000)
    distance = ((task.test.x[:, None] - task.train.x) ** 2).sum(-1)
    # Arms are 1/4 apart, noise is 0.02 and neighbours on an arm nearer than that: only the centre,
    # where both arms meet within a radius of 0.1 (1% of the points), can be mistaken.
    assert (task.train.y[distance.argmin(1)] == task.test.y).mean() > 0.97


def test_spiral_noise_has_its_standard_deviation():
    clean, noisy = (
        data.two_spirals(4000, standardize=None, noise=noise).train.x for noise in (0.0, 0.05)
    )
    # Same seed: same points and same split. n values: standard error 0.05 / sqrt(2 n).
    assert abs((noisy - clean).std() - 0.05) < 4 * 0.05 / np.sqrt(2 * clean.size)


def test_circles_have_their_radii():
    train = data.circles(noise=0.0, factor=0.5, standardize=None).train
    radius = np.linalg.norm(train.x, axis=1)
    np.testing.assert_allclose(radius, np.where(train.y == 0, 1.0, 0.5), atol=1e-6)


def test_blobs_have_their_spread():
    train = data.blobs(cluster_std=2.0, standardize=None).train
    for label in range(3):
        cloud = train.x[train.y == label]
        # Standard error of a normal sample's standard deviation: std / sqrt(2 n).
        np.testing.assert_allclose(cloud.std(0), 2, atol=4 * 2 / np.sqrt(2 * len(cloud)))


@pytest.mark.parametrize("load", [data.two_spirals, data.blobs, data.circles])
def test_too_few_examples_are_refused(load):
    with pytest.raises(ValueError, match="num_examples must be a positive integer, got 0"):
        load(0)
    with pytest.raises(ValueError, match="every class at least one example"):
        load(6)
