"""A sweep that is killed at any moment and resumed gives what an undisturbed one gives."""

import json
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
import xarray as xr
import zarr

import jaxnn as jn
from tests.sweep import slow_run

ROOT = Path(__file__).parents[2]
# times, and the state of a checkout in which somebody may be working while the tests run
VOLATILE = ("wall_seconds", "compile_seconds", "commit")


def settled(dataset):
    """The dataset without what two equal sweeps may differ in."""
    return dataset.assign_attrs(dict.fromkeys(VOLATILE, ""))


# Killed for real


@pytest.fixture(scope="module")
def undisturbed():
    return slow_run.sweep()


def num_done(store):
    """How many members a store marks done, 0 where it does not stand yet."""
    if not store.exists():
        return 0
    return int(zarr.open_array(store / "done", mode="r")[:].sum())


def kill_when(store, ready, delay):
    """Sweep in a child, and kill it `delay` seconds after `ready()`; return its exit code."""
    child = subprocess.Popen([sys.executable, "-m", "tests.sweep.slow_run", store], cwd=ROOT)
    limit = time.monotonic() + 100
    while not ready() and child.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    return child.wait(timeout=30)


def assert_partial(store, undisturbed):
    """What is done reads as in the undisturbed sweep, the rest NaN, in both ways of opening."""
    dataset = jn.load(store)
    ended = dataset["end"].notnull().all("site")
    assert dataset.attrs["members_done"] == int(ended.sum())
    assert (dataset["high"].notnull() == ended).all()
    xr.testing.assert_equal(dataset["end"], undisturbed["end"].where(ended))
    plain = xr.open_zarr(store, consolidated=False)
    assert int(plain["done"].sum()) == dataset.attrs["members_done"]
    assert plain.sizes == {"member": slow_run.NUM_MEMBERS, "site": 8}
    assert plain["end"].attrs["units"] == "1"
    assert plain["end"].isel(member=plain["done"].values).notnull().all()
    assert plain["seed"].values.tolist() == list(range(16)) * 6


def test_killed_sweep_resumes_to_the_undisturbed_result(undisturbed, tmp_path):
    store = tmp_path / "store"
    rng = random.Random(11)
    codes, seen = [], [0]
    # the store has just appeared; a tile is done; two more are; then anywhere within a tile's time
    for more, delay in [(0, 0.0), (1, 0.0), (17, 0.0), (1, rng.uniform(0.0, 0.3))]:
        wanted = seen[-1] + more
        codes.append(
            kill_when(store, lambda n=wanted: store.exists() and num_done(store) >= n, delay)
        )
        assert_partial(store, undisturbed)
        seen.append(num_done(store))
    assert codes[:2] == [-signal.SIGKILL] * 2, "a child ended before its kill: make the run slower"
    assert seen == sorted(seen), seen  # a resumed sweep keeps what was done
    finished = slow_run.sweep(store)
    xr.testing.assert_identical(settled(finished), settled(undisturbed))
    assert finished.attrs["members_done"] == slow_run.NUM_MEMBERS
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


# Stopped at every single write


class Stopped(BaseException):
    """Stands for the kill."""


def walk(key, *, scale):
    steps = scale * jax.random.key_data(key).astype(scale.dtype)  # compiles faster than normals
    return {"walk": jn.Labelled(steps, ("time",)), "sign": jnp.sign(steps[0]).astype(jnp.int32)}


def walks(store=None, **changes):
    """Three tiles of seven, the last one not full."""
    options = {"num_seeds": 10, "tile_size": 1, "devices": jax.devices()[:1], **changes}
    return jn.sweep(walk, scale=[1.0, 2.0], store=store, **options)


