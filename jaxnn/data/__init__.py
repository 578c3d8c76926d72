"""Tasks as arrays, and minibatches as pure functions of a key and a step.

- `dataset` makes a task of a user's own arrays.
- The loaders are ready tasks of fixed examples, made by numpy from an integer `seed`: `digits` and
  `mnist5k` ship with installed packages, `mnist`, `fashion_mnist` and `cifar10` come from files,
  `blobs`, `circles`, `two_spirals` and `mnist1d` have generators.
- The drawn tasks are pure functions of a key in JAX, so a sweep can draw each member's own:
  teachers (`teacher_...`, `power_law_regression`), `modular_arithmetic`, and those that need memory
  (`copy_memory`, `adding`, `temporal_order`), beside which stand their exact baselines.
- The `with_` functions change a task, the augmentations (`add_noise`, `random_shifts`) a batch.
- The sampling functions draw from a task inside a compiled run.
"""

from jaxnn.data.augmentations import Augmentation, add_noise, random_shifts
from jaxnn.data.datasets import dataset
from jaxnn.data.downloads import Source
from jaxnn.data.images import cifar10, fashion_mnist, mnist
from jaxnn.data.loaders import blobs, circles, digits, mnist5k, two_spirals
from jaxnn.data.memory import (
    adding,
    adding_baseline,
    copy_memory,
    copy_memory_baseline,
    temporal_order,
    temporal_order_baseline,
)
from jaxnn.data.mnist1d import mnist1d
from jaxnn.data.modular import modular_arithmetic
from jaxnn.data.sampling import Sampling, epoch_indices, in_use, next_batch, sample_indices
from jaxnn.data.teachers import power_law_regression, teacher_classification, teacher_regression
from jaxnn.data.transforms import with_label_noise, with_train_size

__all__ = [
    "Augmentation",
    "Sampling",
    "Source",
    "add_noise",
    "adding",
    "adding_baseline",
    "blobs",
    "cifar10",
    "circles",
    "copy_memory",
    "copy_memory_baseline",
    "dataset",
    "digits",
    "epoch_indices",
    "fashion_mnist",
    "in_use",
    "mnist",
    "mnist1d",
    "mnist5k",
    "modular_arithmetic",
    "next_batch",
    "power_law_regression",
    "random_shifts",
    "sample_indices",
    "teacher_classification",
    "teacher_regression",
    "temporal_order",
    "temporal_order_baseline",
    "two_spirals",
    "with_label_noise",
    "with_train_size",
]
