"""Trainability: how deep a tanh network can be trained, and mean-field theory's prediction of it.

Schoenholz et al. 2017 (1611.01232): a randomly initialised network trains if its depth is at most a
few correlation depth scales xi_c, which diverge where the weight variance is critical. Real MNIST.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import xarray as xr

import jaxnn as jn
from jaxnn.report import claims, figures
from jaxnn.theory import mean_field

PROBES = jn.probes
TRAINED = 0.5  # accuracy from which a network counts as trained


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    width: int = 64
    depths: tuple[int, ...] = (4, 8, 16, 24, 32, 40, 48, 64)
    weight_variances: tuple[float, float, int] = (1.0, 4.0, 16)  # least, most, number of values
    bias_variance: float = 0.05
    learning_rates: tuple[float, ...] = (0.01, 0.1)
    num_seeds: int = 2
    num_steps: int = 200
    batch_size: int = 64
    growth_weight_variances: tuple[float, ...] = (1.0, 1.761, 2.5, 4.0)
    growth_widths: tuple[int, ...] = (64, 512)
    growth_depth: int = 32
    growth_seeds: int = 8


SCALES = {
    "quick": Config(
        width=32,
        depths=(4, 12, 24),
        weight_variances=(1.0, 4.0, 5),
        num_seeds=1,
        num_steps=100,
        growth_weight_variances=(1.0, 2.5),
        growth_widths=(32, 256),
        growth_seeds=6,
    ),
    "default": Config(),
    "paper": Config(
        width=300,
        depths=tuple(range(10, 301, 10)),
        weight_variances=(1.0, 4.0, 90),
        learning_rates=(0.001, 0.01, 0.1),
        growth_widths=(300, 2000),
        growth_seeds=16,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train over weight variance, depth and learning rate; measure gradient growth apart."""
    mnist = jn.data.mnist5k()
    sigma_b = config.bias_variance**0.5

    def network(depth: int | jn.Depth, width: int, weight_variance: float) -> jn.Model:
        weights, biases = jn.gaussian(weight_variance**0.5), jn.gaussian(sigma_b)
        return jn.mlp(depth, width, 10, "tanh", weights=weights, biases=biases)

    def train(key, *, weight_variance, depth, learning_rate):
        return jn.fit(
            network(depth, config.width, weight_variance),
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate),
            mnist,
            key=key,
            num_steps=config.num_steps,
            record_every=config.num_steps // 2,
            batch_size=config.batch_size,
            probes=[PROBES.accuracy, PROBES.loss, PROBES.grad_rms, PROBES.preact_grad_rms],
            validation_probes=[PROBES.accuracy],
        )

    def initial(key, *, weight_variance, width):
        model = network(config.growth_depth, width, weight_variance)
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[:32]), mnist.train)
        passed = PROBES.flow(model, jn.cross_entropy, model.init(key, batch.x), batch)
        return PROBES.measure([PROBES.preact_grad_rms], passed)

    trained = jn.sweep(
        train,
        weight_variance=np.linspace(*config.weight_variances),
        depth=jn.depths(config.depths),
        learning_rate=list(config.learning_rates),
        num_seeds=config.num_seeds,
        seed=seed,
        store=store / "trained",
    )
    growth = jn.sweep(
        initial,
        weight_variance=list(config.growth_weight_variances),
        width=list(config.growth_widths),
        num_seeds=config.growth_seeds,
        seed=seed + 1,
        store=store / "growth",
    )
    return _merged(trained, growth).assign_attrs(
        bias_variance=config.bias_variance, num_steps=config.num_steps, width=config.width
    )


def _merged(trained: xr.Dataset, growth: xr.Dataset) -> xr.Dataset:
    """Put both sweeps in one dataset; the growth sweep's dims carry its name."""
    names = {dim: f"growth_{dim}" for dim in growth.dims}
    renamed = growth.rename({**names, "preact_grad_rms": "growth_preact_grad_rms"})
    merged = trained.merge(renamed)
    for name in ("wall_seconds", "compile_seconds"):
        merged.attrs[name] = trained.attrs[name] + growth.attrs[name]
    return merged


def theory(ds: xr.Dataset, weight_variances: np.ndarray) -> xr.Dataset:
    """Return chi_1 and xi_c at weight variances."""
    sigma_b = ds.attrs["bias_variance"] ** 0.5
    sigma_w = jnp.sqrt(jnp.asarray(weight_variances, jnp.float32))

    def at(sigma_w: jax.Array) -> tuple[jax.Array, jax.Array]:
        tanh = jn.activations.tanh
        return (
            mean_field.chi_1(tanh, sigma_w, sigma_b),
            mean_field.depth_scale_correlation(tanh, sigma_w, sigma_b),
        )

    chi_1, xi_c = jax.jit(jax.vmap(at))(sigma_w)
    dims = ("weight_variance",)
    return xr.Dataset({"chi_1": (dims, chi_1), "xi_c": (dims, xi_c)}, {dims[0]: weight_variances})


def critical_weight_variance(ds: xr.Dataset) -> float:
    """Return the theory's critical sigma_w^2."""
    sigma_b = ds.attrs["bias_variance"] ** 0.5
    critical = jax.jit(lambda b: mean_field.critical_sigma_w(jn.activations.tanh, b))
    return float(critical(sigma_b)) ** 2


def best_accuracy(ds: xr.Dataset) -> xr.DataArray:
    """Return the final accuracy at each network's best learning rate, the mean over seeds."""
    accuracy = ds["accuracy"].isel(step=-1).mean("seed").max("learning_rate")
    return accuracy.assign_attrs(long_name="training accuracy", units="1")


def trainable_depth(ds: xr.Dataset) -> xr.DataArray:
    """Return L*, the depth where the best accuracy falls through TRAINED, by linear interpolation."""
    accuracy = best_accuracy(ds)

    def crossing(values: np.ndarray, depths: np.ndarray) -> float:
        below = np.flatnonzero(values < TRAINED)
        if not below.size:
            return float(depths[-1])
        k = below[0]
        if k == 0:
            return float(depths[0])
        share = (values[k - 1] - TRAINED) / (values[k - 1] - values[k])
        return float(depths[k - 1] + share * (depths[k] - depths[k - 1]))

    return xr.apply_ufunc(
        crossing,
        accuracy,
        accuracy["depth"],
        input_core_dims=[["depth"], ["depth"]],
        vectorize=True,
    )
