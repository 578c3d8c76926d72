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
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session")
def digits():
    return jn.data.digits()


@pytest.fixture(autouse=True)
def costs(monkeypatch):
    """The same costs on every machine: 10 ms a compiled equation, 10 GFLOP/s."""
    known = Costs(seconds_per_work=1e-10, seconds_per_equation=1e-2)
    planning = importlib.import_module("jaxnn.sweep.planning")  # jaxnn.sweep is the function
    monkeypatch.setattr(planning, "costs", lambda device: known)
