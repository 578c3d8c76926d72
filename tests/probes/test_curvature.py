"""Curvature against dense eigendecompositions, in float64, and the work it takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.sweep.jaxprs import calls_lapack, matrix_flops
from jaxnn.types import Batch, Model
from tests import reference
from tests.probes import recorded

EACH_MEMBER = pytest.mark.parametrize("member", recorded.MEMBERS)

# sums of some hundred terms of order 1 in float64
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


def hessian(member):
    return recorded.derivatives()[member][0]


def gauss_newton(member):
    _, jacobian, curve = recorded.derivatives()[member]
    return jacobian.T @ curve @ jacobian


def krylov(matrix, start, num_steps):
    """An orthonormal basis of start, A start, ..., made orthogonal twice, and A's part in it."""
    basis = np.zeros((num_steps, len(start)))
    vector = start
    for number in range(num_steps):
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        basis[number] = vector / np.linalg.norm(vector)
        vector = matrix @ basis[number]
    return basis, basis @ matrix @ basis.T


def ritz(matrix, num_steps=recorded.LANCZOS_STEPS):
    """Rayleigh-Ritz estimates, smallest first, and |A v - lambda v| of each, all from the basis."""
    basis, part = krylov(matrix, recorded.start_vectors(1)[0], num_steps)
    values, coefficients = np.linalg.eigh(part)
    vectors = basis.T @ coefficients
    return values, np.linalg.norm(matrix @ vectors - vectors * values, axis=0)


# Eigenvalues


@EACH_MEMBER
def test_extreme_eigenvalues_are_those_of_the_krylov_space(member):
    values, residuals = ritz(hessian(member))
    for name, place in (("hessian_max", -1), ("hessian_min", 0)):
        # without new orthogonalisation the recurrence drifts by rounding over the gap to the next
        close(recorded.found(name, member), values[place], rtol=1e-7)
        close(recorded.found(f"{name}_residual", member), residuals[place], rtol=1e-5, atol=1e-8)


@EACH_MEMBER
def test_an_eigenvalue_lies_within_the_residual(member):
    """And the estimate lies inside the spectrum; the bound is Parlett's theorem 4.5.1."""
    exact = np.linalg.eigvalsh(hessian(member))
    for name in ("hessian_max", "hessian_min"):
        value = recorded.found(name, member)
        residual = recorded.found(f"{name}_residual", member)
        assert np.min(np.abs(exact - value)) <= residual + 1e-10
        assert exact[0] - 1e-10 <= value <= exact[-1] + 1e-10


@EACH_MEMBER
def test_largest_eigenvalue_has_nearly_converged(member):
    """Its error is at most residual^2 / gap to the next (Parlett 1998, theorem 11.7.1)."""
    exact = np.linalg.eigvalsh(hessian(member))
    residual = recorded.found("hessian_max_residual", member)
    bound = residual**2 / (recorded.found("hessian_max", member) - exact[-2])
    assert bound < 0.1
    assert abs(recorded.found("hessian_max", member) - exact[-1]) <= bound + 1e-10


def test_residuals_are_more_than_rounding():
    """The tests above see estimates that have not converged."""
    for name in ("hessian_max", "hessian_min"):
        residuals = [recorded.found(f"{name}_residual", member) for member in recorded.MEMBERS]
        assert max(residuals) > 1e-6


@EACH_MEMBER
def test_gauss_newton_equals_the_dense_one(member):
    values, residuals = ritz(gauss_newton(member))
    close(recorded.found("gauss_newton_max", member), values[-1], rtol=1e-7)
    residual = recorded.found("gauss_newton_max_residual", member)
    close(residual, residuals[-1], rtol=1e-5, atol=1e-8)
    exact = np.linalg.eigvalsh(gauss_newton(member))[-1]
    assert abs(values[-1] - exact) <= residual + 1e-10


@EACH_MEMBER
def test_gradient_sharpness_equals_the_dense_quotient(member):
    result = recorded.evaluated(member)
    gradient = reference.flattened(result.gradients)
    expected = gradient @ hessian(member) @ gradient / (gradient @ gradient)
    close(recorded.found("gradient_sharpness", member), expected)


# Trace and density


@EACH_MEMBER
def test_trace_is_the_mean_over_the_vectors_of_signs(member):
    vectors = recorded.start_vectors(recorded.TRACE_VECTORS)
    each = np.einsum("vi,ij,vj->v", vectors, hessian(member), vectors)
    close(recorded.found("hessian_trace", member), each.mean())
    error = each.std(ddof=1) / np.sqrt(len(each))
    close(recorded.found("hessian_trace_standard_error", member), error)


