"""Loss surface: saddles and minima, the few stiff directions, slices, the ways out and down.

A linear autoencoder's critical points are known one by one (Baldi & Hornik 1989): exact numbers for
those of real digits. Networks that classify the digits show what is left of that picture.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.flatten_util import ravel_pytree

import jaxnn as jn
from jaxnn import report
from jaxnn.probes.lanczos import quadrature
from jaxnn.report import Claim, Measurement, figures
from jaxnn.theory import linear_nets

PROBES = jn.probes
RATE = 0.1  # of descent, over the largest eigenvalue of the inputs' covariance
FRACTIONS = np.linspace(0.0, 1.0, 25, dtype=np.float32)  # of the way from start to end
OFFSETS = np.linspace(-1.0, 1.0, 17, dtype=np.float32)  # of slices, in lengths of the weights


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    num_components: int = 7
    bottleneck: int = 3
    batch_sizes: tuple[float, ...] = (8.0, 32.0, 128.0, np.inf)  # inf: all 128 images, no noise
    descent_seeds: int = 256
    num_classes: tuple[int, ...] = (2, 4, 6, 8, 10)
    learning_rates: tuple[float, ...] = (0.1, 0.5, 2.0)
    class_seeds: int = 16
    depth: int = 24
    slice_steps: int = 400
    slice_seeds: int = 16


SCALES = {
    "quick": Config(5, 2, (8.0, 128.0, np.inf), 64, (2, 8), (0.1,), 2, 16, 100, 3),
    "default": Config(),
    "paper": Config(10, 4, descent_seeds=4096, class_seeds=64, depth=56, slice_steps=4000),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Measure all critical points, descend from one, train and look around."""
    images, num, width = jn.data.digits(), config.num_components, config.bottleneck
    inputs = images.train.x[:128].astype(float)
    components, scales, _ = np.linalg.svd(inputs - inputs.mean(0), full_matrices=False)
    x = jnp.asarray((components * scales / scales[0] * len(inputs) ** 0.5)[:, :num], jnp.float32)
    known = linear_nets.autoencoder_critical_points((scales[:num] / scales[0]) ** 2, width)
    saddle = int(np.flatnonzero((known.kept == np.roll(np.arange(num) < width, -1)).all(1))[0])
    encoders = [linear_nets.autoencoder_weights(np.eye(num), e, width)[0] for e in known.kept]
    points = jnp.asarray([[each, each] for each in encoders], x.dtype)  # and decoders, transposed

    def swept(member, num_seeds, **axes):
        folder = store / member.func.__name__
        return jn.sweep(member, **axes, num_seeds=num_seeds, seed=seed, store=folder)

    classes, rates = jn.traced(config.num_classes), list(config.learning_rates)
    measure = partial(critical_point, x=x, points=points, known=known)
    leave = partial(descend, x=x, start=points[saddle])  # it keeps the last, not the first
    learn, look = partial(classify, images=images), partial(slices, images=images, config=config)
    parts = {
        "points": swept(measure, 1, point=jn.traced(range(len(points)))),
        "descent": swept(leave, config.descent_seeds, size=list(config.batch_sizes)),
        "classes": swept(learn, config.class_seeds, classes=classes, rate=rates),
        "slices": swept(look, config.slice_seeds, skip=[0.0, 1.0]),
    }
    return report.gather(parts, saddle=saddle, depth=config.depth)


def autoencoder_loss(weights: jax.Array, x: jax.Array, weight: jax.Array | None = None):
    """Return the mean loss of x -> x E D^T at weights (E, D), `[2, input, bottleneck]`."""
    encoder, decoder = weights
    return PROBES.mean_loss(jn.squared_error, x @ encoder @ decoder.T, jn.Batch(x, x, weight))


