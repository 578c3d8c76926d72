"""Initialisers with a gain that may be traced, so that schemes' scales are data of a sweep.

Contract: a builder returns `(key, shape, dtype) -> array`, the signature of flax and jax.
A kernel has shape `[..., fan_in, fan_out]`. A bias has shape `[unit]` and no fan: there,
`gaussian` and `uniform` take their gain as the standard deviation or the bound itself.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers as library

from jaxnn.types import Scalar

Initialiser = Callable[[Array, Sequence[int], Any], Array]
Fan = Literal["in", "out"]
Distribution = Literal["normal", "uniform"]

_FAN_MODES = {"in": "fan_in", "out": "fan_out", "average": "fan_avg"}


def _scaled(variance: Scalar, fan: str, distribution: Distribution) -> Initialiser:
    """Draw with Var W = variance / fan for a kernel, Var b = variance for a bias."""
    if fan not in _FAN_MODES:
        raise ValueError(f"fan: expected 'in' or 'out', got {fan!r}")

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        scale = jnp.asarray(variance, dtype)
        if len(shape) >= 2:
            draw = library.variance_scaling(scale, _FAN_MODES[fan], distribution)  # pyright: ignore
            return draw(key, shape, dtype)
        if distribution == "normal":
            return jnp.sqrt(scale) * jax.random.normal(key, shape, dtype)
        return jnp.sqrt(3.0 * scale) * jax.random.uniform(key, shape, dtype, -1.0, 1.0)

    return initialise


def gaussian(sigma_w: Scalar = 1.0, *, fan: Fan = "in") -> Initialiser:
    """Draw N(0, sigma_w^2 / fan); for biases N(0, sigma_w^2) (Poole et al. 2016, 1606.05340)."""
    return _scaled(sigma_w**2, fan, "normal")


def uniform(gain: Scalar = 1.0, *, fan: Fan = "in") -> Initialiser:
    """Draw U[-gain / sqrt(fan), gain / sqrt(fan)]; for biases U[-gain, gain].

    With gain 1 this is the "standard" initialisation of Glorot & Bengio 2010, whose
    fan * Var W = 1/3 shrinks signals, and the default of several libraries.
    """
    return _scaled(gain**2 / 3.0, fan, "uniform")


def lecun(
    gain: Scalar = 1.0, *, fan: Fan = "in", distribution: Distribution = "normal"
) -> Initialiser:
    """Draw with Var W = gain^2 / fan (LeCun et al. 1998, "Efficient BackProp")."""
    return _scaled(gain**2, fan, distribution)


def glorot(gain: Scalar = 1.0, *, distribution: Distribution = "normal") -> Initialiser:
    """Draw with Var W = 2 gain^2 / (fan_in + fan_out) (Glorot & Bengio 2010, eq. 16)."""
    return _scaled(gain**2, "average", distribution)


def he(
    gain: Scalar = 1.0, *, fan: Fan = "in", distribution: Distribution = "normal"
) -> Initialiser:
    """Draw with Var W = 2 gain^2 / fan (He et al. 2015, eq. 10, 1502.01852)."""
    return _scaled(2.0 * gain**2, fan, distribution)


def orthogonal(gain: Scalar = 1.0) -> Initialiser:
    """Draw gain times a Haar (semi-)orthogonal kernel (Saxe et al. 2013, 1312.6120)."""

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jnp.asarray(gain, dtype) * library.orthogonal()(key, tuple(shape), dtype)

    return initialise


def constant(value: Scalar) -> Initialiser:
    """Fill with one value, which may be traced."""

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jnp.full(tuple(shape), jnp.asarray(value, dtype))

    return initialise


def zeros() -> Initialiser:
    """Fill with zeros."""
    return constant(0.0)


INITIALISERS: dict[str, Callable[..., Initialiser]] = {
    "gaussian": gaussian,
    "standard": uniform,
    "lecun": lecun,
    "glorot": glorot,
    "he": he,
    "orthogonal": orthogonal,
}


def initialiser(name: str, gain: Scalar = 1.0) -> Initialiser:
    """Return the kernel initialiser of a name, for sweeps over schemes.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in INITIALISERS:
        raise ValueError(f"initialiser: unknown name {name!r}; known: {', '.join(INITIALISERS)}")
    return INITIALISERS[name](gain)
