"""Executors: processes on this machine, on a Ray cluster, or as jobs of Slurm.

Contract: each is a `concurrent.futures.Executor`, for `sweep(..., executor=)`. Dask has one of its
own: `distributed.Client(...).get_executor()`.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any


def spawn_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of processes on this machine, each with its own share of the cores.

    Processes are spawned, never forked: a fork of a process in which JAX has started can hang. As
    with every such pool, a script that makes one guards it by `if __name__ == "__main__":`, and the
    run is a function of a module.

    Raises:
        ValueError: fewer than one worker.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    context = multiprocessing.get_context("spawn")
    turn = context.Value("i", 0)
    return ProcessPoolExecutor(workers, context, _take_cores, (turn, workers))


def _take_cores(turn: Any, workers: int) -> None:
    """Keep this process on its share of the cores, and make each of them a JAX device."""
    import jax

    with turn.get_lock():
        place = turn.value
        turn.value += 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[place % workers :: workers] or cores
        os.sched_setaffinity(0, mine)
        jax.config.update("jax_num_cpu_devices", len(mine))


class RayExecutor(Executor):
    """Tasks of a Ray cluster (`pip install jaxnn[ray]`), started or joined if none is yet.

    Args:
        **options: of each task, such as `num_cpus=4` or `num_gpus=1`.
    """

    def __init__(self, **options: Any):
        import ray  # pyright: ignore[reportMissingImports]

        if not ray.is_initialized():
            ray.init()
        self._ray, self._options = ray, options

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Start a task, and return its future."""
        remote = self._ray.remote(fn)
        task = remote.options(**self._options) if self._options else remote
        return task.remote(*args, **kwargs).future()


class SlurmExecutor(Executor):
    """Jobs of a Slurm cluster, by submitit (`pip install jaxnn[slurm]`).

    Args:
        executor: submitit's, with its parameters set: `submitit.AutoExecutor(folder="logs")`.
    """

    def __init__(self, executor: Any):
        self._executor = executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Queue a job, and return a future that waits for it."""
        job = self._executor.submit(fn, *args, **kwargs)
        future: Future = Future()
        future.set_running_or_notify_cancel()
        threading.Thread(target=_settle, args=(future, job), daemon=True).start()
        return future


def _settle(future: Future, job: Any) -> None:
    try:
        future.set_result(job.result())
    except BaseException as error:
        future.set_exception(error)
