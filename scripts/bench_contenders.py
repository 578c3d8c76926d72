"""Who takes part in bench.py: each contender's title, where it is written, and what it needs.

Contract: a contender's function takes a problem and its inputs (`bench_inputs.py`), puts what it
needs on the device, compiles nothing, and returns a `Contender`. Nothing here is heavy to import:
what a contender needs is imported in its own process only.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Contender(NamedTuple):
    """One way to do the work, ready to go."""

    sweep: Callable[[], Iterator[np.ndarray]]
    # does all the work, yields the numbers of consecutive members as soon as they are finished
    note: str = ""  # for the table
    members: tuple[int, ...] | None = None  # a sample that is trained in place of all
    uncounted_seconds: float = 0.0  # spent on choosing settings, which no clock counts
    first_result_at: Callable[[], float] | None = None
    # time.time() of the last sweep's first result, where it is known before it is yielded
    compile_seconds: Callable[[], float] | None = None
    # those of the last sweep, where a warm one may compile again


class Entry(NamedTuple):
    """Where a contender is to be found."""

    title: str
    module: str
    function: str
    packages: tuple[str, ...]


CONTENDERS = {
    "jaxnn": Entry("jaxnn, with store and probes", "bench_jaxnn", "with_store", ("jaxnn",)),
    "jaxnn_exact": Entry(
        "jaxnn, a program for each depth", "bench_jaxnn", "exact_with_store", ("jaxnn",)
    ),
    "torch_eager": Entry("PyTorch eager, one by one", "bench_torch", "eager", ("torch",)),
    "torch_func": Entry("PyTorch torch.func, a depth at once", "bench_torch", "func", ("torch",)),
    "jax_one_by_one": Entry("JAX jit, one by one", "bench_jax", "one_by_one", ("jax",)),
    "jax_masked_vmap": Entry("JAX vmap, all depths masked", "bench_jax", "masked_vmap", ("jax",)),
    "jax_depth_vmap": Entry("JAX vmap, a depth at once", "bench_jax", "depth_vmap", ("jax",)),
    "equinox": Entry(
        "Equinox filter_vmap, a depth at once", "bench_equinox", "depth_vmap", ("equinox", "optax")
    ),
    "jax_python_loop": Entry(
        "JAX jit(vmap(step)) in a Python loop", "bench_jax", "python_loop", ("jax",)
    ),
}
"""The contenders of the reference sweep; jaxnn, which the others are compared with, first."""

PROBED = {
    "loss_only": Entry("jaxnn, loss at both ends", "bench_jaxnn", "loss_only", ("jaxnn",)),
    "every_tenth": Entry(
        "jaxnn, all per-layer probes every 10 steps",
        "bench_jaxnn",
        "probes_every_tenth",
        ("jaxnn",),
    ),
    "every_step": Entry(
        "jaxnn, all per-layer probes every step", "bench_jaxnn", "probes_every_step", ("jaxnn",)
    ),
}
"""The same sweep of jaxnn with more and more measured; the first is what the others add to."""

CURVATURE = {
    "gradients": Entry("jaxnn, 25 gradients", "bench_jaxnn", "twenty_five_gradients", ("jaxnn",)),
    "hessian": Entry(
        "jaxnn, both ends of the Hessian by 20 Lanczos steps", "bench_jaxnn", "hessian", ("jaxnn",)
    ),
}
"""What curvature costs at initialisation: 20 products with a Hessian against 25 gradients."""

FRACTAL = {
    "fractal_jaxnn": Entry(
        "jaxnn, a scan in a sweep, with store", "bench_jaxnn", "fractal_with_store", ("jaxnn",)
    ),
    "fractal_python_loop": Entry(
        "JAX jit(vmap(step)) in a Python loop", "bench_fractal", "python_loop", ("jax",)
    ),
}
"""The contenders of the fractal study."""

PRODUCT = "matrix_product"
PRODUCT_SIZE, NUM_PRODUCTS = 2048, 10  # of its matrices, and in a timing
PRODUCT_FLOPS = NUM_PRODUCTS * 2 * PRODUCT_SIZE**3
ENTRIES = {
    **CONTENDERS,
    **PROBED,
    **CURVATURE,
    **FRACTAL,
    PRODUCT: Entry("matrix product", "bench_jax", "matrix_product", ("jax",)),
}


def load_builder(name: str) -> Callable[[Any, dict[str, np.ndarray]], Contender]:
    """Import a contender's module and return its function."""
    entry = ENTRIES[name]
    return getattr(importlib.import_module(entry.module), entry.function)
