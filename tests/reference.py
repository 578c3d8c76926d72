"""An independent network in plain numpy: forward, hand-written backward, hand-written updates.

Nothing here knows jax. A network is a list of `(kernel [fan_in, unit], bias [unit])`, hidden layers
first and the readout last; a gradient is a list of the same form. All numbers are float64. The
formulas are those of the contract in `jaxnn/nets/mlp.py` and of the papers of the update rules.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Network = list[tuple[np.ndarray, np.ndarray]]


class Phi(NamedTuple):
    """An activation and its derivative."""

    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


def _logistic(z):
    return 0.5 * (1.0 + np.tanh(0.5 * z))


_error_function = np.vectorize(math.erf, otypes=[float])


def _normal_cdf(z):
    return 0.5 * (1.0 + _error_function(z / math.sqrt(2.0)))


def _normal_density(z):
    return np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)


def _cosh_squared(z):
    return np.cosh(np.clip(z, -300.0, 300.0)) ** 2


def leaky(slope: float) -> Phi:
    """Return leaky relu."""
    return Phi(lambda z: np.where(z > 0, z, slope * z), lambda z: np.where(z > 0, 1.0, slope))


def _exponential_linear(scale: float, alpha: float) -> Phi:
    def below(z):
        return np.exp(np.minimum(z, 0.0))

    return Phi(
        lambda z: scale * np.where(z > 0, z, alpha * (below(z) - 1.0)),
        lambda z: scale * np.where(z > 0, 1.0, alpha * below(z)),
    )


PHIS = {
    "identity": Phi(lambda z: z, np.ones_like),
    "sigmoid": Phi(_logistic, lambda z: 0.25 / _cosh_squared(0.5 * z)),
    "tanh": Phi(np.tanh, lambda z: 1.0 / _cosh_squared(z)),
    "hard_tanh": Phi(lambda z: np.clip(z, -1.0, 1.0), lambda z: 1.0 * (np.abs(z) < 1.0)),
    # erf scaled to slope 1 at 0: d/dz erf(a z) = 2 a / sqrt(pi) exp(-(a z)^2), a = sqrt(pi) / 2
    "erf": Phi(
        lambda z: _error_function(0.5 * math.sqrt(math.pi) * z),
        lambda z: np.exp(-0.25 * math.pi * z**2),
    ),
    "softsign": Phi(lambda z: z / (1.0 + np.abs(z)), lambda z: 1.0 / (1.0 + np.abs(z)) ** 2),
    "relu": leaky(0.0),
    "leaky_relu": leaky(0.01),
    "elu": _exponential_linear(1.0, 1.0),
    "selu": _exponential_linear(1.0507009873554804934, 1.6732632423543772848),
    "gelu": Phi(lambda z: z * _normal_cdf(z), lambda z: _normal_cdf(z) + z * _normal_density(z)),
    "silu": Phi(
        lambda z: z * _logistic(z),
        lambda z: _logistic(z) * (1.0 + z * (1.0 - _logistic(z))),
    ),
}


class Pass(NamedTuple):
    """A forward pass: the pre- and post-activations of each hidden layer, and the outputs."""

    pre: list[np.ndarray]
    post: list[np.ndarray]
    outputs: np.ndarray


def forward(
    network: Network, x: np.ndarray, phi: Phi, *, residual: float = False, shift=None
) -> Pass:
    """Run z_1 = W_1 x + b_1, z_l = residual z_{l-1} + W_l phi(z_{l-1}) + b_l, y = W phi(z) + b."""
    *hidden, (kernel, bias) = network
    pre, post = [], []
    for level, (weights, biases) in enumerate(hidden):
        z = (post[-1] if post else x) @ weights + biases
        if residual and pre:
            z = z + residual * pre[-1]
        if shift is not None:
            z = z + shift[level]
        pre.append(z)
        post.append(phi.value(z))
    return Pass(pre, post, post[-1] @ kernel + bias)


def backward(
    network: Network,
    x: np.ndarray,
    phi: Phi,
    passed: Pass,
    output_gradient: np.ndarray,
    *,
    residual: float = False,
) -> tuple[list[np.ndarray], Network]:
    """Return dL/dz of each hidden layer, and dL/d(kernel, bias) of each layer, from dL/dy."""
    depth = len(passed.pre)
    signals: list[np.ndarray] = []
    from_above = output_gradient @ network[-1][0].T  # dL/dh of the last hidden layer
    for level in reversed(range(depth)):
        signal = from_above * phi.slope(passed.pre[level])
        if residual and signals:
            signal = signal + residual * signals[0]  # z_{l+1} holds residual z_l
        signals.insert(0, signal)
        from_above = signal @ network[level][0].T
    inputs = [x, *passed.post]
    gradients = [
        (h.T @ g, g.sum(axis=0)) for h, g in zip(inputs, [*signals, output_gradient], strict=True)
    ]
    return signals, gradients


def cross_entropy(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return -log softmax(y)[target] of each example, and its gradient softmax(y) - one_hot."""
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(outputs))
    gradient = exponentials / total
    gradient[rows, targets] -= 1.0
    return np.log(total[:, 0]) - shifted[rows, targets], gradient


