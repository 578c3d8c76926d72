"""Tasks as arrays, and minibatches as pure functions of a key and a step.

`dataset` makes a task of a user's own arrays; the loaders are ready tasks; the `with_` functions
change a task; the sampling functions draw from one inside a compiled run.
"""

from jaxnn.data.datasets import dataset
from jaxnn.data.loaders import blobs, circles, digits, mnist5k, two_spirals
from jaxnn.data.sampling import Sampling, epoch_indices, in_use, next_batch, sample_indices
from jaxnn.data.transforms import with_label_noise, with_train_size

__all__ = [
    "Sampling",
    "blobs",
    "circles",
    "dataset",
    "digits",
    "epoch_indices",
    "in_use",
    "mnist5k",
    "next_batch",
    "sample_indices",
    "two_spirals",
    "with_label_noise",
    "with_train_size",
]
