"""The fractal study's work in plain JAX: the network, the convergence measure, and its own way.

Its own way is `jit(vmap(step))` called from a Python loop, with all losses stacked and judged at
the end. Nothing here imports jaxnn.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from bench_contenders import Contender
from bench_problems import RateSweep
from jax import Array

LARGEST = 1e6  # a loss, relative to the first, counts as no more than this
LAST = 20  # losses whose mean decides whether training converges


class Weights(NamedTuple):
    """The parameters of one network."""

    first: Array  # [width, width]
    readout: Array  # [width]


def initial_weights(key: Array, width: int) -> Weights:
    """Draw standard normal weights; the network divides by their fan."""
    first_key, readout_key = jax.random.split(key)
    first = jax.random.normal(first_key, (width, width), jnp.float32)
    return Weights(first, jax.random.normal(readout_key, (width,), jnp.float32))


def mean_loss(weights: Weights, x: Array, y: Array) -> Array:
    """Return the mean squared error of a network in the mean-field scaling, output h . v / n."""
    width = weights.readout.shape[0]
    h = jnp.tanh(jnp.sqrt(jnp.asarray(2.0 / width, x.dtype)) * (x @ weights.first))
    return jnp.mean((h @ weights.readout / width - y) ** 2)


def step(weights: Weights, rates: Weights, x: Array, y: Array) -> tuple[Weights, Array]:
    """Take one step of gradient descent; return the loss before it, too."""
    loss, gradients = jax.value_and_grad(mean_loss)(weights, x, y)
    return jax.tree.map(lambda w, rate, g: w - rate * g, weights, rates, gradients), loss


def relative(loss: Array, first: Array) -> Array:
    """Return a loss relative to the first, no more than `LARGEST`, also if it is not finite."""
    ratio = jnp.where(jnp.isfinite(loss), loss, LARGEST) / first
    return jnp.minimum(ratio, LARGEST)


class Sums(NamedTuple):
    """What the convergence measure needs of the losses so far."""

    forward: Array  # sum of the relative losses
    inverse: Array  # sum of their inverses
    last: Array  # sum of the last ones

    def add(self, ratio: Array, is_last: Array) -> "Sums":
        """Return the sums with one loss more."""
        last = self.last + jnp.where(is_last, ratio, 0)
        return Sums(self.forward + ratio, self.inverse + 1 / ratio, last)

    def measure(self) -> Array:
        """Return how slowly training converges, or minus how slowly it diverges."""
        return jnp.where(self.last < LAST, self.forward, -self.inverse)


def train(problem: RateSweep, weights: Weights, rates: Weights, x: Array, y: Array) -> Array:
    """Return the convergence measure of one member, from a scan that keeps no losses."""
    first = mean_loss(weights, x, y)

    def body(carry: tuple[Weights, Sums], number: Array) -> tuple[tuple[Weights, Sums], None]:
        weights, loss = step(carry[0], rates, x, y)
        is_last = number >= problem.num_steps - LAST
        return (weights, carry[1].add(relative(loss, first), is_last)), None

    start = (weights, Sums(*jnp.zeros((3,), x.dtype)))
    (_, sums), _ = jax.lax.scan(body, start, jnp.arange(problem.num_steps))
    return sums.measure()


def measure_losses(losses: Array) -> Array:
    """Return the convergence measure of stacked losses `[step]`."""
    ratios = relative(losses, losses[0])
    return Sums(ratios.sum(), (1 / ratios).sum(), ratios[-LAST:].sum()).measure()


def python_loop(problem: RateSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Train all members at once, with a Python loop over jit(vmap(step))."""
    x, y, first_rates, readout_rates = (
        jnp.asarray(inputs[name]) for name in ("x", "y", "first_rates", "readout_rates")
    )
    start = Weights(jnp.asarray(inputs["first"]), jnp.asarray(inputs["readout"]))
    rates = Weights(first_rates, readout_rates)
    step_all = jax.jit(jax.vmap(step, (0, 0, None, None)))
    measure_all = jax.jit(jax.vmap(measure_losses, 1))

    def sweep() -> Iterator[np.ndarray]:
        size = len(first_rates)
        weights = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), start)
        losses = []
        for _ in range(problem.num_steps):
            weights, loss = step_all(weights, rates, x, y)
            losses.append(loss)
        yield np.asarray(measure_all(jnp.stack(losses)))

    return Contender(sweep)
