"""The learning-rate study: exact laws in numpy, and the claims on made-up sweeps that must fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import learning_rate as study

CLAIMS = {claim.statement: claim for claim in study.CLAIMS}
RATES = 10.0 ** np.linspace(-4.0, 1.0, 21)


def holds(part, ds):
    (found,) = [claim for statement, claim in CLAIMS.items() if part in statement]
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
    adam = [np.where(RATES < 1, plain, 5.0)] * 4
    last = np.array([sgd, [adam[0], study.SCALE * adam[0], *adam[2:]]])
    last = np.broadcast_to(last[..., None], (*last.shape, 2))
    first = np.ones_like(last) * 2.0 * np.array([1, study.SCALE, 1, 1])[:, None, None]
    dims = ("rule", "setting", "learning_rate", "seed")
    steps = np.arange(201)
    ramp_rate = 10.0 ** (-4.0 + 5.0 * steps / 200)
    parts = np.random.default_rng(0).normal(size=(2, 2, 100))
    batches = np.array([1.0, 8.0, 32.0, 64.0])
    rates = study.RATE_OVER_BATCH * batches
    squares = study.RATE_OVER_BATCH / (2.0 - rates)
    spread = 1.0 + 0.001 * np.array([-1.0, 1.0, -1.0, 1.0])
    best_theory = np.array([0.01, 0.035, 0.093, 0.158])
    return xr.Dataset(
        {
            "loss": ((*dims, "step"), np.stack([first, last], axis=-1)),
            "gradient_noise_trace": ((*dims, "step"), np.ones((*last.shape, 2)) * [1.0, 2.0]),
            "gradient_noise_signal": ((*dims, "step"), np.ones((*last.shape, 2)) * [1.0, 0.5]),
            "ramp_loss": (("seed", "ramp_step"), np.tile(0.5 + curve(ramp_rate, 0.1, 1.5), (2, 1))),
            "initial_sharpness": ("seed", [10.0, 20.0]),
            "exact_noise_scale": ("seed", [50.0, 60.0]),
            "noise_trace": (("seed", "batch"), 100.0 * np.array([[5.0], [6.0]]) + parts[0]),
            "noise_signal": (("seed", "batch"), 10.0 + parts[1] * 0.5),
            "growth": ("ratio", [0.5, 2.0]),
            "stationary_square": (("settled_batch", "draw"), squares[:, None] * spread),
            "best_rate": (("best_batch", "draw"), best_theory[:, None] * spread),
            "best_rate_theory": ("best_batch", best_theory),
            "ramp_rate": ("ramp_step", ramp_rate),
        },
        {
            "rule": ["sgd", "adam"],
            "setting": list(study.SETTINGS),
            "learning_rate": RATES,
            "seed": [0, 1],
            "step": [0, 200],
            "ramp_step": steps,
            "ratio": [1 - study.CLOSE, 1 + study.CLOSE],
            "settled_batch": batches,
            "best_batch": [1.0, 4.0, 16.0, 64.0],
            "draw": range(4),
        },
        {"num_steps": 200, "batch_size": 32},
    )


def test_best_rate_of_the_whole_distribution_is_theory_s():
    """Of batches drawn from four examples the mean over all 4^2 is exact, in numpy."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 3)).astype("f"), rng.normal(size=(4, 2)).astype("f")
    gram, mean = x.T @ x / 4, x.T @ y / 4
    steps = [(np.outer(x[i], y[i]) + np.outer(x[j], y[j])) / 2 for i in range(4) for j in range(4)]
    fall = np.mean([(step * mean).sum() for step in steps])
    rise = np.mean([(step * (gram @ step)).sum() for step in steps])
    theory = study._best_rate_theory(jnp.asarray(x), jnp.asarray(y), jnp.float32(2))
    assert float(theory) == pytest.approx(fall / rise, rel=1e-4)  # float32
    drawn = jax.jit(study.best_rate, static_argnums=4)(
        jnp.asarray(x), jnp.asarray(y), jnp.float32(2), jax.random.key(0), 20_000
    )
    # a batch's terms scatter by about their mean: 1 / sqrt(20,000) = 0.7%, four of these
    assert float(drawn) == pytest.approx(float(theory), rel=0.03)


def test_readings_of_a_known_curve(ds):
    np.testing.assert_allclose(study.divergence(ds), RATES[16], rtol=1e-6)  # the rate 1
    np.testing.assert_allclose(study.divergence(ds, "warm-up"), RATES[17], rtol=1e-6)
    assert study.best_learning_rate(ds) == pytest.approx(0.1)
    # the ramp passes 1.5 and reads the next step, a factor of 10^0.025 further at most
    assert 1.5 <= study.cliff(ds).min() <= study.cliff(ds).max() <= 1.6


def test_every_claim_holds_on_an_ideal_sweep(ds):
    assert [claim.statement for claim in study.CLAIMS if not claim.check(ds).holds] == []


def with_loss(ds, factor, **where):
    loss = ds["loss"].copy()
    loss.loc[{"step": 200, **where}] *= factor
    return ds.assign(loss=loss)


BROKEN = {
    "Least squares": lambda ds: ds.assign(growth=ds["growth"] * 0 + 2.0),
    "only above 2/lambda_max": lambda ds: ds.assign(initial_sharpness=ds["initial_sharpness"] / 20),
    "range test's cliff": lambda ds: ds.assign(ramp_rate=ds["ramp_rate"] / 10),
    "1.5 decades": lambda ds: with_loss(ds, 0.1, rule="sgd", learning_rate=RATES[2]),
    "hardly trains": lambda ds: with_loss(ds, 0.2, rule="sgd", learning_rate=RATES[0]),
    "SGD on 100": lambda ds: with_loss(ds, 1.01, rule="sgd", setting="loss x 100"),
    "Adam does": lambda ds: with_loss(ds, 1.1, rule="adam", setting="loss x 100"),
    "with warm-up": lambda ds: with_loss(ds, 100.0, setting="warm-up"),
    "along a cosine": lambda ds: with_loss(ds, 1.5, setting="cosine"),
    "Stationary": lambda ds: ds.assign(stationary_square=ds["stationary_square"] * 1.03),
    "from two batch sizes": lambda ds: ds.assign(noise_trace=ds["noise_trace"] * 1.2),
    "on 16 digits": lambda ds: ds.assign(best_rate=ds["best_rate"] * 1.02),
    "noise scale grows": lambda ds: ds.assign(gradient_noise_trace=ds["gradient_noise_signal"]),
}


@pytest.mark.parametrize("part", BROKEN)
def test_claim_fails_where_it_is_not_so(ds, part):
    assert not holds(part, BROKEN[part](ds))


def test_every_claim_has_a_way_to_fail():
    assert len(BROKEN) == len(study.CLAIMS)


def test_figure_draws_and_labels(ds):
    fig = study.figure(ds)
    assert len(fig.axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)
    fig.draw_without_rendering()
