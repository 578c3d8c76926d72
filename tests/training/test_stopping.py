"""Stopping rules against a plain loop, and as closed forms; trainings that a rule stops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.training import stopping
from jaxnn.types import Batch, Dataset
from tests.training import problem

# name -> builder of one traced number, and numbers from hasty to slow
RULES = {
    "patience": (stopping.patience, [1.0, 2.0, 5.0, 50.0]),
    "patience_delta": (lambda d: stopping.patience(3, min_delta=d), [1.0, 0.3, 0.05, 0.0]),
    "generalisation_loss": (stopping.generalisation_loss, [1.0, 5.0, 30.0, 500.0]),
    "quotient": (functools.partial(stopping.quotient, strip=4), [0.02, 0.1, 1.0, 100.0]),
    "successive_rises": (functools.partial(stopping.successive_rises, strip=2), [1, 2, 3, 10]),
}


def by_hand(name, number, training, validation):
    """Where a rule stops, in the words of its paper, record by record."""
    waited, rises, lowest, best = 0, 0, validation[0], validation[0]
    for t in range(1, len(validation)):
        va, best = validation[t], min(best, validation[t])
        rise = 100 * (va / best - 1)
        delta = number if name == "patience_delta" else 0.0
        waited = 0 if va < lowest - delta else waited + 1
        lowest = va if waited == 0 else lowest
        if name.startswith("patience"):
            stop = waited >= (3 if name == "patience_delta" else number)
        elif name == "generalisation_loss":
            stop = rise > number
        elif name == "quotient":
            strip = training[max(t - 3, 0) : t + 1]
            progress = 1000 * (np.mean(strip) / np.min(strip) - 1)
            stop = t % 4 == 0 and rise / progress > number
        else:
            if t % 2 == 0:
                rises = rises + 1 if va > validation[t - 2] else 0
            stop = t % 2 == 0 and rises >= number
        if stop:
            return t, int(np.argmin(validation[: t + 1]))
    return -1, int(np.argmin(validation))


@pytest.fixture(scope="module")
def curves():
    """Noisy curves that fall, the validation loss to a valley: [curve, step]."""
    rng = np.random.default_rng(5)
    steps = np.arange(24) / 8
    training = np.exp(-steps) * (1 + 0.1 * rng.random((40, 24)))
    depth = rng.random((40, 1))
    validation = 0.3 + np.exp(-2 * steps) + depth * 0.2 * steps**2
    return training, validation * (1 + 0.2 * rng.random((40, 24)))


@pytest.fixture(scope="module")
def table(curves):
    """Every rule's stops `[number, curve]`, and how often each was traced for two calls."""
    found, traced = {}, {}
    with jax.enable_x64(True):
        for name, (rule, numbers) in RULES.items():
            count = []

            @jax.jit
            @functools.partial(jax.vmap, in_axes=(0, None, None))
            @functools.partial(jax.vmap, in_axes=(None, 0, 0))
            def stops(number, training, validation, rule=rule, count=count):
                count.append(None)
                return stopping.stop_in(rule(number), training, validation)

            stops(np.zeros(len(numbers)), *curves)
            found[name] = jax.device_get(stops(np.array(numbers, float), *curves))
            traced[name] = len(count)
    return found, traced


@pytest.mark.parametrize("name", RULES)
def test_rule_equals_a_plain_loop(table, curves, name):
    """Batched over curves and numbers, against each of them alone."""
    found, _ = table
    for place, number in enumerate(RULES[name][1]):
        expected = [by_hand(name, number, *pair) for pair in zip(*curves, strict=True)]
        np.testing.assert_array_equal(found[name].at[place], [at for at, _ in expected])
        np.testing.assert_array_equal(found[name].best[place], [best for _, best in expected])


@pytest.mark.parametrize("name", RULES)
def test_table_of_stops_is_worth_comparing(table, name):
    """Slower numbers never stop earlier, some curves are stopped at several places, some never."""
    at = np.where(table[0][name].at < 0, 99, table[0][name].at)
    assert np.all(np.diff(at, axis=0) >= 0)
    assert len(np.unique(at)) > 4


