"""A user's own network as a `Model`: a linen module, an nnx module, or a pair of functions.

Contract: variables are plain dictionaries of arrays, with `params` as the user's network names
them. What else it keeps (batch statistics) moves in training and holds in evaluation. A flag of
its call named `train`, `training` or `deterministic` is passed. In float64, variables that the
network draws in float32 are widened.

Losses, gradients, training and sweeps need no more. Measurements of hidden layers need taps: in the
layers to be seen, call `tap(self, z, phi)` in place of `phi(z)`; without any, the model's taps are
None. Measurements of weights by layer need the groups `first` and `hidden`, which a foreign network
lacks unless it names its own so.
"""

import contextvars
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxnn.nets.activations import activation as named_activation
from jaxnn.types import Activation, Model, Taps, Variables

if TYPE_CHECKING:
    import flax.linen as nn
    from flax import nnx

TAPS = "jaxnn_taps"  # the linen collection that taps are sown into


@dataclass
class _Tapping:
    """One pass of a network that is listened to: how many taps were met, and what they showed."""

    shift: Array | None  # [layer, batch, unit]
    count: int = 0
    seen: dict[str, Taps] = field(default_factory=dict)


_TAPPING: contextvars.ContextVar[_Tapping | None] = contextvars.ContextVar("tapping", default=None)


def tap(module: Any, z: Array, phi: Callable[[Array], Array] | Activation) -> Array:
    """Return phi(z), and show both as one tapped layer of the network.

    A shift, where given, is added to z first. The layers' order is that of the calls. All taps of a
    network must have one shape. They may lie inside linen's `nn.remat`, but in no loop or other
    transformation. Outside a `Model` of this module it is phi(z) alone.

    Args:
        module: the linen or nnx module that calls, or None in a function.
        z: pre-activations `[batch, ...]`.
        phi: the nonlinearity.

    Example:
        >>> import flax.linen as nn
        >>> class Network(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         h = tap(self, nn.Dense(8)(x), nn.relu)
        ...         return nn.Dense(2)(tap(self, nn.Dense(8)(h), nn.relu))
        >>> model = from_linen(Network(), activation="relu")
        >>> x = jnp.ones((5, 4))
        >>> y, taps, _ = model.apply(model.init(jax.random.key(0), x), x)
        >>> y.shape, taps.pre.shape
        ((5, 2), (2, 5, 8))
    """
    function = phi.function if isinstance(phi, Activation) else phi
    tapping = _TAPPING.get()
    if tapping is None:
        return function(z)
    number = tapping.count
    tapping.count += 1
    if tapping.shift is not None:
        z = z + tapping.shift[number].reshape(z.shape)
    name, taps = f"tap_{number:04d}", Taps(z, function(z))
    if _is_linen(module):
        module.sow(TAPS, name, taps)
    else:
        tapping.seen[name] = taps
    return taps.post


def from_linen(module: "nn.Module", *, activation: str | Activation | None = None) -> Model:
    """Make a `Model` of a linen module, whose call takes `x` and returns `[batch, out]`.

    All its streams of random numbers follow from the key that init and apply are given.

    Args:
        module: the network, unbound.
        activation: of its tapped layers; saturated and dead units are measured by it.
    """
    from flax.linen import meta  # here, so that importing jaxnn stays light

    def init(key: Array, x: Array) -> Variables:
        x = x.astype(jnp.float32) if x.dtype == jnp.float64 else x  # as the draws of linen's layers
        return meta.unbox(dict(module.init({"params": key}, x, **_flags(module, False))))

    def run(
        variables: Variables, x: Array, key: Array | None, train: bool, tapping: _Tapping
    ) -> tuple[Array, Variables]:
        moving = [name for name in variables if name != "params"] if train else []
        rngs = None if key is None else {"params": key}
        mutable = [*moving, TAPS]
        flags = _flags(module, train)
        y, found = module.apply(variables, x, rngs=rngs, mutable=mutable, **flags)
        collections = cast(dict[str, Any], found)
        tapping.seen |= _sown(collections.get(TAPS, {}))
        return cast(Array, y), {**variables, **{name: collections[name] for name in moving}}

    return _model(init, run, activation)


def from_nnx(
    make: "Callable[[nnx.Rngs], nnx.Module]", *, activation: str | Activation | None = None
) -> Model:
    """Make a `Model` of the nnx module that `make(rngs)` builds, whose call takes `x`.

    Its `nnx.Param` are `params`, its `nnx.BatchStat` are `batch_stats`, and what else it keeps is
    `state`. Its streams of random numbers start anew from the key of each pass; an evaluation
    without a key starts them from key 0. It is put into `train()` or `eval()` mode.

    Args:
        make: builds the module, such as `lambda rngs: Network(64, rngs=rngs)`.
        activation: of its tapped layers; saturated and dead units are measured by it.
    """
    from flax import nnx

    def split(module: Any) -> tuple[Any, dict[str, Any], Any]:
        """Return the graph, what the model keeps, and the streams of random numbers."""
        kinds = (nnx.Param, nnx.BatchStat, nnx.RngState)
        graph, params, stats, streams, rest = nnx.split(module, *kinds, ...)
        return graph, {"params": params, "batch_stats": stats, "state": rest}, streams

    graph, states, streams = split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def arrays(module: Any) -> Variables:
        nnx.pop(module, nnx.Intermediate)
        found = split(module)[1]
        return {name: nnx.to_pure_dict(each) for name, each in found.items() if states[name]}

    def init(key: Array, x: Array) -> Variables:
        return arrays(make(nnx.Rngs(key)))

    def run(
        variables: Variables, x: Array, key: Array | None, train: bool, tapping: _Tapping
    ) -> tuple[Array, Variables]:
        if train and key is None and jax.tree.leaves(streams):
            raise ValueError("key: expected one, since this module draws in training, got None")
        kept = jax.tree.map(lambda leaf: leaf, states)
        for name, values in variables.items():
            nnx.replace_by_pure_dict(kept[name], values)
        random = _restarted(streams, jax.random.key(0) if key is None else key)
        module: Any = nnx.merge(graph, random, *kept.values())
        module.train() if train else module.eval()
        y = module(x, **_flags(module, train))
        return y, {**arrays(module), "params": variables["params"]} if train else variables

    return _model(init, run, activation)


