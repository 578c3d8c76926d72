"""Batch size: the gradient's noise, how far it throws a weight, and the step that it allows.

Goyal et al. 2017 (1706.02677) for noise at a constant rate over batch; McCandlish et al. 2018
(1812.06162) for the noise scale and the best rate at a batch size. The noise scale is that of
networks on real MNIST; the exact laws are on quadratics, one weight for the stationary noise, and
least squares of digits (from pixels to one-hot classes) for the best rate.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn.report import (
    Claim,
    Measurement,
    agrees,
    at_least,
    figures,
    gather,
    jackknife,
    mean_and_error,
    part,
)
from jaxnn.theory import noise

RATE_OVER_BATCH = 0.025  # where the stationary noise is compared
MARK = 16.0  # batch at which the best rate is compared

_variance = jax.jit(noise.stationary_variance)


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    width: int = 32
    log10_rates: tuple[float, float, int] = (-4.0, 1.0, 21)  # of training: least, most, number
    num_seeds: int = 3
    num_steps: int = 300
    batch_size: int = 32
    num_batches: int = 200  # of 256 examples, for the noise scale at the start
    noise_examples: int = 1000  # the whole training set, in that measurement
    num_chains: int = 2048  # of the stationary noise
    num_draws: int = 10_000  # batches, for the best rate on least squares


SCALES = {
    "quick": Config(
        log10_rates=(-1.5, -0.5, 3),
        num_seeds=2,
        num_batches=60,
        noise_examples=500,
        num_chains=1024,
        num_draws=4000,
    ),
    "default": Config(),
    "paper": Config(
        width=512,
        log10_rates=(-5.0, 2.0, 57),
        num_seeds=16,
        num_steps=5000,
        num_batches=2000,
        noise_examples=3500,
        num_chains=65_536,
        num_draws=1_000_000,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Measure a network's noise at the start and in training, and what noise does to quadratics."""
    mnist = jn.data.mnist5k()
    model = jn.mlp(2, config.width, 10, "tanh")
    low, high, count = config.log10_rates

    def train(key, *, learning_rate):
        return jn.fit(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate),
            mnist,
            key=key,
            num_steps=config.num_steps,
            record_every=config.num_steps // 10,
            batch_size=config.batch_size,
            probe_size=512,
            probes=[jn.probes.loss, jn.probes.gradient_noise()],
        )

    def start(key):
        whole = jax.tree.map(lambda leaf: jnp.asarray(leaf[: config.noise_examples]), mnist.train)
        return initial_noise(model, whole, config.num_batches, key)

    def settle(key, *, batch):
        return {"square": stationary_square(key, batch, config.num_chains)}

    digits = jn.data.digits(standardize="feature").train
    x, targets = jnp.asarray(digits.x), jax.nn.one_hot(digits.y, 10)

    def best_step(key, *, batch):
        return {"rate": best_rate(x, targets, batch, key, config.num_draws)}

    seeds, draws = {"num_seeds": config.num_seeds, "seed": seed}, {"num_seeds": 8, "seed": seed}
    rates = 10.0 ** np.linspace(low, high, count)
    settled = jn.sweep(settle, batch=[1.0, 8.0, 32.0, 64.0], **draws, store=store / "settled")
    best = jn.sweep(best_step, batch=[1.0, 4.0, 16.0, 64.0], **draws, store=store / "best")
    theory = [float(best_rate_theory(x, targets, each)) for each in best["batch"].values]
    parts = {
        "trained": jn.sweep(train, learning_rate=rates, **seeds, store=store / "trained"),
        "start": jn.sweep(start, **seeds, store=store / "start"),
        "settled": settled,
        "best": best.assign(theory=("batch", theory)),
    }
    return gather(parts)


