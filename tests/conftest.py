"""Tests run under the strictest JAX: no rank promotion, no dtype promotion, keys used once."""

import importlib
import os
import tempfile

import jax
import pytest

import jaxnn as jn
from jaxnn.sweep.machine import Costs


def pytest_configure():
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="jaxnn-cache-")
    compile_quickly()
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")


def compile_quickly():
    """Let XLA optimise little, here and in subprocesses: most of the tests' time is compiling."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    if jax.__version_info__ < (0, 11):  # later versions have one emitter
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"


@pytest.fixture(scope="session")
def digits():
    return jn.data.digits()


@pytest.fixture(autouse=True)
def costs(monkeypatch):
    """The same costs on every machine: 10 GFLOP/s, and 1 s to compile 100 equations."""
    known = Costs(seconds_per_work=1e-10, compiling=1.0, equations=100)
    planning = importlib.import_module("jaxnn.sweep.planning")  # jaxnn.sweep is the function
    monkeypatch.setattr(planning, "costs", lambda device: known)
