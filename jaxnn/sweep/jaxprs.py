"""Reading traced programs: the programs inside one, its matrix flops, and what it computes."""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LAPACK = {  # primitives that factorise matrices
    *("cholesky", "eig", "eigh", "geqp3", "geqrf", "hessenberg", "householder_product", "lu"),
    *("qr", "schur", "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve"),
}


def matrix_flops(jaxpr: Any) -> float:
    """Count the flops of the matrix products of one evaluation, loops of known length unrolled.

    A product `[m, k] @ [k, n]` counts 2 m k n; of a conditional's branches the dearest counts.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[axis] for axis in contracted)
            total += 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
            continue
        inner = [matrix_flops(each) for each, _ in _inner(equation)]
        work = max(inner, default=0.0) if "branches" in equation.params else sum(inner)
        total += work * (equation.params["length"] if equation.primitive.name == "scan" else 1)
    return total


def calls_lapack(jaxpr: Any) -> bool:
    """Return whether a program factorises matrices, which on a CPU calls LAPACK."""
    return any(
        equation.primitive.name in LAPACK or any(calls_lapack(each) for each, _ in _inner(equation))
        for equation in jaxpr.eqns
    )


def computation_digest(jaxpr: Any, constants: Sequence[Any]) -> str:
    """Return a digest of what a traced program computes, arrays that it closes over included."""
    arrays = [*constants, *_inner_constants(jaxpr)]
    text = re.sub(r"0x[0-9a-f]+", "", str(jaxpr))  # addresses of functions
    return hashlib.sha256("".join([text, *map(array_digest, arrays)]).encode()).hexdigest()


def array_digest(array: Any) -> str:
    """Return a digest of an array's dtype, shape and values."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    host = np.ascontiguousarray(array)
    return hashlib.sha256(f"{host.dtype}{host.shape}".encode() + host.tobytes()).hexdigest()


def _inner_constants(jaxpr: Any) -> Iterator[Any]:
    """Yield the arrays that jitted functions inside a program close over."""
    for equation in jaxpr.eqns:
        for inner, constants in _inner(equation):
            yield from constants
            yield from _inner_constants(inner)


def _inner(equation: Any) -> list[tuple[Any, Sequence[Any]]]:
    """Return the programs among an equation's parameters, each with its constants."""
    parameters = equation.params.values()
    values = [v for p in parameters for v in (p if isinstance(p, tuple | list) else [p])]
    opened = [(getattr(value, "jaxpr", value), getattr(value, "consts", ())) for value in values]
    return [(jaxpr, constants) for jaxpr, constants in opened if hasattr(jaxpr, "eqns")]
