"""Probes: one tapped forward-backward pass (`Flow`), and the measurements made of it.

Most are measured as they are; `hessian_extremes`, `gradient_noise` and the like are
builders, which take what fixes their work: `probes=[probes.loss, probes.hessian_extremes()]`.
"""

from jaxnn.probes.contract import Probe, measure, measure_init, probe
from jaxnn.probes.curvature import (
    gauss_newton_max,
    gradient_sharpness,
    hessian_density,
    hessian_extremes,
    hessian_trace,
    preconditioned_sharpness,
)
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
from jaxnn.probes.noise import (
    grad_cosine,
    grad_snr,
    gradient_autocorrelation,
    gradient_noise,
    noise_scale,
    step_alpha,
)
from jaxnn.probes.representations import (
    cka,
    count_regions,
    effective_rank,
    jacobian_sv,
    kernel_distance,
    layer_cka,
    linear_regions,
    ntk,
    skip_grad_rms,
    skipped_signals,
)
from jaxnn.probes.surface import (
    filter_direction,
    filter_normalised,
    interpolated_loss,
    loss_line,
    loss_plane,
    loss_slice,
)
from jaxnn.probes.tapped import Flow, example_weight, flow, mean_loss

__all__ = [
    "Flow",
    "Probe",
    "accuracy",
    "act_mean",
    "act_var",
    "cka",
    "count_regions",
    "dead_fraction",
    "effective_rank",
    "example_weight",
    "filter_direction",
    "filter_normalised",
    "flow",
    "gauss_newton_max",
    "grad_cosine",
    "grad_rms",
    "grad_snr",
    "gradient_autocorrelation",
    "gradient_noise",
    "gradient_sharpness",
    "hessian_density",
    "hessian_extremes",
    "hessian_trace",
    "interpolated_loss",
    "jacobian_sv",
    "kernel_distance",
    "layer_cka",
    "linear_regions",
    "loss",
    "loss_line",
    "loss_plane",
    "loss_slice",
    "mean_loss",
    "measure",
    "measure_init",
    "noise_scale",
    "ntk",
    "preact_cosine",
    "preact_grad_rms",
    "preact_second_moment",
    "preconditioned_sharpness",
    "probe",
    "saturated_fraction",
    "skip_grad_rms",
    "skipped_signals",
    "step_alpha",
    "update_ratio",
    "weight_rms",
]