def from_functions(
    init: Callable[[Array, Array], Any],
    apply: Callable[..., Array],
    *,
    activation: str | Activation | None = None,
) -> Model:
    """Make a `Model` of a pair of pure functions that keep no statistics.

    One that does keep some is a `Model` itself: write `Model(init, apply)` by its contract.

    Args:
        init: `(key, x) -> params`, any pytree of arrays.
        apply: `(params, x) -> y [batch, out]`; passed `key` by keyword too if it takes one.
        activation: of its tapped layers; saturated and dead units are measured by it.

    Example:
        >>> def hidden(params, x):
        ...     return tap(None, x @ params["up"], jnp.tanh) @ params["down"]
        >>> def ones(key, x):
        ...     return {"up": jnp.ones((x.shape[-1], 8)), "down": jnp.ones((8, 2))}
        >>> model, x = from_functions(ones, hidden), jnp.ones((5, 3))
        >>> y, taps, _ = model.apply(model.init(jax.random.key(0), x), x)
        >>> y.shape, taps.pre.shape
        ((5, 2), (1, 5, 8))
    """

    def run(
        variables: Variables, x: Array, key: Array | None, train: bool, tapping: _Tapping
    ) -> tuple[Array, Variables]:
        keys = {"key": key} if "key" in inspect.signature(apply).parameters else {}
        return apply(variables["params"], x, **keys, **_flags(apply, train)), variables

    return _model(lambda key, x: {"params": init(key, x)}, run, activation)


def _model(
    init: Callable[[Array, Array], Variables],
    run: Callable[..., tuple[Array, Variables]],
    activation: str | Activation | None,
) -> Model:
    """Return the model of an init and of a pass `(variables, x, key, train, tapping)`."""

    def widened(key: Array, x: Array) -> Variables:
        def wide(leaf: Array) -> Array:
            narrow = x.dtype == jnp.float64 and leaf.dtype == jnp.float32
            return leaf.astype(x.dtype) if narrow else leaf

        return jax.tree.map(wide, init(key, x))

    def apply(
        variables: Variables,
        x: Array,
        *,
        key: Array | None = None,
        train: bool = False,
        shift: Array | None = None,
    ) -> tuple[Array, Any, Variables]:
        tapping = _Tapping(shift)
        token = _TAPPING.set(tapping)
        try:
            y, moved = run(variables, x, key, train, tapping)
        finally:
            _TAPPING.reset(token)
        return y, _stacked(tapping, x), moved

    return Model(widened, apply, None if activation is None else named_activation(activation))


def _flags(call: Callable[..., Any], train: bool) -> dict[str, Any]:
    """Return the flags of training that a network's call takes."""
    takes = inspect.signature(call).parameters
    known = {"train": train, "training": train, "deterministic": not train}
    return {name: value for name, value in known.items() if name in takes}


def _is_linen(module: Any) -> bool:
    if module is None:
        return False
    import flax.linen as nn

    return isinstance(module, nn.Module)


def _sown(tree: Any) -> dict[str, Taps]:
    """Return the taps of a linen collection by name, wherever in the module they lie."""
    found, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, Taps)
    )
    return {path[-2].key: taps for path, taps in found}  # each was sown into a tuple of one


def _stacked(tapping: _Tapping, x: Array) -> Taps | None:
    """Stack the taps to `[layer, batch, unit]`, or return None where there are none."""
    if tapping.count == 0:
        return None
    layers = [tapping.seen[name] for name in sorted(tapping.seen)]
    shapes = [each.pre.shape for each in layers]
    if len(layers) != tapping.count or len(set(shapes)) > 1 or shapes[0][:1] != x.shape[:1]:
        raise ValueError(
            f"tap: expected {tapping.count} layers of one shape [batch, ...], batch {len(x)}, so "
            f"that they stack, got {shapes}; tap equal layers only, and none in a lifted loop"
        )
    flat = [jax.tree.map(lambda leaf: leaf.reshape(len(leaf), -1), each) for each in layers]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *flat)


def _restarted(streams: Any, key: Array) -> Any:
    """Return an nnx state of random streams that start from a key."""
    leaves, tree = jax.tree.flatten(streams)

    def fresh(number: int, leaf: Any) -> Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)  # how often a stream was drawn from
        own = jax.random.fold_in(key, number)
        return jax.random.split(own, leaf.shape) if leaf.shape else own

    return jax.tree.unflatten(tree, [fresh(*each) for each in enumerate(leaves)])
