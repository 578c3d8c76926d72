"""Where a result comes from: versions, commit, machine."""

import importlib.metadata
import inspect
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jaxnn", "jax", "jaxlib", "flax", "optax")


def provenance(run: Callable[..., Any], devices: Any) -> dict[str, Any]:
    """Return what is needed to repeat a sweep: package versions, commit of the run, devices."""
    return {
        "run": f"{run.__module__}.{getattr(run, '__qualname__', type(run).__name__)}",
        "versions": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "python": platform.python_version(),
        "commit": _commit(run),
        "backend": jax.default_backend(),
        "devices": f"{devices.size} x {devices.flat[0].device_kind}",
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit(run: Callable[..., Any]) -> str:
    """Return the git commit of the run's file, marked where files differ from it."""
    try:
        folder = Path(inspect.getfile(inspect.unwrap(run))).resolve().parent
        described = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.check_output(described, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, TypeError, subprocess.CalledProcessError):
        return "unknown"
