"""What all tasks that are drawn from a key have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import data

# name -> (task of a key, input of an example, target of an example, split sizes)
SIZES = (30, 10, 10)
DRAWN = {
    "regression": (
        functools.partial(
            data.teacher_regression,
            num_train=30,
            num_features=4,
            num_outputs=2,
            noise_std=0.1,
            num_held_out=10,
        ),
        (4,),
        (2,),
        SIZES,
    ),
    "network_classes": (
        functools.partial(
            data.teacher_classification,
            num_train=30,
            num_features=4,
            num_classes=3,
            num_hidden=5,
            num_held_out=10,
        ),
        (4,),
        (),
        SIZES,
    ),
    "power_law": (
        functools.partial(data.power_law_regression, num_train=30, num_features=7, num_held_out=10),
        (7,),
        (1,),
        SIZES,
    ),
    "modular": (
        functools.partial(data.modular_arithmetic, modulus=7, operation="add", train_fraction=0.5),
        (14,),
        (),
        (24, 12, 13),
    ),
    "copy_memory": (
        functools.partial(
            data.copy_memory, delay=4, num_train=30, num_symbols=3, length=2, num_held_out=10
        ),
        (8, 5),
        (8,),
        SIZES,
    ),
    "adding": (
        functools.partial(data.adding, num_steps=6, num_train=30, num_held_out=10),
        (6, 2),
        (1,),
        SIZES,
    ),
    "temporal_order": (
        functools.partial(data.temporal_order, num_steps=20, num_train=30, num_held_out=10),
        (20, 6),
        (),
        SIZES,
    ),
}
each_task = pytest.mark.parametrize(("task", "x", "y", "sizes"), DRAWN.values(), ids=DRAWN)


@each_task
def test_splits_have_their_shapes_and_dtypes(task, x, y, sizes):
    drawn = task(jax.random.key(0))
    assert drawn.num_train is None
    for batch, size in zip(drawn[:3], sizes, strict=True):
        assert batch.x.shape == (size, *x)
        assert batch.y.shape == (size, *y)
        assert batch.x.dtype == jnp.float32
        assert batch.y.dtype in (jnp.float32, jnp.int32)
        assert batch.weight is None
        assert np.isfinite(batch.x).all()


@each_task
def test_key_decides_the_task_in_a_program_as_alone(task, x, y, sizes):
    lanes = jax.jit(jax.vmap(task))(jnp.stack([jax.random.key(0), jax.random.key(1)]))
    alone = task(jax.random.key(1))
    for lane, single in zip(jax.tree.leaves(lanes), jax.tree.leaves(alone), strict=True):
        # Sums of a few products of size 1, in another order: a few roundings of 6e-8.
        np.testing.assert_allclose(lane[1], single, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(lanes.train.x[0], lanes.train.x[1])
    again = task(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, alone, again)


@pytest.mark.parametrize(("name", "num_classes"), [("network_classes", 3), ("temporal_order", 4)])
def test_all_classes_occur(name, num_classes):
    drawn = DRAWN[name][0](jax.random.key(0))
    for batch in drawn[:3]:
        np.testing.assert_array_equal(np.unique(batch.y), np.arange(num_classes))


@each_task
def test_float64_mode_leaves_the_dtypes(task, x, y, sizes):
    with jax.enable_x64(True):
        drawn = jax.eval_shape(task, jax.random.key(0))
    for batch in drawn[:3]:
        assert batch.x.dtype == jnp.float32
        assert batch.y.dtype in (jnp.float32, jnp.int32)


@each_task
def test_drawn_task_feeds_minibatches(task, x, y, sizes):
    smaller = data.with_train_size(task(jax.random.key(0)), 5)
    draw = functools.partial(data.next_batch, batch_size=3, sampling="epochs")
    batch = jax.eval_shape(draw, smaller, jax.random.key(0), 0)
    assert (batch.x.shape, batch.y.shape) == ((3, *x), (3, *y))


KEY = jax.eval_shape(lambda: jax.random.key(0))  # errors come before any key is used


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (data.teacher_regression, {"num_train": 0}, "num_train must be a positive integer, got 0"),
        (data.teacher_regression, {"num_outputs": 0}, "num_outputs must be a positive integer"),
        (data.teacher_regression, {"num_hidden": 0}, "num_hidden must be a positive integer"),
        (data.teacher_regression, {"noise_std": -1.0}, "noise_std must be one finite.*got -1.0"),
        (data.teacher_regression, {"noise_std": np.ones(2)}, "noise_std.*vmap or sweep over it"),
        (data.teacher_classification, {"num_classes": 1}, "num_classes must be an integer of at"),
        (data.power_law_regression, {"exponent": -0.5}, "exponent must be one finite number"),
        (data.power_law_regression, {"num_features": 2.5}, "num_features must be a positive"),
        (data.modular_arithmetic, {"modulus": 9}, "modulus must be a prime, got 9"),
        (data.modular_arithmetic, {"modulus": 1}, "modulus must be an integer of at least 2"),
        (data.modular_arithmetic, {"operation": "power"}, "operation must be one of.*'divide'.*'p"),
        (data.modular_arithmetic, {"train_fraction": 0.0}, "train_fraction must leave.*0 for tr"),
        (data.modular_arithmetic, {"modulus": 2, "train_fraction": 0.9}, "some of the 2 pairs"),
        (data.copy_memory, {"delay": 0}, "delay must be a positive integer, got 0"),
        (data.copy_memory, {"delay": 1, "num_symbols": 1}, "num_symbols must be an integer of at"),
        (data.copy_memory, {"delay": 1, "length": 0}, "length must be a positive integer"),
        (data.adding, {"num_steps": 1}, "num_steps must be an integer of at least 2, got 1"),
        (data.adding, {"num_steps": 9, "num_held_out": 0}, "num_held_out must be a positive"),
        (data.temporal_order, {"num_steps": 9}, "num_steps must be an integer of at least 10"),
        (data.temporal_order, {"num_steps": True}, "num_steps must be.*got True"),
    ],
)
def test_bad_arguments_are_refused_by_name(task, arguments, message):
    with pytest.raises(ValueError, match=message):
        task(KEY, **arguments)