@pytest.mark.parametrize("name", RULES)
def test_rule_compiles_once_for_all_of_its_numbers(table, name):
    assert table[1][name] == 1


@pytest.mark.parametrize("name", RULES)
def test_eager_rule_equals_the_plain_loop_in_float32(curves, name):
    rule, numbers = RULES[name]
    training, validation = (np.float32(each[0, :10]) for each in curves)
    with jax.disable_jit():
        at = int(stopping.stop_in(rule(numbers[0]), jnp.array(training), jnp.array(validation)).at)
    assert at == by_hand(name, numbers[0], training, validation)[0]


@pytest.mark.parametrize("name", RULES)
def test_state_keeps_its_shapes_and_float32(name):
    rule = RULES[name][0](jnp.float32(2.0))
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    start = jax.eval_shape(rule.init, loss, loss)
    after, stop = jax.eval_shape(rule.update, start, loss, loss)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), start) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    assert (stop.shape, stop.dtype) == ((), jnp.bool_)


# Prechelt's own numbers: claims D11

TRAINING = np.array([1.0, 0.8, 0.6, 0.5, 0.4, 0.4])
VALIDATION = np.array([1.0, 0.8, 0.5, 0.5, 0.55, 0.6])


def stops_at(rule, numbers, training, validation):
    with jax.enable_x64(True):
        run = jax.jit(jax.vmap(lambda n: stopping.stop_in(rule(n), training, validation).at))
        return run(np.array(numbers)).tolist()


def test_generalisation_loss_of_prechelts_curve():
    """GL = 0, 0, 0, 0, 10, 20: a threshold just below each stops there, one above does not."""
    thresholds = [-1e-9, 1e-9, 10 - 1e-9, 10 + 1e-9, 20 - 1e-9, 20 + 1e-9]
    at = stops_at(stopping.generalisation_loss, thresholds, TRAINING, VALIDATION)
    assert at == [1, 4, 4, 5, 5, -1]


@pytest.mark.parametrize(("last", "progress", "rise"), [(4, 650.0, 10.0), (5, 350.0, 20.0)])
def test_quotient_of_prechelts_curve(last, progress, rise):
    """P_5 = 650, 350 and PQ = 1/65, 2/35 at the last two records, each the end of a strip here."""
    ahead = 5 - last  # so that the strip of five ends at record `last` of the curve
    training = np.concatenate([[7.0] * ahead, TRAINING[: last + 1]])
    validation = np.concatenate([[7.0] * ahead, VALIDATION[: last + 1]])
    value = rise / progress
    assert round(value, 5) in (0.01538, 0.05714)
    rule = stopping.quotient
    at = stops_at(rule, [value * (1 - 1e-9), value * (1 + 1e-9)], training, validation)
    assert at == [5, -1]


def test_strip_without_progress_stops_at_any_rise():
    """P = 0: the quotient is infinite."""
    flat, rising = np.ones(6), np.array([1.0, 0.5, 0.5, 0.5, 0.5, 0.5001])
    assert stops_at(stopping.quotient, [1e9], flat, rising) == [5]
    assert stops_at(stopping.quotient, [1e-9], flat, flat) == [-1]


@pytest.mark.parametrize("name", RULES)
def test_loss_that_is_not_a_number_is_never_the_best(name):
    """It is infinitely bad where a rule measures a rise; quotient does so at the end of a strip."""
    rule = RULES[name][0]
    losses = np.array([np.nan, 3.0, np.nan, 2.0, np.nan])
    with jax.enable_x64(True):
        run = jax.jit(lambda n: stopping.stop_in(rule(n), losses, losses))
        found = run(99.0)
    expected = {"patience_delta": (4, 3), "generalisation_loss": (2, 1), "quotient": (4, 3)}
    assert (int(found.at), int(found.best)) == expected.get(name, (-1, 3))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: stopping.patience(0), "num_records: expected a number at least 1, got 0"),
        (lambda: stopping.generalisation_loss(-1.0), "alpha: expected a number at least 0"),
        (lambda: stopping.quotient(-1.0), "alpha: expected a number at least 0"),
        (lambda: stopping.successive_rises(0), "num_strips: expected a number at least 1"),
    ],
    ids=["patience", "generalisation_loss", "quotient", "successive_rises"],
)
def test_number_at_which_a_rule_stops_at_once_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        rule()


