"""Training: losses, optimisers with traced numbers, and whole trainings as pure functions."""

from jaxnn.training import range_test, schedules, stopping
from jaxnn.training.fit import fit, training
from jaxnn.training.gradient_flow import gradient_flow
from jaxnn.training.long_runs import long_run
from jaxnn.training.losses import cross_entropy, smoothed_cross_entropy, squared_error
from jaxnn.training.mup import mup_readout_gain, scale_by_mup
from jaxnn.training.optimizers import optimizer
from jaxnn.training.param_groups import kernels
from jaxnn.training.projections import proximal_l1

__all__ = [
    "cross_entropy",
    "fit",
    "gradient_flow",
    "kernels",
    "long_run",
    "mup_readout_gain",
    "optimizer",
    "proximal_l1",
    "range_test",
    "scale_by_mup",
    "schedules",
    "smoothed_cross_entropy",
    "squared_error",
    "stopping",
    "training",
]