@EACH_MEMBER
def test_trace_is_near_the_exact_one(member):
    """Var z^T H z = 2 sum over i != j of H_ij^2 for signs (Hutchinson 1990); four deviations."""
    exact = hessian(member)
    off = np.sum(exact**2) - np.sum(np.diag(exact) ** 2)
    deviation = np.sqrt(2 * off / recorded.TRACE_VECTORS)
    assert abs(recorded.found("hessian_trace", member) - np.trace(exact)) < 4 * deviation


def test_vectors_of_signs_are_signs_and_independent():
    vectors = recorded.start_vectors(recorded.TRACE_VECTORS)
    assert set(np.unique(vectors)) == {-1.0, 1.0}
    size = vectors.shape[1]
    # the products' mean has standard deviation 1 / sqrt(size): five of them for 15 pairs
    overlaps = vectors @ vectors.T / size - np.eye(len(vectors))
    assert np.abs(overlaps).max() < 5 / np.sqrt(size)


def bumps(member):
    """The density of a member by numpy: nodes and shares of each vector's Krylov space."""
    grid = recorded.found("hessian_density_grid", member)
    nodes, shares = [], []
    for vector in recorded.start_vectors(recorded.DENSITY_VECTORS):
        _, part = krylov(hessian(member), vector, recorded.DENSITY_STEPS)
        values, coefficients = np.linalg.eigh(part)
        nodes.append(values)
        shares.append(coefficients[0] ** 2)
    nodes, shares = np.array(nodes), np.array(shares)
    width = 0.01 * np.ptp(nodes)
    distance = (grid[:, None, None] - nodes) / width
    heights = np.exp(-(distance**2) / 2) / (width * np.sqrt(2 * np.pi))
    return (heights * shares).sum(axis=2).mean(axis=1), nodes, width


@EACH_MEMBER
def test_density_is_that_of_the_quadratures_bumps(member):
    expected, nodes, width = bumps(member)
    grid = recorded.found("hessian_density_grid", member)
    close(grid[[0, -1]], [nodes.min() - 3 * width, nodes.max() + 3 * width], rtol=1e-7)
    # bumps of 1% of the range turn errors of eigenvalues into 100 times as large ones
    density = recorded.found("hessian_density", member)
    close(density, expected, rtol=1e-5, atol=1e-5 * expected.max())
    # beyond three deviations lies 0.13% of a bump, at either end
    assert abs(np.trapezoid(density, grid) - 1) < 0.003


# Adam


def quadratic(eigenvalues):
    """A network that shows its parameters, and a loss with this diagonal Hessian; no taps."""

    def apply(variables, x, **_):
        params = variables["params"]["weights"]
        return jnp.broadcast_to(params[None], (x.shape[0], len(eigenvalues))), None, variables

    def loss(outputs, targets):
        return 0.5 * (outputs - targets) ** 2 @ jnp.asarray(eigenvalues, outputs.dtype)

    return Model(lambda key, x: {"params": {"weights": jnp.ones(len(eigenvalues))}}, apply), loss


EIGENVALUES = np.array([0.5, 1.0, 3.0, 4.0])
B1, B2, EPS = 0.8, 0.95, 1e-3


def preconditioned(optimizer_state):
    model, loss = quadratic(EIGENVALUES)
    batch = Batch(jnp.ones((2, 1)), jnp.zeros((2, 4)))
    variables = {"params": {"weights": jnp.array([1.0, -2.0, 0.5, 0.1])}}
    flow = probes.flow(model, loss, variables, batch)._replace(optimizer_state=optimizer_state)
    probe = probes.preconditioned_sharpness(6, b1=B1, b2=jnp.asarray(B2), eps=EPS)
    return {name: each.values for name, each in probes.measure([probe], flow).items()}


def test_preconditioned_sharpness_equals_its_formula():
    """A diagonal Hessian: the largest of lambda_i / P_i, P as Adam's own update has it."""
    with jax.enable_x64(True):
        nu, count = np.array([1e-4, 4.0, 0.25, 1e-2]), 7
        inner = optax.ScaleByAdamState(
            np.array([count, 0], np.int32),
            {"weights": np.zeros((2, 4))},
            {"weights": np.stack([nu, np.zeros(4)])},
        )
        schedule = optax.ScaleByScheduleState(np.array([9, 0], np.int32))
        found = jax.jit(jax.vmap(preconditioned))((optax.EmptyState(), inner, schedule))
    preconditioner = (1 - B1**count) * (np.sqrt(nu / (1 - B2**count)) + EPS)
    value, before = found["preconditioned_sharpness"]
    close(value, np.max(EIGENVALUES / preconditioner))
    close(found["preconditioned_sharpness_residual"][0], 0.0, atol=1e-9)
    assert np.isnan(before)


