"""Contenders in processes of their own: the worker's side and the parent's, speaking JSON lines.

    python bench_workers.py NAME FOLDER STARTED

A worker imports what its contender needs, gets ready, does all the work once, and says how long it
took since STARTED (seconds since the epoch). Then it does the work again for every line it reads,
until there are no more. What libraries print goes to stderr.
"""

import functools
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_contenders import Contender, load_builder
from bench_problems import Problem, load_inputs, load_problem, save_problem

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # float32 products, as PyTorch's on a GPU
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # workers that live side by side share a GPU
}


def make_inputs(problem: Problem, folder: Path) -> dict[str, np.ndarray]:
    """Write a problem and its inputs into a folder, and return these."""
    save_problem(problem, folder)
    _run([str(HERE / "bench_inputs.py"), str(folder)], check=True)
    return load_inputs(folder)


@functools.cache
def importable(package: str) -> bool:
    """Return whether a package can be imported; its files are then in the system's cache, too."""
    return _run(["-c", f"import {package}"], stderr=subprocess.DEVNULL).returncode == 0


def _environment() -> dict[str, str]:
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}


def _run(args: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, *args], env=_environment(), **options)


class Worker:
    """The parent's side of a worker. Every reply is a dictionary; `failed` in it says why."""

    def __init__(self, name: str, folder: Path):
        command = [sys.executable, str(HERE / "bench_workers.py"), name, str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command.append(repr(time.time()))
        self._process = subprocess.Popen(command, env=_environment(), **pipes)

    def reply(self) -> dict[str, Any]:
        """Wait for the worker's next reply; the first one tells of its cold sweep."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        return {"failed": f"its process ended with exit status {self._process.wait()}"}

    def go(self) -> dict[str, Any]:
        """Let the worker sweep again and return its reply."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: the reply says so
        return self.reply()

    def stop(self) -> None:
        """End the worker."""
        self._process.communicate()


def serve(name: str, folder: Path, started: float) -> None:
    """Be a worker."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(reply: dict[str, Any]) -> None:
        print(json.dumps(reply), file=channel)

    try:
        build = load_builder(name)
        imported = time.time()
        contender = build(load_problem(folder), load_inputs(folder))
        ready = time.time() - contender.uncounted_seconds
        found = swept(contender)
        send(
            {
                **found,
                "import_seconds": imported - started,
                "first_result_seconds": ready - started + found["first_seconds"],
                "cold_seconds": ready - started + found["seconds"],
                "note": contender.note,
                "members": contender.members,
            }
        )
        for _ in sys.stdin:
            send(swept(contender))
    except Exception as error:
        traceback.print_exc()
        send({"failed": f"{type(error).__name__}: {error}"})


def swept(contender: Contender) -> dict[str, Any]:
    """Let a contender do all its work once; return its results and their times."""
    started, begin = time.time(), time.perf_counter()
    pieces, first_seconds = [], 0.0
    for piece in contender.sweep():
        first_seconds = first_seconds or time.perf_counter() - begin
        pieces.append(piece)
    seconds = time.perf_counter() - begin
    if contender.first_result_at:
        first_seconds = contender.first_result_at() - started
    return {
        "values": np.concatenate(pieces).astype(float).tolist(),
        "seconds": seconds,
        "first_seconds": first_seconds,
        "compile_seconds": contender.compile_seconds() if contender.compile_seconds else 0.0,
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    """Return the largest resident size of this process; macOS counts bytes, others kibibytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
