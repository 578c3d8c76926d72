"""What bench.py tells: tables as Markdown and on the terminal, a figure, and everything as JSON.

Importing this module is light. Drawing and saving import jaxnn.
"""

import dataclasses
import importlib.metadata
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_contenders import ENTRIES, PRODUCT_SIZE
from bench_measure import STABLE, TOLERANCE, Figures, Measurement, Outcome, Spread, spread
from bench_workers import ENVIRONMENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = ("jaxnn", "jax", "jaxlib", "numpy", "torch", "equinox")
SHARE = "share of the matrix product's rate [%]"
FAIRNESS = (
    "Contenders other than jaxnn are given initial weights and the indices of all batches; jaxnn "
    "draws them itself, measures its probes and writes a store on disk, all inside its times.",
    "Medians over the rounds, with the range in brackets. In every round each contender sweeps "
    "once, in turns, in a process of its own; ratios and shares are of times of the same round.",
    "Measured once, on the first sweep: the times to the first result, to all results and to the "
    "end of the imports, each from the start of the process; and compile, what the first sweep "
    "took longer than a warm one. Memory is the largest resident size of the process.",
    f"Results agree with those of plain JAX in float64 to {TOLERANCE:g}, relative, or no time is "
    f"quoted. Members whose result moves by more than {STABLE:g} between float32 and float64, or "
    "when the initial weights move by a few rounding errors, are not compared.",
)


class Series(NamedTuple):
    """How a part that solves a problem at several sizes is told."""

    size: str  # the field of the problem that varies
    label: str
    figure: str  # the field of `Figures` that is told
    figure_label: str
    factor: float = 1.0  # to the figure's unit
    log_y: bool = False


SERIES = {
    "population": Series("num_gains", "members", "members_per_second", "members/s", log_y=True),
    "width": Series("width", "width [units]", "product_share", SHARE, 100.0),
}


class Table(NamedTuple):
    """A table as text."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"## {self.title}", "", _line(self.head)]
        lines += [_line(["---", *["--:"] * (len(self.head) - 1)]), *map(_line, self.rows), ""]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes), ""])

    def show(self, console: Any) -> None:
        """Print the table to a rich console."""
        from rich.table import Table as RichTable

        drawn = RichTable(title=self.title, title_justify="left")
        for number, name in enumerate(self.head):
            drawn.add_column(name, justify="right" if number else "left")
        for row in self.rows:
            drawn.add_row(*row)
        console.print(drawn)
        for note in self.notes:
            console.print(f"  {note}", markup=False, highlight=False)


def table(part: str, title: str, found: Sequence[Measurement]) -> Table:
    """Return the table of a part: every figure of its problem, or one of each in a series."""
    if part in SERIES:
        return _series_table(title, found, SERIES[part])
    return _table(title, found[0])


def _table(title: str, found: Measurement) -> Table:
    """Return the table of one problem, with every figure."""
    head = (
        "contender",
        "members/s",
        "GFLOP/s",
        "share of matrix product",
        "warm sweep [s]",
        "time, relative to the first row's",
        "compile [s]",
        "first result [s]",
        "all results [s]",
        "imports [s]",
        "peak memory [MB]",
        "largest difference",
    )
    rows = []
    for outcome in found.outcomes.values():
        cells = _cells(outcome.figures) if outcome.figures else ("–",) * (len(head) - 2)
        difference = outcome.largest_difference
        rows.append((outcome.title, *cells, "–" if difference is None else f"{difference:.1e}"))
    return Table(title, head, rows, [_conditions(found), *_notes(found)])


def _cells(figures: Figures) -> tuple[str, ...]:
    relative = figures.relative_time
    return (
        _number(figures.members_per_second.median),
        _number(figures.flops_per_second.median / 1e9),
        f"{figures.product_share.median:.1%}",
        _spread(figures.seconds),
        _spread(relative) if relative else "–",
        _number(figures.compile_seconds),
        _number(figures.first_result_seconds),
        _number(figures.cold_seconds),
        _number(figures.import_seconds),
        _number(figures.peak_bytes / 1e6),
    )


def _series_table(title: str, found: Sequence[Measurement], series: Series) -> Table:
    """Return the table of one figure against the problem's size."""
    names = list(found[0].outcomes)
    rows = []
    for each in found:
        told = [_told(each.outcomes[name], series) for name in names]
        cells = [_spread(value) if value else "–" for value in told]
        product = _number(each.product_flops_per_second.median / 1e9)
        rows.append((str(getattr(each.problem, series.size)), *cells, product))
    columns = [f"{ENTRIES[name].title}: {series.figure_label}" for name in names]
    notes = list(dict.fromkeys(note for each in found for note in _notes(each)))
    return Table(title, (series.label, *columns, "matrix product [GFLOP/s]"), rows, notes)


