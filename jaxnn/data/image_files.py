"""Readers of the two file formats that image tasks come in: idx and CIFAR's binary rows.

Both are plain bytes: nothing in them is executed, as it would be in a pickle. A file that is not
what it should be is refused by its name.
"""

import gzip
import math
import tarfile
import zlib
from pathlib import Path

import numpy as np

IDX_BYTES = b"\x00\x00\x08"  # how an idx file of unsigned bytes starts; the number of axes follows
CIFAR_IMAGE = (3, 32, 32)  # channel, height, width
CIFAR_ROW = 1 + math.prod(CIFAR_IMAGE)  # the class, then the pixels


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes, gzipped if its name ends in `.gz`.

    Raises:
        ValueError: it is no such file, or is cut off.

    Source:
        Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, "file formats".
    """
    content = _content(path)
    if content[:3] != IDX_BYTES:
        raise ValueError(
            f"{path} must be an idx file of unsigned bytes, which starts with the bytes "
            f"{IDX_BYTES.hex(' ')}, got {content[:3].hex(' ') or 'an empty file'}"
        )
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    sizes = np.frombuffer(content[4:start].ljust(start - 4, b"\xff"), ">u4").tolist()
    if len(content) - start != math.prod(sizes):
        raise ValueError(
            f"{path} is cut off or broken: its header tells of {sizes}, {math.prod(sizes)} bytes, "
            f"and {max(0, len(content) - start)} are there; get it anew"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as failure:
        raise ValueError(f"{path} is no whole gzip file ({failure}); get it anew") from failure


def read_cifar(path: Path, names: tuple[str, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read CIFAR-10's binary batches from the published archive or a folder.

    Args:
        path: a `.tar.gz` file, or the folder that holds the batches.
        names: of the batches.

    Returns:
        For each name, images uint8 `[image, 32, 32, 3]` and classes uint8 `[image]`.

    Raises:
        ValueError: a batch is missing or no whole number of rows.

    Source:
        A. Krizhevsky (2009), Learning multiple layers of features from tiny images; the layout as
        described beside the data set.
    """
    if path.is_dir():
        batches = {name: (path / name).read_bytes() for name in names}
    else:
        batches = _archived(path, names)
    return [_cifar_batch(f"{path}: {name}", batches[name]) for name in names]


def _archived(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Read files by name from an archive, in one pass; nothing is unpacked to disk."""
    found = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and Path(member.name).name in names:
                    found[Path(member.name).name] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as failure:
        raise ValueError(f"{path} is no whole .tar.gz file ({failure}); get it anew") from failure
    if missing := sorted(set(names) - set(found)):
        raise ValueError(f"{path} must hold {', '.join(names)}, got none of {', '.join(missing)}")
    return found


def _cifar_batch(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not content or len(content) % CIFAR_ROW:
        raise ValueError(
            f"{name} must be rows of {CIFAR_ROW} bytes (the class, then 3 x 32 x 32 pixels), got "
            f"{len(content)} bytes; get the binary version anew"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_ROW)
    return rows[:, 1:].reshape(-1, *CIFAR_IMAGE).transpose(0, 2, 3, 1), rows[:, 0]
