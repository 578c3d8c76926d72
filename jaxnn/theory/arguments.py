"""Arguments of closed forms: numbers of any kind become floats of one dtype.

Theory takes scalars or arrays of one shape, Python's or traced; results have their dtype. Counts
(layers, steps, examples) may be integers, and may be traced too.
"""

import jax.numpy as jnp
from jax import Array

from jaxnn.types import Scalar


def floats(*arguments: Scalar) -> list[Array]:
    """Turn the arguments into arrays of their common floating dtype.

    Integers take the dtype of the others, and the default one where all are integers.

    Example:
        >>> [each.dtype.name for each in floats(3, jnp.float16(0.5))]
        ['float16', 'float16']
    """
    floating = [a for a in arguments if jnp.issubdtype(jnp.result_type(a), jnp.floating)]
    dtype = jnp.result_type(*floating, 1.0)
    return [jnp.asarray(argument, dtype) for argument in arguments]
