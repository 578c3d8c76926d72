"""Every command and snippet of the README is run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
SMALLER = {  # the sweep of the README, small enough for every test run
    "depths([4, 16, 64])": "depths([2, 64])",
    "num_steps=200": "num_steps=20",
    "jnp.linspace(0.8, 2.2, 24)": "jnp.linspace(0.8, 2.2, 2)",
    "num_seeds=8": "num_seeds=1",
}


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "backend", "agg")


@pytest.fixture
def standard_jax():
    """A user's JAX: the README's plain floats meet no strict promotion (optax's do not pass it)."""
    import jax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run_snippet(text):
    names = {}
    exec(compile(text, "README.md", "exec"), names)
    return names


def test_sweep_snippet_runs_when_smaller(standard_jax):
    text = SNIPPETS[0]
    for ours, smaller in SMALLER.items():
        assert ours in text
        text = text.replace(ours, smaller)
    results = run_snippet(text)["results"]
    assert results["accuracy"].dims == ("depth", "sigma_w", "learning_rate", "seed", "step")
    assert np.isfinite(results["accuracy"]).all()


@pytest.mark.slow
def test_sweep_snippet_runs_as_it_stands(standard_jax):
    accuracy = run_snippet(SNIPPETS[0])["results"]["accuracy"].isel(step=-1)
    shallow = accuracy.sel(depth=4, learning_rate=0.1).mean("seed")
    # 0.9 at every sigma_w: four layers train anywhere (256 examples: standard error 0.02)
    assert (shallow > 0.8).all()


@pytest.mark.parametrize("snippet", SNIPPETS[1:4], ids=["halving", "parts", "theory"])
def test_snippet_prints_what_it_says(standard_jax, capsys, snippet):
    run_snippet(snippet)
    said = re.search(r"print\(.*# (.+)$", snippet, re.MULTILINE)
    assert said
    assert capsys.readouterr().out.strip() == said[1]


def test_probe_snippet_makes_a_probe(standard_jax):
    assert run_snippet(SNIPPETS[4])["act_max"].dims == ("layer",)


def test_every_snippet_is_covered():
    assert len(SNIPPETS) == 5


@pytest.mark.parametrize(
    "command", [each for each in COMMANDS if each.startswith(".venv/bin/python")]
)
def test_study_command_runs(command, tmp_path):
    """At quick scale all claims must hold."""
    words = command.split()
    words[:2] = [sys.executable, str(ROOT / words[1])]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_gallery_shows_every_study_above_its_command():
    """What the commands do is tested with each study, at quick scale."""
    shown = re.findall(
        r'src="(experiments/figures/(\w+)\.png)".*scripts/reproduce\.py (\w+)</code>', README
    )
    studies = sorted(each.stem for each in (ROOT / "experiments").glob("[!_]*.py"))
    assert sorted(name for _, name, _ in shown) == studies
    assert all(name == command for _, name, command in shown)
    assert all((ROOT / image).exists() for image, _, _ in shown)


def test_continuous_integration_runs_the_readme_test_command():
    test_command = next(each for each in COMMANDS if "scripts/check" in each)
    assert test_command in (ROOT / ".ci" / "run").read_text()


@pytest.mark.slow
def test_first_command_installs_and_runs_in_a_fresh_clone(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    shutil.rmtree(clone / ".git")
    done = subprocess.run(COMMANDS[0], cwd=clone, shell=True, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / "results" / "trainability" / "figure.png").exists()
