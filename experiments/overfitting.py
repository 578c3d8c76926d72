"""Overfitting: networks that memorise beside networks that generalise, on real MNIST.

Zhang et al. 2017 (1611.03530): networks fit random labels, and 2n + d numbers suffice; Arpit et al.
2017 (1706.05394): patterns are learned before noise is memorised; Neyshabur et al. 2015
(1412.6614): units past those that fit the data do no harm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn import report
from jaxnn.report import Claim, Measurement, agrees, at_least, at_most, between, exact, figures
from jaxnn.theory import memorisation

NUM_CLASSES = 10
FITTED = 1 - 1e-4  # accuracy above which every one of fewer than 10,000 images is right
HALF = 0.5  # share of random labels at which learning and memorising are told apart
SOME = 250  # images, to the nearest size, at which times to fit are compared
NUM_SHOWN = 12  # images through which the figure draws a memoriser


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes.

    `train_sizes` are numbers of training images, `shape_size` is that of the
    networks of several shapes; `noises` are shares of random labels, among them 0, 0.5 and 1.
    """

    train_sizes: tuple[int, ...] = (100, 300, 1000)
    noises: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    width: int = 128
    num_steps: int = 2000
    record_every: int = 25
    depths: tuple[int, ...] = (1, 2, 4)
    widths: tuple[int, ...] = (2, 8, 32, 128)
    shape_size: int = 300
    shape_steps: int = 600
    learning_rate: float = 0.001
    num_seeds: int = 4


