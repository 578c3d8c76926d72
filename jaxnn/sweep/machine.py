"""What a machine has shown of itself: measured once, kept in the user's cache directory."""

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.sweep.jaxprs import num_equations, work

DEPTH, WIDTH, STEPS = 8, 64, 20  # of the training that is timed


class Costs(NamedTuple):
    """What planning needs to know of a kind of device."""

    seconds_per_work: float  # of one device, in the unit of `jaxprs.work`
    seconds_per_equation: float  # of compiling on one core


def costs(device: jax.Device) -> Costs:
    """Return the costs of a kind of device, measured if this machine has not met it yet."""
    name = f"{device.platform} {device.device_kind} {os.cpu_count()} jax {jax.__version__}"
    known = recall("costs", name)
    if known is None:
        known = list(_measure(device))
        remember("costs", name, known)
    return Costs(*known)


def recall(kind: str, name: str) -> Any:
    """Return what was remembered under a name, or None."""
    try:
        return json.loads(_path(kind, name).read_text())
    except (OSError, ValueError):
        return None


def remember(kind: str, name: str, value: Any) -> None:
    """Keep a plain value for later processes, where a cache directory can be written."""
    path = _path(kind, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(value, file)
        os.replace(partial, path)
    except OSError:  # a machine without a home is measured again each time
        return


def cache_directory() -> Path:
    """Return the user's cache directory for jaxnn."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxnn"


def _path(kind: str, name: str) -> Path:
    return cache_directory() / kind / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def _measure(device: jax.Device) -> Costs:
    """Time compiling and running a small training, on one device."""
    weights = jnp.broadcast_to(jnp.eye(WIDTH), (DEPTH, WIDTH, WIDTH))
    arguments = jax.device_put((weights, jnp.ones((WIDTH, WIDTH))), device)
    jaxpr = jax.make_jaxpr(_train)(*arguments).jaxpr
    lowered = jax.jit(_train).lower(*arguments)
    begin = time.perf_counter()
    train = lowered.compile()
    compiled = time.perf_counter() - begin
    jax.block_until_ready(train(*arguments))
    seconds = min(_timed(train, arguments) for _ in range(5))
    return Costs(seconds / work(jaxpr), compiled / num_equations(jaxpr))


def _train(weights: Array, x: Array) -> Array:
    """Take steps of gradient descent with a deep tanh network; `[layer, unit, unit]`."""

    def loss(weights: Array) -> Array:
        def layer(h: Array, w: Array) -> tuple[Array, None]:
            return jnp.tanh(h @ w), None

        return jnp.mean(jax.lax.scan(layer, x, weights)[0] ** 2)

    def step(weights: Array, _: None) -> tuple[Array, None]:
        return weights - 0.1 * jax.grad(loss)(weights), None

    return jax.lax.scan(step, weights, None, length=STEPS)[0]


def _timed(function: Any, arguments: Any) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - begin