def critical_point(key, *, x, points, known, point):
    """Measure one critical point, beside what theory knows of it."""
    hessian = jax.hessian(autoencoder_loss)(points[point], x)
    values = jnp.linalg.eigvalsh(hessian.reshape(points[0].size, -1))
    found = {
        "loss": autoencoder_loss(points[point], x),
        "expected_loss": jnp.asarray(known.loss, x.dtype)[point],
        "index": (values < -1e-4 * values[-1]).sum(),  # float32
        "expected_index": jnp.asarray(known.saddle_index, jnp.int32)[point],
        "lowest": values[0],
    }
    return {name: jn.Labelled(each) for name, each in found.items()}


def descend(key, *, x, start, size):
    """Descend on the autoencoder from a start; smaller batches are the first of a draw."""
    every, steps = jnp.arange(len(x)), range(400)
    used = (every.astype(x.dtype) < size).astype(x.dtype)

    def step(weights, number):
        drawn = jn.data.sample_indices(key, number, len(x), len(x))
        batch = x[jnp.where(jnp.isinf(size), every, drawn)]
        slope = jax.grad(autoencoder_loss)(weights, batch, used)
        return weights - RATE * slope, autoencoder_loss(weights, x)

    _, losses = jax.lax.scan(step, start, jnp.asarray(steps))
    return {"loss": jn.Labelled(losses, ("step",)), "step": jn.Coordinate(tuple(steps), "step")}


@PROBES.probe(("eigenvalue",), long_name="Hessian eigenvalue")
def top_eigenvalues(flow: PROBES.Flow) -> jax.Array:
    """Return the 21 largest eigenvalues, by Lanczos' method with orthogonal vectors."""
    flat, unravel = ravel_pytree(flow.params)
    slope = jax.grad(lambda params: flow.loss_at(unravel(params)))
    start = jax.random.normal(jax.random.key(0), (1, flat.size), flat.dtype)
    return quadrature(jax.linearize(slope, flat)[1], start, 40)[0][0, :21]


def classify(key, *, images, classes, rate):
    """Learn the first classes by 50 full batches, with one wide layer."""
    x, labels = (leaf[:300] for leaf in images.train[:2])
    task = images._replace(train=jn.Batch(x, labels, (labels < classes).astype(x.dtype)))
    model, sgd = jn.mlp(1, 64, 10, "tanh"), jn.optimizer("sgd", rate)

    def loss(outputs, targets):
        among = jnp.arange(10)[None] < classes
        return jn.cross_entropy(jnp.where(among, outputs, -1e6), targets)

    settings = {"sampling": "full", "num_steps": 50, "record_every": 50, "probe_size": 300}
    training = jn.training(model, loss, sgd, task, key=key, probes=[top_eigenvalues], **settings)
    start = training.init()
    end = training.advance(start)
    flow = PROBES.flow(model, loss, end.variables, task.train)
    ends = start.variables["params"], flow.params
    way = PROBES.interpolated_loss(flow.loss_at, *ends, jnp.asarray(FRACTIONS))
    return {**training.records(end), "way": jn.Labelled(way, ("fraction",))}


@PROBES.probe(("place",), long_name="|min/max| Hessian eigenvalue")
def non_convexity(flow: PROBES.Flow) -> jax.Array:
    """Measure it at every fourth offset along a filter-normalised direction."""
    direction = PROBES.filter_direction(jax.random.key(0), flow.params)

    def at(offset):
        there = jax.tree.map(lambda leaf, step: leaf + offset * step, flow.params, direction)
        found = PROBES.hessian_extremes(15).measure(flow._replace(params=there))
        return jnp.abs(found["min"] / found["max"])

    return jax.lax.map(at, jnp.asarray(OFFSETS[::4]))


def slices(key, *, images, config, skip):
    """Train a deep relu network and look around where it ends."""
    gain = jnp.where(skip > 0, config.depth**-0.5, 1.0)  # the stream grows by e, not 2^depth
    kernels = {"weights": jn.he(gain), "readout": jn.he()}
    model = jn.mlp(config.depth, 16, 10, "relu", residual=skip, **kernels)
    loss, adam, steps = jn.cross_entropy, jn.optimizer("adam", 1e-3), config.slice_steps
    probes = [PROBES.loss_slice(OFFSETS, OFFSETS), non_convexity]
    settings = {"num_steps": steps, "record_every": steps, "probes": probes, "probe_size": 128}
    training = jn.training(model, loss, adam, images, key=key, **settings)
    return training.records(training.advance(training.init()))


