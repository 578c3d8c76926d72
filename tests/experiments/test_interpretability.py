"""The interpretability study: its measures on known images, its claims on data made for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxnn as jn
from experiments import interpretability as study
from jaxnn.report import judge

BROKEN = {  # by the place of its claim: a variable and values that must fail it
    0: ("start_structure", 0.02),
    1: ("weights_structure", 0.5),
    2: ("change_structure", 0.2),
    3: ("weights_structure", [0.2, 0.4, 0.2]),
    4: ("accuracy", [0.95, 0.93, 0.89]),
    5: ("noise_confidence", 0.4),
    6: ("fooled", [1.0, 0.9, 1.0]),
    7: ("fooling_structure", [0.0, 0.3, 0.0]),
    8: ("certain", 0.98),
    9: ("growth_error", 1e-3),
}


def made(**broken):
    """Return a dataset in which every claim holds, but for the values given by regime."""
    truth = {
        "start_structure": -1 / 399,
        "weights_structure": [0.2, 0.3, 0.4],
        "change_structure": 0.7,
        "accuracy": [0.95, 0.93, 0.94],
        "noise_confidence": 0.8,
        "fooled": 1.0,
        "fooling_structure": 0.1,
        "growth_error": 1e-6,
        "certain": 1.0,
        "confidence": 0.9,
        "right": 0.5,
        **broken,
    }
    images = np.random.default_rng(0).normal(size=(3, 2, 10, 28, 28)).astype(np.float32)
    shape, dims = (3, 2), ("regime", "seed")
    arrays = {
        name: (dims, np.broadcast_to(np.reshape(values, (-1, 1)), shape))
        for name, values in truth.items()
    }
    for name in ("certain", "confidence", "right"):
        arrays[name] = ((*dims, "distance"), np.repeat(arrays[name][1][..., None], 4, -1))
    for name in ("start", "change", "weights"):
        arrays[f"{name}_image"] = ((*dims, "unit", "row", "column"), images[:, :, :5])
    for name in ("noise", "fooling"):
        arrays[f"{name}_image"] = ((*dims, *study.DIGITS), images)
    arrays["fooling_confidence"] = ((*dims, "label"), np.full((3, 2, 10), 0.9999))
    arrays |= {"digits_image": (study.DIGITS, images[0, 0]), "digits_structure": ((), 0.8)}
    return xr.Dataset(arrays, {"regime": list(study.NAMES), "distance": np.geomspace(0.1, 1e4, 4)})


def test_claims_hold_of_data_made_for_them():
    verdicts = judge(study.CLAIMS, made())
    assert [each.error for each in verdicts] == [""] * len(study.CLAIMS)
    assert all(each.holds for each in verdicts)
    assert BROKEN.keys() == set(range(len(verdicts)))


@pytest.mark.parametrize("place", BROKEN)
def test_claim_fails_of_data_that_break_it(place):
    name, values = BROKEN[place]
    (verdict,) = judge([study.CLAIMS[place]], made(**{name: values}))
    assert not verdict.error
    assert not verdict.holds


def test_structure_of_known_images():
    row, column = np.mgrid[:28, :28]
    board, ramp, flat = (-1.0) ** (row + column), 1.0 * row, 0.0 * row
    assert study.structure(board) == pytest.approx(-1.0)
    centred = np.arange(20) - 9.5
    pairs = 20 * (centred[1:] * centred[:-1]).sum() + 19 * (centred**2).sum()
    assert study.structure(ramp) == pytest.approx(400 / 760 * pairs / (20 * (centred**2).sum()))
    with np.errstate(invalid="ignore"):
        assert np.isnan(study.structure(flat))


def test_structure_of_noise_has_the_moments_of_cliff_and_ord():
    values = study.structure(np.random.default_rng(1).normal(size=(4000, 28, 28)))
    n, p, squared_degrees = 400, 760, 16 * 18**2 + 36 * 18 + 16
    square = (4 * p * n**2 - 4 * squared_degrees * n + 12 * p**2) / ((n**2 - 1) * 4 * p**2)
    std = (square - 1 / 399**2) ** 0.5
    assert std == pytest.approx(0.036, abs=5e-4)
    assert values.mean() == pytest.approx(-1 / 399, abs=4 * std / 4000**0.5)
    assert values.std() == pytest.approx(std, rel=4 / 8000**0.5)


def test_ascend_stops_where_the_network_is_sure_and_stays_in_range():
    weights = jax.random.normal(jax.random.key(0), (16, 3))
    network = lambda x: x.reshape(len(x), -1) @ weights  # noqa: E731
    noise = jax.random.uniform(jax.random.key(1), (6, 4, 4, 1), minval=-1.0, maxval=2.0)
    targets = jnp.arange(6) % 3
    climbed = jax.jit(lambda x: study.ascend(network, x, targets, 0.1, 100))
    found = climbed(noise)
    assert (jnp.exp(-jn.cross_entropy(network(found), targets)) >= study.SURE).all()
    assert noise.min() <= found.min()
    assert found.max() <= noise.max()
    assert (climbed(found) == found).all()


@pytest.mark.parametrize(("activation", "agrees"), [("relu", True), ("tanh", False)])
def test_growth_at_the_end_of_walks_is_that_without_biases(activation, agrees):
    model = jn.mlp(2, 16, 10, activation, weights=jn.he(), biases=jn.gaussian(1.0))

    @jax.jit
    def walked(key):
        starts, directions = jax.random.normal(key, (2, 8, 5))
        params = model.init(jax.random.fold_in(key, 1), starts)["params"]
        walks = (starts, jnp.zeros(8, int), directions)
        return study._walked(model, params, walks, jnp.array([0.1, 1e3, 1e5], jnp.float32))

    found = walked(jax.random.key(2))
    assert (found["growth_error"] < 1e-4) == agrees
    assert (found["certain"].values[-1] == 1.0) == agrees


def test_figure_draws_all_images():
    fig = study.figure(made())
    assert [len(ax.images) for ax in fig.axes] == [25, 20, 0]


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("interpretability") == []
