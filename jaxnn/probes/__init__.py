"""Probes: one tapped forward-backward pass (`Flow`), and the measurements made of it."""

from jaxnn.probes.contract import Probe, measure, probe
from jaxnn.probes.measurements import (
    accuracy,
    act_mean,
    act_var,
    dead_fraction,
    grad_rms,
    loss,
    preact_cosine,
    preact_grad_rms,
    preact_second_moment,
    saturated_fraction,
    update_ratio,
    weight_rms,
)
from jaxnn.probes.tapped import Flow, example_weight, flow, mean_loss

__all__ = [
    "Flow",
    "Probe",
    "accuracy",
    "act_mean",
    "act_var",
    "dead_fraction",
    "example_weight",
    "flow",
    "grad_rms",
    "loss",
    "mean_loss",
    "measure",
    "preact_cosine",
    "preact_grad_rms",
    "preact_second_moment",
    "probe",
    "saturated_fraction",
    "update_ratio",
    "weight_rms",
]