def initial_noise(model: jn.Model, whole: jn.Batch, num_batches: int, key: jax.Array) -> dict:
    """Measure gradient noise of a network at its start, by the probe on batches and exactly."""
    flow = jn.probes.flow(model, jn.cross_entropy, model.init(key, whole.x), whole)
    size = len(whole.x)

    def at(places: jax.Array) -> jn.probes.Flow:
        weight = jnp.full(places.shape, 1.0 / len(places))
        return flow._replace(x=whole.x[places], targets=whole.y[places], weight=weight)

    def square(places: jax.Array) -> jax.Array:
        gradients = jax.grad(at(places).loss_at)(flow.params)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients))

    def estimate(key: jax.Array) -> dict:
        places = jax.random.randint(key, (256,), 0, size)
        found = jn.probes.measure([jn.probes.gradient_noise()], at(places))
        return {name: found[f"gradient_noise_{name}"].values for name in ("trace", "signal")}

    length = square(jnp.arange(size))
    squares = jax.lax.map(square, jnp.arange(size)[:, None], batch_size=50)
    keys = jax.random.split(jax.random.fold_in(key, 1), num_batches)
    found = jax.lax.map(estimate, keys)
    labelled = {name: jn.Labelled(values, ("batch",)) for name, values in found.items()}
    return {**labelled, "exact": (jnp.mean(squares) - length) / length}


def stationary_square(key: jax.Array, batch: jax.Array, num_chains: int) -> jax.Array:
    """Measure the mean square of a weight of loss w^2 / 2 under SGD, noise of variance 1/batch.

    Steps 400 to 800 count, of chains that start from half of the spread that theory expects.
    """
    rate = RATE_OVER_BATCH * batch

    def step(number, carry):
        weight, total = carry
        drawn = jax.random.normal(jax.random.fold_in(key, number + 1), weight.shape)
        weight = weight - rate * (weight + drawn / jnp.sqrt(batch))
        return weight, total + jnp.where(number < 400, 0.0, jnp.mean(weight**2) / 400)

    spread = jnp.sqrt(noise.stationary_variance(rate, 1.0, 1.0, batch))
    start = 0.5 * spread * jax.random.normal(jax.random.fold_in(key, 0), (num_chains,))
    return jax.lax.fori_loop(0, 800, step, (start, 0.0))[1]


def best_rate(
    x: jax.Array, targets: jax.Array, batch: jax.Array, key: jax.Array, num_draws: int
) -> jax.Array:
    """Measure the rate of one step from weights 0 that lowers the mean loss most.

    The loss over all examples after a step is a parabola of the rate, averaged over many batches.
    A batch is 64 examples drawn with replacement, of which the first `batch` count.
    """
    size, gram, mean = len(x), x.T @ x / len(x), x.T @ targets / len(x)
    used = jnp.where(jnp.arange(64, dtype=x.dtype) < batch, 1.0 / batch, 0.0)

    def parabola(key: jax.Array) -> jax.Array:
        places = jax.random.randint(key, (64,), 0, size)
        step = jnp.einsum("b,bi,bo->io", used, x[places], targets[places])  # minus the gradient
        return jnp.stack([jnp.sum(step * mean), jnp.sum(step * (gram @ step))])

    keys = jax.random.split(key, num_draws)
    fall, rise = jnp.mean(jax.lax.map(parabola, keys, batch_size=500), axis=0)
    return fall / rise  # of -rate fall + rate^2 rise / 2


@jax.jit
def best_rate_theory(x: jax.Array, targets: jax.Array, batch: jax.Array) -> jax.Array:
    """Return eps_max / (1 + B_noise / B); H is the same block for each of the ten outputs."""
    gradients = -jnp.einsum("ni,no->noi", x, targets).reshape(len(x), -1)
    mean = jnp.mean(gradients, axis=0)
    covariance = gradients.T @ gradients / len(x) - jnp.outer(mean, mean)
    hessian = jnp.kron(jnp.eye(targets.shape[1]), x.T @ x / len(x))
    scale = noise.noise_scale(mean, hessian, covariance)
    return noise.optimal_learning_rate(noise.largest_step(mean, hessian), scale, batch)


def growth(ds: xr.Dataset) -> xr.DataArray:
    """Return the noise scale over steps at the rate that ends lowest, the ratio of seeds' means."""
    trained = part(ds, "trained")
    last = trained["loss"].isel(step=-1).fillna(np.inf).mean("seed")
    means = trained.sel(learning_rate=float(last.idxmin("learning_rate"))).mean("seed")
    return means["gradient_noise_trace"] / means["gradient_noise_signal"]


def variance(batches: np.ndarray) -> np.ndarray:
    """Return theory's stationary variance at batches, at the constant rate over batch."""
    return np.asarray(_variance(RATE_OVER_BATCH * batches, 1.0, 1.0, batches))


