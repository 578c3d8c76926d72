"""Curvature of the mean loss in the parameters: eigenvalues, trace, spectral density.

H is the Hessian of a flow's loss (`Flow.loss_at`: the batch's mean, network in evaluation) in all
parameters end to end. Nothing here builds it: products H v are forward-over-reverse, with the pass
over the network done once. One product has at most twice a gradient's matrix products (three times
where layers are in a loop that may end early, which does its pass again).

Contract: a builder takes what fixes the work and returns a `Probe`. Random vectors follow from
`seed` and are the same at every record and in every member. On a CPU nothing here calls LAPACK.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxnn.probes.by_layer import norm
from jaxnn.probes.checks import check_count
from jaxnn.probes.contract import Probe, probe
from jaxnn.probes.directions import signs
from jaxnn.probes.lanczos import Product, extreme_values, quadrature
from jaxnn.probes.tapped import Flow
from jaxnn.types import Scalar


def hessian_extremes(num_steps: int = 20, seed: int = 0) -> Probe:
    """Build the probe of the largest and the smallest eigenvalue of H, by Lanczos' recurrence.

    It shows `hessian_max` and `hessian_min` and the residual of each, |H v - lambda v| for the
    eigenvector estimate v of length 1: some eigenvalue lies within the residual of lambda.
    `hessian_max` approaches the largest from below, `hessian_min` the smallest from above.

    Args:
        num_steps: products H v, one a step; at most the number of parameters are taken.
        seed: of the first vector.

    Raises:
        TypeError, ValueError: `num_steps` is no positive int.

    Source: Lanczos 1950; Parlett 1998, The Symmetric Eigenvalue Problem, section 13.2.
    """
    check_count("num_steps", num_steps)

    def measure(flow: Flow) -> dict[str, Array]:
        values, residuals = extreme_values(_hessian(flow), signs(flow, seed)[0], num_steps)
        return {
            "max": values[0],
            "max_residual": residuals[0],
            "min": values[-1],
            "min_residual": residuals[-1],
        }

    return Probe("hessian", (), "1", "Hessian eigenvalue", measure)


def gauss_newton_max(num_steps: int = 20, seed: int = 0) -> Probe:
    """Build the probe of the largest eigenvalue of the Gauss-Newton matrix, with its residual.

    G = J^T H_out J, with J the outputs' Jacobian in the parameters and H_out the loss's Hessian in
    the outputs: H without the curvature of the network itself (Schraudolph 2002).

    Args:
        num_steps: products G v, one a step.
        seed: of the first vector.

    Raises:
        TypeError, ValueError: `num_steps` is no positive int.
    """
    check_count("num_steps", num_steps)

    def measure(flow: Flow) -> dict[str, Array]:
        return _largest(*extreme_values(_gauss_newton(flow), signs(flow, seed)[0], num_steps))

    return Probe("gauss_newton_max", (), "1", "largest eigenvalue of the Gauss-Newton", measure)


def preconditioned_sharpness(
    num_steps: int = 20,
    seed: int = 0,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> Probe:
    """Build the probe of the largest eigenvalue of P^-1 H, P Adam's preconditioner, with residual.

    P = (1 - b1^t) (sqrt(nu_t / (1 - b2^t)) + eps), nu_t the mean of squared gradients after t
    steps. Full-batch Adam is stable up to (2 + 2 b1) / ((1 - b1) learning_rate), 38 / learning_rate
    for b1 = 0.9. NaN before the first step, when there is no nu. The residual is that of
    P^-1/2 H P^-1/2, which has the same eigenvalues.

    Args:
        num_steps: products H v, one a step.
        seed: of the first vector.
        b1: the optimiser's, as `b2` and `eps`; each may be traced.
        b2: decay of nu.
        eps: added to the root.

    Raises:
        TypeError, ValueError: `num_steps` is no positive int; the optimiser is not Adam.

    Source: Cohen et al. 2022, 2207.14484.
    """
    check_count("num_steps", num_steps)

    def measure(flow: Flow) -> dict[str, Array]:
        hessian = _hessian(flow)
        root = 1.0 / jnp.sqrt(_preconditioner(_adam_state(flow), b1, b2, eps))
        values, residuals = extreme_values(
            lambda vector: root * hessian(root * vector), signs(flow, seed)[0], num_steps
        )
        return _largest(values, residuals)

    return Probe("preconditioned_sharpness", (), "1", "largest eigenvalue of P^-1 H", measure)


def hessian_trace(num_vectors: int = 10, seed: int = 0) -> Probe:
    """Build the probe of the trace of H, with its standard error `hessian_trace_standard_error`.

    The mean of z^T H z over vectors z of random signs (Hutchinson 1990).

    Args:
        num_vectors: vectors z, at least 2.
        seed: of the vectors.

    Raises:
        TypeError, ValueError: `num_vectors` is no int of at least 2.
    """
    check_count("num_vectors", num_vectors, 2)

    def measure(flow: Flow) -> dict[str, Array]:
        hessian = _hessian(flow)
        found = jax.lax.map(lambda vector: vector @ hessian(vector), signs(flow, seed, num_vectors))
        error = jnp.std(found, ddof=1) / num_vectors**0.5
        return {"": jnp.mean(found), "standard_error": error}

    return Probe("hessian_trace", (), "1", "trace of the Hessian", measure)


def hessian_density(
    num_steps: int = 40,
    num_vectors: int = 4,
    seed: int = 0,
    *,
    num_points: int = 256,
    width: Scalar = 0.01,
) -> Probe:
    """Build the probe of the spectral density of H, by stochastic Lanczos quadrature.

    The density of all eigenvalues, its integral 1, each as a normal bump; `hessian_density_grid`
    says at which eigenvalues it stands. The density's first 2 num_steps - 1 moments are those of
    the mean of z^T H^k z over vectors z of random signs, but for the bumps' width.

    Args:
        num_steps: products H v for each vector.
        num_vectors: vectors z.
        seed: of the vectors.
        num_points: of the grid, which spans the eigenvalues found and three bumps beyond.
        width: standard deviation of a bump, as a part of the spread of the eigenvalues found.

    Raises:
        TypeError, ValueError: a count is no positive int.

    Source: Ghorbani et al. 2019, section 2, 1901.10159.
    """
    counts = {"num_steps": num_steps, "num_vectors": num_vectors, "num_points": num_points}
    for name, value in counts.items():
        check_count(name, value)

    def measure(flow: Flow) -> dict[str, Array]:
        values, shares = quadrature(_hessian(flow), signs(flow, seed, num_vectors), num_steps)
        low, high = jnp.min(values), jnp.max(values)
        spread = jnp.where(high > low, high - low, 1.0)
        bump = jnp.asarray(width, values.dtype) * spread
        grid = jnp.linspace(low - 3.0 * bump, high + 3.0 * bump, num_points, dtype=values.dtype)
        heights = jax.vmap(
            lambda at: jnp.mean(
                jnp.sum(shares * jax.scipy.stats.norm.pdf(at, values, bump), axis=1)
            )
        )(grid)
        return {"": heights, "grid": grid}

    return Probe("hessian_density", ("bin",), "1", "density of Hessian eigenvalues", measure)


@probe(long_name="curvature of the loss along its gradient")
def gradient_sharpness(flow: Flow) -> Array:
    """g^T H g / |g|^2, with g the flow's gradient; one product. NaN where g = 0."""
    gradient = ravel_pytree(flow.gradients)[0]
    along = gradient / norm(gradient)
    flat, unravel = ravel_pytree(flow.params)
    slope = jax.grad(lambda params: flow.loss_at(unravel(params)))
    return along @ jax.jvp(slope, (flat,), (along,))[1]


