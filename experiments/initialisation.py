"""Initialisation: how signals and gradients grow a layer at random weights, against exact laws.

Glorot & Bengio 2010 (linear layers); He et al. 2015, 1502.01852 (ReLU); Hanin 2018, 1801.03744
(finite width); Yang & Schoenholz 2017, 1712.08969 (residual networks). Real MNIST, no training.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn.report import Claim, Measurement, agrees, between, figures, gather, jackknife, part
from jaxnn.theory import finite_width, mean_field

PROBES = jn.probes
STANDARD, NORMALISED = 1.0 / 3.0, 1.0  # fan-in times the weights' variance


@dataclass(frozen=True)
class Config:
    """Sizes of the networks, and how many are drawn."""

    width: int = 512
    relu_depth: int = 22
    residual_depth: int = 64
    num_seeds: int = 32
    hanin_width: int = 50
    hanin_depth: int = 10
    hanin_nets: int = 8000


SCALES = {
    "quick": Config(
        width=128, residual_depth=16, num_seeds=16, hanin_width=16, hanin_depth=4, hanin_nets=2000
    ),
    "default": Config(),
    "paper": Config(width=1000, num_seeds=64, hanin_nets=200_000),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Measure plain linear, tanh and ReLU networks, residual ones, and many narrow ones."""
    batch = jax.tree.map(lambda leaf: leaf[:32], jn.data.mnist5k().train)
    moment, backward = PROBES.preact_second_moment, PROBES.preact_grad_rms

    def linear(key, *, activation, fan_variance, input_scale):
        weights = jn.uniform((3.0 * fan_variance) ** 0.5)
        model = jn.mlp(6, config.width, 10, activation, weights=weights)
        scaled = batch._replace(x=batch.x * input_scale)
        return PROBES.measure_init([moment, backward], model, jn.cross_entropy, key, scaled)

    def relu(key, *, scheme):
        weights = jn.initialiser(scheme)
        model = jn.mlp(config.relu_depth, config.width, 10, "relu", weights=weights)
        return PROBES.measure_init([moment], model, jn.cross_entropy, key, batch)

    def residual(key, *, activation):
        weights = jn.he() if activation == "relu" else jn.gaussian(1.0)
        sizes = (config.residual_depth, config.width, 10)
        model = jn.mlp(*sizes, activation, weights=weights, residual=True)
        found = PROBES.measure_init([moment, backward], model, jn.cross_entropy, key, batch)
        pixels = jn.Labelled(jnp.mean(batch.x**2, axis=1), ("input",), "1", "mean squared pixel")
        return {**found, "input_moment": pixels}

    def hanin(key):
        key_x, key_w = jax.random.split(key)
        x = jax.random.normal(key_x, (1, config.hanin_width))
        model = jn.mlp(config.hanin_depth, config.hanin_width, 1, "relu", weights=jn.he())
        _, taps, _ = model.apply(model.init(key_w, x), x)
        return {"log_ratio": jnp.log(jnp.mean(taps.post[-1] ** 2) / jnp.mean(x**2))}

    axes = {
        "activation": ["identity", "tanh"],
        "fan_variance": [STANDARD, NORMALISED],
        "input_scale": [0.1, 1.0],
    }
    shared = {"num_seeds": config.num_seeds, "seed": seed}
    nets = {"num_seeds": config.hanin_nets, "seed": seed}
    parts = {
        "linear": jn.sweep(linear, **axes, **shared, store=store / "linear"),
        "relu": jn.sweep(relu, scheme=["glorot", "he"], **shared, store=store / "relu"),
        "residual": jn.sweep(
            residual, activation=["tanh", "relu"], **shared, store=store / "residual"
        ),
        "hanin": jn.sweep(hanin, **nets, store=store / "hanin"),
    }
    return gather(parts, hanin_width=config.hanin_width, hanin_depth=config.hanin_depth)


def slope(squares: xr.DataArray) -> float:
    """Return the slope over layers of the logarithm of the mean over seeds.

    The mean is taken first: theory's factor a layer is exact for it at every width.
    """
    logs = np.log(squares.mean("seed"))
    return float(logs.polyfit("layer", 1)["polyfit_coefficients"].sel(degree=1))


def linear_slope(ds: xr.Dataset, way: str = "forward", **where: object) -> tuple[float, float]:
    """Return the slope in the direction that the signal flows, and its standard error."""
    cell = part(ds, "linear").sel(where)
    if way == "forward":
        return jackknife(cell["preact_second_moment"], slope)
    return jackknife(cell["preact_grad_rms"] ** 2, lambda squares: -slope(squares))


