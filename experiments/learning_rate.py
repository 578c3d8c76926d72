"""Learning rate: too small, right, too large; where training diverges, and what moves that place.

Goodfellow et al. 2016, figure 11.1, for the curve; Smith 2017 (1506.01186) for the range test, one
training on a rising rate, against the truth of a sweep; LeCun et al. 1998 for the limit 2/lambda of
a quadratic, here least squares of digits; Kingma & Ba 2014 (1412.6980) for a rate that no longer
knows the loss's scale; Goyal et al. 2017 (1706.02677) for warm-up. Networks train on real MNIST,
and count as diverged if their last loss is above their first.
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
    at_least,
    at_most,
    between,
    exact,
    figures,
    first_where,
    gather,
    jackknife,
    mean_and_error,
    part,
)

SETTINGS = {"sgd": ("plain", "loss x 100", "warm-up", "cosine"), "adam": ("plain", "loss x 100")}
SCALE = 100.0  # of the loss, in one of the settings
CLOSE = 1e-3  # relative distance from 2/lambda at which a quadratic must tell the sides apart
CLIFF = 3.0  # factor between range test and sweep that the claim allows
SHOWN = 100.0  # nats, losses below which the figure shows

_divergence = jax.jit(jn.range_test.divergence)


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    width: int = 32
    log10_rates: tuple[float, float, int] = (-4.0, 1.0, 21)  # least, most, number
    num_seeds: int = 3
    num_steps: int = 300
    batch_size: int = 32
    sharpness_examples: int = 1000


SCALES = {
    "quick": Config(
        log10_rates=(-4.0, 0.75, 20), num_seeds=2, num_steps=140, sharpness_examples=500
    ),
    "default": Config(),
    "paper": Config(512, (-5.0, 2.0, 57), num_seeds=16, num_steps=5000, sharpness_examples=3500),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Sweep rates and settings of two rules; ramp the rate; descend a quadratic."""
    mnist, steps = jn.data.mnist5k(), config.num_steps
    model = jn.mlp(2, config.width, 10, "tanh")
    low, high, count = config.log10_rates

    def fit(key, rule, rate, scale=1.0, **records):
        return jn.fit(
            model,
            lambda outputs, targets: scale * jn.cross_entropy(outputs, targets),
            jn.optimizer(rule, rate),
            mnist,
            key=key,
            num_steps=steps,
            batch_size=config.batch_size,
            probes=[jn.probes.loss],
            **records,
        )

    def train(key, *, rule, setting, learning_rate):
        scale = jnp.where(setting == 1, SCALE, 1.0)
        final = jnp.where(setting == 3, 0.0, learning_rate)
        falling = jn.schedules.cosine(learning_rate, steps, final=final)
        rate = jn.schedules.warm_up(jnp.where(setting == 2, steps / 4, 0), falling)
        return fit(key, rule, rate, scale, record_every=steps, probe_size=512)

    def ramp(key):
        rate = jn.schedules.ramp(10.0**low, 10.0**high, steps)
        start = jax.tree.map(lambda leaf: leaf[: config.sharpness_examples], mnist.train)
        sharpness = jn.probes.hessian_extremes(30)
        found = jn.probes.measure_init([sharpness], model, jn.cross_entropy, key, start)
        return {**found, **fit(key, "sgd", rate, record_every=1, probe_size=128)}

    shared = {"num_seeds": config.num_seeds, "seed": seed}
    rates = {"learning_rate": 10.0 ** np.linspace(low, high, count)}
    parts = {}
    for rule, settings in SETTINGS.items():
        numbers = jn.traced(range(len(settings)))
        swept = jn.sweep(train, rule=[rule], setting=numbers, **rates, **shared, store=store / rule)
        parts[rule] = swept.isel(rule=0, drop=True).assign_coords(setting=list(settings))
    ramped = jn.sweep(ramp, **shared, store=store / "ramp")
    parts["ramp"] = ramped.assign(rate=10.0 ** (low + (high - low) * ramped["step"] / steps))
    parts["quadratic"] = least_squares((1.0 - CLOSE, 1.0 + CLOSE))
    return gather(parts, num_steps=steps)


