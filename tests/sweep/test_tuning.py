"""Sizes that are tried while a sweep runs: results stay the same, the best one is remembered."""

import importlib

import jax
import numpy as np
import pytest

import jaxnn as jn

TUNING = importlib.import_module("jaxnn.sweep.tuning")
MEMBERS = 4000


def run(key, *, scale):
    return {"drawn": scale * jax.random.normal(key, ()), "twice": 2 * scale}


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """Rounds that take 4 s a member with 4 lanes, and with others what is set here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seconds = {}
    used = []
    kept = TUNING.Tuning.time

    def time(self, size, _, left):
        lanes = size.program.tile.lanes
        used.append(lanes)
        kept(self, size, seconds.get(lanes, 4.0), left)

    def compile_at_once(*arguments):
        future = compiling(*arguments)
        future.result()
        return future

    compiling = TUNING.start_compiling
    monkeypatch.setattr(TUNING, "start_compiling", compile_at_once)
    monkeypatch.setattr(TUNING.Tuning, "time", time)
    monkeypatch.setattr(importlib.import_module("jaxnn.sweep.tiles"), "_first_lanes", lambda *_: 4)
    return seconds, used


def swept(**options):
    scales = np.linspace(0.0, 1.0, MEMBERS)
    found = jn.sweep(run, scale=scales, **options)
    np.testing.assert_allclose(found["twice"].values[:, 0], 2 * scales, rtol=1e-6)
    return found


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        pytest.param({2: 3.0, 8: 9.0}, 2, id="fewer"),
        pytest.param({2: 9.0, 8: 3.0}, 8, id="more"),
        pytest.param({2: 9.0, 8: 9.0}, 4, id="as_it_was"),
        pytest.param({2: 3.9, 8: 9.0}, 4, id="within_the_noise"),
    ],
)
def test_best_size_goes_on_and_is_remembered(clock, seconds, best):
    told, used = clock
    told.update(seconds)
    expected = swept(tile_size=4)
    used.clear()
    found = swept()
    np.testing.assert_array_equal(found["drawn"], expected["drawn"])
    assert {2, 4, 8} == set(used)
    assert used[-1] == best
    assert jn.plan(run, scale=np.linspace(0.0, 1.0, MEMBERS)).programs[0].tile.lanes == best


def test_short_program_is_not_tuned(clock, monkeypatch):
    _, used = clock
    monkeypatch.setattr(TUNING, "PAYS", 1e9)
    swept()
    assert set(used) == {4}


def test_size_that_the_user_gave_stays(clock):
    _, used = clock
    swept(tile_size=4)
    assert set(used) == {4}
