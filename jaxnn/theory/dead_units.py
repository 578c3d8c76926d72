"""Born dead: the probability that a ReLU network is constant at initialisation.

Networks without biases whose weights are symmetric about 0 and independent. Once every unit of a
layer is inactive at an input, all that follows is constant there. The count is of hidden layers:
a network of L weight matrices has L - 1.
"""

import jax.numpy as jnp
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar


def death_probability(width: Scalar, num_hidden: Scalar) -> Array:
    """Compute the probability that one given input reaches no unit of the last hidden layer.

    `1 - (1 - 2^-N)^H`: each layer is inactive with probability 2^-N. Exact for a single input, and
    an upper bound for death on a whole domain. Layers of different widths multiply their
    probabilities to survive.

    Args:
        width: N, the units of each hidden layer.
        num_hidden: H, the number of hidden layers.

    Returns:
        The probability, of the arguments' shape.

    Source: Lu, Shin, Su and Karniadakis, 2019, arXiv:1903.06733.

    Example:
        >>> print(death_probability(2, 9).round(4))
        0.9249
    """
    width, num_hidden = floats(width, num_hidden)
    return -jnp.expm1(num_hidden * jnp.log1p(-jnp.exp2(-width)))


def line_death_bounds(width: Scalar, num_hidden: Scalar) -> tuple[Array, Array]:
    """Bound the probability that a network of one input is constant on the whole line.

    Without biases the network is known from its two rays, x > 0 and x < 0. The upper bound is
    `death_probability`. The lower one takes the case that favours life: with
    `a1 = 1 - 2^-N` the probability that one live ray survives a layer, and
    `a2 = 1 - 2^(1-N) - (N-1) 4^-N` the largest that two independent ones do,

        lower = 1 - a1^(H-1) + C (a2^(H-1) - a1^(H-1)),
        C = (1 - 2^(1-N)) (1 - 2^-N) / (1 + (N-1) 2^-N).

    It is the exact probability for one hidden layer (0: no width is dead) and for two, where it is
    `2^(1-N) 2^-N + (1 - 2^(1-N)) 4^-N`.

    Args:
        width: N, the units of each hidden layer.
        num_hidden: H, the number of hidden layers, 1 or more.

    Returns:
        `(lower, upper)`, each of the arguments' shape.

    Source: Lu, Shin, Su and Karniadakis, 2019, arXiv:1903.06733, for the bounds; derived anew here,
        as the chain of two rays, one ray or two collinear ones, and none.

    Example:
        >>> lower, upper = line_death_bounds(2, 2)
        >>> print(lower.round(5), upper.round(4))
        0.15625 0.4375
    """
    width, num_hidden = floats(width, num_hidden)
    inactive = jnp.exp2(-width)
    one = 1 - inactive
    two = 1 - 2 * inactive - (width - 1) * inactive**2
    both = (1 - 2 * inactive) * (1 - inactive) / (1 + (width - 1) * inactive)
    later = num_hidden - 1
    lower = 1 - one**later + both * (two**later - one**later)
    return lower, death_probability(width, num_hidden)