@pytest.mark.parametrize(
    ("strip", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError), (-3, ValueError)]
)
@pytest.mark.parametrize("rule", [stopping.quotient, stopping.successive_rises])
def test_strip_that_is_no_positive_int_is_refused(rule, strip, error):
    with pytest.raises(error, match="strip: expected"):
        rule(1.0, strip=strip)


# Trainings

NUM_STEPS, EVERY = 48, 2
PATIENCES = np.array([1.0, 4.0, 99.0, 99.0, 3.0])
RATES = np.array([0.02, 0.02, 0.02, math.inf, 0.0])  # the fourth diverges at once, the last stands
# unseen examples agree with the fast modes only: a valley, with the ripples of momentum
TASK = Dataset(problem.axes(), problem.axes([1.0, 1.0, 0.5, -1.0]), problem.axes())


def overfit(patience, rate, stop=True, num_steps=NUM_STEPS):
    return problem.fit_linear(
        jn.optimizer("sgd", rate, momentum=0.9),
        build=jn.training,
        data=TASK,
        num_steps=num_steps,
        record_every=EVERY,
        validation_probes=[probes.loss],
        stop=stopping.patience(patience) if stop else None,
    )


def to_end(training):
    """Drive a training in a plain loop over its records: [step, ...] of each."""

    def chunk(state, _):
        state = training.advance(state)
        return state, (training.records(state), training.finished(state))

    start = training.init()
    state, (records, finished) = jax.lax.scan(chunk, start, length=len(training.steps) - 1)
    records = jax.tree.map(
        lambda one, rest: jnp.concatenate([one[None], rest]), training.records(start), records
    )
    return {name: records[name].values for name in ("parameters", "loss", "validation_loss")} | {
        "finished": finished,
        **{name: each.values for name, each in training.outcome(state).items()},
    }


@pytest.fixture(scope="module")
def trainings():
    """Members with a rule, and the same ones without it."""
    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        def run(patience, rate):
            return to_end(overfit(patience, rate)), to_end(overfit(patience, rate, stop=False))

        return jax.device_get(run(PATIENCES, RATES))


def expected_stop(trainings, member):
    curves = trainings[1]["loss"][member], trainings[1]["validation_loss"][member]
    return by_hand("patience", PATIENCES[member], *curves)


@pytest.mark.parametrize("member", [0, 1, 2])
def test_training_stops_where_the_rule_stops_its_curves(trainings, member):
    at, best = expected_stop(trainings, member)
    stopped = trainings[0]
    assert stopped["best_step"][member] == EVERY * best
    np.testing.assert_equal(stopped["stopped_at"][member], EVERY * at if at > 0 else np.nan)
    assert np.isnan(stopped["diverged_at"][member])


