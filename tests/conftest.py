"""Tests run under the strictest JAX: no rank promotion, no dtype promotion, keys used once."""

import jax
import pytest

import jaxnn as jn


def pytest_configure():
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session")
def digits():
    return jn.data.digits()
