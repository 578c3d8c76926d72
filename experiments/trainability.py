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
from jaxnn.report import (
    Claim,
    Measurement,
    agrees,
    at_least,
    at_most,
    between,
    exact,
    figures,
    gather,
    jackknife,
    mean_and_error,
    part,
)
from jaxnn.theory import mean_field

PROBES = jn.probes
TRAINED = 0.5  # accuracy from which a network counts as trained
KAPPA = (3.0, 8.0)  # L*/xi_c that the claim allows
GROWTH_TOLERANCE = 0.02  # relative, at widths of 500 and more


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
        depths=(8, 20, 32, 48),
        weight_variances=(1.0, 4.0, 7),
        num_seeds=1,
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
            record_every=config.num_steps,
            batch_size=config.batch_size,
            probes=[PROBES.accuracy, PROBES.loss, PROBES.grad_rms, PROBES.preact_grad_rms],
            validation_probes=[PROBES.accuracy],
        )

    def initial(key, *, weight_variance, width):
        model = network(config.growth_depth, width, weight_variance)
        batch = jax.tree.map(lambda leaf: leaf[:32], mnist.train)
        probes = [PROBES.preact_grad_rms]
        return PROBES.measure_init(probes, model, jn.cross_entropy, key, batch)

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
    return gather(
        {"trained": trained, "growth": growth},
        bias_variance=config.bias_variance,
        num_steps=config.num_steps,
        width=config.width,
    )


