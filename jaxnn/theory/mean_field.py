"""Mean-field theory of wide fully connected networks: what a layer does to variances and angles.

In the limit of infinite width the pre-activations of a random layer are Gaussian, so a network is
a pair of scalar maps: of the variance `q`, and of the correlation `c` of two inputs. From them come
the fixed points, the gradient growth `chi`, the depth scales and the edge of chaos.

Contract. The first argument is an `Activation`; the others are scalars (`vmap` for more). Results
have their dtype. All is jittable (do: an eager call takes a second) and differentiable, by the
implicit function theorem at fixed points; gradients are nan where the fixed point is infinite or
exactly critical. `sigma_w` and `sigma_b` are standard deviations: `W_ij ~ N(0, sigma_w^2 / fan_in)`
and `b_i ~ N(0, sigma_b^2)`.

Not for networks of finite width (`finite_width`), and not for batch norm, which couples inputs.

Method. Gaussian means are sums of Gauss-Legendre panels that begin at the kinks of the activation
(at 0 if it has none) and are spaced geometrically from there, on the scale on which it bends. The
nodes move with the kinks and never touch one, so sums and derivatives converge as for smooth
functions: to 1e-8 or better in float64 for q up to 100. Activations must bend only near 0 or kinks.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxnn.types import Activation, Scalar

_NODES_1D, _NODES_2D = 40, 32  # of each panel
_CUTOFF = 9.0  # a standard normal is beyond it with probability 2e-19
_FLOOR = 1e-20  # stands for 0 under a square root, so that derivatives at q = 0 are their limits
_LEAST, _MOST = 1e-12, 1e12  # variances between which a fixed point is searched
_GRID = np.geomspace(_LEAST, _MOST, 193)
_START = 96  # _GRID[_START] = 1, the variance from which the map is iterated


def _floats(*arguments: Scalar) -> list[Array]:
    dtype = jnp.result_type(*arguments, 1.0)
    return [jnp.asarray(argument, dtype) for argument in arguments]


def _noise(like: Array) -> Array:
    """The relative size of rounding and quadrature errors."""
    return jnp.asarray(64 * float(jnp.finfo(like.dtype).eps) + 1e-12, like.dtype)


def _sqrt(q: Array) -> Array:
    return jnp.sqrt(q + jnp.where(q < _FLOOR, _FLOOR, 0))


def _panels(breaks: Array, scale: Array, low: float, num: int) -> tuple[Array, Array]:
    """Nodes and weights `[2 * break, node]` of E over [low, cutoff], from sorted breaks."""
    points, gauss = np.polynomial.legendre.leggauss(num)
    scale = lax.stop_gradient(jnp.clip(scale / 2, 1e-3, 30))  # only spaces the nodes
    middles = (breaks[1:] + breaks[:-1]) / 2
    below = breaks - jnp.append(jnp.full_like(breaks[:1], low), middles)
    above = jnp.append(middles, jnp.full_like(breaks[:1], _CUTOFF)) - breaks

    def panel(start, width, side):
        span = jnp.log1p(scale * width)
        steps = span * jnp.asarray((1 + points) / 2, span.dtype)
        z = start + side * jnp.expm1(steps) / scale
        weights = span / scale * jnp.asarray(gauss / np.sqrt(8 * np.pi), span.dtype)
        return z, weights * jnp.exp(steps - z**2 / 2)

    sides = jnp.append(-jnp.ones_like(breaks), jnp.ones_like(breaks))
    return jax.vmap(panel)(jnp.append(breaks, breaks), jnp.append(below, above), sides)


def _kinks(activation: Activation, like: Array) -> Array:
    return jnp.asarray(sorted(activation.kinks) or [0.0], like.dtype)


def _mean(f: Callable, activation: Activation, q: Array) -> Array:
    """E[f(u)] for u ~ N(0, q)."""
    root_q = _sqrt(q)
    breaks = jnp.clip(_kinks(activation, q) / root_q, -_CUTOFF, _CUTOFF)
    z, weights = _panels(breaks, root_q, -_CUTOFF, _NODES_1D)
    return jnp.sum(f(root_q * z) * weights)


def _pairs(activation: Activation, c: Array, q: Array) -> tuple[Array, Array, Array]:
    """Nodes u1, u2 of variance q and correlation c, and weights, all `[y, 2 * break, x]`.

    `u1 = sqrt(q) (a x + b y)` and `u2 = sqrt(q) (a x - b y)` with x, y independent; y > 0 suffices.
    """
    root_q = _sqrt(q)
    a, b = _sqrt((1 + c) / 2), _sqrt((1 - c) / 2)
    kinks = sorted(activation.kinks)
    gaps = sorted({(k - j) / 2 for j, k in itertools.combinations(kinks, 2)})
    meets = jnp.asarray([0.0, *gaps], q.dtype) / (root_q * b)  # where kinks of u1 and u2 cross
    scale = jnp.maximum(root_q * b, b / a)  # b / a: opposite inputs, c near -1
    y, weights_y = _panels(jnp.minimum(meets, _CUTOFF), scale, 0.0, _NODES_2D)

    def over_x(y, weight):
        centres = _kinks(activation, q) / root_q
        breaks = jnp.sort(jnp.append(centres - b * y, centres + b * y)) / a
        x, weights = _panels(jnp.clip(breaks, -_CUTOFF, _CUTOFF), root_q * a, -_CUTOFF, _NODES_2D)
        return root_q * (a * x + b * y), root_q * (a * x - b * y), 2 * weight * weights

    return jax.vmap(over_x)(y[1:].ravel(), weights_y[1:].ravel())  # the panel below y = 0 is empty


def variance_map(activation: Activation, q: Scalar, sigma_w: Scalar, sigma_b: Scalar) -> Array:
    """Map the pre-activation variance of one layer to that of the next.

    `V(q) = sigma_w^2 E[phi(sqrt(q) z)^2] + sigma_b^2`, z standard normal.

    Args:
        activation: phi.
        q: variance of the pre-activations, at least 0.
        sigma_w: standard deviation of the weights times the root of the fan-in.
        sigma_b: standard deviation of the biases.

    Returns:
        The variance one layer on, `[]`.

    Source: Poole et al., 2016, arXiv:1606.05340.

    Example:
        >>> from jaxnn.nets import activations
        >>> print(variance_map(activations.identity, 2.0, 1.5, 0.5).round(4))
        4.75
    """
    q, sigma_w, sigma_b = _floats(q, sigma_w, sigma_b)
    return sigma_w**2 * _mean(lambda u: activation.function(u) ** 2, activation, q) + sigma_b**2


def chi(activation: Activation, q: Scalar, sigma_w: Scalar) -> Array:
    """Compute the growth of squared gradients per layer at variance q.

    `chi = sigma_w^2 E[phi'(sqrt(q) z)^2]`, also the growth of the squared distance of near inputs.

    Source: Schoenholz et al., 2017, arXiv:1611.01232.
    """
    q, sigma_w = _floats(q, sigma_w)
    return sigma_w**2 * _mean(lambda u: activation.slope(u) ** 2, activation, q)


def correlation_map(
    activation: Activation, c: Scalar, q: Scalar, sigma_w: Scalar, sigma_b: Scalar
) -> Array:
    """Map the correlation of two inputs in one layer to that in the next, at variance q = q*.

    `C(c) = (sigma_w^2 E[phi(u1) phi(u2)] + sigma_b^2) / q`; u1, u2 normal with variance q and
    correlation c. The bias is shared by the inputs. `dC/dc` is `correlation_slope`, exact also at
    c = 1 (Price's theorem); higher derivatives in c are those of `correlation_slope`.

    Args:
        activation: phi.
        c: correlation, in [-1, 1].
        q: variance of both, above 0; `C(1) = 1` only if it is the fixed point.
        sigma_w: standard deviation of the weights times the root of the fan-in.
        sigma_b: standard deviation of the biases.

    Returns:
        The correlation one layer on, `[]`.

    Source: Poole et al., 2016, arXiv:1606.05340.
    """
    c, q, sigma_w, sigma_b = _floats(c, q, sigma_w, sigma_b)
    fixed = lax.stop_gradient(c)
    u1, u2, weights = _pairs(activation, fixed, q)
    mean = jnp.sum(activation.function(u1) * activation.function(u2) * weights)
    slope = sigma_w**2 * jnp.sum(activation.slope(u1) * activation.slope(u2) * weights)
    return (sigma_w**2 * mean + sigma_b**2) / _sqrt(q) ** 2 + slope * (c - fixed)


def correlation_slope(activation: Activation, c: Scalar, q: Scalar, sigma_w: Scalar) -> Array:
    """Compute `dC/dc = sigma_w^2 E[phi'(u1) phi'(u2)]`; at c = 1 it is `chi`.

    Source: Schoenholz et al., 2017, arXiv:1611.01232.
    """
    c, q, sigma_w = _floats(c, q, sigma_w)
    u1, u2, weights = _pairs(activation, c, q)
    return sigma_w**2 * jnp.sum(activation.slope(u1) * activation.slope(u2) * weights)


def _search(residual: Callable, start: int) -> Array:
    """The root that q' = residual(q) flows to from _GRID[start]; inf if it flows off the grid."""
    grid = jnp.asarray(_GRID, jnp.result_type(jax.eval_shape(residual, 1.0)))
    drift, index = jax.vmap(residual)(grid) / grid, np.arange(_GRID.size)
    noise = _noise(grid)
    above, below = (drift < -noise) & (index > start), (drift > noise) & (index < start)
    first, last = jnp.argmax(above), _GRID.size - 1 - jnp.argmax(below[::-1])
    rising, found = drift[start] > noise, jnp.any(below)
    lower = jnp.where(rising, grid[first - 1], jnp.where(found, grid[last], 0))
    upper = jnp.where(rising, grid[first], jnp.where(found, grid[last + 1], grid[0]))
    root = _bracketed_newton(residual, lower, upper)
    root = jnp.where(rising & ~jnp.any(above), jnp.inf, root)
    return jnp.where(jnp.abs(drift[start]) <= noise, grid[start], root)


def _bracketed_newton(residual: Callable, lower: Array, upper: Array) -> Array:
    """Newton's method for a residual that falls through 0, with bisection where it would leave."""

    def step(_, state):
        lower, upper, q = state
        value, slope = jax.jvp(residual, (q,), (jnp.ones_like(q),))
        lower, upper = jnp.where(value > 0, q, lower), jnp.where(value > 0, upper, q)
        newton = q - value / slope
        inside = (newton >= lower) & (newton <= upper)
        return lower, upper, jnp.where(inside, newton, (lower + upper) / 2)

    return lax.fori_loop(0, 40, step, (lower, upper, (lower + upper) / 2))[2]


def _root(residual: Callable, guess: Array, solve: Callable) -> Array:
    """A root with the derivatives of the implicit function theorem."""
    return lax.custom_root(residual, guess, solve, lambda g, y: y / g(jnp.ones_like(y)))


def fixed_point_variance(activation: Activation, sigma_w: Scalar, sigma_b: Scalar) -> Array:
    """Find q*, the variance that `variance_map` tends to from q = 1.

    Where there are more fixed points (GELU, SiLU) it is the one whose basin holds q = 1. It is 0
    below 1e-12, and inf if the variance grows without bound (ReLU with sigma_w^2 > 2).

    Source: Poole et al., 2016, arXiv:1606.05340.
    """
    sigma_w, sigma_b = _floats(sigma_w, sigma_b)
    at_zero = sigma_w**2 * activation.function(jnp.zeros_like(sigma_w)) ** 2 + sigma_b**2

    def solve(residual, _):
        q = _search(residual, _START)
        return jnp.where((q < _LEAST) & (at_zero == 0), 0, q)

    def residual(q):
        return variance_map(activation, q, sigma_w, sigma_b) - q

    return _root(residual, jnp.ones_like(sigma_w), solve)


def chi_1(activation: Activation, sigma_w: Scalar, sigma_b: Scalar) -> Array:
    """Compute `chi` at q*: below 1 gradients vanish (ordered phase), above 1 they explode (chaos).

    Where q* is infinite it is the limit at large q.

    Source: Poole et al., 2016, arXiv:1606.05340.
    """
    q = fixed_point_variance(activation, sigma_w, sigma_b)
    return chi(activation, jnp.minimum(q, _MOST), sigma_w)


def _ordered(chi_at_q: Array) -> Array:
    return chi_at_q <= 1 + _noise(chi_at_q)


def fixed_point_correlation(activation: Activation, sigma_w: Scalar, sigma_b: Scalar) -> Array:
    """Find c*, the correlation that any two inputs tend to: 1 if chi_1 <= 1, else below 1.

    It is nan where q* is infinite.

    Source: Poole et al., 2016, arXiv:1606.05340.
    """
    sigma_w, sigma_b = _floats(sigma_w, sigma_b)
    q = fixed_point_variance(activation, sigma_w, sigma_b)
    return _correlation_at(activation, q, sigma_w, sigma_b)


def _correlation_at(activation: Activation, q: Array, sigma_w: Array, sigma_b: Array) -> Array:
    def residual(c):
        return correlation_map(activation, c, q, sigma_w, sigma_b) - c

    def solve(residual, guess):
        def step(_, c):  # C is convex with C(0) >= 0, so Newton climbs to the lowest root
            value, slope = jax.jvp(residual, (c,), (jnp.ones_like(c),))
            return jnp.where(slope < 0, jnp.clip(c - value / slope, 0, 1), c)

        return lax.fori_loop(0, 30, step, guess)

    ordered = _ordered(chi(activation, q, sigma_w))
    c = jnp.where(ordered, 1, _root(residual, jnp.zeros_like(q), solve))
    return jnp.where(jnp.isinf(q), jnp.nan, c)


def _depth_scale(rate: Array) -> Array:
    critical = jnp.abs(rate) >= 1 - _noise(rate)
    return jnp.where(critical, jnp.inf, -1 / jnp.log(jnp.where(critical, 0.5, jnp.abs(rate))))


def depth_scale_variance(activation: Activation, sigma_w: Scalar, sigma_b: Scalar) -> Array:
    """Compute xi_q, the number of layers in which q nears q* by a factor e.

    `1/xi_q = -ln dV/dq(q*) = -ln(chi_1 + sigma_w^2 E[phi'' phi])`, inf where dV/dq >= 1.

    Source: Schoenholz et al., 2017, arXiv:1611.01232.
    """
    sigma_w, sigma_b = _floats(sigma_w, sigma_b)
    q = jnp.minimum(fixed_point_variance(activation, sigma_w, sigma_b), _MOST)
    return _depth_scale(jax.grad(variance_map, argnums=1)(activation, q, sigma_w, sigma_b))


def depth_scale_correlation(activation: Activation, sigma_w: Scalar, sigma_b: Scalar) -> Array:
    """Compute xi_c, the number of layers in which c nears c* by a factor e.

    `1/xi_c = -ln(sigma_w^2 E[phi'(u1) phi'(u2)])` at (q*, c*), which is `-ln chi_1` if c* = 1; inf
    at criticality, nan where q* is infinite. Networks train to a depth of some 6 xi_c.

    Source: Schoenholz et al., 2017, arXiv:1611.01232.
    """
    sigma_w, sigma_b = _floats(sigma_w, sigma_b)
    q = fixed_point_variance(activation, sigma_w, sigma_b)
    c = _correlation_at(activation, q, sigma_w, sigma_b)
    chi_at_q = chi(activation, q, sigma_w)
    chaotic = correlation_slope(activation, jnp.where(c < 1, c, 0), q, sigma_w)
    rate = _depth_scale(jnp.where(_ordered(chi_at_q), chi_at_q, chaotic))
    return jnp.where(jnp.isinf(q), jnp.nan, rate)


def critical_line(activation: Activation, q: Scalar) -> tuple[Array, Array]:
    """Find the edge of chaos, chi_1 = 1, as a curve parametrised by q = q*, without a search.

    `sigma_w^2 = 1 / E[phi'^2]`, `sigma_b^2 = q - sigma_w^2 E[phi^2]`, at `sqrt(q) z`.

    Args:
        activation: phi.
        q: variance at the fixed point, above 0. (It may be unstable if phi is not odd.)

    Returns:
        `(sigma_w, sigma_b)`, each `[]`; sigma_b is nan where no bias makes q critical.

    Source: Hayou, Doucet and Rousseau, 2019, arXiv:1902.06853; this parametrisation is ours.
    """
    (q,) = _floats(q)
    sigma_w = 1 / jnp.sqrt(chi(activation, q, 1.0))
    bias_variance = q - variance_map(activation, q, sigma_w, 0.0)
    bias_variance = jnp.where(  # rounding is not a bias: ReLU is critical at 0
        jnp.abs(bias_variance) <= _noise(q) * q, 0, bias_variance
    )
    positive = bias_variance > 0  # the root of 0 has no gradient; 0 stands for it
    sigma_b = jnp.sqrt(jnp.where(positive, bias_variance, 1))
    return sigma_w, jnp.where(positive, sigma_b, jnp.where(bias_variance < 0, jnp.nan, 0))


def critical_sigma_w(activation: Activation, sigma_b: Scalar) -> Array:
    """Find the sigma_w at which chi_1 = 1 for a given sigma_b.

    Solves `sigma_b^2 = q - E[phi^2] / E[phi'^2]` for the lowest q > 0, then `1 / sqrt(E[phi'^2])`.
    It is nan if there is no such q (ReLU with biases).

    Source: Schoenholz et al., 2017, arXiv:1611.01232.

    Example:
        >>> from jaxnn.nets import activations
        >>> sigma_w = jax.jit(lambda b: critical_sigma_w(activations.tanh, b))(0.05**0.5)
        >>> print((sigma_w**2).round(3))
        1.761
    """
    (sigma_b,) = _floats(sigma_b)

    def residual(q):
        return sigma_b**2 - q + variance_map(activation, q, 1.0, 0.0) / chi(activation, q, 1.0)

    q = _root(residual, jnp.ones_like(sigma_b), lambda f, _: _search(f, 0))
    return jnp.where(jnp.isinf(q), jnp.nan, 1 / jnp.sqrt(chi(activation, q, 1.0)))


def residual_variance_map(
    activation: Activation, q: Scalar, sigma_w: Scalar, sigma_b: Scalar
) -> Array:
    """Map the variance over one residual block `z + W phi(z) + b`: `q + variance_map(q)`.

    Source: Yang and Schoenholz, 2017, arXiv:1712.08969.
    """
    return q + variance_map(activation, q, sigma_w, sigma_b)


def residual_chi(activation: Activation, q: Scalar, sigma_w: Scalar) -> Array:
    """Compute the growth of squared gradients over one residual block: `1 + chi(q)`.

    Source: Yang and Schoenholz, 2017, arXiv:1712.08969.
    """
    return 1 + chi(activation, q, sigma_w)
