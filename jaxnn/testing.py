"""Check a user's own model against the contract that training, probes and sweeps rely on.

One call in a test does it: `jn.testing.check_model(model, x)`. It compiles the model a few times:
give it a small one.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnn.types import Model, Taps, Variables

ROUNDINGS = 1000  # how many roundings two ways to the same number may be apart


class Member(NamedTuple):
    """One network of a batch, and what is done to it."""

    variables: Variables
    key: Array
    shift: Any  # [layer, batch, unit]; None: it has no taps


class Pass(NamedTuple):
    """What the passes of one network show."""

    outputs: Array
    taps: Any  # Taps or None
    variables: Variables  # as evaluation returns them
    trained: Array  # outputs in training
    moved: Variables  # as training returns them
    gradients: Any  # for params, of a sum of the outputs of one of the two passes
    signals: Any  # the same for shift; None: it has no taps


def check_model(model: Model, x: Array, *, key: Array | None = None) -> None:
    """Assert that a model keeps the contract of `jaxnn.Model`.

    The checks, in this order; those of taps, shift and identity only where the model has taps:

    - shapes: `init` returns a dictionary with `params`, the same for any number of examples, and
      for a batch of keys; outputs are `[batch, ...]`, taps `[layer, batch, unit]`, `active` is
      `[layer]`; passes return variables of the structure, shapes and dtypes that they were given;
    - dtype: real arrays have the dtype of x; in JAX's 64-bit mode, both float32 and float64 do;
    - pure: `init` and `apply` give the same program each time that they are traced;
    - evaluation: it needs no key, heeds none, and leaves the variables as they are;
    - finite: outputs, gradients and moved variables, in evaluation and in training;
    - jit: compiled and eager outputs agree;
    - compiles once: other values, and the variables that training returns, need no new program;
    - vmap: in a batch of networks, each has the numbers that it has alone;
    - taps: post is the activation of pre, where `Model.activation` is given;
    - shift: it moves its own layer's pre by itself and no earlier layer's, and has a gradient in
      each layer where it moves the outputs;
    - identity: dL/dW = h^T dL/dz for kernels `[layer - 1, unit, unit]` of the group `hidden`,
      wherever a layer is pre = h W + (what does not depend on W).

    Args:
        model: to check.
        x: examples `[batch, ...]`, at least two of them; real numbers.
        key: of the draws; key 0 unless given.

    Raises:
        AssertionError: names the check, what was expected and what came.
        TypeError, ValueError: the arguments are no model or no batch.

    Example:
        >>> def init(key, x):
        ...     return {"params": jax.random.uniform(key, (x.shape[-1], 2), x.dtype)}
        >>> def apply(variables, x, *, key=None, train=False, shift=None):
        ...     return x @ variables["params"], None, variables
        >>> check_model(Model(init, apply), jnp.ones((3, 5)))
    """
    x = _checked_arguments(model, x)
    keys = jax.random.split(jax.random.key(0) if key is None else key, 2)
    with jax.default_matmul_precision("highest"):
        wide = [jnp.float32, jnp.float64] if jax.config.read("jax_enable_x64") else []
        for dtype in dict.fromkeys(jnp.dtype(each) for each in (x.dtype, *wide)):
            _check_shapes(model, jax.ShapeDtypeStruct(x.shape, dtype), keys[0])
        members = _check_pure(model, x, keys)
        alone = _check_evaluation(model, members, x)
        _check_batch(model, members, x, alone)


def _checked_arguments(model: Model, x: Array) -> Array:
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a jaxnn.Model, got {model!r}; write Model(init, apply)")
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim < 2 or len(x) < 2:
        raise ValueError(
            f"x: expected at least two examples [batch, ...] of real numbers, got {x.dtype} of "
            f"shape {x.shape}; give a batch such as x_train[:4]"
        )
    return x


def _check_shapes(model: Model, x: jax.ShapeDtypeStruct, key: Array) -> None:
    """Check all that is known without computing."""
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    variables = _attempt("shapes", "variables", jax.eval_shape, model.init, key, x)
    if not isinstance(variables, dict) or "params" not in variables:
        _refuse("shapes", "a dictionary with 'params' of init", jax.tree.structure(variables))
    small = _attempt("shapes", "variables of one example", jax.eval_shape, model.init, key, one)
    _assert_alike("variables that do not depend on the batch's size", small, variables)
    lanes = jax.vmap(model.init, (0, None))
    _attempt("shapes", "variables for a batch of keys", jax.eval_shape, lanes, key[None], x)
    for expected, options in (
        ("an evaluation without a key", {}),
        ("a training pass with a key", {"key": key, "train": True}),
    ):
        apply = functools.partial(model.apply, **options)
        found = _attempt("shapes", expected, jax.eval_shape, apply, variables, x)
        if not isinstance(found, tuple) or len(found) != 3:
            _refuse("shapes", "apply to return (outputs, taps, variables)", type(found).__name__)
        outputs, taps, moved = found
        if outputs.ndim < 2 or outputs.shape[0] != x.shape[0]:
            _refuse("shapes", f"outputs [batch, ...], batch {x.shape[0]}", outputs.shape)
        _assert_alike(f"{expected} to return variables like the given ones", moved, variables)
        _check_tap_shapes(model, taps, x.shape[0])
        for leaf in jax.tree.leaves((variables, outputs, taps)):
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.dtype != x.dtype:
                _refuse("dtype", f"{x.dtype}, as x, everywhere", f"{leaf.dtype} {leaf.shape}")


def _check_tap_shapes(model: Model, taps: Any, batch: int) -> None:
    if taps is None:
        return
    if not isinstance(taps, Taps):
        _refuse("shapes", "taps that are a jaxnn.Taps or None", type(taps).__name__)
    pre, post = taps.pre.shape, taps.post.shape
    if len(pre) != 3 or pre[1] != batch or pre != post:
        expected = f"taps with pre and post [layer, batch, unit], batch {batch}"
        _refuse("shapes", expected, f"{pre} and {post}")
    if model.active is not None and model.active.shape != pre[:1]:
        _refuse("shapes", f"Model.active [layer], {pre[0]} layers", model.active.shape)


def _check_pure(model: Model, x: Array, keys: Array) -> list[Member]:
    """Return two networks."""

    def passes(variables: Variables, key: Array) -> Any:
        trained = model.apply(variables, x, key=key, train=True)
        return model.apply(variables, x)[:2], trained

    def traced(function: Callable[..., Any], *arguments: Any) -> str:
        return jax.jit(lambda *given: function(*given)).lower(*arguments).as_text()  # anew

    def init(key: Array) -> Variables:
        return model.init(key, x)

    variables = [_attempt("jit", "a compiled init", jax.jit(init), key) for key in keys]
    trials = (("init", init, (keys[0],)), ("apply", passes, (variables[0], keys[0])))
    for name, function, arguments in trials:
        texts = {_attempt("jit", f"a compiled {name}", traced, function, *arguments) for _ in "ab"}
        if len(texts) > 1:
            _refuse("pure", f"{name} to give one program whenever it is traced", "two programs")
    taps = jax.eval_shape(model.apply, variables[0], x)[1]
    shift = None if taps is None else jnp.zeros(taps.pre.shape, x.dtype)
    return [Member(*own, shift) for own in zip(variables, keys, strict=True)]


def _check_evaluation(model: Model, members: list[Member], x: Array) -> Pass:
    """Return what the first network shows alone."""
    variables = members[0].variables
    passes = (model.apply, functools.partial(model.apply, key=members[0].key))
    eager, keyed = (
        _attempt("evaluation", "an eager pass", apply, variables, x)[0] for apply in passes
    )
    _assert_finite(outputs=eager)
    expected = "a key to change nothing: layers draw in training only"
    _assert_close("evaluation", expected, keyed, eager)
    alone = _check_compiles_once(model, members, x)
    before = jax.tree_util.tree_leaves_with_path(variables)
    for (path, leaf), after in zip(before, jax.tree.leaves(alone.variables), strict=True):
        if not np.array_equal(leaf, after, equal_nan=True):
            name = jax.tree_util.keystr(path)
            _refuse("evaluation", "variables that stay as they are", f"another variables{name}")
    _assert_finite(**alone._asdict())
    _assert_close("jit", "the outputs of an eager pass", alone.outputs, eager)
    return alone


def _check_compiles_once(model: Model, members: list[Member], x: Array) -> Pass:
    """Run two networks in one program, and the first again as training leaves it."""
    types = []

    def counted(member: Member) -> Pass:
        types.append([str(jax.typeof(leaf)) for leaf in jax.tree.leaves(member.variables)])
        return _pass(model, x, member, by_training=True)

    compiled = jax.jit(counted)
    alone = _attempt("jit", "a compiled pass", compiled, members[0])
    for member in (members[1], members[0]._replace(variables=alone.moved)):
        compiled(member)
    if len(types) > 1:
        changed = [pair for pair in zip(types[0], types[-1], strict=True) if len(set(pair)) > 1]
        expected = "one program, as init and training give variables of one type"
        _refuse("compiles once", expected, f"these types of init and of training: {changed}")
    return alone


def _pass(model: Model, x: Array, member: Member, *, by_training: bool) -> Pass:
    """Evaluate with the shift and train with the key; only one is differentiated, to save time."""

    def run(params: Any, shift: Any, train: bool) -> tuple[Array, Any]:
        options = {"key": member.key, "train": True} if train else {"shift": shift}
        y, taps, moved = model.apply({**member.variables, "params": params}, x, **options)
        return jnp.sum(y * _waves(y.shape, y.dtype)), (y, taps, moved)

    params, gradient = member.variables["params"], jax.grad(run, (0, 1), has_aux=True)
    (gradients, signals), shown = gradient(params, member.shift, by_training)
    beside = run(params, member.shift, not by_training)[1]
    (y, taps, variables), (trained, _, moved) = (beside, shown) if by_training else (shown, beside)
    return Pass(y, taps, variables, trained, moved, gradients, signals)


def _check_batch(model: Model, members: list[Member], x: Array, alone: Pass) -> None:
    """Run the networks beside ones with a shifted layer, and with a changed kernel."""
    layers, dense, shifted, changed = [], [], [], []
    if alone.taps is not None:
        last = int(np.flatnonzero(_present(model, len(alone.taps.pre)))[-1])
        layers = sorted({0, last // 2, last})
        shifted = [_shifted(members[0], layer) for layer in layers]
        if _square_kernels(members[0]) is not None:
            dense = layers[1:]
            changed = [_changed(members[0], layer) for layer in dense]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members, *shifted, *changed)
    one = functools.partial(_pass, model, x, by_training=False)
    batched = jax.jit(jax.vmap(one))
    found = jax.device_get(_attempt("vmap", "a pass of a batch of networks", batched, batch))
    count = len(batch.key)
    lanes = [jax.tree.map(lambda leaf, lane=lane: leaf[lane], found) for lane in range(count)]
    _assert_finite(**lanes[0]._asdict())
    for name, ours, theirs in list(zip(Pass._fields, lanes[0], alone, strict=True))[:-2]:
        _assert_close("vmap", f"{name} of the network alone in its lane", ours, theirs)
    if alone.taps is not None:
        _check_activation(model, lanes[0])
        _check_shifts(layers, lanes[0], lanes[2 : 2 + len(layers)])
        _check_identity(dense, lanes[0], lanes[2 + len(layers) :])


def _shifted(member: Member, layer: int) -> Member:
    waves = _waves(member.shift.shape[1:], member.shift.dtype)
    return member._replace(shift=member.shift.at[layer].set(waves))


def _changed(member: Member, layer: int) -> Member:
    params = member.variables["params"]
    kernel = params["hidden"]["kernel"]
    new = kernel.at[layer - 1].add(_waves(kernel.shape[1:], kernel.dtype))
    params = {**params, "hidden": {**params["hidden"], "kernel": new}}
    return member._replace(variables={**member.variables, "params": params})


def _check_activation(model: Model, plain: Pass) -> None:
    if model.activation is None:
        return
    present = _present(model, len(plain.taps.pre))
    phi = jax.jit(model.activation.function)(plain.taps.pre)
    expected = f"post to be Model.activation ({model.activation.name}) of pre"
    _assert_close("taps", expected, plain.taps.post[present], phi[present])


def _check_shifts(layers: list[int], plain: Pass, shifted: list[Pass]) -> None:
    pre = plain.taps.pre
    shift = np.asarray(_waves(pre.shape[1:], pre.dtype))
    for layer, lane in zip(layers, shifted, strict=True):
        name = f"layer {layer + 1} of {len(pre)}"
        expected = f"pre of {name} to move by its shift, and pre of earlier layers to stay"
        wanted = np.concatenate([pre[:layer], pre[layer : layer + 1] + shift])
        _assert_close("shift", expected, lane.taps.pre[: layer + 1], wanted)
        moves = np.max(np.abs(lane.outputs - plain.outputs)) > _tolerance(plain.outputs)
        if moves and not np.any(plain.signals[layer]):
            _refuse("shift", f"a gradient of {name}, since its shift moves the outputs", "zero")


def _check_identity(layers: list[int], plain: Pass, changed: list[Pass]) -> None:
    """Check dL/dW of the layers whose pre moves by h dW when W moves by dW."""
    for layer, lane in zip(layers, changed, strict=True):
        h, pre = plain.taps.post[layer - 1], plain.taps.pre[layer]
        by_kernel = h @ np.asarray(_waves((pre.shape[1],) * 2, pre.dtype))
        tolerance = _tolerance(pre)
        is_seen = np.max(np.abs(by_kernel)) > 10 * tolerance
        if is_seen and np.max(np.abs(lane.taps.pre[layer] - pre - by_kernel)) <= tolerance:
            expected = f"dL/dW = h^T dL/dz in layer {layer + 1}"
            found = plain.gradients["hidden"]["kernel"][layer - 1]
            _assert_close("identity", expected, found, h.T @ plain.signals[layer])


def _square_kernels(member: Member) -> Any:
    """Return kernels `[layer - 1, unit, unit]` of the group `hidden`, or None."""
    params, shape = member.variables["params"], member.shift.shape
    hidden = params.get("hidden") if isinstance(params, dict) else None
    kernel = hidden.get("kernel") if isinstance(hidden, dict) else None
    square = (shape[0] - 1, shape[2], shape[2])
    return kernel if getattr(kernel, "shape", None) == square else None


def _present(model: Model, num_layers: int) -> np.ndarray:
    """Return `[layer]` True for the layers that the network has."""
    return np.ones(num_layers, bool) if model.active is None else np.asarray(model.active)


def _waves(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return numbers of order 1, no two alike."""
    return jnp.cos(jnp.arange(math.prod(shape), dtype=dtype)).reshape(shape)


