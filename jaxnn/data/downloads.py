"""Published files, found on disk or downloaded once: never used before their checksum agrees.

A download is written beside its place and renamed into it when it is whole and right, so a process
that is killed leaves no half file, and several may download at once.
"""

import hashlib
import http.client
import os
import urllib.request
import uuid
from pathlib import Path
from typing import NamedTuple

BLOCK = 2**20  # bytes read at a time
TIMEOUT = 30.0  # seconds without an answer


class Source(NamedTuple):
    """A published task: its files, what they must be, and where they are to be had."""

    name: str  # also of its folder in the cache directory
    checksums: dict[str, str]  # file name -> sha256
    mirrors: tuple[str, ...]  # addresses of folders that hold the files, tried in turn


def task_directory(source: Source, directory: str | os.PathLike[str] | None) -> Path:
    """Return where a task's files are: the directory that is given, or one in the user's cache."""
    if directory is not None:
        return Path(directory)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "jaxnn" / source.name


def checked_file(source: Source, name: str, directory: Path, download: bool) -> Path:
    """Return the path of a file whose checksum is right, downloading it where it is missing.

    Args:
        source: the task.
        name: of the file, a key of `source.checksums`.
        directory: where it is or goes to.
        download: whether a missing file may be downloaded.

    Raises:
        ValueError: the file is there, but is not the published one.
        FileNotFoundError: it is missing and could not be had; the message says what to put where.
    """
    path, expected = directory / name, source.checksums[name]
    if not path.exists():
        _fetch(source, name, path, download)
    elif (found := _sha256(path)) != expected:
        raise ValueError(
            f"{path} is not the {name} of {source.name}: its sha256 is {found}, expected "
            f"{expected}; delete it to have it downloaded, or get it from {source.mirrors[0]}{name}"
        )
    return path


def _fetch(source: Source, name: str, path: Path, download: bool) -> None:
    """Download a file from the first mirror that gives the right one."""
    failures = [] if download else ["download=False"]
    for mirror in source.mirrors if download else ():
        try:
            return _download(mirror + name, source.checksums[name], path)
        except (OSError, http.client.HTTPException, ValueError) as failure:
            failures.append(f"{mirror + name}: {failure}")
    raise FileNotFoundError(
        f"{name} of {source.name} is not in {path.parent} and was not downloaded "
        f"({'; '.join(failures)}). Without a network, get {', '.join(source.checksums)} from "
        f"{' or '.join(source.mirrors)} and put them in that directory, or say where they are by "
        "directory=..."
    )


def _download(url: str, expected: str, path: Path) -> None:
    """Download to a file beside the path, and rename it once it is checked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, partial.open("xb") as file:
            announced = response.headers.get("Content-Length")
            while block := response.read(BLOCK):
                file.write(block)
        size = partial.stat().st_size
        if announced is not None and size != int(announced):
            raise ValueError(f"cut off after {size} of {announced} bytes")
        if (found := _sha256(partial)) != expected:
            raise ValueError(f"what came has the sha256 {found}, expected {expected}")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
