"""What the sweep's tests share: a count of what is compiled."""

import importlib

import jax
import pytest

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled():
    """Names of the programs compiled while a test runs; `stage` only copies an array."""
    importlib.import_module("jaxnn.sweep.compiling")._kept.clear()
    names = []

    def listen(event, duration, fun_name=None, **_):
        if event == COMPILED and fun_name != "jit(stage)":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)
