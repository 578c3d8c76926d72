"""Activations: which trains how deep, why sigmoids stall, and why non-linearity is needed.

Glorot & Bengio 2010: in a deep sigmoid network of standard weights the top hidden layer is driven
to 0 while the loss stays at ln C. Without a non-linearity a deep network is one matrix: it obeys
superposition and cannot tell circles apart. Real digits, each activation at its own best learning
rate. How deep linear networks learn is in the study `linear_networks`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
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
    first_where,
    gather,
    mean_and_error,
    part,
)

PROBES = jn.probes
GAINS = {  # of LeCun weights: 2^1/2 for activations that halve the second moment, 4 to undo 1/4
    "sigmoid": 4.0,
    "tanh": 1.0,
    "softsign": 1.0,
    "relu": 2.0**0.5,
    "leaky_relu": 2.0**0.5,
    "gelu": 2.0**0.5,
    "identity": 1.0,
}
PLATEAU = 0.95  # of ln C: the loss from which a network has learnt nothing
DRIVEN = 0.2  # mean activation of a sigmoid layer that counts as driven to 0


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    activations: tuple[str, ...] = tuple(GAINS)
    depths: tuple[int, ...] = (2, 8, 16)
    width: int = 32
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    num_steps: int = 200
    num_seeds: int = 16
    circle_rates: tuple[float, ...] = (0.1, 0.3, 1.0)
    circle_steps: int = 500
    stall_steps: int = 1000
    stall_width: int = 64


SCALES = {
    "quick": Config(
        activations=("sigmoid", "tanh", "identity"),
        depths=(2, 12),
        learning_rates=(0.1, 0.3),
        num_steps=150,
        num_seeds=3,
        circle_rates=(0.3, 1.0),
        circle_steps=300,
        stall_steps=500,
    ),
    "default": Config(),
    "paper": Config(
        depths=(1, 2, 4, 8, 16, 32, 64),
        width=256,
        learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        num_steps=5000,
        stall_steps=20_000,
        stall_width=1000,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train every activation on digits over depth and on circles, and follow sigmoids and tanh."""
    digits, circles = jn.data.digits(), jn.data.circles(factor=0.5)
    gains = jnp.asarray([GAINS[name] for name in config.activations])

    def network(activation: jax.Array, depth: int | jn.Depth, width: int, classes: int) -> jn.Model:
        weights = jn.lecun(gains[activation])
        phi = chosen(activation, config.activations)
        return jn.mlp(depth, width, classes, phi, weights=weights)

    def fit(model, learning_rate, data, num_steps, **options):
        sgd = jn.optimizer("sgd", learning_rate)
        options = {"record_every": num_steps, **options}
        return jn.fit(model, jn.cross_entropy, sgd, data, num_steps=num_steps, **options)

    def deep(key, *, activation, depth, learning_rate):
        model = network(activation, depth, config.width, 10)
        options = {"batch_size": 32, "probes": [PROBES.accuracy, superposition_error]}
        return fit(model, learning_rate, digits, config.num_steps, key=key, **options)

    def circle(key, *, activation, learning_rate):
        model, probes = network(activation, 2, 16, 2), [PROBES.accuracy]
        return fit(model, learning_rate, circles, config.circle_steps, key=key, probes=probes)

    followed = ("sigmoid", "tanh")

    def stall(key, *, activation):  # from standard weights, U[-n^-1/2, n^-1/2]
        phi = chosen(activation, followed)
        model = jn.mlp(4, config.stall_width, 10, phi, weights=jn.uniform())
        options = {"record_every": 25, "batch_size": 16, "probes": [PROBES.act_mean, PROBES.loss]}
        return fit(model, 0.3, digits, config.stall_steps, key=key, **options)

    def swept(name: str, train: Callable, activations: Sequence[str], **axes: Any) -> xr.Dataset:
        number = jn.traced(range(len(activations)))
        shared = {"num_seeds": config.num_seeds, "seed": seed, "store": store / name}
        found = jn.sweep(train, activation=number, **axes, **shared)
        return found.assign_coords(activation=list(activations))

    circle_rates = list(config.circle_rates)
    axes = {"depth": jn.depths(config.depths), "learning_rate": list(config.learning_rates)}
    parts = {
        "deep": swept("deep", deep, config.activations, **axes),
        "circle": swept("circle", circle, config.activations, learning_rate=circle_rates),
        "stall": swept("stall", stall, followed),
    }
    return gather(parts, num_steps=config.num_steps)


