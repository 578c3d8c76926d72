"""Initialisers with a gain that may be traced, so that schemes' scales are data of a sweep.

Contract: a builder returns `(key, shape, dtype) -> array`, the signature of flax and jax.
A kernel has shape `[..., fan_in, fan_out]`. A bias has shape `[unit]` and no fan: there,
`gaussian` and `uniform` take their gain as the standard deviation or the bound itself.
Schemes that see a whole network, or biases beside kernels, are in `jaxnn.nets.reinitialise`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import initializers as library

from jaxnn.types import Scalar

Initialiser = Callable[[Array, Sequence[int], Any], Array]
Fan = Literal["in", "out"]
Distribution = Literal["normal", "uniform"]
Place = Literal["first", "hidden", "readout"]

_FAN_MODES = {"in": "fan_in", "out": "fan_out", "average": "fan_avg"}


def _scaled(
    variance: Scalar, fan: str, distribution: str, *, for_biases: bool = False
) -> Initialiser:
    """Draw with Var W = variance / fan for a kernel, Var b = variance for a bias."""
    if fan not in _FAN_MODES:
        raise ValueError(f"fan: expected 'in' or 'out', got {fan!r}")
    if distribution not in get_args(Distribution):
        raise ValueError(f"distribution: expected 'normal' or 'uniform', got {distribution!r}")

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        scale = jnp.asarray(variance, dtype)
        if not for_biases:
            _check_kernel(shape)
        if len(shape) >= 2:
            draw = library.variance_scaling(scale, _FAN_MODES[fan], distribution)  # pyright: ignore
            return draw(key, shape, dtype)
        if distribution == "normal":
            return jnp.sqrt(scale) * jax.random.normal(key, shape, dtype)
        return jnp.sqrt(3.0 * scale) * jax.random.uniform(key, shape, dtype, -1.0, 1.0)

    return initialise


def gaussian(sigma_w: Scalar = 1.0, *, fan: Fan = "in") -> Initialiser:
    """Draw N(0, sigma_w^2 / fan); for biases N(0, sigma_w^2) (Poole et al. 2016, 1606.05340)."""
    return _scaled(sigma_w**2, fan, "normal", for_biases=True)


def uniform(gain: Scalar = 1.0, *, fan: Fan = "in") -> Initialiser:
    """Draw U[-gain / sqrt(fan), gain / sqrt(fan)]; for biases U[-gain, gain].

    With gain 1 this is the "standard" initialisation of Glorot & Bengio 2010, whose
    fan * Var W = 1/3 shrinks signals, and the default of several libraries.
    """
    return _scaled(gain**2 / 3.0, fan, "uniform", for_biases=True)


def lecun(
    gain: Scalar = 1.0, *, fan: Fan = "in", distribution: Distribution = "normal"
) -> Initialiser:
    """Draw with Var W = gain^2 / fan (LeCun et al. 1998, "Efficient BackProp")."""
    return _scaled(gain**2, fan, distribution)


def glorot(gain: Scalar = 1.0, *, distribution: Distribution = "normal") -> Initialiser:
    """Draw with Var W = 2 gain^2 / (fan_in + fan_out) (Glorot & Bengio 2010, eq. 16)."""
    return _scaled(gain**2, "average", distribution)


def he(
    gain: Scalar = 1.0, *, fan: Fan = "in", distribution: Distribution = "normal"
) -> Initialiser:
    """Draw with Var W = 2 gain^2 / fan (He et al. 2015, eq. 10, 1502.01852)."""
    return _scaled(2.0 * gain**2, fan, distribution)


def orthogonal(gain: Scalar = 1.0) -> Initialiser:
    """Draw gain times a Haar (semi-)orthogonal kernel (Saxe et al. 2013, 1312.6120).

    The product of random Householder reflections is Haar distributed (Stewart 1980, SIAM J. Numer.
    Anal. 17:403). It needs no QR factorisation, whose LAPACK call is slow inside a batched program
    on a CPU, and on jaxlib 0.10 can hang there.
    """

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        _check_kernel(shape)
        fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
        long, short = max(fan_in, fan_out), min(fan_in, fan_out)
        tall = _haar(key, long, short, dtype)
        kernel = tall if fan_in == long else tall.T
        return jnp.asarray(gain, dtype) * kernel.reshape(tuple(shape))

    return initialise


def delta_orthogonal(gain: Scalar = 1.0) -> Initialiser:
    """Draw convolutions that map each pixel orthogonally (Xiao et al. 2018, 1806.05393).

    A kernel `[..., in, out]` is zero but at the centre of its window, place (size - 1) // 2 of each
    axis, where a "SAME" convolution reads the output's own pixel. There its rows are orthonormal
    times the gain: at stride 1 an input's norm is multiplied by exactly the gain.

    Raises:
        ValueError: in > out, as in most readouts: no such map keeps norms.
    """

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        _check_kernel(shape)
        *window, fan_in, fan_out = shape
        if fan_in > fan_out:
            raise ValueError(
                f"delta_orthogonal: expected a kernel [..., in, out] with in <= out, got shape "
                f"{tuple(shape)}; it cannot keep norms: give this layer orthogonal()"
            )
        centre = tuple((size - 1) // 2 for size in window)
        tap = orthogonal(gain)(key, (fan_in, fan_out), dtype)
        return jnp.zeros(tuple(shape), dtype).at[centre].set(tap)

    return initialise


def looks_linear(gain: Scalar = 1.0, *, layer: Place | None = None) -> Initialiser:
    """Draw mirrored kernels: a relu network starts linear (Balduzzi et al. 2017, 1702.08591).

    With W gain times a Haar orthogonal block, and u = W^T x or, of the two halves, W^T (h_1 - h_2):

        first    [W, -W]              x -> (u, -u)
        hidden   [[W, -W], [-W, W]]   (h_1, h_2) -> (u, -u)
        readout  [[W], [-W]]          (h_1, h_2) -> u

    As relu(u) - relu(-u) = u (gelu and silu too; leaky relu: (1 + slope) u), a network is linear if
    it is `mlp(..., weights=looks_linear(), readout=looks_linear(layer="readout"))` with zero biases
    and an even width, and an isometry if neither width / 2 nor the outputs are fewer than the input
    features. Unless `layer` says which of the three it is, a square kernel counts as hidden, others
    as first: a first layer as wide as its input would see half of it, so choose another width.

    Raises:
        ValueError: the place is unknown, or a mirrored side has an odd size.
    """
    if layer is not None and layer not in get_args(Place):
        raise ValueError(f"layer: expected 'first', 'hidden', 'readout' or None, got {layer!r}")

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        _check_kernel(shape)
        *window, fan_in, fan_out = shape
        place = layer or ("hidden" if fan_in == fan_out else "first")
        rows, columns = 1 + (place != "first"), 1 + (place != "readout")
        if fan_in % rows or fan_out % columns:
            raise ValueError(
                f"looks_linear: expected an even width to mirror in a {place} kernel, "
                f"got shape {tuple(shape)}"
            )
        block = orthogonal(gain)(key, (*window, fan_in // rows, fan_out // columns), dtype)
        return jnp.kron(jnp.asarray([[1, -1], [-1, 1]], dtype)[:rows, :columns], block)

    return initialise


def sparse(gain: Scalar = 1.0, *, num_nonzero: int | Array = 15) -> Initialiser:
    """Draw kernels with so many nonzero weights into each unit (Martens 2010).

    Their places are uniformly random and their values N(0, gain^2 / num_nonzero), so Martens's unit
    normals are gain = sqrt(num_nonzero). Both numbers may be traced. At most fan_in are nonzero.

    Raises:
        ValueError: num_nonzero is below 1.
    """
    if isinstance(num_nonzero, int) and num_nonzero < 1:
        raise ValueError(f"num_nonzero: expected at least 1, got {num_nonzero}")

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        _check_kernel(shape)
        fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
        place_key, draw_key = jax.random.split(key)
        rows = jax.lax.broadcasted_iota(jnp.int32, (fan_in, fan_out), 0)
        ranks = jax.random.permutation(place_key, rows, independent=True)
        count = jnp.minimum(jnp.asarray(num_nonzero, jnp.int32), fan_in)
        draws = gaussian(gain)(draw_key, (fan_in * fan_out,), dtype) / jnp.sqrt(count.astype(dtype))
        return jnp.where(ranks.ravel() < count, draws, 0).reshape(tuple(shape))

    return initialise


def _check_kernel(shape: Sequence[int]) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"initialiser: expected a kernel [..., fan_in, fan_out], got shape {tuple(shape)}; "
            "biases have no fan: use gaussian, uniform, constant or zeros"
        )


def _haar(key: Array, rows: int, columns: int, dtype: Any) -> Array:
    """Draw the first columns of a Haar orthogonal matrix, `[rows, columns]`, rows >= columns."""
    draws = jnp.triu(jax.random.normal(key, (columns, rows), dtype))  # row k starts at entry k
    diagonal = jnp.diagonal(draws)
    signs = jnp.where(diagonal < 0, -1.0, 1.0).astype(dtype)
    lengths = jnp.sqrt(jnp.sum(draws**2, axis=1))
    mirrors = draws + jnp.eye(columns, rows, dtype=dtype) * (signs * lengths)[:, None]
    mirrors = mirrors / jnp.sqrt(jnp.sum(mirrors**2, axis=1, keepdims=True))

    def reflect(matrix: Array, mirror: Array) -> tuple[Array, None]:
        along = jnp.sum(mirror[:, None] * matrix, axis=0)
        return matrix - 2.0 * mirror[:, None] * along[None, :], None

    start = jnp.eye(rows, columns, dtype=dtype) * -signs[None, :]
    return jax.lax.scan(reflect, start, mirrors, reverse=True)[0]


def constant(value: Scalar) -> Initialiser:
    """Fill with one value, which may be traced."""

    def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jnp.full(tuple(shape), jnp.asarray(value, dtype))

    return initialise


def zeros() -> Initialiser:
    """Fill with zeros."""
    return constant(0.0)


INITIALISERS: dict[str, Callable[..., Initialiser]] = {  # one of them serves a whole network
    "gaussian": gaussian,
    "standard": uniform,
    "lecun": lecun,
    "glorot": glorot,
    "he": he,
    "orthogonal": orthogonal,
    "delta_orthogonal": delta_orthogonal,
    "sparse": sparse,
}


def initialiser(name: str, gain: Scalar = 1.0) -> Initialiser:
    """Return the kernel initialiser of a name, for sweeps over schemes.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in INITIALISERS:
        raise ValueError(f"initialiser: unknown name {name!r}; known: {', '.join(INITIALISERS)}")
    return INITIALISERS[name](gain)
