"""What layers make of inputs: rank, similarity, Jacobian, linear regions, tangent kernel, blame.

Contract: activations h are the taps' `post`, `[batch, unit]` a layer; examples count by weight
where that has a meaning.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.probes.by_layer import norm, signal_rms
from jaxnn.probes.checks import check_count, check_float_inputs
from jaxnn.probes.contract import Probe, probe
from jaxnn.probes.jacobi import singular_values
from jaxnn.probes.tapped import Flow


@probe(("layer",), long_name="effective rank of the activations")
def effective_rank(flow: Flow) -> Array:
    """exp(-sum_i p_i ln p_i), p_i the singular values of h over their sum, of each layer.

    Between 1 (all examples in one direction) and the number of units; not centred. Rows count by
    the root of their weight. NaN where h = 0. It calls LAPACK's SVD, for which a sweep before
    jaxlib 0.12 uses one CPU core.

    Source: Roy & Vetterli 2007 (EUSIPCO), equation 3.
    """

    def one(activations: Array) -> Array:
        rows = jnp.sqrt(flow.weight)[:, None] * activations
        largest = jnp.max(jnp.abs(rows))
        values = jnp.linalg.svd(rows / jnp.where(largest > 0, largest, 1.0), compute_uv=False)
        shares = values / jnp.sum(values)
        return jnp.exp(jnp.sum(jax.scipy.special.entr(shares)))

    return jax.vmap(one)(flow.taps.post)


def cka(left: Array, right: Array, weight: Array | None = None) -> Array:
    """Compute the linear centred kernel alignment of two representations of the same examples.

    |X^T Y|_F^2 / (|X^T X|_F |Y^T Y|_F) of the centred X and Y: 1 for representations that differ by
    a rotation and a scale, 0 for uncorrelated ones. Across layers, steps, or members.

    Args:
        left: X, `[example, unit]`.
        right: Y, `[example, other_unit]`.
        weight: of the examples `[example]`, of sum 1; equal unless given.

    Source: Kornblith et al. 2019, equation 5, 1905.00414.
    """
    if weight is None:
        weight = jnp.full(left.shape[0], 1.0 / left.shape[0], left.dtype)
    return _aligned(_similarities(left, weight), _similarities(right, weight))


@probe(("layer", "other_layer"), long_name="linear CKA of two layers")
def layer_cka(flow: Flow) -> Array:
    """Linear CKA of the activations of each two layers; see `cka`."""
    similarities = jax.vmap(_similarities, (0, None))(flow.taps.post, flow.weight)
    aligned = jax.vmap(jax.vmap(_aligned, (None, 0)), (0, None))(similarities, similarities)
    return aligned if flow.active is None else jnp.where(flow.active[None], aligned, jnp.nan)


def _similarities(activations: Array, weight: Array) -> Array:
    """Return the products of centred examples, each with the root of its weight: unit length."""
    centred = activations - (weight @ activations)[None]
    rows = jnp.sqrt(weight)[:, None] * centred
    largest = jnp.max(jnp.abs(rows))
    rows = rows / jnp.where(largest > 0, largest, 1.0)
    return rows @ rows.T


def _aligned(left: Array, right: Array) -> Array:
    """Return the cosine of two matrices taken as vectors."""
    return jnp.sum((left / norm(left)) * (right / norm(right)))


@probe(("batch", "singular_value"), long_name="singular values of the input-output Jacobian")
def jacobian_sv(flow: Flow) -> Array:
    """Singular values of d outputs / d input of each example, largest first.

    There are as many as outputs or input features, whichever are fewer. Their squares' spread is
    what dynamical isometry is about (Saxe et al. 2013, 1312.6120; Pennington et al. 2017,
    1711.04735).
    """
    check_float_inputs("jacobian_sv", flow)

    def outputs_of(x: Array) -> Array:
        return flow.network(flow.params, x[None]).ravel()

    def one(x: Array) -> Array:
        jacobian = jax.jacrev(outputs_of)(x)
        return singular_values(jacobian.reshape(jacobian.shape[0], -1))

    return jax.vmap(one)(flow.x)


def linear_regions(num_points: int = 1024) -> Probe:
    """Build the probe of linear regions on the segment between the batch's first two examples.

    See `count_regions`.

    Args:
        num_points: points on the segment, at least 2.

    Raises:
        TypeError, ValueError: `num_points` is no int of at least 2; the activation is not piecewise
            linear, or the network shows no layers.
    """
    check_count("num_points", num_points, 2)

    def measure(flow: Flow) -> Array:
        return count_regions(flow, flow.x[0], flow.x[1], num_points=num_points)

    return Probe("linear_regions", (), "1", "linear regions between two examples", measure)


def count_regions(flow: Flow, start: Array, end: Array, *, num_points: int = 1024) -> Array:
    """Count the activation regions that a straight line of inputs runs through: `[]` int.

    One more than the times that a pre-activation crosses a kink of the activation between
    neighbouring points: exact where no unit crosses twice in between, else too few.

    Args:
        flow: holds the network and its activation.
        start: first input of the line `[...]`.
        end: last input of the line.
        num_points: points on it, ends included.

    Raises:
        ValueError: the activation is not piecewise linear, or the network shows no layers.
        TypeError: inputs are no floats.

    Source: Hanin & Rolnick 2019, 1906.00904 (activation regions); 1901.09021 (along lines).
    """
    activation = flow.activation
    if activation is None or not activation.piecewise_linear:
        name = None if activation is None else activation.name
        raise ValueError(
            f"probe 'linear_regions': expected a piecewise linear activation, got {name!r}; a "
            "smooth network has no regions: leave the probe out, or train with relu"
        )
    if flow.tapped is None:
        raise ValueError(
            "probe 'linear_regions': expected a network that shows its layers, but its apply "
            "returned taps=None; return Taps(pre, post), or leave the probe out"
        )
    check_float_inputs("linear_regions", flow)
    parts = jnp.linspace(0.0, 1.0, num_points, dtype=start.dtype)
    x = jax.vmap(lambda part: start + part * (end - start))(parts)
    pre = flow.tapped(flow.params, x, None)[1].pre
    cells = sum((pre > kink).astype(jnp.int32) for kink in activation.kinks)
    crossed = jnp.sum(jnp.abs(jnp.diff(cells, axis=1)), axis=(1, 2))
    return 1 + jnp.sum(crossed if flow.active is None else jnp.where(flow.active, crossed, 0))


def ntk(num_examples: int = 32) -> Probe:
    """Build the probe of the empirical neural tangent kernel of the batch's first examples.

    K_ij = sum over outputs o of (d y_o(x_i) / d params) . (d y_o(x_j) / d params).

    Args:
        num_examples: at most the batch; all of their gradients are held at once.

    Raises:
        TypeError, ValueError: `num_examples` is no positive int.

    Source: Jacot et al. 2018, 1806.07572.
    """
    check_count("num_examples", num_examples)

    def measure(flow: Flow) -> Array:
        return _tangent_kernel(flow, flow.x[:num_examples])

    dims = ("example", "other_example")
    return Probe("ntk", dims, "1", "neural tangent kernel, summed over outputs", measure)


def _tangent_kernel(flow: Flow, x: Array) -> Array:
    flat, unravel = ravel_pytree(flow.params)

    def slopes(x: Array, direction: Array) -> Array:
        _, pull = jax.vjp(lambda params: flow.network(unravel(params), x[None]).ravel(), flat)
        return pull(direction)[0]

    def add(total: Array, direction: Array) -> tuple[Array, None]:
        jacobian = jax.vmap(slopes, (0, None))(x, direction)
        return total + jacobian @ jacobian.T, None

    num_outputs = flow.outputs[0].size
    directions = jnp.eye(num_outputs, dtype=flow.outputs.dtype)
    return jax.lax.scan(add, jnp.zeros((x.shape[0],) * 2, flat.dtype), directions)[0]


def kernel_distance(left: Array, right: Array) -> Array:
    """Compute 1 - <K, K'> / (|K| |K'|) of two kernels: 0 for equal directions, at most 1.

    Between the tangent kernels of two steps it tells how far training is from lazy.

    Args:
        left: K, `[example, example]`.
        right: K', of the same shape.

    Source: Fort et al. 2020, equation 4, 2010.15110.
    """
    return 1.0 - _aligned(left, right)


def skipped_signals(flow: Flow, layer: int | Array) -> Array:
    """Compute the backward signals below a layer, its Jacobian replaced by the identity.

    dL/dz of the layer is handed to the layer below as it is, and goes on from there: what arrives
    tells how far this one layer makes the signal vanish or explode. Meant for stacks whose layers
    see only the one below, and have one width.

    Args:
        flow: holds the network and its backward signals.
        layer: from 2, which is the second hidden layer, to the depth; may be traced.

    Returns:
        dL/dz as it would then be, `[layer, batch, unit]`; from this layer on, 0.
    """
    shift = jnp.zeros_like(flow.backward)
    _, pull = jax.vjp(lambda shift: flow.tapped(flow.params, flow.x, shift)[1].pre, shift)
    below = jnp.arange(shift.shape[0]) == layer - 2
    handed = jnp.where(below[:, None, None], flow.backward[layer - 1][None], 0.0)
    return pull(handed)[0]


@probe(("layer",), long_name="rms of the first layer's backward signal, a layer skipped")
def skip_grad_rms(flow: Flow) -> Array:
    """Rms of dl_i/dz of the first layer, were the Jacobian of each layer in turn the identity.

    At layer 1, which has none below it, the signal as it is (`preact_grad_rms`): the layer whose
    entry stands out most from that one is to blame. See `skipped_signals`; one backward pass a
    layer.
    """

    def skipped(layer: Array) -> Array:
        return signal_rms(skipped_signals(flow, layer)[:1], flow.weight)[0]

    plain = signal_rms(flow.backward[:1], flow.weight)
    return jnp.concatenate([plain, jax.lax.map(skipped, jnp.arange(2, 1 + len(flow.backward)))])
