"""Networks: activations, initialisers, and families of models built from linen blocks.

flax lives in this folder and only here; what leaves it is a `Model` and dictionaries of arrays.
"""

from jaxnn.nets import activations
from jaxnn.nets.activations import activation, leaky_relu
from jaxnn.nets.convolutional import (
    cnn,
)
from jaxnn.nets.foreign import (
    from_functions,
    from_linen,
    from_nnx,
    tap,
)
from jaxnn.nets.initialisers import (
    constant,
    delta_orthogonal,
    gaussian,
    glorot,
    he,
    initialiser,
    lecun,
    looks_linear,
    orthogonal,
    sparse,
    uniform,
    zeros,
)
from jaxnn.nets.mlp import mlp
from jaxnn.nets.norms import batch_norm, layer_norm
from jaxnn.nets.recurrent import (
    rnn,
    scaled_identity,
)
from jaxnn.nets.reinitialise import (
    lsuv,
    rai,
)
from jaxnn.nets.residual import fixup, residual_mlp, rezero
from jaxnn.nets.transformer import (
    transformer,
)

__all__ = [
    "activation",
    "activations",
    "batch_norm",
    "cnn",
    "constant",
    "delta_orthogonal",
    "fixup",
    "from_functions",
    "from_linen",
    "from_nnx",
    "gaussian",
    "glorot",
    "he",
    "initialiser",
    "layer_norm",
    "leaky_relu",
    "lecun",
    "looks_linear",
    "lsuv",
    "mlp",
    "orthogonal",
    "rai",
    "residual_mlp",
    "rezero",
    "rnn",
    "scaled_identity",
    "sparse",
    "tap",
    "transformer",
    "uniform",
    "zeros",
]
