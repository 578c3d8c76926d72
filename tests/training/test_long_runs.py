"""A training that is killed at any moment and resumed gives what an undisturbed one gives."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.training import long_run, long_runs
from jaxnn.types import Dataset
from tests.training import problem, slow_training

ROOT = Path(__file__).parents[2]


def points(directory):
    """The steps of the resume points that stand in a directory."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit())


def assert_same(found, expected):
    """Compare all numbers bit by bit, and the labels."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# Killed for real


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return long_run(slow_training.training(), tmp_path_factory.mktemp("undisturbed"))


def kill_after(directory, num_steps, delay):
    """Train in a child, and kill it some seconds after a resume point; return its exit code."""
    command = [sys.executable, "-m", "tests.training.slow_training", directory]
    compiled_alike = str(int(jax.config.read("jax_disable_most_optimizations")))
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": compiled_alike}
    child = subprocess.Popen(command, cwd=ROOT, env=env)
    limit = time.monotonic() + 100
    while max(points(directory), default=0) < num_steps and time.monotonic() < limit:
        if child.poll() is not None:
            break
        time.sleep(0.002)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    return child.wait(timeout=30)


@pytest.mark.parametrize(
    "kills",
    [1, pytest.param(5, marks=pytest.mark.slow)],
)
def test_killed_training_resumes_to_the_undisturbed_numbers(undisturbed, tmp_path, kills):
    """A point takes 0.1 s: the delay puts the kill anywhere within one."""
    rng = random.Random(kills)
    directory, reached = tmp_path / "run", [0]
    for _ in range(kills):
        code = kill_after(directory, reached[-1] + 1, rng.uniform(0.0, 0.12))
        assert code == -signal.SIGKILL, "the child ended before its kill: make the training longer"
        reached.append(max(points(directory)))
    assert reached == sorted(set(reached)), reached  # each child goes on where the last one was
    assert reached[-1] < slow_training.NUM_RECORDS - 1
    assert_same(long_run(slow_training.training(), directory), undisturbed)
    left = {path.name for path in directory.iterdir()}
    assert left == {str(slow_training.NUM_RECORDS - 1 - back) for back in (0, 1)}


# Stopped in this process


class Stopped(BaseException):
    """Stands for the kill."""


def stop_at(number, training, directory, **options):
    """Run, and stop before the resume point of that number is written."""
    save, saved = long_runs._ResumePoints.save, []

    def counted(self, place, state, records):
        if len(saved) == number:
            raise Stopped
        saved.append(place)
        save(self, place, state, records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_runs._ResumePoints, "save", counted)
        with pytest.raises(Stopped):
            long_run(training, directory, **options)


def test_undisturbed_run_is_that_of_fit(undisturbed):
    found = jax.jit(
        lambda: problem.fit_linear(
            jn.optimizer("sgd", 0.02, momentum=0.9),
            sampling="replacement",
            batch_size=2,
            num_steps=slow_training.NUM_RECORDS - 1,
        )
    )()
    assert jax.tree.structure(found) == jax.tree.structure(undisturbed)
    for name in ("parameters", "loss", "diverged_at"):
        # two compilations of 19 float32 steps, 6e-8 each, of weights and losses of order 1
        np.testing.assert_allclose(undisturbed[name].values, found[name].values, atol=1e-5)


def noise(num_steps=8, ends=9):
    """Random numbers whose state holds a random key, nothing, and what was drawn before."""

    def init():
        return {"key": jax.random.key(5), "none": jnp.zeros((0, 3)), "total": jnp.float32(0.0)}

    def advance(state):
        total = state["total"] + jax.random.uniform(state["key"])
        return {**state, "key": jax.random.split(state["key"])[0], "total": total}

    return jn.Training(
        init=init,
        advance=advance,
        records=lambda state: {"total": state["total"], "none": state["none"]},
        outcome=lambda state: {"last": state["total"]},
        finished=lambda state: state["total"] > ends,
        steps=tuple(range(0, 10 * num_steps + 1, 10)),
    )


def test_run_stopped_at_any_point_resumes_to_the_same_numbers(tmp_path):
    expected = long_run(noise(), tmp_path / "whole", save_every=3)
    for number, steps in enumerate([[], [30], [30, 60]]):
        directory = tmp_path / str(number)
        stop_at(number, noise(), directory, save_every=3)
        assert points(directory) == steps
        assert_same(long_run(noise(), directory, save_every=3, keep=1), expected)
        assert points(directory) == [80]
    assert points(tmp_path / "whole") == [60, 80]
    assert expected["none"].shape == (9, 0, 3)
    totals = expected["total"]
    assert np.all(np.diff(totals) > 0)
    assert totals[-1] == expected["last"]


def test_finished_run_repeats_its_last_record_and_is_over(tmp_path, monkeypatch):
    found = long_run(noise(ends=2.0), tmp_path / "run")
    totals = found["total"]
    last = np.argmax(totals > 2.0)
    assert 2 < last < 7
    np.testing.assert_array_equal(totals[last:], np.repeat(totals[last], 9 - last))

    def untouched(*_):
        raise AssertionError("a run that had ended was run again")

    monkeypatch.setattr(long_runs._ResumePoints, "save", untouched)
    assert_same(long_run(noise(ends=2.0), tmp_path / "run"), found)


OTHER = problem.axes([2.0] * 4)
CHANGES = {
    "learning_rate": {"learning_rate": 0.2},
    "steps": {"num_steps": 5},
    "data": {"data": Dataset(OTHER, OTHER, OTHER)},
    "key": {"key": jax.random.key(1)},
    "batch_size": {"batch_size": 3},
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kept") / "run"
    long_run(slow_training.training(num_steps=2), directory, save_every=2)
    return directory


@pytest.mark.parametrize("change", CHANGES)
def test_directory_of_another_run_is_refused(kept, change):
    with pytest.raises(ValueError, match=r"directory: expected one that is new or holds this very"):
        long_run(slow_training.training(**{"num_steps": 2, **CHANGES[change]}), kept)
    assert points(kept) == [2]


def telling(name="total", factor=2.0, last="total", data=(1.0, 2.0)):
    """One short training that tells its total under a name, times what a jitted function holds."""
    data = np.array(data, np.float32)
    return noise(num_steps=1)._replace(
        records=lambda state: {name: factor * jax.jit(lambda x: x * data)(state["total"])},
        outcome=lambda state: {last: factor * state["total"]},
    )


@pytest.mark.parametrize(
    "change", [{"name": "loss"}, {"factor": 3.0}, {"data": (1.0, 3.0)}, {}], ids=str
)
def test_directory_of_a_run_that_tells_other_things_is_refused(tmp_path, change):
    found = long_run(telling(), tmp_path)
    if not change:
        return assert_same(long_run(telling(), tmp_path), found)
    with pytest.raises(ValueError, match=r"directory: expected one .* or other probes"):
        long_run(telling(**change), tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"save_every": 0}, ValueError, "save_every: expected at least 1, got 0"),
        ({"save_every": 2.0}, TypeError, "save_every: expected an int, got 2.0"),
        ({"keep": True}, TypeError, "keep: expected an int"),
    ],
)
def test_count_that_is_no_positive_int_is_refused(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        long_run(noise(), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
