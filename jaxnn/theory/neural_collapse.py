"""Neural collapse: where features and classifier end if features are free to move.

The unconstrained-features model minimises `mean CE(W H) + l_W/2 |W|^2 + l_H/2 |H|^2` over the
classifier W and the features H of n examples a class. Its minimum is a simplex: features of a class
coincide, class means are as far apart as can be, and the classifier is parallel to them.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.theory.arguments import floats
from jaxnn.types import Scalar


def simplex_cosine(num_classes: Scalar) -> Array:
    """Compute the cosine between the centred means of two classes: `-1 / (C - 1)`.

    Source: Papyan, Han and Donoho, 2020, arXiv:2008.08186.
    """
    (num_classes,) = floats(num_classes)
    return -1 / (num_classes - 1)


def simplex_frame(num_classes: int) -> Array:
    """Build the simplex equiangular tight frame: `sqrt(C / (C-1)) (I - 1 1' / C)`.

    Args:
        num_classes: C, 2 or more.

    Returns:
        `[class, class]`, a row of unit norm for each class; of rank C - 1.

    Raises:
        ValueError: fewer than two classes.

    Source: Papyan, Han and Donoho, 2020, arXiv:2008.08186.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: expected 2 or more, got {num_classes}")
    centred = np.eye(num_classes) - 1 / num_classes
    return jnp.asarray(np.sqrt(num_classes / (num_classes - 1)) * centred)


def collapsed_logit_gap(
    num_classes: Scalar, weight_decay: Scalar, feature_decay: Scalar, per_class: Scalar = 1
) -> Array:
    """Compute the logit of the true class less that of any other at the minimum.

    `ln(1/m - C + 1)` with `m = sqrt(n l_W l_H)`, and 0 (all collapses to zero) from `m = 1/C` on.
    From it the logits are `gap (I - 1 1'/C)`, the loss `ln(1 + (C-1) e^-gap)`, and the norms
    `|W|^2 = gap (C-1) sqrt(n l_H / l_W)` and `|H|^2 = |W|^2 l_W / l_H`.

    Args:
        num_classes: C.
        weight_decay: l_W, of `l_W/2 |W|^2`.
        feature_decay: l_H, of `l_H/2 |H|^2` over the features of all examples.
        per_class: n, examples of each class.

    Returns:
        The gap, of the arguments' shape. Features need at least C - 1 dimensions.

    Source: Zhu et al., 2021, arXiv:2105.02375, for the minimum's shape; its size is ours, by the
        nuclear norm of the logits.
    """
    classes, decay, feature, per_class = floats(num_classes, weight_decay, feature_decay, per_class)
    odds = 1 / jnp.sqrt(per_class * decay * feature) - classes + 1
    return jnp.log(jnp.maximum(odds, 1))
