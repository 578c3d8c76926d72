"""Reading a learning-rate range test: where the loss falls fastest, and where training breaks.

Pure functions of rates and losses `[rate]`, rates ascending: those of one training on a
`jn.schedules.ramp`, a loss at each step, or the final losses of a sweep over rates.

Source:
    Smith 2017, 1506.01186, section 3.3.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.types import Scalar


def steepest_fall(rates: Array, losses: Array, *, smoothing: Scalar = 0.0) -> Array:
    """Return the rate `[]` at which the loss falls fastest for a given factor in the rate.

    It is the geometric mean of the two neighbouring rates between which d loss / d log rate is
    lowest; NaN where the loss falls nowhere.

    Args:
        rates: `[rate]`, ascending, above 0.
        losses: `[rate]`; pairs with one that is not finite are left out.
        smoothing: share of the running mean kept at each rate, in [0, 1), against the noise of
            minibatches; may be traced.

    Example:
        >>> rates = jnp.array([0.01, 0.1, 1.0, 10.0])
        >>> float(steepest_fall(rates, jnp.array([1.0, 0.9, 0.2, 8.0]))).__round__(3)
        0.316
    """
    rates, losses = jnp.asarray(rates), _smooth(jnp.asarray(losses), smoothing)
    slopes = jnp.diff(losses) / jnp.diff(jnp.log(rates)).astype(losses.dtype)
    slopes = jnp.where(jnp.isfinite(slopes), slopes, jnp.inf)
    best = jnp.argmin(slopes)
    between = jnp.sqrt(rates[best] * rates[best + 1])
    return jnp.where(slopes[best] < 0, between, jnp.nan)


def divergence(rates: Array, losses: Array, *, limit: Scalar | None = None) -> Array:
    """Return the lowest rate `[]` whose loss is above a limit or not finite; NaN for none.

    Args:
        rates: `[rate]`, ascending.
        losses: `[rate]`.
        limit: the loss at which training has diverged; of a sweep's final losses, that at the
            start. Unless given, four times the lowest loss at lower rates, which suits a ramp.
    """
    rates, losses = jnp.asarray(rates), jnp.asarray(losses)
    lowest = jax.lax.cummin(jnp.where(jnp.isnan(losses), jnp.inf, losses))
    bound = 4.0 * lowest if limit is None else jnp.asarray(limit, losses.dtype)
    broken = (losses > bound) | ~jnp.isfinite(losses)
    return jnp.where(jnp.any(broken), rates[jnp.argmax(broken)], jnp.nan)


def _smooth(losses: Array, smoothing: Scalar) -> Array:
    """Return the exponential running means, each divided by the weights it is made of.

    A loss that is not finite is NaN there, and no part of later means.
    """
    kept = jnp.asarray(smoothing, losses.dtype)

    def add(sums: tuple[Array, Array], loss: Array) -> tuple[tuple[Array, Array], Array]:
        finite = jnp.isfinite(loss)
        total = jnp.where(finite, kept * sums[0] + loss, sums[0])
        weight = jnp.where(finite, kept * sums[1] + 1.0, sums[1])
        return (total, weight), jnp.where(finite, total / weight, jnp.nan)

    zero = jnp.zeros((), losses.dtype)
    return jax.lax.scan(add, (zero, zero), losses)[1]
