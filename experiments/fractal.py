"""Fractal: the boundary between learning rates that train a network and those that diverge.

Sohl-Dickstein 2024 (2402.06184): over the learning rates of the two layers of a small network this
boundary is a fractal. Here it is mapped, magnified around a typical point of it, and its dimension
counted in boxes. The control is the same network linearised at its initial weights (quadratic
losses have no fractal boundary: Liu 2024, 2406.13971), treated by the same code: its boundary is
the smooth curve where the largest eigenvalue of the rate-weighted kernel is 2.

Width 8 and 100 steps are the defaults of the author's repository, width 16 and 500 steps the
paper's. The paper's dimensions are medians over windows chosen by hand, at 4096 x 4096 points;
here a window is centred on the middle point of the boundary. So which activation is the roughest is
measured, and not claimed. Standard errors are over networks, which share one draw of the data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import xarray as xr

import jaxnn as jn
from jaxnn.report import Claim, Measurement, at_least, at_most, between, exact, figures
from jaxnn.theory import fractals

CONTROL = "linearised"
ACTIVATIONS = {  # with gains that keep a second moment of 1 (about 1 for tanh)
    "tanh": lambda z: jnp.tanh(2.0**0.5 * z),
    "relu": lambda z: 2.0**0.5 * jax.nn.relu(z),
    "identity": lambda z: z,
    CONTROL: lambda z: jnp.tanh(2.0**0.5 * z),
}
NAMES = {"tanh": "tanh", "relu": "ReLU", "identity": "linear", CONTROL: "control"}
POSITIONS = ("input_position", "readout_position")  # of a point in its window, 0 to 1
LARGEST = 1e6  # loss over the first loss that stands for anything larger, and for NaN
LATE = 20  # the last steps, whose mean loss decides
MIN_BOXES = 8  # a side of the map, of the largest boxes counted
FINITE_SIZE = 0.1  # error of D; 0.06 for a line that meets one box too many: 9, 17 and 33
PAPER = "1.17 to 1.98 (paper, over its settings)"

Params = tuple[jax.Array, ...]  # input layer [unit, unit], readout [unit]


class Task(NamedTuple):
    """A regression task, and the networks that start on it."""

    x: np.ndarray  # [unit, example]
    targets: np.ndarray  # [example]
    weights: np.ndarray  # [network, unit + 1, unit] at the start; the readout's are the last row


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    width: int = 8
    num_steps: int = 100
    num_networks: int = 8  # initialisations, on the same data
    cells: int = 64  # a side of a map: a power of two, at least 32
    num_zooms: int = 3
    magnification: float = 8.0  # of each zoom
    log10_rates: tuple[float, float] = (-1.0, 3.0)  # of both layers, on the whole map


SCALES = {
    "quick": Config(num_steps=60, num_networks=4, cells=32),
    "default": Config(),
    "paper": Config(width=16, num_steps=500, cells=512, num_zooms=4),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Map the boundary in float64, zoom by zoom, and the windows of tanh again in float32."""
    task = draw(config, seed)
    whole = np.tile(config.log10_rates, (config.num_networks, 2, 1))
    windows = {model: [whole] for model in ACTIVATIONS}  # of each zoom: [network, layer, end]
    maps = []
    with jax.enable_x64(True):
        for zoom in range(config.num_zooms + 1):
            last = {model: np.stack(each[zoom:]) for model, each in windows.items()}
            maps.append(_map(config, task, last, seed, store / f"zoom_{zoom}"))
            for model, each in windows.items():
                cells = boundary(maps[zoom]["measure"].sel(model=model, zoom=0))
                each.append(magnified(each[zoom], cells, config.magnification))
        theory = sharpness(config, task)
    shown = {model: np.stack(each[:-1]) for model, each in windows.items()}
    with jax.enable_x64(False):
        single = _map(config, task, {"tanh": shown["tanh"]}, seed, store / "float32")
    ds = xr.concat(maps, "zoom", join="exact", combine_attrs="override")
    ds = ds.assign_coords(zoom=range(len(maps)))
    ds["window"] = (("model", "zoom", "network", "layer", "end"), np.stack(list(shown.values())))
    ds["float32_measure"] = single["measure"].sel(model="tanh", drop=True)
    ds["sharpness"] = theory  # NaN between its points
    for name in ("wall_seconds", "compile_seconds"):
        ds.attrs[name] = sum(each.attrs[name] for each in (*maps, single))
    sizes = {name: getattr(config, name) for name in ("num_steps", "width", "magnification")}
    return ds.assign_attrs(sizes)


