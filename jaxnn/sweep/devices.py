"""The devices of this machine: on a CPU, every core is one."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxnn.sweep.jaxprs import calls_lapack

MEMBER = "member"  # the one axis of the mesh
CPU_OPTIONS = {"xla_backend_optimization_level": 2}  # compiles twice as fast as 3, runs as fast


def use_every_core() -> None:
    """Make each CPU core a JAX device, unless the user has chosen or JAX has started already."""
    chosen = jax.config.jax_num_cpu_devices != -1  # pyright: ignore[reportAttributeAccessIssue]
    if chosen or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has started: its devices stay as they are
        jax.config.update("jax_num_cpu_devices", num_cores())


def num_cores() -> int:
    """Return the cores that this process may run on."""
    affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1


def hangs_on_several(jaxpr: Any) -> bool:
    """Return whether a program may hang on several CPU devices.

    Before jaxlib 0.12 a LAPACK call on a CPU device waits for threads of the pool that the other
    devices' LAPACK calls hold.
    """
    return jax.__version_info__ < (0, 12) and calls_lapack(jaxpr)


def chosen_devices(devices: Sequence[Any] | None) -> list[Any]:
    """Return the devices given, or all local ones."""
    return list(devices) if devices else jax.local_devices()


def mesh_for(devices: Sequence[Any] | None, jaxprs: Sequence[Any]) -> Mesh:
    """Return a one-axis mesh over the devices given, or all local ones fit for the programs."""
    chosen = chosen_devices(devices)
    if not devices and chosen[0].platform == "cpu" and any(map(hangs_on_several, jaxprs)):
        chosen = chosen[:1]
    return Mesh(np.asarray(chosen), (MEMBER,), axis_types=(AxisType.Auto,))


def compile_options(device: Any) -> dict[str, Any] | None:
    """Return XLA's options for a device; a user's wish for few optimisations stands."""
    few = jax.config.read("jax_disable_most_optimizations")
    return CPU_OPTIONS if device.platform == "cpu" and not few else None


def compilers() -> int:
    """Return how many programs to compile side by side: each keeps nearly two cores busy."""
    return max(1, num_cores() // 2)
