"""The gallery holds a smaller copy of each figure."""

import importlib.util
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "gallery.py"


def test_each_figure_is_shrunk_to_the_width_of_the_gallery(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("gallery_under_test", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "GALLERY", tmp_path / "gallery")
    for name, size in {"wide": (2000, 500), "tall": (1000, 2000)}.items():
        (tmp_path / name).mkdir()
        Image.new("RGBA", size, "#0072B2").save(tmp_path / name / "figure.png")
    script.main(tmp_path)
    for name, height in {"wide": script.WIDTH // 4, "tall": script.WIDTH * 2}.items():
        copy = Image.open(tmp_path / "gallery" / f"{name}.png")
        assert copy.size == (script.WIDTH, height)
        assert copy.getpixel((0, 0)) == (0, 0x72, 0xB2)
