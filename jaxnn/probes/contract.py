"""The contract of a probe, and how probes are measured: one pass feeds them all."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.probes import tapped
from jaxnn.probes.tapped import Flow
from jaxnn.types import Batch, Coordinate, Labelled, Loss, Model


class Probe(NamedTuple):
    """A named measurement: a pure function of a `Flow`, with the labels of what it returns.

    One that finds several things at once, all with its dims and unit, returns a dictionary of
    arrays. Each is shown as `name_key`, the one under the key "" as `name`.
    """

    name: str
    dims: tuple[str, ...]
    unit: str
    long_name: str
    measure: Callable[[Flow], Array | dict[str, Array]]


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
        A `Labelled` for each array that a probe finds, and the coordinate `layer` where one has
        that dim (1 is the first hidden layer).

    Raises:
        ValueError: a probe by layers meets a network that shows none, returns an array that does
            not fit its dims, or shows what another probe shows.
    """
    measured: dict[str, Labelled | Coordinate] = {}
    for each in probes:
        found = _labelled(each, flow)
        if twice := sorted(found.keys() & measured.keys()):
            raise ValueError(
                f"probe {each.name!r}: shows {', '.join(twice)}, as another probe does; "
                "rename one: probe._replace(name=...)"
            )
        measured |= found
    if any("layer" in each.dims for each in probes):
        layers = tuple(range(1, 1 + _num_layers(flow)))
        measured["layer"] = Coordinate(layers, "1", "hidden layer")
    return measured


def measure_init(
    probes: Sequence[Probe], model: Model, loss: Loss, key: Array, batch: Batch
) -> dict[str, Labelled | Coordinate]:
    """Measure probes on a batch at a network's random start, as laws of initialisation need it.

    Args:
        probes: what to measure.
        model: the network.
        loss: per-example loss, `(outputs, targets) -> [batch]`.
        key: of the random start.
        batch: the examples to measure on.
    """
    batch = jax.tree.map(jnp.asarray, batch)
    return measure(probes, tapped.flow(model, loss, model.init(key, batch.x), batch))


def _labelled(probe: Probe, flow: Flow) -> dict[str, Labelled]:
    if "layer" in probe.dims and flow.taps is None:
        raise ValueError(
            f"probe {probe.name!r}: expected a network that shows its layers, but its apply "
            "returned taps=None; return Taps(pre, post), each [layer, batch, unit], and add shift "
            "to the pre-activations, or leave the probe out"
        )
    found = probe.measure(flow)
    parts = found if isinstance(found, dict) else {"": found}
    labelled = {}
    for part, values in parts.items():
        words = part.replace("_", " ")
        name = f"{probe.name}_{part}" if part else probe.name
        long_name = f"{probe.long_name}, {words}" if part else probe.long_name
        values = _checked(probe, flow, values)
        labelled[name] = Labelled(values, probe.dims, probe.unit, long_name)
    return labelled


def _checked(probe: Probe, flow: Flow, values: Array) -> Array:
    """Check an array's axes, and mask the layers that a member lacks."""
    if values.ndim != len(probe.dims):
        raise ValueError(
            f"probe {probe.name!r}: returned an array of shape {values.shape}, "
            f"but its dims are {probe.dims}; give each axis a name"
        )
    if "layer" not in probe.dims:
        return values
    axis = probe.dims.index("layer")
    if values.shape[axis] != _num_layers(flow):
        raise ValueError(
            f"probe {probe.name!r}: expected one number for each of the {_num_layers(flow)} layers "
            f"that the taps show, got {values.shape[axis]}; give the network's layers as many "
            "kernels as taps, or leave the probe out"
        )
    if flow.active is None:
        return values
    shape = [-1 if dim == axis else 1 for dim in range(values.ndim)]
    return jnp.where(flow.active.reshape(shape), values, jnp.nan)


def _num_layers(flow: Flow) -> int:
    return flow.taps.pre.shape[0]
