"""The reference sweep in Equinox and optax, as their users write it: filter_vmap over a depth."""

from collections.abc import Iterator

import equinox as eqx  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench_contenders import Contender
from bench_problems import CLASSES, FEATURES, DepthSweep
from jax import Array


class Network(eqx.Module):
    """A multilayer perceptron whose hidden layers are one stacked `Linear`."""

    first: eqx.nn.Linear
    hidden: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __call__(self, x: Array) -> Array:
        """Return the logits of one example."""

        def layer(h: Array, linear: eqx.nn.Linear) -> tuple[Array, None]:
            return jnp.tanh(linear(h)), None

        h, _ = jax.lax.scan(layer, jnp.tanh(self.first(x)), self.hidden)
        return self.readout(h)


def _linear(inputs: dict[str, np.ndarray], name: str, fan_in: int, fan_out: int) -> eqx.nn.Linear:
    """Return a layer with the weights given, which may be stacked."""
    kernel, bias = (jnp.asarray(inputs[f"{name}/{part}"]) for part in ("kernel", "bias"))
    layer = eqx.nn.Linear(fan_in, fan_out, key=jax.random.key(0))
    return eqx.tree_at(lambda l: (l.weight, l.bias), layer, (kernel.swapaxes(-1, -2), bias))


def _networks(problem: DepthSweep, inputs: dict[str, np.ndarray], depth: int) -> Network:
    """Return the initial networks of all members of a depth, stacked on the gain."""
    width = problem.width
    return Network(
        _linear(inputs, f"{depth}/first", FEATURES, width),
        _linear(inputs, f"{depth}/hidden", width, width),
        _linear(inputs, f"{depth}/readout", width, CLASSES),
    )


def depth_vmap(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Train all gains of a depth at once."""
    x, y, batches = (jnp.asarray(inputs[name]) for name in ("x", "y", "batches"))
    optimizer = optax.sgd(problem.learning_rate, problem.momentum)

    def mean_loss(network: Network, x: Array, y: Array) -> Array:
        logits = jax.vmap(network)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def train(network: Network) -> Array:
        def step(carry, batch: Array):
            network, state = carry
            gradients = eqx.filter_grad(mean_loss)(network, x[batch], y[batch])
            updates, state = optimizer.update(gradients, state)
            return (eqx.apply_updates(network, updates), state), None

        (network, _), _ = jax.lax.scan(
            step, (network, optimizer.init(eqx.filter(network, eqx.is_array))), batches
        )
        return mean_loss(network, x[: problem.probe_size], y[: problem.probe_size])

    stacks = [_networks(problem, inputs, depth) for depth in problem.depths]
    train_all = eqx.filter_jit(eqx.filter_vmap(train))

    def sweep() -> Iterator[np.ndarray]:
        for networks in stacks:
            yield np.asarray(train_all(networks))

    return Contender(sweep)
