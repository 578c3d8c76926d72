"""Augmentations: pure functions `(key, x) -> x` that draw a change of each example.

Their numbers may be traced, so one compiled program serves every strength; at 0 each is the
identity. With the same key, all strengths make the same draw, scaled.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.data.checks import check_amounts
from jaxnn.types import Scalar

Augmentation = Callable[[Array, Array], Array]
"""`(key, x [batch, ...]) -> x [batch, ...]`, of the same shape and dtype."""


def add_noise(std: Scalar) -> Augmentation:
    """Build the addition of independent normal noise to every input.

    Args:
        std: standard deviation of the noise; may be traced.

    Raises:
        ValueError: a concrete `std` is negative or no single number.

    Source:
        C. Bishop (1995), Training with noise is equivalent to Tikhonov regularization.

    Example:
        >>> x = jnp.ones((4, 3))
        >>> bool((add_noise(0.0)(jax.random.key(0), x) == x).all())
        True
    """
    check_amounts(std=std)

    def augment(key: Array, x: Array) -> Array:
        return x + jnp.asarray(std, x.dtype) * jax.random.normal(key, x.shape, x.dtype)

    return augment


def random_shifts(pixels: Scalar) -> Augmentation:
    """Build random shifts of images, by whole pixels, with zeros where nothing moves in.

    Each image of `[batch, height, width, channel]` moves down and right by two independent integers
    that are uniform in `[-pixels, pixels]`.

    Args:
        pixels: largest shift along each axis, rounded down to an integer; may be traced.

    Raises:
        ValueError: a concrete `pixels` is negative or no single number; the function that is
            returned: x is not `[batch, height, width, channel]`.

    Source:
        A. Krizhevsky, I. Sutskever, G. Hinton (2012), ImageNet classification with deep
        convolutional neural networks, section 4.1 (translations).
    """
    check_amounts(pixels=pixels)

    def augment(key: Array, x: Array) -> Array:
        if x.ndim != 4:
            raise ValueError(
                f"random_shifts needs images [batch, height, width, channel], got shape {x.shape}; "
                "load them with flat=False, or reshape them"
            )
        largest = jnp.floor(jnp.asarray(pixels, jnp.float32))
        level = jax.random.uniform(key, (len(x), 2), jnp.float32)
        shifts = jnp.floor(level * (2 * largest + 1)) - largest
        return jax.vmap(_shifted)(x, shifts.astype(jnp.int32))

    return augment


def _shifted(image: Array, shift: Array) -> Array:
    """Move an image [height, width, channel] down and right by shift [2]."""
    for axis in (0, 1):
        size = image.shape[axis]
        source = jnp.arange(size, dtype=jnp.int32) - shift[axis]
        inside = jnp.expand_dims((source >= 0) & (source < size), (1 - axis, 2))
        image = jnp.where(inside, jnp.take(image, source, axis=axis, mode="wrap"), 0)
    return image
