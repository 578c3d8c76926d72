"""Times jaxnn beside what a researcher would write instead, on the same work, in the same minutes.

    python scripts/bench.py                            everything: tens of minutes on two cores
    python scripts/bench.py sweep --scale quick        one part, small
    python scripts/bench.py sweep --contenders torch_eager jax_depth_vmap

Parts: `sweep` (depths by gains, all contenders), `population` and `width` (how speed grows with
them), `fractal` (a hand-written run against the fractal study's own way), `probes` (what measuring
costs), `curvature` (20 Lanczos steps against 25 gradients). Results go to `results/bench/`:
`bench.json`, `table.md`, `figure.png`, `figure.svg`. Packages that are not installed are skipped,
and the table says so.
"""

import difflib
import functools
import itertools
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import bench_report
import tyro
from bench_contenders import CONTENDERS, CURVATURE, FRACTAL, PROBED
from bench_measure import Measurement, measure
from bench_problems import DepthSweep, Problem, RateSweep

Part = Literal["sweep", "population", "width", "fractal", "probes", "curvature"]
PARTS: tuple[Part, ...] = get_args(Part)
POPULATION = ("jaxnn", "jax_depth_vmap", "jax_one_by_one")


@dataclass(frozen=True)
class Options:
    """Time jaxnn beside what a researcher would write instead; results must agree first."""

    parts: tyro.conf.Positional[tuple[Part, ...]] = PARTS
    """What to measure."""
    scale: Literal["quick", "reference"] = "reference"
    """Size of the problems."""
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    """Who takes part in the sweep beside jaxnn, by name."""
    rounds: int = 5
    """Times that each contender is timed."""
    sample: int | None = None
    """Gains of each depth that PyTorch eager trains; its times are then extrapolated."""
    out: Path = Path("results")
    """Folder of the results."""


class Sizes(NamedTuple):
    """How large the parts are at a scale."""

    sweep: DepthSweep
    population_depth: int
    populations: tuple[int, ...]
    width_depth: int
    widths: tuple[int, ...]
    fractal: RateSweep


SMALL = DepthSweep(depths=(2, 4), num_gains=2, num_steps=10)
SCALES = {
    "quick": Sizes(SMALL, 2, (1, 4), 2, (16, 32), RateSweep(grid=8, num_steps=30)),
    "reference": Sizes(
        DepthSweep(), 4, (1, 4, 16, 64, 256, 1024), 8, (16, 32, 64, 128, 256, 512), RateSweep()
    ),
}


class Work(NamedTuple):
    """A part: its title, its contenders with the baseline first, and its problems."""

    title: str
    contenders: tuple[str, ...]
    problems: tuple[Problem, ...]


def work(part: Part, options: Options) -> Work:
    """Return what a part consists of."""
    sizes = SCALES[options.scale]
    sweep = replace(sizes.sweep, sample=options.sample)
    if part == "sweep":
        others = (name for name in options.contenders if name != "jaxnn")
        return Work("Depths by gains", ("jaxnn", *others), (sweep,))
    if part == "population":
        shallow = replace(sweep, depths=(sizes.population_depth,))
        grown = tuple(replace(shallow, num_gains=count) for count in sizes.populations)
        return Work(f"Population, at depth {sizes.population_depth}", POPULATION, grown)
    if part == "width":
        narrow = replace(sweep, depths=(sizes.width_depth,))
        widened = tuple(replace(narrow, width=width) for width in sizes.widths)
        return Work(f"Width, at depth {sizes.width_depth}", ("jaxnn",), widened)
    if part == "fractal":
        return Work("Fractal study: learning rates of two layers", tuple(FRACTAL), (sizes.fractal,))
    if part == "curvature":
        many = 16 * sweep.num_gains  # so that building programs does not count
        start = replace(sweep, depths=(sizes.width_depth,), num_steps=0, num_gains=many)
        return Work("Curvature at initialisation", tuple(CURVATURE), (start,))
    probed = replace(sweep, probe_size=sweep.batch_size)
    return Work("Probes, on as many examples as a batch", tuple(PROBED), (probed,))


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if all is well, 1 if a contender fails or disagrees, 2 on wrong usage."""
    options = tyro.cli(Options, args=argv, prog="bench.py")
    if mistake := _mistake(options):
        print(f"bench.py: {mistake}", file=sys.stderr)
        return 2
    start = bench_report.machine()
    works: dict[Part, Work] = {part: work(part, options) for part in dict.fromkeys(options.parts)}
    results: dict[Part, list[Measurement]] = {
        part: solve(part, each, options.rounds) for part, each in works.items()
    }
    save(works, results, options, start)
    missing = [part for part, each in works.items() if len(results[part]) < len(each.problems)]
    return 1 if missing or not all(map(is_well, itertools.chain(*results.values()))) else 0


def solve(part: str, work: Work, rounds: int) -> list[Measurement]:
    """Measure a part's problems; one that raises is told and left out."""
    results = []
    for number, problem in enumerate(work.problems, 1):
        say = functools.partial(print, f"{part} {number} of {len(work.problems)}:", flush=True)
        try:
            results.append(measure(problem, work.contenders, rounds, say))
        except Exception:
            traceback.print_exc()
    return results


def is_well(found: Measurement) -> bool:
    """Return whether every contender whose packages are there has figures."""
    return all(outcome.figures or outcome.skipped for outcome in found.outcomes.values())


def save(
    works: Mapping[Part, Work],
    results: Mapping[Part, list[Measurement]],
    options: Options,
    start: dict[str, Any],
) -> None:
    """Print the tables, and write them with the figure and all numbers.

    What is heavy to import is imported here, when no worker will be started any more: on Linux the
    peak memory of a process is at least that of the process that started it.
    """
    from rich.console import Console
    from xarray import Dataset

    from jaxnn import report
    from jaxnn.report import figures

    folder = options.out.resolve() / "bench"
    found: dict[Part, list[Measurement]] = {p: each for p, each in results.items() if each}
    tables = [bench_report.table(part, works[part].title, each) for part, each in found.items()]
    console = Console() if sys.stdout.isatty() else Console(width=200)
    for each in tables:
        each.show(console)
    words = ["# Benchmark", bench_report.setting(start), *bench_report.FAIRNESS]
    text = "\n\n".join([*words, *(each.markdown() for each in tables)])
    report.write_text(text, folder / "table.md")
    manifest = report.manifest(
        options,
        about=(__doc__ or "").partition("\n")[0],
        scale=options.scale,
        seed=0,
        members=sum(len(problem.members) for each in works.values() for problem in each.problems),
        wall_seconds=time.time() - start["time"],
        ds=Dataset(),
        source=Path(__file__),
    )
    told = {**manifest, "start": start, "end": bench_report.machine(), "parts": results}
    report.write_text(report.strict_json(bench_report.plain(told)), folder / "bench.json")
    if drawn := bench_report.figure(found):
        figures.save(drawn, folder)
    print(f"the results are in {folder}")


def _mistake(options: Options) -> str:
    """Return what is wrong with the options, or nothing."""
    if unknown := [name for name in options.contenders if name not in CONTENDERS]:
        close = difflib.get_close_matches(unknown[0], CONTENDERS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        known = ", ".join(CONTENDERS)
        return f"unknown contender {unknown[0]!r}{hint} The contenders are: {known}"
    for name, value in (("rounds", options.rounds), ("sample", options.sample)):
        if value is not None and value < 1:
            return f"--{name}: expected at least 1, got {value}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
