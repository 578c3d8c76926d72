"""An optax chain whose every number may be traced: rule, penalties, clipping, in the right order.

Any other `optax.GradientTransformation` works in `fit` too. What this adds is the order of the
parts, penalties on kernels only, norms that keep stacked layers apart, and the steps that end a
chain, in one call that a sweep can batch over.
"""

from collections.abc import Collection
from typing import Any

import jax
import optax

from jaxnn.training.clipping import clip_adaptive as adaptive_clipping
from jaxnn.training.clipping import clip_norm as norm_clipping
from jaxnn.training.numbers import check_number
from jaxnn.training.param_groups import group_of, is_kernel, kernels
from jaxnn.training.projections import max_norm as projection
from jaxnn.training.projections import proximal_l1
from jaxnn.training.rules import MATRICES, RULES
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
        ValueError: the rule is unknown, or a number that is known is below 0; at init, params
            without what a penalty, `max_norm` or muon acts on.

    Example:
        >>> transform = optimizer("sgd", 0.1, momentum=0.9, clip_norm=1.0)
        >>> isinstance(transform, optax.GradientTransformation)
        True
    """
    if rule not in RULES:
        raise ValueError(f"rule: unknown optimiser {rule!r}; known: {', '.join(RULES)}")
    penalties = {"l2": l2, "weight_decay": weight_decay, "l1": l1, "max_norm": max_norm}
    clips = {"clip_norm": clip_norm, "clip_value": clip_value, "clip_adaptive": clip_adaptive}
    rate = {} if callable(learning_rate) else {"learning_rate": learning_rate}
    for name, value in {**rate, **clips, **penalties}.items():
        check_number(name, value, "at least 0", lambda each: each >= 0)
    needed = [name for name, value in penalties.items() if value is not None]
    if rule == "adamw" and weight_decay is None:
        weight_decay = ADAMW_WEIGHT_DECAY
    parts = [
        None if sam is None else sharpness_aware(sam),
        None if l2 is None else optax.add_decayed_weights(l2, mask=kernels),
        None if clip_norm is None else norm_clipping(clip_norm),
        None if clip_value is None else optax.clip(clip_value),
        None if clip_adaptive is None else adaptive_clipping(clip_adaptive),
        RULES[rule](**options),
        None if weight_decay is None else optax.add_decayed_weights(weight_decay, mask=kernels),
        optax.scale_by_learning_rate(learning_rate),
        None if l1 is None else proximal_l1(l1, learning_rate),
        None if max_norm is None else projection(max_norm),
    ]
    chain = optax.chain(*(part for part in parts if part is not None))

    def init(params: Any) -> Any:
        _check_leaves(rule, needed, params)
        return chain.init(params)

    return chain._replace(init=init)


def _check_leaves(rule: str, needed: Collection[str], params: Any) -> None:
    """Check that there is something for each part to act on."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if needed and not any(is_kernel(path) for path in paths):
        raise ValueError(
            f"{', '.join(needed)}: expected params with leaves called 'kernel', the only ones it "
            f"acts on, got {_names(paths)}; name weights 'kernel', or chain optax's own part"
        )
    if rule == "muon" and not any(is_kernel(path) and group_of(path) in MATRICES for path in paths):
        raise ValueError(
            f"rule 'muon': expected params with kernels in the groups {' or '.join(MATRICES)}, the "
            f"matrices it is for, got {_names(paths)}; name the groups so, or use another rule"
        )


def _names(paths: list[Any]) -> str:
    return ", ".join(jax.tree_util.keystr(path) for path in paths[:5])
