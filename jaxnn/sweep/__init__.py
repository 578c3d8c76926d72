"""Sweeps: axes, plan, tiles, devices, store. Knows only "a pure function of key and point"."""

from jaxnn.sweep.axes import depths, traced
from jaxnn.sweep.dataset import load
from jaxnn.sweep.devices import use_every_core
from jaxnn.sweep.executors import RayExecutor, SlurmExecutor, spawn_pool
from jaxnn.sweep.halving import Halving, halving
from jaxnn.sweep.loop import sweep
from jaxnn.sweep.machine import keep_compiled
from jaxnn.sweep.planning import plan
from jaxnn.sweep.plans import Plan

__all__ = [
    "Halving",
    "Plan",
    "RayExecutor",
    "SlurmExecutor",
    "depths",
    "halving",
    "keep_compiled",
    "load",
    "plan",
    "spawn_pool",
    "sweep",
    "traced",
    "use_every_core",
]
