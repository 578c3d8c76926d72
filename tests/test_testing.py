"""The public battery: families of ours pass it, and a model broken in any one way does not."""

import itertools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxnn as jn
from jaxnn.nets.convolutional import cnn
from jaxnn.nets.foreign import from_functions, from_linen, from_nnx, tap
from jaxnn.nets.transformer import transformer
from jaxnn.testing import check_model
from jaxnn.types import Depth, Model, Taps

BATCH, LAYERS, WIDTH, OUT = 3, 3, 4, 2
X = jnp.cos(jnp.arange(BATCH * WIDTH, dtype=jnp.float32)).reshape(BATCH, WIDTH)


def waves(key, shape, dtype=jnp.float32):
    """An initialiser that depends on its key; random draws take ten times as long to compile."""
    phase = jnp.sum(jax.random.key_data(key) >> 8).astype(dtype) / 2**22
    numbers = jnp.cos(phase + 1.7 * jnp.arange(math.prod(shape), dtype=dtype)).reshape(shape)
    return numbers / math.sqrt(math.prod(shape[:-1]))


# Every family


class LinenNet(nn.Module):
    """Tapped layers, batch norm and dropout."""

    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = tap(self, nn.Dense(WIDTH, kernel_init=waves)(x), jnp.tanh)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(OUT, kernel_init=waves)(nn.Dropout(0.5, deterministic=not train)(x))


class NnxNet(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs):
        options = {"kernel_init": waves, "rngs": rngs}
        self.layers = nnx.List([nnx.Linear(WIDTH, WIDTH, **options) for _ in range(2)])
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(WIDTH, OUT, **options)

    def __call__(self, x):
        for layer in self.layers:
            x = tap(self, layer(x), jnp.tanh)
        return self.last(self.dropout(self.norm(x)))


def masked_cnn():
    options = {"weights": waves, "readout": waves, "norm": "batch", "residual": 0.5}
    return cnn(Depth(3, jnp.int32(2)), 2, OUT, "tanh", stride=1, **options)


def small_transformer():
    options = {"weights": waves, "positions": waves, "heads": 2, "mlp_ratio": 1}
    return transformer(2, WIDTH, OUT, **options)


def masked_mlp():
    return jn.mlp(Depth(3, jnp.int32(2)), WIDTH, OUT, weights=waves, norm="batch", dropout=0.5)


def rezero_network():
    options = {**jn.rezero(), "branch_scale": 0.5, "norm": "layer", "dropout": 0.5}
    return jn.residual_mlp(2, WIDTH, OUT, "tanh", weights=waves, embed=waves, **options)


def small_lstm():
    return jn.rnn(WIDTH, OUT, "lstm", weights=waves, recurrent=waves, forget_bias=1.0)


