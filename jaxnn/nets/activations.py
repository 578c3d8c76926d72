"""Elementwise nonlinearities with the facts of their derivative: slope, saturation, death, kinks.

A smooth activation counts as saturated at an input where its slope is at most a tenth of its
largest, and as dead where it is at most a thousandth: these two numbers are conventions. Where a
slope is exactly zero (relu, hard tanh) both criteria are that exact zero. An activation whose
slope never vanishes (identity, leaky relu) can be neither.

`erf` is erf(sqrt(pi)/2 z), which has slope 1 at 0 as tanh does; `gelu` is the exact form.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.types import Activation, Scalar

SATURATED, DEAD = 0.1, 1e-3  # of the largest slope


def _smooth(
    name: str,
    function: Callable[[Array], Array],
    slope: Callable[[Array], Array],
    max_slope: float = 1.0,
    kinks: tuple[float, ...] = (),
) -> Activation:
    return Activation(name, function, slope, SATURATED * max_slope, DEAD * max_slope, kinks)


def _sigmoid_slope(z: Array) -> Array:
    return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)


def _gelu_slope(z: Array) -> Array:
    return jax.scipy.stats.norm.cdf(z) + z * jax.scipy.stats.norm.pdf(z)


def _silu_slope(z: Array) -> Array:
    return jax.nn.sigmoid(z) + z * _sigmoid_slope(z)


def _elu_slope(z: Array) -> Array:
    return jnp.exp(jnp.minimum(z, 0.0))


SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017, 1706.02515


def _selu_slope(z: Array) -> Array:
    return SELU_SCALE * jnp.where(z > 0, 1.0, SELU_ALPHA * jnp.exp(jnp.minimum(z, 0.0)))


identity = Activation("identity", lambda z: z, jnp.ones_like, piecewise_linear=True)
sigmoid = _smooth("sigmoid", jax.nn.sigmoid, _sigmoid_slope, 0.25)
tanh = _smooth("tanh", jnp.tanh, lambda z: 1.0 - jnp.tanh(z) ** 2)
erf = _smooth(
    "erf",
    lambda z: jax.scipy.special.erf(math.sqrt(math.pi) / 2 * z),
    lambda z: jnp.exp(-math.pi / 4 * z**2),
)
softsign = _smooth("softsign", jax.nn.soft_sign, lambda z: (1.0 + jnp.abs(z)) ** -2.0, kinks=(0.0,))
gelu = _smooth("gelu", lambda z: jax.nn.gelu(z, approximate=False), _gelu_slope, 1.128904145)
silu = _smooth("silu", jax.nn.silu, _silu_slope, 1.099839320)
elu = _smooth("elu", jax.nn.elu, _elu_slope, kinks=(0.0,))
selu = _smooth("selu", jax.nn.selu, _selu_slope, SELU_SCALE * SELU_ALPHA, kinks=(0.0,))
hard_tanh = Activation(
    "hard_tanh",
    jax.nn.hard_tanh,
    lambda z: (jnp.abs(z) <= 1.0).astype(z.dtype),
    kinks=(-1.0, 1.0),
    piecewise_linear=True,
)


def leaky_relu(slope: Scalar = 0.01) -> Activation:
    """Return `max(z, 0) + slope * min(z, 0)`; the slope may be traced (Maas et al. 2013)."""

    def derivative(z: Array) -> Array:
        return jnp.where(z > 0, jnp.ones_like(z), jnp.asarray(slope, z.dtype))

    return Activation(
        "leaky_relu",
        lambda z: z * derivative(z),
        derivative,
        kinks=(0.0,),
        piecewise_linear=True,
    )


relu = Activation(
    "relu",
    jax.nn.relu,
    lambda z: (z > 0).astype(z.dtype),
    kinks=(0.0,),
    piecewise_linear=True,
)

ACTIVATIONS = {
    each.name: each
    for each in (
        identity,
        sigmoid,
        tanh,
        hard_tanh,
        erf,
        softsign,
        relu,
        leaky_relu(),
        elu,
        selu,
        gelu,
        silu,
    )
}


def activation(name: str | Activation) -> Activation:
    """Return the activation of a name, or the one given.

    Args:
        name: a key of `ACTIVATIONS`, or an `Activation` (a user's own, or `leaky_relu(slope)`).

    Raises:
        ValueError: the name is unknown.
        TypeError: neither a name nor an `Activation` came.

    Example:
        >>> activation("relu").kinks
        (0.0,)
    """
    if isinstance(name, Activation):
        return name
    if not isinstance(name, str):
        raise TypeError(
            f"activation: expected a name or a jaxnn.types.Activation, got {name!r}; "
            "a bare function lacks its slope: wrap it as Activation(name, function, slope)"
        )
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: unknown name {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
