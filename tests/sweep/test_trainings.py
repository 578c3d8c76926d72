"""Runs that return a `Training`: chunks, and members that finish early or are stopped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn

OPTIONS = {"num_steps": 6, "record_every": 2, "batch_size": 8, "probe_size": 8}


def runs(data):
    """The same run twice: to its end, and as a training that the sweep drives."""

    def described(key, depth, learning_rate):
        model = jn.mlp(depth, 4, 10, "relu", weights=jn.he())
        optimizer = jn.optimizer("sgd", learning_rate, momentum=0.9)
        probes = [jn.probes.loss, jn.probes.grad_rms]
        return (model, jn.cross_entropy, optimizer, data), {"key": key, "probes": probes, **OPTIONS}

    def whole(key, *, depth, learning_rate):
        arguments, options = described(key, depth, learning_rate)
        return jn.fit(*arguments, **options)

    def chunked(key, *, depth, learning_rate):
        arguments, options = described(key, depth, learning_rate)
        return jn.training(*arguments, **options)

    return whole, chunked


# 1e30 makes the parameters overflow in the first or second step, unless all units die of it
AXES = {"depth": jn.depths([1, 3]), "learning_rate": [0.1, 1e30, 0.2], "num_seeds": 3}


@pytest.mark.parametrize("layout", ["exact", "masked", "ragged"])
@pytest.mark.parametrize("tile_size", [1, 2, 5])
def test_driven_training_equals_the_whole_run(digits, layout, tile_size):
    whole, chunked = runs(digits)
    expected = jn.sweep(whole, **AXES, layout="exact")
    found = jn.sweep(chunked, **AXES, layout=layout, tile_size=tile_size)
    assert found.sizes == expected.sizes
    assert np.isfinite(expected["diverged_at"].sel(learning_rate=1e30)).sum() >= 3
    for name, values in expected.data_vars.items():
        assert found[name].dims == values.dims
        assert found[name].attrs == values.attrs
        stable = {"learning_rate": [0.1, 0.2]}
        np.testing.assert_allclose(
            found[name].sel(stable), values.sel(stable), rtol=1e-4, atol=1e-6
        )
    np.testing.assert_array_equal(found["diverged_at"], expected["diverged_at"])


def countdown(key, *, length):
    """Eight chunks of one step; finished after `length` of them, from when on the state stands."""

    def advance(state):
        count, noise = state
        moved = count + 1, jax.random.fold_in(noise, count)
        done = finished(state)
        return jax.tree.map(lambda old, new: jnp.where(done, old, new), state, moved)

    def finished(state):
        return state[0] >= jnp.asarray(length, jnp.int32)

    def records(state):
        return {"drawn": jax.random.uniform(state[1]), "count": state[0]}

    return jn.Training(
        init=lambda: (jnp.int32(0), key),
        advance=advance,
        records=records,
        outcome=lambda state: {"last": state[0]},
        finished=finished,
        steps=tuple(range(9)),
    )


@pytest.mark.parametrize("tile_size", [1, 3, 100])
def test_finished_members_leave_their_slots(compiled, tile_size):
    lengths = [0.0, 1.0, 3.0, 8.0, 20.0]
    found = jn.sweep(countdown, length=lengths, num_seeds=4, tile_size=tile_size)
    took = np.minimum(lengths, 8).astype(int)
    assert found["last"].values.tolist() == [[each] * 4 for each in took]
    expected = np.minimum(np.arange(9), took[:, None])
    assert (found["count"].values == expected[:, None, :]).all()
    assert found.attrs["chunks_run"] == 4 * took.sum()
    assert found.attrs["chunks_saved"] == 4 * (8 - took).sum()
    alone = [jax.random.fold_in(jax.random.key(0), seed) for seed in range(4)]
    for step in range(8):
        drawn = [float(jax.random.uniform(key)) for key in alone]
        np.testing.assert_array_equal(found["drawn"].sel(length=20.0, step=step), drawn)
        alone = [jax.random.fold_in(key, step) for key in alone]


def test_store_holds_a_driven_sweep(tmp_path):
    axes = {"length": [1.0, 8.0], "num_seeds": 3}
    found = jn.sweep(countdown, **axes, store=tmp_path / "store")
    again = jn.sweep(countdown, **axes, store=tmp_path / "store")
    assert again.attrs["chunks_run"] == 0
    for each in (again, jn.load(tmp_path / "store"), jn.sweep(countdown, **axes)):
        np.testing.assert_array_equal(each["drawn"], found["drawn"])


def test_state_that_changes_shape_is_refused(compiled):
    def run(key, *, length):
        return countdown(key, length=length)._replace(
            init=lambda: jnp.zeros(3), advance=lambda state: state[:2] * length
        )

    with pytest.raises(TypeError, match="advance to return a state of the shapes"):
        jn.sweep(run, length=[1.0])
    assert compiled == []


@pytest.mark.parametrize("tile_size", [1, 3])
@pytest.mark.parametrize("highest", [False, True])
def test_halving_keeps_the_best_members(tmp_path, tile_size, highest):
    """Of 10 members by two axes: half of them after 2 steps, a quarter (3 of them) after 5."""

    def run(key, *, name, slope):
        sign = {"falls": -1.0, "grows": 1.0}[name]
        return jn.Training(
            init=lambda: jnp.float32(0.0),
            advance=lambda state: state + sign * slope,
            records=lambda state: {"value": state},
            outcome=lambda state: {"final": state},
            finished=lambda state: False,
            steps=tuple(range(0, 9)),
        )

    axes = {"name": ["falls", "grows"], "slope": [1.0, 2.0, 3.0, 4.0, 5.0]}
    rule = jn.halving("value", at=[2, 5], highest=highest)
    options = {**axes, "stop": rule, "tile_size": tile_size, "store": tmp_path / "store"}
    for found in (jn.sweep(run, **options), jn.sweep(run, **options)):
        rates = np.stack([-found["slope"].values, found["slope"].values])
        reached = 8 * np.ones((2, 5))
        best = np.argsort((-rates if highest else rates).ravel(), kind="stable")
        reached.ravel()[best[3:]] = 5
        reached.ravel()[best[5:]] = 2
        expected = np.where(
            np.arange(9) <= reached[..., None], rates[..., None] * np.arange(9), np.nan
        )
        np.testing.assert_array_equal(found["value"].values[:, :, 0], expected)
        np.testing.assert_array_equal(found["final"].values[..., 0], rates * reached)
        stopped = np.where(reached < 8, reached, np.nan)
        np.testing.assert_array_equal(found["stopped_at"].values[..., 0], stopped)
    assert jn.sweep(run, **axes, stop=rule).attrs["chunks_saved"] == 5 * 6 + 2 * 3


@pytest.mark.parametrize(
    ("at", "keep", "message"),
    [([], 0.5, "at: .*ascending"), ([3, 2], 0.5, "at: .*ascending"), ([2], 1.0, "keep: ")],
)
def test_halving_refuses(at, keep, message):
    with pytest.raises(ValueError, match=message):
        jn.halving("loss", at, keep=keep)


def test_sweep_refuses_a_rule_that_does_not_fit(compiled):
    def plain(key, *, length):
        return {"count": length}

    for run, rule, message in [
        (plain, jn.halving("count", [2]), r"stop: .*must return jn.training"),
        (
            countdown,
            jn.halving("last", [2]),
            r"stop: expected a record .*\['count', 'drawn'\]|drawn",
        ),
        (countdown, jn.halving("count", [2, 20]), r"stop: expected rungs at records .*\[20\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            jn.sweep(run, length=[1.0], stop=rule)
    assert compiled == []
