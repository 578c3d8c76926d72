"""Gradient flow: normal, vanishing and exploding gradients over depth, and which cure works where.

Glorot & Bengio 2010; He et al. 2015 (1502.01852); Yang & Schoenholz 2017 (1712.08969) for residual
networks; Pascanu et al. 2013 (1211.5063) for clipping. Real MNIST. The exact laws of growth are in
the study `initialisation`.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
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
    mean_and_error,
    part,
)

PROBES = jn.probes
CURES = {  # by whether there are residual connections and clipping
    (False, False): "none",
    (False, True): "clipping",
    (True, False): "residual",
    (True, True): "both",
}
GAINS = {"vanishing": 0.5, "normal": 1.0, "exploding": 2.0}  # of He weights, in training


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    activations: tuple[str, ...] = ("sigmoid", "tanh", "relu")
    schemes: tuple[str, ...] = ("standard", "glorot", "he", "orthogonal")
    depth: int = 32
    width: int = 64
    profile_width: int = 64
    profile_seeds: int = 4
    num_gains: int = 7
    num_steps: int = 100
    train_seeds: int = 16
    learning_rates: tuple[float, ...] = (0.01, 0.1)


SCALES = {
    "quick": Config(
        activations=("tanh", "relu"),
        schemes=("standard", "he"),
        depth=12,
        width=32,
        profile_width=32,
        profile_seeds=2,
        num_gains=3,
        num_steps=40,
        train_seeds=2,
    ),
    "default": Config(),
    "paper": Config(
        width=256,
        profile_width=1000,
        profile_seeds=32,
        num_gains=17,
        num_steps=1000,
        train_seeds=32,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Measure profiles over depth at initialisation, and train with every cure."""
    return gather({"profile": _profiles(config, seed, store), "cure": _cures(config, seed, store)})


