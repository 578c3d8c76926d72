"""Tasks with a known teacher: Gaussian inputs, targets of a random network.

Drawn by JAX from a key, so a sweep can draw each member's own task inside its program; the key, the
noise and the exponent may be traced. The contract:

- Inputs are float32 `[batch, feature]`, normal with mean 0, and independent between examples.
- Training targets carry noise; validation and test targets are the teacher's own, as with
  `with_label_noise`. So a held-out error is the excess over the best possible one.
- Examples are independent, so any prefix of the training set is a fair sample.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnn.data.checks import check_amounts, check_counts
from jaxnn.data.splits import cut
from jaxnn.types import Dataset, Scalar

TANH_RMS = 0.6279287  # sqrt(E tanh(z)^2), z standard normal


def teacher_regression(
    key: Array,
    num_train: int = 1000,
    *,
    num_features: int = 20,
    num_outputs: int = 1,
    num_hidden: int | None = None,
    noise_std: Scalar = 0.0,
    num_held_out: int = 1000,
) -> Dataset:
    """Draw a regression task whose targets are a random teacher's outputs plus noise.

    With x standard normal, the linear teacher is `y = W^T x` and the network
    `y = W^T tanh(V^T x) / sqrt(E tanh^2)`; the columns of V and W are independent and uniform on
    the unit sphere. Each clean output has variance 1 (of the network: on average over teachers), so
    the signal-to-noise ratio is `1 / noise_std^2`. Ordinary least squares on n examples of the
    linear teacher has the excess error `noise_std^2 d / (n - d - 1)` for each output, d features.

    Args:
        key: draws the teacher, the inputs and the noise; may be traced.
        num_train: training examples.
        num_features: inputs d.
        num_outputs: targets.
        num_hidden: units of the teacher's hidden layer; None: a linear teacher.
        noise_std: standard deviation of normal noise on the training targets; may be traced. With
            the same key, the noise of all levels is the same up to this factor.
        num_held_out: examples in validation, and in test.

    Returns:
        A `Dataset` with targets float32 `[batch, num_outputs]`.

    Raises:
        ValueError: a size is no positive integer, or a concrete `noise_std` is negative.

    Source:
        H. Seung, H. Sompolinsky, N. Tishby (1992), Statistical mechanics of learning from examples;
        M. Advani, A. Saxe (2017), arXiv:1710.03667 (linear teacher); D. Saad, S. Solla (1995),
        On-line learning in soft committee machines (network teacher).
    """
    _check(num_train, num_features, num_hidden, noise_std, num_held_out)
    check_counts(num_outputs=num_outputs)
    sizes = (num_train, num_held_out, num_features, num_hidden, num_outputs)
    return _isotropic(key, _float32(noise_std), sizes, as_classes=False)


def teacher_classification(
    key: Array,
    num_train: int = 1000,
    *,
    num_features: int = 20,
    num_classes: int = 2,
    num_hidden: int | None = None,
    noise_std: Scalar = 0.0,
    num_held_out: int = 1000,
) -> Dataset:
    """Draw a classification task whose classes are the largest of a random teacher's outputs.

    The teachers are those of `teacher_regression` with an output for each class; noise is added to
    the outputs before the largest is taken, so that it mislabels the examples near the teacher's
    boundaries first. Two classes are equally likely, by symmetry; more are so nearly, where there
    are many features.

    Args:
        key: draws the teacher, the inputs and the noise; may be traced.
        num_train: training examples.
        num_features: inputs.
        num_classes: classes, at least 2.
        num_hidden: units of the teacher's hidden layer; None: a linear teacher.
        noise_std: standard deviation of normal noise on the outputs that make the training labels;
            may be traced.
        num_held_out: examples in validation, and in test.

    Returns:
        A `Dataset` with classes int32 `[batch]`.

    Raises:
        ValueError: a size is no positive integer, there are fewer than 2 classes, or a concrete
            `noise_std` is negative.

    Source:
        H. Seung, H. Sompolinsky, N. Tishby (1992), Statistical mechanics of learning from examples.
    """
    _check(num_train, num_features, num_hidden, noise_std, num_held_out)
    check_counts(2, num_classes=num_classes)
    sizes = (num_train, num_held_out, num_features, num_hidden, num_classes)
    return _isotropic(key, _float32(noise_std), sizes, as_classes=True)


def power_law_regression(
    key: Array,
    num_train: int = 1000,
    *,
    num_features: int = 1000,
    exponent: Scalar = 1.0,
    noise_std: Scalar = 0.0,
    num_held_out: int = 1000,
) -> Dataset:
    """Draw a linear regression task on features with a power-law spectrum.

    Feature i = 1 ... d is normal with variance `lambda_i = i^-(1 + a)`, independent of the others,
    and the target is `y = w^T x` with w standard normal: the features that the smaller variances
    hide carry a share of `y` that falls as a power of their number. The smallest-norm interpolant
    of n noiseless examples has an error that falls as `n^-a` while n is far below d.

    Args:
        key: draws the teacher, the inputs and the noise; may be traced.
        num_train: training examples.
        num_features: inputs d; the spectrum ends there, which bends the curve for n near it.
        exponent: a, at least 0; may be traced.
        noise_std: standard deviation of normal noise on the training targets; may be traced.
        num_held_out: examples in validation, and in test.

    Returns:
        A `Dataset` with targets float32 `[batch, 1]`.

    Raises:
        ValueError: a size is no positive integer, or a concrete `exponent` or `noise_std` is
            negative.

    Source:
        S. Spigler, M. Geiger, M. Wyart (2019), arXiv:1905.10843; A. Maloney, D. Roberts, J. Sully
        (2022), A solvable model of neural scaling laws, arXiv:2210.16859, section 2.
    """
    _check(num_train, num_features, None, noise_std, num_held_out)
    check_amounts(exponent=exponent)
    sizes = (num_train, num_held_out, num_features)
    return _power_law(key, _float32(noise_std), _float32(exponent), sizes)


def _check(
    num_train: int,
    num_features: int,
    num_hidden: int | None,
    noise_std: Scalar,
    num_held_out: int,
) -> None:
    check_counts(num_train=num_train, num_features=num_features, num_held_out=num_held_out)
    if num_hidden is not None:
        check_counts(num_hidden=num_hidden)
    check_amounts(noise_std=noise_std)


def _float32(value: Scalar) -> Array:
    return jnp.asarray(value, jnp.float32)


@functools.partial(jax.jit, static_argnames=("sizes", "as_classes"))
def _isotropic(
    key: Array, noise_std: Array, sizes: tuple[int, int, int, int | None, int], as_classes: bool
) -> Dataset:
    """Draw a task of a linear or network teacher; its outputs are the targets, or rank classes."""
    num_train, num_held_out, num_features, num_hidden, out = sizes
    x_key, hidden_key, readout_key, noise_key = jax.random.split(key, 4)
    x = jax.random.normal(x_key, (num_train + 2 * num_held_out, num_features), jnp.float32)
    features = x
    if num_hidden is not None:
        directions = _unit_columns(hidden_key, num_features, num_hidden)
        features = jnp.tanh(_product(x, directions)) / TANH_RMS
    clean = _product(features, _unit_columns(readout_key, features.shape[1], out))
    y = _noisy_training(noise_key, clean, noise_std, num_train)
    return cut(x, jnp.argmax(y, axis=-1).astype(jnp.int32) if as_classes else y, num_train)


@functools.partial(jax.jit, static_argnames="sizes")
def _power_law(
    key: Array, noise_std: Array, exponent: Array, sizes: tuple[int, int, int]
) -> Dataset:
    """Draw a task of a linear teacher on features with a power-law spectrum."""
    num_train, num_held_out, num_features = sizes
    x_key, readout_key, noise_key = jax.random.split(key, 3)
    place = jnp.arange(1, num_features + 1, dtype=jnp.float32)
    std = jnp.exp(-0.5 * (1 + exponent) * jnp.log(place))
    unit = jax.random.normal(x_key, (num_train + 2 * num_held_out, num_features), jnp.float32)
    x = unit * std[None]
    clean = _product(x, jax.random.normal(readout_key, (num_features, 1), jnp.float32))
    return cut(x, _noisy_training(noise_key, clean, noise_std, num_train), num_train)


def _unit_columns(key: Array, num_rows: int, num_columns: int) -> Array:
    """Return columns that are uniform on the unit sphere, [row, column]."""
    columns = jax.random.normal(key, (num_rows, num_columns), jnp.float32)
    return columns / jnp.linalg.norm(columns, axis=0, keepdims=True)


def _product(left: Array, right: Array) -> Array:
    """Return left @ right in full float32, which accelerators do not give unasked."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _noisy_training(key: Array, clean: Array, noise_std: Array, num_train: int) -> Array:
    """Add noise to the first `num_train` rows of the teacher's outputs [example, out]."""
    noise = jax.random.normal(key, (num_train, clean.shape[1]), jnp.float32)
    return clean.at[:num_train].add(noise_std * noise)
