"""Make what all contenders of bench.py start from, and what their results must be.

    python bench_inputs.py FOLDER

reads the folder's problem, and writes examples, initial weights, the indices of every batch, and
each member's result: `exact`, by plain JAX in float64, and `rounded`, by the same in float32 from
weights scaled by 1 and a few rounding errors more or less. Members where these differ amplify
rounding, so that no two programs agree on them.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_fractal import Weights, initial_weights, train
from bench_jax import PARAMETERS, Task, initial_params
from bench_problems import CLASSES, INPUTS, DepthSweep, RateSweep, load_problem

import jaxnn as jn

Inputs = dict[str, np.ndarray]
LANES = 8  # members at once: enough for a GPU, few enough for a CPU's cache
NUDGES = (1.0, 1.0 + 2.0**-22, 1.0 - 2.0**-22)  # factors of the initial weights


def member_key() -> jax.Array:
    """Return the key of every member: all are of the first seed of a sweep."""
    return jax.random.fold_in(jax.random.key(0), 0)


def depth_sweep_inputs(problem: DepthSweep) -> Inputs:
    """Draw the weights and batches that `jn.fit` draws from the members' key."""
    init_key, data_key, _ = jax.random.split(member_key(), 3)
    train = jn.data.digits().train
    draw = jax.vmap(
        lambda step: jn.data.sample_indices(data_key, step, len(train.x), problem.batch_size)
    )
    inputs = {"x": train.x, "y": train.y, "batches": draw(jnp.arange(problem.num_steps))}
    for depth in problem.depths:

        def init(gain: jax.Array, depth: int = depth) -> dict[str, Any]:
            model = jn.mlp(depth, problem.width, CLASSES, weights=jn.gaussian(gain))
            return model.init(init_key, train.x[:1])["params"]

        params = jax.jit(jax.vmap(init))(jnp.asarray(problem.gains))
        inputs |= {f"{depth}/{group}/{name}": params[group][name] for group, name in PARAMETERS}
    return {name: np.asarray(array) for name, array in inputs.items()}


def final_losses(problem: DepthSweep, inputs: Inputs, factors: Sequence[float]) -> np.ndarray:
    """Return final losses `[factor, member]`, by plain JAX in the inputs' precision."""
    train = jax.jit(partial(jax.lax.map, Task(problem, inputs).train, batch_size=LANES))
    stacks = [initial_params(inputs, depth) for depth in problem.depths]
    return np.stack([np.concatenate([train(scaled(s, f)) for s in stacks]) for f in factors])


def scaled(weights: Any, factor: float) -> Any:
    """Return a tree of weights times a factor."""
    return jax.tree.map(lambda leaf: leaf * factor, weights)


def rate_sweep_inputs(problem: RateSweep) -> Inputs:
    """Draw the task, and the weights that the members' key gives."""
    weights = initial_weights(member_key(), problem.width)
    x_key, y_key = jax.random.split(jax.random.key(1))
    x = jax.random.normal(x_key, (problem.num_points, problem.width), jnp.float32)
    y = jax.random.normal(y_key, (problem.num_points,), jnp.float32)
    first_rates, readout_rates = np.meshgrid(problem.rates, problem.rates, indexing="ij")
    rates = {"first_rates": first_rates.ravel(), "readout_rates": readout_rates.ravel()}
    arrays = {"x": x, "y": y, "first": weights.first, "readout": weights.readout, **rates}
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def convergence_measures(
    problem: RateSweep, inputs: Inputs, factors: Sequence[float]
) -> np.ndarray:
    """Return convergence measures `[factor, member]`, by plain JAX in the inputs' precision."""
    arrays = {name: jnp.asarray(array) for name, array in inputs.items()}
    weights = Weights(arrays["first"], arrays["readout"])
    rates = Weights(arrays["first_rates"], arrays["readout_rates"])

    @jax.jit
    def measures(weights: Weights) -> jax.Array:
        member = partial(train, problem, weights, x=arrays["x"], y=arrays["y"])
        return jax.lax.map(member, rates, batch_size=LANES)

    return np.stack([measures(scaled(weights, factor)) for factor in factors])


def with_results(problem: Any, inputs: Inputs, work: Callable[..., np.ndarray]) -> Inputs:
    """Return inputs with the results of the work on them, in float32 and in float64."""
    rounded = work(problem, inputs, NUDGES)
    with jax.enable_x64(True):
        wide = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in inputs.items()}
        (exact,) = work(problem, wide, NUDGES[:1])
    return {**inputs, "rounded": rounded.astype(np.float64), "exact": exact}


def main(folder: Path) -> None:
    """Write the inputs of the folder's problem beside it."""
    problem = load_problem(folder)
    if isinstance(problem, RateSweep):
        inputs = with_results(problem, rate_sweep_inputs(problem), convergence_measures)
    else:
        inputs = with_results(problem, depth_sweep_inputs(problem), final_losses)
    with (folder / INPUTS).open("wb") as file:
        np.savez(file, **inputs)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