def _profiles(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Sweep activation x scheme x residual x gain at initialisation; all layers."""
    batch = jax.tree.map(lambda leaf: leaf[:128], jn.data.mnist5k().train)
    probes = [PROBES.preact_grad_rms, PROBES.grad_rms, PROBES.act_var, PROBES.saturated_fraction]

    def profile(key, *, activation, scheme, residual, gain):
        weights = jn.initialiser(scheme, gain)
        model = jn.mlp(
            config.depth, config.profile_width, 10, activation, weights=weights, residual=residual
        )
        return PROBES.measure_init(probes, model, jn.cross_entropy, key, batch)

    return jn.sweep(
        profile,
        activation=list(config.activations),
        scheme=list(config.schemes),
        residual=[0.0, 1.0],
        gain=np.geomspace(0.5, 2.0, config.num_gains),
        num_seeds=config.profile_seeds,
        seed=seed,
        store=store / "profile",
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
        gain=list(GAINS.values()),
        residual=[0.0, 1.0],
        clip_norm=[1.0, np.inf],
        learning_rate=list(config.learning_rates),
        num_seeds=config.train_seeds,
        seed=seed,
        store=store / "cure",
    )


def cured(ds: xr.Dataset, activation: str = "relu") -> xr.DataArray:
    """Return final accuracy by regime and cure, at each cell's best learning rate, by seed."""
    accuracy = part(ds, "cure")["accuracy"].isel(step=-1).sel(activation=activation)
    accuracy = accuracy.isel(learning_rate=accuracy.mean("seed").argmax("learning_rate"))
    cells = accuracy.stack(cure=("residual", "clip_norm")).transpose(..., "seed")
    cures = [CURES[bool(residual), bool(clip < np.inf)] for residual, clip in cells["cure"].values]
    cells = cells.drop_vars(["cure", "residual", "clip_norm"]).rename(gain="regime")
    return cells.assign_coords(cure=cures, regime=list(GAINS)).sel(cure=list(CURES.values()))


def _accuracy_gained(ds: xr.Dataset, cure: str) -> tuple[float, float]:
    """Return what a cure adds to the accuracy of ReLU networks with vanishing gradients."""
    accuracy = cured(ds).sel(regime="vanishing")
    mean, error = mean_and_error(accuracy.sel(cure=cure) - accuracy.sel(cure="none"))
    return float(mean), float(error)


def _residual_vanishing(ds: xr.Dataset) -> Measurement:
    mean, error = _accuracy_gained(ds, "residual")
    return at_least(mean, 0.2, error)


def _clipping_vanishing(ds: xr.Dataset) -> Measurement:
    mean, error = _accuracy_gained(ds, "clipping")
    return between(mean, -0.05, 0.05, error, expected=0.0)


def _right_weights(ds: xr.Dataset) -> Measurement:
    accuracy = cured(ds, "tanh").sel(cure="none")
    wrong = accuracy.drop_sel(regime="normal").max("regime")
    mean, error = mean_and_error(accuracy.sel(regime="normal") - wrong)
    return at_least(float(mean), 0.2, float(error))


def _clipping_exploding(ds: xr.Dataset) -> Measurement:
    """Compare the diverged share of exploding ReLU runs with clipping and without."""
    where = {"activation": "relu", "gain": GAINS["exploding"], "residual": 0.0}
    diverged = part(ds, "cure")["diverged_at"].sel(where).notnull().mean("learning_rate")
    shares, errors = mean_and_error(diverged)
    clipped, free = (float(shares.sel(clip_norm=each)) for each in (1.0, np.inf))
    of_clipped, of_free = (float(errors.sel(clip_norm=each)) for each in (1.0, np.inf))
    ratio = clipped / free if free else np.nan
    error = float(np.hypot(of_clipped, ratio * of_free)) / free if free else np.nan
    return at_most(ratio, 1.0 / 3.0, error)


CLAIMS = (
    Claim(
        "Trend: the right weight scale cures plain tanh networks (accuracy over a wrong scale)",
        "Glorot & Bengio 2010; ours",
        _right_weights,
    ),
    Claim(
        "Trend: residual connections cure vanishing gradients of ReLU networks (accuracy gained)",
        "Yang & Schoenholz 2017; ours",
        _residual_vanishing,
    ),
    Claim(
        "Trend: clipping does not cure vanishing gradients (accuracy gained)",
        "Pascanu et al. 2013, 1211.5063; ours",
        _clipping_vanishing,
    ),
    Claim(
        "Trend: clipping stops exploding ReLU runs from diverging (diverged share, with / without)",
        "Pascanu et al. 2013, 1211.5063; ours",
        _clipping_exploding,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the three regimes over depth, the schemes' growth, and what cures training."""
    fig, axes = figures.new_figure(2, 2, size=(14, 10))
    profile = part(ds, "profile")
    _draw_regimes(axes[0, 0], profile, "preact_grad_rms", "Backward signal")
    _draw_regimes(axes[0, 1], profile, "act_var", "Activations")
    _draw_schemes(axes[1, 0], profile)
    _draw_cures(axes[1, 1], ds)
    return fig


def _profile(ds: xr.Dataset, name: str, **where) -> xr.DataArray:
    """Return a profile's typical value, the geometric mean over seeds."""
    found = ds[name].sel(where)
    return np.exp(np.log(found).mean("seed")).assign_attrs(ds[name].attrs)


def _draw_regimes(ax, ds: xr.Dataset, name: str, title: str) -> None:
    typical = _profile(ds, name, activation="relu", scheme="he", residual=0.0)
    middle = ds.sizes["gain"] // 2
    chosen = typical.isel(gain=[0, middle, -1]).assign_attrs(typical.attrs)
    chosen["gain"].attrs = {"long_name": "gain of He weights"}
    figures.profiles(ax, chosen, x="layer", hue="gain")
    last = ds.sizes["layer"]
    for line, regime in zip(ax.get_lines(), GAINS, strict=True):
        end = 0 if name == "preact_grad_rms" else -1  # where the signal arrives
        at = (line.get_xdata()[end], line.get_ydata()[end])
        start = {"xy": at, "xytext": (1 + 0.12 * last if end == 0 else 0.62 * last, at[1])}
        arrow = {"arrowstyle": "->", "color": line.get_color(), "linewidth": 2}
        ax.annotate(
            regime, va="bottom", **start, color=line.get_color(), fontsize=13, arrowprops=arrow
        )
    ax.set(title=f"{title} of plain ReLU networks, {last} layers")


def _draw_schemes(ax, ds: xr.Dataset) -> None:
    nearest = float(ds["gain"].isel(gain=ds.sizes["gain"] // 2))
    typical = _profile(ds, "preact_grad_rms", gain=nearest)
    blocks = typical.sizes["layer"] - 1
    ratio = typical.isel(layer=0) / typical.isel(layer=-1)
    growth = (np.log10(ratio) / blocks).stack(network=("activation", "residual"))
    names = [f"{a}{', residual' if r else ''}" for a, r in growth["network"].values]
    growth = growth.drop_vars(["network", "activation", "residual"])
    growth = growth.assign_coords(network=names).rename(scheme="weights")
    growth.attrs = {
        "long_name": "growth of the gradient towards the input",
        "units": "decades/layer",
    }
    limit = float(np.abs(growth).max())
    figures.heatmap(ax, growth, x="weights", y="network", vmin=-limit, vmax=limit, cmap="RdBu_r")
    figures.write_cells(ax, np.vectorize("{:+.2f}".format)(growth.transpose("network", "weights")))
    ax.set(title="Vanishing (blue), normal (white), exploding (red)")


def _draw_cures(ax, ds: xr.Dataset) -> None:
    accuracy = cured(ds).mean("seed")
    accuracy.attrs = {"long_name": "training accuracy", "units": "1"}
    figures.heatmap(ax, accuracy, x="cure", y="regime", vmin=0.0, vmax=1.0)
    figures.write_cells(ax, np.vectorize("{:.2f}".format)(accuracy.transpose("regime", "cure")))
    ax.set(title="What cures ReLU training, real MNIST")
