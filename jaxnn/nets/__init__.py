"""Networks: activations, initialisers, and families of models built from linen blocks.

flax lives in this folder and only here; what leaves it is a `Model` and dictionaries of arrays.
"""

from jaxnn.nets import activations
from jaxnn.nets.activations import activation, leaky_relu
from jaxnn.nets.initialisers import (
    constant,
    gaussian,
    glorot,
    he,
    initialiser,
    lecun,
    orthogonal,
    uniform,
    zeros,
)
from jaxnn.nets.mlp import mlp

__all__ = [
    "activation",
    "activations",
    "constant",
    "gaussian",
    "glorot",
    "he",
    "initialiser",
    "leaky_relu",
    "lecun",
    "mlp",
    "orthogonal",
    "uniform",
    "zeros",
]
