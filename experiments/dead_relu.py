"""Dead ReLUs: what kills units in training, and what cures it.

A ReLU unit that is inactive on every training example is dead: it gets no gradient. Units of one
hidden layer are followed one by one on real digits, with the whole training set at each step. Then
comes a factorial of causes and cures in deeper networks. Networks that are dead before any training
are in the study `born_dead`.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import xarray as xr

import jaxnn as jn
from jaxnn.report import (
    Claim,
    Measurement,
    at_least,
    at_most,
    between,
    figures,
    gather,
    jackknife,
    part,
)

PROBES = jn.probes
HEALTHY = {
    "norm": "none",
    "gain": 1.0,  # sqrt(fan_in Var W)
    "learning_rate": 0.1,
    "relief": 1.0,  # multiplies the learning rate
    "bias": 0.0,  # of all units at the start
    "slope": 0.0,
}
CAUSES = {
    "healthy": {},
    "large rate": {"learning_rate": 1.0},
    "negative bias": {"bias": -1.0},
    "both": {"learning_rate": 1.0, "bias": -1.0},
}
CURES = {
    "none": {},
    "rate / 10": {"relief": 0.1},
    "He weights": {"gain": 2.0**0.5},
    "leaky": {"slope": 0.1},
    "leaky + He": {"slope": 0.1, "gain": 2.0**0.5},
    "batch norm": {"norm": "batch"},
}


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    kill_rates: tuple[float, float, int] = (0.5, 10.0, 16)  # least, most, number of values
    kill_width: int = 64
    kill_steps: int = 100
    kill_seeds: int = 8
    num_examples: int = 512  # all of them are probed
    cure_shape: tuple[int, int] = (3, 32)  # hidden layers and their units
    cure_steps: int = 150
    cure_seeds: int = 16


SCALES = {
    "quick": Config(
        kill_rates=(0.5, 4.0, 5),
        kill_steps=60,
        kill_seeds=6,
        num_examples=256,
        cure_seeds=6,
    ),
    "default": Config(),
    "paper": Config(
        kill_rates=(0.1, 10.0, 32),
        kill_steps=1000,
        kill_seeds=32,
        num_examples=1259,
        cure_steps=2000,
        cure_seeds=64,
    ),
}


@PROBES.probe(("unit",), long_name="dead unit")
def dead_unit(flow: PROBES.Flow) -> jax.Array:
    """1 for each unit of the first layer that is inactive on every example."""
    return jnp.all(flow.taps.pre[0] <= 0, axis=0).astype(flow.taps.pre.dtype)


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Follow units that are killed; train every combination of causes and cures."""
    digits = jn.data.digits()
    task = digits._replace(train=jax.tree.map(lambda x: x[: config.num_examples], digits.train))

    def kill(key, *, learning_rate, momentum):
        return jn.fit(
            jn.mlp(1, config.kill_width, 10, "relu", weights=jn.he()),
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate, momentum=momentum),
            task,
            key=key,
            num_steps=config.kill_steps,
            record_every=1,
            sampling="full",
            probe_size=config.num_examples,
            probes=[dead_unit],
        )

    def cure(key, *, norm, gain, learning_rate, relief, bias, slope):
        init = {"weights": jn.gaussian(gain), "biases": jn.constant(bias)}
        return jn.fit(
            jn.mlp(*config.cure_shape, 10, jn.leaky_relu(slope), norm=norm, **init),
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate * relief),
            task,
            key=key,
            num_steps=config.cure_steps,
            record_every=config.cure_steps,
            batch_size=32,
            probe_size=config.num_examples,
            probes=[PROBES.dead_fraction, PROBES.accuracy],
        )

    rates = {"learning_rate": np.geomspace(*config.kill_rates), "momentum": [0.0, 0.9]}
    changes = [*CAUSES.values(), *CURES.values()]
    factors = {
        name: list(dict.fromkeys(each.get(name, level) for each in changes))
        for name, level in HEALTHY.items()
    }
    kill_runs = {"num_seeds": config.kill_seeds, "seed": seed + 1, "store": store / "kill"}
    cure_runs = {"num_seeds": config.cure_seeds, "seed": seed + 2, "store": store / "cure"}
    return gather(
        {
            "kill": jn.sweep(kill, **rates, **kill_runs),
            "cure": jn.sweep(cure, **factors, **cure_runs),
        }
    )


def killed(ds: xr.Dataset) -> xr.DataArray:
    """Return the share of units dead after training, by learning rate, momentum and seed."""
    return part(ds, "kill")["dead_unit"].isel(step=-1).mean("unit")


def revived(ds: xr.Dataset, momentum: float) -> tuple[int, int]:
    """Return how many units were dead at some step, and how many of them were not later."""
    dead = (part(ds, "kill")["dead_unit"].sel(momentum=momentum) > 0).transpose("step", ...)
    ever = np.logical_or.accumulate(dead.values)
    return int(ever[-1].sum()), int((ever & ~dead.values).any(0).sum())


def _rate_kills(ds: xr.Dataset) -> Measurement:
    diverged = part(ds, "kill")["diverged_at"].notnull().any("seed")
    stable = killed(ds).where(~diverged).sel(momentum=0.0).dropna("learning_rate")

    def rank(shares: xr.DataArray) -> float:
        return scipy.stats.spearmanr(shares.mean("seed"), shares["learning_rate"]).statistic

    value, error = jackknife(stable, rank)
    return at_least(value, 0.9, error)


