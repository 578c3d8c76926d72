"""The regularisation study: its contrasts on additive responses, its claims on curves made up."""

import numpy as np
import pytest
import xarray as xr

from experiments import regularization as study
from jaxnn.theory import regularisers

LEVELS = ("num_train", "l2", "l1", "dropout", "norm")
STEPS = np.arange(0, 60, 10)
RATE, PENALTY = study.RATE, study.PENALTY


def made_up(data=-0.4, remedy=-0.1, saved=0.05, behind=0.5, last=0.02, norms=-0.05):
    """A dataset whose gap is additive, but for remedies weaker on more data and behind the norm."""
    axes = (2, 2, 2, 2, 2, 3)
    num_train, l2, l1, dropout, norm, seed = np.indices(axes).astype(float)
    weaker = np.where(num_train > 0, saved / 0.1, 1.0)
    remedies = remedy * (l1 + dropout + l2 * np.where(norm > 0, behind, 1.0)) * weaker
    end = 1.0 + data * num_train + norms * norm + remedies + 0.001 * seed
    best = 2 + dropout[..., None]  # where the validation loss is lowest
    curve = end[..., None] + 0.02 * weaker[..., None] * (np.abs(np.arange(6) - best) - 3)
    training = np.where(dropout > 0, 2 * last, last)[..., None] * np.ones(6)
    lam = np.array([0.02, 0.1, 1.0])
    stopped, ridge = 1 - (1 - RATE * lam) ** 100, lam / (lam + PENALTY)
    kept = np.stack([stopped, ridge, np.maximum(1 - PENALTY / lam, 0), [0.5, 0.5, 0.5]])
    dims = (*(f"mnist_{each}" for each in LEVELS), "mnist_seed", "mnist_step")
    halves = np.stack([curve, curve], -1)
    return xr.Dataset(
        {
            "mnist_loss": (dims, training),
            "mnist_validation_held_out_loss": ((*dims, "mnist_half"), halves),
            "mnist_validation_held_out_accuracy": ((*dims, "mnist_half"), 1 - 0.1 * halves),
            "linear_kept": (("linear_remedy", "linear_mode"), kept),
            "linear_eigenvalue": ("linear_mode", lam),
        },
        {"mnist_step": STEPS, "mnist_num_train": [100, 1000]},
        {"dropout": 0.5},
    )


def verdicts(ds):
    return [claim.check(ds) for claim in study.CLAIMS]


def test_effect_recovers_the_coefficients_of_a_model():
    axes = {name: np.arange(2) for name in ("one", "other")} | {"seed": np.arange(3)}
    one, other, seed = np.meshgrid(*axes.values(), indexing="ij")
    values = 5.0 + 2.0 * one - 3.0 * other + 4.0 * one * other + seed
    response = xr.DataArray(values, dims=list(axes))
    np.testing.assert_allclose(study.effect(response, "one"), 2.0 + 4.0 / 2)
    np.testing.assert_allclose(study.effect(response, "other"), -3.0 + 4.0 / 2)
    np.testing.assert_allclose(study.effect(response, "one", "other"), 4.0 / 2)


def test_interval_is_students():
    mean, error, half = study.interval(xr.DataArray([1.0, 2.0, 3.0], dims="seed"))
    assert (mean, error) == pytest.approx((2.0, 3**-0.5))
    assert half == pytest.approx(4.30265 * 3**-0.5, rel=1e-5)


def test_responses_read_the_test_half_where_the_validation_half_is_lowest():
    ds = made_up()
    losses = ds["mnist_validation_held_out_loss"]
    losses[..., study.TEST] = np.arange(6.0)
    gap, _ = study.responses(ds.assign(mnist_loss=0.0 * ds["mnist_loss"]))
    assert gap.sel(early_stopping=0).values == pytest.approx(5.0)
    np.testing.assert_allclose(gap.sel(early_stopping=1, dropout=0), 2.0)
    np.testing.assert_allclose(gap.sel(early_stopping=1, dropout=1), 3.0)


def test_claims_hold_where_they_should():
    assert [found.holds for found in verdicts(made_up())] == [True] * len(study.CLAIMS)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"remedy": 0.1}, 0),
        ({"norms": 0.05}, 1),
        ({"data": -0.01}, 2),
        ({"saved": 0.1}, 3),
        ({"behind": 1.0}, 4),
    ],
)
def test_claim_fails_where_it_should(change, number):
    assert not verdicts(made_up(**change))[number].holds


def test_dropout_claims_fail_on_equal_curves():
    ds = made_up()
    same = ds.isel(mnist_dropout=[0, 0])
    assert [found.holds for found in verdicts(same)[5:7]] == [False, False]


@pytest.mark.parametrize(("remedy", "failing"), [(0, {7, 8}), (1, {7}), (2, {7}), (3, {9})])
def test_linear_claims_fail_on_other_weights(remedy, failing):
    ds = made_up()
    ds["linear_kept"][remedy] *= 1.2
    held = [found.holds for found in verdicts(ds)]
    assert held == [number not in failing for number in range(len(held))]


def test_theory_of_dropout_is_the_library_s():
    """The filter of each mode is what the weights that minimise the expected loss say."""
    x = np.array([[2.0, 0.1], [-2.0, 0.1], [2.0, -0.1], [-2.0, -0.1]], np.float32)
    weights = regularisers.dropout_ridge_weights(x, x.sum(1), 0.5)
    np.testing.assert_allclose(study.theory(np.mean(x**2, axis=0))[3], weights, rtol=1e-5)


def test_norm_is_batch_norm_or_nothing():
    z = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
    for present, expected in ((0.0, z), (1.0, [[-1.0, -1.0], [1.0, 1.0]])):
        norm = study._norm(np.float32(present))
        found, _ = norm.apply(*norm.init(2, np.float32), z, train=True)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_smaller_images_are_means_of_four_pixels():
    images = np.arange(2.0 * 28 * 28).reshape(2, 28, 28, 1)
    found = study.pooled(images)
    assert found.shape == (2, 196)
    assert found[0, 1] == images[0, :2, 2:4, 0].mean()
    assert study.pooled(np.arange(3)).tolist() == [0, 1, 2]


def test_all_claims_but_that_of_batch_norm_hold_at_quick_scale(fails_at_quick):
    """Batch norm widens the gap here, at every scale: a finding, and a claim that fails."""
    (failed,) = fails_at_quick("regularization")
    assert failed.startswith("Trend: batch norm regularises too")
