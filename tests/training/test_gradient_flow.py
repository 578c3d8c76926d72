"""Gradient flow against closed forms: linear regression, Saxe's modes, balancedness."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.training import gradient_flow
from jaxnn.types import Batch, Dataset
from tests.training import problem

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def float64():
    with jax.enable_x64(True):
        yield


MODES = np.array([2.0, 1.2, 0.6])
TIMES = (0.0, 0.5, 1.0, 2.0, 4.0)


def rotation(seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0]


LEFT, RIGHT, INNER = rotation(0), rotation(1), rotation(2)
# six points with mean 0 and x'x / n the identity; y = x A, the singular values of A are MODES
X = np.sqrt(3.0) * np.concatenate([np.eye(3), -np.eye(3)])
WHITENED = Batch(X, X @ (LEFT * MODES) @ RIGHT)


@probes.probe(("mode",), long_name="strength of each mode")
def modes(flow):
    product = flow.params["first"]["kernel"] @ flow.params["readout"]["kernel"]
    return jnp.diagonal(LEFT.T @ product @ RIGHT.T)


@probes.probe(("unit", "other"), long_name="W1' W1 - W2 W2'")
def imbalance(flow):
    first, last = flow.params["first"]["kernel"], flow.params["readout"]["kernel"]
    return first.T @ first - last @ last.T


def aligned(strength):
    """A start whose modes all have a strength."""
    zero = np.zeros(3)
    return {
        "params": {
            "first": {"kernel": np.sqrt(strength) * LEFT @ INNER, "bias": zero},
            "readout": {"kernel": np.sqrt(strength) * INNER.T @ RIGHT, "bias": zero},
        }
    }


NETWORK = jn.mlp(1, 3, 3, "identity")
STRENGTHS = (1e-3, 0.1)


@functools.cache
def starts():
    """Two aligned starts and a random one, `[start, ...]`."""
    drawn = jax.jit(NETWORK.init)(jax.random.key(3), X[:1])
    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(aligned, STRENGTHS), drawn)


@functools.cache
def flows():
    """The flow of all starts, in one batch."""

    @jax.jit
    @jax.vmap
    def run(variables):
        return gradient_flow(
            NETWORK,
            jn.squared_error,
            WHITENED,
            TIMES,
            variables=variables,
            probes=[modes, imbalance, probes.loss, probes.preact_grad_rms],
            rtol=1e-9,
            atol=1e-12,
        )

    return jax.device_get(run(starts()))


def sigmoid(start, time):
    """Claims A4: u(t) = s e^{2 s t} / (e^{2 s t} - 1 + s / u0)."""
    growth = np.exp(2 * MODES * np.asarray(time)[:, None])
    return MODES * growth / (growth - 1 + MODES / start)


@pytest.mark.parametrize("member", [0, 1])
def test_modes_of_a_linear_network_follow_saxes_sigmoids(member):
    """Saxe et al. 2013, 1312.6120."""
    expected = sigmoid(STRENGTHS[member], TIMES)
    # relative errors of 1e-9 a solver step, of which there are about 100
    np.testing.assert_allclose(flows()["modes"].values[member], expected, rtol=1e-7)


def test_loss_is_that_of_the_modes():
    left = (MODES - flows()["modes"].values[:2]) ** 2
    np.testing.assert_allclose(
        flows()["loss"].values[:2], left.sum(axis=-1) / 2, rtol=1e-6, atol=1e-12
    )


def test_outputs_are_labelled_as_those_of_fit():
    found = flows()
    assert found["loss"].dims == ("time",)
    assert found["preact_grad_rms"].dims == ("time", "layer")
    assert found["time"].values == TIMES
    assert found["layer"].values == (1,)
    assert np.isnan(found["failed_at"].values).all()


# Balancedness: claims A19

RATES = np.array([0.04, 0.02, 0.01])
DURATION = 2.0


@functools.cache
def drifts():
    """How far descent at each rate moves W1' W1 - W2 W2' by time 2, from the random start."""
    drawn = jax.tree.map(lambda leaf: leaf[2], starts())
    fixed = NETWORK._replace(init=lambda key, x: jax.tree.map(jnp.asarray, drawn))

    @jax.jit
    @jax.vmap
    def run(rate):
        return jn.fit(
            fixed,
            jn.squared_error,
            jn.optimizer("sgd", rate),
            Dataset(WHITENED, WHITENED, WHITENED),
            key=jax.random.key(0),
            num_steps=int(DURATION / RATES[-1]),
            record_every=50,
            probes=[imbalance],
            sampling="full",
        )["imbalance"].values

    found = np.asarray(run(RATES))
    places = (DURATION / RATES / 50).astype(int)  # records of the three at the same time
    moved = np.stack([each[place] - each[0] for each, place in zip(found, places, strict=True)])
    return np.linalg.norm(moved, axis=(1, 2))


@pytest.mark.parametrize("member", [0, 1, 2])
def test_flow_conserves_balancedness(member):
    """Arora, Cohen & Hazan 2018, 1802.06509; the tolerance is the solver's, 1e-9 a step."""
    found = flows()["imbalance"].values[member]
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=1e-7)
    assert flows()["loss"].values[member, -1] < 0.2 * flows()["loss"].values[member, 0]
    assert np.abs(flows()["imbalance"].values[2]).max() > 0.1  # the random start is not balanced


def test_descent_drifts_from_balancedness_in_proportion_to_its_rate():
    """Claims A19: log-log slope 1 +- 0.1."""
    slope = np.polyfit(np.log(RATES), np.log(drifts()), 1)[0]
    assert abs(slope - 1) < 0.1, drifts()


# Failure, dtypes and errors


@functools.cache
def hurried():
    """A flow whose solver gives up on the way, in float32."""

    @jax.jit
    def run():
        return gradient_flow(
            problem.linear(),
            jn.squared_error,
            jax.tree.map(np.float32, problem.axes()),
            [0.0, 0.01, 100.0, 200.0],
            key=jax.random.key(0),
            probes=[probes.loss, problem.parameters],
            max_steps=20,
        )

    return jax.device_get(run())


def test_solver_that_gives_up_says_when_and_leaves_nan():
    found = hurried()
    assert found["failed_at"].values == 100.0
    for name in ("loss", "parameters"):
        lost = np.isnan(found[name].values).reshape(4, -1)
        assert lost.any(axis=1).tolist() == lost.all(axis=1).tolist() == [False, False, True, True]


def test_flow_of_linear_regression_is_exponential_in_float32():
    """w(t) = 1 - exp(-curvature t), to the default tolerance."""
    weights = hurried()["parameters"].values
    assert weights.dtype == np.float32
    expected = 1 - np.exp(-np.outer([0.0, 0.01], problem.CURVATURES))
    np.testing.assert_allclose(weights[:2], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": []}, "times: expected ascending times from 0 on"),
        ({"times": [1.0, 0.5]}, "times: "),
        ({"times": [-1.0, 0.5]}, "times: "),
        ({"times": [0.0]}, "times: "),
        ({"key": None}, "key, variables: expected one of them"),
        ({"variables": {"params": {}}}, "key, variables: "),
        ({"probes": []}, "probes: expected at least one"),
        ({"probes": [probes.loss._replace(name="time")]}, "probes: expected distinct names"),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
    ],
)
def test_wrong_argument_is_refused(change, message):
    arguments = {
        "times": [0.0, 1.0],
        "key": jax.random.key(0),
        "probes": [probes.loss],
        **change,
    }
    times = arguments.pop("times")
    with pytest.raises(ValueError, match=message):
        gradient_flow(problem.linear(), jn.squared_error, problem.axes(), times, **arguments)
