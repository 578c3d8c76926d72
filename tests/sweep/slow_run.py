"""A sweep of slow tiles, and the child process that a test kills in the middle of it.

`python -m tests.sweep.slow_run STORE` sweeps into the store.
"""

import sys

import jax
import jax.numpy as jnp

import jaxnn as jn

NUM_MEMBERS = 96  # two programs of three tiles each on two devices
STEPS = 40_000  # of a loop that compiles fast and keeps a core busy for about 0.03 s a member


def run(key, *, kind, scale):
    """Iterate a chaotic map for long; one bit off anywhere changes all of the result."""
    start = jax.random.uniform(key, (8,))
    rate = 3.9 + 0.01 * scale if kind == "fast" else 3.8 + 0.01 * scale

    def step(_, x):
        return rate * x * (1.0 - x)

    end = jax.lax.fori_loop(0, STEPS, step, start)
    count = jnp.sum((end > 0.5).astype(jnp.int32))
    return {
        "end": jn.Labelled(end, ("site",), "1", "where the map ends"),
        "high": jn.Labelled(count, (), "1", "sites above one half"),
    }


def sweep(store=None):
    """Sweep in tiles of one member a device."""
    axes = {"kind": ["fast", "slow"], "scale": [0.0, 1.0, 2.0]}
    return jn.sweep(run, num_seeds=16, tile_size=1, store=store, **axes)


if __name__ == "__main__":
    sweep(sys.argv[1])
