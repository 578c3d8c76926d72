"""Closed forms are tested in float64, unless a test says otherwise."""

import jax
import pytest


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield
