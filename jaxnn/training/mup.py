"""Maximal update parametrisation (muP): learning rates and a readout that fit every width.

With them the best learning rate of a narrow network is that of a wide one. `width_ratio` is the
width over that of a base network, whose training is left as it is.

Of an optimiser's update, with r the width ratio:

    leaf                                             sgd    adam
    kernel of the inputs (embed, first, input)       r      1
    kernel of a hidden layer (hidden, recurrent)     1      1 / r
    kernel of the readout                            1 / r  1 / r
    bias or scale of as many units as the width      r      1
    bias of the readout                              1      1
    a layer's single number (scale of a branch)      1      1

`first` counts as hidden where the network has a group `embed` before it. The initialisation of
hidden layers is the usual one, variance 1 / fan_in; that of the readout has a variance of 1 / r
times it: `readout=jn.gaussian(mup_readout_gain(r))`. Attention needs heads of one size at all
widths: let their number grow with the width.

Source:
    Yang et al. 2022, 2203.03466, table 3.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxnn.training.param_groups import STACKED, Path, group_of, is_kernel, unit_axes
from jaxnn.types import Scalar

INPUTS = ("embed", "first", "input")
HIDDEN = (STACKED, "recurrent")
READOUT = "readout"
# rule -> power of the width ratio, of kernels by role and of biases and scales
POWERS = {
    "sgd": {"inputs": 1, "hidden": 0, "readout": -1, "vector": 1},
    "adam": {"inputs": 0, "hidden": -1, "readout": -1, "vector": 0},
}


def scale_by_mup(rule: str, width_ratio: Scalar) -> optax.GradientTransformation:
    """Scale an optimiser's updates, group by group, so that its learning rate fits every width.

    Chain it after the optimiser: `optax.chain(jn.optimizer("adam", rate), scale_by_mup("adam",
    width / 64))`. Decoupled weight decay is scaled with the rest of the update, and so would be the
    steps of `l1` and `max_norm`, which are then no projections: leave these two out.

    Args:
        rule: 'sgd' for plain descent and momentum; 'adam' for all rules whose step does not grow
            with the gradient (adam, adamw, nadam, rmsprop, lion).
        width_ratio: width over that of the base network; may be traced.

    Raises:
        ValueError: the rule is unknown, or (at init) the network has a group that is.

    Source:
        Yang et al. 2022, 2203.03466, table 3.
    """
    if rule not in POWERS:
        raise ValueError(f"rule: expected one of {', '.join(POWERS)}, got {rule!r}")

    def init(params: Any) -> optax.EmptyState:
        if unknown := sorted({*params} - {*INPUTS, *HIDDEN, READOUT}):
            raise ValueError(
                f"params: expected groups among {', '.join([*INPUTS, *HIDDEN, READOUT])}, got "
                f"{unknown}; muP must know which kernels grow with the width, and how"
            )
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any = None):
        del params

        def scale(path: Path, step: Array) -> Array:
            ratio = jnp.asarray(width_ratio, step.dtype)
            return ratio ** _power(rule, path, step, embedded="embed" in updates) * step

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def mup_readout_gain(width_ratio: Scalar, gain: Scalar = 1.0) -> Array:
    """Return the gain of the readout's initialiser, gain / sqrt(width ratio).

    The standard deviation gain / sqrt(fan_in) of `jn.gaussian` then falls as 1 / width.

    Source:
        Yang et al. 2022, 2203.03466, table 3.
    """
    dtype = jnp.result_type(float)
    return jnp.asarray(gain, dtype) / jnp.sqrt(jnp.asarray(width_ratio, dtype))


def _power(rule: str, path: Path, leaf: Array, *, embedded: bool) -> int:
    """Return the power of the width ratio for a leaf."""
    group = group_of(path)
    if not unit_axes(path, leaf):
        return 0
    if not is_kernel(path):  # what lies deeper in the readout is a norm, as wide as the network
        return 0 if group == READOUT and len(path) == 2 else POWERS[rule]["vector"]
    if group == READOUT:
        return POWERS[rule]["readout"]
    inputs = group in INPUTS and not (group == "first" and embedded)
    return POWERS[rule]["inputs" if inputs else "hidden"]
