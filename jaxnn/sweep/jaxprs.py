"""Reading traced programs: the programs inside one, its matrix flops, and what it computes."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ELEMENT_FLOPS = 8.0  # of a matrix product, in the time of one element made otherwise
LAPACK = {  # primitives that factorise matrices
    *("cholesky", "eig", "eigh", "geqp3", "geqrf", "hessenberg", "householder_product", "lu"),
    *("qr", "schur", "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve"),
}


def matrix_flops(jaxpr: Any) -> float:
    """Count the flops of the matrix products of one evaluation, loops of known length unrolled.

    A product `[m, k] @ [k, n]` counts 2 m k n; of a conditional's branches the dearest counts.
    """
    return _total(jaxpr, _product_flops)


def work(jaxpr: Any) -> float:
    """Estimate the cost of one evaluation, in flops of matrix products.

    Everything that is no matrix product counts by the elements that it makes.
    """
    return _total(
        jaxpr,
        lambda equation: (
            _product_flops(equation)
            or ELEMENT_FLOPS * sum(math.prod(var.aval.shape) for var in equation.outvars)
        ),
    )


def num_equations(jaxpr: Any) -> int:
    """Count the equations of a program and of those inside it, each once."""
    inner = [num_equations(each) for equation in jaxpr.eqns for each, _ in _inner(equation)]
    return len(jaxpr.eqns) + sum(inner)


def largest_bytes(jaxpr: Any) -> int:
    """Return the bytes that the largest equation makes: of a loop, what it carries and stacks."""
    return max(
        (
            max(_bytes(equation.outvars), *(largest_bytes(each) for each, _ in _inner(equation)), 0)
            for equation in jaxpr.eqns
        ),
        default=0,
    )


def _bytes(variables: Sequence[Any]) -> int:
    return sum(math.prod(var.aval.shape) * var.aval.dtype.itemsize for var in variables)


def _total(jaxpr: Any, cost: Callable[[Any], float]) -> float:
    """Add the cost of every equation that is evaluated."""
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [_total(each, cost) for each, _ in _inner(equation)]
        if not inner:
            total += cost(equation)
            continue
        once = max(inner) if "branches" in equation.params else sum(inner)
        total += once * (equation.params["length"] if equation.primitive.name == "scan" else 1)
    return total


def _product_flops(equation: Any) -> float:
    if equation.primitive.name != "dot_general":
        return 0.0
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    depth = math.prod(shape[axis] for axis in contracted)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)


def calls_lapack(jaxpr: Any) -> bool:
    """Return whether a program factorises matrices, which on a CPU calls LAPACK."""
    return any(
        equation.primitive.name in LAPACK or any(calls_lapack(each) for each, _ in _inner(equation))
        for equation in jaxpr.eqns
    )


def program_digest(jaxpr: Any) -> str:
    """Return a digest of a traced program, whatever the values of its arguments."""
    text = re.sub(r"0x[0-9a-f]+", "", str(jaxpr))  # addresses of functions
    arrays = map(array_digest, _inner_constants(jaxpr))
    return hashlib.sha256("".join([text, *arrays]).encode()).hexdigest()


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