@jax.jit
def _theory(weight_variance: jax.Array, bias_variance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return chi_1 and xi_c of tanh."""
    tanh, sigmas = jn.activations.tanh, (jnp.sqrt(weight_variance), jnp.sqrt(bias_variance))
    return mean_field.chi_1(tanh, *sigmas), mean_field.depth_scale_correlation(tanh, *sigmas)


@jax.jit
def _critical_weight_variance(bias_variance: jax.Array) -> jax.Array:
    return mean_field.critical_sigma_w(jn.activations.tanh, jnp.sqrt(bias_variance)) ** 2


def theory(ds: xr.Dataset, weight_variances: np.ndarray) -> xr.Dataset:
    """Return chi_1 and xi_c at weight variances."""
    found = [_theory(float(each), ds.attrs["bias_variance"]) for each in weight_variances]
    chi_1, xi_c = np.asarray(found).T
    dims = ("weight_variance",)
    return xr.Dataset({"chi_1": (dims, chi_1), "xi_c": (dims, xi_c)}, {dims[0]: weight_variances})


def critical_weight_variance(ds: xr.Dataset) -> float:
    """Return the theory's critical sigma_w^2."""
    return float(_critical_weight_variance(ds.attrs["bias_variance"]))


def best_accuracy(trained: xr.Dataset) -> xr.DataArray:
    """Return the final accuracy at each network's best learning rate, the mean over seeds."""
    accuracy = trained["accuracy"].isel(step=-1).mean("seed").max("learning_rate")
    return accuracy.assign_attrs(long_name="training accuracy", units="1")


def trainable_depth(trained: xr.Dataset) -> xr.DataArray:
    """Return L*, the depth where the best accuracy falls through TRAINED, interpolated."""
    accuracy = best_accuracy(trained)

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


def boundary(trained: xr.Dataset) -> xr.Dataset:
    """Return L*, xi_c and L*/xi_c; the ratio where the boundary may lie within the depths swept."""
    depths = trainable_depth(trained)
    xi_c = theory(trained, trained["weight_variance"].values)["xi_c"]
    low, high = KAPPA
    inside = (low * xi_c < trained["depth"].max()) & (high * xi_c > trained["depth"].min())
    ratio = (depths / xi_c).where(inside)
    return xr.Dataset({"trainable_depth": depths, "xi_c": xi_c, "ratio": ratio})


def _critical(_: xr.Dataset) -> Measurement:
    found = float(_critical_weight_variance(0.05))
    return exact(found, 1.7610, rtol=5e-5)  # published to four decimals


def _rank_correlation(ds: xr.Dataset) -> Measurement:
    def correlation(trained: xr.Dataset) -> float:
        found = boundary(trained)
        xi_c = np.minimum(found["xi_c"], trained["depth"].max() / KAPPA[0])  # not seen past it
        return float(scipy.stats.spearmanr(found["trainable_depth"], xi_c).statistic)

    value, error = jackknife(part(ds, "trained"), correlation)
    return at_least(value, 0.9, error)


def _kappa(ds: xr.Dataset) -> Measurement:
    trained = part(ds, "trained")
    value, error = jackknife(trained, lambda some: boundary(some)["ratio"].mean())
    return between(value, *KAPPA, error, expected="6 (paper), 3 to 8")


def _kappa_spread(ds: xr.Dataset) -> Measurement:
    ratio = boundary(part(ds, "trained"))["ratio"]
    return at_most(float(ratio.std(ddof=1) / ratio.mean()), 0.35)


def growth(ds: xr.Dataset) -> xr.DataArray:
    """Return the measured growth of the squared backward signal, for each layer that it crosses.

    It is the slope of ln E (dl/dz)^2 towards the input, over the layers past the first quarter,
    where the variance q still moves to its fixed point.
    """
    logs = np.log(part(ds, "growth")["preact_grad_rms"] ** 2)
    settled = logs.isel(layer=slice(logs.sizes["layer"] // 4, None))
    fitted = settled.polyfit("layer", 1)["polyfit_coefficients"].sel(degree=1, drop=True)
    return np.exp(-fitted)


def _growth_claim(position: int, regime: str) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        chi_1 = theory(ds, ds["growth_weight_variance"].values)["chi_1"]
        mean, error = mean_and_error(growth(ds).isel(width=-1, weight_variance=position))
        return agrees(float(mean), float(chi_1[position]), float(error), rtol=GROWTH_TOLERANCE)

    statement = f"At initialisation the squared gradient grows by chi_1 a layer ({regime} network)"
    return Claim(statement, "Schoenholz et al. 2017, eq. 17", check)


def _growth_converges(ds: xr.Dataset) -> Measurement:
    """Compare the mean error of the growth at the narrow and at the wide networks."""
    chi_1 = theory(ds, ds["growth_weight_variance"].values)["chi_1"].values
    measured = growth(ds).mean("seed").transpose("width", "weight_variance")
    narrow, wide = np.abs(measured.values / chi_1 - 1.0).mean(axis=1)
    return at_most(float(wide / narrow), 1.0)


CLAIMS = (
    Claim(
        "The critical sigma_w^2 of tanh at sigma_b^2 = 0.05 is 1.7610",
        "Schoenholz et al. 2017; theory module against the published value",
        _critical,
    ),
    _growth_claim(0, "ordered"),
    _growth_claim(-1, "chaotic"),
    Claim(
        "The growth's error against chi_1 is smaller at the larger width (ratio of errors)",
        "infinite-width limit; ours",
        _growth_converges,
    ),
    Claim(
        "The trainable depth L* ranks like the correlation depth scale xi_c (Spearman)",
        "Schoenholz et al. 2017, figure 5; L* at half accuracy, best learning rate",
        _rank_correlation,
    ),
    Claim(
        "L* = kappa xi_c with kappa in [3, 8] (it depends on training time: 6 in the paper)",
        "Schoenholz et al. 2017, section 5",
        _kappa,
    ),
    Claim(
        "kappa is one number over the map (coefficient of variation)",
        "Schoenholz et al. 2017, section 5; trend, ours",
        _kappa_spread,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the map of accuracy with the theory on it, and the gradients of three networks."""
    fig, (left, right) = figures.new_figure(1, 2, size=(13, 5.2))
    _draw_map(left, part(ds, "trained"))
    _draw_gradients(right, part(ds, "trained"))
    return fig


def _draw_map(ax, ds: xr.Dataset) -> None:
    accuracy = best_accuracy(ds).rename(weight_variance="sigma_w2")
    accuracy["sigma_w2"].attrs = {"long_name": r"weight variance $\sigma_w^2$"}
    accuracy["depth"].attrs = {"long_name": "depth", "units": "hidden layers"}
    figures.heatmap(ax, accuracy, x="sigma_w2", y="depth", vmin=0.0, vmax=1.0)
    low, high = ax.get_ylim()
    fine = np.linspace(*ax.get_xlim(), 301)
    xi_c = theory(ds, fine)["xi_c"]
    critical = critical_weight_variance(ds)
    kappa = float(boundary(ds)["ratio"].mean())
    ax.plot(fine, 6.0 * xi_c, "w-", linewidth=2.5, label=r"$6\,\xi_c$ (paper)")
    ax.plot(fine, kappa * xi_c, "w:", linewidth=2.5, label=rf"${kappa:.1f}\,\xi_c$ (fitted here)")
    ax.axvline(critical, color="#D55E00", linestyle="--", linewidth=2.5, label="critical line")
    ax.set(ylim=(low, high), title=f"Accuracy after {ds.attrs['num_steps']} steps, real MNIST")
    legend = ax.legend(loc="upper right", fontsize=11, facecolor="0.35", framealpha=0.9)
    for text in legend.get_texts():
        text.set_color("white")


def _draw_gradients(ax, ds: xr.Dataset) -> None:
    deepest = ds["preact_grad_rms"].isel(step=0, depth=-1, learning_rate=0)
    typical = np.exp(np.log(deepest).mean("seed")).assign_attrs(deepest.attrs)
    ends = ds["weight_variance"].values[[0, -1]]
    wanted = {"ordered": ends[0], "critical": critical_weight_variance(ds), "chaotic": ends[1]}
    lines = []
    for regime, variance in wanted.items():
        line = typical.sel(weight_variance=variance, method="nearest")
        name = rf"{regime}, $\sigma_w^2$ = {float(line['weight_variance']):.2f}"
        lines.append(line.drop_vars("weight_variance").expand_dims(network=[name]))
    shown = xr.concat(lines, "network").assign_attrs(deepest.attrs)
    figures.profiles(ax, shown, hue="network")
    depth = int(ds["depth"][-1])
    ax.set(title=f"Gradients at initialisation, {depth} layers, width {ds.attrs['width']}")
