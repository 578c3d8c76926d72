"""One tiny task and network, for jaxnn and for the numpy reference; float64 throughout."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as jn
from jaxnn import probes
from jaxnn.types import Batch, Dataset, Model, Taps
from tests import reference

NUM_TRAIN, FEATURES, WIDTH, OUT, DEPTH = 8, 3, 4, 3, 2
NUM_STEPS = 5

_rng = np.random.default_rng(21)
X = _rng.standard_normal((NUM_TRAIN, FEATURES))
LABELS = _rng.integers(0, OUT, NUM_TRAIN)
UNSEEN = _rng.standard_normal((6, FEATURES))
UNSEEN_LABELS = _rng.integers(0, OUT, 6)
NETWORK = reference.random_network(4, [FEATURES, *[WIDTH] * DEPTH, OUT])


@probes.probe(("parameter",), long_name="all parameters end to end")
def parameters(flow):
    """Show what was trained, in the order of `reference.flattened`."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(flow.params)])


def dataset(num_train=None, weight=None, labels=LABELS):
    """The task in numpy: nothing is compiled to make it."""
    unseen = Batch(UNSEEN, UNSEEN_LABELS)
    return Dataset(Batch(X, labels, weight), unseen, unseen, num_train)


def model(activation="tanh", network=NETWORK):
    """The network, which always starts from the same weights."""

    def init(key, x):
        del key
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, x.dtype), reference.stacked(network))
        return {"params": params}

    return jn.mlp(DEPTH, WIDTH, OUT, activation)._replace(init=init)


def fit(optimizer, *, loss=jn.cross_entropy, data=None, **changes):
    """Fit the tiny network on full batches, all parameters and the loss recorded at each step."""
    arguments = {
        "key": jax.random.key(0),
        "num_steps": NUM_STEPS,
        "record_every": 1,
        "probes": [parameters, probes.loss],
        "sampling": "full",
        **changes,
    }
    network = arguments.pop("model", None) or model()
    return jn.fit(network, loss, optimizer, dataset() if data is None else data, **arguments)


CURVATURES = np.array([5.0, 2.0, 1.0, 0.3])


def linear():
    """A linear model without hidden layers or biases, from zero: cheap to compile."""

    def init(key, x):
        del key
        return {"params": {"readout": {"kernel": jnp.zeros((x.shape[1], 1), x.dtype)}}}

    def apply(variables, x, *, key=None, train=False, shift=None):
        del key, train, shift
        nothing = jnp.zeros((0, len(x), 1), x.dtype)
        return x @ variables["params"]["readout"]["kernel"], Taps(nothing, nothing), variables

    return Model(init, apply)


def axes(weights=(1.0, 1.0, 1.0, 1.0)):
    """One example an axis: descent of the squared error decouples into modes of `CURVATURES`."""
    x = np.diag(np.sqrt(len(CURVATURES) * CURVATURES))  # x'x / n = diag(curvatures)
    return Batch(x, x @ np.asarray(weights)[:, None])


def fit_linear(optimizer, *, build=jn.fit, **changes):
    """Fit the linear model to weights 1 on full batches, parameters and loss at each step."""
    arguments = {
        "key": jax.random.key(0),
        "num_steps": NUM_STEPS,
        "record_every": 1,
        "probes": [parameters, probes.loss],
        "sampling": "full",
        **changes,
    }
    data = arguments.pop("data", Dataset(axes(), axes(), axes()))
    return build(linear(), jn.squared_error, optimizer, data, **arguments)
