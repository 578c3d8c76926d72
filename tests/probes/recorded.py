"""One run of `fit` with every probe of curvature, noise, representations and surface.

Four members, vmapped, in float64 and under strict dtypes, recorded at initialisation: relu networks
of three layers in a program for four, on eight examples of which six are in use. What the run
recorded is compared in the tests of each module with numpy, where there are but three layers. Steps
would compile the probes a second time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as jn
from jaxnn import probes
from jaxnn.probes import directions
from jaxnn.types import Batch, Dataset, Depth
from tests import reference

NUM_EXAMPLES, IN_USE, FEATURES, WIDTH, OUT, DEPTH, DEEPEST = 8, 6, 4, 5, 3, 3, 4
RATE = 0.3
QUICKLY = {"xla_backend_optimization_level": 0}  # compiles in little more than half the time
MEMBERS = range(4)
RELU = reference.PHIS["relu"]

_rng = np.random.default_rng(5)
X = _rng.standard_normal((NUM_EXAMPLES, FEATURES))
LABELS = _rng.integers(0, OUT, NUM_EXAMPLES)
WEIGHT = np.array([1 / IN_USE] * IN_USE + [0.0] * (NUM_EXAMPLES - IN_USE))
SIZES = [FEATURES, *[WIDTH] * DEPTH, OUT]
NETWORKS = [reference.random_network(member, SIZES, 1.5) for member in MEMBERS]

NUM_PARTS, OFFSETS, OTHERS, NUM_NTK = 3, (-0.5, 0.0, 1.0), (-1.0, 0.0), 5
TRACE_VECTORS, DENSITY_STEPS, DENSITY_VECTORS, LANCZOS_STEPS = 6, 25, 2, 12


ALL = [
    probes.hessian_extremes(LANCZOS_STEPS),
    probes.hessian_trace(TRACE_VECTORS),
    probes.hessian_density(DENSITY_STEPS, DENSITY_VECTORS),
    probes.gauss_newton_max(LANCZOS_STEPS),
    probes.gradient_sharpness,
    probes.jacobian_sv,
    probes.gradient_noise(NUM_PARTS),
    probes.grad_snr(NUM_PARTS),
    probes.grad_cosine,
    probes.step_alpha,
    probes.effective_rank,
    probes.layer_cka,
    probes.linear_regions(),
    probes.ntk(NUM_NTK),
    probes.skip_grad_rms,
    probes.loss_slice(OFFSETS, OTHERS),
]


def model(depth=DEPTH):
    return jn.mlp(depth, WIDTH, OUT, "relu")


def _run(params, depth):
    empty = Batch(X[:0], LABELS[:0])
    data = Dataset(Batch(X, LABELS), empty, empty, jnp.int32(IN_USE))
    return jn.fit(
        model(Depth(DEEPEST, depth, depth))._replace(init=lambda key, x: {"params": params}),
        jn.cross_entropy,
        jn.optimizer("sgd", RATE),
        data,
        key=jax.random.key(0),
        num_steps=0,
        record_every=1,
        probes=ALL,
        batch_size=4,
    )


@functools.cache
def run():
    """Return what the members recorded, each `[member, 1, ...]`, as numpy arrays."""
    with jax.enable_x64(True):
        run = jax.jit(jax.vmap(_run, (0, None)), compiler_options=QUICKLY)
        return jax.device_get(run(padded(), DEPTH))


def members():
    """Return the members' parameters, stacked."""
    trees = [reference.stacked(network) for network in NETWORKS]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def padded():
    """Return the members' parameters with the layer that they lack, of zeros."""
    params, absent = members(), DEEPEST - DEPTH
    params["hidden"] = {
        name: np.pad(leaf, [(0, 0), (0, absent), *[(0, 0)] * (leaf.ndim - 2)])
        for name, leaf in params["hidden"].items()
    }
    return params


def found(name, member):
    """Return the values of a member's measurement, of the layers that it has.

    Those of the layer that it lacks must be NaN.
    """
    labelled = run()[name]
    values = labelled.values[member, 0]
    for axis, dim in enumerate(labelled.dims[1:]):
        if dim in ("layer", "other_layer"):
            there, absent = np.split(values, [DEPTH], axis)
            assert np.all(np.isnan(absent))
            values = there
    return values


def evaluated(member):
    """Return the numpy pass of a member over the batch."""
    return reference.evaluate(NETWORKS[member], X, LABELS, RELU, weight=WEIGHT)


@functools.cache
def derivatives():
    """Return the members' dense Hessian, the outputs' Jacobian, and the loss's Hessian in them."""

    def outputs(flat, unravel):
        return model().apply({"params": unravel(flat)}, jnp.asarray(X))[0].ravel()

    def loss(outputs):
        losses = jn.cross_entropy(outputs.reshape(NUM_EXAMPLES, OUT), jnp.asarray(LABELS))
        return jnp.sum(jnp.asarray(WEIGHT) * losses)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    @jax.vmap
    def dense(params):
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        hessian = jax.hessian(lambda flat: loss(outputs(flat, unravel)))(flat)
        curve = jax.hessian(loss)(outputs(flat, unravel))
        return hessian, jax.jacobian(outputs)(flat, unravel), curve

    with jax.enable_x64(True):
        return list(zip(*jax.device_get(dense(members())), strict=True))


@functools.cache
def start_vectors(num_vectors):
    """Return the vectors of random signs that the probes start from, `[vector, param]`."""
    with jax.enable_x64(True):
        blank = probes.Flow(*[None] * 6, reference.stacked(NETWORKS[0]), *[None] * 4)
        return np.asarray(directions.signs(blank, 0, num_vectors))