def least_squares(ratios: tuple[float, ...]) -> xr.Dataset:
    """Return the gradient's growth in full descent on digits, at rates in ratio to 2/lambda_max."""
    train = jn.data.digits(standardize="feature").train
    x, target = np.asarray(train.x, float), np.asarray(train.y) == 0  # a class and the rest
    hessian, mean = x.T @ x / len(x), x.T @ target / len(x)
    rates = np.array(ratios) * 2.0 / np.linalg.eigvalsh(hessian)[-1]
    weights, slopes = np.zeros((len(mean), len(ratios))), []
    for step in range(3001):
        gradients = hessian @ weights - mean[:, None]
        if step in (1500, 3000):
            slopes.append(np.linalg.norm(gradients, axis=0))
        weights = weights - rates * gradients
    return xr.Dataset({"growth": ("ratio", slopes[1] / slopes[0])}, {"ratio": list(ratios)})


def last_loss(ds: xr.Dataset, rule: str = "sgd", setting: str = "plain") -> xr.DataArray:
    """Return the last loss by rate and seed, in nats; infinite where it is not a number."""
    found = part(ds, rule)["loss"].sel(setting=setting).isel(step=-1)
    return found.fillna(np.inf) / (SCALE if setting == "loss x 100" else 1.0)


def first_loss(ds: xr.Dataset) -> xr.DataArray:
    """Return the loss before training, by seed."""
    return part(ds, "sgd")["loss"].sel(setting="plain").isel(step=0, learning_rate=0)


def best_learning_rate(ds: xr.Dataset) -> float:
    """Return the rate with the lowest last loss of plain SGD, the mean over seeds."""
    return float(last_loss(ds).mean("seed").idxmin("learning_rate"))


def divergence(ds: xr.Dataset, setting: str = "plain") -> xr.DataArray:
    """Return the lowest rate at which SGD ends above its first loss, by seed; NaN for none."""
    found = first_where(last_loss(ds, setting=setting) > first_loss(ds), "learning_rate")
    return found.where(found < np.inf)


def cliff(ds: xr.Dataset) -> xr.DataArray:
    """Return the rate at which the range test's loss breaks away, by seed; NaN for none."""
    ramp, dims = part(ds, "ramp"), [["step"], ["step"]]
    return xr.apply_ufunc(
        _divergence, ramp["rate"], ramp["loss"], input_core_dims=dims, vectorize=True
    )


def typical(rates: xr.DataArray) -> tuple[float, float]:
    """Return the geometric mean over seeds and its standard error."""
    return jackknife(rates, lambda some: np.exp(np.log(some).mean(skipna=False)))


def _quadratic(ds: xr.Dataset) -> Measurement:
    found = part(ds, "quadratic")
    as_theory = (found["growth"] > 1.0) == (found["ratio"] > 1.0)
    return exact(float(as_theory.mean()), 1.0, rtol=0.0)


def _above_limit(ds: xr.Dataset) -> Measurement:
    ratios = divergence(ds) * part(ds, "ramp")["hessian_max"] / 2.0
    return at_least(float(ratios.min(skipna=False)), 1.0)


def _range_test(ds: xr.Dataset) -> Measurement:
    mean, error = typical(cliff(ds) / divergence(ds))
    return between(mean, 1.0 / CLIFF, CLIFF, error, expected=1.0)


def _regimes(ds: xr.Dataset) -> Measurement:
    mean, error = mean_and_error(np.log10(divergence(ds) / best_learning_rate(ds)))
    return between(round(float(mean), 4), 0.0, 1.5, float(error))  # float32 rates on a grid


def _too_small(ds: xr.Dataset) -> Measurement:
    fallen = (last_loss(ds) / first_loss(ds)).mean("seed")
    return at_least(float(fallen.isel(learning_rate=0) / fallen.min("learning_rate")), 4.0)


def _sgd_scale(ds: xr.Dataset) -> Measurement:
    """Compare trainings at a rate on 100 times the loss with those at 100 times the rate."""
    plain, scaled = last_loss(ds), last_loss(ds, setting="loss x 100")
    rates = plain["learning_rate"].values
    shift = int(np.abs(np.log(rates / rates[0] / SCALE)).argmin())
    stable = rates[shift:] < float(divergence(ds).min(skipna=False)) / 10.0
    plain, scaled = plain.isel(learning_rate=slice(shift, None)).values, scaled.values[:-shift]
    return exact(float(np.median((scaled / plain)[stable])), 1.0, rtol=1e-3)


def _adam_scale(ds: xr.Dataset) -> Measurement:
    ratio = last_loss(ds, "adam", "loss x 100") / last_loss(ds, "adam")
    return between(float(ratio.median()), 0.98, 1.02, expected=1.0)


def _warm_up(ds: xr.Dataset) -> Measurement:
    mean, error = typical(divergence(ds, "warm-up") / divergence(ds))
    return at_least(mean, 1.0, error)


