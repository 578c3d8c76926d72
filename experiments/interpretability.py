"""Interpretability: a network that reads digits well does not see them as people do.

Two hidden layers of ReLU units learn real MNIST in three regimes: plain, with an L1 penalty, and
from images shifted at random. Three looks at what was learnt:

- The first layer's weights as images. Their structure is Moran's I (1950), the correlation of
  neighbouring pixels: 0 for noise, near 1 for broad strokes.
- Noise, and what ascent in its pixels makes of it until the network is sure of a digit that nobody
  sees (Nguyen et al. 2015, 1412.1897).
- Walks from a digit in a random direction. In a ReLU network's last linear region logits grow with
  the distance, so that confidence goes to 1 wherever they lead (Hein et al. 2019, 1812.05720).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

import jaxnn as jn
from jaxnn.report import Claim, Measurement, at_least, at_most, between, figures, jackknife

# Of each regime: the coefficient of L1, and the largest shift in pixels.
REGIMES = {"plain": (0.0, 0.0), "L1 penalty": (1e-3, 0.0), "shifted images": (0.0, 2.0)}
NAMES, PLAIN = tuple(REGIMES), 0
BOX = slice(4, 24)  # rows and columns into which MNIST fits its digits
CERTAIN = 0.99  # confidence from which an answer counts as certain
SURE = 0.9999  # confidence at which ascent ends, that of Nguyen et al.
UNITS, DIGITS = ("unit", "row", "column"), ("label", "row", "column")


@dataclass(frozen=True)
class Config:
    """The sizes; lengths in pixel space are in standard deviations of the digits' pixels."""

    width: int = 64
    learning_rate: float = 0.2
    num_steps: int = 600
    num_seeds: int = 16
    num_images: int = 100  # of noise; as many walks
    ascent: tuple[float, int] = (0.1, 100)  # length of a step in each pixel, and steps at most
    distances: tuple[float, float, int] = (0.1, 1e4, 11)  # least, most, number of values


