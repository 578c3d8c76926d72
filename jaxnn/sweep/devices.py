"""The devices of this machine: on a CPU, every core is one."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

MEMBER = "member"  # the one axis of the mesh
POOL_THREADS = 4  # of XLA's CPU pool, for each core


def use_every_core() -> None:
    """Make each CPU core a JAX device, unless the user has chosen or JAX has started already.

    XLA's thread pool is made larger than the cores, too: in jaxlib 0.10 a call into LAPACK blocks
    one of its threads until others have done the work, and with every device in such a call
    (orthogonal weights, eigenvalues) none would be left: the sweep would hang.
    """
    chosen = jax.config.jax_num_cpu_devices != -1  # pyright: ignore[reportAttributeAccessIssue]
    if chosen or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    os.environ.setdefault("PJRT_NPROC", str(POOL_THREADS * cores))
    with contextlib.suppress(RuntimeError):  # JAX has started: its devices stay as they are
        jax.config.update("jax_num_cpu_devices", cores)


def local_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Return a one-axis mesh over the given devices, or all local ones."""
    chosen = np.asarray(list(devices) if devices else jax.local_devices())
    return Mesh(chosen, (MEMBER,), axis_types=(AxisType.Auto,))
