"""An optax chain whose every number may be traced: rule, penalties, clipping, in the right order.

Any other `optax.GradientTransformation` works in `fit` too. What this adds is the order of the
parts, penalties on kernels only, norms that keep stacked layers apart, and the steps that end a
chain, in one call that a sweep can batch over.
"""

from typing import Any

import optax

from jaxnn.training.clipping import clip_adaptive as adaptive_clipping
from jaxnn.training.param_groups import kernels
from jaxnn.training.projections import max_norm as projection
from jaxnn.training.projections import proximal_l1
from jaxnn.training.rules import RULES
from jaxnn.training.sharpness import sharpness_aware
from jaxnn.types import Scalar

ADAMW_WEIGHT_DECAY = 1e-4  # optax.adamw's


def optimizer(
    rule: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    sam: Scalar | None = None,
    l2: Scalar | None = None,
    clip_norm: Scalar | None = None,
    clip_value: Scalar | None = None,
    clip_adaptive: Scalar | None = None,
    weight_decay: Scalar | None = None,
    l1: Scalar | None = None,
    max_norm: Scalar | None = None,
    **options: Any,
) -> optax.GradientTransformation:
    """Build an optimiser; every number may be traced, and None leaves its part out.

    In the order of the arguments: the gradient is taken at a point near by; that of the L2 penalty
    in the loss, l2 W, is added; the gradient is clipped; the rule scales it; decoupled decay adds
    weight_decay W; the learning rate scales the step; the proximal step of the L1 penalty follows,
    then the projection. The penalties touch kernels, not biases.

    Args:
        rule: 'sgd' (options `momentum`, `nesterov`), 'adam', 'adamw' and 'nadam' (`b1`, `b2`,
            `eps`; adamw decays by 1e-4 unless told), 'rmsprop' (`decay`, `eps`), 'lion' (`b1`,
            `b2`; Chen et al. 2023, 2302.06675) or 'muon' (`beta`, and those of adam for all that is
            no hidden kernel; its `ns_steps` and `nesterov` are static).
        learning_rate: a number, or a schedule `step -> rate` (`jn.schedules`, or optax's).
        sam: radius of sharpness-aware minimisation; costs a second gradient a step (Foret et al.
            2021, 2010.01412).
        l2: coefficient of 1/2 |W|^2 in the loss.
        clip_norm: largest global gradient norm; `inf` is off (Pascanu et al. 2013, 1211.5063).
        clip_value: largest magnitude of one gradient entry; `inf` is off.
        clip_adaptive: largest ratio of a unit's gradient to its weights, but for the readout; `inf`
            is off (Brock et al. 2021, 2102.06171).
        weight_decay: decoupled decay, W -= learning_rate weight_decay W
            (Loshchilov & Hutter 2017, 1711.05101).
        l1: coefficient of |W|_1; weights reach exactly 0 (soft threshold, Goodfellow et al. 7.1.2).
        max_norm: largest norm of the weights into one unit; `inf` is off (Srivastava et al. 2014,
            JMLR 15:1929).
        **options: the rule's own.

    Raises:
        ValueError: the rule is unknown.

    Example:
        >>> transform = optimizer("sgd", 0.1, momentum=0.9, clip_norm=1.0)
        >>> isinstance(transform, optax.GradientTransformation)
        True
    """
    if rule not in RULES:
        raise ValueError(f"rule: unknown optimiser {rule!r}; known: {', '.join(RULES)}")
    if rule == "adamw" and weight_decay is None:
        weight_decay = ADAMW_WEIGHT_DECAY
    parts = [
        None if sam is None else sharpness_aware(sam),
        None if l2 is None else optax.add_decayed_weights(l2, mask=kernels),
        None if clip_norm is None else optax.clip_by_global_norm(clip_norm),  # pyright: ignore
        None if clip_value is None else optax.clip(clip_value),
        None if clip_adaptive is None else adaptive_clipping(clip_adaptive),
        RULES[rule](**options),
        None if weight_decay is None else optax.add_decayed_weights(weight_decay, mask=kernels),
        optax.scale_by_learning_rate(learning_rate),
        None if l1 is None else proximal_l1(l1, learning_rate),
        None if max_norm is None else projection(max_norm),
    ]
    return optax.chain(*(part for part in parts if part is not None))
