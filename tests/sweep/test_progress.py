"""Progress is shown on a terminal and nowhere else; a sweep on every core ends."""

import os
import pty
import subprocess
import sys
import threading

import jaxnn as jn

SWEEP = """
import jaxnn as jn
print(jn.sweep(lambda key, *, scale: {"y": scale}, scale=[1.0, 2.0], num_seeds=3)["y"].size)
"""

# jaxlib 0.10 blocks a thread of XLA's pool for each call into LAPACK: with as many devices in one
# as there are threads, no thread is left to answer and the sweep never ends
FACTORISE = """
import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as jn

def run(key, *, width):
    draw = lambda key: jnp.linalg.qr(jax.random.normal(key, (width, width)))[0]
    kernels = jax.vmap(draw)(jax.random.split(key, 12))
    return {"gram": kernels[0] @ kernels[0].T}

found = jn.sweep(run, width=[24], num_seeds=16 * jax.device_count())["gram"]
print(float(abs(found - np.eye(24)).max()))
"""


def read_all(descriptor):
    """Everything written to a pseudo-terminal until its other end is closed."""
    parts = []
    try:
        while part := os.read(descriptor, 4096):
            parts.append(part)
    except OSError:  # Linux's word for the end of a pseudo-terminal
        pass
    return b"".join(parts).decode()


def test_terminal_sees_members_per_second():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    child = subprocess.Popen(
        [sys.executable, "-c", SWEEP], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = []
    reader = threading.Thread(target=lambda: shown.append(read_all(ours)))
    reader.start()
    out, _ = child.communicate(timeout=120)
    reader.join(timeout=30)
    os.close(ours)
    assert child.returncode == 0, shown
    assert out == b"6\n"
    assert "members/s" in shown[0]
    assert "6/6" in shown[0]


def test_pipe_sees_nothing(capfd):
    jn.sweep(lambda key, *, scale: {"y": scale}, scale=[1.0, 2.0], num_seeds=3)
    assert capfd.readouterr() == ("", "")


def test_sweep_that_calls_lapack_comes_to_an_end():
    done = subprocess.run(
        [sys.executable, "-c", FACTORISE],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # a QR in float32 is orthogonal to about sqrt(n) roundings of 6e-8, a product adds as many
    assert float(done.stdout) < 10 * 24**0.5 * 6e-8
