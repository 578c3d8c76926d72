"""Regularisation: what six remedies for overfitting do to the generalisation gap, and together.

One factorial on real MNIST (14 x 14 pixels) crosses more data, early stopping, L2, L1, dropout and
batch norm, each off and on: an effect is a mean over all settings of the others. The gap is test
less training loss, both without dropout. Early stopping reads recorded curves where the validation
loss is lowest. Seeds share start, batches and masks over all settings; examples are fixed, and so
are levels, from a pilot. A linear model in principal components of the same images shows the
mechanisms: early stopping, L2, L1 and dropout are filters of their eigenvalues.
"""

from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy import linalg, stats

import jaxnn as jn
from experiments._images import pooled
from jaxnn import report
from jaxnn.report import Claim, Measurement, at_least, at_most, figures, part
from jaxnn.theory import regularisers

FACTORS = ("num_train", "early_stopping", "l2", "l1", "dropout", "norm")
NAMES = ("more data", "early stopping", "L2", "L1", "dropout", "batch norm")
VALIDATION, TEST = 0, 1  # the half of the held-out images that chooses a step, the one that judges
PENALTY, RATE = 0.04, 0.25  # of the linear model, whose largest eigenvalue is 1
STOP = round(1 / (RATE * PENALTY))  # the step where early stopping should resemble L2


@dataclass(frozen=True)
class Config:
    """The levels of the factors, and the sizes."""

    num_train: tuple[int, int] = (500, 3000)
    l2: float = 5e-3
    l1: float = 5e-4
    dropout: float = 0.3
    width: int = 128
    learning_rate: float = 0.1
    num_steps: int = 1200
    num_records: int = 20
    probe_size: int = 800
    num_seeds: int = 6


