"""The measurements: what a research plot of a network in training puts on its vertical axis.

Contract: each is a `Probe` named `quantity_statistic`, a function of one `Flow`. Per-layer ones
have dims `("layer",)`, hidden layers only. In the formulas h is an activation, z a pre-activation,
W a kernel `[fan_in, unit]`, L the mean loss, and E the mean over examples (by weight) and units.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxnn.probes.by_layer import kernels_by_layer, mean_by_layer, pair_cosine, rms, signal_rms
from jaxnn.probes.contract import probe
from jaxnn.probes.tapped import Flow


@probe(long_name="mean loss")
def loss(flow: Flow) -> Array:
    """Mean loss L of the batch, in the loss's own unit (nats for cross entropy)."""
    return flow.loss


@probe(long_name="accuracy")
def accuracy(flow: Flow) -> Array:
    """Share of examples whose largest output is their class.

    Where outputs have a time axis, `[batch, time, class]`, of examples and times.
    """
    if not jnp.issubdtype(flow.targets.dtype, jnp.integer):
        raise TypeError(
            f"probe 'accuracy': expected integer class labels, got {flow.targets.dtype} targets; "
            "leave the probe out for regression"
        )
    right = jnp.argmax(flow.outputs, axis=-1).astype(flow.targets.dtype) == flow.targets
    share = jnp.mean(right.astype(flow.weight.dtype), axis=tuple(range(1, right.ndim)))
    return jnp.sum(flow.weight * share) / jnp.sum(flow.weight)  # exactly 1 where all are right


@probe(("layer",), long_name="rms of the weight gradient")
def grad_rms(flow: Flow) -> Array:
    """sqrt(mean (dL/dW)^2) of each layer's kernel (Glorot & Bengio 2010, section 4.2)."""
    return kernels_by_layer("grad_rms", flow.gradients, rms)


@probe(("layer",), long_name="rms of the pre-activation gradient")
def preact_grad_rms(flow: Flow) -> Array:
    """sqrt(E (dl_i/dz)^2), the back-propagated signal of each example's own loss l_i.

    Of the mean loss L = sum_i w_i l_i, dL/dz_i = w_i dl_i/dz_i: dividing by w_i makes the measure
    independent of the batch's size. Mean field: its square grows by chi_1 per layer backwards
    (Schoenholz et al. 2017, eq. 17, 1611.01232).
    """
    return signal_rms(flow.backward, flow.weight)


@probe(("layer",), long_name="mean activation")
def act_mean(flow: Flow) -> Array:
    """E h over examples and units."""
    return mean_by_layer(flow.taps.post, flow)


@probe(("layer",), long_name="activation variance")
def act_var(flow: Flow) -> Array:
    """E h^2 - (E h)^2 over examples and units (Glorot & Bengio 2010, eq. 5)."""
    centre = mean_by_layer(flow.taps.post, flow)[:, None, None]
    return mean_by_layer((flow.taps.post - centre) ** 2, flow)


@probe(("layer",), long_name="mean squared pre-activation")
def preact_second_moment(flow: Flow) -> Array:
    """E z^2, the length q of the mean-field theory (Poole et al. 2016, eq. 2, 1606.05340)."""
    return mean_by_layer(flow.taps.pre**2, flow)


@probe(("layer",), long_name="saturated fraction")
def saturated_fraction(flow: Flow) -> Array:
    """Share of (example, unit) pairs where |phi'(z)| is at or below the saturation criterion.

    The criterion is the activation's own: a tenth of the largest slope for smooth ones, exactly 0
    for relu and hard tanh.
    """
    return mean_by_layer(_slope_at_most(flow, "saturated_slope").astype(flow.weight.dtype), flow)


@probe(("layer",), long_name="dead fraction")
def dead_fraction(flow: Flow) -> Array:
    """Share of units with |phi'(z)| at or below the death criterion on every example of the batch.

    A dead unit's weights get no gradient from any example (Lu et al. 2019, 1903.06733); whether
    it outputs zero or a constant does not matter.
    """
    dead_here = _slope_at_most(flow, "dead_slope") | (flow.weight == 0)[None, :, None]
    return jnp.mean(jnp.all(dead_here, axis=1).astype(flow.weight.dtype), axis=-1)


def _slope_at_most(flow: Flow, criterion: str) -> Array:
    if flow.activation is None:
        raise ValueError(
            "probes 'saturated_fraction' and 'dead_fraction' need Model.activation, got None; "
            "set it to the hidden layers' Activation, or leave these probes out"
        )
    slope = jnp.abs(flow.activation.slope(flow.taps.pre))
    return slope <= jnp.asarray(getattr(flow.activation, criterion), slope.dtype)


@probe(("layer",), long_name="rms of the weights")
def weight_rms(flow: Flow) -> Array:
    """sqrt(mean W^2) of each layer's kernel."""
    return kernels_by_layer("weight_rms", flow.params, rms)


@probe(("layer",), long_name="update-to-weight ratio")
def update_ratio(flow: Flow) -> Array:
    """|dW| / |W| of the step that the optimiser would take for this batch's gradient.

    Around 1e-3 in healthy training (a rule of thumb; Karpathy, CS231n notes on neural networks 3).
    """
    updates = updates_of("update_ratio", flow)
    size = kernels_by_layer("update_ratio", updates, rms)
    return size / kernels_by_layer("update_ratio", flow.params, rms)


def updates_of(name: str, flow: Flow) -> dict[str, Any]:
    """Return the optimiser's updates for the probe of a name.

    Raises:
        ValueError: the flow holds none.
    """
    if flow.updates is None:
        raise ValueError(
            f"probe {name!r}: the flow holds no updates; measure it through jn.fit, "
            "or set them: flow._replace(updates=...)"
        )
    return flow.updates


@probe(("layer",), long_name="mean cosine similarity of inputs' pre-activations")
def preact_cosine(flow: Flow) -> Array:
    """Mean over pairs i != j of cos(z_i, z_j), the c-value of each layer.

    1 where the network maps all inputs to one direction; the theory's c* is its limit with depth
    (Poole et al. 2016, eq. 5, 1606.05340). Pairs are weighted by w_i w_j.
    NaN for a single example; a zero vector counts as orthogonal to all.
    """
    return pair_cosine(flow.taps.pre, flow.weight)
