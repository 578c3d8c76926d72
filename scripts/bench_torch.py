"""The reference sweep in PyTorch: eager one by one, and a torch.func ensemble for each depth.

On a GPU if PyTorch sees one. On a CPU, one thread and one a core are tried, and the faster is kept.
"""

import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from bench_contenders import Contender
from bench_problems import DepthSweep
from torch import Tensor  # pyright: ignore[reportMissingImports]
from torch.func import grad, vmap  # pyright: ignore[reportMissingImports]
from torch.nn.functional import cross_entropy  # pyright: ignore[reportMissingImports]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = [
    f"{group}/{part}" for group in ("first", "hidden", "readout") for part in ("kernel", "bias")
]
TRIAL_STEPS, NUM_TRIALS = 10, 3  # for each number of threads


class Task:
    """A problem's examples, batches and initial weights, on the device."""

    def __init__(self, problem: DepthSweep, inputs: dict[str, np.ndarray]):
        self.problem = problem
        self.x, self.y = self._tensor(inputs["x"]), self._tensor(inputs["y"]).long()
        self.batches = self._tensor(inputs["batches"]).long()
        self._initial = {
            depth: [self._tensor(inputs[f"{depth}/{name}"]) for name in NAMES]
            for depth in problem.depths
        }

    def initial(self, depth: int, gain: int | slice) -> list[Tensor]:
        """Return fresh parameters of one gain, or of several stacked, ready to be trained."""
        return [leaf[gain].clone().requires_grad_() for leaf in self._initial[depth]]

    def optimizer(self, params: list[Tensor]) -> torch.optim.SGD:
        """Return SGD with momentum in its fastest form."""
        rate, momentum = self.problem.learning_rate, self.problem.momentum
        return torch.optim.SGD(params, lr=rate, momentum=momentum, fused=True)

    @property
    def probed(self) -> tuple[Tensor, Tensor]:
        """The examples of the final loss."""
        size = self.problem.probe_size
        return self.x[:size], self.y[:size]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=DEVICE)


def mean_loss(params: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross entropy of one network."""
    first, first_bias, hidden, hidden_bias, readout, readout_bias = params
    h = torch.tanh(torch.addmm(first_bias, x, first))
    for kernel, bias in zip(hidden.unbind(), hidden_bias.unbind(), strict=True):
        h = torch.tanh(torch.addmm(bias, h, kernel))
    return cross_entropy(torch.addmm(readout_bias, h, readout), y)


def train_one(task: Task, depth: int, gain: int, num_steps: int | None = None) -> float:
    """Return the final loss of one network, trained eagerly."""
    params = task.initial(depth, gain)
    optimizer = task.optimizer(params)
    for batch in task.batches[:num_steps]:
        optimizer.zero_grad()
        mean_loss(params, task.x[batch], task.y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return float(mean_loss(params, *task.probed))


def train_depth(task: Task, depth: int, num_steps: int | None = None) -> np.ndarray:
    """Return the final losses of all gains of a depth, trained as one ensemble."""
    params = task.initial(depth, slice(None))
    optimizer = task.optimizer(params)
    gradients_of = vmap(grad(mean_loss), in_dims=(0, None, None))
    losses_of = vmap(mean_loss, in_dims=(0, None, None))
    for batch in task.batches[:num_steps]:
        with torch.no_grad():
            gradients = gradients_of(params, task.x[batch], task.y[batch])
        for leaf, gradient in zip(params, gradients, strict=True):
            leaf.grad = gradient
        optimizer.step()
    with torch.no_grad():
        return losses_of(params, *task.probed).cpu().numpy()


def eager(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Train one network after the other, or a sample of them."""
    task, gains = Task(problem, inputs), problem.sampled_gains
    note, seconds = _choose_threads(lambda steps: train_one(task, problem.depths[-1], 0, steps))

    def sweep() -> Iterator[np.ndarray]:
        for depth in problem.depths:
            for gain in gains:
                yield np.asarray([train_one(task, depth, gain)])

    starts = range(0, len(problem.members), problem.num_gains)
    members = tuple(start + gain for start in starts for gain in gains)
    return Contender(sweep, note, members, uncounted_seconds=seconds)


def func(problem: DepthSweep, inputs: dict[str, np.ndarray]) -> Contender:
    """Train the gains of a depth as a torch.func ensemble: vmap of grad over stacked weights."""
    task = Task(problem, inputs)
    note, seconds = _choose_threads(lambda steps: train_depth(task, problem.depths[-1], steps))

    def sweep() -> Iterator[np.ndarray]:
        for depth in problem.depths:
            yield train_depth(task, depth)

    return Contender(sweep, note, uncounted_seconds=seconds)


def _choose_threads(trial: Callable[[int], object]) -> tuple[str, float]:
    """Set the number of threads that is faster, one or all; return it in words, and the seconds."""
    if DEVICE == "cuda":
        return "on cuda", 0.0
    begin, seconds = time.perf_counter(), {}
    for threads in (1, os.cpu_count() or 1) * NUM_TRIALS:
        torch.set_num_threads(threads)
        trial(1)
        start = time.perf_counter()
        trial(TRIAL_STEPS)
        taken = time.perf_counter() - start
        seconds[threads] = min(taken, seconds.get(threads, taken))
    best = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(best)
    return f"{best} of {os.cpu_count()} threads", time.perf_counter() - begin
