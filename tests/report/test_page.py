"""The page of all studies: complete, self-contained, and safe whatever the texts say."""

import json
import re
from html.parser import HTMLParser

import pytest

from jaxnn import report

SVG = """<?xml version="1.0"?>
<!DOCTYPE svg>
<svg viewBox="0 0 10 10"><clipPath id="p1"><path/></clipPath>
<g id="axes" clip-path="url(#p1)"><use xlink:href="#p1"/></g></svg>"""
CLAIM = {
    "statement": "a < b & c",
    "source": "us",
    "value": 1.25,
    "standard_error": None,
    "expected": 1.2,
    "bound": "at most 2",
    "holds": True,
    "error": "",
}


def write(folder, name, claims, **manifest):
    (folder / name).mkdir()
    (folder / name / "manifest.json").write_text(json.dumps(manifest))
    (folder / name / "claims.json").write_text(json.dumps(claims))
    (folder / name / "figure.svg").write_text(SVG)


@pytest.fixture
def folder(tmp_path):
    failed = {**CLAIM, "holds": False, "value": None, "error": "KeyError: <x>"}
    facts = {"about": "Why?", "members": 1200, "wall_seconds": 3.4, "scale": "quick", "seed": 5}
    write(tmp_path, "first", [CLAIM, failed], commit="abc", **facts)
    write(tmp_path, "second", [CLAIM])
    (tmp_path / "bench").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "manifest.json").write_text("{}")
    return tmp_path


def test_index_holds_the_studies_that_ended(folder):
    report.save_page(folder)
    first, second = json.loads((folder / "index.json").read_text())
    assert (first["name"], first["held"], first["failed"]) == ("first", 1, 1)
    assert (first["members"], first["wall_seconds"], first["seed"]) == (1200, 3.4, 5)
    assert (second["name"], second["held"], second["members"]) == ("second", 1, 0)


class Links(HTMLParser):
    """Collects ids, references and addresses."""

    def __init__(self):
        super().__init__()
        self.ids, self.used, self.outside = [], set(), []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif found := re.search(r"#([\w-]+)", value or ""):
                self.used.add(found[1])
            elif name in ("src", "href"):
                self.outside.append(value)


def test_page_needs_nothing_beside_itself_and_its_references_meet(folder):
    report.save_page(folder)
    links = Links()
    links.feed((folder / "index.html").read_text())
    assert len(set(links.ids)) == len(links.ids)  # figures share no ids
    assert {"first", "second", "first-p1", "second-p1"} <= set(links.ids)
    assert links.used <= set(links.ids)
    assert links.outside == []


def test_texts_are_escaped_and_failures_shown(folder):
    report.save_page(folder)
    page = (folder / "index.html").read_text()
    assert "a &lt; b &amp; c" in page
    assert "KeyError: &lt;x&gt;" in page
    assert "<?xml" not in page
    assert page.count('class="no">no<') == 1


def test_table_has_a_row_for_each_study(folder):
    table = report.summary_table(report.read_studies(folder))
    assert table.row_count == 2
    assert list(table.columns[3].cells) == ["1,200", "0"]
