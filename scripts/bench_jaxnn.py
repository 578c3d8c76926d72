"""jaxnn's side of bench.py: runs as its users write them, swept as its users sweep them.

Unlike its opponents jaxnn draws initial weights and batches itself, inside the timed sweep,
measures probes, and writes every tile to a store on disk.
"""

import atexit
import importlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import bench_fractal
import jax
import jax.numpy as jnp
import numpy as np
from bench_contenders import Contender
from bench_problems import CLASSES, DepthSweep, RateSweep
from jax import Array

import jaxnn as jn

for lazily_imported in ("flax.linen", "xarray", "zarr"):  # so that the clock counts them as imports
    importlib.import_module(lazily_imported)

PER_LAYER = [
    jn.probes.grad_rms,
    jn.probes.preact_grad_rms,
    jn.probes.act_mean,
    jn.probes.act_var,
    jn.probes.preact_second_moment,
    jn.probes.saturated_fraction,
    jn.probes.dead_fraction,
    jn.probes.weight_rms,
    jn.probes.update_ratio,
    jn.probes.preact_cosine,
]


class StoredSweep:
    """A sweep that writes a store of its own in every call, and remembers how it went."""

    def __init__(
        self,
        run: Callable[..., Any],
        axes: Mapping[str, Any],
        output: str,
        layout: str | None = None,
    ):
        self._run, self._axes, self._output, self._layout = run, axes, output, layout
        self._store = Path(tempfile.mkdtemp(prefix="jaxnn-bench-"))
        atexit.register(shutil.rmtree, self._store, ignore_errors=True)
        self._stores = (Path(self._store, str(n)) for n in itertools.count())
        self._attrs: dict[str, Any] = {}

    def __call__(self) -> Iterator[np.ndarray]:
        """Run the sweep; yield one output of all members."""
        self._store = next(self._stores)
        results = jn.sweep(self._run, store=self._store, layout=self._layout, **self._axes)
        self._attrs = results.attrs
        found = results[self._output]
        found = found.isel(step=-1) if "step" in found.dims else found
        yield found.transpose(*self._axes, "seed").values.ravel()

    def first_result_at(self) -> float:
        """Return when the first tile was on disk."""
        chunks = self._store.glob(f"{self._output}/c/**/*")
        return min((each.stat().st_mtime for each in chunks if each.is_file()), default=time.time())

    def contender(self) -> Contender:
        """Return the sweep as a contender."""
        return Contender(
            self,
            first_result_at=self.first_result_at,
            compile_seconds=lambda: float(self._attrs.get("compile_seconds", 0.0)),
        )


def _training(
    problem: DepthSweep,
    inputs: dict[str, np.ndarray],
    probes: Sequence[Any],
    record_every: int,
    layout: str | None = None,
) -> Contender:
    """Return the reference sweep with these probes."""
    examples = jn.Batch(jnp.asarray(inputs["x"]), jnp.asarray(inputs["y"]))
    data = jn.Dataset(examples, examples, examples)

    def run(key: Array, *, depth: jn.Depth, gain: Array) -> dict[str, Any]:
        model = jn.mlp(depth=depth, width=problem.width, out=CLASSES, weights=jn.gaussian(gain))
        return jn.fit(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", problem.learning_rate, momentum=problem.momentum),
            data,
            key=key,
            num_steps=problem.num_steps,
            record_every=record_every,
            probes=probes,
            batch_size=problem.batch_size,
            probe_size=problem.probe_size,
        )

    axes = {"depth": jn.depths(problem.depths), "gain": problem.gains}
    return StoredSweep(run, axes, "loss", layout).contender()


def with_store(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Record loss, gradients and activations of each layer at both ends."""
    probes = [jn.probes.loss, jn.probes.grad_rms, jn.probes.act_var]
    return _training(problem, inputs, probes, problem.num_steps)


def exact_with_store(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Do the same with a program for each depth, which takes longer to compile and runs faster."""
    probes = [jn.probes.loss, jn.probes.grad_rms, jn.probes.act_var]
    return _training(problem, inputs, probes, problem.num_steps, "exact")


def loss_only(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Record the loss at both ends, and nothing by layer."""
    return _training(problem, inputs, [jn.probes.loss], problem.num_steps)


def probes_every_tenth(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Record every per-layer probe every ten steps."""
    return _training(problem, inputs, [jn.probes.loss, *PER_LAYER], 10)


def probes_every_step(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Record every per-layer probe at every step."""
    return _training(problem, inputs, [jn.probes.loss, *PER_LAYER], 1)


def hessian(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Measure the loss and the extreme eigenvalues of its Hessian, before any step."""
    return _training(problem, inputs, [jn.probes.loss, jn.probes.hessian_extremes()], 1)


def twenty_five_gradients(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Take 25 gradients on the probes' examples, each where the last one leads, a hair away."""
    x = jnp.asarray(inputs["x"][: problem.probe_size])
    examples = jn.Batch(x, jnp.asarray(inputs["y"][: problem.probe_size]))

    def run(key: Array, *, depth: jn.Depth, gain: Array) -> dict[str, Any]:
        model = jn.mlp(depth=depth, width=problem.width, out=CLASSES, weights=jn.gaussian(gain))
        start = model.init(jax.random.split(key, 3)[0], x[:1])["params"]

        def loss(params: Any) -> Array:
            return jn.probes.mean_loss(
                jn.cross_entropy, model.apply({"params": params}, x)[0], examples
            )

        def move(params: Any, _: None) -> tuple[Any, Array]:
            value, slopes = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, slope: p - 1e-9 * slope, params, slopes), value

        end, values = jax.lax.scan(move, start, length=25)
        return {"loss": values[0], "end": jnp.stack([jnp.sum(x) for x in jax.tree.leaves(end)])}

    axes = {"depth": jn.depths(problem.depths), "gain": problem.gains}
    return StoredSweep(run, axes, "loss").contender()


def fractal_with_store(problem: RateSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Sweep a run that scans over the steps and keeps a running convergence measure."""
    x, y = jnp.asarray(inputs["x"]), jnp.asarray(inputs["y"])

    def run(key: Array, *, first_rate: Array, readout_rate: Array) -> dict[str, Array]:
        weights = bench_fractal.initial_weights(key, problem.width)
        rates = bench_fractal.Weights(first_rate, readout_rate)
        return {"measure": bench_fractal.train(problem, weights, rates, x, y)}

    axes = {"first_rate": problem.rates, "readout_rate": problem.rates}
    return StoredSweep(run, axes, "measure").contender()
