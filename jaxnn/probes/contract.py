"""The contract of a probe, and how probes are measured: one pass feeds them all."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxnn.probes.tapped import Flow
from jaxnn.types import Coordinate, Labelled


class Probe(NamedTuple):
    """A named measurement: a pure function of a `Flow`, with the labels of what it returns."""

    name: str
    dims: tuple[str, ...]
    unit: str
    long_name: str
    measure: Callable[[Flow], Array]


def probe(
    dims: Sequence[str] = (), *, unit: str = "1", long_name: str
) -> Callable[[Callable[[Flow], Array]], Probe]:
    """Make a `Probe` of the decorated function, under the function's name.

    Example:
        >>> @probe(long_name="largest output")
        ... def output_max(flow):
        ...     return flow.outputs.max()
        >>> output_max.name, output_max.unit
        ('output_max', '1')
    """

    def build(measure: Callable[[Flow], Array]) -> Probe:
        return Probe(measure.__name__, tuple(dims), unit, long_name, measure)

    return build


def measure(probes: Sequence[Probe], flow: Flow) -> dict[str, Labelled | Coordinate]:
    """Measure every probe on one pass; layers that a masked member lacks read NaN.

    Returns:
        A `Labelled` for each probe, and the coordinate `layer` where one has that dim (1 is the
        first hidden layer).
    """
    measured: dict[str, Labelled | Coordinate] = {p.name: _labelled(p, flow) for p in probes}
    if any("layer" in each.dims for each in probes):
        layers = tuple(range(1, 1 + flow.taps.pre.shape[0]))
        measured["layer"] = Coordinate(layers, "1", "hidden layer")
    return measured


def _labelled(probe: Probe, flow: Flow) -> Labelled:
    values = probe.measure(flow)
    if values.ndim != len(probe.dims):
        raise ValueError(
            f"probe {probe.name!r}: returned an array of shape {values.shape}, "
            f"but its dims are {probe.dims}; give each axis a name"
        )
    if flow.active is not None and "layer" in probe.dims:
        axis = probe.dims.index("layer")
        shape = [-1 if dim == axis else 1 for dim in range(values.ndim)]
        values = jnp.where(flow.active.reshape(shape), values, jnp.nan)
    return Labelled(values, probe.dims, probe.unit, probe.long_name)
