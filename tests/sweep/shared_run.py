"""A run that other processes can import, and one process of a sweep under `jax.distributed`."""

import os
import sys

import jax
import numpy as np

import jaxnn as jn

AXES = {"depth": jn.depths([1, 2, 3]), "scale": np.linspace(0.5, 1.5, 7).tolist(), "num_seeds": 2}


def run(key, *, depth, scale):
    """A few numbers that depend on everything."""
    drawn = scale * jax.random.normal(key, (3,))
    return {"drawn": drawn, "layers": depth.num_layers + 0 * jax.numpy.int32(scale)}


def cores():
    """Return this process's cores, and how many JAX devices it has."""
    return sorted(os.sched_getaffinity(0)), jax.local_device_count()


if __name__ == "__main__":
    address, number, count, store = sys.argv[1:]
    jax.distributed.initialize(address, int(count), int(number))
    dataset = jn.sweep(run, **AXES, store=store)
    print(jax.process_count(), jax.local_device_count(), float(dataset["drawn"].sum()))
