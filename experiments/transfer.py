"""Transfer: the best learning rate of a narrow network on wide ones, with and without muP.

Yang et al. 2022 (2203.03466): in the standard parametrisation the best rate falls with the width;
in the maximal update parametrisation (muP) it stays, so it is found on the narrowest network. ReLU
networks of two hidden layers, trained by Adam on real MNIST images for a fixed number of steps. The
best rate is the vertex of a parabola in the logarithm of the rate, fitted to the logarithm of the
final training loss at the five rates around the least.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import optax
import xarray as xr

import jaxnn as jn
from experiments._images import pooled
from jaxnn.report import Claim, Measurement, at_least, at_most, figures, jackknife

NAMES = {0.0: "standard", 1.0: "muP"}
REACH = 2  # rates on each side of the least loss in the fit


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    widths: tuple[int, ...] = (64, 256, 1024)
    octaves: tuple[int, int] = (-11, -4)  # binary logarithms of the lowest and highest rate
    num_seeds: int = 4
    num_steps: int = 40
    batch_size: int = 64


SCALES = {
    "quick": Config((32, 512), num_seeds=2, num_steps=20),
    "default": Config(),
    "paper": Config((64, 256, 1024, 4096), (-14, -4), num_seeds=16, num_steps=200),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train over width, learning rate and parametrisation."""
    task, (lowest, highest) = jax.tree.map(pooled, jn.data.mnist5k()), config.octaves

    def train(key, *, width, learning_rate, mup):
        ratio = (width / config.widths[0]) ** mup
        readout = jn.gaussian(jn.mup_readout_gain(ratio))
        return jn.fit(
            jn.mlp(2, width, 10, "relu", weights=jn.he(), readout=readout),
            jn.cross_entropy,
            optax.chain(jn.optimizer("adam", learning_rate), jn.scale_by_mup("adam", ratio)),
            task,
            key=key,
            num_steps=config.num_steps,
            record_every=config.num_steps,
            batch_size=config.batch_size,
            probes=[jn.probes.loss],
            probe_size=1024,
        )

    return jn.sweep(
        train,
        learning_rate=2.0 ** np.arange(lowest, highest + 1),
        mup=list(NAMES),
        width=list(config.widths),
        num_seeds=config.num_seeds,
        seed=seed,
        store=store / "trained",
    )


def best_rate(losses: xr.DataArray) -> xr.DataArray:
    """Return log2 of the best learning rate, from losses `[learning_rate, ...]`."""

    def vertex(losses: np.ndarray, octaves: np.ndarray) -> float:
        least = np.clip(losses.argmin(), REACH, len(losses) - 1 - REACH)
        near = slice(least - REACH, least + REACH + 1)
        square, slope, _ = np.polyfit(octaves[near], np.log(losses[near]), 2)
        return np.clip(-slope / (2 * square), *octaves[near][[0, -1]])

    octaves, dims = np.log2(losses["learning_rate"]), ["learning_rate"]
    return xr.apply_ufunc(vertex, losses, octaves, input_core_dims=[dims, dims], vectorize=True)


def _typical_rate(losses: xr.DataArray) -> xr.DataArray:
    return best_rate(losses.mean("seed"))


def _drift(mup: float, compare: Callable[..., Measurement], bound: float) -> Callable:
    """Return a check of how far the best rate moves from the narrowest to the widest network."""

    def drift(losses: xr.DataArray) -> xr.DataArray:
        rates = _typical_rate(losses)
        return abs(rates.isel(width=-1) - rates.isel(width=0))

    def check(ds: xr.Dataset) -> Measurement:
        value, error = jackknife(ds["loss"].isel(step=-1).sel(mup=mup), drift)
        return compare(value, bound, error)

    return check


CLAIMS = (
    Claim(
        "Without muP the best learning rate moves by 2 octaves or more over 16 times the width",
        "Yang et al. 2022, figure 1; bound ours",
        _drift(0.0, at_least, 2.0),
    ),
    Claim(
        "With muP it stays within 1 octave",
        "Yang et al. 2022, figure 1; bound ours",
        _drift(1.0, at_most, 1.0),
    ),
)


def figure(ds: xr.Dataset):
    """Draw the final loss over the learning rate in both parametrisations, and the best rates."""
    fig, axes = figures.new_figure(1, 3, size=(17, 5.2))
    losses = ds["loss"].isel(step=-1)
    axes[1].sharey(axes[0])
    for ax, mup in zip(axes[:2], NAMES, strict=True):
        _draw_losses(ax, losses.sel(mup=mup), NAMES[mup])
    _draw_rates(axes[2], losses)
    return fig


def _draw_losses(ax, losses: xr.DataArray, name: str) -> None:
    best = 2.0 ** _typical_rate(losses)
    for width, colour in zip(losses["width"].values, figures.PALETTE, strict=False):
        style = {"color": colour, "label": f"width {width}"}
        told = figures.over_seeds(ax, losses.sel(width=width), x="learning_rate", **style)
        ax.axvline(float(best.sel(width=width)), color=colour, linestyle=":", linewidth=2)
    ax.set(xscale="log", yscale="log", xlabel="learning rate of Adam", ylabel="training loss [nat]")
    ax.set_title(f"{name}: {told} (dotted: best rate)")
    ax.legend(fontsize=11, frameon=False)
    figures.plain_ticks(ax.yaxis, [0.2, 0.5, 1, 2, 5])


def _draw_rates(ax, losses: xr.DataArray) -> None:
    widths = losses["width"].values
    for mup, name in NAMES.items():
        each = [losses.sel(mup=mup, width=width) for width in widths]
        best, errors = np.transpose([jackknife(one, _typical_rate) for one in each])
        ax.errorbar(widths, best, errors, fmt="o-", linewidth=2, capsize=3, label=name)
    ax.set(xscale="log", xlabel="width", ylabel="log2 of the best learning rate")
    ax.set_title("Best rate: jackknife's s.e. over seeds")
    ax.legend(fontsize=11, frameon=False)
    figures.plain_ticks(ax.xaxis, widths)
