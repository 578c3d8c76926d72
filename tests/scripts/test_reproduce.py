"""The command line of scripts/reproduce.py, on studies small enough to count their runs."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn as jn

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce.py"

STUDY = '''"""Doubles a gain."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from jaxnn.report import Claim, figures, exact


@dataclass(frozen=True)
class Config:
    gains: tuple[float, ...] = (1.0, 2.0)
    factor: float = 2.0


PAPER = Config(gains=(1.0, 2.0, 3.0))
SCALES = {"quick": Config(gains=(1.0,)), "default": Config(), "paper": PAPER}


def run(config, *, seed, store):
    with Path("runs.txt").open("a") as runs:
        print(len(list(store.iterdir())), file=runs)
    (store / "sweep").mkdir(exist_ok=True)
    values = config.factor * np.asarray(config.gains)
    return xr.Dataset({"double": ("gain", values)}, {"gain": list(config.gains)})


def check(ds):
    return exact((ds["double"] / ds["gain"]).mean(), 2.0, rtol=1e-10)


CLAIMS = (Claim("the factor is 2", "arithmetic", check),)


def figure(ds):
    fig, ax = figures.new_figure()
    figures.profiles(ax, ds["double"], x="gain")
    return fig
'''
RAISING = '''"""Raises."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    size: int = 1


SCALES = {"quick": Config(), "default": Config(), "paper": Config()}


def run(config, *, seed, store):
    raise RuntimeError("out of luck")
'''


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("reproduce_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def call(script, tmp_path, monkeypatch, capsys):
    """Call the script on two studies, in an empty folder; return exit status and output."""
    package = re.sub(r"\W", "_", f"studies_{tmp_path.name}_{os.getpid()}")
    folder = tmp_path / package
    folder.mkdir()
    (folder / "doubling.py").write_text(STUDY)
    (folder / "raising.py").write_text(RAISING)
    (folder / "_hidden.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*args):
        try:
            status = script.main(args, studies=folder)
        except SystemExit as stopped:
            status = stopped.code
        out, err = capsys.readouterr()
        return status, out + err

    yield run
    for name in [each for each in sys.modules if each.partition(".")[0] == package]:
        del sys.modules[name]


def num_runs():
    path = Path("runs.txt")
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_list_names_the_studies_and_what_they_do(call):
    status, text = call("--list")
    assert status == 0
    assert re.findall(r"(?m)^(\w+) +(.+)$", text) == [
        ("doubling", "Doubles a gain."),
        ("raising", "Raises."),
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(
            ("doublin",), "'doublin'; did you mean doubling.*doubling, raising", id="typo"
        ),
        pytest.param(("_hidden",), "unknown study '_hidden'", id="hidden"),
        pytest.param((), "name a study", id="no name"),
        pytest.param(("doubling", "--all"), "--all takes no names", id="name and all"),
        pytest.param(("doubling", "raising", "--factor", "3"), "--factor 3.*one study", id="two"),
        pytest.param(("--all", "--factor", "3"), "one study", id="override of all"),
        pytest.param(("--seed", "1", "doubling"), "named first", id="name last"),
        pytest.param(("doubling", "--facto", "3"), "Unrecognized.*--facto", id="unknown option"),
        pytest.param(("doubling", "--factor", "three"), "--factor", id="wrong type"),
        pytest.param(("doubling", "--scale", "huge"), "--scale", id="unknown scale"),
    ],
)
def test_wrong_usage_exits_2_and_says_why(call, args, message):
    status, text = call(*args)
    assert status == 2
    assert re.search(message, text, re.DOTALL)
    assert num_runs() == 0


def test_study_help_shows_its_fields_and_the_scales_defaults(call):
    status, text = call("doubling", "--scale", "paper", "--help")
    assert status == 0
    assert num_runs() == 0
    assert "--factor FLOAT" in text
    assert "1.0 2.0 3.0" in text
    assert "Doubles a gain." in text


def test_run_writes_everything_and_reports(call):
    status, text = call("doubling", "--out", "elsewhere", "--seed", "3")
    assert status == 0
    folder = Path("elsewhere/doubling")
    assert {each.name for each in folder.iterdir()} == {
        *("data.zarr", "manifest.json", "claims.json", "figure.png", "figure.svg", "sweeps")
    }
    (claim,) = json.loads((folder / "claims.json").read_text())
    assert claim["holds"] is True
    assert claim["value"] == 2.0
    made = json.loads((folder / "manifest.json").read_text())
    assert made["seed"] == 3
    assert made["config"] == {"gains": [1.0, 2.0], "factor": 2.0}
    assert "gains = (1.0, 2.0)" in text
    assert "the factor is 2" in text
    assert text.rstrip().endswith("doubling: 1 of 1 claims hold")


def test_data_is_reused_until_something_changes(call):
    def made_after(*args):
        call("doubling", "--scale", "quick", *args)
        return num_runs()

    assert made_after() == 1
    Path("results/doubling/figure.png").unlink()
    assert made_after() == 1  # drawn again from the stored data
    assert Path("results/doubling/figure.png").exists()
    assert made_after("--gains", "1", "5") == 2
    assert made_after("--seed", "1") == 3
    assert made_after() == 4  # finds the sweeps of the first run
    assert made_after("--fresh") == 5
    stored = Path("runs.txt").read_text().split()
    assert stored == ["0", "0", "0", "1", "0"]


@pytest.mark.parametrize("flags", [(), ("--keep-compiled",)])
def test_compiled_programs_are_kept_if_asked(call, monkeypatch, flags):
    kept = []
    monkeypatch.setattr("jaxnn.keep_compiled", lambda: kept.append(True))
    call("doubling", *flags)
    assert len(kept) == len(flags)


def test_failing_claim_exits_1_and_stays_in_the_report(call):
    status, text = call("doubling", "--factor", "3")
    assert status == 1
    assert "the factor is 2" in text
    assert "0 of 1 claims hold" in text
    assert json.loads(Path("results/doubling/claims.json").read_text())[0]["holds"] is False


def test_study_that_raises_does_not_stop_the_others(call):
    status, text = call("raising", "doubling")
    assert status == 1
    assert "raising: failed, RuntimeError: out of luck" in text
    assert "doubling: 1 of 1 claims hold" in text


def test_all_runs_every_study(call):
    status, text = call("--all", "--scale", "quick")
    assert status == 1
    assert num_runs() == 1
    assert "raising: failed" in text


def test_page_and_table_tell_of_all_studies_so_far(call):
    _, text = call("doubling")
    (told,) = json.loads(Path("results/index.json").read_text())
    assert (told["name"], told["about"], told["held"]) == ("doubling", "Doubles a gain.", 1)
    page = Path("results/index.html").read_text()
    assert "the factor is 2" in page
    assert re.search(r"doubling +│ +1 │ +0 │ +0 │", text)


def test_members_are_those_of_all_sweeps(script, tmp_path):
    for name, axis in {"one": [1.0, 2.0, 3.0], "two/within": [4.0]}.items():
        jn.sweep(lambda key, *, scale: {"y": scale}, scale=axis, num_seeds=2, store=tmp_path / name)
    assert script.count_members(tmp_path) == 8


def test_help_imports_neither_jax_nor_a_study():
    code = "import runpy, sys\ntry: runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
    code += "finally: print('modules', *sys.modules)"
    command = [sys.executable, "-c", code, str(SCRIPT), "--help"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert "--scale" in found.stdout
    modules = found.stdout.partition("\nmodules ")[2].split()
    assert modules
    assert not {"jax", "jaxnn", "experiments", "xarray", "matplotlib"} & set(modules)