SCALES = {
    "quick": Config((100, 3000), 0.02, 2e-3, 0.5, 32, 0.2, 200, 10, 400, 3),
    "default": Config(),
    "paper": Config(width=1024, num_steps=10_000, num_records=100, probe_size=1500, num_seeds=20),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train the factorial and the linear models."""
    images = jax.tree.map(pooled, jn.data.mnist5k(validation=0.3, test=0.01))
    parts = {"mnist": _factorial(config, images, seed, store / "mnist")}
    parts |= {"linear": _linear(images.train.x[:64], store / "linear")}
    return report.gather(parts, dropout=config.dropout)


@jn.probes.probe(("half",), long_name="held out")
def held_out(flow: jn.probes.Flow) -> dict[str, jax.Array]:
    """Measure loss and accuracy of each half of the examples."""
    right = jnp.argmax(flow.outputs, axis=1) == flow.targets
    each = {"loss": jn.cross_entropy(flow.outputs, flow.targets), "accuracy": right}
    return {name: values.reshape(-1, 2).mean(0) for name, values in each.items()}


def _norm(present: jax.Array) -> Any:
    """Build batch norm that may be absent: one program trains with it and without."""
    batch = jn.batch_norm()

    def apply(params, stats, z, *, train):
        normal, moved = batch.apply(params, stats, z, train=train)
        return jnp.where(present, normal, z), moved

    return batch._replace(apply=apply)


def _factorial(config: Config, images: jn.Dataset, seed: int, store: Path) -> xr.Dataset:
    probed: dict[str, Any] = {"probes": [jn.probes.loss], "validation_probes": [held_out]}
    probed |= {"probe_size": config.probe_size, "batch_size": 32, "num_steps": config.num_steps}
    probed |= {"record_every": config.num_steps // config.num_records}
    he, on = jn.he(), {name: [0.0, getattr(config, name)] for name in ("l2", "l1", "dropout")}

    def train(key, *, num_train, l2, l1, dropout, norm):
        model = jn.mlp(2, config.width, 10, "relu", weights=he, norm=_norm(norm), dropout=dropout)
        optimizer = jn.optimizer("sgd", config.learning_rate, l1=l1, l2=l2)
        data = jn.data.with_train_size(images, num_train)
        return jn.fit(model, jn.cross_entropy, optimizer, data, key=key, **probed)

    sizes, seeds = jn.traced(config.num_train), {"num_seeds": config.num_seeds, "seed": seed}
    return jn.sweep(train, num_train=sizes, **on, norm=[0.0, 1.0], **seeds, store=store)


@jn.probes.probe(("mode",), long_name="weight")
def mode_weight(flow: jn.probes.Flow) -> jax.Array:
    """Return the weight of each mode, which without remedy ends at 1."""
    return flow.params["kernel"][:, 0]


def _linear(x: np.ndarray, store: Path) -> xr.Dataset:
    """Return what each remedy keeps of modes, by descent on the squared error of y = their sum.

    Dropout, of 1/2, has no noise: rows of a Hadamard matrix drop each mode, and each pair, equally
    often, so the examples under all these masks have the expected loss.
    """
    left, values, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    ranks = np.unique(np.geomspace(1, 0.7 * len(x), 14).astype(int)) - 1
    values = values[ranks] / values[0]
    modes = np.tile((left[:, ranks] * values * len(x) ** 0.5).astype(np.float32), (16, 1))
    signs = np.repeat(linalg.hadamard(16)[:, 1 : 1 + len(ranks)], len(x), axis=0)
    start = {"kernel": jnp.zeros((len(ranks), 1))}
    model = jn.from_functions(lambda key, x: start, lambda params, x: x @ params["kernel"])
    options = {"num_steps": 2000, "record_every": STOP, "probes": [mode_weight]}

    def train(key, *, l2, l1, dropout):
        dropped = modes * (1 + dropout * signs)  # to 0 or twice itself
        examples = jn.Batch(dropped, modes.sum(1, keepdims=True))
        data, optimizer = jn.Dataset(*3 * [examples]), jn.optimizer("sgd", RATE, l1=l1, l2=l2)
        return jn.fit(model, jn.squared_error, optimizer, data, key=key, sampling="full", **options)

    levels = {"l2": [0.0, PENALTY], "l1": [0.0, PENALTY], "dropout": [0.0, 1.0]}
    found = jn.sweep(train, **levels, store=store)["mode_weight"].isel(seed=0, drop=True)
    weight = found.transpose(*levels, "step", "mode").values
    kept = [weight[0, 0, 0, 1], weight[1, 0, 0, -1], weight[0, 1, 0, -1], weight[0, 0, 1, -1]]
    return xr.Dataset({"kept": (("remedy", "mode"), kept), "eigenvalue": ("mode", values**2)})


def responses(ds: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return gap and test accuracy of all settings, at the last record and where stopped."""
    mnist = part(ds, "mnist")
    mnist = mnist.drop_vars(mnist.coords)  # positions 0 and 1, whatever the levels
    best = mnist["validation_held_out_loss"].isel(half=VALIDATION).argmin("step")
    read = xr.concat([xr.full_like(best, mnist.sizes["step"] - 1), best], "early_stopping")
    found = mnist.isel(half=TEST, step=read)
    return found["validation_held_out_loss"] - found["loss"], found["validation_held_out_accuracy"]


def effect(response: xr.DataArray, *factors: str) -> xr.DataArray:
    """Return a factor's effect, or the interaction of two, for each seed.

    An effect is the mean where a factor is on less that where it is off; an interaction is half of
    what one factor's effect is more where the other is on.
    """
    for factor in factors:
        response = response * xr.DataArray([-1.0, 1.0], dims=factor)
    return 2.0 * response.mean([each for each in response.dims if each != "seed"])


def interval(values: xr.DataArray) -> tuple[float, float, float]:
    """Return the mean over seeds, its standard error, and half of its 95% interval (Student)."""
    mean, error = map(float, report.mean_and_error(values))
    return mean, error, error * stats.t.ppf(0.975, values.size - 1)


def curves(ds: xr.Dataset) -> list[xr.Dataset]:
    """Return the curves of few examples and no batch norm, without dropout and with it."""
    few = part(ds, "mnist").isel(num_train=0, norm=0)
    return [few.isel(dropout=place, drop=True) for place in (0, 1)]


def _narrow(factors: tuple[str, ...], ds: xr.Dataset) -> Measurement:
    mean, error, _ = max(interval(effect(responses(ds)[0], each)) for each in factors)
    return at_most(mean, 0.0, error)


def _ratio(name: str, ds: xr.Dataset) -> Measurement:
    """Hold the ratio of two means over seeds to a bound."""
    (gap, _), found = responses(ds), curves(ds)
    data, *others = (effect(gap, each) for each in FACTORS)
    many, few = (sum(effect(gap[{"num_train": i}], each) for each in FACTORS[1:5]) for i in (1, 0))
    normal, plain = (effect(gap.isel(norm=place), "l2") for place in (1, 0))
    without, dropped = (each["loss"].isel(l2=0, l1=0, step=-1) for each in found)
    losses = [each["validation_held_out_loss"].isel(half=VALIDATION) for each in found]
    early, late = (loss.idxmin("step").mean(("l2", "l1")) for loss in losses)
    top, bottom, hold, bound = {
        "data": (data, min(others, key=lambda each: each.mean()), at_least, 1.0),
        "size": (many, few, at_most, 0.8),
        "norm": (normal, plain, at_most, 0.75),
        "training": (dropped, without, at_least, 1.5),
        "delay": (late, early, at_least, 1.1),
    }[name]
    both = xr.Dataset({"top": top, "bottom": bottom})
    value, error = report.jackknife(both, lambda some: some["top"].mean() / some["bottom"].mean())
    return hold(value, bound, error)


def theory(eigenvalues: np.ndarray) -> np.ndarray:
    """Return what stopping, L2, L1 and dropout, a ridge by each mode's square, keep of modes."""
    lam = jnp.asarray(eigenvalues, jnp.float32)
    stopped = regularisers.early_stopping_filter(lam, RATE, STOP)
    thresholded = regularisers.soft_threshold(jnp.ones_like(lam), PENALTY / lam)
    ridge, dropped = (regularisers.ridge_filter(lam, each) for each in (PENALTY, lam))
    return np.stack([stopped, ridge, thresholded, dropped])


def _exact(remedies: list[int], ds: xr.Dataset) -> Measurement:
    errors = ds["linear_kept"].values - theory(ds["linear_eigenvalue"].values)
    return at_most(np.abs(errors[remedies]).max(), 1e-4, expected=0.0)


def _near(remedies: list[int], ds: xr.Dataset) -> Measurement:
    stopped, ridge = ds["linear_kept"].values[remedies]
    bound = 1.01 * regularisers.FILTER_RATIO  # 100 steps are no flow, and exceed it by up to 0.4%
    return at_most((stopped / ridge).max(), bound, expected=regularisers.FILTER_RATIO)


CHECKS = {
    "Trend: more data, stopping, L2, L1, dropout narrow the gap (weakest)": (_narrow, FACTORS[:5]),
    "Trend: batch norm regularises too: it narrows the gap (effect, nats)": (_narrow, FACTORS[5:]),
    "Trend: more data narrow it most (ratio to the next remedy)": (_ratio, "data"),
    "Trend: stopping, L2, L1, dropout narrow it less on more data (ratio)": (_ratio, "size"),
    "Trend: behind batch norm, blind to scale, L2 narrows it less (ratio)": (_ratio, "norm"),
    "Trend: dropout leaves a higher training loss, without masks (ratio)": (_ratio, "training"),
    "Trend: of few examples dropout delays the least validation loss (ratio)": (_ratio, "delay"),
    "Linear model: stopping, L2, L1 keep of modes what theory says (error)": (_exact, [0, 1, 2]),
    "Linear model: stopping at tau keeps at most 1.2984 times L2 of 1/(eta tau)": (_near, [0, 1]),
    "Linear model: dropout of inputs is ridge weighed by their squares (error)": (_exact, [3]),
}
BOOK, OURS = "Goodfellow et al. 2016", "the ratio is ours"
SOURCES = (
    f"{BOOK}, chapter 7; ours",
    f"Ioffe & Szegedy 2015, section 3.4; {BOOK}, section 7.12",
    f"{BOOK}, section 7.4; ours",
    "ours",
    f"van Laarhoven 2017, 1706.05350; {OURS}",
    f"Srivastava et al. 2014, JMLR 15:1929; {OURS}",
    f"{BOOK}, section 7.12; {OURS}",
    f"{BOOK}, sections 7.1 and 7.8",
    "Ali, Kolter & Tibshirani 2019, 1810.10082; 1% for finite steps",
    "Wager, Wang & Liang 2013, 1307.1493",
)
ROWS = zip(CHECKS.items(), SOURCES, strict=True)
CLAIMS = tuple(Claim(text, source, partial(check, of)) for (text, (check, of)), source in ROWS)


def figure(ds: xr.Dataset):
    """Draw the effects, the interactions, dropout's loss curves, and the filters."""
    fig, axes = figures.new_figure(2, 2, size=(14, 11))
    (gap, accuracy), single, named = responses(ds), {}, dict(zip(FACTORS, NAMES, strict=True))
    for factor, name in named.items():
        mean, _, half = interval(100 * effect(accuracy, factor))
        single[f"{name}\naccuracy {mean:+.1f} ± {half:.1f}"] = effect(gap, factor)
    double = {f"{named[a]} × {named[b]}": effect(gap, a, b) for a, b in combinations(FACTORS, 2)}
    _draw_effects(axes[0, 0], single, "Effects, with those on test accuracy in points")
    _draw_effects(axes[0, 1], double, "Interactions; above 0: a wider gap than the two add up to")
    _draw_curves(axes[1, 0], ds)
    _draw_filters(axes[1, 1], ds)
    return fig


def _draw_effects(ax, effects: dict[str, xr.DataArray], title: str) -> None:
    for place, values in enumerate(effects.values()):
        mean, _, half = interval(values)
        color = figures.PALETTE[0] if abs(mean) > half else "0.6"
        ax.errorbar(mean, place, xerr=half, fmt="o", color=color, capsize=4, linewidth=2.5)
    ax.axvline(0.0, color="black", linewidth=1)
    ax.set_yticks(range(len(effects)), list(effects))
    ax.invert_yaxis()
    title = f"{title}\n95% intervals over {values.size} seeds"
    ax.set(xlabel="change of the generalisation gap [nats]", title=title)


def _draw_curves(ax, ds: xr.Dataset) -> None:
    names, found = ("no remedy", f"dropout {ds.attrs['dropout']:g}"), curves(ds)
    tests = [each["validation_held_out_loss"].isel(half=TEST, l2=0, l1=0) for each in found]
    for place, name in enumerate(names):
        style = {"x": "step", "color": figures.PALETTE[place]}
        figures.over_seeds(ax, tests[place], label=f"{name}: test", **style)
        style |= {"label": f"{name}: training", "linestyle": "--"}
        drawn = figures.over_seeds(ax, found[place]["loss"].isel(l2=0, l1=0), **style)
    mean, _, half = interval((tests[1] - tests[0]).isel(step=-1))
    title = f"Dropout changes the last test loss by {mean:+.3f} ± {half:.3f} (95%)"
    ax.set(title=f"{title}\n{int(tests[0]['num_train'])} examples; {drawn}")
    top = 1.5 * float(tests[0].isel(step=-1).mean())  # the start is far above
    ax.set(xlabel="training step", ylabel="loss [nats]", ylim=(-0.02 * top, top))
    ax.legend(fontsize=11, frameon=False, loc=(0.5, 0.25))


def _draw_filters(ax, ds: xr.Dataset) -> None:
    eigenvalues, kept = ds["linear_eigenvalue"].values, ds["linear_kept"].values
    fine = np.geomspace(eigenvalues.min() / 1.3, 1.3, 200)
    for place, line in enumerate(theory(fine)):
        ax.plot(fine, line, color=figures.PALETTE[place], linewidth=2)
        marks = {"color": figures.PALETTE[place], "label": NAMES[1 + place]}
        ax.plot(eigenvalues, kept[place], "o", **marks)
    ax.set(xscale="log", xlabel=r"eigenvalue $\lambda$ of the mode, the largest being 1")
    ax.set(ylabel="share of the weight kept", title="Linear model: points measured, lines theory")
    ax.legend(fontsize=11, frameon=False, loc="upper left")
