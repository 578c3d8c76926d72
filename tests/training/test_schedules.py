"""Schedules against optax's, with every number traced; reading a range test."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as jn
from jaxnn.training import range_test, schedules
from jaxnn.types import Dataset
from tests.training import problem

STEPS = np.arange(40, dtype=np.int32)
SOME = [0, 1, 4, 7, 9, 10, 11, 15, 20, 29, 30, 31, 39]  # turns of the schedules are among them


def triangle(low, high, half):
    """Smith 2017, the code of section 3.1."""

    def schedule(step):
        number = np.floor(1 + step / (2 * half))
        return low + (high - low) * max(0.0, 1 - abs(step / half - 2 * number + 1))

    return schedule


def spiralled(low, high, num_steps):
    return lambda step: low * (high / low) ** min(step / num_steps, 1.0)


def half_linear(start, end, num_steps):
    """Warm-up to a constant, as optax joins them."""
    rise = optax.linear_schedule(start, end, num_steps)
    return optax.join_schedules([rise, optax.constant_schedule(end)], [num_steps])


# name -> builder of traced numbers, numbers of two members, and who made the same before
TABLE = {
    "constant": (schedules.constant, [(0.1,), (0.3,)], optax.constant_schedule),
    "cosine": (
        lambda peak, num_steps, final: schedules.cosine(peak, num_steps, final=final),
        [(0.1, 30, 0.0), (0.4, 12, 0.1)],
        lambda p, n, f: optax.cosine_decay_schedule(p, n, alpha=f / p),
    ),
    "warm_up": (
        lambda start, peak, num_steps: schedules.warm_up(num_steps, peak, start=start),
        [(0.0, 0.2, 10), (0.1, 0.5, 1)],
        half_linear,
    ),
    "warm_up_cosine": (
        lambda start, peak, rise, fall: schedules.warm_up(
            rise, schedules.cosine(peak, fall), start=start
        ),
        [(0.0, 0.2, 10, 20), (0.1, 0.5, 7, 50)],
        lambda s, p, rise, fall: optax.warmup_cosine_decay_schedule(s, p, rise, rise + fall),
    ),
    "one_cycle": (
        lambda peak, num_steps, rise: schedules.one_cycle(peak, num_steps, rise=rise),
        [(0.1, 30, 0.3), (0.7, 20, 0.5)],
        lambda p, n, rise: optax.cosine_onecycle_schedule(n, p, rise),
    ),
    "step_decay": (
        lambda rate, every, factor: schedules.step_decay(rate, every, factor=factor),
        [(0.1, 10, 0.1), (0.8, 7, 0.5)],
        lambda r, n, f: optax.exponential_decay(r, n, f, staircase=True),
    ),
    "cycle": (schedules.cycle, [(0.1, 0.5, 5), (0.0, 1.0, 8)], triangle),
    "ramp": (schedules.ramp, [(1e-4, 1.0, 30), (0.1, 0.2, 50)], spiralled),
}


@pytest.fixture(scope="module")
def rates():
    """Rates `[member, step]` of one jitted batch over numbers and steps, and counts of traces."""
    found, traced = {}, {}
    with jax.enable_x64(True):
        for name, (build, members, _) in TABLE.items():
            count = []

            @jax.jit
            @jax.vmap
            def run(*numbers, build=build, count=count):
                count.append(None)
                return jax.vmap(build(*numbers))(STEPS)

            columns = [np.array(column, float) for column in zip(*members, strict=True)]
            run(*[column[::-1] for column in columns])
            found[name], traced[name] = np.asarray(run(*columns)), len(count)
    return found, traced


@pytest.mark.parametrize("name", TABLE)
def test_schedule_equals_the_one_it_is_called_after(rates, name):
    """Each member of the jitted batch against a schedule of plain numbers."""
    _, members, reference = TABLE[name]
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for found, numbers in zip(rates[0][name], members, strict=True):
            schedule = reference(*numbers)
            # a few float64 roundings; optax makes some in float32
            expected = [schedule(step) for step in SOME]
            np.testing.assert_allclose(found[SOME], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", TABLE)
def test_schedule_compiles_once_for_all_numbers(rates, name):
    assert rates[1][name] == 1


@pytest.mark.parametrize("name", TABLE)
def test_eager_schedule_of_plain_numbers_equals_the_traced_one(rates, name):
    build, members, _ = TABLE[name]
    schedule = build(*members[0])
    for step in (0, 5, 31):
        rate = schedule(step)
        assert (rate.shape, rate.dtype) == ((), jnp.float32)
        np.testing.assert_allclose(rate, rates[0][name][0, step], rtol=1e-5, atol=1e-7)  # float32


def test_step_decay_of_a_known_length_falls_at_its_multiples():
    """In float32 41, 47 and 61 times their reciprocals are below 1."""
    lengths = (41, 47, 61)
    run = jax.jit(
        lambda step: [schedules.step_decay(1.0, n, factor=0.5)(n * step) for n in lengths]
    )
    for falls in (1, 3):
        np.testing.assert_array_equal(run(falls), [0.5**falls] * 3)


def test_schedule_of_an_optimiser_is_traced_and_followed():
    """Descent of a mode l: weights w <- w - rate(t) l (w - 1); L1 shrinks by the same rate."""

    @jax.jit
    @jax.vmap
    def run(peak):
        schedule = schedules.warm_up(2, schedules.cosine(peak, 4))
        optimizer = jn.optimizer("sgd", schedule, l1=0.1)
        return problem.fit_linear(optimizer, num_steps=6)["parameters"].values

    with jax.enable_x64(True):
        found = np.asarray(run(np.array([0.1, 0.2])))
    for member, peak in enumerate([0.1, 0.2]):
        weights = np.zeros(4)
        for step in range(6):
            rate = peak * (step / 2 if step < 2 else (1 + np.cos(np.pi * (step - 2) / 4)) / 2)
            weights = weights - rate * problem.CURVATURES * (weights - 1)
            weights = np.sign(weights) * np.maximum(np.abs(weights) - 0.1 * rate, 0)
            np.testing.assert_allclose(found[member, step + 1], weights, rtol=1e-10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: schedules.cosine(0.1, 0), "num_steps: expected a number above 0, got 0"),
        (lambda: schedules.one_cycle(0.1, -5), "num_steps: "),
        (lambda: schedules.step_decay(0.1, 0), "every: "),
        (lambda: schedules.cycle(0.1, 0.2, 0), "half_cycle: "),
        (lambda: schedules.ramp(0.0, 1.0, 10), "low: "),
        (lambda: schedules.one_cycle(0.1, 5, rise=1.0), "rise: expected a number between 0 and 1"),
    ],
    ids=["cosine", "one_cycle", "step_decay", "cycle", "ramp", "rise"],
)
def test_number_out_of_its_range_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# Range test: claims E1


def noisy():
    """Two examples an axis whose targets disagree, so that minibatches keep all modes moving."""
    above, below = problem.axes([2.0] * 4), problem.axes([0.0] * 4)
    both = jax.tree.map(lambda *parts: np.concatenate(parts), above, below)
    return Dataset(both, both, both)


@pytest.fixture(scope="module")
def tested():
    """Rates, and where they were read to break: eight noisy ramps, and a sweep of descents."""
    schedule = schedules.ramp(1e-3, 10.0, 100)

    def on_ramp(key):
        found = problem.fit_linear(
            jn.optimizer("sgd", schedule),
            num_steps=100,
            data=noisy(),
            key=key,
            sampling="replacement",
            batch_size=4,
        )
        return found["loss"].values

    def final(rate):
        return problem.fit_linear(jn.optimizer("sgd", rate), num_steps=40, record_every=40)[
            "loss"
        ].values

    @jax.jit
    def run(keys):
        rates = jax.vmap(schedule)(jnp.arange(101))
        ramps, sweep = jax.vmap(on_ramp)(keys), jax.vmap(final)(rates)
        ends = jax.vmap(lambda losses: range_test.divergence(rates, losses))(ramps)
        return rates, ends, range_test.divergence(rates, sweep[:, 1], limit=sweep[0, 0])

    with jax.enable_x64(True):
        return jax.device_get(run(jax.random.split(jax.random.key(0), 8)))


def test_sweep_diverges_at_two_over_the_largest_curvature(tested):
    """Of the rates, 10^0.04 apart, it is the first one above 2 / 5.

    There |1 - 5 rate| >= 1.003 makes the loss of this mode, 5 of the 8.3 at the start, grow by its
    80th power: past all of it, once the rate is above 0.4013.
    """
    rates, _, found = tested
    assert found == rates[rates > 0.4013][0] == rates[rates > 0.4][0]


def test_ramps_diverge_within_a_factor_of_three_of_the_sweep(tested):
    _, ramps, sweep = tested
    assert np.all(np.abs(np.log(ramps / sweep)) < np.log(3))


def test_steepest_fall_is_that_of_the_running_mean():
    """A single low loss, unless smoothed by a half: then it falls by 0.25, and by 0.27 later."""
    rates = 10.0 ** np.arange(10)
    losses = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 0.6, 0.2, 0.0])
    with jax.enable_x64(True):
        fall = jax.vmap(
            lambda s, each: range_test.steepest_fall(rates, each, smoothing=s), (0, None)
        )
        run = jax.jit(fall)
        found = run(np.array([0.0, 0.5]), losses)
        nowhere = range_test.steepest_fall(rates, rates)
        broken = run(np.array([0.0, 0.5]), np.where(rates == 10, np.inf, losses))
    np.testing.assert_allclose(found, [10**4.5, 10**7.5], rtol=1e-12)
    np.testing.assert_allclose(broken, found, rtol=1e-12)  # of 1s before, one is left out
    assert np.isnan(nowhere)


@pytest.mark.parametrize(
    ("losses", "limit", "expected"),
    [
        ([1.0, 0.5, 0.2], None, np.nan),
        ([1.0, 0.5, 2.1], None, 3.0),
        ([1.0, 0.5, 1.9], None, np.nan),
        ([1.0, 1.5, 0.2], 1.2, 2.0),
        ([1.0, np.nan, 0.2], None, 2.0),
        ([1.0, 0.5, np.inf], 1e9, 3.0),
    ],
)
def test_divergence_of_known_curves(losses, limit, expected):
    rates = np.array([1.0, 2.0, 3.0], np.float32)
    found = range_test.divergence(rates, np.array(losses, np.float32), limit=limit)
    np.testing.assert_equal(float(found), expected)
