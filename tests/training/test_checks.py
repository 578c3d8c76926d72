"""Errors of `fit`: by message, before a loss is traced or anything is compiled."""

import jax
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.types import Batch
from tests.training import problem

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled():
    """The programs compiled while a test runs; `stage` only copies an array to a device."""
    events = []

    def listen(event, duration, fun_name=None, **_):
        if event == COMPILED and fun_name != "jit(stage)":
            events.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


def untouched(outputs, targets):
    raise AssertionError("the loss was traced before the arguments were checked")


def float32(data):
    return jax.tree.map(
        lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, data
    )


CLEAN = float32(problem.dataset())
NAN = np.where(np.arange(8)[:, None] == 3, np.nan, CLEAN.train.x)
REAL = np.ones((8, 3), np.float32)
REAL_NAN = np.where(np.arange(8)[:, None] == 3, np.inf, REAL)
KEY = jax.random.key(0)


def with_train(x=CLEAN.train.x, y=CLEAN.train.y):
    return CLEAN._replace(train=Batch(x, y))


def with_validation(**changes):
    return CLEAN._replace(validation=CLEAN.validation._replace(**changes))


CASES = {
    "record_every_does_not_divide": (
        {"record_every": 4, "num_steps": 10},
        ValueError,
        r"record_every: expected a divisor of num_steps=10, got 4; the nearest one is 5",
    ),
    "batch_norm_over_examples_left_out": (
        {
            "model": jn.mlp(2, 4, 3, norm="batch"),
            "sampling": "full",
            "data": CLEAN._replace(num_train=4),
        },
        ValueError,
        "sampling: expected 'epochs' or 'replacement' for a network with batch norm",
    ),
    "record_every_exceeds_num_steps": (
        {"record_every": 20, "num_steps": 10},
        ValueError,
        "the nearest one is 10",
    ),
    "record_every_zero": ({"record_every": 0}, ValueError, "record_every: expected at least 1"),
    "num_steps_float": ({"num_steps": 10.0}, TypeError, "num_steps: expected an int, got 10.0"),
    "num_steps_bool": ({"num_steps": True}, TypeError, "num_steps: expected an int, got True"),
    "num_steps_negative": ({"num_steps": -5}, ValueError, "num_steps: expected at least 0, got -5"),
    "batch_size_zero": ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
    "probe_size_float": ({"probe_size": 2.5}, TypeError, "probe_size: expected an int, got 2.5"),
    "no_probes": ({"probes": []}, ValueError, "probes: expected at least one, got none"),
    "duplicate_probes": (
        {"probes": [probes.loss, probes.act_var, probes.loss]},
        ValueError,
        r"probes: expected distinct names.*, got \['loss', 'act_var', 'loss'\]",
    ),
    "duplicate_validation_probes": (
        {"validation_probes": [probes.loss, probes.loss]},
        ValueError,
        "probes: expected distinct names",
    ),
    "nan_input": (
        {"data": with_train(x=NAN)},
        ValueError,
        r"data\.train\.x: expected finite numbers, got 3 NaN or infinite",
    ),
    "nan_target": (
        {"data": with_train(y=REAL_NAN)},
        ValueError,
        r"data\.train\.y: expected finite numbers, got 3 ",
    ),
    "nan_validation_input": (
        {"data": with_validation(x=np.full((6, 3), np.nan, np.float32))},
        ValueError,
        r"data\.validation\.x: expected finite numbers, got 18 ",
    ),
    "label_too_large": (
        {"data": with_train(y=np.arange(8))},
        ValueError,
        r"data\.train\.y: expected classes 0 to 2, .* got 0 to 7; .* out=8",
    ),
    "label_negative": (
        {"data": with_train(y=np.arange(8) % 3 - 1)},
        ValueError,
        r"data\.train\.y: expected classes 0 to 2, .* got -1 to 1",
    ),
    "validation_label_too_large": (
        {"data": with_validation(y=np.full(6, 3))},
        ValueError,
        r"data\.validation\.y: expected classes 0 to 2",
    ),
    "fewer_targets_than_examples": (
        {"data": with_train(y=np.zeros(7, int))},
        ValueError,
        r"data\.train: expected as many targets as examples, got 7 targets for 8",
    ),
    "unknown_sampling": (
        {"sampling": "bootstrap"},
        ValueError,
        r"sampling: expected one of .*replacement.*, got 'bootstrap'",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), CASES.values(), ids=CASES.keys())
def test_wrong_argument_is_refused_before_anything_is_compiled(compiled, change, error, message):
    arguments = {
        "data": CLEAN,
        "key": KEY,
        "num_steps": 10,
        "record_every": 5,
        "probes": [probes.loss],
        **change,
    }
    data, model = arguments.pop("data"), arguments.pop("model", jn.mlp(2, 4, 3))
    optimizer = jn.optimizer("sgd", 0.1)
    with pytest.raises(error, match=message):
        jn.fit(model, untouched, optimizer, data, **arguments)
    assert not compiled


def test_listener_hears_a_compilation(compiled):
    """The tests above test something."""
    jax.jit(lambda x: x * 3.0 + 1.0)(np.ones(7, np.float32))
    assert compiled


def test_accuracy_of_regression_is_refused_in_fit():
    with pytest.raises(TypeError, match="leave the probe out for regression"):
        jax.eval_shape(
            lambda: jn.fit(
                jn.mlp(2, 4, 3),
                jn.squared_error,
                jn.optimizer("sgd", 0.1),
                with_train(y=REAL),
                key=KEY,
                num_steps=2,
                record_every=1,
                probes=[probes.accuracy],
            )
        )


@pytest.mark.parametrize("name", ["diverged_at", "step", "layer", "validation_loss"])
def test_probe_with_the_name_of_another_result_is_refused(name):
    """Else one of the two would be lost without a word."""
    impostor = probes.loss._replace(name=name)
    with pytest.raises(ValueError, match=name):
        jax.eval_shape(
            lambda: jn.fit(
                jn.mlp(2, 4, 3),
                jn.cross_entropy,
                jn.optimizer("sgd", 0.1),
                CLEAN,
                key=KEY,
                num_steps=2,
                record_every=1,
                probes=[impostor, probes.act_var],
                validation_probes=[probes.loss],
            )
        )
