"""Image files: the formats, what is refused, and downloads that fail; no network is used."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest

from jaxnn import data
from jaxnn.data import images

NUM_TRAIN, NUM_TEST = 120, 30
GENERATOR = np.random.default_rng(0)
IDX = {
    "train-images-idx3-ubyte": GENERATOR.integers(0, 256, (NUM_TRAIN, 4, 3), np.uint8),
    "train-labels-idx1-ubyte": (np.arange(NUM_TRAIN) % 10).astype(np.uint8),
    "t10k-images-idx3-ubyte": GENERATOR.integers(0, 256, (NUM_TEST, 4, 3), np.uint8),
    "t10k-labels-idx1-ubyte": (np.arange(NUM_TEST) % 10).astype(np.uint8),
}
BATCHES = images.CIFAR_BATCHES
PIXELS = {name: GENERATOR.integers(0, 256, (20, 32, 32, 3), np.uint8) for name in BATCHES}
LABELS = (np.arange(20) % 10).astype(np.uint8)


def idx_bytes(array):
    """The format as published: two zeros, type 8, the number of axes, big-endian sizes, bytes."""
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def cifar_bytes(pixels):
    """Rows of the class and the red, green and blue planes."""
    rows = [
        bytes([label]) + image.transpose(2, 0, 1).tobytes()
        for label, image in zip(LABELS, pixels, strict=True)
    ]
    return b"".join(rows)


def tar_bytes(files):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


PLAIN = {name: idx_bytes(array) for name, array in IDX.items()}
ZIPPED = {f"{name}.gz": gzip.compress(content) for name, content in PLAIN.items()}
BINARY = {name: cifar_bytes(PIXELS[name]) for name in BATCHES}
ARCHIVE = {images.CIFAR_ARCHIVE: tar_bytes({"readme.html": b"hello", **BINARY})}


def source(files, *mirrors):
    """A source like the published one, of other bytes."""
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return data.Source("tiny", checksums, mirrors or ("file:///nowhere/",))


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def originals(batch):
    """The pixels of a task that was not standardised, as bytes [image, ...]."""
    pixels = batch.x.astype(np.uint8)
    np.testing.assert_array_equal(pixels, batch.x)
    return pixels


def rows(array):
    return sorted(map(bytes, np.ascontiguousarray(array)))


@pytest.mark.parametrize("load", [data.mnist, data.fashion_mnist])
@pytest.mark.parametrize("files", [PLAIN, ZIPPED], ids=["plain", "gz"])
def test_idx_files_are_read_with_their_own_test_split(tmp_path, load, files):
    folder = write(tmp_path, files)
    options = {"source": source(ZIPPED), "download": False, "standardize": None}
    task = load(folder, flat=False, **options)
    assert task.train.x.shape == (100, 4, 3, 1)
    assert task.validation.x.shape == (20, 4, 3, 1)  # 2 of 12 of each class
    train = np.concatenate([originals(task.train), originals(task.validation)])
    assert rows(train) == rows(IDX["train-images-idx3-ubyte"][..., None])
    assert rows(originals(task.test)) == rows(IDX["t10k-images-idx3-ubyte"][..., None])
    by_pixels = dict(zip(map(bytes, IDX["t10k-images-idx3-ubyte"]), range(NUM_TEST), strict=True))
    places = [by_pixels[bytes(image)] for image in originals(task.test)]
    np.testing.assert_array_equal(task.test.y, IDX["t10k-labels-idx1-ubyte"][places])
    flat = load(folder, **options)
    np.testing.assert_array_equal(flat.train.x, task.train.x.reshape(100, 12))


def test_images_are_standardised_by_the_training_split(tmp_path):
    task = data.mnist(write(tmp_path, PLAIN), source=source(ZIPPED), seed=3)
    raw = data.mnist(tmp_path, source=source(ZIPPED), seed=3, standardize=None)
    mean, std = raw.train.x.mean(dtype=float), raw.train.x.std(dtype=float)
    for batch, original in zip(task[:3], raw[:3], strict=True):
        np.testing.assert_allclose(batch.x, (original.x - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"], ids=["here", "in_its_folder"])
def test_cifar_batches_are_read(tmp_path, folder):
    write(tmp_path / folder, BINARY)
    check_cifar(tmp_path)


def test_cifar_archive_is_read(tmp_path):
    check_cifar(write(tmp_path, ARCHIVE))
    assert sorted(path.name for path in tmp_path.iterdir()) == [images.CIFAR_ARCHIVE]


def check_cifar(folder):
    task = data.cifar10(
        folder, flat=False, source=source(ARCHIVE), download=False, standardize=None
    )
    assert (task.train.x.shape, task.validation.x.shape) == ((90, 32, 32, 3), (10, 32, 32, 3))
    train = np.concatenate([originals(task.train), originals(task.validation)])
    assert rows(train) == rows(np.concatenate([PIXELS[name] for name in BATCHES[:5]]))
    assert rows(originals(task.test)) == rows(PIXELS["test_batch.bin"])
    label = dict(zip(map(bytes, PIXELS["test_batch.bin"]), LABELS, strict=True))
    np.testing.assert_array_equal(task.test.y, [label[bytes(x)] for x in originals(task.test)])


def test_published_sources_are_complete():
    for each in (images.MNIST, images.FASHION_MNIST, images.CIFAR10):
        assert each.mirrors
        assert all(mirror.endswith("/") for mirror in each.mirrors)
        assert all(len(bytes.fromhex(checksum)) == 32 for checksum in each.checksums.values())
    checksums = [*images.MNIST.checksums.values(), *images.FASHION_MNIST.checksums.values()]
    assert len(set(checksums)) == 8


# Downloads


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`; one under /short/ breaks off half way."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    requests: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.requests.append(self.path)
        folder, _, name = self.path.strip("/").partition("/")
        if name not in self.files:
            return self.send_error(404)
        content = self.files[name]
        self.send_response(200)
        if folder != "unannounced":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if folder == "whole" else content[: len(content) // 2])
        return None

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on this machine; gives its address and the paths that were asked for."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(Handler, "files", {**ZIPPED, **ARCHIVE})
    monkeypatch.setattr(Handler, "requests", [])
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", Handler.requests
    running.shutdown()
    thread.join()
    running.server_close()


def test_download_goes_to_the_cache_once(tmp_path, monkeypatch, server):
    address, requests = server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    published = source(ZIPPED, f"{address}/whole/")
    first, again = data.mnist(source=published), data.mnist(source=published)
    np.testing.assert_array_equal(first.train.x, again.train.x)
    assert sorted(requests) == sorted(f"/whole/{name}" for name in ZIPPED)
    folder = tmp_path / "jaxnn" / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == sorted(ZIPPED)  # nothing half done


def test_cache_is_in_the_home_directory_where_xdg_is_not_set(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".cache" / "jaxnn" / "tiny", ZIPPED)
    assert data.mnist(source=source(ZIPPED), download=False).train.x.shape == (100, 12)


def test_file_address_serves_a_directory_of_choice(tmp_path):
    shelf = write(tmp_path / "shelf", ARCHIVE)
    task = data.cifar10(tmp_path / "new" / "place", source=source(ARCHIVE, f"{shelf.as_uri()}/"))
    assert task.train.x.shape == (90, 3072)
    assert (tmp_path / "new" / "place" / images.CIFAR_ARCHIVE).is_file()


def test_next_mirror_is_tried(tmp_path, server):
    address, requests = server
    published = source(ARCHIVE, f"{address}/short/", f"{address}/whole/")
    assert data.cifar10(tmp_path, source=published).train.x.shape == (90, 3072)
    assert requests == [f"/{folder}/{images.CIFAR_ARCHIVE}" for folder in ("short", "whole")]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("short", "cut off after|IncompleteRead|read.*more expected"),
        ("unannounced", "what came has the sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"),
        ("missing/deeper", "404"),
    ],
)
def test_failed_download_says_why_and_leaves_nothing(tmp_path, server, folder, reason):
    with pytest.raises(FileNotFoundError, match=reason):
        data.cifar10(tmp_path, source=source(ARCHIVE, f"{server[0]}/{folder}/"))
    assert list(tmp_path.iterdir()) == []


def test_wrong_content_is_never_used(tmp_path, server):
    checksums = dict.fromkeys(ZIPPED, "0" * 64)
    published = data.Source("tiny", checksums, (f"{server[0]}/whole/",))
    with pytest.raises(FileNotFoundError, match=f"expected {'0' * 64}"):
        data.mnist(tmp_path, source=published)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_message_says_what_to_put_where(tmp_path):
    nobody = "http://127.0.0.1:9/"  # the discard port, where nothing listens
    with pytest.raises(FileNotFoundError) as caught:
        data.fashion_mnist(tmp_path, source=source(ZIPPED, nobody))
    message = str(caught.value)
    for told in (str(tmp_path), nobody, *ZIPPED, "directory="):
        assert told in message
    with pytest.raises(FileNotFoundError, match="download=False"):
        data.cifar10(tmp_path, download=False)


# Files that are not what they should be


def with_bytes(files, name, content):
    return {**files, name: content}


IMAGES = "train-images-idx3-ubyte"
BROKEN_IDX = {
    "cut_off": (with_bytes(PLAIN, IMAGES, PLAIN[IMAGES][:-1]), "ubyte is cut off or broken.*1439"),
    "too_long": (with_bytes(PLAIN, IMAGES, PLAIN[IMAGES] + b"1"), "cut off or broken.*1441 are"),
    "cut_in_header": (with_bytes(PLAIN, IMAGES, PLAIN[IMAGES][:9]), "cut off or broken.* 0 are"),
    "no_axes": (with_bytes(PLAIN, IMAGES, PLAIN[IMAGES][:3]), "cut off or broken"),
    "empty": (with_bytes(PLAIN, IMAGES, b""), "an idx file of unsigned bytes.*an empty file"),
    "web_page": (with_bytes(PLAIN, IMAGES, b"<html>"), "starts with the bytes 00 00 08, got 3c 68"),
    "labels_for_images": (
        with_bytes(PLAIN, IMAGES, PLAIN["train-labels-idx1-ubyte"]),
        r"must have 3 axes, got shape \(120,\)",
    ),
    "too_few_labels": (
        with_bytes(PLAIN, "train-labels-idx1-ubyte", idx_bytes(np.arange(9, dtype=np.uint8))),
        "one row for each example",
    ),
    "other_classes": (
        with_bytes(PLAIN, "t10k-labels-idx1-ubyte", idx_bytes(np.arange(30, dtype=np.uint8))),
        "classes from 0 to 9, got 9 and 29",
    ),
    "wrong_archive": (
        with_bytes(ZIPPED, f"{IMAGES}.gz", gzip.compress(b"other")),
        f"{IMAGES}.gz is not the {IMAGES}.gz of tiny: its sha256 is .*delete it.*file:///nowhere/",
    ),
}


@pytest.mark.parametrize(("files", "message"), BROKEN_IDX.values(), ids=BROKEN_IDX)
def test_broken_idx_files_are_refused_by_name(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        data.mnist(write(tmp_path, files), source=source(ZIPPED), download=False)


def test_cut_off_gzip_is_refused_even_with_a_matching_checksum(tmp_path):
    files = with_bytes(ZIPPED, f"{IMAGES}.gz", ZIPPED[f"{IMAGES}.gz"][:-20])
    with pytest.raises(ValueError, match=r"idx3-ubyte\.gz is no whole gzip file"):
        data.mnist(write(tmp_path, files), source=source(files))


LAST = BATCHES[-1]
BROKEN_CIFAR = {
    "cut_off_rows": (tar_bytes(with_bytes(BINARY, LAST, BINARY[LAST][:-5])), "rows of 3073 bytes"),
    "empty_batch": (tar_bytes(with_bytes(BINARY, LAST, b"")), "rows of 3073 bytes.*got 0"),
    "missing_batch": (tar_bytes({LAST: BINARY[LAST]}), "got none of data_batch_1.bin"),
    "cut_off_archive": (ARCHIVE[images.CIFAR_ARCHIVE][:-300], "no whole .tar.gz file"),
    "no_archive": (b"hello", "no whole .tar.gz file"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN_CIFAR.values(), ids=BROKEN_CIFAR)
def test_broken_cifar_archives_are_refused(tmp_path, content, message):
    files = {images.CIFAR_ARCHIVE: content}
    with pytest.raises(ValueError, match=message):
        data.cifar10(write(tmp_path, files), source=source(files))


def test_incomplete_folder_of_batches_is_not_used(tmp_path):
    write(tmp_path, {name: BINARY[name] for name in BATCHES[:5]})
    with pytest.raises(FileNotFoundError, match=images.CIFAR_ARCHIVE):
        data.cifar10(tmp_path, source=source(ARCHIVE), download=False)
