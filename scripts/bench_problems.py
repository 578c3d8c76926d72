"""The problems that bench.py sets: sizes, members, and exact counts of the flops of their products.

Contract: a problem is a frozen record that goes through JSON. Its members have a fixed order, and
every contender returns one number a member, in that order. Nothing here needs JAX.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FEATURES, CLASSES = 64, 10  # of the digits
PROBLEM, INPUTS = "problem.json", "inputs.npz"


@dataclass(frozen=True)
class DepthSweep:
    """Tanh networks on the digits, over depths and gains, by SGD with momentum.

    Gains and learning rate are such that training is not chaotic: at a rate of 0.01 most networks
    of 64 layers amplify a rounding error until final losses differ by a tenth.
    """

    depths: tuple[int, ...] = (2, 4, 8, 16, 32, 64)  # hidden layers, each at least 2
    num_gains: int = 16
    lowest_gain: float = 0.85
    highest_gain: float = 1.15
    width: int = 64
    batch_size: int = 64
    num_steps: int = 100
    probe_size: int = 256  # training examples that the final loss is measured on
    learning_rate: float = 0.001
    momentum: float = 0.9
    sample: int | None = None  # gains of each depth that PyTorch eager trains; None: all

    @property
    def gains(self) -> list[float]:
        """The gains, evenly spaced."""
        return np.linspace(self.lowest_gain, self.highest_gain, self.num_gains).tolist()

    @property
    def members(self) -> list[str]:
        """A name for every member; the gain varies fastest."""
        return [f"depth {depth}, gain {gain:.4g}" for depth in self.depths for gain in self.gains]

    @property
    def sampled_gains(self) -> list[int]:
        """The numbers of the gains in the sample, spread evenly."""
        size = min(self.sample or self.num_gains, self.num_gains)
        return np.linspace(0, self.num_gains - 1, size).round().astype(int).tolist()

    @property
    def matrix_flops(self) -> int:
        """Flops of the matrix products of all training steps, a multiply-add being two.

        A layer's forward product costs 2 batch fan_in fan_out; so does the gradient of its kernel,
        and so does that of its inputs, which the first layer does not need. Evaluating the final
        loss is left out.
        """
        first, hidden, readout = FEATURES * self.width, self.width**2, self.width * CLASSES
        products = sum(2 * first + 3 * (depth - 1) * hidden + 3 * readout for depth in self.depths)
        return 2 * self.batch_size * products * self.num_steps * self.num_gains


@dataclass(frozen=True)
class RateSweep:
    """The fractal study: one hidden layer, full batch, over the learning rates of both layers.

    Source: J. Sohl-Dickstein (2024), The boundary of neural network trainability is fractal,
    2402.06184: tanh, no biases, readout divided by the width, as many points as parameters.
    """

    grid: int = 64  # learning rates of each layer
    lowest_rate: float = 1e-2
    highest_rate: float = 1e4
    width: int = 16  # of the inputs too
    num_steps: int = 100

    @property
    def rates(self) -> list[float]:
        """Learning rates of a layer, evenly spaced in the logarithm."""
        return np.geomspace(self.lowest_rate, self.highest_rate, self.grid).tolist()

    @property
    def members(self) -> list[str]:
        """A name for every member; the readout's rate varies fastest."""
        return [f"rates {first:.3g}, {last:.3g}" for first in self.rates for last in self.rates]

    @property
    def num_points(self) -> int:
        """Training points, as many as parameters."""
        return self.width**2 + self.width

    @property
    def matrix_flops(self) -> int:
        """Flops of the matrix products of all steps; see `DepthSweep.matrix_flops`."""
        products = 2 * self.width**2 + 3 * self.width
        return 2 * self.num_points * products * self.num_steps * self.grid**2


Problem = DepthSweep | RateSweep


def save_problem(problem: Problem, folder: Path) -> None:
    """Write a problem where its workers look for it."""
    text = json.dumps({"kind": type(problem).__name__, **dataclasses.asdict(problem)})
    (folder / PROBLEM).write_text(text, encoding="utf-8")


def load_problem(folder: Path) -> Problem:
    """Read a problem that `save_problem` wrote."""
    found: dict[str, Any] = json.loads((folder / PROBLEM).read_text(encoding="utf-8"))
    if found.pop("kind") == RateSweep.__name__:
        return RateSweep(**found)
    return DepthSweep(**{**found, "depths": tuple(found["depths"])})


def load_inputs(folder: Path) -> dict[str, np.ndarray]:
    """Read what all contenders start from, by name."""
    with np.load(folder / INPUTS) as stored:
        return dict(stored)
