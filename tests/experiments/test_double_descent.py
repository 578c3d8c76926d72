"""The double-descent study: its fits against plain numpy, its claims on a dataset of the theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import double_descent

SIZES, USED, STEPS = np.array([5, 10, 20, 30, 40, 60]), np.array([10, 20, 40]), np.arange(11)


def grid():
    attrs = {"regression_features": 40, "regression_noise": 0.5}
    return xr.Dataset(coords={"size": SIZES, "used": USED}, attrs=attrs)


@pytest.fixture(scope="module")
def ds():
    """A dataset whose measurements are the theory's, with a noise of 1% over seeds."""
    generator = np.random.default_rng(0)

    def noisy(values, num=16):
        return np.asarray(values) * (1 + 0.01 * generator.standard_normal((num, *values.shape)))

    excess = double_descent.exact_risk(grid()).fillna(20.0)
    error = 1.0 + np.array([0.1, 1.0, 0.2])[:, None] * STEPS  # by examples 25, 50, 100
    student = ("student_seed", "student_size", "student_step")
    return xr.Dataset(
        {
            "regression_excess": (
                ("regression_seed", *(f"regression_{dim}" for dim in excess.dims)),
                noisy(excess),
            ),
            "student_validation_loss": (student, noisy(error) / 2),
            "student_theory": (student, np.stack([error] * 16)),
        },
        {
            "regression_size": SIZES,
            "regression_used": USED,
            "student_size": [25, 50, 100],
            "student_step": STEPS,
        },
        {**grid().attrs, "student_features": 50, "student_rate": 0.01},
    )


def failing(ds):
    found = [claim.check(ds).holds for claim in double_descent.CLAIMS]
    return [place for place, holds in enumerate(found) if not holds]


def test_claims_hold_on_the_theory(ds):
    assert failing(ds) == []


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("regression_excess", lambda each: 1.2 * each, [0, 1, 2, 3]),
        ("regression_excess", lambda each: each.clip(max=1.0), [1, 2, 3, 4]),
        ("student_validation_loss", lambda each: 1.2 * each, [5]),
        ("student_validation_loss", lambda each: 0 * each + 0.5, [5, 6]),
    ],
)
def test_claims_fail_on_other_numbers(ds, name, change, expected):
    assert failing(ds.assign({name: change(ds[name])})) == expected


@pytest.mark.parametrize("regime", double_descent.RISKS)
def test_a_risk_claim_fails_on_its_own_cells_alone(ds, regime):
    all_features, more_examples = regime
    size, used = ds["regression_size"], ds["regression_used"]
    wrong = ((used == 40) == all_features) & (size != used) & ((size > used) == more_examples)
    excess = ds["regression_excess"] * xr.where(wrong, 1.2, 1.0)
    place = list(double_descent.RISKS).index(regime)
    assert failing(ds.assign(regression_excess=excess)) == [place]


def test_exact_risk_is_the_textbook_formula():
    theory = double_descent.exact_risk(grid())
    noise = 0.25
    # to the digits of a float32, of which the noise is taken off
    below, above = theory.sel(size=60, used=40), theory.sel(size=30, used=40)
    assert float(below) == pytest.approx(noise * 40 / (60 - 40 - 1), rel=1e-5)
    assert float(above) == pytest.approx(0.25 + noise * 30 / 9, rel=1e-5)
    assert np.isnan(theory.sel(size=40, used=40))


def test_minimum_norm_equals_numpy_on_the_part_in_use():
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((12, 8)), generator.standard_normal(12)
    found = jax.jit(double_descent.minimum_norm)
    for size, used in [(12, 8), (5, 8), (10, 3)]:
        expected = np.zeros(8)
        expected[:used] = np.linalg.lstsq(x[:size, :used], y[:size])[0]
        given = (jnp.float32(x), jnp.float32(y), jnp.int32(size), jnp.int32(used))
        # float32 and a squared condition number of some 1e2
        np.testing.assert_allclose(found(*given), expected, atol=1e-3)


def test_figure_draws_and_labels_every_panel(ds):
    axes = double_descent.figure(ds).axes
    assert len(axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in axes)
    assert all("16 seeds" in ax.get_title() for ax in axes)


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("double_descent") == []
