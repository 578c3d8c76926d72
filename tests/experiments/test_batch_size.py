"""The batch-size study: the best rate in numpy, and claims on made-up sweeps that must fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import batch_size as study
from jaxnn import report

CLAIMS = {claim.statement: claim for claim in study.CLAIMS}


def holds(words, ds):
    (found,) = [claim for statement, claim in CLAIMS.items() if words in statement]
    return found.check(ds).holds


@pytest.fixture
def ds():
    """Two seeds, whose noise scale quadruples at the best rate, and theory's laws met."""
    noise = np.random.default_rng(0).normal(size=(2, 2, 100))
    batches = np.array([1.0, 8.0, 32.0, 64.0])
    squares = study.RATE_OVER_BATCH / (2.0 - study.RATE_OVER_BATCH * batches)
    spread = 1.0 + 0.001 * np.array([-1.0, 1.0, -1.0, 1.0])
    theory = np.array([0.01, 0.035, 0.093, 0.158])
    coords = {"learning_rate": [0.01, 0.1, 1.0], "step": [0, 100, 200]}
    grown = np.ones((3, 3, 2)) * np.array([[1, 1, 1], [1, 1.5, 2], [1, 1, 1]])[..., None]
    losses = np.broadcast_to(np.array([1.0, 0.2, np.nan])[:, None, None], grown.shape)
    dims = (*coords, "seed")
    trained = {"gradient_noise_trace": (dims, grown), "gradient_noise_signal": (dims, 1 / grown)}
    start = {
        "trace": (("seed", "batch"), 100.0 * np.array([[5.0], [6.0]]) + noise[0]),
        "signal": (("seed", "batch"), 10.0 + 0.5 * noise[1]),
        "exact": ("seed", [50.0, 60.0]),
    }
    best = {"rate": (("batch", "seed"), theory[:, None] * spread), "theory": ("batch", theory)}
    square = {"square": (("batch", "seed"), squares[:, None] * spread)}
    parts = {
        "trained": xr.Dataset({**trained, "loss": (dims, losses)}, coords),
        "start": xr.Dataset(start),
        "settled": xr.Dataset(square, {"batch": batches}),
        "best": xr.Dataset(best, {"batch": [1.0, 4.0, 16.0, 64.0]}),
    }
    return report.gather(parts)


def test_best_rate_of_the_whole_distribution_is_theory_s():
    """Of batches drawn from four examples the mean over all 4^2 is exact, in numpy."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 3)).astype("f"), rng.normal(size=(4, 2)).astype("f")
    gram, mean = x.T @ x / 4, x.T @ y / 4
    steps = [(np.outer(x[i], y[i]) + np.outer(x[j], y[j])) / 2 for i in range(4) for j in range(4)]
    fall = np.mean([(step * mean).sum() for step in steps])
    rise = np.mean([(step * (gram @ step)).sum() for step in steps])
    theory = study.best_rate_theory(jnp.asarray(x), jnp.asarray(y), jnp.float32(2))
    assert float(theory) == pytest.approx(fall / rise, rel=1e-4)  # float32
    drawn = jax.jit(study.best_rate, static_argnums=4)(
        jnp.asarray(x), jnp.asarray(y), jnp.float32(2), jax.random.key(0), 20_000
    )
    # a batch's terms scatter by about their mean: 1 / sqrt(20,000) = 0.7%, four of these
    assert float(drawn) == pytest.approx(float(theory), rel=0.03)


def test_growth_is_read_at_the_rate_that_ends_lowest_and_is_finite(ds):
    assert study.growth(ds).values == pytest.approx([1.0, 1.5**2, 2.0**2])


def test_every_claim_holds_on_an_ideal_sweep(ds):
    assert [claim.statement for claim in study.CLAIMS if not claim.check(ds).holds] == []


BROKEN = {
    "Stationary": lambda ds: ds.assign(settled_square=ds["settled_square"] * 1.03),
    "from two batch sizes": lambda ds: ds.assign(start_trace=ds["start_trace"] * 1.2),
    "on 16 digits": lambda ds: ds.assign(best_rate=ds["best_rate"] * 1.02),
    "noise scale grows": lambda ds: ds.assign(
        trained_gradient_noise_trace=ds["trained_gradient_noise_signal"]
    ),
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
    assert fails_at_quick("batch_size") == []
