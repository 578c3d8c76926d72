"""Input checks of `fit`: each error names the argument, what was expected, what came, the fix."""

from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxnn.data import Augmentation, Sampling
from jaxnn.probes import Probe
from jaxnn.training.stopping import Stopping
from jaxnn.types import Batch, Dataset, Model

RESERVED = (
    "step",
    "layer",
    "diverged_at",
    "stopped_at",
    "best_step",
)  # names of what `fit` returns beside its records


def check_counts(num_steps: int, record_every: int, batch_size: int, probe_size: int) -> None:
    """Check the counts of a fit."""
    counts = {"record_every": record_every, "batch_size": batch_size, "probe_size": probe_size}
    for name, value, least in [
        ("num_steps", num_steps, 0),
        *((n, v, 1) for n, v in counts.items()),
    ]:
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name}: expected an int, got {value!r}; it fixes the program's shape")
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    if num_steps % record_every:
        divisors = [k for k in range(1, num_steps + 1) if num_steps % k == 0]
        nearest = min(divisors, key=lambda k: abs(k - record_every))
        raise ValueError(
            f"record_every: expected a divisor of num_steps={num_steps}, got {record_every}; "
            f"the nearest one is {nearest}"
        )


def check_probes(
    probes: Sequence[Probe], validation_probes: Sequence[Probe], data: Dataset
) -> None:
    """Check that a fit measures something, that names are distinct, and splits not empty."""
    names = [each.name for each in probes]
    names += [f"validation_{each.name}" for each in validation_probes]
    if not names:
        raise ValueError("probes: expected at least one, got none: the fit would return nothing")
    if len({*names, *RESERVED}) < len(names) + len(RESERVED):
        raise ValueError(
            f"probes: expected distinct names, other than {', '.join(RESERVED)}, got {names}"
        )
    for split, needed in (("train", True), ("validation", bool(validation_probes))):
        if needed and not len(getattr(data, split).x):
            raise ValueError(f"data.{split}: expected at least one example, got none")


def check_sampling(sampling: str) -> None:
    """Check the name of a way to sample."""
    if sampling not in get_args(Sampling):
        known = ", ".join(get_args(Sampling))
        raise ValueError(f"sampling: expected one of {known}, got {sampling!r}")


def check_stop(stop: Stopping | None, data: Dataset) -> None:
    """Check that a stopping rule is one, and that there is a validation set to judge by."""
    if stop is None:
        return
    if not isinstance(stop, Stopping):
        raise TypeError(
            f"stop: expected a rule such as jn.stopping.patience(5), got {stop!r}; jn.halving(...) "
            "compares members, give it to jn.sweep"
        )
    if not len(data.validation.x):
        raise ValueError(
            "data.validation: expected at least one example, since stop judges by the validation "
            "loss, got none"
        )


def check_augment(augment: Sequence[Augmentation], data: Dataset, batch_size: int) -> None:
    """Check that every augmentation keeps the shape and dtype of a batch's inputs."""
    if callable(augment):
        raise TypeError(f"augment: expected a sequence, got {augment!r}; give augment=[...]")
    dtype = jnp.asarray(data.train.x[:1]).dtype  # as in training: float32 unless x64 is enabled
    x = jax.ShapeDtypeStruct((batch_size, *data.train.x.shape[1:]), dtype)
    for number, change in enumerate(augment):
        found = jax.eval_shape(change, jax.eval_shape(jax.random.key, 0), x)
        if (found.shape, found.dtype) != (x.shape, x.dtype):
            raise ValueError(
                f"augment[{number}]: expected inputs like those it gets, {x.dtype}{x.shape}, got "
                f"{found.dtype}{found.shape}"
            )


def check_data(data: Dataset, model: Model) -> None:
    """Check every concrete array of a dataset: finite, equally long, labels within the outputs."""
    for split in ("train", "validation", "test"):
        batch = getattr(data, split)
        if len(batch.x) != len(batch.y):
            raise ValueError(
                f"data.{split}: expected as many targets as examples, "
                f"got {len(batch.y)} targets for {len(batch.x)} examples"
            )
        if not jnp.issubdtype(batch.x.dtype, jnp.floating):
            raise TypeError(
                f"data.{split}.x: expected floats, got {batch.x.dtype}; give x.astype('float32')"
            )
        _check_finite(f"data.{split}.x", batch.x)
    out = _num_outputs(data, model)
    for split in ("train", "validation", "test"):
        _check_targets(split, getattr(data, split), out)


def check_examples_count(data: Dataset, model: Model, sampling: str) -> None:
    """Check that batch norm, which weighs all examples of a batch alike, may do so."""
    if sampling != "full" or (data.num_train is None and data.train.weight is None):
        return
    if "batch_stats" in _shapes(data, model)[1]:
        raise ValueError(
            "sampling: expected 'epochs' or 'replacement' for a network with batch norm on a task "
            "that leaves out or weighs examples, got 'full', whose batches hold them all; batch "
            "norm would average over those too"
        )


def _num_outputs(data: Dataset, model: Model) -> int:
    return _shapes(data, model)[0].shape[-1]


def _shapes(data: Dataset, model: Model) -> tuple[Any, Any]:
    """Return the shapes of the outputs for one example, and of the variables."""
    x = jax.ShapeDtypeStruct((1, *data.train.x.shape[1:]), jnp.asarray(data.train.x[:1]).dtype)

    def outputs(key: Array, x: Array) -> tuple[Array, Any]:
        variables = model.init(key, x)
        return model.apply(variables, x)[0], variables

    return jax.eval_shape(outputs, jax.eval_shape(jax.random.key, 0), x)


def _check_finite(name: str, values: Array | np.ndarray) -> None:
    if isinstance(values, Tracer):
        return
    bad = int(np.sum(~np.isfinite(np.asarray(values))))
    if bad:
        raise ValueError(
            f"{name}: expected finite numbers, got {bad} NaN or infinite ones; "
            "drop or impute them first"
        )


def _check_targets(split: str, batch: Batch, out: int) -> None:
    if isinstance(batch.y, Tracer) or not len(batch.y):
        return
    targets = np.asarray(batch.y)
    if not np.issubdtype(targets.dtype, np.integer):
        _check_finite(f"data.{split}.y", targets)
    elif targets.min() < 0 or targets.max() >= out:
        raise ValueError(
            f"data.{split}.y: expected classes 0 to {out - 1}, one for each of the model's {out} "
            f"outputs, got {targets.min()} to {targets.max()}; relabel, or build the model with "
            f"out={max(out, int(targets.max()) + 1)}"
        )
