"""The recurrent study: its Jacobians on known networks, its claims on data that must fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxnn as jn
from experiments import recurrent as study
from jaxnn import report

CLAIMS = {claim.statement: claim for claim in study.CLAIMS}


def check(words, ds):
    (found,) = [claim for statement, claim in CLAIMS.items() if words in statement]
    return found.check(ds)


def test_jacobians_of_a_linear_network_are_powers_of_its_kernel():
    model = jn.rnn(3, 1, "identity")
    x = jnp.ones((1, 5, 2))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    found = study.jacobians(model, variables, x)
    kernel = np.asarray(variables["params"]["recurrent"]["kernel"])
    powers = [np.linalg.matrix_power(kernel, lag).T for lag in range(5)]
    np.testing.assert_allclose(found, powers, atol=1e-6)


def test_chi_1_of_driven_networks_is_below_that_of_linear_ones():
    radii = np.array([0.5, 1.5])
    assert (study.chi_1(radii) < radii**2).all()


def test_furthest_counts_ratios_below_1_as_those_above():
    assert study.furthest(xr.DataArray([0.5, 1.0, 1.9])) == 0.5
    assert np.isnan(study.furthest(xr.DataArray([0.5, np.nan])))


def jacobian():
    """Two kernels on the bound at rest, and mean field's growth where driven; Gaussian norm 2."""
    radii, lags, kernels = np.array([0.5, 1.0, 1.5]), np.arange(31), ["orthogonal", "gaussian"]
    rest = radii[:, None] ** lags
    driven = np.asarray(study.chi_1(radii))[:, None] ** (lags / 2)
    rms = np.broadcast_to(np.stack([rest, driven], 1)[None, :, :, None], (2, 3, 2, 4, 31))
    norms = np.broadcast_to(
        np.outer([1.0, 2.0], radii)[:, :, None, None] * np.ones((2, 4)), (2, 3, 2, 4)
    )
    dims = ("kernel", "radius", "drive", "seed")
    coords = {"kernel": kernels, "radius": radii, "drive": list(study.DRIVES), "lag": lags}
    return xr.Dataset({"rms": ((*dims, "lag"), rms), "weight_norm": (dims, norms)}, coords)


def trainings(axes, final):
    """Losses over the guess that fall from 1 to final, halfway at half of the steps."""
    shape, steps = [len(each) for each in axes.values()], np.linspace(0, 1, 11)
    final = np.broadcast_to(np.asarray(final, float), shape)[..., None]
    loss = 1 + (final - 1) * steps
    return xr.Dataset(
        {
            "validation_loss": ((*axes, "step"), loss),
            "diverged_at": (tuple(axes), np.full(shape, np.nan)),
        },
        {**axes, "step": 100 * steps},
    )


@pytest.fixture
def ds():
    clips, rates, seeds = list(study.CLIPS), [0.1, 0.3], [0, 1, 2]
    order = {"radius": [0.5, 1.0], "clip_norm": clips, "learning_rate": rates, "seed": seeds}
    adding = {"cell": ["tanh", "lstm"], "forget_bias": [0.0, 1.0], "learning_rate": rates}
    ends = np.array([[1.0, 1.0], [1.0, 2.0]])[None, :, :, None]  # of clipped and other trainings
    learnt = np.array([[1.0, 1.0], [0.4, 0.1]])[:, :, None, None]
    parts = {
        "jacobian": jacobian(),
        "order": trainings(order, ends),
        "adding": trainings(adding | {"seed": seeds}, learnt),
    }
    for task, guess in study.GUESSES.items():
        parts[task]["validation_loss"] *= guess
    return report.gather(parts, order_length=20, adding_length=50)


def test_all_claims_hold_on_data_that_follow_the_laws(ds):
    verdicts = report.judge(study.CLAIMS, ds)
    assert [each.claim.statement for each in verdicts if not each.holds] == []


def set_where(name, value, **where):
    def change(ds):
        ds[name].loc[where] = value * ds[name].loc[where]
        return ds

    return change


BROKEN = {
    "no Jacobian exceeds": set_where("jacobian_rms", 0.999, jacobian_drive=0.0, jacobian_lag=7),
    "grows by mean field": set_where("jacobian_rms", 10.0, jacobian_drive=0.5, jacobian_radius=0.5),
    "stays at the guess": set_where("order_validation_loss", 0.9, order_radius=0.5),
    "clipping": set_where("order_validation_loss", 1.2, order_clip_norm=1.0),
    "learn adding": set_where("adding_validation_loss", 0.8, adding_cell="tanh"),
    "fewer steps": set_where("adding_validation_loss", 9.0, adding_forget_bias=1.0),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_claim_fails_on_data_that_break_it(words, ds):
    broken = BROKEN[words](ds.copy(deep=True))
    assert not check(words, broken).holds


def test_a_jacobian_above_the_bound_fails_whatever_the_kernel(ds):
    broken = set_where("jacobian_rms", 1e6, jacobian_kernel="gaussian", jacobian_drive=0.0)
    assert not check("no Jacobian exceeds", broken(ds.copy(deep=True))).holds


def test_a_training_that_is_not_finite_counts_as_diverged(ds):
    ds["order_diverged_at"][0, 0, 0, 0] = 5.0
    assert bool(study.diverged(ds)[0, 0, 0, 0])


def test_figure_names_its_axes_and_seeds(ds):
    norms, clipped, adding = study.figure(ds).axes
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in (norms, clipped, adding))
    assert "4 seeds" in norms.get_title()
    assert "3 seeds" in clipped.get_title()


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("recurrent") == []
