"""Gradient flow: normal, vanishing and exploding gradients over depth, and which cure works where.

Glorot & Bengio 2010; He et al. 2015 (1502.01852); Hanin 2018 (1801.03744); Yang & Schoenholz 2017
(1712.08969); Pascanu et al. 2013 (1211.5063) for clipping. Real MNIST.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn.report import figures
from jaxnn.theory import finite_width, mean_field

PROBES = jn.probes
SCHEMES = ("standard", "glorot", "he", "orthogonal")


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    depth: int = 32
    width: int = 64
    profile_width: int = 128
    profile_seeds: int = 8
    num_gains: int = 7
    law_width: int = 512
    law_seeds: int = 16
    he_depth: int = 22
    hanin_width: int = 50
    hanin_depth: int = 10
    hanin_nets: int = 8000
    residual_depth: int = 64
    num_steps: int = 100
    train_seeds: int = 16
    learning_rates: tuple[float, ...] = (0.01, 0.1)


SCALES = {
    "quick": Config(
        depth=12,
        width=32,
        profile_width=32,
        profile_seeds=2,
        num_gains=3,
        law_width=128,
        law_seeds=16,
        hanin_width=16,
        hanin_depth=4,
        hanin_nets=2000,
        residual_depth=16,
        num_steps=40,
        train_seeds=4,
    ),
    "default": Config(),
    "paper": Config(
        width=256,
        profile_width=1000,
        profile_seeds=32,
        num_gains=16,
        law_width=1000,
        law_seeds=64,
        hanin_nets=200_000,
        num_steps=1000,
        train_seeds=32,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Measure profiles over depth, the exact laws at initialisation, and cures in training."""
    sweeps = {
        "profile": _profiles(config, seed, store),
        "linear": _linear_law(config, seed, store),
        "relu": _relu_law(config, seed, store),
        "hanin": _hanin_law(config, seed, store),
        "residual": _residual_law(config, seed, store),
        "cure": _cures(config, seed, store),
    }
    merged = xr.merge([_prefixed(ds, name) for name, ds in sweeps.items()], combine_attrs="drop")
    seconds = {
        name: sum(ds.attrs[name] for ds in sweeps.values())
        for name in ("wall_seconds", "compile_seconds")
    }
    return merged.assign_attrs({**sweeps["profile"].attrs, **seconds})


def _prefixed(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Put a sweep's name before its variables and dims, so that several share one dataset."""
    return ds.rename({each: f"{name}_{each}" for each in {*ds.variables, *ds.dims}})


def _initial(model: jn.Model, key: jax.Array, batch: jn.Batch, probes: list) -> dict:
    """Measure a network at initialisation on a batch."""
    batch = jax.tree.map(jnp.asarray, batch)
    passed = PROBES.flow(model, jn.cross_entropy, model.init(key, batch.x), batch)
    return PROBES.measure(probes, passed)


def _mnist_batch(size: int) -> jn.Batch:
    return jax.tree.map(lambda leaf: leaf[:size], jn.data.mnist5k().train)


def _profiles(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Sweep activation x scheme x residual x gain at initialisation; all layers."""
    batch = _mnist_batch(128)

    def profile(key, *, activation, scheme, residual, gain):
        weights = jn.initialiser(scheme, gain)
        model = jn.mlp(
            config.depth, config.profile_width, 10, activation, weights=weights, residual=residual
        )
        measured = [PROBES.preact_grad_rms, PROBES.grad_rms, PROBES.act_var]
        return _initial(model, key, batch, [*measured, PROBES.saturated_fraction])

    return jn.sweep(
        profile,
        activation=["sigmoid", "tanh", "relu"],
        scheme=list(SCHEMES),
        residual=[0.0, 1.0],
        gain=np.geomspace(0.5, 2.0, config.num_gains),
        num_seeds=config.profile_seeds,
        seed=seed,
        store=store / "profile",
    )


def _linear_law(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A1: standard against normalised initialisation of linear and tanh networks."""
    batch = _mnist_batch(32)

    def linear(key, *, activation, scheme, input_scale):
        scaled = batch._replace(x=batch.x * input_scale)
        model = jn.mlp(6, config.law_width, 10, activation, weights=jn.initialiser(scheme))
        return _initial(model, key, scaled, [PROBES.preact_second_moment, PROBES.preact_grad_rms])

    return jn.sweep(
        linear,
        activation=["identity", "tanh"],
        scheme=["standard", "glorot"],
        input_scale=[0.1, 1.0],
        num_seeds=config.law_seeds,
        seed=seed,
        store=store / "linear",
    )


def _relu_law(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A3: ReLU layers multiply the second moment by g/2, g the gain of the weight variance."""
    batch = _mnist_batch(32)

    def relu(key, *, variance_gain):
        weights = jn.gaussian(variance_gain**0.5)
        model = jn.mlp(config.he_depth, config.law_width, 10, "relu", weights=weights)
        return _initial(model, key, batch, [PROBES.preact_second_moment])

    return jn.sweep(
        relu,
        variance_gain=[1.0, 1.5, 2.0, 3.0],
        num_seeds=config.law_seeds,
        seed=seed,
        store=store / "relu",
    )


def _hanin_law(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A8: ln of the squared-norm ratio over a He ReLU network, one random input each."""

    def norm_ratio(key):
        key_x, key_w = jax.random.split(key)
        x = jax.random.normal(key_x, (1, config.hanin_width))
        model = jn.mlp(config.hanin_depth, config.hanin_width, 1, "relu", weights=jn.he())
        _, taps, _ = model.apply(model.init(key_w, x), x)
        return {"log_ratio": jnp.log(jnp.mean(taps.post[-1] ** 2) / jnp.mean(x**2))}

    return jn.sweep(
        norm_ratio,
        num_seeds=config.hanin_nets,
        seed=seed,
        store=store / "hanin",
    )


def _residual_law(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A12: forward and backward growth of residual tanh and ReLU stacks."""
    batch = _mnist_batch(32)

    def residual(key, *, activation):
        weights = jn.gaussian(2.0**0.5 if activation == "relu" else 1.0)
        model = jn.mlp(
            config.residual_depth, config.law_width, 10, activation, weights=weights, residual=True
        )
        return _initial(model, key, batch, [PROBES.preact_second_moment, PROBES.preact_grad_rms])

    return jn.sweep(
        residual,
        activation=["tanh", "relu"],
        num_seeds=config.law_seeds,
        seed=seed,
        store=store / "residual",
    )


def _cures(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Train plain and residual networks from too small, right and too large weights."""
    mnist = jn.data.mnist5k()

    def train(key, *, activation, gain, residual, clip_norm, learning_rate):
        model = jn.mlp(
            config.depth, config.width, 10, activation, weights=jn.he(gain), residual=residual
        )
        return jn.fit(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate, clip_norm=clip_norm),
            mnist,
            key=key,
            num_steps=config.num_steps,
            record_every=config.num_steps,
            probes=[PROBES.accuracy, PROBES.loss],
        )

    return jn.sweep(
        train,
        activation=["tanh", "relu"],
        gain=[0.5, 1.0, 2.0],
        residual=[0.0, 1.0],
        clip_norm=[1.0, np.inf],
        learning_rate=list(config.learning_rates),
        num_seeds=config.train_seeds,
        seed=seed,
        store=store / "cure",
    )