def stop_at_write(monkeypatch, number):
    """Let `number` writes into arrays pass, then stop."""
    write, passed = zarr.Array.__setitem__, []

    def counted(array, selection, value):
        if len(passed) == number:
            raise Stopped
        passed.append(array.name)
        write(array, selection, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", counted)
    return passed


def stop_sweep(number, sweep, *args, **kwargs):
    """Run a sweep, and stop it after `number` writes."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at_write(patch, number)
        with pytest.raises(Stopped):
            sweep(*args, **kwargs)


def test_sweep_stopped_at_any_write_resumes_to_the_undisturbed_result(monkeypatch, tmp_path):
    expected = walks()
    stops = 0
    while True:  # one write later each time, until nothing is left to stop
        store = tmp_path / str(stops)
        with monkeypatch.context() as patch:
            passed = stop_at_write(patch, stops)
            try:
                walks(store)
                break
            except Stopped:
                stops += 1
        done_tiles = sum(name.endswith("done") for name in passed)
        if store.exists():
            partial = jn.load(store)
            assert partial.attrs["members_done"] == min(7 * done_tiles, 20)
            assert int(partial["walk"].notnull().all("time").sum()) == min(7 * done_tiles, 20)
        xr.testing.assert_identical(settled(walks(store)), settled(expected))
    assert stops == 2 + 3 * 3  # two coordinates, then two variables and the mark of each tile


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"tile_size": 3}, id="other_tiles"),
        pytest.param({"devices": None}, id="all_devices"),
    ],
)
def test_resume_on_another_machine_gives_the_same_result(tmp_path, changes):
    stop_sweep(2 + 3, walks, tmp_path / "store")
    assert jn.load(tmp_path / "store").attrs["members_done"] == 7
    finished = walks(tmp_path / "store", **changes)
    xr.testing.assert_equal(finished, walks())


def test_resume_in_the_other_layout_keeps_what_was_done(tmp_path):
    def run(key, *, depth, scale):
        drawn = scale * jax.random.key_data(key).astype(scale.dtype)[0]
        return {"drawn": drawn, "layers": jnp.asarray(depth.num_layers, jnp.int32)}

    axes = {"depth": jn.depths([1, 2]), "scale": [1.0, 2.0]}
    undisturbed = jn.sweep(run, **axes, num_seeds=2)
    options = {**axes, "num_seeds": 2, "store": tmp_path / "store"}
    stop_sweep(3 + 3, jn.sweep, run, layout="exact", **options)
    assert jn.load(tmp_path / "store").attrs["members_done"] == 4
    finished = jn.sweep(run, layout="masked", **options)
    xr.testing.assert_equal(finished, undisturbed)
    assert finished.attrs["members_done"] == 8


# The store itself


def test_store_and_memory_give_the_same_dataset(tmp_path):
    expected = walks()
    stored = walks(tmp_path / "store")
    xr.testing.assert_identical(settled(stored), settled(expected))
    xr.testing.assert_equal(jn.load(tmp_path / "store"), expected)
    for name, variable in jn.load(tmp_path / "store").variables.items():
        assert variable.attrs == expected[name].attrs
        assert variable.dtype == expected[name].dtype


def test_loaded_store_says_where_it_comes_from(tmp_path):
    expected = walks(tmp_path / "store")
    found = jn.load(tmp_path / "store").attrs
    assert {name: found.get(name) for name in ("run", "versions", "root_seed")} == {
        name: expected.attrs[name] for name in ("run", "versions", "root_seed")
    }


def test_resume_false_starts_afresh(tmp_path):
    store = tmp_path / "store"
    jn.sweep(walk, scale=[1.0, 2.0], store=store, num_seeds=1)
    again = jn.sweep(walk, scale=[5.0], store=store, num_seeds=3, resume=False)
    xr.testing.assert_equal(jn.load(store), again)
    assert again.sizes["seed"] == 3


def test_store_goes_into_an_empty_or_new_directory(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", str(tmp_path / "new" / "deep")):
        jn.sweep(walk, scale=[1.0], store=path)
        assert jn.load(path).attrs["members_done"] == 1


def test_store_description_is_readable_json(tmp_path):
    walks(tmp_path / "store")
    attributes = zarr.open_group(tmp_path / "store", mode="r").attrs
    description = json.loads(attributes["jaxnn"])
    assert description["grid"]["num_seeds"] == 10
    assert set(description["variables"]) == {"walk", "sign"}


def test_creation_leaves_nothing_beside_the_store(tmp_path):
    jn.sweep(walk, scale=[1.0], store=tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_result_of_every_dtype_survives_a_partial_store(tmp_path):
    def run(key, *, kind, scale):
        return {"count": jnp.int32(3), "flag": scale > 1.0, "value": scale}

    axes = {"kind": ["a", "b"], "scale": [1.0, 2.0]}
    # one coordinate of numbers and the seed, then one whole tile
    stop_sweep(2 + 4, jn.sweep, run, **axes, store=tmp_path / "store")
    partial = jn.load(tmp_path / "store")
    whole = jn.sweep(run, **axes, store=tmp_path / "store")
    assert {name: partial[name].dtype.kind for name in partial} == dict.fromkeys(partial, "f")
    assert {name: whole[name].dtype.kind for name in whole} == {
        "count": "i",
        "flag": "b",
        "value": "f",
    }
    done = partial["count"].notnull()
    assert int(done.sum()) == partial.attrs["members_done"] == 2
    assert (partial["flag"].where(done, 0.0) == whole["flag"].where(done, 0.0)).all()
    np.testing.assert_array_equal(whole["value"].values.ravel(), [1.0, 2.0, 1.0, 2.0])
