"""Augmentations of training batches: what they change, what they leave, their keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.types import Dataset
from tests.training import problem


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def first_output(outputs, targets):
    """A loss whose gradient in the weights is the mean of the inputs."""
    del targets
    return outputs[:, 0]


def add_to(place):
    """Add a number, the same for the whole batch, to one feature."""
    return lambda key, x: x.at[:, place].add(jax.random.uniform(key, dtype=x.dtype))


def seen(key, augment, sampling="full"):
    """Mean inputs `[step, feature]` of each training batch, and the loss recorded at each step."""
    found = jn.fit(
        problem.linear(),
        first_output,
        jn.optimizer("sgd", 1.0),
        Dataset(problem.axes(), problem.axes(), problem.axes()),
        key=key,
        num_steps=6,
        record_every=2,
        probes=[problem.parameters, jn.probes.loss],
        sampling=sampling,
        batch_size=2,
        augment=augment,
    )
    weights = found["parameters"].values
    return -jnp.diff(weights, axis=0), found["loss"].values, weights


@pytest.fixture(scope="module")
def runs():
    @jax.jit
    def run(keys):
        noise = [add_to(0), add_to(1)]
        return {
            "none": seen(keys[0], ()),
            "noise": seen(keys[0], noise),
            "again": seen(keys[0], noise),
            "other": seen(keys[1], noise),
            "order": seen(keys[0], [lambda key, x: x + 1.0, lambda key, x: 3.0 * x]),
            "sampled": seen(keys[0], (), "replacement"),
            "sampled_same": seen(keys[0], [lambda key, x: x], "replacement"),
        }

    return jax.device_get(run(jax.random.split(jax.random.key(0))))


def test_every_step_and_augmentation_draws_anew(runs):
    """Two steps lie between records, two draws in each: their sums are those of four numbers."""
    draws = (runs["noise"][0] - runs["none"][0])[:, :2].ravel()
    assert len(np.unique(draws.round(9))) == draws.size == 6
    assert np.all((draws > 0) & (draws < 2))
    np.testing.assert_array_equal(runs["noise"][0], runs["again"][0])
    assert not np.any(np.isclose(runs["noise"][0][:, :2], runs["other"][0][:, :2]))


def test_augmentations_are_applied_in_order(runs):
    """3 (x + 1), of which there are two steps between records."""
    x = problem.axes().x.mean(axis=0)
    np.testing.assert_allclose(runs["order"][0], np.tile(2 * 3 * (x + 1), (3, 1)), rtol=1e-12)


def test_probes_see_the_examples_as_they_are(runs):
    _, losses, weights = runs["noise"]
    np.testing.assert_allclose(losses, weights @ problem.axes().x.mean(axis=0), rtol=1e-12)


def test_augmentation_leaves_the_sampled_batches_alone(runs):
    np.testing.assert_array_equal(runs["sampled"][0], runs["sampled_same"][0])
    assert len(np.unique(runs["sampled"][0].round(9), axis=0)) > 1


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        ([lambda key, x: x[:, :2]], ValueError, r"augment\[0\]: expected .*float64\(2, 4\), got "),
        ([lambda key, x: x, lambda key, x: x > 0], ValueError, r"augment\[1\]: .*got bool\(2, 4\)"),
        (lambda key, x: x, TypeError, r"augment: expected a sequence, .*give augment=\[\.\.\.\]"),
    ],
    ids=["shape", "dtype", "function"],
)
def test_augmentation_that_does_not_fit_is_refused(augment, error, message):
    with pytest.raises(error, match=message):
        seen(jax.random.key(0), augment)
