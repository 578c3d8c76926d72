"""Sweeps that several processes share give what one process gives."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

import jaxnn as jn
from tests.sweep.shared_run import AXES, cores, run


@pytest.fixture(scope="module")
def expected():
    return jn.sweep(run, **AXES)


def assert_same(found, expected):
    for name, values in expected.data_vars.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6)


@pytest.mark.parametrize("tile_size", [None, 1])
def test_pool_gives_the_same_results(tmp_path, expected, tile_size):
    with jn.spawn_pool(2) as executor:
        options = {"store": tmp_path / "store", "tile_size": tile_size, "executor": executor}
        assert_same(jn.sweep(run, **AXES, **options), expected)
        again = jn.sweep(run, **AXES, **options)
    assert_same(again, expected)
    assert again.attrs["members_done"] == 42


def test_pool_gives_each_worker_its_cores():
    with jn.spawn_pool(2) as executor:
        futures = [executor.submit(cores) for _ in range(4)]
        shares = [future.result(timeout=100) for future in futures]
    everything = sorted(os.sched_getaffinity(0))
    assert {tuple(mine) for mine, _ in shares} <= {tuple(everything[i::2]) for i in range(2)}
    assert all(len(mine) == devices for mine, devices in shares)


def test_pool_keeps_float64(tmp_path):
    with jax.enable_x64(True), jn.spawn_pool(1) as executor:
        found = jn.sweep(run, **AXES, store=tmp_path / "store", executor=executor)
        assert found["drawn"].dtype == np.float64
        np.testing.assert_allclose(found["drawn"], jn.sweep(run, **AXES)["drawn"], rtol=1e-14)


class Lost(ThreadPoolExecutor):
    """An executor whose workers look for the store in another place."""

    def submit(self, function, job, *rest):
        return super().submit(function, job._replace(store=job.store + "-lost"), *rest)


def test_error_of_a_worker_is_raised(tmp_path):
    with Lost(1) as executor, pytest.raises(FileNotFoundError, match="store-lost"):
        jn.sweep(run, **AXES, store=tmp_path / "store", executor=executor)


def test_dask_gives_the_same_results(tmp_path, expected):
    distributed = pytest.importorskip("distributed")
    options = {"processes": False, "n_workers": 1, "dashboard_address": None}
    with distributed.Client(**options) as client:
        executor = client.get_executor()
        assert_same(jn.sweep(run, **AXES, store=tmp_path / "store", executor=executor), expected)


def test_submitit_gives_the_same_results(tmp_path, expected):
    submitit = pytest.importorskip("submitit")
    executor = jn.SlurmExecutor(submitit.LocalExecutor(folder=tmp_path / "logs"))
    assert_same(jn.sweep(run, **AXES, store=tmp_path / "store", executor=executor), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ray itself forks to start its cluster
def test_ray_gives_the_same_results(tmp_path, expected):
    pytest.importorskip("ray")
    executor = jn.RayExecutor(num_cpus=1)
    assert_same(jn.sweep(run, **AXES, store=tmp_path / "store", executor=executor), expected)


def test_processes_of_jax_distributed_share_a_sweep(tmp_path, expected):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    store = tmp_path / "store"
    command = [sys.executable, "-m", "tests.sweep.shared_run", address]
    processes = [
        subprocess.Popen([*command, str(i), "2", str(store)], stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    for process in processes:
        told = process.communicate(timeout=200)[0].splitlines()[-1].split()
        assert told[:2] == ["2", str(jax.local_device_count())]
        assert float(told[2]) == pytest.approx(float(expected["drawn"].sum()), rel=1e-5)
    assert_same(jn.load(store), expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"store": None}, ValueError, "store: .*all of them see", id="no_store"),
        pytest.param({"executor": "ray"}, TypeError, "executor: .*spawn_pool", id="no_executor"),
        pytest.param({"stop": jn.halving("drawn", [1])}, ValueError, "stop: ", id="rule"),
        pytest.param({"devices": jax.devices()}, ValueError, "devices: ", id="devices"),
    ],
)
def test_options_that_do_not_fit_are_refused(compiled, tmp_path, options, error, message):
    with jn.spawn_pool(1) as executor, pytest.raises(error, match=message):
        jn.sweep(run, **AXES, **{"store": tmp_path / "store", "executor": executor, **options})
    assert compiled == []


def test_run_that_no_process_can_import_is_refused(compiled, tmp_path):
    with jn.spawn_pool(1) as executor, pytest.raises(ValueError, match=r"run: .*top of a module"):
        jn.sweep(
            lambda key, *, scale: {"y": scale},
            scale=[1.0],
            store=tmp_path / "store",
            executor=executor,
        )
    assert compiled == []


def test_pool_without_workers_is_refused():
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0"):
        jn.spawn_pool(0)
