"""The overfitting study: its networks and memorisers, and its claims on curves made up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxnn as jn
from experiments import overfitting
from jaxnn import report

STEPS = np.arange(0, 101, 10)
NOISES, SIZES, WIDTHS, DEPTHS, SEEDS = [0.0, 0.5, 1.0], [100, 300], [2, 8, 32], [1, 2], [0, 1]


def made_up(*, last=1.0, slow=2.0, peak=20, rise=1.0, by_size=0.2, harm=0.0, by_depth=0.0):
    """Networks that fit in 30 steps, `slow` times that with noise, and are at chance without truth.

    `last` is the final training accuracy, `peak` the step of the best validation accuracy, `rise`
    what random labels add to the validation loss, `by_size` the gap that the fewest images add.
    """
    labels_dims = ("train_size", "noise", "seed", "step")
    size, noise, _, step = np.meshgrid(SIZES, NOISES, SEEDS, STEPS, indexing="ij")
    accuracy = np.where(step >= 30 * np.where(noise > 0, slow, 1.0), last, 0.5)
    wiggle = 0.001 * np.array([-1.0, 1.0])[None, None, :, None]
    held_out = 0.9 - by_size * (size == 100) * (1 - noise)
    held_out = (
        held_out * (1 - noise) + 0.1 * noise + wiggle - 0.001 * abs(step - peak) * (noise == 0.5)
    )
    labels = {
        "accuracy": accuracy,
        "validation_accuracy": held_out,
        "loss": 1.0 - accuracy,
        "validation_loss": 1.0 + step / 100 * (0.05 + rise * noise),
    }
    depth, width, _ = np.meshgrid(DEPTHS, WIDTHS, SEEDS, indexing="ij")
    fitted = np.where(width > 2, 1.0, 0.2)
    shape = {
        "accuracy": fitted,
        "validation_accuracy": fitted * 0.6 - harm * (width == 32) - by_depth * (depth == 2),
    }
    memoriser = {"error": 1e-9, "numbers": 25, "2n_plus_d": 25}
    coords = {"train_size": SIZES, "noise": NOISES, "seed": SEEDS, "step": STEPS}
    shape = {name: (("depth", "width", "seed", "step"), x[..., None]) for name, x in shape.items()}
    parts = {
        "labels": xr.Dataset({n: (labels_dims, x) for n, x in labels.items()}, coords),
        "shape": xr.Dataset(shape, {"depth": DEPTHS, "width": WIDTHS, "seed": SEEDS, "step": [9]}),
        "memoriser": xr.Dataset({n: ("seed", [x] * 2) for n, x in memoriser.items()}),
    }
    return report.gather(parts, width=8, shape_size=100)


def failing(ds):
    return [
        place for place, each in enumerate(report.judge(overfitting.CLAIMS, ds)) if not each.holds
    ]


def test_claims_hold_where_networks_memorise_and_generalise():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"last": 0.999}, [0, 2, 5]),  # one of a thousand is never fitted
        ({"slow": 5.0}, [0, 2, 5]),
        ({"slow": 1.0}, [2, 5]),
        ({"peak": 100}, [5]),
        ({"rise": 0.1}, [4]),
        ({"by_size": 0.0}, [6, 9]),
        ({"harm": 0.1}, [8]),
        ({"by_depth": 0.2}, [9]),
    ],
    ids=lambda value: str(value),
)
def test_claims_fail_where_they_are_false(change, expected):
    assert failing(made_up(**change)) == expected


@pytest.mark.parametrize(
    ("name", "value", "claim"),
    [
        ("memoriser_error", 1e-3, 7),
        ("memoriser_numbers", 26, 7),
    ],
)
def test_claims_about_memorisers_fail_where_they_are_false(name, value, claim):
    ds = made_up()
    assert failing(ds.assign({name: xr.full_like(ds[name], value)})) == [claim]


def test_chance_and_linear_claims_fail_where_random_labels_teach():
    ds = made_up()
    name = "labels_validation_accuracy"
    assert failing(ds.assign({name: ds[name].where(ds["labels_noise"] < 1.0, 0.5)})) == [1, 3]


def test_network_of_some_units_gives_the_others_neither_output_nor_gradient():
    x = jax.random.normal(jax.random.key(1), (6, 5))
    model = overfitting.network(jn.Depth(2), 3, 8)
    variables = model.init(jax.random.key(0), x)
    gradient = jax.grad(lambda params: jnp.sum(model.apply({"params": params}, x)[0] ** 2))
    found = gradient(variables["params"])
    assert np.all(np.asarray(found["first"]["kernel"])[:, 3:] == 0)
    assert np.all(np.asarray(found["readout"]["kernel"])[3:] == 0)
    assert np.any(np.asarray(found["readout"]["kernel"])[:3] != 0)
    assert np.all(np.asarray(found["hidden"]["kernel"])[0, 3:] == 0)


def test_network_of_some_units_is_drawn_for_their_number():
    """He's variance of 4 of 64 inputs is 2/4; 4,096 weights give it to 2.2%, three errors 7%."""
    variables = overfitting.network(jn.Depth(2), 4, 64).init(jax.random.key(0), jnp.ones((1, 9)))
    assert float(jnp.var(variables["params"]["hidden"]["kernel"])) == pytest.approx(0.5, rel=0.07)


def test_memorisers_fit_random_labels_and_count_their_numbers():
    x = np.random.default_rng(0).standard_normal((20, 4))
    found = overfitting.memorisers(x, 2, seed=0)
    assert float(found["error"].max()) < 1e-8
    assert found["numbers"].values.tolist() == found["2n_plus_d"].values.tolist() == [44, 44]


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("overfitting") == []
