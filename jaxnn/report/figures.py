"""Figures of a study, drawn from its dataset; the only module that knows matplotlib.

Not a plotting library: a house style and the three pictures that sweeps need most, a map over two
axes, profiles over layers, and lines with the spread of their seeds. All take an `Axes`, so a study
composes them with its own drawing. Figures are made without pyplot: nothing is global, nothing
needs a display. Colours are told apart by colour-blind readers (Okabe and Ito's palette, viridis),
and text is readable on a slide.
"""

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.rcsetup import cycler

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "svg.hashsalt": "jaxnn",
    "svg.fonttype": "path",
}
MISSING = "0.8"  # the grey of cells without a finite value
SPREADS = {"mean": "mean ± s.e.", "median": "median, quartiles", "range": "median, range"}
MAX_LEGEND = 8  # lines that a legend of numbers names; the others lie between


def new_figure(
    nrows: int = 1, ncols: int = 1, size: tuple[float, float] | None = None
) -> tuple[Figure, Any]:
    """Return an empty figure in the house style, and its axes.

    Args:
        nrows: rows of axes.
        ncols: columns of axes.
        size: width and height in inches; 5.5 by 4 for each of the axes unless given.

    Returns:
        The figure, and one Axes, or an array of them where there are several (`[ncols]` or
        `[nrows]` where the other is 1, `[nrows, ncols]` otherwise).
    """
    with mpl.rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        fig = Figure(figsize=size or (5.5 * ncols, 4.0 * nrows), layout=layout)
        return fig, fig.subplots(nrows, ncols)


def heatmap(
    ax: Axes,
    data: xr.DataArray,
    *,
    x: str,
    y: str,
    label: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    log_color: bool = False,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = "viridis",
) -> QuadMesh:
    """Draw an array over two of its dimensions, a cell for each value, with a colour bar.

    Cells meet halfway between neighbouring coordinates (halfway in the logarithm on a log axis),
    so uneven coordinates stand where they belong. Text coordinates are evenly spaced. Cells that
    are not finite are grey.

    Args:
        ax: where to draw.
        data: `[x, y]` in either order.
        x: the dimension along the horizontal axis.
        y: the dimension along the vertical axis.
        label: of the colour bar, before the unit; the array's long name unless given.
        log_x: spread x logarithmically.
        log_y: spread y logarithmically.
        log_color: spread colours logarithmically.
        vmin: value of the lowest colour; the smallest finite value unless given.
        vmax: value of the highest colour; the largest finite value unless given.
        cmap: a matplotlib colour map; keep to those that stay ordered in grey.

    Raises:
        ValueError: the array has other dimensions than x and y, or a log axis a value that is not
            positive.
    """
    _check_dims("heatmap", data, (x, y))
    norm = (LogNorm if log_color else Normalize)(vmin, vmax)
    edges = {}
    for name, log in ((x, log_x), (y, log_y)):
        data = data if _is_text(data[name]) else data.sortby(name)
        edges[name] = _edges(data[name], log=log)
    values = np.ma.masked_invalid(data.transpose(y, x).values.astype(float))
    colours = mpl.colormaps[cmap].with_extremes(bad=MISSING)
    ax.set(xlabel=axis_label(data[x]), ylabel=axis_label(data[y]))
    ax.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    ax.grid(False)
    ax.set_facecolor(MISSING)
    mesh = ax.pcolormesh(edges[x], edges[y], values, norm=norm, cmap=colours, rasterized=True)
    for name, axis in ((x, ax.xaxis), (y, ax.yaxis)):
        if _is_text(data[name]):
            axis.set_ticks(range(data.sizes[name]), [str(each) for each in data[name].values])
    bar = ax.figure.colorbar(mesh, ax=ax)
    bar.set_label(axis_label(data, label), size=STYLE["axes.labelsize"])
    bar.ax.tick_params(labelsize=STYLE["ytick.labelsize"])
    return mesh


def write_cells(ax: Axes, texts: np.ndarray) -> None:
    """Write texts `[row, column]` into the cells of a heatmap whose two axes are text."""
    box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 2}
    for (row, column), text in np.ndenumerate(texts):
        ax.text(column, row, text, ha="center", va="center", fontsize=10, bbox=box)


def profiles(
    ax: Axes,
    data: xr.DataArray,
    *,
    x: str = "layer",
    hue: str | None = None,
    label: str | None = None,
    log_y: bool = True,
) -> None:
    """Draw an array along one dimension, a line for each value of another.

    Lines of a numeric hue run through viridis in the order of their numbers, and a legend names at
    most 8 of them; lines of a text hue take the palette. A line stops where it is NaN.

    Args:
        ax: where to draw.
        data: `[x]` or `[x, hue]` in either order.
        x: the dimension along the horizontal axis.
        hue: the dimension that tells lines apart; None draws one.
        label: of the vertical axis, before the unit; the array's long name unless given.
        log_y: spread y logarithmically; what is not positive is then left out.

    Raises:
        ValueError: the array has other dimensions than x and hue.
    """
    _check_dims("profiles", data, (x,) if hue is None else (x, hue))
    if hue is None:
        ax.plot(data[x].values, data.values, linewidth=2, marker=_marker(data[x]), markersize=4)
    else:
        _hued_lines(ax, data.transpose(hue, x), hue)
    ax.set(xlabel=axis_label(data[x]), ylabel=axis_label(data, label))
    ax.set_yscale("log" if log_y else "linear", **({"nonpositive": "mask"} if log_y else {}))


