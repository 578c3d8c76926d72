"""The learning-rate study: readings of known curves; claims on made-up sweeps that must fail."""

import numpy as np
import pytest
import xarray as xr

from experiments import learning_rate as study
from jaxnn import report

CLAIMS = {claim.statement: claim for claim in study.CLAIMS}
RATES = 10.0 ** np.linspace(-4.0, 1.0, 21)


def holds(words, ds):
    (found,) = [claim for statement, claim in CLAIMS.items() if words in statement]
    return found.check(ds).holds


def curve(rates, best, limit):
    """A loss by rate: from 2 down to 0.2 at the best one, above 2 from the limit on."""
    decades = np.log10(rates / best)
    loss = np.clip(0.2 + 0.7 * np.abs(decades), None, 1.9)
    return np.where(rates >= limit, 20.0 * rates / limit, loss)


@pytest.fixture
def ds():
    """Two seeds; SGD is best at 0.1 and diverges from 1 on, from 2 with warm-up."""
    plain = curve(RATES, 0.1, 1.0)
    sgd = [plain, study.SCALE * curve(100 * RATES, 0.1, 1.0)]
    sgd += [curve(RATES, 0.1, 1.7), 0.9 * plain]
    adam = np.where(RATES < 1, plain, 5.0)
    parts = {}
    for rule, last in (("sgd", np.array(sgd)), ("adam", np.array([adam, study.SCALE * adam]))):
        scale = np.array([1, study.SCALE, 1, 1])[: len(last), None] * np.ones_like(last)
        loss = np.broadcast_to(np.stack([2.0 * scale, last], -1)[..., None], (*last.shape, 2, 2))
        coords = {"setting": list(study.SETTINGS[rule]), "learning_rate": RATES, "step": [0, 200]}
        parts[rule] = xr.Dataset({"loss": ((*coords, "seed"), loss)}, {**coords, "seed": [0, 1]})
    steps = np.arange(201)
    ramp_rate = 10.0 ** (-4.0 + 5.0 * steps / 200)
    parts["ramp"] = xr.Dataset(
        {
            "loss": (("seed", "step"), np.tile(0.5 + curve(ramp_rate, 0.1, 1.5), (2, 1))),
            "rate": ("step", ramp_rate),
            "hessian_max": ("seed", [10.0, 20.0]),
        },
        {"seed": [0, 1], "step": steps},
    )
    ratios = [1 - study.CLOSE, 1 + study.CLOSE]
    parts["quadratic"] = xr.Dataset({"growth": ("ratio", [0.5, 2.0])}, {"ratio": ratios})
    return report.gather(parts, num_steps=200)


def test_least_squares_grow_at_the_rate_of_the_sharpest_direction():
    """From step 1500 to 3000 the sharpest direction grows by |1 - 2 ratio| a step, in the end."""
    found = study.least_squares((0.5, 1.01))["growth"].values
    assert found[0] < 1
    assert found[1] == pytest.approx(1.02**1500, rel=1e-6)


def test_readings_of_a_known_curve(ds):
    np.testing.assert_allclose(study.divergence(ds), RATES[16], rtol=1e-6)  # the rate 1
    np.testing.assert_allclose(study.divergence(ds, "warm-up"), RATES[17], rtol=1e-6)
    assert study.best_learning_rate(ds) == pytest.approx(0.1)
    # the ramp passes 1.5 and reads the next step, a factor of 10^0.025 further at most
    assert 1.5 <= study.cliff(ds).min() <= study.cliff(ds).max() <= 1.6


def test_a_sweep_that_never_diverges_meets_no_claim_of_divergence(ds):
    ds = ds.assign(sgd_loss=np.minimum(ds["sgd_loss"], 1.9))
    assert np.isnan(study.divergence(ds)).all()
    for words in ("only above 2/lambda_max", "range test's cliff", "1.5 decades", "with warm-up"):
        assert not holds(words, ds)


def test_every_claim_holds_on_an_ideal_sweep(ds):
    assert [claim.statement for claim in study.CLAIMS if not claim.check(ds).holds] == []


def with_loss(ds, factor, rule="sgd", **where):
    loss = ds[f"{rule}_loss"].copy()
    loss.loc[{f"{rule}_{name}": value for name, value in {"step": 200, **where}.items()}] *= factor
    return ds.assign({f"{rule}_loss": loss})


BROKEN = {
    "Least squares": lambda ds: ds.assign(quadratic_growth=ds["quadratic_growth"] * 0 + 2.0),
    "only above 2/lambda_max": lambda ds: ds.assign(ramp_hessian_max=ds["ramp_hessian_max"] / 20),
    "range test's cliff": lambda ds: ds.assign(ramp_rate=ds["ramp_rate"] / 10),
    "1.5 decades": lambda ds: with_loss(ds, 0.1, learning_rate=RATES[2]),
    "hardly trains": lambda ds: with_loss(ds, 0.2, learning_rate=RATES[0]),
    "SGD on 100": lambda ds: with_loss(ds, 1.01, setting="loss x 100"),
    "Adam does": lambda ds: with_loss(ds, 1.1, "adam", setting="loss x 100"),
    "with warm-up": lambda ds: with_loss(ds, 100.0, setting="warm-up"),
    "along a cosine": lambda ds: with_loss(ds, 1.5, setting="cosine"),
}


@pytest.mark.parametrize("words", BROKEN)
def test_claim_fails_where_it_is_not_so(ds, words):
    assert not holds(words, BROKEN[words](ds))


def test_every_claim_has_a_way_to_fail():
    assert len(BROKEN) == len(study.CLAIMS)


def test_figure_draws_and_labels(ds):
    fig = study.figure(ds)
    assert len(fig.axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)
    fig.draw_without_rendering()


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("learning_rate") == []
