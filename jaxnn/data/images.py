"""MNIST, Fashion-MNIST and CIFAR-10, from files on disk or a checked download.

The test examples are the published test set; validation is a part of the published training set.
Files are looked for in `directory`, or else in the user's cache directory
(`$XDG_CACHE_HOME/jaxnn/<name>`, `~/.cache` where that is not set). Missing ones are downloaded to
the same place. An archive is used only if its sha256 is the published one; files that were unpacked
by hand are checked by their format.
"""

import math
import os
from pathlib import Path

import numpy as np

from jaxnn.data.datasets import dataset
from jaxnn.data.downloads import Source, checked_file, task_directory
from jaxnn.data.image_files import read_cifar, read_idx
from jaxnn.types import Dataset

NUM_CLASSES = 10
IDX_FILES = (  # training images and labels, test images and labels
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")

MNIST = Source(
    "mnist",
    dict(
        zip(
            IDX_FILES,
            (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
            strict=True,
        )
    ),
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)
FASHION_MNIST = Source(
    "fashion_mnist",
    dict(
        zip(
            IDX_FILES,
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
            strict=True,
        )
    ),
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
)
CIFAR10 = Source(
    "cifar10",
    {CIFAR_ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ("https://www.cs.toronto.edu/~kriz/",),
)


def mnist(
    directory: str | os.PathLike[str] | None = None,
    *,
    flat: bool = True,
    download: bool = True,
    standardize: str | None = "global",
    validation: float = 1 / 6,
    seed: int = 0,
    source: Source = MNIST,
) -> Dataset:
    """Load MNIST: 70,000 handwritten digits of 28 x 28 pixels, 10 classes.

    Standardised globally by default, as images should be (see `dataset`). Before that, pixels are
    intensities from 0 to 255.

    Args:
        directory: holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same of
            `t10k`, plain or `.gz`; None: the user's cache directory.
        flat: inputs are `[batch, 784]`; if False, images `[batch, 28, 28, 1]`.
        download: whether missing files may be downloaded (11 MB).
        standardize: as in `dataset`.
        validation: fraction of the published training images (of each class) for validation.
        seed: decides which are for validation, and the order.
        source: where the files are published, and their checksums.

    Returns:
        A `Dataset` of about 50,000 training and 10,000 validation images, and the published 10,000
        for test.

    Raises:
        FileNotFoundError: a file is missing and could not be downloaded; the message says what to
            get, and where to put it.
        ValueError: a file is not the published one, or no whole file of its format.

    Source:
        Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
    """
    place = task_directory(source, directory)
    arrays = [_idx_array(source, name, place, download) for name in IDX_FILES]
    return _task(arrays, flat, standardize, validation, seed)


def fashion_mnist(
    directory: str | os.PathLike[str] | None = None,
    *,
    flat: bool = True,
    download: bool = True,
    standardize: str | None = "global",
    validation: float = 1 / 6,
    seed: int = 0,
    source: Source = FASHION_MNIST,
) -> Dataset:
    """Load Fashion-MNIST: 70,000 pictures of clothes of 28 x 28 pixels, 10 classes.

    The arguments, the files' names and formats, what is returned and the errors are those of
    `mnist`; a download is 31 MB.

    Source:
        H. Xiao, K. Rasul, R. Vollgraf (2017), Fashion-MNIST, arXiv:1708.07747.
    """
    return mnist(
        directory,
        flat=flat,
        download=download,
        standardize=standardize,
        validation=validation,
        seed=seed,
        source=source,
    )


def cifar10(
    directory: str | os.PathLike[str] | None = None,
    *,
    flat: bool = True,
    download: bool = True,
    standardize: str | None = "global",
    validation: float = 0.1,
    seed: int = 0,
    source: Source = CIFAR10,
) -> Dataset:
    """Load CIFAR-10: 60,000 colour photographs of 32 x 32 pixels, 10 classes.

    Standardised globally by default, as images should be (see `dataset`). Before that, pixels are
    intensities from 0 to 255. As float32 the inputs take 740 MB.

    Args:
        directory: holds `cifar-10-binary.tar.gz`, or the batches `data_batch_1.bin` to
            `data_batch_5.bin` and `test_batch.bin` unpacked from it, in a folder
            `cifar-10-batches-bin` or without one; None: the user's cache directory.
        flat: inputs are `[batch, 3072]`; if False, images `[batch, 32, 32, 3]`.
        download: whether a missing archive may be downloaded (170 MB).
        standardize: as in `dataset`.
        validation: fraction of the published training images (of each class) for validation.
        seed: decides which are for validation, and the order.
        source: where the archive is published, and its checksum.

    Returns:
        A `Dataset` of 45,000 training and 5,000 validation images, and the published 10,000 for
        test.

    Raises:
        FileNotFoundError: the archive is missing and could not be downloaded; the message says
            what to get, and where to put it.
        ValueError: the archive is not the published one, or a batch is not whole.

    Source:
        A. Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    place = task_directory(source, directory)
    folders = (place / CIFAR_FOLDER, place)
    unpacked = [each for each in folders if all((each / name).is_file() for name in CIFAR_BATCHES)]
    path = unpacked[0] if unpacked else checked_file(source, CIFAR_ARCHIVE, place, download)
    *train, test = read_cifar(path, CIFAR_BATCHES)
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return _task([images, labels, *test], flat, standardize, validation, seed)


def _idx_array(source: Source, name: str, directory: Path, download: bool) -> np.ndarray:
    """Read one of the idx files, unpacked or as published."""
    plain = directory / name.removesuffix(".gz")
    path = plain if plain.is_file() else checked_file(source, name, directory, download)
    array = read_idx(path)
    expected = 3 if "images" in name else 1
    if array.ndim != expected:
        raise ValueError(f"{path} must have {expected} axes, got shape {array.shape}")
    return array


def _task(
    arrays: list[np.ndarray], flat: bool, standardize: str | None, validation: float, seed: int
) -> Dataset:
    """Build the task of training images and labels, and test images and labels."""
    x, y, test_x, test_y = arrays
    if max(y.max(initial=0), test_y.max(initial=0)) >= NUM_CLASSES:
        raise ValueError(
            f"the labels must be classes from 0 to {NUM_CLASSES - 1}, got {y.max(initial=0)} and "
            f"{test_y.max(initial=0)}; the files are of another task"
        )
    image = (*x.shape[1:3], *(x.shape[3:] or (1,)))
    shape = (math.prod(image),) if flat else image
    return dataset(
        x.reshape(len(x), *shape),
        y,
        test=(test_x.reshape(len(test_x), *shape), test_y),
        validation=validation,
        standardize=standardize,
        seed=seed,
    )
