"""The study `initialisation` on data that follow the laws, and on data that break them."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import initialisation
from jaxnn.report import gather, judge
from jaxnn.theory import finite_width

SEEDS, WIDTH, DEPTH = 8, 16, 4
NOISE = np.linspace(-1e-3, 1e-3, SEEDS)  # of the seeds: small, and 0 on the mean


def by_layer(factor, num_layers=16):
    """Mean squares that change by a factor a layer, `[seed, layer]`."""
    return (1.0 + NOISE[:, None] * np.arange(num_layers)) * factor ** np.arange(num_layers)


def linear(standard=1.0 / 3.0, normalised=1.0):
    """Both ways by fan variance; the activations are alike."""
    squares = np.stack([by_layer(standard, 6), by_layer(normalised, 6)])  # fan, seed, layer
    full = np.broadcast_to(squares[None, :, None], (2, 2, 2, SEEDS, 6))
    dims = ("activation", "fan_variance", "input_scale", "seed", "layer")
    coords = {
        "activation": ["identity", "tanh"],
        "fan_variance": [1.0 / 3.0, 1.0],
        "input_scale": [0.1, 1.0],
        "layer": np.arange(1, 7),
    }
    backward = np.sqrt(full[..., ::-1])
    fields = {"preact_second_moment": (dims, full), "preact_grad_rms": (dims, backward)}
    return xr.Dataset(fields, coords)


def relu(glorot=0.5, he=1.0):
    squares = np.stack([by_layer(glorot), by_layer(he)])
    coords = {"scheme": ["glorot", "he"], "layer": np.arange(1, 17)}
    dims = ("scheme", "seed", "layer")
    return xr.Dataset({"preact_second_moment": (dims, squares)}, coords)


def residual(doubling=2.0, growth=1.0):
    """The tanh gradient grows as the recursion says, times `growth` a block."""
    starts = np.full(3, 0.1, np.float32)
    law = np.asarray(initialisation.residual_growth(jnp.asarray(starts), 16)[0], float)
    backward = np.concatenate([[1.0], law * growth ** np.arange(1, 16)])[::-1]
    backward = np.sqrt(backward * (1.0 + NOISE[:, None]))
    backward[:, -1] = 1.0
    dims = ("activation", "seed", "layer")
    fields = {
        "preact_second_moment": (dims, np.stack([by_layer(1.0), by_layer(doubling)])),
        "preact_grad_rms": (dims, np.stack([backward, backward])),
        "input_moment": (("activation", "seed", "input"), np.broadcast_to(starts, (2, SEEDS, 3))),
    }
    coords = {"activation": ["tanh", "relu"], "layer": np.arange(1, 17)}
    return xr.Dataset(fields, coords)


def hanin(shift=0.0, stretch=1.0):
    """Normal quantiles with the law's moments: their mean and variance are exact to 1%."""
    mean, variance = (DEPTH * float(each) for each in finite_width.relu_log_moments(WIDTH))
    uniform = np.random.default_rng(0).standard_normal(4000)
    standard = (uniform - uniform.mean()) / uniform.std()
    return xr.Dataset({"log_ratio": ("seed", mean + shift + stretch * variance**0.5 * standard)})


def failing(**parts):
    whole = {"linear": linear(), "relu": relu(), "residual": residual(), "hanin": hanin()}
    ds = gather({**whole, **parts}, hanin_width=WIDTH, hanin_depth=DEPTH)
    return [n for n, each in enumerate(judge(initialisation.CLAIMS, ds)) if not each.holds]


def test_claims_hold_on_data_of_the_laws():
    assert failing() == []


@pytest.mark.parametrize(
    ("part", "broken", "claims"),
    [
        ("linear", linear(standard=0.4), [0, 1, 2]),
        ("linear", linear(normalised=1.2), [3]),
        ("relu", relu(glorot=0.6), [4]),
        ("relu", relu(he=0.9), [5]),
        ("hanin", hanin(shift=0.3), [6]),
        ("hanin", hanin(stretch=1.1), [7]),
        ("residual", residual(growth=1.2), [8]),
        ("residual", residual(doubling=1.8), [9]),
    ],
)
def test_each_claim_can_fail(part, broken, claims):
    assert failing(**{part: broken}) == claims


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("initialisation") == []
