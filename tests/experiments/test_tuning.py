"""The tuning study: its searchers and checks on made-up losses with known answers."""

import builtins

import numpy as np
import pytest
import xarray as xr

from experiments import _searchers as searchers
from experiments import tuning as study
from jaxnn import report

RATES = 8
SIZES = (RATES, 2, 2, 2)
RANGES = searchers.HIGH - searchers.LOW


def made_up(*, best_rate: int = 5, searched: float = 0.02) -> xr.Dataset:
    """Return a study's data where the loss is a smooth bowl over the settings."""
    rate, *others = np.meshgrid(*map(np.arange, SIZES), indexing="ij")
    bowl = 0.05 + 0.1 * (rate - best_rate) ** 2 + np.tensordot([3e-3, 2e-3, 1e-3], others, 1)
    values = np.minimum(bowl, 0.9)[None, ..., None] * np.ones((2, *SIZES, 10))
    dims = ("seed", *searchers.SPACE, "step")
    table = xr.Dataset({"validation_seen": (dims, values), "validation_errors": (dims, values)})
    ends = study.over_budget(searched * np.ones((7, 4)), 14)
    parts = {"table": table, **dict.fromkeys(("bayesian", "student", "population"), ends)}
    return report.gather(parts, budget=14)


def failed(ds: xr.Dataset) -> list[str]:
    verdicts = report.judge(study.CLAIMS, ds)
    return [each.claim.statement for each in verdicts if not each.holds]


def test_every_claim_holds_on_ideal_data():
    assert failed(made_up()) == []


def test_searchers_that_end_badly_fail():
    statements = failed(made_up(searched=0.8))
    assert len(statements) == 3
    assert all(words.startswith("Trend") for words in statements)


def test_good_rates_that_are_no_interval_fail():
    ds = made_up()
    errors = ds["table_validation_errors"].copy()
    errors[{"table_log_rate": [0, 4]}] = 0.0  # both on one grid
    assert not study._grid_law(ds.assign(table_validation_errors=errors)).holds


def test_grids_cover_the_table_evenly():
    grids = study.grids(made_up(), 2)
    assert grids.shape == (RATES // 2, 16)
    assert sorted(grids.ravel()) == list(range(np.prod(SIZES)))
    rates = np.unravel_index(grids, SIZES)[0]
    assert {tuple(np.unique(each)) for each in rates} == {(0, 4), (1, 5), (2, 6), (3, 7)}


def test_race_keeps_the_best_third_of_each_rung():
    losses = np.tile(np.arange(27.0)[:, None], 10)
    losses[0, 3] = 99.0  # falls behind after the first rung
    assert np.flatnonzero(study.left(losses)).tolist() == [1, 2, 3]


def test_images_are_pooled_by_blocks():
    rows = np.arange(28.0)[:, None] * np.ones(28)
    pooled = study.pooled(rows.reshape(1, 784))
    assert pooled.reshape(14, 14)[:, 0].tolist() == (np.arange(14) * 2 + 0.5).tolist()
    assert study.pooled(np.arange(3)).tolist() == [0, 1, 2]


def test_population_copies_the_best_over_the_worst():
    losses = np.arange(10.0)[::-1, None] * np.ones((1, 2))  # member 9 is the best
    parents = searchers.copied(losses)
    assert parents[:, 0].tolist() == [8, 9, 2, 3, 4, 5, 6, 7, 8, 9]


class BowlCrew:
    """Trains in no time: a setting's loss is its distance from a goal, whatever the state."""

    round_size, repetitions = 4, 2

    def __init__(self):
        self.asked = []

    def begin(self, settings):
        return np.zeros(settings[..., 0].size)

    def advance(self, settings, states):
        assert len(states) == settings[..., 0].size
        self.asked.append(settings)
        losses = (((settings - searchers.DEFAULT) / RANGES) ** 2).sum(-1)
        return states + 1, losses, 2 * losses


def test_population_gets_better_within_the_space():
    crew = BowlCrew()
    errors = searchers.population(crew, np.random.default_rng(0))
    assert errors.shape == (searchers.PARTS, 2)
    assert (errors[-1] <= errors[0]).all()
    spread = [np.ptp(settings, axis=0).mean() for settings in crew.asked]
    assert spread[-1] < spread[0]
    settings = np.array(crew.asked)
    assert (settings >= searchers.LOW).all()
    assert (settings <= searchers.HIGH).all()


def test_student_who_starts_at_the_best_stays_there():
    errors = searchers.asked([searchers.student(4) for _ in range(2)], BowlCrew())
    assert errors.shape == (searchers.ROUNDS, 2)
    assert errors == pytest.approx(np.zeros_like(errors))


def test_student_descends_one_setting_at_a_time():
    target = searchers.DEFAULT + 0.25 * RANGES * np.array([1, 0, -1, 0])
    searcher = searchers.student(4)
    asked = next(searcher)
    assert any(np.allclose(each, searchers.DEFAULT) for each in asked)  # the defaults are tried
    lowest = np.inf
    for _ in range(6):
        assert (np.ptp(asked, axis=0) > 0).sum() == 1
        losses = (((asked - target) / RANGES) ** 2).sum(1)
        lowest = min(lowest, losses.min())
        asked = searcher.send(losses)
    assert lowest == pytest.approx(0.0, abs=1e-12)


def test_bayesian_search_asks_within_the_space():
    searcher = searchers.bayesian(searchers.import_optuna(), 2, 0)
    asked = next(searcher)
    for _ in range(3):
        assert asked.shape == (2, len(searchers.SPACE))
        assert (asked >= searchers.LOW).all()
        assert (asked <= searchers.HIGH).all()
        asked = searcher.send(asked.sum(1))


def test_missing_optuna_is_told_before_anything_runs(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"jaxnn\[tune\]"):
        study.run(study.SCALES["quick"], seed=0, store=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_figure_draws_and_labels():
    fig = study.figure(made_up())
    assert len(fig.axes) == 2
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("tuning") == []