def chosen(number: jax.Array, names: Sequence[str]) -> jn.Activation:
    """Return the activation of a number that is data: one program holds all of them."""
    each = [jn.activation(name) for name in names]

    def taken(functions: list[Callable]) -> Callable:
        return lambda z: jax.lax.select_n(number, *[function(z) for function in functions])

    slopes = taken([one.slope for one in each])
    return jn.Activation("chosen", taken([one.function for one in each]), slopes)


@PROBES.probe(long_name="error of superposition")
def superposition_error(flow: PROBES.Flow) -> jax.Array:
    """Return the rms of f(a) + f(b) - f(a + b) - f(0) over that of f(a) - f(0)."""
    a, b = flow.x, flow.x[::-1]
    inputs = jnp.concatenate([a, b, a + b, 0.0 * a])
    of_a, of_b, of_sum, of_zero = jnp.split(flow.network(flow.params, inputs), 4)
    error = of_a + of_b - of_sum - of_zero
    return jnp.sqrt(jnp.mean(error**2) / jnp.mean((of_a - of_zero) ** 2))


def best(ds: xr.Dataset) -> xr.DataArray:
    """Return the accuracy after training by seed, each cell at its best learning rate."""
    accuracy = ds["accuracy"].isel(step=-1)
    return accuracy.isel(learning_rate=accuracy.mean("seed").argmax("learning_rate"))


def _deep_sigmoid(ds: xr.Dataset) -> Measurement:
    deepest = best(part(ds, "deep")).isel(depth=-1)
    gained = deepest.sel(activation="tanh") - deepest.sel(activation="sigmoid")
    mean, error = mean_and_error(gained)
    return at_least(float(mean), 0.5, float(error))


def _linear_circles(ds: xr.Dataset) -> Measurement:
    mean, error = mean_and_error(best(part(ds, "circle")).sel(activation="identity"))
    return at_most(float(mean), 0.65, float(error))


def _other_circles(ds: xr.Dataset) -> Measurement:
    means, errors = mean_and_error(best(part(ds, "circle")).drop_sel(activation="identity"))
    worst = int(np.argmin(means.values))
    return at_least(float(means[worst]), 0.9, float(errors[worst]))


def superposition(ds: xr.Dataset) -> xr.DataArray:
    """Return the error of superposition of the shallowest trained networks, by activation."""
    found = part(ds, "deep")["superposition_error"]
    return found.isel(step=-1, depth=0, learning_rate=0).median("seed")


def _one_matrix(ds: xr.Dataset) -> Measurement:
    return at_most(float(superposition(ds).sel(activation="identity")), 1e-4, expected=0.0)


def _not_one_matrix(ds: xr.Dataset) -> Measurement:
    return at_least(float(superposition(ds).drop_sel(activation="identity").min()), 0.1)


def driven(ds: xr.Dataset) -> xr.Dataset:
    """Return the medians over seeds of the sigmoids when their top layer is first driven to 0."""
    stall = part(ds, "stall")[["act_mean", "loss"]]
    typical = stall.sel(activation="sigmoid").median("seed")
    step = float(first_where(typical["act_mean"].isel(layer=-1) < DRIVEN))
    if np.isinf(step):
        raise ValueError(f"the top layer's mean activation never fell below {DRIVEN}")
    return typical.sel(step=step)


def _on_plateau(ds: xr.Dataset) -> Measurement:
    return at_least(float(driven(ds)["loss"]) / np.log(10.0), PLATEAU)


def _lower_layers(ds: xr.Dataset) -> Measurement:
    lower = driven(ds)["act_mean"].isel(layer=slice(None, -1))
    farthest = lower.isel(layer=int(np.argmax(np.abs(lower.values - 0.5))))
    return between(float(farthest), 0.35, 0.65, expected=0.5)


def _tanh_layers(ds: xr.Dataset) -> Measurement:
    means = part(ds, "stall")["act_mean"].sel(activation="tanh").median("seed")
    return at_most(float(np.abs(means).max()), 0.3, expected=0.0)


