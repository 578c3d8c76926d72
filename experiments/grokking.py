"""Grokking: a network memorises its training set first, and generalises long after.

Power et al. 2022 (2201.02177): modular arithmetic; Gromov 2023 (2301.02679): networks of squares,
with a solution in closed form; Liu et al. 2022 (2210.01117): a large initialisation makes images
grok too (real digits).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn import report
from jaxnn.report import Claim, Measurement, figures, part
from jaxnn.theory import memorisation

PROBES = jn.probes
REACHED = 0.95  # accuracy from which a network has memorised, or generalised
REFERENCE = {"fraction": 0.6, "decay": 1.0, "gain": 1.0}
SOLVED = 0.05  # validation loss at which a training ends; a network that answers 0 has 0.5
SOLVES = jn.stopping.Stopping(
    lambda _, validation_loss: validation_loss < SOLVED,
    lambda state, _, validation_loss: (state, validation_loss < SOLVED),
)
SQUARE = jn.Activation("square", lambda z: z**2, lambda z: 2.0 * z)


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes; pairs past the largest fraction are for validation."""

    modulus: int = 23
    width: int = 128
    fractions: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7)
    decays: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0)
    gains: tuple[float, ...] = (1.0, 2.0, 4.0)
    learning_rate: float = 0.005
    num_steps: int = 1500
    num_seeds: int = 4
    digits_size: int = 200
    digits_decays: tuple[float, ...] = (0.0, 0.2)
    digits_steps: int = 2400


SCALES = {
    "quick": Config(
        fractions=(0.4, 0.6),
        decays=(0.0, 1.0),
        gains=(1.0, 4.0),
        width=96,
        learning_rate=0.01,
        num_steps=600,
        num_seeds=2,
        digits_decays=(0.0, 0.3),
        digits_steps=600,
    ),
    "default": Config(),
    "paper": Config(
        modulus=97,
        width=512,
        fractions=(0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8),
        num_steps=50_000,
        num_seeds=16,
        digits_size=1000,
        digits_steps=100_000,
    ),
}