def _stationary(ds: xr.Dataset) -> Measurement:
    """Compare the variance with theory's at the batch where it is farthest off."""
    settled = part(ds, "settled")
    means, errors = mean_and_error(settled["square"])
    expected = variance(settled["batch"].values)
    worst = int(np.abs(means.values / expected - 1.0).argmax())
    return agrees(float(means[worst]), expected[worst], float(errors[worst]), rtol=0.02)


def _noise_scale(ds: xr.Dataset) -> Measurement:
    """Compare the ratio of averages over batches with the exact scale, seed by seed."""

    def ratio(some: xr.Dataset) -> xr.DataArray:
        means = some[["trace", "signal"]].mean("batch")
        return (means["trace"] / means["signal"] / some["exact"]).mean("seed")

    value, error = jackknife(part(ds, "start"), ratio, over="batch")
    return agrees(value, 1.0, error, rtol=0.1)


def _best_rate(ds: xr.Dataset) -> Measurement:
    best = part(ds, "best").sel(batch=MARK)
    mean, error = mean_and_error(best["rate"])
    return agrees(float(mean), float(best["theory"]), float(error), rtol=0.01)


def _noise_grows(ds: xr.Dataset) -> Measurement:
    scale = growth(ds)
    return at_least(float(scale.isel(step=-1) / scale.isel(step=0)), 3.0)


MCCANDLISH = "McCandlish et al. 2018, 1812.06162"
CLAIMS = (
    Claim(
        "Stationary variance at a constant eta/B, the batch farthest off",
        "Goyal et al. 2017, 1706.02677, for the rule; eta s^2/(B lam (2 - eta lam)), exact",
        _stationary,
    ),
    Claim(
        "Noise scale of a network from two batch sizes, over the exact one",
        f"{MCCANDLISH}, appendix A.1",
        _noise_scale,
    ),
    Claim(
        f"Best rate of a step on {MARK:g} digits, least squares: eps_max/(1 + B_noise/B)",
        f"{MCCANDLISH}, eq. 2.6",
        _best_rate,
    ),
    Claim(
        "Trend: the noise scale grows in training (last over first, at the best rate)",
        f"{MCCANDLISH}, section 2.4; the factor is ours",
        _noise_grows,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the noise scale of networks in training, and both laws of noise against the batch."""
    fig, (left, middle, right) = figures.new_figure(1, 3, size=(18, 5.4))
    blue, orange = figures.PALETTE[:2]
    scale = growth(ds)
    left.plot(scale["step"], scale, "o-", color=blue, linewidth=2, label="from two batch sizes")
    exact = float(ds["start_exact"].mean())
    left.axhline(exact, color=orange, linestyle="--", linewidth=2, label="exact, at the start")
    left.set(xlabel="training step", ylabel="noise scale tr Σ / |G|² [examples]", yscale="log")
    left.set_title(f"Networks on real MNIST, best rate ({ds.sizes['trained_seed']} seeds pooled)")
    best, settled = part(ds, "best"), part(ds, "settled")
    middle.plot(best["batch"], best["theory"], color=orange, linewidth=2, label="theory")
    spread = _dots(middle, best["rate"])
    middle.set(ylabel="best learning rate", title=f"One step of least squares ({spread})")
    batches = np.geomspace(1.0, 70.0, 100)
    right.plot(batches, variance(batches), color=orange, linewidth=2, label="theory")
    spread = _dots(right, settled["square"])
    right.axhline(RATE_OVER_BATCH / 2.0, color="0.4", linestyle=":", label="if only η/B counted")
    right.set(ylabel="stationary variance of a weight")
    right.set_title(f"SGD on a quadratic, η/B = {RATE_OVER_BATCH:g} ({spread})")
    for ax in (middle, right):
        ax.set(xscale="log", yscale="log", xlabel="batch size [examples]")
        figures.plain_ticks(ax.xaxis, (1, 4, 16, 64))
        figures.plain_ticks(ax.yaxis, (0.01, 0.02, 0.05, 0.1))
    for ax in (left, middle, right):
        ax.legend(fontsize=11, frameon=False)
    return fig


def _dots(ax, values: xr.DataArray) -> str:
    """Draw what was measured over the batch, and say what the error bars are."""
    style = {"bars": True, "color": figures.PALETTE[0], "fmt": "o", "label": "measured"}
    return figures.over_seeds(ax, values, x="batch", **style)
