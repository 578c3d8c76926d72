"""A study's results on disk: its dataset and the manifest that says where it comes from.

Whatever is written appears whole or not at all, and a manifest is written after the data it
describes, so a kill at any moment leaves no result that looks finished and is not.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

PACKAGES = ("jaxnn", "jax", "flax", "optax")


def sweeps_folder(folder: Path, config: Any, seed: int) -> Path:
    """Return where a run keeps its sweeps: one place for each config and seed, so all resume."""
    text = strict_json([dataclasses.asdict(config), seed])
    return folder / "sweeps" / hashlib.sha256(text.encode()).hexdigest()[:12]


def save_run(ds: "xr.Dataset", made: dict[str, Any], folder: Path) -> None:
    """Write `data.zarr`, then the `manifest.json` that vouches for it."""
    (folder / "manifest.json").unlink(missing_ok=True)
    save_dataset(ds, folder / "data.zarr")
    write_text(strict_json(made), folder / "manifest.json")


def save_dataset(ds: "xr.Dataset", path: Path) -> None:
    """Write a dataset as a zarr v3 store, in the place of what the path held.

    Text is stored at variable length: zarr v3 has no specification for text of a fixed length.
    """
    texts = {n: v.astype(object) for n, v in ds.variables.items() if v.dtype.kind in "UT"}
    partial = path.with_name(path.name + ".partial")
    _remove(partial)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = ds.drop_encoding().assign(texts)
    plain.to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
    _remove(path)
    os.replace(partial, path)


def load_dataset(path: Path) -> "xr.Dataset":
    """Read a dataset that `save_dataset` wrote, into memory, with the dtypes it had."""
    import xarray as xr

    with xr.open_dataset(path, engine="zarr", consolidated=False, chunks=None) as opened:
        ds = opened.load()
    texts = {n: v for n, v in ds.variables.items() if v.dtype.kind in "OT"}
    return ds.assign({name: each.astype(object).astype(str) for name, each in texts.items()})


def manifest(
    config: Any,
    *,
    about: str,
    scale: str,
    seed: int,
    members: int,
    wall_seconds: float,
    ds: "xr.Dataset",
    source: Path,
) -> dict[str, Any]:
    """Return what is needed to repeat a run, as plain values.

    Args:
        config: the study's dataclass.
        about: what the study asks, in a line.
        scale: the name of the scale that the config starts from.
        seed: root of all random keys.
        members: of all its sweeps.
        wall_seconds: time of the run, in seconds.
        ds: what the run returned; its attribute `compile_seconds` is kept where it has one.
        source: the study's file, whose git commit is recorded.
    """
    import jax

    devices = jax.devices()
    found = {
        **_identity(config, scale, seed),
        "about": about,
        "members": members,
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": _commit(source),
        "devices": {"kind": devices[0].device_kind, "count": len(devices)},
        "wall_seconds": round(wall_seconds, 3),
    }
    if "compile_seconds" in ds.attrs:
        found["compile_seconds"] = round(float(ds.attrs["compile_seconds"]), 3)
    return found


def is_current(known: dict[str, Any] | None, config: Any, *, scale: str, seed: int) -> bool:
    """Return whether a manifest is of a run with this config, scale and seed."""
    wanted = json.loads(strict_json(_identity(config, scale, seed)))
    return known is not None and all(known.get(name) == each for name, each in wanted.items())


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return a manifest from disk; None where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_text(text: str, path: Path) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def strict_json(value: Any) -> str:
    """Return JSON that any reader takes: NaN becomes null, infinities the texts "inf" and "-inf".

    Raises:
        TypeError: a value is no number, text, bool, None, path, or list or dictionary of them.

    Example:
        >>> print(strict_json({"rate": float("nan"), "clip": float("inf")}))
        {
          "rate": null,
          "clip": "inf"
        }
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _identity(config: Any, scale: str, seed: int) -> dict[str, Any]:
    return {"config": dataclasses.asdict(config), "scale": scale, "seed": seed}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit(source: Path) -> str:
    """Return the git commit of a file's checkout, marked where files differ from it."""
    command = ["git", "-C", str(source.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