SCALES = {
    "quick": Config(
        train_sizes=(40, 200),
        noises=(0.0, 0.5, 1.0),
        width=64,
        num_steps=160,
        record_every=20,
        depths=(1, 2),
        widths=(2, 24, 48),
        shape_size=50,
        shape_steps=100,
        learning_rate=0.003,
        num_seeds=3,
    ),
    "default": Config(),
    "paper": Config(
        train_sizes=(100, 300, 1000, 3000),
        noises=tuple(np.linspace(0.0, 1.0, 9).tolist()),
        width=512,
        num_steps=20_000,
        record_every=100,
        depths=(1, 2, 3, 4, 6, 8),
        widths=(2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        shape_steps=5000,
        num_seeds=16,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train over images and label noise, then over depth and width; write down memorisers."""
    mnist, largest = jn.data.mnist5k(), max(config.train_sizes)
    mnist = mnist._replace(train=jax.tree.map(lambda leaf: leaf[:largest], mnist.train))

    def train(key, model, train_size, noise, num_steps, record_every):
        noise_key = jax.random.fold_in(key, 1)
        task = jn.data.with_train_size(mnist, train_size)
        return jn.fit(
            model,
            jn.cross_entropy,
            jn.optimizer("adam", config.learning_rate),
            jn.data.with_label_noise(task, noise, key=noise_key, num_classes=NUM_CLASSES),
            key=key,
            num_steps=num_steps,
            record_every=record_every,
            batch_size=32,
            sampling="epochs",
            probes=[jn.probes.accuracy, jn.probes.loss],
            validation_probes=[jn.probes.accuracy, jn.probes.loss],
            probe_size=max(largest, len(mnist.validation.x)),
        )

    def over_labels(key, *, train_size, noise):
        model = network(jn.Depth(1), config.width, config.width)
        return train(key, model, train_size, noise, config.num_steps, config.record_every)

    def over_shapes(key, *, depth, width):
        model, steps = network(depth, width, max(config.widths)), config.shape_steps
        return train(key, model, config.shape_size, HALF, steps, steps)

    sweep, sizes = partial(jn.sweep, num_seeds=config.num_seeds), jn.traced(config.train_sizes)
    noises, widths = list(config.noises), jn.traced(config.widths)
    where = {"seed": seed, "store": store / "labels"}
    labels = sweep(over_labels, train_size=sizes, noise=noises, **where)
    where = {"seed": seed + 1, "store": store / "shape"}
    shape = sweep(over_shapes, depth=jn.depths(config.depths), width=widths, **where)
    written = memorisers(np.asarray(mnist.train.x, float), config.num_seeds, seed + 2)
    parts = {"labels": labels, "shape": shape, "memoriser": written}
    return report.gather(parts, width=config.width, shape_size=config.shape_size)


def network(depth: jn.Depth, width: int | jax.Array, widest: int) -> jn.Model:
    """Build a relu network of which only the first `width` of `widest` units count; may be traced.

    The others put out 0 and get no gradient, and weights are drawn for `width` inputs: it trains as
    the narrow network does.
    """
    counts, relu = jnp.arange(widest) < width, jn.activations.relu
    some = relu._replace(function=lambda z: jnp.where(counts, relu.function(z), 0.0))

    def weights(key, shape, dtype=jnp.float32):
        gain = jnp.sqrt(widest / width) if shape[-2] == widest else 1.0
        return jn.he(gain)(key, shape, dtype)

    return jn.mlp(depth, widest, NUM_CLASSES, some, weights=weights)


def memorisers(x: np.ndarray, num_seeds: int, seed: int) -> xr.Dataset:
    """Write down networks that memorise random labels of images, along random directions.

    Returns:
        By seed the largest `error`, how many `numbers` the network has, how many it should have,
        `2n_plus_d`; of the first images `projection` and `label`.
    """
    generator, found = np.random.default_rng(seed), []
    for _ in range(num_seeds):
        direction = generator.standard_normal(x.shape[1]) / x.shape[1] ** 0.5
        labels = generator.integers(NUM_CLASSES, size=len(x))
        written = memorisation.memorise(x, labels, direction)
        one = {
            "error": np.abs(memorisation.recall(written, x) - labels).max(),
            "numbers": sum(part.size for part in written),
            "2n_plus_d": 2 * len(x) + x.shape[1],
            "projection": ("image", (x @ direction)[:NUM_SHOWN]),
            "label": ("image", labels[:NUM_SHOWN]),
        }
        found.append(xr.Dataset(one))
    return xr.concat(found, "seed")


def final(ds: xr.Dataset, part: str) -> xr.Dataset:
    """Return a sweep's last records, with the `gap` from validation to training accuracy."""
    last = report.part(ds, part).isel(step=-1)
    return last.assign(gap=last["accuracy"] - last["validation_accuracy"])


def _most(ds: xr.Dataset, name: str) -> xr.DataArray:
    return report.part(ds, "labels")[name].isel(train_size=-1)


def _trend(select: Callable, statistic: Callable, bound: float) -> Callable:
    """Make a check that a statistic of the mean over seeds is at least a bound."""

    def check(ds: xr.Dataset) -> Measurement:
        found = report.jackknife(select(ds), lambda some: statistic(some.mean("seed")))
        return at_least(found[0], bound, found[1])

    return check


def _fits_all(ds: xr.Dataset) -> Measurement:
    return exact(float((final(ds, "labels")["accuracy"] > FITTED).mean()), 1.0, rtol=0.0)


def _chance(ds: xr.Dataset) -> Measurement:
    """Take seeds and sizes as independent: most labels of a larger set are its own."""
    random = final(ds, "labels")["validation_accuracy"].sel(noise=1.0)
    mean, error = report.mean_and_error(random.stack(run=("seed", "train_size")), "run")
    return agrees(float(mean), 1 / NUM_CLASSES, float(error), rtol=0.25)


def _time_to_fit(ds: xr.Dataset) -> Measurement:
    accuracy = report.part(ds, "labels")["accuracy"].sel(train_size=SOME, method="nearest")
    mean, steps = xr.DataArray.mean, report.first_where(accuracy > FITTED)
    found = report.jackknife(
        steps, lambda some: mean(some.sel(noise=1.0)) / mean(some.sel(noise=0.0))
    )
    return between(found[0], 1.5, 4.0, found[1])


def _rise(mean: xr.DataArray) -> xr.DataArray:
    rise = mean.isel(step=-1) - mean.min("step")
    return rise.sel(noise=1.0) / rise.sel(noise=0.0)


def _learned_first(ds: xr.Dataset) -> Measurement:
    def ratio(some: xr.Dataset) -> xr.DataArray:
        fitted = report.first_where(some["accuracy"] > FITTED).mean("seed")
        peak = some["validation_accuracy"].mean("seed").idxmax("step")
        return peak / fitted.where(np.isfinite(fitted))

    curves = report.part(ds, "labels").isel(train_size=-1).sel(noise=HALF)
    value, error = report.jackknife(curves, ratio)
    return at_most(value, 0.5, error)


def _factor_a_decade(mean: xr.DataArray) -> xr.DataArray:
    few, many = mean.isel(train_size=0), mean.isel(train_size=-1)
    return (few / many) ** (1.0 / np.log10(many["train_size"] / few["train_size"]))


def _written_down(ds: xr.Dataset) -> Measurement:
    found = report.part(ds, "memoriser")
    error = found["error"].where(found["numbers"] == found["2n_plus_d"])
    return at_most(float(error.max(skipna=False)), 1e-6, expected=0.0)


def _wide_enough(ds: xr.Dataset) -> xr.DataArray:
    """Return the validation accuracy of widths that fit 99% of labels; NaN where one alone does."""
    one_layer = final(ds, "shape").isel(depth=0)
    fits = one_layer["accuracy"].mean("seed") > 0.99
    accuracy = one_layer["validation_accuracy"].isel(width=np.flatnonzero(fits))
    return accuracy.where(accuracy.sizes["width"] > 1)


def _depth_against_data(ds: xr.Dataset) -> Measurement:
    """Compare how far depth and the number of images move the mean gap."""
    depths = final(ds, "shape")["gap"].isel(width=-1).reset_coords(drop=True)
    sizes = final(ds, "labels")["gap"].sel(noise=HALF).reset_coords(drop=True)

    def ratio(gaps: xr.Dataset) -> xr.DataArray:
        spans = gaps.mean("seed").map(lambda mean: mean.max() - mean.min())
        return spans["depths"] / spans["sizes"]

    value, error = report.jackknife(xr.Dataset({"depths": depths, "sizes": sizes}), ratio)
    return at_most(value, 0.5, error)


_LINEAR = _trend(
    lambda ds: _most(ds, "validation_accuracy").isel(step=-1),
    lambda mean: xr.corr(mean, mean["noise"]) ** 2,
    0.95,
)
_MORE_DATA = _trend(lambda ds: final(ds, "labels")["gap"].sel(noise=0.0), _factor_a_decade, 2.0)
_WIDTH = _trend(_wide_enough, lambda mean: mean.isel(width=-1) - mean.isel(width=0), -0.02)
ZHANG, OURS = "Zhang et al. 2017", "the bound is ours"
STATEMENTS = (
    ("Whatever share of labels is random, all are fitted (share of runs)", ZHANG, _fits_all),
    ("With all labels random, validation accuracy is chance, exactly 1/10", ZHANG, _chance),
    ("Trend: 250 random labels take 1.5 to 4 times the steps of true ones", ZHANG, _time_to_fit),
    ("Trend: validation accuracy falls linearly with noise (R^2)", f"{ZHANG}; {OURS}", _LINEAR),
    (
        "Trend: past its least, validation loss rises 10 times as far for random labels",
        f"{ZHANG}; {OURS}, most images",
        _trend(lambda ds: _most(ds, "validation_loss"), _rise, 10.0),
    ),
    (
        "Trend: half random, validation accuracy peaks in at most half of the steps to fit all",
        f"Arpit et al. 2017, patterns before noise; {OURS}, most images",
        _learned_first,
    ),
    ("Trend: ten times the images at least halve the gap (true labels)", OURS, _MORE_DATA),
    ("2n + d numbers, written down, fit n random labels (error)", ZHANG, _written_down),
    (
        "Trend: units past those that fit 99% cost 0.02 accuracy at most",
        "Neyshabur et al. 2015",
        _WIDTH,
    ),
    ("Trend: depth moves the gap half as far as images at most", OURS, _depth_against_data),
)
CLAIMS = tuple(Claim(*each) for each in STATEMENTS)


def figure(ds: xr.Dataset):
    """Draw loss curves at three shares of random labels, and what networks have learned."""
    fig, axes = figures.new_figure(2, 3, size=(17, 9.6))
    titles = ("True labels: generalises", "Half of labels random: learns, then memorises")
    titles = (*titles, "All labels random: memorises")
    top = 1.05 * float(ds["labels_validation_loss"].max())
    for ax, noise, title in zip(axes[0], (0.0, HALF, 1.0), titles, strict=True):
        _draw_losses(ax, report.part(ds, "labels").sel(noise=noise))
        ax.set(title=title, ylim=(-0.2, top))
    axes[0, 0].legend(fontsize=11, frameon=False)
    _draw_noise(axes[1, 0], final(ds, "labels"))
    _draw_memoriser(axes[1, 1], report.part(ds, "memoriser").isel(seed=0))
    _draw_shapes(axes[1, 2], final(ds, "shape"), ds.attrs["shape_size"])
    told = f"one hidden layer of {ds.attrs['width']} units (last panel: others)"
    fig.suptitle(f"Real MNIST, {told}; mean ± s.e. of {ds.sizes['labels_seed']} seeds")
    return fig


def _draw_losses(ax, curves: xr.Dataset) -> None:
    """Draw training and validation loss of the fewest and of the most images."""
    for place, colour in ((0, figures.PALETTE[1]), (-1, figures.PALETTE[0])):
        there = curves.isel(train_size=place)
        for name, split, line in (
            ("loss", "training", ":"),
            ("validation_loss", "validation", "-"),
        ):
            label = f"{split}, {int(there['train_size'])} images"
            drawn = {"color": colour, "linestyle": line, "label": label}
            figures.over_seeds(ax, there[name], x="step", **drawn)
    chance = {"color": "black", "linestyle": "--", "linewidth": 1, "label": "uniform guess, ln 10"}
    ax.axhline(np.log(NUM_CLASSES), **chance)
    ax.set(xlabel="training step", ylabel="cross entropy [nats]")


def _draw_noise(ax, last: xr.Dataset) -> None:
    colours = [figures.PALETTE[1], *figures.PALETTE[2:]]
    for place, colour in zip([*range(last.sizes["train_size"] - 1), -1], colours, strict=False):
        there = last["validation_accuracy"].isel(train_size=place)
        drawn = {"color": figures.PALETTE[0] if place == -1 else colour, "bars": True}
        label = f"validation, {int(there['train_size'])} images"
        figures.over_seeds(ax, there, x="noise", label=label, **drawn)
    training = last["accuracy"].mean(("train_size", "seed"))
    ax.plot(last["noise"], training, "k:", linewidth=2, label="training, all sizes")
    ax.axhline(1 / NUM_CLASSES, color="black", linestyle="--", linewidth=1, label="chance")
    ax.set(xlabel="share of labels drawn at random", ylabel="accuracy", ylim=(0, 1.05))
    ax.set_title("All training images fitted; what was learned")
    ax.legend(fontsize=11, frameon=False, loc="lower left")


def _draw_memoriser(ax, shown: xr.Dataset) -> None:
    x, y = shown["projection"].values, shown["label"].values
    written = memorisation.memorise(x[:, None], y, np.ones(1))
    along = np.linspace(x.min(), x.max(), 2001)
    ax.plot(along, memorisation.recall(written, along[:, None]), linewidth=2, label="network")
    ax.plot(x, y, "o", color=figures.PALETTE[1], markersize=8, label="image, random label")
    ax.set(xlabel="projection on a random direction", ylabel="output", ylim=(-0.5, 11))
    ax.set_title(f"Written down: 2n + d numbers fit n images (here n = {NUM_SHOWN})")
    ax.legend(fontsize=11, frameon=False, ncols=2, loc="upper center")


def _draw_shapes(ax, last: xr.Dataset, num_images: int) -> None:
    for depth in last["depth"].values:
        layers = "hidden layer" if depth == 1 else "hidden layers"
        gap = last["gap"].sel(depth=depth)
        figures.over_seeds(ax, gap, x="width", bars=True, label=f"{depth} {layers}")
    ax.set_xscale("log")
    figures.plain_ticks(ax.xaxis, last["width"].values)
    ax.set(xlabel="width [units]", ylabel="training less validation accuracy")
    ax.set(ylim=(0, None), title=f"Gap: {num_images} images, half of labels random")
    ax.legend(fontsize=11, frameon=False, loc="lower right")
