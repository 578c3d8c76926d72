"""Update rules by name: what an optimiser makes of gradients before the learning rate."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax
import optax.contrib
from jax import Array
from optax.contrib import MuonDimensionNumbers

from jaxnn.training.param_groups import STACKED, Path, group_of, is_kernel, unit_axes
from jaxnn.types import Scalar

MATRICES = (STACKED, "recurrent")  # groups whose kernels `muon` orthogonalises


def sgd(momentum: Scalar | None = None, nesterov: bool = False) -> optax.GradientTransformation:
    """Take the gradient itself, or its running sum."""
    return optax.identity() if momentum is None else optax.trace(momentum, nesterov)


def nadam(**options: Any) -> optax.GradientTransformation:
    """Scale as Adam with Nesterov's look ahead (Dozat 2016, ICLR workshop)."""
    return optax.scale_by_adam(nesterov=True, **options)


def muon(
    beta: Scalar = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
) -> optax.GradientTransformation:
    """Orthogonalise the momentum of each hidden layer's kernel; Adam scales all other leaves.

    Each layer of the stacked group `hidden` is a matrix of its own, `[fan_in, unit]` with all axes
    between flattened into fan_in, and so is the kernel of `recurrent`. A step has the size
    sqrt(max(1, units / fan_in)) in spectral norm.

    Args:
        beta: of the momentum.
        nesterov: look ahead by one step of momentum.
        ns_steps: Newton-Schulz iterations, which bring singular values to about 0.7 to 1.2.
        b1: of Adam.
        b2: of Adam.
        eps: of Adam.

    Source:
        Jordan et al. 2024, Muon (kellerjordan.github.io/posts/muon), by `optax.contrib.muon`.
    """
    orthogonal = optax.chain(
        optax.contrib.scale_by_muon(
            beta=beta,
            nesterov=nesterov,
            ns_steps=ns_steps,
            weight_dimension_numbers=_matrices,
        ),
        _scale_by_aspect(),
    )
    adam = optax.scale_by_adam(b1, b2, eps)
    return optax.partition({"muon": orthogonal, "adam": adam}, _muon_or_adam)


def _is_matrix(path: Path, leaf: Array) -> bool:
    return is_kernel(path) and group_of(path) in MATRICES and len(unit_axes(path, leaf)) > 0


def _muon_or_adam(params: Any) -> Any:
    def label(path: Path, leaf: Array) -> str:
        return "muon" if _is_matrix(path, leaf) else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _matrices(updates: Any) -> Any:
    """Return which axes of each leaf are a matrix's rows and columns; the others are a batch."""

    def numbers(path: Path, leaf: Array) -> MuonDimensionNumbers:
        return MuonDimensionNumbers(unit_axes(path, leaf), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(numbers, updates)


def _scale_by_aspect() -> optax.GradientTransformation:
    """Scale an orthogonal matrix by sqrt(max(1, columns / rows))."""

    def scale(path: Path, leaf: Array) -> Array:
        rows = math.prod(leaf.shape[axis] for axis in unit_axes(path, leaf))
        return math.sqrt(max(1.0, leaf.shape[-1] / rows)) * leaf

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


RULES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "adam": optax.scale_by_adam,
    "adamw": optax.scale_by_adam,
    "nadam": nadam,
    "rmsprop": optax.scale_by_rms,
    "lion": optax.scale_by_lion,
    "muon": muon,
}
"""name -> (options) -> transformation of gradients; the learning rate is applied after it."""