SCALES = {
    "quick": Config(num_steps=250, num_seeds=2, num_images=50),
    "default": Config(),
    "paper": Config(width=512, num_steps=20_000, num_images=1000),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train in every regime, then look at the weights, at noise and along walks."""
    mnist = jn.data.mnist5k(flat=False)
    model = jn.mlp(2, config.width, 10, "relu", weights=jn.he())
    low, high = mnist.train.x.min(), mnist.train.x.max()
    digits, labels = (each[: config.num_images] for each in mnist.test[:2])
    distances = np.geomspace(*config.distances)

    def train(key, *, regime):
        training_key, noise_key, walk_key = jax.random.split(key, 3)
        l1, pixels = jnp.asarray(list(REGIMES.values()))[regime]
        training = jn.training(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", config.learning_rate, l1=l1),
            mnist,
            key=training_key,
            num_steps=config.num_steps,
            record_every=config.num_steps,
            probes=[jn.probes.loss],
            validation_probes=[jn.probes.accuracy],
            probe_size=len(mnist.validation.y),
            augment=[jn.data.random_shifts(pixels)],
        )
        start = training.init()
        end = training.advance(start)
        before, after = (each.variables["params"] for each in (start, end))
        noise = jax.random.uniform(noise_key, digits.shape, minval=low, maxval=high)
        walks = (digits, labels, jax.random.normal(walk_key, digits.shape))
        return {
            "accuracy": training.records(end)["validation_accuracy"],
            **_weights(before["first"]["kernel"], after["first"]["kernel"]),
            **_fooled(_network(model, after), noise, config),
            **_walked(model, after, walks, jnp.asarray(distances, jnp.float32)),
            "distance": jn.Coordinate(tuple(distances.tolist())),
        }

    sizes = {"num_seeds": config.num_seeds, "seed": seed, "store": store / "trained"}
    return jn.sweep(train, regime=jn.traced(range(len(NAMES))), **sizes).assign(
        regime=list(NAMES),
        digits_structure=structure(digits[..., 0]).mean(),
        digits_image=(DIGITS, digits[:10, ..., 0]),
    )


def structure(images: Array) -> Array:
    """Return Moran's I of images `[..., row, column]`: how alike neighbouring pixels are.

    I = (N / P) sum_(i,j) (w_i - m)(w_j - m) / sum_i (w_i - m)^2 over the N pixels of BOX, the P
    pairs of neighbours along rows and columns, and the mean m. A constant image has none (NaN).
    """
    box = images[..., BOX, BOX] - images[..., BOX, BOX].mean((-2, -1), keepdims=True)
    down, right = box[..., 1:, :] * box[..., :-1, :], box[..., :, 1:] * box[..., :, :-1]
    pairs, side = down.sum((-2, -1)) + right.sum((-2, -1)), box.shape[-1]
    return side / (2 * (side - 1)) * pairs / (box**2).sum((-2, -1))


def _network(model: jn.Model, params: dict) -> Callable:
    return lambda x: model.apply({"params": params}, x)[0]


def _weights(before: Array, after: Array) -> dict:
    """Return the structure of weights and of their change, means over units, and some as images."""
    start, end = (each.T.reshape(-1, 28, 28) for each in (before, after))
    images = {"start": start, "change": end - start, "weights": end}
    found = {f"{name}_structure": jnp.nanmean(structure(w)) for name, w in images.items()}
    shown = {f"{name}_image": jn.Labelled(w[:5], UNITS) for name, w in images.items()}
    return {**found, **shown}


def ascend(network: Callable, x: Array, targets: Array, step: float, num_steps: int) -> Array:
    """Change images `[image, ...]` until the network is SURE of their targets `[image]`.

    Every step moves each pixel by `step` in the direction that raises the target's probability;
    pixels stay between the least and the largest of all.
    """
    low, high = x.min(), x.max()

    def climb(_: Array, x: Array) -> Array:
        loss, pull = jax.vjp(lambda x: jn.cross_entropy(network(x), targets), x)
        (gradient,) = pull(jnp.ones_like(loss))
        unsure = (jnp.exp(-loss) < SURE).reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(unsure, jnp.clip(x - step * jnp.sign(gradient), low, high), x)

    return jax.lax.fori_loop(0, num_steps, climb, x)


def _fooled(network: Callable, noise: Array, config: Config) -> dict:
    """Return the confidence in noise, and in targets that noise was changed towards."""
    targets = jnp.arange(len(noise)) % 10
    made = ascend(network, noise, targets, *config.ascent)
    confidence = jnp.exp(-jn.cross_entropy(network(made), targets))
    return {
        "noise_confidence": jax.nn.softmax(network(noise)).max(1).mean(),
        "fooled": (confidence > CERTAIN).mean(),
        "fooling_structure": structure(made[..., 0]).mean(),
        "fooling_confidence": jn.Labelled(confidence[:10], ("label",)),
        "fooling_image": jn.Labelled(made[:10, ..., 0], DIGITS),
        "noise_image": jn.Labelled(noise[:10, ..., 0], DIGITS),
    }


def _walked(model: jn.Model, params: dict, walks: tuple, distances: Array) -> dict:
    """Return confidence and right answers along walks, and how wrong theory is at their end.

    Theory: logits grow by those of the network without biases at the walk's direction. The error is
    the largest of the logits', relative to the largest logit: the median walk's.
    """
    starts, labels, directions = walks
    logits = jax.vmap(lambda t: _network(model, params)(starts + t * directions))(distances)
    growth = (logits[-1] - logits[-2]) / (distances[-1] - distances[-2])
    kernels = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[-1].key == "kernel" else 0 * leaf, params
    )
    limit = _network(model, kernels)(directions)
    error = jnp.abs(growth - limit).max(-1) / jnp.abs(limit).max(-1)
    confidence, right = jax.nn.softmax(logits).max(-1), logits.argmax(-1) == labels[None]
    along = {"confidence": confidence, "certain": confidence > CERTAIN, "right": right}
    means = {name: jn.Labelled(each.mean(1), ("distance",)) for name, each in along.items()}
    return {**means, "growth_error": jnp.median(error)}


def _claim(statement: str, statistic: Callable, hold: Callable, source: str = "ours") -> Claim:
    """Return a claim on a statistic of means over seeds."""

    def check(ds: xr.Dataset) -> Measurement:
        value, error = jackknife(ds, lambda some: statistic(some.mean("seed")))
        return hold(value, standard_error=error)

    return Claim(statement, source, check)


CLAIMS = (
    _claim(
        "The first layer starts as noise: its weights' Moran's I is -1/(N - 1) = -1/399, to 0.01",
        lambda ds: abs(ds["start_structure"][PLAIN] + 1 / 399),
        partial(at_most, bound=0.01),
        "Moran 1950 (exact mean); the standard deviation of one unit is 0.036",
    ),
    _claim(
        "Trend: training makes noisy blobs, of an eighth to half of the digits' Moran's I (ratio)",
        lambda ds: ds["weights_structure"][PLAIN] / ds["digits_structure"],
        partial(between, low=0.125, high=0.5),
    ),
    _claim(
        "Trend: their noise is the start's: what was learnt has at least 1.5 times their Moran's I",
        lambda ds: (ds["change_structure"] / ds["weights_structure"])[PLAIN],
        partial(at_least, bound=1.5),
    ),
    _claim(
        "Trend: L1 and shifts each raise the weights' Moran's I by a quarter (lesser ratio)",
        lambda ds: (ds["weights_structure"] / ds["weights_structure"][PLAIN])[1:].min(),
        partial(at_least, bound=1.25),
    ),
    _claim(
        "Trend: accuracy does not show it: it differs by at most 0.05 between the regimes",
        lambda ds: ds["accuracy"].max() - ds["accuracy"].min(),
        partial(at_most, bound=0.05),
    ),
    _claim(
        "Trend: in images of noise the mean confidence is at least 0.5 (chance: 0.1)",
        lambda ds: ds["noise_confidence"][PLAIN],
        partial(at_least, bound=0.5),
    ),
    _claim(
        "Noise is changed to be any digit with confidence above 0.99 (share, least of the regimes)",
        lambda ds: ds["fooled"].min(),
        partial(at_least, bound=0.95),
        "Nguyen et al. 2015 (99.99%); the share is ours",
    ),
    _claim(
        "Trend: it looks like noise still: at most a quarter of the digits' Moran's I (greatest)",
        lambda ds: ds["fooling_structure"].max() / ds["digits_structure"],
        partial(at_most, bound=0.25),
        "Nguyen et al. 2015 (unrecognisable); the ratio is ours",
    ),
    _claim(
        "At the end of walks away from digits confidence is above 0.99 (share of walks)",
        lambda ds: ds["certain"][..., -1].mean(),
        partial(at_least, bound=0.99),
        "Hein et al. 2019 (limit 1 in almost every direction)",
    ),
    _claim(
        "Logits grow there as those of the network without its biases (relative error)",
        lambda ds: ds["growth_error"].mean(),
        partial(at_most, bound=1e-4),
        "ours, for the last linear region of Hein et al. 2019; float32, median walk",
    ),
)


def figure(ds: xr.Dataset):
    """Draw weights as images, images that fool, and confidence over distance."""
    fig, (left, middle, right) = figures.new_figure(1, 3, size=(16, 6.2))
    _draw_weights(left, ds.isel(seed=0), ds.mean("seed"))
    _draw_fooling(middle, ds.isel(seed=0, regime=PLAIN), ds.mean("seed").isel(regime=PLAIN))
    _draw_walks(right, ds)
    return fig


def _draw_weights(ax, one: xr.Dataset, mean: xr.Dataset) -> None:
    shown = [("random start", "start", PLAIN), ("+ what it learnt", "change", PLAIN)]
    shown += [(name, "weights", place) for place, name in enumerate(NAMES)]
    images = np.stack([one[f"{what}_image"][place] for _, what, place in shown])
    values = [float(mean[f"{what}_structure"][place]) for _, what, place in shown]
    rows = [f"{shown[each][0]}\n$I$ = {abs(value):.2f}" for each, value in enumerate(values)]
    images = images / np.abs(images).max((2, 3), keepdims=True)
    _draw_images(ax, images, rows, cmap="RdBu_r", vmin=-1, vmax=1)
    low, high = mean["accuracy"].min(), mean["accuracy"].max()
    ax.set_title(f"First-layer weights, own scales\nseed 0, accuracy {low:.2f} to {high:.2f}")


def _draw_fooling(ax, one: xr.Dataset, mean: xr.Dataset) -> None:
    digits, noise, made = (one[f"{each}_image"].values for each in ("digits", "noise", "fooling"))
    images = np.stack([digits[:5], noise[:5], made[:5], made[5:]])
    found = [f"{name}\n$I$ = {mean[f'{name}_structure']:.2f}" for name in ("digits", "fooling")]
    _draw_images(ax, images, [found[0], "noise", found[1], found[1]], cmap="gray")
    for label, confidence in enumerate(one["fooling_confidence"].values):
        words = f"it is a {label}\n{confidence:.2%}"
        ax.text(label % 5 + 0.4, label // 5 + 1.97, words, ha="center", fontsize=10)
    ax.set_title("Noise changed until a plain network\nis sure of each digit (seed 0)")


def _draw_images(ax, images: np.ndarray, rows: list[str], **colours) -> None:
    """Draw images `[row, column, 28, 28]`, one a unit of each axis."""
    for y, x in np.ndindex(images.shape[:2]):
        ax.imshow(images[y, x], extent=(x, x + 0.8, y + 0.65, y), aspect=0.8 / 0.65, **colours)
    edges = {"xlim": (-0.1, images.shape[1] - 0.1), "ylim": (len(rows) - 0.3, -0.05)}
    ax.set(**edges, xticks=[], frame_on=False)
    ax.set_xlabel("$I$: mean Moran's $I$, how alike neighbours are")
    ax.set_yticks(np.arange(len(rows)) + 0.32, rows)
    ax.tick_params(length=0, grid_alpha=0)


def _draw_walks(ax, ds: xr.Dataset) -> None:
    for name in NAMES:
        confidence = ds["confidence"].sel(regime=name)
        figures.over_seeds(ax, confidence, x="distance", label=f"confidence, {name}")
    right = ds["right"].mean("regime")
    spread = figures.over_seeds(ax, right, x="distance", color="k", ls="--", label="right answers")
    ax.set(xlabel="rms distance from a digit [std of its pixels]", xscale="log")
    ax.set(ylabel="confidence, share of right answers", ylim=(0, 1.03))
    ax.set_title(f"Random walks away from digits\n{spread}")
    ax.legend(fontsize=11, frameon=False, loc="center right")