def over_seeds(
    ax: Axes,
    data: xr.DataArray,
    *,
    x: str,
    show: str = "mean",
    bars: bool = False,
    over: str = "seed",
    **style: Any,
) -> str:
    """Draw an array along one dimension: its centre over seeds, and how far they spread.

    A centre is drawn where all seeds are finite.

    Args:
        ax: where to draw; its labels are left alone.
        data: `[x, over]` in either order.
        x: the dimension along the horizontal axis.
        show: "mean" with the standard error, "median" with the quartiles, or "range": the median
            with the smallest and the largest.
        bars: error bars for the spread, not a band.
        over: the dimension of seeds.
        **style: of the line, as for `Axes.plot`.

    Returns:
        What was drawn, for a title: "mean ± s.e. of 8 seeds".

    Raises:
        ValueError: the array has other dimensions than x and over, or there is no such `show`.
    """
    _check_dims("over_seeds", data, (x, over))
    if show not in SPREADS:
        raise ValueError(f"over_seeds: show must be one of {list(SPREADS)}, got {show!r}")
    values, count = data.transpose(x, over).values.astype(float), data.sizes[over]
    if show == "mean":
        centre = values.mean(1)
        error = values.std(1, ddof=1) / count**0.5 if count > 1 else 0.0 * centre
        low, high = centre - error, centre + error
    else:
        shares = (0.25, 0.5, 0.75) if show == "median" else (0.0, 0.5, 1.0)
        low, centre, high = np.quantile(values, shares, axis=1)
    style = {"linewidth": 2, **style}
    if bars:
        spread = (centre - low, high - centre)
        ax.errorbar(data[x].values, centre, spread, **{"fmt": "o-", "capsize": 3, **style})
    else:
        (line,) = ax.plot(data[x].values, centre, **style)
        ax.fill_between(data[x].values, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return f"{SPREADS[show]} of {count} seeds" if count > 1 else "one seed"


def plain_ticks(axis: Axis, values: Iterable[float]) -> None:
    """Write these numbers along an axis, and no others: for a logarithmic one."""
    values = list(values)
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def axis_label(array: xr.DataArray, name: str | None = None) -> str:
    """Return an array's name with its unit, from its attributes: "learning rate [1/step]".

    Args:
        array: a variable or a coordinate; without `long_name` its own name is used, without
            `units`, or with units of "1", there is no unit.
        name: stands in for the long name.
    """
    own = array.attrs.get("long_name") or str(array.name or "").replace("_", " ")
    unit = array.attrs.get("units", "1")
    return f"{name or own} [{unit}]" if unit not in ("", "1") else name or own


def save(fig: Figure, folder: Path, stem: str = "figure") -> tuple[Path, Path]:
    """Write a figure as PNG (150 dots an inch) and SVG, the same bytes for the same figure.

    Returns:
        The paths of the two files; the folder is made where it is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{stem}.png", folder / f"{stem}.svg"
    with mpl.rc_context(STYLE):
        for _ in range(2):  # the layout needs two drawings to settle; then it is kept
            fig.draw_without_rendering()
        fig.set_layout_engine("none")
        fig.savefig(png, dpi=150)
        fig.savefig(svg, dpi=150, metadata={"Date": None})
    return png, svg


def _hued_lines(ax: Axes, data: xr.DataArray, hue: str) -> None:
    """Draw `[hue, x]` data line by line, with a legend."""
    text = _is_text(data[hue])
    data = data if text else data.sortby(hue)
    count, along = data.sizes[hue], data[data.dims[1]]
    shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.9, count))
    named = range(count)
    if not text and count > MAX_LEGEND:
        named = np.linspace(0, count - 1, MAX_LEGEND).round().astype(int)
    for number, (value, line) in enumerate(zip(data[hue].values, data.values, strict=True)):
        colour = PALETTE[number % len(PALETTE)] if text else shades[number]
        style = ("-", "--", ":", "-.")[number // len(PALETTE) % 4] if text else "-"
        name = (str(value) if text else f"{value:.4g}") if number in named else None
        drawn = {"color": colour, "linestyle": style, "marker": _marker(along)}
        ax.plot(along.values, line, **drawn, linewidth=2, markersize=4, label=name)
    ax.legend(title=axis_label(data[hue]), fontsize=10, title_fontsize=10, frameon=False)


def _edges(coordinate: xr.DataArray, *, log: bool) -> np.ndarray:
    """Return the borders of cells around coordinates in order, one more than there are."""
    if _is_text(coordinate):
        return np.arange(coordinate.size + 1) - 0.5
    centres = coordinate.values.astype(float)
    if log and not (centres > 0).all():
        raise ValueError(
            f"heatmap: a log axis needs positive values, got {coordinate.name} from {centres[0]:g}"
        )
    centres = np.log(centres) if log else centres
    if centres.size == 1:
        edges = centres[0] + np.array([-0.5, 0.5])
    else:
        inner = (centres[1:] + centres[:-1]) / 2
        edges = np.concatenate([[2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]])
    return np.exp(edges) if log else edges


def _marker(along: xr.DataArray) -> str:
    """Return dots for few values, so that one between two NaN is seen."""
    return "o" if along.size <= 32 else ""


def _is_text(coordinate: xr.DataArray) -> bool:
    return coordinate.dtype.kind not in "iuf"


def _check_dims(drawing: str, data: xr.DataArray, wanted: tuple[Hashable, ...]) -> None:
    if set(data.dims) != set(wanted) or len(set(wanted)) < len(wanted):
        raise ValueError(
            f"{drawing}: expected an array over {wanted}, got one over {data.dims}; "
            "select from or average over the other dimensions"
        )