def descended(ds: xr.Dataset) -> xr.DataArray:
    """Return descent's loss on a scale of 1 at the saddle and 0 at the minimum."""
    loss, expected = report.part(ds, "descent")["loss"], ds["points_expected_loss"].squeeze()
    return (loss - expected.min()) / (expected[ds.attrs["saddle"]] - expected.min())


def _points(ds: xr.Dataset) -> Measurement:
    right = np.abs(ds["points_loss"] / ds["points_expected_loss"] - 1.0) < 1e-4
    right &= ds["points_index"] == ds["points_expected_index"]
    return report.exact(right.mean(), 1.0, rtol=0.0)


def _escape_law(ds: xr.Dataset) -> Measurement:
    """Compare steps for each ln B: noise of variance 1/B grows by (1 + rate curvature)^2 a step."""
    steps = report.first_where(descended(ds) < 0.5).drop_sel(size=np.inf)
    lowest = ds["points_lowest"].sel(points_point=ds.attrs["saddle"]).item()
    expected, logs = 0.5 / np.log1p(-RATE * lowest), np.log(steps["size"])
    fitted = report.jackknife(steps, lambda some: np.polyfit(logs, some.mean("seed"), 1)[0])
    return report.agrees(fitted[0], expected, fitted[1], rtol=0.2)


def _full_batch(ds: xr.Dataset) -> Measurement:
    share = descended(ds)
    last = report.first_where(share < 0.5).drop_sel(size=np.inf).max()
    return report.at_most(np.abs(share.sel(size=np.inf, step=last) - 1.0).max(), 0.01)


def _outliers(ds: xr.Dataset) -> Measurement:
    """Find the k up to 2C with the largest ratio of eigenvalue k to the next."""
    values = report.part(ds, "classes")["top_eigenvalues"].isel(rate=0)
    values = values.assign_coords(eigenvalue=np.arange(1, 1 + values.sizes["eigenvalue"]))
    ratio = values / values.shift(eigenvalue=-1)
    largest = ratio.where(ratio["eigenvalue"] <= 2 * ratio["classes"]).idxmax("eigenvalue")
    right = (largest - largest["classes"]).isin([-1, 0])
    mean, error = report.mean_and_error(right.mean("classes"))
    return report.at_least(mean, 0.7, error)


def _skips(ds: xr.Dataset) -> Measurement:
    found = report.part(ds, "slices")["non_convexity"].median("place").median("seed")
    return report.at_least(found.sel(skip=0.0) / found.sel(skip=1.0), 1.5)


def _monotone(ds: xr.Dataset) -> Measurement:
    way = report.part(ds, "classes")["way"].isel(rate=0).transpose(..., "fraction")
    rise = (way - np.minimum.accumulate(way.values, axis=-1)).max("fraction")
    mean, error = report.mean_and_error((rise <= 0.01 * way.isel(fraction=0)).mean("classes"))
    return report.at_least(mean, 0.8, error)


CLAIMS = (
    Claim(
        "Every critical point has theory's loss and number of negative eigenvalues; one has none",
        "Baldi & Hornik 1989; the formula of the number is ours; share of points, losses to 1e-4",
        _points,
    ),
    Claim(
        "SGD of batch B leaves a saddle in ln B / (2 ln(1 + rate curvature)) steps and a constant",
        "Linearised dynamics, ours; slope over ln B",
        _escape_law,
    ),
    Claim(
        "Full-batch descent is still at that saddle when the last SGD has left (share descended)",
        "Its gradient there is 0; ours",
        _full_batch,
    ),
    Claim(
        "Trend: of C classes, the largest gap in the Hessian's top 2C values follows C - 1 or C",
        "Sagun et al. 2017, 1706.04454; share of networks, the bound is ours",
        _outliers,
    ),
    Claim(
        "Trend: without skips |min/max| Hessian eigenvalue along slices is 1.5 times as large",
        "Li et al. 2018, 1712.09913, section 6; medians, the ratio is ours",
        _skips,
    ),
    Claim(
        "The loss falls along the straight line from start to end at a small rate (share)",
        "Goodfellow et al. 2015, 1412.6544; rises below 1%, the bound is ours",
        _monotone,
    ),
)