def _standard_law(way: str, signal: str) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        where = {"activation": "identity", "fan_variance": STANDARD, "input_scale": 1.0}
        found, error = linear_slope(ds, way, **where)
        return agrees(found, -np.log(3.0), error, rtol=0.03)

    statement = f"Standard init of a linear network: {signal} variance falls by ln 3 a layer"
    return Claim(statement, "Glorot & Bengio 2010, eq. 5-8 (n Var W = 1/3)", check)


def _tanh_law(ds: xr.Dataset) -> Measurement:
    where = {"activation": "tanh", "fan_variance": STANDARD, "input_scale": 0.1}
    found, error = linear_slope(ds, **where)
    law = -np.log(3.0)
    return between(found, 1.15 * law, 0.85 * law, error, expected=law)


def _normalised_law(ds: xr.Dataset) -> Measurement:
    where = {"activation": "identity", "fan_variance": NORMALISED, "input_scale": 1.0}
    found, error = linear_slope(ds, **where)
    return between(found, -0.1, 0.1, error, expected=0.0)


def _relu_factor(scheme: str, factor: float) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        moments = part(ds, "relu")["preact_second_moment"].sel(scheme=scheme)
        found, error = jackknife(moments, lambda some: np.exp(slope(some)))
        return agrees(found, factor, error, rtol=0.05)

    statement = f"{scheme.title()} weights change the second moment of ReLU layers by {factor:g}"
    return Claim(statement, "He et al. 2015, eq. 10, 1502.01852: g/2, g = n Var W", check)


def log_ratios(ds: xr.Dataset) -> tuple[np.ndarray, float, float]:
    """Return ln r of each network that is not all dead, and the law's mean and variance."""
    values, depth = ds["hanin_log_ratio"].values, ds.attrs["hanin_depth"]
    mean, variance = finite_width.relu_log_moments(ds.attrs["hanin_width"])
    return values[np.isfinite(values)], depth * float(mean), depth * float(variance)


def _hanin_mean(ds: xr.Dataset) -> Measurement:
    values, mean, variance = log_ratios(ds)
    return agrees(values.mean(), mean, (variance / values.size) ** 0.5, rtol=0.15)


def _hanin_variance(ds: xr.Dataset) -> Measurement:
    values, _, variance = log_ratios(ds)
    spread = (values - values.mean()) ** 2
    return agrees(spread.mean(), variance, spread.std() / values.size**0.5, rtol=0.05)


def _residual_tanh(ds: xr.Dataset) -> Measurement:
    """Compare ln of the squared gradient's growth with the mean-field recursion's."""
    tanh = part(ds, "residual").sel(activation="tanh")
    squares = tanh["preact_grad_rms"] ** 2
    ratio = squares.isel(layer=0) / squares.isel(layer=-1)
    found, error = jackknife(ratio, lambda some: np.log(some.mean()))
    starts = jnp.asarray(tanh["input_moment"].isel(seed=0).values)
    growth = residual_growth(starts, squares.sizes["layer"])[:, -1].mean()
    return agrees(found, float(jnp.log(growth)), error, rtol=0.05)