def _map(
    config: Config, task: Task, windows: dict[str, np.ndarray], seed: int, store: Path
) -> xr.Dataset:
    """Train on grids over the windows `[zoom, network, layer, end]` of each model."""

    def train(key, *, model, zoom, network, input_position, readout_position):
        predict, start, targets = network_of(task, model, network)
        low, high = jnp.asarray(windows[model])[zoom, network].T
        log10_rates = low + jnp.stack([input_position, readout_position]) * (high - low)

        def loss(params: Params) -> jax.Array:
            return jnp.mean((predict(params) - targets) ** 2)

        return {"measure": convergence(loss, start, 10.0**log10_rates, config.num_steps)}

    positions = np.linspace(0.0, 1.0, config.cells + 1)
    ds = jn.sweep(
        train,
        model=list(windows),
        zoom=jn.traced(range(len(windows["tanh"]))),
        network=jn.traced(range(config.num_networks)),
        input_position=positions,
        readout_position=positions,
        seed=seed,
        store=store,
    )
    return ds.isel(seed=0, drop=True)


def draw(config: Config, seed: int) -> Task:
    """Draw the data and the networks, all Gaussian, with as many examples as parameters.

    In float32, so that both precisions train the same networks.
    """
    size, rng = config.width, np.random.default_rng(seed)
    num = size * (size + 1)
    shapes = ((size, num), (num,), (config.num_networks, size + 1, size))
    return Task(*(rng.standard_normal(shape, np.float32) for shape in shapes))


def network_of(
    task: Task, model: str, network: int | jax.Array
) -> tuple[Callable[[Params], jax.Array], Params, jax.Array]:
    """Return a network's predictions as a function of its parameters, their start, the targets.

    `y(x) = w1 . phi(W0 x / sqrt(n)) / n`. A linear network has n examples, those that it can fit.

    Source: Sohl-Dickstein, 2024, arXiv:2402.06184, section 2, and its repository.
    """
    size, num_examples = task.x.shape
    used = slice(size if model == "identity" else num_examples)
    x, targets = jnp.asarray(task.x[:, used], float), jnp.asarray(task.targets[used], float)
    weights = jnp.asarray(task.weights, float)[network]
    start = (weights[:-1], weights[-1])

    def predict(params: Params) -> jax.Array:
        hidden, readout = params
        return readout @ ACTIVATIONS[model](hidden @ x / size**0.5) / size

    if model != CONTROL:
        return predict, start, targets
    value, change = jax.linearize(predict, start)
    return lambda params: value + change(jax.tree.map(jnp.subtract, params, start)), start, targets


def convergence(
    loss: Callable[[Params], jax.Array], start: Params, rates: jax.Array, num_steps: int
) -> jax.Array:
    """Return how fast gradient descent converges (negative) or diverges (positive).

    With losses over the first one: minus their sum where the mean of the last 20 is below 1, and
    the sum of their inverses elsewhere, as in the paper's maps. Only running sums are kept.
    """
    first = loss(start)

    def step(number, state):
        params, total, inverse, late = state
        value, slopes = jax.value_and_grad(loss)(params)
        ratio = jnp.where(value < LARGEST * first, value / first, LARGEST)
        late += jnp.where(number >= num_steps - LATE, ratio, 0.0)
        params = tuple(each - rates[n] * slopes[n] for n, each in enumerate(params))
        return params, total + ratio, inverse + 1.0 / ratio, late

    zero = jnp.zeros_like(first)
    _, total, inverse, late = jax.lax.fori_loop(0, num_steps, step, (start, zero, zero, zero))
    return jnp.where(late < LATE, -total, inverse)