def _hessian(flow: Flow) -> Product:
    flat, unravel = ravel_pytree(flow.params)
    return jax.linearize(jax.grad(lambda params: flow.loss_at(unravel(params))), flat)[1]


def _gauss_newton(flow: Flow) -> Product:
    flat, unravel = ravel_pytree(flow.params)

    def network(params: Array) -> Array:
        return flow.network(unravel(params), flow.x)

    def loss(outputs: Array) -> Array:
        return jnp.sum(flow.weight * flow.example_loss(outputs, flow.targets))

    # the value by way of vjp: a loop over layers that defines its own has no other derivative
    outputs, forwards = jax.linearize(lambda params: jax.vjp(network, params)[0], flat)
    _, backwards = jax.vjp(network, flat)
    _, curve = jax.linearize(jax.grad(loss), outputs)
    return lambda vector: backwards(curve(forwards(vector)))[0]


def _adam_state(flow: Flow) -> Any:
    """Return the one state of Adam in the optimiser's."""
    if flow.optimizer_state is None:
        raise ValueError(
            "probe 'preconditioned_sharpness': the flow holds no optimizer_state; measure it "
            "through jn.fit, or set it: flow._replace(optimizer_state=...)"
        )

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    nodes = jax.tree.leaves(flow.optimizer_state, is_leaf=is_adam)
    whole = jax.tree.structure(flow.params)
    found = [each for each in nodes if is_adam(each) and jax.tree.structure(each.nu) == whole]
    if len(found) != 1:
        raise ValueError(
            "probe 'preconditioned_sharpness': expected one optax.ScaleByAdamState of all "
            f"parameters in the optimiser's state, got {len(found)}; train with adam or adamw, or "
            "leave it out"
        )
    return found[0]


def _preconditioner(adam: Any, b1: Scalar, b2: Scalar, eps: Scalar) -> Array:
    """Return the diagonal of P, `[param]`."""
    squares = ravel_pytree(adam.nu)[0]
    count = adam.count.astype(squares.dtype)
    decays = [jnp.asarray(decay, squares.dtype) for decay in (b1, b2)]
    first, second = (1.0 - decay**count for decay in decays)
    return first * (jnp.sqrt(squares / second) + jnp.asarray(eps, squares.dtype))


def _largest(values: Array, residuals: Array) -> dict[str, Array]:
    return {"": values[0], "residual": residuals[0]}