def residual_growth(starts: jax.Array, depth: int) -> jax.Array:
    """Return the running product of chi over a residual tanh network, `[input, depth - 1]`."""
    tanh = jn.activations.tanh

    def block(q: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        chi = mean_field.residual_chi(tanh, q, 1.0)
        return mean_field.residual_variance_map(tanh, q, 1.0, 0.0), chi

    def products(q: jax.Array) -> jax.Array:
        return jnp.cumprod(jax.lax.scan(block, q, length=depth - 1)[1])

    return jax.jit(jax.vmap(products))(starts)


def _residual_relu(ds: xr.Dataset) -> Measurement:
    """Compare the mean second moment's growth a block with 2, exact at every width."""
    moments = part(ds, "residual")["preact_second_moment"].sel(activation="relu").astype(float)
    ratio, blocks = moments.isel(layer=-1) / moments.isel(layer=0), moments.sizes["layer"] - 1
    found, error = jackknife(ratio, lambda some: some.mean() ** (1.0 / blocks))
    return agrees(found, 2.0, error, rtol=0.05)


YANG = "Yang & Schoenholz 2017, 1712.08969"
HANIN = "Hanin 2018, 1801.03744; digamma form ours"
CLAIMS = (
    _standard_law("forward", "activation"),
    _standard_law("backward", "back-propagated gradient"),
    Claim(
        "Standard init of a tanh network at small inputs: within 15% of -ln 3 a layer",
        "Glorot & Bengio 2010, section 4.2",
        _tanh_law,
    ),
    Claim(
        "Normalised init keeps the activation variance of a linear network (slope of ln)",
        "Glorot & Bengio 2010, eq. 16",
        _normalised_law,
    ),
    _relu_factor("glorot", 0.5),
    _relu_factor("he", 1.0),
    Claim("Mean of ln(norm ratio) of He ReLU networks, exact law", HANIN, _hanin_mean),
    Claim("Variance of ln(norm ratio) of He ReLU networks, exact law", HANIN, _hanin_variance),
    Claim("Residual tanh: ln growth of the squared gradient, by recursion", YANG, _residual_tanh),
    Claim("Residual ReLU, He weights: the second moment doubles a block", YANG, _residual_relu),
)


def figure(ds: xr.Dataset):
    """Draw each law over what was measured."""
    fig, axes = figures.new_figure(2, 2, size=(13, 9.5))
    seeds = ds.sizes["relu_seed"]
    _draw_linear(axes[0, 0], part(ds, "linear"), seeds)
    _draw_relu(axes[0, 1], part(ds, "relu"), seeds)
    _draw_residual(axes[1, 0], part(ds, "residual"), seeds)
    _draw_hanin(axes[1, 1], ds)
    return fig


def _draw_law(ax, squares: xr.DataArray, law: np.ndarray, colour: str, label: str) -> None:
    """Draw the mean over seeds as dots and the law as a line."""
    layers = squares["layer"].values
    ax.plot(layers, squares.mean("seed"), "o", color=colour, markersize=5, label=label)
    ax.plot(layers, law, color=colour, linewidth=2)
    ax.set(yscale="log", xlabel="hidden layer")


def _draw_linear(ax, ds: xr.Dataset, seeds: int) -> None:
    cells = ds["preact_second_moment"].sel(activation="identity", input_scale=1.0)
    for colour, fan, name in zip(
        figures.PALETTE, (STANDARD, NORMALISED), ("standard", "normalised"), strict=False
    ):
        squares = cells.sel(fan_variance=fan)
        law = float(squares.isel(layer=0).mean()) * fan ** np.arange(squares.sizes["layer"])
        _draw_law(ax, squares, law, colour, f"{name}, n Var W = {fan:.2g}")
    ax.set(ylabel="mean squared pre-activation")
    ax.set_title(f"Linear layers multiply the variance by n Var W\n(dots: mean of {seeds} seeds)")
    ax.legend(frameon=False)


def _draw_relu(ax, ds: xr.Dataset, seeds: int) -> None:
    for colour, scheme, factor in zip(figures.PALETTE, ("glorot", "he"), (0.5, 1.0), strict=False):
        squares = ds["preact_second_moment"].sel(scheme=scheme)
        law = float(squares.isel(layer=0).mean()) * factor ** np.arange(squares.sizes["layer"])
        _draw_law(ax, squares, law, colour, f"{scheme.title()}: {factor:g} a layer")
    ax.set(ylabel="mean squared pre-activation")
    ax.set_title(f"ReLU layers by half of n Var W\n(dots: mean of {seeds} seeds)")
    ax.legend(frameon=False)


def _draw_residual(ax, ds: xr.Dataset, seeds: int) -> None:
    blue, orange = figures.PALETTE[:2]
    relu = ds["preact_second_moment"].sel(activation="relu")
    doubling = float(relu.isel(layer=0).mean()) * 2.0 ** np.arange(relu.sizes["layer"])
    _draw_law(ax, relu, doubling, blue, "ReLU, signal forward: 2 a block")
    squares = ds["preact_grad_rms"].sel(activation="tanh") ** 2
    squares = squares / squares.isel(layer=-1)
    starts = jnp.asarray(ds["input_moment"].isel(seed=0, activation=0).values)
    growth = np.asarray(residual_growth(starts, squares.sizes["layer"]).mean(0), float)
    law = growth[-1] / np.concatenate([[1.0], growth])
    _draw_law(ax, squares, law, orange, "tanh, gradient backward: recursion")
    ax.set(ylabel="mean square (tanh: over the last block's)")
    ax.set_title(f"Residual networks explode, in opposite ways\n(dots: mean of {seeds} seeds)")
    ax.legend(frameon=False)


def _draw_hanin(ax, ds: xr.Dataset) -> None:
    values, mean, variance = log_ratios(ds)
    ax.hist(values, bins=60, density=True, color=figures.PALETTE[0], alpha=0.5)
    along = np.linspace(values.min(), values.max(), 300)
    normal = np.exp(-((along - mean) ** 2) / (2 * variance)) / (2 * np.pi * variance) ** 0.5
    ax.plot(along, normal, color=figures.PALETTE[1], linewidth=2, label="normal, exact moments")
    ax.axvline(0.0, color="0.4", linestyle=":", label="infinite width")
    ax.set(xlabel="ln of the norm ratio, last layer over input", ylabel="density")
    width, depth = ds.attrs["hanin_width"], ds.attrs["hanin_depth"]
    ax.set_title(f"Finite width: {values.size} He networks,\nwidth {width}, depth {depth}")
    ax.legend(frameon=False, loc="upper left")
