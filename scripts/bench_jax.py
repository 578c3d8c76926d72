"""The reference sweep written by hand in plain JAX, in four ways, and the matrix product.

Nothing here imports jaxnn, so JAX sees the machine as in anybody's script: a CPU is one device
whose large products run on all cores. Initial weights and the batches' indices are given.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_contenders import NUM_PRODUCTS, PRODUCT_SIZE, Contender
from bench_problems import DepthSweep
from jax import Array

Params = dict[str, dict[str, Array]]
PARAMETERS = [
    (group, name) for group in ("first", "hidden", "readout") for name in ("kernel", "bias")
]


def outputs(params: Params, x: Array, active: Array | None = None) -> Array:
    """Return the logits `[batch, class]`; hidden layers that are not active pass signals on."""

    def layer(h: Array, inputs: tuple[dict[str, Array], Array | None]) -> tuple[Array, None]:
        weights, here = inputs
        new = jnp.tanh(_dense(weights, h))
        return new if here is None else jnp.where(here, new, h), None

    h = jnp.tanh(_dense(params["first"], x))
    h, _ = jax.lax.scan(layer, h, (params["hidden"], active))
    return _dense(params["readout"], h)


def mean_loss(params: Params, x: Array, y: Array, active: Array | None = None) -> Array:
    """Return the mean cross entropy."""
    log_probabilities = jax.nn.log_softmax(outputs(params, x, active))
    return -jnp.mean(jnp.take_along_axis(log_probabilities, y[:, None], axis=1))


def _dense(layer: dict[str, Array], h: Array) -> Array:
    return h @ layer["kernel"] + layer["bias"]


class Task:
    """A problem's examples and batches on the device, and how to train on them."""

    def __init__(self, problem: DepthSweep, inputs: dict[str, np.ndarray]):
        self._problem = problem
        self._x, self._y = jnp.asarray(inputs["x"]), jnp.asarray(inputs["y"])
        self.batches = jnp.asarray(inputs["batches"])

    def start(self, params: Params) -> tuple[Params, Params]:
        """Return parameters with a velocity of zero."""
        return params, jax.tree.map(jnp.zeros_like, params)

    def step(
        self, state: tuple[Params, Params], batch: Array, active: Array | None = None
    ) -> tuple[Params, Params]:
        """Take one step of SGD with momentum on a batch of indices."""
        params, velocity = state
        gradients = jax.grad(mean_loss)(params, self._x[batch], self._y[batch], active)
        momentum, rate = self._problem.momentum, self._problem.learning_rate
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, gradients)
        return jax.tree.map(lambda p, v: p - rate * v, params, velocity), velocity

    def final_loss(self, params: Params, active: Array | None = None) -> Array:
        """Return the loss of the examples that jaxnn's probes see."""
        size = self._problem.probe_size
        return mean_loss(params, self._x[:size], self._y[:size], active)

    def train(self, params: Params, active: Array | None = None) -> Array:
        """Return the final loss of one member, after a scan over all steps."""

        def body(state: Any, batch: Array) -> tuple[Any, None]:
            return self.step(state, batch, active), None

        (params, _), _ = jax.lax.scan(body, self.start(params), self.batches)
        return self.final_loss(params, active)


def initial_params(inputs: dict[str, np.ndarray], depth: int) -> Params:
    """Return the initial parameters of a depth's members, stacked on the gain."""
    params: Params = {}
    for group, name in PARAMETERS:
        params.setdefault(group, {})[name] = jnp.asarray(inputs[f"{depth}/{group}/{name}"])
    return params


def one_by_one(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Compile a depth's training once, and call it for one gain after the other."""
    task, members = Task(problem, inputs), []
    for depth in problem.depths:
        stacked = initial_params(inputs, depth)
        members += [
            jax.tree.map(lambda leaf, n=n: leaf[n], stacked) for n in range(problem.num_gains)
        ]
    train = jax.jit(task.train)

    def sweep() -> Iterator[np.ndarray]:
        for params in members:
            yield np.asarray(train(params))[None]

    return Contender(sweep)


def depth_vmap(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Train all gains of a depth at once: one vmap, one program a depth."""
    train = jax.jit(jax.vmap(Task(problem, inputs).train))
    return Contender(_depth_by_depth(train, problem, inputs))


def python_loop(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Train all gains of a depth at once, with a Python loop over jit(vmap(step))."""
    task = Task(problem, inputs)
    step = jax.jit(jax.vmap(task.step, (0, None)))
    final_loss = jax.jit(jax.vmap(task.final_loss))
    batches = list(task.batches)

    def train(params: Params) -> Array:
        state = task.start(params)
        for batch in batches:
            state = step(state, batch)
        return final_loss(state[0])

    return Contender(_depth_by_depth(train, problem, inputs))


def _depth_by_depth(
    train: Callable[[Params], Array], problem: DepthSweep, inputs: dict[str, np.ndarray]
) -> Callable[[], Iterator[np.ndarray]]:
    stacks = [initial_params(inputs, depth) for depth in problem.depths]

    def sweep() -> Iterator[np.ndarray]:
        for params in stacks:
            yield np.asarray(train(params))

    return sweep


def masked_vmap(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Train all members at once in one program: layers past a member's depth are masked."""
    deepest = max(problem.depths) - 1
    padded = [_padded(initial_params(inputs, depth), deepest) for depth in problem.depths]
    params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *padded)
    layers = np.repeat(problem.depths, problem.num_gains) - 1
    active = jnp.asarray(np.arange(deepest) < layers[:, None])  # [member, layer]
    train = jax.jit(jax.vmap(Task(problem, inputs).train))

    def sweep() -> Iterator[np.ndarray]:
        yield np.asarray(train(params, active))

    return Contender(sweep)


def _padded(params: Params, deepest: int) -> Params:
    """Return stacked parameters with hidden layers of zeros up to the deepest member's."""

    def pad(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, 0), (0, deepest - leaf.shape[1])] + [(0, 0)] * (leaf.ndim - 2))

    return {**params, "hidden": jax.tree.map(pad, params["hidden"])}


def matrix_product(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Multiply two large float32 matrices a few times: the rate that shares are shares of."""
    del problem, inputs
    left, right = jax.random.normal(jax.random.key(0), (2, PRODUCT_SIZE, PRODUCT_SIZE))
    multiply = jax.jit(jnp.dot)

    def sweep() -> Iterator[np.ndarray]:
        products = [multiply(left, right) for _ in range(NUM_PRODUCTS)]
        jax.block_until_ready(products)
        yield np.zeros(0)

    return Contender(sweep, note=f"{jax.device_count()} x {jax.devices()[0].device_kind}")