def test_trainings_stop_in_the_middle(trainings):
    """The tests here test something: two members stop, after their best record, one never does."""
    ats = [expected_stop(trainings, member) for member in range(3)]
    assert all(0 < best < at < NUM_STEPS // EVERY for at, best in ats[:2])
    assert ats[2][0] == -1


@pytest.mark.parametrize("member", [0, 1, 2])
def test_stopped_training_ends_with_its_best_parameters(trainings, member):
    at, best = expected_stop(trainings, member)
    at = at if at > 0 else NUM_STEPS
    stopped, going = trainings
    for name in ("parameters", "loss", "validation_loss"):
        expected = np.concatenate(
            [going[name][member, :at], np.repeat(going[name][member, [best]], 1000, axis=0)]
        )
        # two compilations of the same float64 steps; 48 steps let 1e-16 grow
        np.testing.assert_allclose(
            stopped[name][member], expected[: NUM_STEPS // EVERY + 1], rtol=1e-9, atol=1e-12
        )
        after = stopped[name][member, at:]
        np.testing.assert_array_equal(after, np.broadcast_to(after[:1], after.shape))


def test_training_is_finished_from_its_stop_on(trainings):
    for member in range(3):
        at, _ = expected_stop(trainings, member)
        expected = np.arange(1, NUM_STEPS // EVERY + 1) >= (at if at > 0 else np.inf)
        np.testing.assert_array_equal(trainings[0]["finished"][member], expected)


def test_diverged_member_was_not_stopped_and_was_best_at_the_start(trainings):
    stopped = trainings[0]
    assert stopped["diverged_at"][3] == 0
    assert np.isnan(stopped["stopped_at"][3])
    assert stopped["best_step"][3] == 0
    assert stopped["finished"][3].all()
    assert np.isfinite(stopped["parameters"][3]).all()


def test_training_that_stands_still_is_stopped_and_was_best_at_the_start(trainings):
    """Equal losses are no better: the first of them stays the best."""
    assert trainings[0]["stopped_at"][4] == 3 * EVERY
    assert trainings[0]["best_step"][4] == 0


def test_sweep_over_patience_saves_the_chunks_after_a_stop():
    def run(key, *, patience):
        del key
        return overfit(patience, 0.02, num_steps=28)

    found = jn.sweep(run, patience=[1.0, 3.0, 99.0], tile_size=1, devices=jax.devices()[:1])
    last = np.fmin(found["stopped_at"].values.ravel(), 28)
    assert found.attrs["chunks_saved"] == ((28 - last) / 2).sum() > 0
    assert np.isnan(found["stopped_at"].values[-1, 0])


def test_stop_without_a_validation_set_is_refused():
    data = problem.dataset()
    empty = Batch(data.validation.x[:0], data.validation.y[:0])
    with pytest.raises(ValueError, match=r"data\.validation: expected at least one example"):
        problem.fit(
            jn.optimizer("sgd", 0.1),
            data=data._replace(validation=empty),
            stop=stopping.patience(2),
        )


@pytest.mark.parametrize("stop", [5, jn.halving("loss", [2])], ids=["int", "halving"])
def test_stop_that_is_no_rule_is_refused(stop):
    with pytest.raises(TypeError, match=r"stop: expected a rule such as jn\.stopping\.patience"):
        problem.fit(jn.optimizer("sgd", 0.1), stop=stop)


# Early stopping as ridge regression: claims D9


@pytest.fixture(scope="module")
def descent():
    """Plain descent from zero to weights 1, `[step, mode]`."""
    with jax.enable_x64(True):
        run = jax.jit(lambda rate: problem.fit_linear(jn.optimizer("sgd", rate), num_steps=600))
        return np.asarray(run(0.01)["parameters"].values)


def test_early_stopping_filters_modes_as_ridge_does_with_a_penalty_a_mode(descent):
    """1 - (1 - eta l)^t = l / (l + a) for a = l (1 - eta l)^t / (1 - (1 - eta l)^t)."""
    left = (1 - 0.01 * problem.CURVATURES) ** 10
    penalty = problem.CURVATURES * left / (1 - left)
    ridge = np.linalg.solve(np.diag(problem.CURVATURES + penalty), problem.CURVATURES)
    np.testing.assert_allclose(descent[10], ridge, rtol=1e-12)  # ten products in float64
    # the table of claims D9, rounded there
    np.testing.assert_allclose(descent[10], [0.4013, 0.1829, 0.0956, 0.0296], atol=5e-5)
    first_order = problem.CURVATURES / (problem.CURVATURES + 1 / (0.01 * 10))
    np.testing.assert_allclose(first_order, [0.3333, 0.1667, 0.0909, 0.0291], atol=5e-5)


def test_early_stopping_is_within_its_bound_of_ridge(descent):
    """Filters 1 - e^-x and x / (1 + x), x = eta t l: ratio at most 1.2985, near x = 1.793.

    Of discrete descent (1 - eta l)^t < e^-x, so the ratio may be larger by eta l / 2 at most, 2.5%
    for l = 5; the slowest mode, with eta l = 0.003, gives the bound itself to 0.2%.
    """
    x = 0.01 * np.arange(1, 601)[:, None] * problem.CURVATURES
    ratio = descent[1:] / (x / (1 + x))
    assert ratio.max() < 1.2985 * 1.025
    slowest = ratio[:, -1]
    assert abs(slowest.max() / 1.2985 - 1) < 2e-3
    assert abs(x[slowest.argmax(), -1] - 1.793) < 0.02
