"""Noise of the gradient between examples, and where the optimiser's step ends on its parabola.

Contract: gradients of the evaluation loss in the parameters, over the flow's own batch. An estimate
that is a ratio is shown as numerator and denominator, since the ratio of averages is nearly
unbiased where the average of ratios is not: average each apart, then divide (`noise_scale`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.probes.by_layer import kernels_by_layer, pair_cosine
from jaxnn.probes.checks import check_count
from jaxnn.probes.contract import Probe, probe
from jaxnn.probes.measurements import updates_of
from jaxnn.probes.tapped import Flow


class Parts(NamedTuple):
    """The gradients of a batch's parts, and what its noise makes of their squared lengths."""

    gradients: Any  # [part, ...] of each part's mean loss
    weight: Array  # [part] of the part in the whole batch, their sum 1
    share: Array  # [part] one over the examples in the part (effective number); 0 of an empty one


def gradient_noise(num_parts: int = 8) -> Probe:
    """Build the probe of the gradient's noise and signal, from two batch sizes.

    `gradient_noise_trace` estimates tr Sigma, Sigma the covariance of one example's gradient, and
    `gradient_noise_signal` |G|^2, the squared length of the true gradient, both without bias:

        |G|^2 = (B |g_B|^2 - b |g_b|^2) / (B - b),   tr Sigma = (|g_b|^2 - |g_B|^2) / (1/b - 1/B)

    with B the batch and b a part of it, |g_b|^2 averaged over parts. Either may come out negative.
    Examples of unequal weight count as 1 / sum w_i^2 equal ones.

    Args:
        num_parts: parts of the batch, at least 2; more give less scatter.

    Raises:
        TypeError, ValueError: `num_parts` is no int of at least 2.

    Source: McCandlish et al. 2018, appendix A.1, 1812.06162.
    """
    check_count("num_parts", num_parts, 2)

    def measure(flow: Flow) -> dict[str, Array]:
        parts = _parts_of(flow, num_parts)

        def lengths(tree: Any) -> Array:
            return jnp.sum(ravel_pytree(tree)[0] ** 2)

        signal, trace = _signal_and_noise(parts, lengths)
        return {"trace": trace, "signal": signal}

    return Probe("gradient_noise", (), "1", "noise of the gradient", measure)


def grad_snr(num_parts: int = 8) -> Probe:
    """Build the probe of each layer's signal-to-noise, |G|^2 / tr Sigma of its kernel's gradient.

    Of a batch of B examples the ratio is B times as much; its inverse is the layer's own noise
    scale. The two are estimated as in `gradient_noise`; their ratio is biased where noise rules.

    Args:
        num_parts: parts of the batch, at least 2.

    Raises:
        TypeError, ValueError: `num_parts` is no int of at least 2.

    Source: the ratio of Liu et al. 2020, 2001.07384, summed over a layer before dividing.
    """
    check_count("num_parts", num_parts, 2)

    def measure(flow: Flow) -> Array:
        def lengths(tree: Any) -> Array:
            return kernels_by_layer("grad_snr", tree, lambda entries: jnp.sum(entries**2))

        signal, trace = _signal_and_noise(_parts_of(flow, num_parts), lengths)
        return signal / trace

    return Probe("grad_snr", ("layer",), "1", "signal-to-noise of an example's gradient", measure)


def noise_scale(trace: Array, signal: Array) -> Array:
    """Return the simple noise scale tr Sigma / |G|^2, in examples: the ratio of the averages.

    Batches well below it train alike when the learning rate follows the batch size.

    Args:
        trace: `gradient_noise_trace`, of any shape: steps, seeds.
        signal: `gradient_noise_signal`, of the same shape.

    Source: McCandlish et al. 2018, equation 2.9, 1812.06162.

    Example:
        >>> noise_scale(jnp.array([3.0, 5.0]), jnp.array([1.0, -0.5])).item()
        16.0
    """
    return jnp.mean(trace) / jnp.mean(signal)


def _parts_of(flow: Flow, num_parts: int) -> Parts:
    """Split the batch, every num_parts-th example in one part, and take each part's gradient."""
    size = math.ceil(flow.weight.shape[0] / num_parts)
    missing = size * num_parts - flow.weight.shape[0]

    def split(values: Array) -> Array:
        filled = jnp.concatenate([values, values[:1].repeat(missing, 0)]) if missing else values
        return jnp.moveaxis(filled.reshape(size, num_parts, *values.shape[1:]), 1, 0)

    present = jnp.pad(flow.weight, (0, missing)).reshape(size, num_parts).T
    total = jnp.sum(present, axis=1)
    weight = present / jnp.where(total > 0, total, 1.0)[:, None]

    def gradient(x: Array, targets: Array, weight: Array) -> Any:
        part = flow._replace(x=x, targets=targets, weight=weight)
        return jax.grad(part.loss_at)(flow.params)

    gradients = jax.vmap(gradient)(split(flow.x), split(flow.targets), weight)
    return Parts(gradients, total, jnp.sum(weight**2, axis=1))


