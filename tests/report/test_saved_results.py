"""What is written to disk comes back the same, and never half written."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from jaxnn import report


@dataclass(frozen=True)
class Config:
    depths: tuple[int, ...] = (4, 16)
    clip_norm: float = float("inf")
    name: str = "tanh"


def dataset():
    attrs = {"long_name": "final loss", "units": "nat"}
    variables = {
        "loss": (("activation", "depth"), np.array([[1.5, np.nan], [0.0, np.inf]], "f4"), attrs),
        "diverged": (("activation", "depth"), np.array([[True, False], [False, True]])),
        "count": ("depth", np.array([0, 3])),
        "worst": ((), "tanh"),
        "label": ("depth", np.array(["a", "longer"])),
    }
    coords = {"activation": ["relu", "tanh"], "depth": [4, 16]}
    return xr.Dataset(variables, coords, {"plan": "2 programs", "compile_seconds": 1.25})


def same(found, wanted):
    kinds = {name: each.dtype.kind for name, each in wanted.variables.items()}
    assert {name: each.dtype.kind for name, each in found.variables.items()} == kinds
    return found.identical(wanted)


@pytest.mark.filterwarnings("error")
def test_dataset_round_trip_keeps_values_kinds_and_attributes(tmp_path):
    path = tmp_path / "new" / "data.zarr"
    report.save_dataset(dataset(), path)
    found = report.load_dataset(path)
    assert same(found, dataset())
    assert float(found["loss"].sel(activation="relu", depth=4)) == 1.5


@pytest.mark.filterwarnings("error")
def test_dataset_saved_over_another_replaces_it(tmp_path):
    path = tmp_path / "data.zarr"
    report.save_dataset(dataset(), path)
    (tmp_path / "data.zarr.partial").mkdir()  # what a killed run leaves
    smaller = report.load_dataset(path)[["loss"]].isel(depth=[1])
    report.save_dataset(smaller, path)
    assert same(report.load_dataset(path), smaller)
    assert [each.name for each in tmp_path.iterdir()] == ["data.zarr"]


def test_dataset_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "data.zarr"
    report.save_dataset(dataset(), path)
    with pytest.raises(TypeError):
        report.save_dataset(dataset().assign_attrs(bad=object()), path)
    assert same(report.load_dataset(path), dataset())


def saved(folder, config=None, seed=0):
    made = report.manifest(
        config or Config(),
        about="Why.",
        scale="quick",
        seed=seed,
        members=12,
        wall_seconds=2.34567,
        ds=dataset(),
        source=Path(__file__),
    )
    report.save_run(dataset(), made, folder)
    return report.read_manifest(folder / "manifest.json")


def test_manifest_tells_how_to_repeat_the_run(tmp_path):
    found = saved(tmp_path)
    assert found["config"] == {"depths": [4, 16], "clip_norm": "inf", "name": "tanh"}
    assert set(found["versions"]) == {"jaxnn", "jax", "flax", "optax"}
    assert found["devices"]["count"] >= 1
    assert found["devices"]["kind"]
    assert found["wall_seconds"] == 2.346
    assert found["compile_seconds"] == 1.25
    assert (found["about"], found["members"]) == ("Why.", 12)
    assert {"scale", "seed", "python", "commit"} <= set(found)


def test_manifest_is_current_for_its_own_run_only(tmp_path):
    found = saved(tmp_path)
    assert report.is_current(found, Config(), scale="quick", seed=0)
    assert not report.is_current(found, Config(), scale="paper", seed=0)
    assert not report.is_current(found, Config(), scale="quick", seed=1)
    assert not report.is_current(found, Config(depths=(4,)), scale="quick", seed=0)
    assert not report.is_current(None, Config(), scale="quick", seed=0)


@pytest.mark.parametrize("text", ["", "{", "[1]"], ids=["empty", "cut", "list"])
def test_broken_manifest_reads_as_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert report.read_manifest(tmp_path / "manifest.json") is None


def test_run_killed_while_saving_is_not_current(tmp_path, monkeypatch):
    saved(tmp_path)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxnn.report.results.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, seed=1)
    assert report.read_manifest(tmp_path / "manifest.json") is None


def test_sweeps_folder_differs_with_config_and_seed(tmp_path):
    folders = {
        report.sweeps_folder(tmp_path, config, seed)
        for config in (Config(), Config(name="relu"))
        for seed in (0, 1)
    }
    assert len(folders) == 4
    assert report.sweeps_folder(tmp_path, Config(), 0) in folders


def test_strict_json_takes_arrays_and_refuses_objects():
    assert json.loads(report.strict_json([np.float32(0.5), np.int64(2), True])) == [0.5, 2, True]
    with pytest.raises(TypeError):
        report.strict_json(object())


def test_import_is_light():
    check = "import sys, jaxnn.report; print(*sys.modules)"
    root = Path(report.__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", check], cwd=root, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert not {"matplotlib", "rich", "xarray", "zarr"} & set(found.stdout.split())
