"""Recurrent networks over time: bounds on gradients, a latch, and the memory of gates.

What a study of long dependencies compares its measurements with. The growth of gradients in random
tanh networks is `mean_field.chi_1`, as in depth; baselines of memory tasks stand beside the tasks
in `jaxnn.data`.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar


def jacobian_bound(largest_singular_value: Scalar, num_steps: Scalar, slope: Scalar = 1) -> Array:
    """Bound the norm of the Jacobian of the last state in the first: `(gamma s)^T`.

    Below 1 gradients vanish for sure; above, they may explode. The bound is exact for orthogonal
    weights times s and no nonlinearity. It is loose for Gaussian ones, of variance `g^2 / n`, whose
    largest singular value tends to 2g and whose spectral radius to g.

    Args:
        largest_singular_value: s, of the recurrent weights.
        num_steps: T.
        slope: gamma, the nonlinearity's largest slope: 1 for tanh and ReLU, 1/4 for the sigmoid.

    Returns:
        The bound on the spectral norm, of the arguments' shape.

    Source: Pascanu, Mikolov and Bengio, 2013, arXiv:1211.5063.
    """
    value, steps, slope = floats(largest_singular_value, num_steps, slope)
    return (slope * value) ** steps


def latch_state(weight: Scalar) -> Array:
    """Find the state that a unit `x = tanh(w x)` latches: the fixed point x > 0.

    Args:
        weight: w of the unit to itself; at 1 and below, 0 is the only fixed point.

    Returns:
        x*, of the argument's shape; its mirror image is stable too. The gradient is 0 for w <= 1.

    Source: Bengio, Simard and Frasconi, 1994, IEEE Transactions on Neural Networks 5:157.

    Example:
        >>> print(latch_state(2.0).round(4), latch_contraction(2.0).round(4))
        0.9575 0.1664
    """
    (weight,) = floats(weight)
    latched = weight > 1
    safe = jnp.where(latched, weight, 2)

    def newton(x: Array, w: Array) -> Array:  # from the right of a concave function's root
        value = jnp.tanh(w * x)
        return x - (value - x) / (w * (1 - value**2) - 1)

    fixed = jax.lax.stop_gradient(safe)
    x = jax.lax.fori_loop(0, 60, lambda _, x: newton(x, fixed), jnp.ones_like(safe))
    return jnp.where(latched, newton(jax.lax.stop_gradient(x), safe), 0)


def latch_contraction(weight: Scalar) -> Array:
    """Compute the factor by which gradients shrink at each step in the latched state.

    `w (1 - x*^2)`, below 1 wherever the latch holds: what is stored safely is forgotten by the
    gradient, as its T-th power.

    Args:
        weight: w of the unit to itself; above 1 for a latch.

    Returns:
        dx'/dx at `latch_state`, of the argument's shape.

    Source: Bengio, Simard and Frasconi, 1994, IEEE Transactions on Neural Networks 5:157.
    """
    (weight,) = floats(weight)
    return weight * (1 - latch_state(weight) ** 2)


def memory_factor(forget_bias: Scalar, num_steps: Scalar) -> Array:
    """Compute what a forget gate keeps of its cell, dc_T/dc_0 with zero weights: `sigmoid(b)^T`.

    Args:
        forget_bias: b.
        num_steps: T.

    Returns:
        The factor, of the arguments' shape.

    Source: Gers, Schmidhuber and Cummins, 2000, Neural Computation 12:2451; Jozefowicz, Zaremba
        and Sutskever, 2015, PMLR 37:2342.
    """
    forget_bias, num_steps = floats(forget_bias, num_steps)
    return jnp.exp(num_steps * jax.nn.log_sigmoid(forget_bias))


def half_life(forget_bias: Scalar) -> Array:
    """Compute the steps in which a forget gate halves its cell: `ln 2 / -ln sigmoid(b)`.

    Args:
        forget_bias: b.

    Returns:
        Steps, of the argument's shape: 1, 2.21, 5.46 and 103 for b = 0, 1, 2 and 5.

    Source: Jozefowicz, Zaremba and Sutskever, 2015, PMLR 37:2342, for the bias; ours the formula.
    """
    (forget_bias,) = floats(forget_bias)
    return -math.log(2) / jax.nn.log_sigmoid(forget_bias)


def chrono_bias(num_steps: Scalar) -> Array:
    """Compute the forget bias of a memory of T steps: `ln(T - 1)`, where `1 / (1-sigmoid(b)) = T`.

    Chrono initialisation draws T uniformly from 2 to the longest dependency for each unit, and
    gives the input gate the negative bias.

    Args:
        num_steps: T, above 1.

    Returns:
        b, of the argument's shape.

    Source: Tallec and Ollivier, 2018, arXiv:1804.11188.
    """
    (num_steps,) = floats(num_steps)
    return jnp.log(num_steps - 1)