def _attempt(contract: str, expected: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        message = str(error).split("\n")[0]
        raise AssertionError(
            f"{contract}: expected {expected}, got {type(error).__name__}: {message}"
        ) from error


def _refuse(contract: str, expected: str, found: Any) -> NoReturn:
    raise AssertionError(f"{contract}: expected {expected}, got {found}")


def _assert_alike(expected: str, found: Any, wanted: Any) -> None:
    """Compare structure, shapes and dtypes."""
    kinds = [
        {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (found, wanted))
    ]
    if jax.tree.structure(found) != jax.tree.structure(wanted) or kinds[0] != kinds[1]:
        others = [
            dict(kinds[0].items() - kinds[1].items()),
            dict(kinds[1].items() - kinds[0].items()),
        ]
        _refuse("shapes", expected, "{} in place of {}".format(*others))


def _assert_finite(**shown: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(shown):
        bad = int(np.sum(~np.isfinite(np.asarray(leaf, np.float64))))
        if bad:
            name = path[0].key + jax.tree_util.keystr(path[1:])
            _refuse("finite", f"finite {name}", f"{bad} NaN or infinite of its {leaf.size} numbers")


def _tolerance(values: Any) -> float:
    """Return how far apart two ways to the same numbers may be."""
    leaves = [leaf for leaf in jax.tree.leaves(values) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    sizes = [float(np.max(np.abs(np.asarray(leaf, np.float64)), initial=0)) for leaf in leaves]
    eps = max((float(jnp.finfo(leaf.dtype).eps) for leaf in leaves), default=0.0)
    return ROUNDINGS * eps * max(sizes, default=0.0)


def _assert_close(contract: str, expected: str, found: Any, wanted: Any) -> None:
    """Compare two trees to rounding, relative to the largest of all numbers."""
    tolerance = _tolerance(wanted)
    places = jax.tree_util.tree_leaves_with_path(wanted)
    for (path, theirs), ours in zip(places, jax.tree.leaves(found), strict=True):
        difference = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64))
        worst = float(np.max(difference, initial=0))
        if not worst <= tolerance:
            place = jax.tree_util.keystr(path)
            _refuse(contract, expected, f"{place} {worst:.2g} apart (rounding: {tolerance:.2g})")
