"""All studies of a results folder on one page, and in one table.

A study's part is made from its `manifest.json`, `claims.json` and `figure.svg` alone, so the page
shows whatever has been run so far. It needs nothing beside itself: figures stand in it as SVG.
"""

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnn.report.claims import measured_text
from jaxnn.report.results import read_manifest, strict_json, write_text

if TYPE_CHECKING:
    from rich.table import Table

SUMMARY = ("name", "about", "held", "failed", "members", "wall_seconds", "scale", "seed", "commit")


def read_studies(folder: Path) -> list[dict[str, Any]]:
    """Return what is known of each study in a results folder, by name.

    Args:
        folder: with a folder for each study; those that did not come to an end are left out.

    Returns:
        For each study its `name`, `about`, `scale`, `seed`, `commit`, `members`, `wall_seconds`,
        the counts `held` and `failed`, its `claims` in words, and its `figure` as SVG.
    """
    ended = (path.parent for path in sorted(folder.glob("*/manifest.json")))
    return [_study(each) for each in ended if (each / "figure.svg").exists()]


def save_page(folder: Path) -> list[dict[str, Any]]:
    """Write `index.json` and `index.html` of a results folder, and return its studies."""
    import jinja2  # here, so that importing jaxnn stays light

    studies = read_studies(folder)
    short = [{name: each[name] for name in SUMMARY} for each in studies]
    write_text(strict_json(short), folder / "index.json")
    loader = jinja2.PackageLoader("jaxnn.report", "")
    environment = jinja2.Environment(loader=loader, autoescape=True)
    page = environment.get_template("page.html").render(studies=studies)
    write_text(page, folder / "index.html")
    return studies


def summary_table(studies: list[dict[str, Any]]) -> "Table":
    """Return a table for `rich.console.Console.print`, a row for each study."""
    from rich.table import Table

    table = Table("study")
    for title in ("claims held", "failed", "members", "wall seconds"):
        table.add_column(title, justify="right")
    for each in studies:
        counts = (str(each["held"]), str(each["failed"]), f"{each['members']:,}")
        style = "bold red" if each["failed"] else None
        table.add_row(each["name"], *counts, f"{each['wall_seconds']:.0f}", style=style)
    return table


def _study(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder / "manifest.json") or {}
    claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    held = sum(each["holds"] for each in claims)
    known = {"about": "", "members": 0, "wall_seconds": 0.0, "scale": "", "seed": 0, "commit": ""}
    return {
        "name": folder.name,
        **{name: manifest.get(name, missing) for name, missing in known.items()},
        "held": held,
        "failed": len(claims) - held,
        "claims": [_in_words(each) for each in claims],
        "figure": _inline((folder / "figure.svg").read_text(encoding="utf-8"), folder.name),
    }


def _in_words(claim: dict[str, Any]) -> dict[str, Any]:
    value, error, expected = claim["value"], claim["standard_error"], claim["expected"]
    numbers = (math.nan if each is None else float(each) for each in (value, error))
    return {
        **claim,
        "expected": f"{expected:.6g}" if isinstance(expected, float) else expected,
        "measured": claim["error"] or measured_text(*numbers),
    }


def _inline(svg: str, name: str) -> str:
    """Return the figure without its prologue; its ids carry its name, for several share a page."""
    body = svg[svg.index("<svg") :]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