FAMILIES = {
    "mlp": (masked_mlp, X),
    "residual": (rezero_network, X),
    "lstm": (small_lstm, X.reshape(BATCH, 2, 2)),
    "cnn": (masked_cnn, X.reshape(BATCH, 2, 2, 1)),
    "transformer": (small_transformer, X.reshape(BATCH, 2, 2)),
    "linen": (lambda: from_linen(LinenNet(), activation="tanh"), X),
    "nnx": (lambda: from_nnx(lambda rngs: NnxNet(rngs), activation="tanh"), X),
    "functions": (
        lambda: from_functions(
            lambda key, x: waves(key, (WIDTH, OUT), x.dtype), lambda p, x: x @ p
        ),
        X,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_keeps_every_contract(family):
    build, x = FAMILIES[family]
    check_model(build(), x)


# One healthy model, and one way each to break it


def healthy(shifted=lambda z, shift: z + shift):
    """Three tanh layers by hand; they count the passes of training."""

    def init(key, x):
        kernels = waves(key, (LAYERS, WIDTH, WIDTH), x.dtype)
        params = {
            "first": {"kernel": kernels[0]},
            "hidden": {"kernel": kernels[1:]},
            "readout": {"kernel": waves(key, (WIDTH, OUT), x.dtype)},
        }
        return {"params": params, "batch_stats": {"passes": jnp.zeros((), x.dtype)}}

    def apply(variables, x, *, key=None, train=False, shift=None):
        params, h, taps = variables["params"], x, []
        for layer, kernel in enumerate([params["first"]["kernel"], *params["hidden"]["kernel"]]):
            z = h @ kernel
            z = z if shift is None else shifted(z, shift[layer])
            h = jnp.tanh(z)
            taps.append(Taps(z, h))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *taps)
        passes = variables["batch_stats"]["passes"] + jnp.asarray(train, x.dtype)
        y = h @ params["readout"]["kernel"]
        return y, stacked, {**variables, "batch_stats": {"passes": passes}}

    return Model(init, apply, jn.activation("tanh"))


def with_init(change):
    """Change what init returns by `change(variables, x)`."""
    model = healthy()
    return model._replace(init=lambda key, x: change(model.init(key, x), x))


def with_apply(change):
    """Change what apply returns by `change(y, taps, variables, key, train)`."""
    model = healthy()

    def apply(variables, x, *, key=None, train=False, shift=None):
        found = model.apply(variables, x, key=key, train=train, shift=shift)
        return change(*found, key, train)

    return model._replace(apply=apply)


def with_taps(change):
    return with_apply(lambda y, taps, variables, key, train: (y, change(taps), variables))


def with_outputs(change):
    return with_apply(lambda y, taps, variables, key, train: (change(y), taps, variables))


def with_stats(change):
    def changed(y, taps, variables, key, train):
        stats = change(variables["batch_stats"]["passes"], train)
        return y, taps, {**variables, "batch_stats": {"passes": stats}}

    return with_apply(changed)


def noisy(y, taps, variables, key, train):
    return y + 0.0 if key is None else y + jax.random.uniform(key, (), y.dtype), taps, variables


def in_need_of_a_key(y, taps, variables, key, train):
    return y + jax.random.uniform(key, (), y.dtype), taps, variables


CALLS = itertools.count(1)


def counter(values):
    """Depend on how often it was called: a side effect."""
    return values * jnp.asarray(next(CALLS), values.dtype)


def with_weak_types():
    """The count starts as a Python number, whose type is weak, and comes back with a strong one."""

    def init(key, x):
        return {**model.init(key, x), "batch_stats": {"passes": jnp.asarray(0.0)}}

    def stats(passes, train):
        return jnp.where(train, jnp.ones((), jnp.float32), passes)

    model = with_stats(stats)
    return model._replace(init=init)


def compiled_otherwise(y):
    return y if isinstance(y, jax.Array) and not isinstance(y, jax.core.Tracer) else 2 * y


@jax.custom_batching.custom_vmap
def summed(y):
    return y


@summed.def_vmap
def _(axis_size, in_batched, y):
    return jnp.broadcast_to(jnp.sum(y, axis=0), y.shape), True


def mixed(y):
    """Add what depends on the other members of a sweep."""
    return y + summed(jax.lax.stop_gradient(y))


def rootless(y):
    return y + 0.0 * jnp.sqrt(0.0 * y)  # the derivative at 0 is infinite


def twice_felt(z, shift):
    return z + shift + (shift - jax.lax.stop_gradient(shift))


BROKEN = {
    "no-params": (
        lambda: with_init(lambda variables, x: variables["params"]),
        "shapes: expected a dictionary with 'params' of init",
    ),
    "init-sees-batch": (
        lambda: with_init(lambda variables, x: {**variables, "mean": x}),
        "shapes: expected variables that do not depend on the batch's size",
    ),
    "outputs-summed": (
        lambda: with_outputs(lambda y: jnp.sum(y, axis=0)),
        "shapes: expected outputs [batch, ...], batch 3, got (2,)",
    ),
    "two-returned": (
        lambda: with_apply(lambda y, taps, *rest: (y, taps)),
        "shapes: expected apply to return (outputs, taps, variables)",
    ),
    "taps-swapped": (
        lambda: with_taps(lambda taps: jax.tree.map(lambda leaf: leaf.swapaxes(1, 2), taps)),
        "shapes: expected taps with pre and post [layer, batch, unit], batch 3",
    ),
    "taps-no-record": (
        lambda: with_taps(lambda taps: taps.pre),
        "shapes: expected taps that are a jaxnn.Taps or None",
    ),
    "active-too-long": (
        lambda: healthy()._replace(active=jnp.ones(LAYERS + 1, bool)),
        "shapes: expected Model.active [layer], 3 layers, got (4,)",
    ),
    "needs-key": (
        lambda: with_apply(in_need_of_a_key),
        "shapes: expected an evaluation without a key, got",
    ),
    "other-structure": (
        lambda: with_stats(lambda passes, train: (passes, passes) if train else passes),
        "shapes: expected a training pass with a key to return variables like the given ones",
    ),
    "narrower": (
        lambda: with_outputs(lambda y: y.astype(jnp.float16)),
        "dtype: expected float32, as x, everywhere, got float16 (3, 2)",
    ),
    "branches-on-values": (
        lambda: with_outputs(lambda y: y if y.sum() > 0 else -y),
        "shapes: expected an evaluation without a key, got TracerBoolConversionError",
    ),
    "stateful-init": (
        lambda: with_init(lambda variables, x: jax.tree.map(counter, variables)),
        "pure: expected init to give one program whenever it is traced",
    ),
    "stateful-apply": (
        lambda: with_outputs(counter),
        "pure: expected apply to give one program whenever it is traced",
    ),
    "key-used": (lambda: with_apply(noisy), "evaluation: expected a key to change nothing"),
    "evaluation-moves": (
        lambda: with_stats(lambda passes, train: passes + 1),
        "evaluation: expected variables that stay as they are, got another "
        "variables['batch_stats']['passes']",
    ),
    "infinite": (
        lambda: with_outputs(lambda y: y / jnp.zeros_like(y)),
        "finite: expected finite outputs, got 6 NaN or infinite of its 6 numbers",
    ),
    "infinite-gradient": (
        lambda: with_outputs(rootless),
        "finite: expected finite gradients['first']['kernel']",
    ),
    "compiled-otherwise": (
        lambda: with_outputs(compiled_otherwise),
        "jit: expected the outputs of an eager pass",
    ),
    "weak-types": (with_weak_types, "compiles once: expected one program"),
    "members-mixed": (
        lambda: with_outputs(mixed),
        "vmap: expected outputs of the network alone in its lane",
    ),
    "post-is-pre": (
        lambda: with_taps(lambda taps: Taps(taps.pre, taps.pre)),
        "taps: expected post to be Model.activation (tanh) of pre",
    ),
    "shift-ignored": (
        lambda: healthy(lambda z, shift: z),
        "shift: expected pre of layer 1 of 3 to move by its shift",
    ),
    "gradient-lost": (
        lambda: healthy(lambda z, shift: z + jax.lax.stop_gradient(shift)),
        "shift: expected a gradient of layer 1 of 3, since its shift moves the outputs, got zero",
    ),
    "gradient-doubled": (
        lambda: healthy(twice_felt),
        "identity: expected dL/dW = h^T dL/dz in layer 2",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_model_is_refused_by_the_check_it_breaks(fault):
    build, message = BROKEN[fault]
    with pytest.raises(AssertionError, match=f"^{re.escape(message)}"):
        check_model(build(), X)


def test_healthy_model_passes_in_float64():
    with jax.enable_x64(True):
        check_model(healthy(), X.astype(jnp.float64), key=jax.random.key(3))


def test_float32_kept_in_float64_is_refused():
    """In 64-bit mode both dtypes are tried, whichever x has."""
    with jax.enable_x64(True):
        model = with_init(
            lambda variables, x: jax.tree.map(lambda leaf: leaf.astype("f4"), variables)
        )
        with pytest.raises(AssertionError, match=r"^(dtype: expected float64|shapes: .*promotion)"):
            check_model(model, X)


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        (lambda x: x, X, TypeError, "model: expected a jaxnn.Model"),
        (healthy(), X[:1], ValueError, r"x: expected at least two examples .*got float32 of shape"),
        (healthy(), jnp.ones((3, 4), int), ValueError, "x: expected at least two examples"),
    ],
    ids=["no-model", "one-example", "integers"],
)
def test_bad_argument_is_refused(model, x, error, message):
    with pytest.raises(error, match=message):
        check_model(model, x)