def _signal_and_noise(parts: Parts, lengths: Callable[[Any], Array]) -> tuple[Array, Array]:
    """Return |G|^2 and tr Sigma, with squared lengths taken by a function of a gradient.

    Of a weighted mean gradient g, E |g|^2 = |G|^2 + tr Sigma sum w_i^2 for weights of sum 1.
    """
    whole = jax.tree.map(lambda leaf: jnp.tensordot(parts.weight, leaf, 1), parts.gradients)
    share = jnp.sum(parts.weight**2 * parts.share)
    present = (parts.weight > 0).astype(share.dtype)
    present = present / jnp.sum(present)
    mean_length = jnp.tensordot(present, jax.vmap(lengths)(parts.gradients), 1)
    length = lengths(whole)
    trace = (mean_length - length) / (present @ parts.share - share)
    return length - share * trace, trace


@probe(("layer",), long_name="mean cosine similarity of examples' backward signals")
def grad_cosine(flow: Flow) -> Array:
    """Mean over pairs i != j of cos(dl_i/dz, dl_j/dz), of each example's own loss.

    0 where gradients are shattered: neighbouring inputs then pull a layer in unrelated directions
    (Balduzzi et al. 2017, 1702.08591). Pairs are weighted by w_i w_j; NaN for a single example.
    """
    return pair_cosine(flow.backward, flow.weight)


def gradient_autocorrelation(
    network: Callable[[Any, Array], Array], params: Any, x: Array, *, num_lags: int = 15
) -> Array:
    """Compute the autocorrelation of the input gradient along an ordered set of inputs.

    g_t is the gradient of the summed outputs with respect to input t, less its mean over inputs;
    at lag k, sum_t g_t . g_{t+k} / sum_t |g_t|^2. Brown noise decays slowly, white noise is 0 from
    lag 1 on: shattered.

    Args:
        network: `(params, x [point, ...]) -> outputs [point, ...]`, such as `Flow.network`.
        params: its parameters.
        x: inputs in their order `[point, ...]`, such as 256 points on a line.
        num_lags: the largest lag, below the number of points.

    Returns:
        `[num_lags + 1]`, 1 at lag 0.

    Raises:
        ValueError: there are too few points.

    Source: Balduzzi et al. 2017, 1702.08591.
    """
    num_points = x.shape[0]
    if not 0 <= num_lags < num_points:
        raise ValueError(
            f"num_lags: expected 0 to {num_points - 1} for {num_points} inputs, got {num_lags}"
        )
    slopes = jax.grad(lambda x: jnp.sum(network(params, x)))(x).reshape(num_points, -1)
    slopes = slopes - jnp.mean(slopes, axis=0, keepdims=True)
    products = slopes @ slopes.T
    return jnp.stack([jnp.trace(products, lag) for lag in range(num_lags + 1)]) / jnp.trace(
        products
    )


@probe(long_name="where the step ends on the parabola along it")
def step_alpha(flow: Flow) -> Array:
    """Step-length alpha: -1 no step, 0 to the minimum along it, 1 as high on the other side.

    A parabola a t^2 + b t + c is fitted to the loss and its slope at both ends of the step
    W + t dW, t = 0 and 1, by least squares; alpha = -(2a + b) / b, minus the slope at the end over
    that at the start. Below -1 it has no minimum ahead.

    Source: Schneider et al. 2021 (Cockpit), 2102.06604; all four numbers count alike
    here, theirs are weighted by their noise.
    """
    updates = updates_of("step_alpha", flow)
    end = jax.tree.map(jnp.add, flow.params, updates)
    start_loss, start_gradient = jax.value_and_grad(flow.loss_at)(flow.params)
    end_loss, end_gradient = jax.value_and_grad(flow.loss_at)(end)
    start, stop = _dot(start_gradient, updates), _dot(end_gradient, updates)
    # the normal equations of (a, b), with c taken out
    curve = (stop - start) / 2.0
    slope = (end_loss - start_loss + 2.0 * (start + stop)) / 5.0 - curve
    return -(2.0 * curve + slope) / slope


def _dot(left: Any, right: Any) -> Array:
    return ravel_pytree(left)[0] @ ravel_pytree(right)[0]