def test_preconditioner_is_the_one_of_optaxs_update():
    """With mu = gradient, Adam's step is -P^-1 mu."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        transform = optax.scale_by_adam(B1, B2, EPS)
        gradients = np.random.default_rng(0).standard_normal((5, 3))
        state = transform.init(jnp.zeros(3))
        for gradient in gradients:
            step, state = transform.update(jnp.asarray(gradient), state)
        preconditioner = (1 - B1**5) * (np.sqrt(np.asarray(state.nu) / (1 - B2**5)) + EPS)
        close(step, np.asarray(state.mu) / preconditioner)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, r"holds no optimizer_state; measure it through jn\.fit"),
        ((optax.EmptyState(),), r"expected one optax\.ScaleByAdamState.*got 0; train with adam"),
    ],
    ids=["none", "sgd"],
)
def test_preconditioned_sharpness_without_adam_is_refused(state, words):
    with pytest.raises(ValueError, match=f"preconditioned_sharpness.*{words}"):
        jax.eval_shape(preconditioned, state)


def test_fit_gives_the_optimizers_state():
    """Traced only: the number is tested above."""

    def run(key):
        data = jn.Dataset(*[Batch(recorded.X.astype("float32"), recorded.LABELS)] * 3)
        return jn.fit(
            recorded.model(),
            jn.cross_entropy,
            jn.optimizer("adam", 0.01),
            data,
            key=key,
            num_steps=2,
            record_every=1,
            probes=[probes.preconditioned_sharpness(3)],
        )

    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes floats with int counts
        shapes = jax.eval_shape(run, jax.random.key(0))
    assert shapes["preconditioned_sharpness"].values.shape == (3,)


# Layouts and work


def test_layouts_agree():
    """The members recorded have a layer masked; the same network alone, its layers in a scan."""

    @functools.partial(jax.jit, compiler_options=recorded.QUICKLY)
    def alone(params):
        batch = Batch(recorded.X, jnp.asarray(recorded.LABELS), jnp.asarray(recorded.WEIGHT))
        flow = probes.flow(recorded.model(), jn.cross_entropy, {"params": params}, batch)
        return probes.measure(recorded.ALL[:2] + recorded.ALL[3:5], flow)

    with jax.enable_x64(True):
        found = alone(reference.stacked(recorded.NETWORKS[0]))
    assert set(found) >= {"hessian_max", "hessian_trace", "gauss_newton_max", "gradient_sharpness"}
    for name, labelled in found.items():
        close(recorded.found(name, 0), labelled.values, rtol=1e-6, atol=1e-8, err_msg=name)


def flops(network, batch_size, features, num_steps):
    """Matrix flops of the top eigenvalue, as a multiple of those of a gradient."""
    model = jn.mlp(2, 64, 10, network)
    x = jax.ShapeDtypeStruct((batch_size, features), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]

    def gradient(params, x, labels):
        def loss(params):
            return jnp.mean(jn.cross_entropy(model.apply({"params": params}, x)[0], labels))

        return jax.grad(loss)(params)

    def sharpness(params, x, labels):
        flow = probes.flow(model, jn.cross_entropy, {"params": params}, Batch(x, labels))
        return probes.hessian_extremes(num_steps).measure(flow)["max"]

    works = []
    for function in (sharpness, gradient):
        jaxpr = jax.make_jaxpr(function)(params, x, labels).jaxpr
        works.append(matrix_flops(jax.jit(function).trace(params, x, labels).jaxpr.jaxpr))
        assert not calls_lapack(jaxpr)
    return works[0] / works[1]


def test_each_step_is_one_product_of_at_most_two_gradients():
    """Of an MLP's matrix products a gradient has three a layer, two for the first; H v has twice as
    many, but as many for the first, whose input is no function of the parameters."""
    for features in (64, 784):
        gradient = 2 * features * 64 + 3 * (64 * 64 + 64 * 10)
        product = 2 * features * 64 + 6 * (64 * 64 + 64 * 10)
        step = flops("tanh", 32, features, 21) - flops("tanh", 32, features, 20)
        small = 0.02  # rotations of the small matrix, and dot products of vectors
        assert step == pytest.approx(product / gradient, abs=small)


def test_twenty_steps_take_the_work_of_25_gradients():
    """On images of 784 pixels, whose first layer has most of the weights; with the pass itself."""
    assert flops("tanh", 256, 784, 20) < 25


@pytest.mark.parametrize(
    "build",
    [
        probes.hessian_extremes,
        probes.gauss_newton_max,
        probes.preconditioned_sharpness,
        probes.hessian_trace,
        probes.hessian_density,
    ],
)
@pytest.mark.parametrize(("count", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_count_that_is_no_positive_int_is_refused(build, count, error):
    with pytest.raises(error, match=r"num_(steps|vectors): expected"):
        build(count)
