"""Change a task without changing its arrays' shapes, so that the change can be swept.

Each transform is a pure function from a `Dataset` to a `Dataset`. Its number may be traced: one
compiled program serves all training-set sizes and all noise levels. Validation and test stay as
they are.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxnn.types import Dataset, Scalar


def with_train_size(dataset: Dataset, num_train: int | Array) -> Dataset:
    """Use only the first `num_train` training examples.

    Training examples are in random order with the classes in turns, so the smaller set is a fair
    sample, and is contained in the larger one.

    Args:
        dataset: the task.
        num_train: examples in use, from 1 to the size of the training split; may be traced, and
            then is not checked.

    Returns:
        The task with `num_train` set; its arrays are untouched.

    Raises:
        ValueError: a concrete `num_train` is not an integer in that range.
    """
    size = dataset.train.x.shape[0]
    if not isinstance(num_train, Tracer):
        num_train = _checked_size(num_train, size)
    return dataset._replace(num_train=num_train)


def with_label_noise(
    dataset: Dataset, fraction: Scalar, *, key: Array, num_classes: int | None = None
) -> Dataset:
    """Replace a random part of the training labels by random ones.

    Each label is replaced with probability `fraction` by a class drawn uniformly from all classes,
    its own among them: `fraction * (1 - 1 / num_classes)` of the labels are wrong on average.
    The same key gives common random numbers: the labels replaced at a small fraction are
    replaced, by the same classes, at every larger one.

    Args:
        dataset: a task with integer classes.
        fraction: probability of replacement, in [0, 1]; may be traced, and then is not checked.
        key: decides which labels are replaced, and by what.
        num_classes: number C of classes; None: 1 + the largest training label, which must then be
            concrete.

    Returns:
        The task with new training labels, int32 `[batch]`.

    Raises:
        ValueError: the labels are not integers, a concrete `fraction` lies outside [0, 1], or
            `num_classes` is missing where labels are traced, or too small for the labels.

    Source:
        C. Zhang et al. (2017), Understanding deep learning requires rethinking generalization,
        arXiv:1611.03530, section 2 (partially corrupted labels).
    """
    labels = dataset.train.y
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            "with_label_noise needs a dataset with integer classes y [batch], got shape "
            f"{labels.shape} and dtype {labels.dtype}"
        )
    if not isinstance(fraction, Tracer):
        _check_fraction(fraction)
    num_classes = _checked_num_classes(labels, num_classes)
    choice_key, class_key = jax.random.split(key)
    level = jax.random.uniform(choice_key, labels.shape, jnp.float32)
    drawn = jax.random.randint(class_key, labels.shape, 0, num_classes, labels.dtype)
    noisy = jnp.where(level < jnp.asarray(fraction, jnp.float32), drawn, labels)
    return dataset._replace(train=dataset.train._replace(y=noisy))


def _checked_size(num_train: int | Array, size: int) -> int:
    try:
        if 1 <= (number := operator.index(num_train)) <= size:
            return number
    except TypeError:
        pass
    raise ValueError(
        f"num_train must be an integer from 1 to the {size} training examples, got {num_train!r}"
    )


def _check_fraction(fraction: Scalar) -> None:
    if np.ndim(fraction) != 0 or not 0 <= fraction <= 1:
        raise ValueError(
            f"fraction must be one probability in [0, 1], got {fraction!r}; for several, vmap or "
            "sweep over it"
        )


def _checked_num_classes(labels: Array, num_classes: int | None) -> int:
    if isinstance(labels, Tracer):
        if num_classes is None:
            raise ValueError(
                "num_classes must be given where the labels are traced, got None; write "
                "with_label_noise(..., num_classes=10)"
            )
        return num_classes
    needed = 1 + int(np.max(labels))
    if num_classes is not None and num_classes < needed:
        raise ValueError(f"num_classes must be at least {needed} for these labels: {num_classes=}")
    return needed if num_classes is None else num_classes
