"""The checks that probes share: each error names what it is about, what was expected, what came."""

import jax.numpy as jnp

from jaxnn.probes.tapped import Flow


def check_count(name: str, value: int, least: int = 1) -> None:
    """Check a count that fixes a program's shape.

    Raises:
        TypeError, ValueError: it is no int, or below the least.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an int, got {value!r}; it fixes the program's shape")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_float_inputs(name: str, flow: Flow) -> None:
    """Check, for the probe of a name, that inputs can be moved a little.

    Raises:
        TypeError: they are no floats.
    """
    if not jnp.issubdtype(flow.x.dtype, jnp.floating):
        raise TypeError(
            f"probe {name!r}: expected float inputs, got {flow.x.dtype}, which cannot be moved a "
            "little; leave the probe out"
        )
