"""jaxnn: how neural networks train and fail, studied in vectorised sweeps of pure functions.

Write one run as one pure function, `jaxnn.sweep` it over depth, initialisation, learning rate and
seeds, and read an `xarray.Dataset` measured layer by layer, with theory beside it.
"""

from jaxnn import data, probes, theory
from jaxnn.nets import (
    activation,
    activations,
    batch_norm,
    constant,
    fixup,
    gaussian,
    glorot,
    he,
    initialiser,
    layer_norm,
    leaky_relu,
    lecun,
    mlp,
    orthogonal,
    residual_mlp,
    rezero,
    uniform,
    zeros,
)
from jaxnn.sweep import (
    Plan,
    RayExecutor,
    SlurmExecutor,
    depths,
    halving,
    keep_compiled,
    load,
    plan,
    spawn_pool,
    sweep,
    traced,
    use_every_core,
)
from jaxnn.training import cross_entropy, fit, optimizer, squared_error, training
from jaxnn.types import (
    Activation,
    Batch,
    Coordinate,
    Dataset,
    Depth,
    Labelled,
    Model,
    Taps,
    Training,
)

__all__ = [
    "Activation",
    "Batch",
    "Coordinate",
    "Dataset",
    "Depth",
    "Labelled",
    "Model",
    "Plan",
    "RayExecutor",
    "SlurmExecutor",
    "Taps",
    "Training",
    "activation",
    "activations",
    "batch_norm",
    "constant",
    "cross_entropy",
    "data",
    "depths",
    "fit",
    "fixup",
    "gaussian",
    "glorot",
    "halving",
    "he",
    "initialiser",
    "keep_compiled",
    "layer_norm",
    "leaky_relu",
    "lecun",
    "load",
    "mlp",
    "optimizer",
    "orthogonal",
    "plan",
    "probes",
    "residual_mlp",
    "rezero",
    "spawn_pool",
    "squared_error",
    "sweep",
    "theory",
    "traced",
    "training",
    "uniform",
    "zeros",
]

use_every_core()

__version__ = "0.1.0"
