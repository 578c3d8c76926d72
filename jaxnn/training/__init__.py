"""Training: losses, optimisers with traced numbers, and whole trainings as pure functions."""

from jaxnn.training.fit import fit, training
from jaxnn.training.losses import cross_entropy, squared_error
from jaxnn.training.optimizers import kernels, optimizer, proximal_l1

__all__ = [
    "cross_entropy",
    "fit",
    "kernels",
    "optimizer",
    "proximal_l1",
    "squared_error",
    "training",
]