def _stay_dead(ds: xr.Dataset) -> Measurement:
    died, back = revived(ds, 0.0)
    if not died:
        raise ValueError("no unit died, so none could come back")
    return between(back, 0, 0)


def _come_back(ds: xr.Dataset) -> Measurement:
    return at_least(revived(ds, 0.9)[1], 1)


def cells(ds: xr.Dataset, quantity: str = "dead_fraction") -> xr.DataArray:
    """Return a measurement after training, `[cause, cure, seed]`, the mean over layers."""
    last = part(ds, "cure")[quantity].isel(step=-1)
    last = last.mean("layer") if "layer" in last.dims else last
    found = [
        [last.sel({**HEALTHY, **cause, **cure}).values for cure in CURES.values()]
        for cause in CAUSES.values()
    ]
    coords = {"cause": list(CAUSES), "cure": list(CURES)}
    return xr.DataArray(found, coords, ("cause", "cure", "seed"))


def _causes(cause: str) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        dead = cells(ds).sel(cure="none")
        more, error = jackknife(dead.sel(cause=cause) - dead.sel(cause="healthy"), np.mean)
        return at_least(more, 0.3, error)

    return Claim(f"Trend: a {cause} kills (share of units, minus the healthy)", "Ours", check)


def _remaining(ds: xr.Dataset, cause: str, cure: str) -> tuple[float, float]:
    """Return the share of dead units with a cure over that without, and its error."""
    dead = cells(ds).sel(cause=cause)
    return jackknife(dead, lambda some: some.sel(cure=cure).mean() / some.sel(cure="none").mean())


def _cured(cause: str, cure: str, source: str) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        ratio, error = _remaining(ds, cause, cure)
        return at_most(ratio, 1.0 / 3.0, error)

    statement = f"Trend: {cure} cures a {cause} (share of dead units, with / without)"
    return Claim(statement, source, check)


def _no_relief(ds: xr.Dataset) -> Measurement:
    ratio, error = _remaining(ds, "negative bias", "rate / 10")
    return between(ratio, 0.9, 1.1, error, expected=1.0)


def _leaky_trains(ds: xr.Dataset) -> Measurement:
    right = cells(ds, "accuracy").sel(cause="negative bias")
    more, error = jackknife(right.sel(cure="leaky + He") - right.sel(cure="none"), np.mean)
    return at_least(more, 0.3, error)


CLAIMS = (
    Claim(
        "Trend: a larger learning rate kills more units (Spearman, below divergence)",
        "Folklore (CS231n)",
        _rate_kills,
    ),
    Claim(
        "Full-batch gradient descent: dead units that come back (units, of all that died)",
        "Exact: their gradient is 0; folklore (CS231n)",
        _stay_dead,
    ),
    Claim("Control: with momentum 0.9 dead units come back (units)", "Ours", _come_back),
    _causes("large rate"),
    _causes("negative bias"),
    _cured("large rate", "rate / 10", "Folklore (CS231n)"),
    _cured("large rate", "batch norm", "Ioffe & Szegedy 2015, 1502.03167; ours"),
    _cured("negative bias", "batch norm", "Exact at the start: it takes the bias out; ours"),
    Claim(
        "A lower rate does not bring back units born dead (share of dead units, with / without)",
        "Exact for units dead on every input: their gradient is 0",
        _no_relief,
    ),
    Claim(
        "Trend: a leaky slope and He weights cure a negative bias (accuracy gained over neither)",
        "Maas et al. 2013; ours",
        _leaky_trains,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the units killed over the learning rate, and causes against cures."""
    fig, (left, right) = figures.new_figure(1, 2, size=(15, 5.8))
    _draw_killed(left, ds)
    _draw_cures(right, ds)
    return fig


def _draw_killed(ax, ds: xr.Dataset) -> None:
    shares = killed(ds)
    for momentum in shares["momentum"].values:
        died, back = revived(ds, momentum)
        label = f"momentum {momentum:g}: {back} of {died} dead units came back"
        line = shares.sel(momentum=momentum)
        shown = figures.over_seeds(ax, line, x="learning_rate", marker="o", label=label)
    ax.set(xscale="log", ylim=(-0.03, 1.25), yticks=np.linspace(0.0, 1.0, 6))
    ax.set(xlabel="learning rate [1/step]", ylabel="share of units dead after training")
    figures.plain_ticks(ax.xaxis, (0.5, 1, 2, 5, 10))
    steps = ds.sizes["kill_step"] - 1
    ax.set_title(
        f"Killed by the rate: digits, one hidden layer,\nfull batch, {steps} steps, {shown}"
    )
    ax.legend(frameon=False, loc="upper left")


def _draw_cures(ax, ds: xr.Dataset) -> None:
    dead, right = cells(ds).mean("seed"), cells(ds, "accuracy").mean("seed")
    dead.attrs = {"long_name": "share of dead units", "units": "1"}
    figures.heatmap(ax, dead, x="cure", y="cause", vmin=0.0, vmax=1.0, cmap="Oranges")
    words = np.vectorize("{:.2f} dead\n{:.0%} right".format)
    figures.write_cells(ax, words(dead.values, right.values))
    seeds, steps = ds.sizes["cure_seed"], int(ds["cure_step"][-1])
    ax.set_title(
        f"Causes and cures: training accuracy on digits,\n{steps} steps, mean of {seeds} seeds"
    )