def sharpness(config: Config, task: Task) -> xr.DataArray:
    """Compute the control's largest eigenvalue at some points of the whole map.

    A step of gradient descent multiplies the residuals by `1 - K`, `K = 2/N sum_l rate_l J_l J_l^T`
    with the Jacobian J_l of the predictions over layer l: it converges where no eigenvalue is
    above 2.
    """
    positions = np.linspace(0.0, 1.0, config.cells + 1)[:: config.cells // 16]
    rates = 10.0 ** np.interp(positions, (0.0, 1.0), config.log10_rates)[:, None, None]
    found = []
    for network in range(config.num_networks):
        predict, start, targets = network_of(task, "tanh", network)
        slopes = (np.asarray(each) for each in jax.jacobian(predict)(start))
        flat = (each.reshape(targets.size, -1) for each in slopes)
        by_input, by_readout = (rates * (2.0 / targets.size * each @ each.T) for each in flat)
        found.append(np.linalg.eigvalsh(by_input[:, None] + by_readout)[..., -1])
    coords = dict.fromkeys(POSITIONS, positions)
    return xr.DataArray(found, coords, ("network", *POSITIONS))


def boundary(measure: xr.DataArray) -> np.ndarray:
    """Return the cells `[..., input, readout]` at some of whose corners only training converges."""
    return fractals.boundary_cells(measure.transpose(..., *POSITIONS).values < 0)


def magnified(window: np.ndarray, cells: np.ndarray, magnification: float) -> np.ndarray:
    """Return smaller windows `[network, layer, end]`, each around a typical point of the boundary.

    It is the middle one of the boundary's cells in order of the input layer's rate; the window's
    own middle where there is no boundary.
    """
    centres = []
    for network in cells:
        found = np.argwhere(network)
        middle = found[len(found) // 2] + 0.5 if len(found) else np.array(network.shape) / 2
        centres.append(middle / network.shape)
    low, high = window[..., 0], window[..., 1]
    centre, reach = low + np.array(centres) * (high - low), (high - low) / magnification / 2
    return np.stack([centre - reach, centre + reach], axis=-1)


def box_counts(measure: xr.DataArray) -> xr.DataArray:
    """Return the number of boxes that hold boundary, by their size in cells."""
    cells = boundary(measure)
    num_sizes = int(np.log2(cells.shape[-1] // MIN_BOXES)) + 1
    dims = [name for name in measure.dims if name not in POSITIONS]
    coords = {**{name: measure[name] for name in dims}, "size": 2 ** np.arange(num_sizes)}
    return xr.DataArray(fractals.box_counts(cells, num_sizes), coords, (*dims, "size"))


def dimension(measure: xr.DataArray) -> xr.DataArray:
    """Return each network's box dimension, the mean over the zooms after the whole map."""
    counts = box_counts(measure).sel(zoom=slice(1, None))
    return counts.isel(size=0).copy(data=fractals.box_dimension(counts.values)[0]).mean("zoom")


def _mean_and_error(values: xr.DataArray) -> tuple[float, float]:
    """Return the mean over networks and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / values.size**0.5)


def _control_dimension(ds: xr.Dataset) -> Measurement:
    mean, error = _mean_and_error(dimension(ds["measure"]).sel(model=CONTROL))
    return between(mean, 1.0 - FINITE_SIZE, 1.0 + FINITE_SIZE, error, expected=1.0)


def _control_theory(ds: xr.Dataset) -> Measurement:
    """Compare the sides of points with theory's, but for points within a cell of its boundary.

    A cell changes the rates, and so an eigenvalue, by 10^step at most. In t steps a mode grows by
    (eigenvalue - 1)^2t: to be seen it must make up for the mode's share of the first loss, which
    moves the boundary by far less than a cell.
    """
    converged, theory = ds["measure"].sel(model=CONTROL, zoom=0) < 0, ds["sharpness"]
    step = float(ds["window"].isel(zoom=0).diff("end").max()) / (ds.sizes[POSITIONS[0]] - 1)
    clear = np.abs(np.log10(theory / 2.0)) > step
    return exact((converged == (theory < 2.0)).values[clear.values].mean(), 1.0, rtol=0.0)


def _fractal(model: str) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        found = dimension(ds["measure"])
        mean, error = _mean_and_error(found.sel(model=model))
        control = found.sel(model=CONTROL)
        _, excess_error = _mean_and_error(found.sel(model=model) - control)
        low = float(control.mean()) + max(FINITE_SIZE, 3.0 * excess_error)
        return between(mean, low, 2.0, error, expected=PAPER)

    margin = f"above the control's by {FINITE_SIZE} and by 3 standard errors"
    statement = f"{NAMES[model]}: D is below 2, and {margin}"
    return Claim(statement, "Sohl-Dickstein 2024, 2402.06184", check)


def _density(ds: xr.Dataset) -> Measurement:
    """Compare tanh's sparsest zoom, the mean over networks, with the control's densest map.

    A straight line meets one to two cells for each of the side. The control's boundary can bend
    back, at finite steps, so what a smooth curve meets is measured.
    """
    cells = box_counts(ds["measure"]).sel(zoom=slice(1, None), size=1)
    side = ds.sizes[POSITIONS[0]] - 1
    zooms = [cells.sel(model="tanh", zoom=zoom) / side for zoom in cells["zoom"]]
    mean, error = min(_mean_and_error(each) for each in zooms)
    return at_least(mean, float(cells.sel(model=CONTROL).max()) / side, error)


def precision(ds: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return how often float32 puts a point of tanh on the other side: at the boundary, and off it.

    Shares by network. A point is at the boundary where a cell around it holds some, in float64.
    """
    converged = (ds["measure"].sel(model="tanh") < 0).transpose(..., *POSITIONS)
    differ = (converged != (ds["float32_measure"] < 0)).astype(float)
    at = converged.copy(data=fractals.boundary_points(converged.values))
    others = ("zoom", *POSITIONS)
    return differ.where(at).mean(others), differ.where(~at).mean(others)


def _precision_place(ds: xr.Dataset) -> Measurement:
    at, off = precision(ds)
    share, error = _mean_and_error(off)
    return at_most(share, float(at.mean()) / 2, error)


def _precision_dimension(ds: xr.Dataset) -> Measurement:
    single = dimension(ds["float32_measure"])
    mean, error = _mean_and_error(single - dimension(ds["measure"]).sel(model="tanh"))
    return between(mean, -FINITE_SIZE, FINITE_SIZE, error, expected=0.0)


CLAIMS = (
    Claim(
        "Control: the linearised network's boundary has dimension 1",
        "Quadratic loss; smooth by the implicit function theorem",
        _control_dimension,
    ),
    Claim(
        "Control: points converge where no eigenvalue of the kernel is above 2 (share that does)",
        "Gradient descent on a quadratic loss, exact",
        _control_theory,
    ),
    _fractal("tanh"),
    _fractal("relu"),
    _fractal("identity"),
    Claim(
        "tanh: each zoom has more boundary cells than any of the control's (cells over the side)",
        "Sohl-Dickstein 2024: fractal over more than ten decades; the ratio is ours",
        _density,
    ),
    Claim(
        "Trend: float32 moves points off tanh's boundary less than half as often as those at it",
        "Rounding matters where outcomes are sensitive; ours",
        _precision_place,
    ),
    Claim(
        "tanh: D is not made by rounding (D in float32 less D in float64)",
        "Ours",
        _precision_dimension,
    ),
)


def figure(ds: xr.Dataset):
    """Draw zooms into the boundary of tanh, a zoom into the others', and the boxes counted."""
    fig, axes = figures.new_figure(2, 4, size=(17, 8.8))
    last = ds.sizes["zoom"] - 1
    for ax, zoom in zip(axes[0], np.linspace(0, last, 4).astype(int), strict=True):
        _draw_map(ax, ds, "tanh", zoom)
    for ax, model in zip(axes[1], ("relu", "identity", CONTROL), strict=False):
        _draw_map(ax, ds, model, min(1, last))
    _draw_boxes(axes[1, 3], ds)
    side = ds.sizes[POSITIONS[0]]
    fig.suptitle(
        f"Training converges (blue) or diverges (red), the slower the darker: width "
        f"{ds.attrs['width']}, {ds.attrs['num_steps']} steps, {side} x {side} trainings a map"
    )
    return fig


def _draw_map(ax, ds: xr.Dataset, model: str, zoom: int) -> None:
    """Draw the first network's map, and the frame of the next zoom."""
    shown = ds.sel(model=model).isel(network=0)
    bounds = shown["window"].values[zoom].ravel()
    measure = shown["measure"].isel(zoom=zoom).transpose(*POSITIONS).values
    drawn = {"origin": "lower", "aspect": "auto", "cmap": "RdBu_r", "vmin": -1, "vmax": 1}
    ax.imshow(_shades(measure).T, extent=bounds, **drawn)
    if zoom + 1 < ds.sizes["zoom"]:
        x, y = shown["window"].values[zoom + 1]
        ax.plot(x[[0, 1, 1, 0, 0]], y[[0, 0, 1, 1, 0]], color="black", linewidth=1.5)
    ax.grid(False)
    ax.locator_params(nbins=4)
    ax.ticklabel_format(useOffset=False)
    ax.set(xlabel="log10 learning rate, input", ylabel="log10 learning rate, readout")
    ax.set(xlim=bounds[:2], ylim=bounds[2:])
    scale = f"magnified {ds.attrs['magnification'] ** zoom:g} x" if zoom else "whole map"
    ax.set_title(f"{NAMES[model]}, {scale}")


def _shades(measure: np.ndarray) -> np.ndarray:
    """Spread the values of each side evenly over its half of the colours."""
    converged, ranks = measure < 0, np.empty(measure.shape)
    for side in (converged, ~converged):
        ranks[side] = scipy.stats.rankdata(np.abs(measure[side])) / max(side.sum(), 1)
    return np.where(converged, -1.0, 1.0) * (0.25 + 0.75 * ranks)


def _draw_boxes(ax, ds: xr.Dataset) -> None:
    """Draw the boxes counted, the mean over networks and zooms, with D in the legend."""
    counts = box_counts(ds["measure"]).sel(zoom=slice(1, None)).mean(("zoom", "network"))
    found = dimension(ds["measure"])
    for model, name in NAMES.items():
        mean, error = _mean_and_error(found.sel(model=model))
        line, label = counts.sel(model=model), f"{name}: D = {mean:.3f} ± {error:.3f}"
        ax.plot(line["size"], line, "o-", linewidth=2, label=label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_ylim(top=16.0 * float(counts.max()))  # room for the legend
    ax.set(xlabel="size of the boxes [cells]", ylabel="boxes that hold boundary")
    ax.set_title(f"Mean of {ds.sizes['network']} networks, {ds.sizes['zoom'] - 1} zooms")
    ax.legend(fontsize=11, frameon=False, loc="upper right")