@PROBES.probe(long_name="power of each unit's strongest frequency, share of all")
def fourier_share(flow: PROBES.Flow) -> jax.Array:
    """Measure how periodic the weights into units are, for each of the two numbers apart."""
    kernel = flow.params["first"]["kernel"]  # [two one-hot numbers, unit]
    numbers = kernel.reshape(2, kernel.shape[0] // 2, -1)
    power = jnp.abs(jnp.fft.rfft(numbers, axis=1)[:, 1:]) ** 2  # no constants
    return power.max(axis=1).sum() / power.sum()


def random_share(modulus: int, num_units: int = 1) -> tuple[float, float]:
    """Return the mean and standard deviation of `fourier_share` over Gaussian weights, exact.

    Powers at the K = (p - 1) / 2 frequencies are independent and exponential, so the largest has
    H_K times their mean; its share is independent of the unit's power, by which shares are weighed.
    """
    num = (modulus - 1) // 2
    inverse = 1.0 / np.arange(1, num + 1)
    mean = inverse.sum() / num
    second = (inverse.sum() ** 2 + (inverse**2).sum()) / (num * (num + 1))
    variance = (second - mean**2) * (num + 1) / num / (2 * num_units)
    return float(mean), float(variance**0.5)


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train on modular sums and on digits; evaluate the closed form."""
    images = jn.data.digits(validation=0.4)
    few = jn.Batch(*(leaf[: config.digits_size] for leaf in images.train[:2]))
    images = images._replace(train=few)

    def train(key, model, task, decay, num_steps, probes, stop=None):
        return jn.training(
            model,
            jn.squared_error,
            jn.optimizer("adamw", config.learning_rate, weight_decay=decay, b2=0.98),
            task,
            key=key,
            num_steps=num_steps,
            record_every=num_steps // 100,
            sampling="full",
            probes=[PROBES.accuracy, *probes],
            validation_probes=[PROBES.accuracy],
            probe_size=max(len(task.train.x), len(task.validation.x)),
            stop=stop,
        )

    def sums(key, *, fraction, decay, gain):
        modulus, split_key = config.modulus, jax.random.fold_in(key, 1)
        largest = max(config.fractions)
        task = jn.data.modular_arithmetic(split_key, modulus, "add", train_fraction=largest)
        held_out = jax.tree.map(lambda *two: jnp.concatenate(two), task.validation, task.test)
        num_train = jnp.round(fraction * modulus**2).astype(jnp.int32)
        task = jn.data.with_train_size(task._replace(validation=held_out), num_train)
        model = jn.mlp(1, config.width, modulus, SQUARE, weights=jn.gaussian(gain))
        return train(key, model, task, decay, config.num_steps, [fourier_share], SOLVES)

    def digits(key, *, decay, gain):
        model = jn.mlp(1, config.width, 10, "relu", weights=jn.he(gain))
        return train(key, model, images, decay, config.digits_steps, [])

    axes = {
        sums: {"fraction": config.fractions, "decay": config.decays, "gain": config.gains},
        digits: {"decay": config.digits_decays, "gain": config.gains},
        form: {},
    }
    parts = {}
    for place, (study, varied) in enumerate(axes.items()):
        values = {axis: list(each) for axis, each in varied.items()}
        where = {"seed": seed + place, "store": store / study.__name__}
        parts[study.__name__] = jn.sweep(study, **values, num_seeds=config.num_seeds, **where)
    sizes = {"modulus": config.modulus, "width": config.width, "num_digits": config.digits_size}
    return report.gather(parts, **sizes)


def form(key: jax.Array, modulus: int = 97, num_units: int = 256) -> dict[str, jax.Array]:
    """Return the share of all sums that the closed form gets right, as `accuracy`."""
    first, readout = memorisation.modular_addition(key, modulus, num_units)
    logits = (first[:modulus, None] + first[None, modulus:]) ** 2 @ readout
    numbers = jnp.arange(modulus)
    right = logits.argmax(axis=-1) == (numbers[:, None] + numbers[None]) % modulus
    return {"accuracy": right.mean()}


def generalised(curves: xr.Dataset) -> xr.DataArray:
    """Return the first step recorded at which held-out accuracy is REACHED, inf for never."""
    return report.first_where(curves["validation_accuracy"] >= REACHED)


def memorised(curves: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the same of training accuracy, and the held-out accuracy at that step."""
    steps = report.first_where(curves["accuracy"] >= REACHED)
    return steps, curves["validation_accuracy"].where(curves["step"] == steps).max("step")


def _median(select: Callable, low: float, high: float, **where) -> Callable:
    """Make a check of the median of a number, with the error over medians of each seed alone."""

    def check(ds: xr.Dataset) -> Measurement:
        values = select(ds, **where)
        by_seed = values.median([dim for dim in values.dims if dim != "seed"])
        error = float(report.mean_and_error(by_seed)[1])
        return report.between(float(values.median()), low, high, error)

    return check


def _later(ds: xr.Dataset) -> xr.DataArray:
    there = part(ds, "sums").sel(REFERENCE)
    ratio = generalised(there) / memorised(there)[0]
    return ratio.where(np.isfinite(ratio).all())


def _ratio(ds: xr.Dataset, axis: str, slow: int, fast: int) -> xr.DataArray:
    """Divide two arms' steps; never counts as the budget, pairs without any as nothing."""
    sums = part(ds, "sums")
    steps, budget = generalised(sums), float(sums["step"][-1])
    above, below = (steps.isel({axis: place}, drop=True) for place in (slow, fast))
    told = np.isfinite(above) | np.isfinite(below)
    return (np.minimum(above, budget) / np.minimum(below, budget)).where(told)


def _rise(ds: xr.Dataset, decay: int, gain: int) -> xr.DataArray:
    """Return how much digits' held-out accuracy gains after they are memorised."""
    there = part(ds, "digits").isel(decay=decay, gain=gain)
    return there["validation_accuracy"].isel(step=-1) - memorised(there)[1]


def _least(select: Callable, bound: float) -> Callable:
    return lambda ds: report.at_least(float(select(ds).min()), bound, expected=1.0)


def _last(ds: xr.Dataset) -> xr.DataArray:
    return part(ds, "sums")["validation_accuracy"].sel(REFERENCE).isel(step=-1)


def _random_share(ds: xr.Dataset) -> Measurement:
    first = part(ds, "sums")["fourier_share"].isel(step=0, fraction=0, decay=0, gain=0)
    expected, error = random_share(ds.attrs["modulus"], ds.attrs["width"] * first.size)
    return report.agrees(float(first.mean()), expected, error, rtol=0.05)


def _fourier(ds: xr.Dataset) -> Measurement:
    def ratio(last: xr.Dataset) -> xr.DataArray:
        share, solved = last["fourier_share"], last["validation_accuracy"] >= REACHED
        return share.where(solved).mean() / share.where(~solved).mean()

    value, error = report.jackknife(part(ds, "sums").isel(step=-1), ratio)
    return report.at_least(value, 1.5, error)


_MEMORISE = _least(lambda ds: ds["sums_accuracy"].max("sums_step"), REACHED)
_FIRST = _median(lambda ds: memorised(part(ds, "sums").sel(REFERENCE))[1], 0.0, 0.25)
_LATER = _median(_later, 3.0, np.inf)
_IN_THE_END = _least(_last, REACHED)
_FORM = _least(lambda ds: ds["form_accuracy"], 0.999)
_DECAY = _median(_ratio, 2.0, np.inf, axis="decay", slow=0, fast=-1)
_DATA = _median(_ratio, 2.0, np.inf, axis="fraction", slow=0, fast=-1)
_GAIN = _median(_ratio, 1.5, np.inf, axis="gain", slow=-1, fast=0)
_GROKS = _median(_rise, 0.2, 1.0, decay=-1, gain=-1)
_STANDARD = _median(_rise, -0.2, 0.2, decay=-1, gain=0)
_NO_DECAY = _median(_rise, -0.2, 0.2, decay=0, gain=-1)
SUMS, IMAGES = "Power et al. 2022; bound ours", "Liu et al. 2022; bound ours"
KUMAR = f"Kumar et al. 2023, 2310.06110; {IMAGES}"
OURS = "exponential order statistics, K = (p - 1) / 2; ours"
GROMOV, NANDA = "Gromov 2023", "Gromov 2023; Nanda et al. 2023, 2301.05217; bound ours"
STATEMENTS = (
    ("Sums: every network memorises its training set (least accuracy)", SUMS, _MEMORISE),
    ("Sums: at memorisation few held-out sums are right (accuracy; reference)", SUMS, _FIRST),
    ("Trend: it generalises in at least 3 times the steps to memorise (reference)", SUMS, _LATER),
    ("Sums: in the end all is right (held-out accuracy, least; reference)", SUMS, _IN_THE_END),
    ("Trend: without weight decay it takes at least twice the steps of the most", SUMS, _DECAY),
    ("Trend: with the least data it takes at least twice the steps of the most", SUMS, _DATA),
    ("Trend: from the largest initial weights it takes at least 1.5 times", KUMAR, _GAIN),
    ("At random a unit's strongest of K frequencies has H_K / K of its power", OURS, _random_share),
    ("Trend: it has at least 1.5 times the share in networks that generalised", NANDA, _fourier),
    ("The closed form with 256 units is right on all sums modulo 97 (accuracy)", GROMOV, _FORM),
    ("Digits grok from large weights: accuracy +0.2 after memorisation", IMAGES, _GROKS),
    ("Digits, control: from standard weights it rises by at most 0.2", IMAGES, _STANDARD),
    ("Digits, control: from large ones without decay by at most 0.2", IMAGES, _NO_DECAY),
)
SPLITS = {"accuracy": "training examples", "validation_accuracy": "held-out examples"}
CLAIMS = tuple(Claim(*each) for each in STATEMENTS)
NAMES = {"fraction": "share of pairs to train on", "decay": "weight decay", "gain": "initial gain"}


def figure(ds: xr.Dataset):
    """Draw both curves with the frequencies, digits, and two phase diagrams."""
    fig, axes = figures.new_figure(2, 2, size=(13.5, 10))
    sums, digits = part(ds, "sums"), part(ds, "digits").isel(decay=-1)
    share = {"fourier_share": "strongest frequency, share"}
    _draw_curves(axes[0, 0], sums.sel(REFERENCE), {**SPLITS, **share})
    expected, _ = random_share(ds.attrs["modulus"])
    axes[0, 0].axhline(expected, color="black", linestyle="--", label="the same at random, exact")
    setting = ", ".join(f"{name} {value:g}" for name, value in REFERENCE.items())
    axes[0, 0].set(title=f"Sums mod {ds.attrs['modulus']}: {setting}", ylabel="accuracy; share")
    for place, line in ((0, ":"), (-1, "-")):
        shown = digits.isel(gain=place)
        lines = {name: f"{split}, gain {float(shown['gain']):g}" for name, split in SPLITS.items()}
        _draw_curves(axes[0, 1], shown, lines, line)
    title = f"{ds.attrs['num_digits']} real digits, weight decay {float(digits['decay']):g}"
    axes[0, 1].set(title=title, ylabel="accuracy")
    for ax in axes[0]:
        ax.legend(fontsize=9.5, frameon=False, ncols=2, loc="upper left")
    _draw_phases(axes[1, 0], sums, "fraction", "decay")
    _draw_phases(axes[1, 1], sums, "gain", "decay")
    fig.suptitle(f"Memorised, then understood (median and range of {sums.sizes['seed']} seeds)")
    return fig


def _draw_curves(ax, curves: xr.Dataset, lines: dict[str, str], linestyle: str = "-") -> None:
    shown = curves.isel(step=slice(1, None))
    for (name, label), colour in zip(lines.items(), figures.PALETTE, strict=False):
        style = {"color": colour, "linestyle": linestyle, "label": label}
        figures.over_seeds(ax, shown[name], x="step", show="range", **style)
    ax.set(xscale="log", xlabel="training step", ylim=(0, 1.25), yticks=np.linspace(0, 1, 6))


def _draw_phases(ax, ds: xr.Dataset, x: str, y: str) -> None:
    """Draw the steps to generalise over two axes; the other one is at its reference."""
    ((other, value),) = ((name, at) for name, at in REFERENCE.items() if name not in (x, y))
    middle = generalised(ds).sel({other: value}, drop=True).median("seed")
    for name in (x, y):  # as text, evenly spaced
        values = (name, [f"{each:g}" for each in ds[name].values], {"long_name": NAMES[name]})
        middle = middle.assign_coords({name: values})
    colours = {"cmap": "viridis_r", "vmin": 50.0, "vmax": float(ds["step"][-1])}
    figures.heatmap(ax, middle, x=x, y=y, log_color=True, label="steps", **colours)
    ax.set_title(f"Steps to generalise ({other} {value:g}; grey: never)")
