"""The one function that a program compiles to: rounds of training over the slots of every device.

A slot holds the state of one member. A round takes a few slots, as many as train side by side
(`lanes`), lets their members enter or advance by one chunk of steps, and observes them. Which slots
a call works on is data: members come and go without recompilation, no device waits for another,
and nothing inside a call talks to the host.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import eval_jaxpr
from jax.sharding import PartitionSpec

from jaxnn.sweep.devices import MEMBER
from jaxnn.sweep.plans import Program
from jaxnn.sweep.trace import Part, Trace

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec(MEMBER)


class Schedule(NamedTuple):
    """What each device does in one call; every array has a leading axis of devices."""

    slots: Any  # [device, round, lane] int32, places among the device's own slots
    enter: Any  # [device, round] bool: these members start; the others advance by a chunk
    count: Any  # [device] int32, rounds that are filled


def rounds_function(traced: Trace, mesh: jax.sharding.Mesh, lanes: int) -> Any:
    """Return the jitted function of a program, whose rounds have so many lanes.

    `(constants, root, points {axis: [slot]}, state [slot, ...], schedule)
    -> (state [slot, ...], observed [slot, ...])`, slots counted over all devices; what is observed
    of slots that are not scheduled is 0.
    """

    def device(constants: Any, root: Array, points: Any, state: Any, schedule: Schedule) -> Any:
        init, advance, observe = (
            _batched(part, given, root, lanes)
            for part, given in zip(traced.parts, constants, strict=True)
        )
        slots, enter, count = (leaf[0] for leaf in schedule)

        def one_round(number: Array, carry: Any) -> Any:
            state, seen = carry
            places = slots[number]
            point, old = _take((points, state), places)
            new = old
            if traced.state:
                new = jax.lax.cond(
                    enter[number],
                    lambda point, old: init(point),
                    lambda point, old: advance(point, old),
                    point,
                    old,
                )
            return _put((state, seen), places, (new, observe(point, new)))

        size = points["seed"].shape[0]
        shapes = jax.tree.leaves(traced.observed)
        seen = [jnp.zeros((size, *leaf.shape), leaf.dtype) for leaf in shapes]
        return jax.lax.fori_loop(0, count, one_round, (state, seen))

    specs = (EVERYWHERE, EVERYWHERE, SPLIT, SPLIT, SPLIT)
    sharded = jax.shard_map(device, mesh=mesh, in_specs=specs, out_specs=SPLIT, check_vma=False)
    return jax.jit(sharded, donate_argnames="state")


def num_rounds(program: Program) -> int:
    """Return the rounds that a call has room for: those who enter and those who advance apart."""
    full = -(-program.tile.slots // program.tile.lanes)
    return full + 1 if program.trace.num_chunks else full


def _batched(part: Part, constants: Any, root: Array, lanes: int) -> Any:
    """Return a part as a function of a batch of points and states.

    A single lane is not batched: on a CPU that takes a tenth longer.
    """

    def member(*arguments: Any) -> list[Array]:
        return eval_jaxpr(part.jaxpr, constants, *jax.tree.leaves((root, *arguments)))

    def alone(*arguments: Any) -> list[Array]:
        return [leaf[None] for leaf in member(*(jax.tree.map(_only, each) for each in arguments))]

    return alone if lanes == 1 else jax.vmap(member)


def _only(leaf: Array) -> Array:
    return leaf[0]


def _take(tree: Any, places: Array) -> Any:
    return jax.tree.map(lambda leaf: jnp.take(leaf, places, axis=0, mode="clip"), tree)


def _put(tree: Any, places: Array, values: Any) -> Any:
    return jax.tree.map(
        lambda leaf, new: leaf.at[places].set(new, mode="promise_in_bounds"), tree, values
    )
