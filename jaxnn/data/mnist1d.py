"""MNIST-1D: ten digits as short signals, hard for linear models and quick to train on.

A generator of its own after the published description: nothing is downloaded, and examples are not
those of the published file, but draws from the same distribution.
"""

from typing import NamedTuple, Unpack

import numpy as np

from jaxnn.data.checks import check_counts, checked_seed
from jaxnn.data.datasets import Split, dataset
from jaxnn.types import Dataset

TEMPLATES = np.array(
    [
        [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
        [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
        [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
        [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
        [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
        [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
        [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
        [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
    ]
)
"""The shapes of the digits 0 to 9 `[class, point]`, as published (S. Greydanus, the mnist1d
repository)."""

NUM_CLASSES, TEMPLATE_LENGTH = TEMPLATES.shape
PADDING = (36, 60)  # zeros after the template, smallest and largest number
LENGTH = TEMPLATE_LENGTH + PADDING[1]  # steps while it is being made
FINAL_LENGTH = 40
SCALE = 0.4  # width of the uniform factor around 1
LARGEST_SHIFT = 48  # exclusive
SHEAR = 0.75  # width of the uniform slope around 0
WANDERING_STD, WANDERING_STEPS = 0.25, 2  # white noise smoothed by a Gaussian of these steps
NOISE_STD = 0.02


class Draws(NamedTuple):
    """What is random in the examples."""

    padding: np.ndarray  # [example] zeros after the template
    scale: np.ndarray  # [example] factor of the amplitude
    shift: np.ndarray  # [example] steps to the right, around the end
    slope: np.ndarray  # [example] fall over the whole length
    wandering: np.ndarray  # [example, step] standard normal, before smoothing
    noise: np.ndarray  # [example, step] standard normal


def mnist1d(
    num_examples: int = 5000,
    *,
    flat: bool = True,
    standardize: str | None = "global",
    seed: int = 0,
    **split: Unpack[Split],
) -> Dataset:
    """Draw signals of 40 steps, each a distorted template of one of 10 digits.

    A template of 12 points (centred, of standard deviation 1/6, its first point at 0) is padded
    with 36 to 60 zeros and stretched to 72 steps; its amplitude is scaled by a factor in
    [0.8, 1.2]; it is shifted by 0 to 47 steps, around the end; where there is no template, white
    noise of standard deviation 0.25, smoothed over 2 steps, takes its place; noise of 0.02 is added
    everywhere, and a ramp that falls by -0.375 to 0.375; the result is interpolated to 40 steps.

    The sizes of the paper are 4,000 training and 1,000 test examples; as a `Dataset` has a
    validation split, it gets half of the latter.

    Args:
        num_examples: number of signals, spread evenly over the classes.
        flat: inputs are `[batch, 40]`; if False, sequences `[batch, 40, 1]`.
        standardize: as in `dataset`; the paper's is `"global"`.
        seed: draws the signals and decides the split.
        **split: `validation` and `test` as in `dataset`, 0.1 each unless given.

    Returns:
        A `Dataset` of 4,000 training, 500 validation and 500 test signals by default.

    Raises:
        ValueError: `num_examples` is no positive integer, or as in `dataset`.

    Source:
        S. Greydanus, D. Kobak (2020), Scaling down deep learning with MNIST-1D, arXiv:2011.14439,
        section 2; the constants are those of the published code. Reported test accuracy: logistic
        regression 32%, MLP 68%, CNN 94%.
    """
    check_counts(num_examples=num_examples)
    generator = np.random.default_rng((checked_seed(seed), 2))  # not the stream of `dataset`
    y = np.arange(num_examples) % NUM_CLASSES
    x = _signals(y, _draw(num_examples, generator))
    x = x if flat else x[..., None]
    sizes: Split = {"validation": 0.1, "test": 0.1, **split}
    return dataset(x, y, standardize=standardize, seed=seed, **sizes)


def _draw(num_examples: int, generator: np.random.Generator) -> Draws:
    """Draw all that is random, each in its published range."""
    centred = generator.random((2, num_examples)) - 0.5
    return Draws(
        padding=generator.integers(PADDING[0], PADDING[1] + 1, num_examples),
        scale=1 + SCALE * centred[0],
        shift=generator.integers(0, LARGEST_SHIFT, num_examples),
        slope=SHEAR * centred[1],
        wandering=generator.standard_normal((num_examples, LENGTH)),
        noise=generator.standard_normal((num_examples, LENGTH)),
    )


def _signals(y: np.ndarray, draws: Draws) -> np.ndarray:
    """Return the signals [example, 40] of some classes [example]."""
    from scipy.ndimage import gaussian_filter1d

    steps = np.arange(LENGTH)
    stretch = (TEMPLATE_LENGTH + draws.padding - 1) / (LENGTH - 1)  # points a step
    source = (steps - draws.shift[:, None]) % LENGTH
    point = source * stretch[:, None]  # of the padded template, [example, step]
    padded = np.pad(_templates(), ((0, 0), (0, 2)))  # the padding goes on with the same zeros
    left = np.minimum(point.astype(int), TEMPLATE_LENGTH)
    weight = point - left
    shape = (1 - weight) * padded[y[:, None], left] + weight * padded[y[:, None], left + 1]
    wandering = gaussian_filter1d(WANDERING_STD * draws.wandering, WANDERING_STEPS, axis=1)
    signal = np.where(point < TEMPLATE_LENGTH, draws.scale[:, None] * shape, wandering)
    signal += NOISE_STD * draws.noise - draws.slope[:, None] * np.linspace(-0.5, 0.5, LENGTH)
    return _resampled(signal, FINAL_LENGTH)


def _templates() -> np.ndarray:
    """Return the templates [class, point] as they enter: of one size, and starting at 0."""
    unit = (TEMPLATES - TEMPLATES.mean(1, keepdims=True)) / TEMPLATES.std(1, keepdims=True)
    return (unit - unit[:, :1]) / 6


def _resampled(signal: np.ndarray, num_steps: int) -> np.ndarray:
    """Interpolate signals [example, step] linearly to `num_steps`, ends on ends."""
    place = np.linspace(0, signal.shape[1] - 1, num_steps)
    left = np.minimum(place.astype(int), signal.shape[1] - 2)
    weight = place - left
    return (1 - weight) * signal[:, left] + weight * signal[:, left + 1]
