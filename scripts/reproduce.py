"""Run studies, check their claims and draw their figures: `python scripts/reproduce.py --list`.

A study is a module in experiments/. Its data is kept in OUT/NAME/data.zarr and made again only if
its config, scale or seed change, or with --fresh; claims and figure are always made from that file.
"""

import ast
import difflib
import importlib
import logging
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import tyro

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Options:
    """Run studies by NAME, check their claims, draw their figures.

    Any field of a study's Config is an option too when one study is named: NAME --help shows them.
    """

    scale: Literal["quick", "default", "paper"] = "default"
    """Size of the study."""
    out: Path = Path("results")
    """Folder of the results."""
    seed: int = 0
    """Root of all random keys."""
    fresh: bool = False
    """Run again, whatever is stored."""
    list: bool = False
    """List the studies and stop."""
    all: bool = False
    """Run every study."""
    keep_compiled: bool = False
    """Keep compiled programs in the user's cache directory, for later runs."""


def main(argv: Sequence[str] | None = None, *, studies: Path = ROOT / "experiments") -> int:
    """Return 0 if all claims hold, 1 if one fails or a study raises, 2 on wrong usage."""
    args = list(sys.argv[1:] if argv is None else argv)
    first = next((i for i, each in enumerate(args) if each.startswith("-")), len(args))
    names, rest = list(dict.fromkeys(args[:first])), args[first:]
    help_flags = [each for each in rest if each in ("-h", "--help")] if len(names) == 1 else []
    options, overrides = tyro.cli(
        Options,
        args=[each for each in rest if each not in help_flags],
        prog="reproduce.py NAME...",
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    known = {path.stem: path for path in sorted(studies.glob("[!_]*.py"))}
    if mistake := _mistake(options, names, overrides, list(known)):
        print(f"reproduce.py: {mistake}", file=sys.stderr)
        return 2
    if options.list:
        for name, path in known.items():
            print(f"{name:24} {_summary(ast.get_docstring(ast.parse(path.read_text('utf-8'))))}")
        return 0
    sys.path[:0] = [each for each in (str(studies.parent), str(ROOT)) if each not in sys.path]
    outcomes = {}
    for name in known if options.all else names:
        outcomes[name] = attempt(f"{studies.name}.{name}", options, [*overrides, *help_flags])
    tell_all(options.out.resolve())
    print("", *(f"{name}: {text}" for name, (text, _) in outcomes.items()), sep="\n")
    return 0 if all(good for _, good in outcomes.values()) else 1


def attempt(module: str, options: Options, overrides: list[str]) -> tuple[str, bool]:
    """Reproduce one study; return its outcome in words, and whether all is well."""
    try:
        study = importlib.import_module(module)
        config = parse_config(study, options, overrides)
        verdicts = reproduce(study, config, options)
    except Exception as error:
        traceback.print_exc()
        return f"failed, {type(error).__name__}: {error} (--fresh starts its sweeps afresh)", False
    count = sum(each.holds for each in verdicts)
    return f"{count} of {len(verdicts)} claims hold", count == len(verdicts)


def tell_all(folder: Path) -> None:
    """Write the page of all studies in the results folder, and print their table."""
    from rich.console import Console

    from jaxnn import report

    if studies := report.save_page(folder):
        Console().print(report.summary_table(studies))
        print(f"all studies so far: {folder / 'index.html'}")


def parse_config(study: ModuleType, options: Options, overrides: list[str]) -> Any:
    """Return the study's config at the chosen scale, with the overrides in it."""
    taken = {each.name for each in fields(study.Config)} & {each.name for each in fields(Options)}
    if taken:
        raise ValueError(f"{study.__name__}.Config: {sorted(taken)} are options of reproduce.py")
    return tyro.cli(
        study.Config,
        default=study.SCALES[options.scale],
        args=overrides,
        prog=f"reproduce.py {_name(study)}",
        description=f"{_summary(study.__doc__)} Defaults are those of --scale {options.scale}; "
        "reproduce.py --help shows the options that all studies share.",
    )


def reproduce(study: ModuleType, config: Any, options: Options) -> list[Any]:
    """Run a study or reuse its data, then judge and draw it from the file; return its verdicts."""
    from rich.console import Console

    from jaxnn import report
    from jaxnn.report import figures

    folder = options.out.resolve() / _name(study)
    print(f"\n{_name(study)}: {_summary(study.__doc__)}")
    print(f"  scale {options.scale}, seed {options.seed}")
    print(*(f"  {name} = {value}" for name, value in asdict(config).items()), sep="\n", flush=True)
    data, known = folder / "data.zarr", report.read_manifest(folder / "manifest.json")
    current = report.is_current(known, config, scale=options.scale, seed=options.seed)
    if known and current and data.exists() and not options.fresh:
        print(f"  data of commit {known['commit']} reused, --fresh runs again: {data}")
    else:
        run(study, config, options, folder)
    ds = report.load_dataset(data)
    verdicts = report.judge(study.CLAIMS, ds)
    report.write_text(report.claims_json(verdicts), folder / "claims.json")
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(report.table(verdicts))
    figures.save(study.figure(ds), folder)
    print(f"data.zarr, manifest.json, claims.json, figure.png and figure.svg are in {folder}")
    return verdicts


def run(study: ModuleType, config: Any, options: Options, folder: Path) -> None:
    """Run a study, and write its data and the manifest that vouches for it."""
    import jaxnn as jn
    from jaxnn import report

    store = report.sweeps_folder(folder, config, options.seed)
    if options.fresh:
        shutil.rmtree(store, ignore_errors=True)
    store.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("jaxnn").setLevel(logging.INFO)  # sweeps log their plans
    begin = time.perf_counter()
    if options.keep_compiled:
        jn.keep_compiled()
    ds = study.run(config, seed=options.seed, store=store)
    seconds, source = time.perf_counter() - begin, Path(study.__file__ or "")
    made = report.manifest(
        config,
        about=_summary(study.__doc__),
        scale=options.scale,
        seed=options.seed,
        members=count_members(store),
        wall_seconds=seconds,
        ds=ds,
        source=source,
    )
    report.save_run(ds, made, folder)


def count_members(store: Path) -> int:
    """Return how many members the sweeps in a folder have."""
    import zarr

    return sum(zarr.open_array(each, mode="r").shape[0] for each in store.glob("**/done"))


def _mistake(options: Options, names: list[str], overrides: list[str], known: list[str]) -> str:
    """Return what is wrong with the command line, or nothing."""
    if unknown := [each for each in names if each not in known]:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"unknown study {unknown[0]!r}{hint} The studies are: {', '.join(known) or 'none'}"
    if overrides and len(names) != 1:
        return f"{' '.join(overrides)}: a study's own options need one study, named first"
    if options.list or (options.all and known and not names):
        return ""
    if options.all:
        return "--all takes no names" if names else "there are no studies"
    return "" if names else "name a study, or use --all; --list shows the studies"


def _name(study: ModuleType) -> str:
    return study.__name__.rpartition(".")[2]


def _summary(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
