"""What a machine has shown of itself: measured once, kept in the user's cache directory."""

import hashlib
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
from jax import Array

from jaxnn.sweep.devices import compile_options
from jaxnn.sweep.jaxprs import num_equations, work

DEPTH, WIDTH, STEPS = 8, 64, 20  # of the training that is timed


class Costs(NamedTuple):
    """What planning needs to know of a kind of device."""

    seconds_per_work: float  # of one device, in the unit of `jaxprs.work`
    compiling: float  # seconds, of the small training that is timed
    equations: int  # of it

    def compile_seconds(self, equations: float) -> float:
        """Estimate the seconds that a program of so many equations compiles.

        A third of the time grows with the equations: fitted to programs of 100 to 650 of them.
        """
        return self.compiling * (2 + equations / self.equations) / 3


def costs(device: Any) -> Costs:
    """Return the costs of a kind of device, measured if this machine has not met it yet."""
    where = f"{device.platform} {device.device_kind}, {os.cpu_count()} cores"
    name = f"{where}, jax {jax.__version__}, {Costs._fields}"
    known = recall("costs", name)
    if known is None:
        known = list(_measure(device))
        remember("costs", name, known)
    seconds, compiling, equations = known
    return Costs(seconds, compiling, int(equations))


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


def keep_compiled(directory: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs on disk, so that later processes need not compile them again.

    They lie in a directory of their own for each version of JAX and kind of processor. They are
    executable code: share the directory only with those whose code you would run.

    Args:
        directory: where; the user's cache directory if None.

    Returns:
        The directory that is used.
    """
    versions = f"jax-{jax.__version__}-jaxlib-{jaxlib.version.__version__}"
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    root = cache_directory() / "compiled" if directory is None else Path(directory)
    path = root / f"{versions}-{platform.machine()}-{processor}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return path


def _processor() -> str:
    """Return the processor's model and features, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    told = ("model name", "flags", "Features")
    return "\n".join(line for line in lines if line.startswith(told))


def _path(kind: str, name: str) -> Path:
    return cache_directory() / kind / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def _measure(device: Any) -> Costs:
    """Time compiling and running a small training, on one device."""
    arguments = jax.device_put((jax.random.key(0), jnp.ones((4 * WIDTH, WIDTH))), device)
    jaxpr = jax.make_jaxpr(_train)(*arguments).jaxpr
    lowered = jax.jit(_train).lower(*arguments)
    begin = time.perf_counter()
    train = lowered.compile(compile_options(device))
    compiled = time.perf_counter() - begin
    jax.block_until_ready(train(*arguments))
    seconds = min(_timed(train, arguments) for _ in range(5))
    return Costs(seconds / work(jaxpr), compiled, num_equations(jaxpr))


def _train(key: Array, data: Array) -> Array:
    """Train a deep tanh network as a run would: draws, batches, momentum, a record.

    Args:
        key: of weights and batches.
        data: [example, unit].

    Returns:
        [] loss at the end.
    """
    weights = jax.random.normal(key, (DEPTH, WIDTH, WIDTH)) / WIDTH**0.5

    def loss(weights: Array, x: Array) -> Array:
        def layer(h: Array, w: Array) -> tuple[Array, None]:
            return jnp.tanh(h @ w), None

        return jnp.mean(jax.lax.scan(layer, x, weights)[0] ** 2)

    def step(state: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        weights, momentum = state
        places = jax.random.randint(jax.random.fold_in(key, number), (WIDTH,), 0, len(data))
        slope = jax.grad(loss)(weights, data[places])
        momentum = 0.9 * momentum + slope
        moved = weights - 0.1 * momentum
        return (jnp.where(jnp.isfinite(moved).all(), moved, weights), momentum), None

    start = (weights, jnp.zeros_like(weights))
    (weights, _), _ = jax.lax.scan(step, start, jnp.arange(STEPS))
    return loss(weights, data)


def _timed(function: Any, arguments: Any) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - begin
