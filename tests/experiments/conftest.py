"""What all studies' tests share: the quick run, which exercises every line of a study."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reproduce.py"


@pytest.fixture
def fails_at_quick(tmp_path, monkeypatch):
    """Runs a study at quick scale as a user does, and returns the claims that do not hold."""
    spec = importlib.util.spec_from_file_location("reproduce_quickly", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)

    def run(name):
        script.main([name, "--scale", "quick", "--out", str(tmp_path)])
        assert (tmp_path / name / "figure.svg").exists()
        claims = json.loads((tmp_path / name / "claims.json").read_text())
        assert claims
        return [each["statement"] for each in claims if not each["holds"]]

    jax.config.update("jax_disable_most_optimizations", False)  # most of the time is training
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield run
    jax.config.update("jax_disable_most_optimizations", True)