def _cosine(ds: xr.Dataset) -> Measurement:
    losses = [last_loss(ds, setting=name).mean("seed").min() for name in ("cosine", "plain")]
    return at_most(float(losses[0] / losses[1]), 1.0)


CLAIMS = (
    Claim(
        f"Least squares of digits diverges exactly above 2/lambda_max, to {CLOSE:g} (share)",
        "LeCun et al. 1998, Efficient BackProp, section 5.2; exact",
        _quadratic,
    ),
    Claim(
        "Networks diverge only above 2/lambda_max at the start (rate over it, the least of seeds)",
        "Lewkowycz et al. 2020, 2003.02218: large rates catapult to flatter ground",
        _above_limit,
    ),
    Claim(
        "The range test's cliff is where the sweep diverges (ratio of rates)",
        "Smith 2017, 1506.01186, section 3.3; factor 3, ours",
        _range_test,
    ),
    Claim(
        "Trend: the best rate is at most 1.5 decades below divergence (decades)",
        "Goodfellow et al. 2016, section 11.4.1; ours",
        _regimes,
    ),
    Claim(
        "Trend: the smallest rate hardly trains (its last loss over the best rate's)",
        "Goodfellow et al. 2016, figure 11.1; ours",
        _too_small,
    ),
    Claim(
        "SGD on 100 times the loss trains as at 100 times the rate (median ratio of last losses)",
        "Chain rule; exact",
        _sgd_scale,
    ),
    Claim(
        "Adam does not see the loss's scale (median ratio of last losses, x 100 / x 1)",
        "Kingma & Ba 2014, 1412.6980, section 2.1",
        _adam_scale,
    ),
    Claim(
        "Trend: with warm-up SGD diverges at no lower rate than without (ratio of rates)",
        "Goyal et al. 2017, 1706.02677, section 2.2; ours",
        _warm_up,
    ),
    Claim(
        "Trend: falling along a cosine ends no higher than a constant rate (each at its best)",
        "Loshchilov & Hutter 2016, 1608.03983; ours",
        _cosine,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the regimes with the range test, the schedules, and the loss's scale."""
    fig, axes = figures.new_figure(1, 3, size=(18, 5.4))
    blue, orange, green, pink = figures.PALETTE[:4]
    regimes, schedules, scales = axes
    spread = _curve(regimes, last_loss(ds), color=blue, marker="o", label="sweep: last loss")
    ramp = part(ds, "ramp")
    risen = ramp["loss"].isel(seed=0).where(lambda loss: loss < SHOWN)
    regimes.plot(ramp["rate"], risen, color=orange, label="range test: one training, seed 0")
    limits = {"2/λ at the start": 2.0 / ramp["hessian_max"], "divergence": divergence(ds)}
    for (name, rates), line in zip(limits.items(), (":", "--"), strict=True):
        style = {"color": "black", "linestyle": line, "linewidth": 1.8}
        regimes.axvline(typical(rates)[0], **style, label=name)
    regimes.set_title(f"SGD, {ds.attrs['num_steps']} steps: too small, right, too large")
    names = {"plain": "constant", "warm-up": "warm-up", "cosine": "falling along a cosine"}
    for colour, (setting, name) in zip((blue, orange, green), names.items(), strict=True):
        _curve(schedules, last_loss(ds, setting=setting), color=colour, label=name)
    schedules.set_title("SGD's schedules")
    for colours, rule, name in (((blue, orange), "sgd", "SGD"), ((green, pink), "adam", "Adam")):
        for colour, setting, line in zip(colours, SETTINGS["adam"], ("-", "--"), strict=True):
            style = {"color": colour, "linestyle": line, "label": f"{name}, {setting}"}
            _curve(scales, last_loss(ds, rule, setting), **style)
    scales.set_title("The loss's scale moves SGD's rate, not Adam's")
    for ax, label in zip(
        axes, ("learning rate", "peak learning rate", "learning rate"), strict=True
    ):
        ax.set(xscale="log", yscale="log", ylim=(None, 4.0 * SHOWN))
        ax.set(xlabel=label, ylabel="training loss [nats]")
        ax.legend(fontsize=11, frameon=False, loc="upper left")
    fig.suptitle(f"Real MNIST; last losses: {spread}")
    return fig


def _curve(ax, losses: xr.DataArray, **style) -> str:
    """Draw the last losses that have not run away, and say what is drawn."""
    shown = losses.where(losses < SHOWN)
    return figures.over_seeds(ax, shown, x="learning_rate", show="range", **style)