def _told(outcome: Outcome, series: Series) -> Spread | None:
    """Return the figure that a series is about, in its unit; None where there is none."""
    if outcome.figures is None:
        return None
    found: Spread = getattr(outcome.figures, series.figure)
    return spread([series.factor * each for each in found.rounds])


def _conditions(found: Measurement) -> str:
    product = _spread(spread([rate / 1e9 for rate in found.product_flops_per_second.rounds]))
    return (
        f"{len(found.problem.members)} members, {found.num_compared} of them compared; "
        f"{found.problem.matrix_flops / 1e9:.4g} GFLOP of matrix products; the {PRODUCT_SIZE} x "
        f"{PRODUCT_SIZE} float32 product runs at {product} GFLOP/s on {found.device}."
    )


def _notes(found: Measurement) -> list[str]:
    told = ((outcome.title, outcome) for outcome in found.outcomes.values())
    notes = []
    for title, outcome in told:
        reason = f"no figures: {outcome.refusal}" if outcome.refusal else ""
        notes += [f"{title}: {text}." for text in (reason, outcome.note) if text]
    return notes


def figure(results: Mapping[Any, Sequence[Measurement]]) -> "Figure | None":
    """Draw the series that were measured, a panel each; None if there are none."""
    from jaxnn.report import figures

    parts = [part for part in SERIES if results.get(part)]
    if not parts:
        return None
    fig, axes = figures.new_figure(ncols=len(parts))
    for part, ax in zip(parts, [axes] if len(parts) == 1 else axes, strict=True):
        _draw(ax, results[part], SERIES[part])
    return fig


def _draw(ax: Any, found: Sequence[Measurement], series: Series) -> None:
    """Draw one line for each contender, with bars from the lowest to the highest round."""
    for name, marker in zip(found[0].outcomes, "osD^v<>", strict=False):
        told = [(each, _told(each.outcomes[name], series)) for each in found]
        known = [(getattr(each.problem, series.size), value) for each, value in told if value]
        if not known:
            continue
        sizes = [size for size, _ in known]
        medians = [value.median for _, value in known]
        below = [value.median - value.low for _, value in known]
        above = [value.high - value.median for _, value in known]
        style = {"marker": marker, "capsize": 3, "label": ENTRIES[name].title}
        ax.errorbar(sizes, medians, (below, above), **style)
    sizes = [getattr(each.problem, series.size) for each in found]
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set(xlabel=series.label, ylabel=series.figure_label)
    if series.log_y:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=10)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on and no package knows."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "time": time.time(),
        "load_average": os.getloadavg()[0],
        "environment": ENVIRONMENT,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def setting(start: dict[str, Any]) -> str:
    """Return in words what `machine` found when the benchmark began."""
    versions = ", ".join(f"{name} {version}" for name, version in start["versions"].items())
    return (
        f"{start['processor']}, {start['cores']} cores, load average {start['load_average']:.2f} "
        f"before the first process was started. {versions}."
    )


def plain(value: Any) -> Any:
    """Return records as dictionaries of plain values, whatever kind of record they are."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def _processor() -> str:
    """Return the processor's name where Linux tells it, else what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _spread(value: Spread) -> str:
    return f"{_number(value.median)} [{_number(value.low)}, {_number(value.high)}]"


def _number(value: float) -> str:
    """Return a number with about three digits, and no power of ten unless it is tiny."""
    if value != 0 and abs(value) < 0.1:
        return f"{value:.3g}"
    return f"{value:,.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"
