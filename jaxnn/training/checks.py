"""Input checks of `fit`: each error names the argument, what was expected, what came, and the fix."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.probes import Probe
from jaxnn.types import Batch, Dataset, Model


def check_fit(
    num_steps: int,
    record_every: int,
    batch_size: int,
    probe_size: int,
    probe_lists: Sequence[Sequence[Probe]],
) -> None:
    """Check the counts of a fit, and that it measures something under distinct names."""
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
    if not any(probe_lists):
        raise ValueError("probes: expected at least one, got none: the fit would return nothing")
    for probes in probe_lists:
        names = [each.name for each in probes]
        if len(set(names)) < len(names):
            raise ValueError(f"probes: expected distinct names, got {names}")


def check_data(data: Dataset, model: Model) -> None:
    """Check every concrete array of a dataset: finite, equally long, labels within the outputs."""
    out = _num_outputs(data, model)
    for split in ("train", "validation", "test"):
        batch = getattr(data, split)
        if len(batch.x) != len(batch.y):
            raise ValueError(
                f"data.{split}: expected as many targets as examples, "
                f"got {len(batch.y)} targets for {len(batch.x)} examples"
            )
        _check_finite(f"data.{split}.x", batch.x)
        _check_targets(split, batch, out)


def _num_outputs(data: Dataset, model: Model) -> int:
    x = jax.ShapeDtypeStruct((1, *data.train.x.shape[1:]), jnp.asarray(data.train.x[:1]).dtype)

    def outputs(key: Array, x: Array) -> Array:
        return model.apply(model.init(key, x), x)[0]

    return jax.eval_shape(outputs, jax.eval_shape(jax.random.key, 0), x).shape[-1]


def _check_finite(name: str, values: Array | np.ndarray) -> None:
    if isinstance(values, jax.core.Tracer):
        return
    bad = int(np.sum(~np.isfinite(np.asarray(values))))
    if bad:
        raise ValueError(
            f"{name}: expected finite numbers, got {bad} NaN or infinite ones; "
            "drop or impute them first"
        )


def _check_targets(split: str, batch: Batch, out: int) -> None:
    if isinstance(batch.y, jax.core.Tracer) or not len(batch.y):
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
