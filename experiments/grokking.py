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
from jaxnn.report import Claim, Measurement, agrees, at_least, at_most, between, exact, figures
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
    form_modulus: int = 97
    form_widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    digits_size: int = 200
    digits_decays: tuple[float, ...] = (0.0, 0.2)
    digits_gains: tuple[float, ...] = (1.0, 2.0, 4.0)
    digits_steps: int = 2400


SCALES = {
    "quick": Config(
        fractions=(0.4, 0.6),
        decays=(0.0, 1.0),
        gains=(1.0, 4.0),
        num_steps=1200,
        num_seeds=2,
        form_widths=(32, 256),
        digits_decays=(0.0, 0.3),
        digits_gains=(1.0, 4.0),
        digits_steps=1500,
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

    def form(key, *, width):
        accuracy = form_accuracy(key, config.form_modulus, max(config.form_widths), width)
        return {"accuracy": accuracy}

    parts = {
        "": jn.sweep(
            sums,
            fraction=list(config.fractions),
            decay=list(config.decays),
            gain=list(config.gains),
            num_seeds=config.num_seeds,
            seed=seed,
            store=store / "sums",
        ),
        "digits_": jn.sweep(
            digits,
            decay=list(config.digits_decays),
            gain=list(config.digits_gains),
            num_seeds=config.num_seeds,
            seed=seed + 1,
            store=store / "digits",
        ),
        "form_": jn.sweep(
            form,
            width=jn.traced(config.form_widths),
            num_seeds=config.num_seeds,
            seed=seed + 2,
            store=store / "form",
        ),
    }
    named = [
        ds.rename({each: f"{prefix}{each}" for each in {*ds.variables, *ds.dims}})
        for prefix, ds in parts.items()
    ]
    seconds = ("wall_seconds", "compile_seconds")
    return xr.merge(named, combine_attrs="drop_conflicts").assign_attrs(
        {name: sum(ds.attrs[name] for ds in parts.values()) for name in seconds},
        modulus=config.modulus,
        width=config.width,
        form_modulus=config.form_modulus,
        digits_size=config.digits_size,
    )


def form_accuracy(key: jax.Array, modulus: int, widest: int, width: jax.Array) -> jax.Array:
    """Return the share of all sums that the closed form gets right with its first units."""
    first, readout = memorisation.modular_addition(key, modulus, widest)
    readout = jnp.where(jnp.arange(widest)[:, None] < width, readout, 0.0)

    def is_right(number: jax.Array) -> jax.Array:
        logits = (first[number][None] + first[modulus:]) ** 2 @ readout
        return logits.argmax(axis=1) == (number + jnp.arange(modulus)) % modulus

    return jax.lax.map(is_right, jnp.arange(modulus)).mean()


def first_step(accuracy: xr.DataArray, step: str = "step") -> xr.DataArray:
    """Return the first step recorded at which an accuracy is REACHED; inf where it never is."""
    steps = accuracy[step].where(accuracy >= REACHED, np.inf)
    found = steps.min(step)
    return found.assign_attrs(long_name="steps to generalise", units="step")


def ratio_of_steps(
    slow: xr.DataArray, fast: xr.DataArray, *, budget: float, least: float
) -> Measurement:
    """Hold the median ratio of two arms' steps to a bound, with the error over seeds.

    An arm that never generalises counts as the budget, which makes its ratio a lower bound; pairs
    in which neither generalises say nothing.
    """
    told = np.isfinite(slow) | np.isfinite(fast)
    ratio = (np.minimum(slow, budget) / np.minimum(fast, budget)).where(told)
    return at_least(float(ratio.median()), least, seed_error(ratio, xr.DataArray.median))


def seed_error(values: xr.DataArray, statistic: Callable[[xr.DataArray], xr.DataArray]) -> float:
    """Return the standard error of a statistic over seeds, each seed taken alone."""
    dim = next(name for name in values.dims if str(name).endswith("seed"))
    alone = [float(statistic(values.isel({dim: k}))) for k in range(values.sizes[dim])]
    return float(np.std(alone, ddof=1) / len(alone) ** 0.5)


def _at_reference(ds: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Return the steps to memorise and to generalise, and the accuracy between, by seed."""
    there = ds.sel(REFERENCE)
    memorised = first_step(there["accuracy"])
    between = there["validation_accuracy"].where(there["step"] == memorised).max("step")
    return memorised, first_step(there["validation_accuracy"]), between


def _memorise(ds: xr.Dataset) -> Measurement:
    share = np.isfinite(first_step(ds["accuracy"])).mean()
    return exact(float(share), 1.0, rtol=0.0)


def _first(ds: xr.Dataset) -> Measurement:
    accuracy = _at_reference(ds)[2]
    return at_most(float(accuracy.median()), 0.25, seed_error(accuracy, xr.DataArray.median))


def _later(ds: xr.Dataset) -> Measurement:
    memorised, generalised, _ = _at_reference(ds)
    ratio = generalised.where(np.isfinite(generalised)) / memorised
    return at_least(float(ratio.median(skipna=False)), 3.0, seed_error(ratio, xr.DataArray.median))


def _in_the_end(ds: xr.Dataset) -> Measurement:
    final = ds["validation_accuracy"].sel(REFERENCE).isel(step=-1)
    return at_least(float(final.min()), REACHED, expected=1.0)


def _sooner(axis: str, slow: int, fast: int, least: float) -> Callable[[xr.Dataset], Measurement]:
    def check(ds: xr.Dataset) -> Measurement:
        steps = first_step(ds["validation_accuracy"])
        ends = (steps.isel({axis: place}, drop=True) for place in (slow, fast))
        return ratio_of_steps(*ends, budget=float(ds["step"][-1]), least=least)

    return check


def _random_share(ds: xr.Dataset) -> Measurement:
    first = ds["fourier_share"].isel(step=0, fraction=0, decay=0, gain=0)
    num_units = ds.attrs["width"] * first.size
    expected, error = random_share(ds.attrs["modulus"], num_units)
    return agrees(float(first.mean()), expected, error, rtol=0.05)


def _fourier(ds: xr.Dataset) -> Measurement:
    last = ds.isel(step=-1)
    solved = last["validation_accuracy"] >= REACHED

    def ratio(share: xr.DataArray) -> xr.DataArray:
        return share.where(solved).mean() / share.where(~solved).mean()

    share = last["fourier_share"]
    return at_least(float(ratio(share)), 1.5, seed_error(share, ratio))


def _form(ds: xr.Dataset) -> Measurement:
    return exact(float(ds["form_accuracy"].sel(form_width=256).mean()), 1.0, rtol=1e-3)


def _digits(ds: xr.Dataset, decay: int, gain: int) -> xr.DataArray:
    """Return how much validation accuracy digits gain after they are memorised, by seed."""
    there = ds.isel(digits_decay=decay, digits_gain=gain)
    memorised = first_step(there["digits_accuracy"], "digits_step")
    accuracy = there["digits_validation_accuracy"]
    then = accuracy.where(there["digits_step"] == memorised).max("digits_step")
    return accuracy.isel(digits_step=-1) - then


def _digits_rise(decay: int, gain: int, least: float, most: float):
    def check(ds: xr.Dataset) -> Measurement:
        rise = _digits(ds, decay, gain)
        return between(float(rise.median()), least, most, seed_error(rise, xr.DataArray.median))

    return check


SUMS, IMAGES = "Power et al. 2022", "Liu et al. 2022"
CLAIMS = (
    Claim("Sums: every network memorises its training set (share of them)", SUMS, _memorise),
    Claim(
        "Sums: at memorisation few held-out sums are right (accuracy at the reference, median)",
        f"{SUMS}; chance is 1/p, the bound is ours",
        _first,
    ),
    Claim(
        "Trend: it generalises, in at least 3 times the steps that it took to memorise",
        f"{SUMS}; the ratio is ours",
        _later,
    ),
    Claim("Sums: in the end all is right (accuracy at the reference, least)", SUMS, _in_the_end),
    Claim(
        "Trend: without weight decay generalising takes at least twice the steps of the largest",
        f"{SUMS}; the ratio is ours, pairs over all other axes",
        _sooner("decay", 0, -1, 2.0),
    ),
    Claim(
        "Trend: with the least data generalising takes at least twice the steps of the most",
        f"{SUMS}; the ratio is ours, pairs over all other axes",
        _sooner("fraction", 0, -1, 2.0),
    ),
    Claim(
        "Trend: from the largest initial weights it takes at least 1.5 times the steps",
        "Liu et al. 2022; Kumar et al. 2023, 2310.06110; the ratio is ours",
        _sooner("gain", -1, 0, 1.5),
    ),
    Claim(
        "At the start a unit's strongest frequency has H_K / K of its power, K = (p - 1) / 2",
        "Exponential order statistics; ours",
        _random_share,
    ),
    Claim(
        "Trend: it has at least 1.5 times the share where a network generalised than elsewhere",
        "Gromov 2023: the solution is periodic; Nanda et al. 2023, 2301.05217; the ratio is ours",
        _fourier,
    ),
    Claim(
        "The closed form with 256 units is right on all sums modulo 97 (accuracy)",
        "Gromov 2023",
        _form,
    ),
    Claim(
        "Digits grok from large weights: accuracy rises by at least 0.2 after memorisation",
        f"{IMAGES}; the bound is ours, median over seeds",
        _digits_rise(-1, -1, 0.2, 1.0),
    ),
    Claim(
        "Digits, control: from standard weights it rises by at most 0.2",
        f"{IMAGES}; the bound is ours",
        _digits_rise(-1, 0, -0.2, 0.2),
    ),
    Claim(
        "Digits, control: from large weights without decay it rises by at most 0.2",
        f"{IMAGES}; the bound is ours",
        _digits_rise(0, -1, -0.2, 0.2),
    ),
)


NAMES = {
    "fraction": "training pairs [share of all]",
    "decay": "weight decay",
    "gain": "gain of the initial weights",
}


def figure(ds: xr.Dataset):
    """Draw both curves, two phase diagrams, the frequencies, digits and the closed form."""
    fig, axes = figures.new_figure(2, 3, size=(17, 9.6))
    curves = ds.sel(REFERENCE).isel(step=slice(1, None))
    for name, label in (("accuracy", "training pairs"), ("validation_accuracy", "other pairs")):
        _band(axes[0, 0], curves[name], "step", "seed", label=label)
    setting = ", ".join(f"{name} {value:g}" for name, value in REFERENCE.items())
    axes[0, 0].set(xscale="log", xlabel="training step", ylabel="accuracy")
    axes[0, 0].set_title(f"Sums modulo {ds.attrs['modulus']}: {setting}")
    _draw_phases(axes[0, 1], ds, "fraction", "decay")
    _draw_phases(axes[0, 2], ds, "gain", "decay")
    _draw_frequencies(axes[1, 0], ds)
    _draw_digits(axes[1, 1], ds)
    _draw_form(axes[1, 2], ds)
    for ax in (axes[0, 0], *axes[1]):
        ax.legend(fontsize=11, frameon=False, loc="best" if ax is not axes[1, 1] else (0.0, 0.25))
    seeds = ds.sizes["seed"]
    fig.suptitle(
        f"Memorised first, understood later (medians of {seeds} seeds; bands: their range)"
    )
    return fig


def _band(ax, values: xr.DataArray, along: str, seed: str, **drawn) -> None:
    """Draw the median over seeds, and their range."""
    (line,) = ax.plot(values[along], values.median(seed), linewidth=2, **drawn)
    low, high = values.min(seed), values.max(seed)
    ax.fill_between(values[along], low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _draw_phases(ax, ds: xr.Dataset, x: str, y: str) -> None:
    """Draw the steps to generalise over two axes; the other one is at its reference."""
    ((other, value),) = ((name, at) for name, at in REFERENCE.items() if name not in (x, y))
    steps = first_step(ds["validation_accuracy"]).sel({other: value}, drop=True)
    middle = steps.median("seed", keep_attrs=True).transpose(x, y)
    texts = {
        name: (name, [f"{each:g}" for each in ds[name].values], {"long_name": NAMES[name]})
        for name in (x, y)
    }
    colours = {"cmap": "viridis_r", "vmin": 50.0, "vmax": float(ds["step"][-1])}
    figures.heatmap(ax, middle.assign_coords(texts), x=x, y=y, log_color=True, **colours)
    ax.set_title(f"Steps to generalise ({other} {value:g}; grey: never)")


def _draw_frequencies(ax, ds: xr.Dataset) -> None:
    there = ds["fourier_share"].sel({name: REFERENCE[name] for name in ("fraction", "gain")})
    for decay in (ds["decay"].values[0], REFERENCE["decay"]):
        shares = there.sel(decay=decay).isel(step=slice(1, None))
        _band(ax, shares, "step", "seed", label=f"weight decay {decay:g}")
    expected, _ = random_share(ds.attrs["modulus"])
    ax.axhline(expected, color="black", linestyle="--", label="random weights, exact")
    ax.set(xscale="log", ylim=(0, 1), xlabel="training step", ylabel="share of a unit's power")
    ax.set_title("Strongest frequency of the weights into a unit")


def _draw_digits(ax, ds: xr.Dataset) -> None:
    there = ds.isel(digits_decay=-1, digits_step=slice(1, None))
    for place, colour in ((0, figures.PALETTE[0]), (-1, figures.PALETTE[1])):
        shown = there.isel(digits_gain=place)
        gain, drawn = f"{float(shown['digits_gain']):g}", {"color": colour}
        _band(
            ax,
            shown["digits_validation_accuracy"],
            "digits_step",
            "digits_seed",
            label=f"held out, gain {gain}",
            **drawn,
        )
        training = shown["digits_accuracy"].median("digits_seed")
        label = f"training, gain {gain}"
        ax.plot(training["digits_step"], training, linestyle=":", label=label, **drawn)
    decay = float(there["digits_decay"])
    ax.set(xscale="log", ylim=(0, 1.03), xlabel="training step", ylabel="accuracy")
    ax.set_title(f"{ds.attrs['digits_size']} real digits, weight decay {decay:g}")


def _draw_form(ax, ds: xr.Dataset) -> None:
    accuracy = ds["form_accuracy"]
    _band(ax, accuracy, "form_width", "form_seed", marker="o", label="no training at all")
    ax.set_xscale("log", base=2)
    ax.set(ylim=(0, 1.03), xlabel="hidden units", ylabel="accuracy on all pairs")
    ax.set_title(f"Gromov's solution in closed form, modulo {ds.attrs['form_modulus']}")