def squared_error(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 1/2 |y - t|^2 of each example, and its gradient; classes become one-hot."""
    if np.issubdtype(targets.dtype, np.integer):
        targets = np.eye(outputs.shape[1])[targets]
    error = outputs - targets
    return 0.5 * (error**2).sum(axis=1), error


class Result(NamedTuple):
    """A weighted mean loss with all that one pass shows."""

    loss: float
    passed: Pass
    signals: list[np.ndarray]  # dL/dz of each hidden layer
    gradients: Network


def evaluate(
    network: Network,
    x: np.ndarray,
    targets: np.ndarray,
    phi: Phi,
    loss: Callable = cross_entropy,
    *,
    weight: np.ndarray | None = None,
    residual: float = False,
    shift=None,
) -> Result:
    """Run forward and backward for L = sum_i w_i l_i / sum_i w_i."""
    weight = np.ones(len(x)) if weight is None else np.asarray(weight, float)
    weight = weight / weight.sum()
    passed = forward(network, x, phi, residual=residual, shift=shift)
    losses, gradient = loss(passed.outputs, targets)
    signals, gradients = backward(
        network, x, phi, passed, weight[:, None] * gradient, residual=residual
    )
    return Result(float(np.sum(weight * losses)), passed, signals, gradients)


# Update rules. A rule is `state -> (gradients, state)` in spirit; here each is a closure that keeps
# its own moments and returns the direction to be multiplied by minus the learning rate.


def sgd(momentum: float = 0.0, nesterov: bool = False):
    """v <- m v + g; step along v, or along g + m v for Nesterov (Sutskever et al. 2013)."""
    velocity: dict = {}

    def direction(name, gradient):
        velocity[name] = momentum * velocity.get(name, 0.0) + gradient
        return gradient + momentum * velocity[name] if nesterov else velocity[name]

    return direction


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
    """Take a step along m_hat / (sqrt(v_hat) + eps) (Kingma & Ba 2014, algorithm 1)."""
    moments: dict = {}

    def direction(name, gradient):
        first, second, count = moments.get(name, (0.0, 0.0, 0))
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        moments[name] = first, second, count + 1
        first = first / (1 - b1 ** (count + 1))
        second = second / (1 - b2 ** (count + 1))
        return first / (np.sqrt(second) + eps)

    return direction


def rmsprop(decay: float = 0.9, eps: float = 1e-8):
    """v <- d v + (1 - d) g^2; step along g / sqrt(v + eps): optax has eps under the root."""
    second: dict = {}

    def direction(name, gradient):
        second[name] = decay * second.get(name, 0.0) + (1 - decay) * gradient**2
        return gradient / np.sqrt(second[name] + eps)

    return direction


def soft(weights: np.ndarray, threshold: float) -> np.ndarray:
    """Return sign(w) max(|w| - t, 0)."""
    return np.sign(weights) * np.maximum(np.abs(weights) - threshold, 0.0)


def updated(
    network: Network,
    gradients: Network,
    direction: Callable,
    rate: float,
    *,
    l2: float = 0.0,
    weight_decay: float = 0.0,
    l1: float = 0.0,
    clip_norm: float = math.inf,
    clip_value: float = math.inf,
) -> Network:
    """Take one step: penalty in the loss, clip, rule, decoupled decay, proximal L1.

    Penalties touch kernels only. The norm that is clipped is that of all gradients together.
    """
    gradients = [
        (kernel_gradient + l2 * kernel, bias_gradient)
        for (kernel, _), (kernel_gradient, bias_gradient) in zip(network, gradients, strict=True)
    ]
    norm = math.sqrt(sum(float((g**2).sum()) for pair in gradients for g in pair))
    shrink = 1.0 if norm <= clip_norm else clip_norm / norm
    new = []
    for level, ((kernel, bias), pair) in enumerate(zip(network, gradients, strict=True)):
        clipped = [np.clip(shrink * g, -clip_value, clip_value) for g in pair]
        kernel_step = direction((level, "kernel"), clipped[0]) + weight_decay * kernel
        bias_step = direction((level, "bias"), clipped[1])
        new.append((soft(kernel - rate * kernel_step, rate * l1), bias - rate * bias_step))
    return new


def train(
    network: Network,
    x: np.ndarray,
    targets: np.ndarray,
    phi: Phi,
    direction: Callable,
    rates,
    *,
    loss: Callable = cross_entropy,
    **penalties: float,
) -> tuple[list[Network], list[float]]:
    """Train on the full batch, one step for each rate; return all states and their losses."""
    networks, losses = [network], []
    for rate in rates:
        result = evaluate(networks[-1], x, targets, phi, loss)
        losses.append(result.loss)
        networks.append(updated(networks[-1], result.gradients, direction, rate, **penalties))
    losses.append(evaluate(networks[-1], x, targets, phi, loss).loss)
    return networks, losses


def random_network(seed: int, sizes: list[int], gain: float = 1.0) -> Network:
    """Draw kernels N(0, gain^2 / fan_in) and biases N(0, 0.1^2)."""
    rng = np.random.default_rng(seed)
    return [
        (
            gain * rng.standard_normal((fan_in, fan_out)) / math.sqrt(fan_in),
            0.1 * rng.standard_normal(fan_out),
        )
        for fan_in, fan_out in itertools.pairwise(sizes)
    ]


def stacked(network: Network) -> dict:
    """Return a network in the form of `variables["params"]`: first, hidden stacked, readout."""
    names = ("kernel", "bias")
    first, *hidden, readout = network
    params = {
        "first": dict(zip(names, first, strict=True)),
        "readout": dict(zip(names, readout, strict=True)),
    }
    if hidden:
        params["hidden"] = {
            name: np.stack([layer[place] for layer in hidden]) for place, name in enumerate(names)
        }
    return params


def unstacked(params: dict) -> Network:
    """Return `variables["params"]` as a network of float64 numpy arrays."""
    hidden = params.get("hidden", {"kernel": (), "bias": ()})
    groups = [
        (params["first"]["kernel"], params["first"]["bias"]),
        *zip(hidden["kernel"], hidden["bias"], strict=True),
        (params["readout"]["kernel"], params["readout"]["bias"]),
    ]
    return [(np.asarray(kernel, float), np.asarray(bias, float)) for kernel, bias in groups]


def flattened(network: Network) -> np.ndarray:
    """Return all parameters end to end, in the order of sorted names of the stacked form."""
    params = stacked(network)
    return np.concatenate(
        [params[group][name].ravel() for group in sorted(params) for name in ("bias", "kernel")]
    )