def figure(ds: xr.Dataset):
    """Draw index against loss, escapes, outliers, two slices and straight ways."""
    fig, ((index, escapes, spectra), (*slopes, ways)) = figures.new_figure(2, 3, size=(17, 9))
    points, classes, slices = (report.part(ds, each) for each in ("points", "classes", "slices"))
    theory = points["expected_loss"].squeeze(), points["expected_index"].squeeze()
    index.plot(*theory, "o", ms=11, mfc="none", label="theory")
    index.plot(points["loss"].squeeze(), points["index"].squeeze(), ".", ms=8, label="measured")
    title = f"All {points.sizes['point']} critical points of a linear autoencoder"
    index.set(xlabel="loss", ylabel="index: negative Hessian eigenvalues", title=title)
    index.legend(frameon=False)
    _draw_lines(escapes, descended(ds), "size", "step", "From an exact saddle", "batch (inf: all)")
    escapes.set(xlabel="training step", ylabel="loss: saddle 1, minimum 0")
    _draw_spectra(spectra, classes["top_eigenvalues"].isel(rate=0))
    planes = np.log10(slices["loss_slice"].isel(seed=0))
    planes = planes.assign_coords(offset=OFFSETS, other_offset=OFFSETS)
    limits = {"vmin": float(planes.min()), "vmax": float(planes.max())}
    for ax, skip, name in zip(slopes, (0.0, 1.0), ("without", "with"), strict=True):
        ratio = float(slices["non_convexity"].sel(skip=skip).median(("place", "seed")))
        ax.set_title(
            f"{ds.attrs['depth']} layers {name} skips, seed 0; median |min/max| {ratio:.2f}"
        )
        shown = planes.sel(skip=skip, drop=True)
        figures.heatmap(ax, shown, x="offset", y="other_offset", label="log10 loss", **limits)
        ax.set(xlabel="direction 1, filter-normalised", ylabel="direction 2, filter-normalised")
        ax.locator_params(nbins=5)
    way = classes["way"].isel(classes=-1, drop=True).assign_coords(fraction=FRACTIONS)
    _draw_lines(ways, way, "rate", "fraction", "Straight ways", "learning rate")
    ways.set(xlabel="way from start (0) to end (1)", ylabel="training loss", yscale="log")
    return fig


def _draw_lines(ax, data: xr.DataArray, hue: str, x: str, title: str, label: str) -> None:
    for value in data[hue].values:
        line = data.sel({hue: value}, drop=True)
        spread = figures.over_seeds(ax, line, x=x, show="median", label=f"{value:g}")
    ax.set_title(f"{title}: {spread}")
    ax.legend(frameon=False, title=label)


def _draw_spectra(ax, data: xr.DataArray) -> None:
    number = np.arange(1, 1 + data.sizes["eigenvalue"])
    for count, colour in zip(data["classes"].values, figures.PALETTE, strict=False):
        line, first = data.sel(classes=count).median("seed"), number < count
        ax.plot(number, line, "o-", color=colour, mfc="white", label=f"C = {count}")
        ax.plot(number[first], line[first], "o", color=colour)
    ax.set(xlabel="eigenvalue's number", ylabel="Hessian eigenvalue", yscale="log")
    ax.set_title(f"C classes, median of {data.sizes['seed']} seeds; filled: the first C - 1")
    ax.legend(frameon=False)
