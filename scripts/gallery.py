"""Shrink the figures of a results folder into the README's gallery: `python scripts/gallery.py`."""

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "experiments" / "figures"
WIDTH = 840  # pixels: twice a column's, for screens of high density


def main(results: Path) -> None:
    """Write a smaller copy of each study's figure."""
    GALLERY.mkdir(exist_ok=True)
    for path in sorted(results.glob("*/figure.png")):
        figure = Image.open(path).convert("RGB")
        size = (WIDTH, round(WIDTH * figure.height / figure.width))
        small = figure.resize(size, Image.Resampling.LANCZOS)
        small.save(GALLERY / f"{path.parent.name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results")