CLAIMS = (
    Claim(
        "Trend: deep tanh networks train where sigmoid ones do not (accuracy gained, deepest)",
        "Glorot & Bengio 2010, section 3; gains ours",
        _deep_sigmoid,
    ),
    Claim(
        "Sigmoid: the loss is still at ln C when the top layer is driven below 0.2 (loss / ln C)",
        "Glorot & Bengio 2010, section 3.1; trend, median over seeds",
        _on_plateau,
    ),
    Claim(
        "Sigmoid: the layers below are not driven then (mean activation farthest from 0.5)",
        "Glorot & Bengio 2010, figure 2; trend, median over seeds",
        _lower_layers,
    ),
    Claim(
        "Tanh: no layer is driven to a side (largest mean activation at any step)",
        "Glorot & Bengio 2010, section 3.2; trend, median over seeds",
        _tanh_layers,
    ),
    Claim(
        "A deep linear network is one matrix: superposition holds (relative error, trained)",
        "Exact, in float32",
        _one_matrix,
    ),
    Claim("Control: no other activation obeys it (least relative error)", "Ours", _not_one_matrix),
    Claim("A linear network cannot tell circles apart (accuracy)", "Exact: 1/2", _linear_circles),
    Claim("Every other activation can (accuracy of the worst)", "Ours", _other_circles),
)


def figure(ds: xr.Dataset):
    """Draw accuracy over depth, the sigmoid's stall, and circles without a non-linearity."""
    fig, (left, middle, right) = figures.new_figure(1, 3, size=(17, 5.2))
    _draw_depths(left, part(ds, "deep"), ds.attrs["num_steps"])
    _draw_stall(middle, part(ds, "stall"))
    _draw_circles(right, best(part(ds, "circle")))
    return fig


def _draw_depths(ax, ds: xr.Dataset, num_steps: int) -> None:
    found = best(ds)
    places = np.arange(ds.sizes["depth"])
    for number, name in enumerate(ds["activation"].values):
        line = found.sel(activation=name).assign_coords(depth=places + 0.03 * (number - 3))  # aside
        style = {"color": figures.PALETTE[number], "label": name.replace("_", " ")}
        drawn = figures.over_seeds(ax, line, x="depth", bars=True, **style)
    ax.axhline(0.1, color="0.5", linestyle=":")
    ax.set(xticks=places, xticklabels=ds["depth"].values, ylim=(0.0, 1.05))
    ax.set(xlabel="depth [hidden layers]", ylabel="training accuracy")
    ax.set_title(f"Digits, {num_steps} steps, best rate:\n{drawn} (dotted: chance)")
    ax.legend(fontsize=10, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 0.08))


def _draw_stall(ax, ds: xr.Dataset) -> None:
    sigmoid = ds.sel(activation="sigmoid")
    for number, layer in enumerate(ds["layer"].values):
        style = {"color": figures.PALETTE[number], "label": f"layer {layer}"}
        means = sigmoid["act_mean"].sel(layer=layer)
        drawn = figures.over_seeds(ax, means, x="step", show="median", **style)
    loss = sigmoid["loss"] / np.log(10.0)
    style = {"color": "black", "linestyle": "--", "label": "loss / ln 10"}
    figures.over_seeds(ax, loss, x="step", show="median", **style)
    ax.set(ylim=(0.0, 1.25), xlabel="training step", ylabel="mean activation; loss over ln 10")
    ax.set_title(f"Sigmoid: the top layer is driven to 0\n({drawn})")
    ax.legend(fontsize=10, frameon=False, ncols=3, loc="upper center")


def _draw_circles(ax, accuracy: xr.DataArray) -> None:
    means, errors = mean_and_error(accuracy)
    names = [name.replace("_", " ") for name in accuracy["activation"].values]
    ax.barh(names, means, xerr=errors, color=figures.PALETTE[: len(names)], capsize=3)
    ax.axvline(0.5, color="0.5", linestyle=":")
    ax.invert_yaxis()
    ax.set(xlim=(0.0, 1.05), xlabel="training accuracy", ylabel="activation")
    count = accuracy.sizes["seed"]
    ax.set_title(
        f"Circle within a circle, best rate:\nmean ± s.e. of {count} seeds (dotted: chance)"
    )
