"""`fit` against step-by-step training in numpy, in float64, one compiled program a rule."""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as jn
from jaxnn import probes
from jaxnn.types import Batch
from tests import reference
from tests.training import problem

pytestmark = pytest.mark.usefixtures("float64")
TANH = reference.PHIS["tanh"]


@pytest.fixture(scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def relaxed():
    """Dtype promotion as users have it: optax's Adam and schedules mix floats with int counts."""
    return jax.numpy_dtype_promotion("standard")


# five steps of float64 training: rounding 1e-16 grows by a small factor a step, and Adam divides
# gradients by their own size, so that relative errors of small ones count in full
close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12)


def assert_follows(found, expected, every=1):
    """Compare the recorded parameters and losses with the numpy training."""
    networks, losses = expected
    flat = [reference.flattened(network) for network in networks]
    close(found["parameters"].values, flat[::every])
    close(found["loss"].values, losses[::every])


# Rules, penalties and clips

OFF = {"l2": 0.0, "weight_decay": 0.0, "l1": 0.0, "clip_norm": math.inf, "clip_value": math.inf}
# strong enough that each changes the third digit within five steps; the clips bind
VARIANTS = {
    "plain": {},
    "l2": {"l2": 0.3},
    "weight_decay": {"weight_decay": 0.4},
    "l1": {"l1": 0.2},
    "clip_norm": {"clip_norm": 0.2},
    "clip_value": {"clip_value": 0.05},
    "all": {"l2": 0.1, "weight_decay": 0.2, "l1": 0.1, "clip_norm": 0.3, "clip_value": 0.1},
}
# rule, static options, and those whose numbers are traced with all others: one program each
PROGRAMS = {
    "momentum": ("sgd", {}, [{"momentum": 0.0}, {"momentum": 0.8}]),
    "nesterov": ("sgd", {"nesterov": True}, [{"momentum": 0.8}]),
    "adamw": (
        "adamw",
        {},
        [{"b1": 0.9, "b2": 0.999, "eps": 1e-8}, {"b1": 0.7, "b2": 0.9, "eps": 1e-3}],
    ),
    "rmsprop": ("rmsprop", {}, [{}]),
}
# program and its options' place, rate, and the numpy rule
RULES = {
    "sgd": ("momentum", 0, 0.3, reference.sgd),
    "momentum": ("momentum", 1, 0.2, functools.partial(reference.sgd, 0.8)),
    "nesterov": ("nesterov", 0, 0.2, functools.partial(reference.sgd, 0.8, nesterov=True)),
    # told its decay, adamw is adam: test_optimizers.py
    "adamw": ("adamw", 0, 0.05, reference.adam),
    "adamw_options": ("adamw", 1, 0.05, functools.partial(reference.adam, 0.7, 0.9, 1e-3)),
    "rmsprop": ("rmsprop", 0, 0.02, reference.rmsprop),
}


def columns(members):
    return {key: np.array([member[key] for member in members]) for key in members[0]}


@functools.cache
def program(name):
    """All rates, options and variants of an optax rule, every number traced: [option, variant]."""
    rule, static, options = PROGRAMS[name]
    rates = [rate for ours, _, rate, _ in RULES.values() if ours == name]

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    @functools.partial(jax.vmap, in_axes=(None, None, 0))
    def run(rate, traced, penalties):
        return problem.fit(jn.optimizer(rule, rate, **penalties, **static, **traced))

    variants = columns([{**OFF, **variant} for variant in VARIANTS.values()])
    with relaxed() if rule.startswith("adam") else contextlib.nullcontext():
        return jax.device_get(run(np.array(rates), columns(options), variants))


def trained(name):
    """The records of all variants of a rule: [variant, step, ...]."""
    ours, place, _, _ = RULES[name]
    return jax.tree.map(lambda leaf: leaf[place], program(ours))


def by_hand(name, variant, **changes):
    _, _, rate, direction = RULES[name]
    return reference.train(
        problem.NETWORK,
        problem.X,
        problem.LABELS,
        TANH,
        direction(),
        [rate] * problem.NUM_STEPS,
        **VARIANTS[variant],
        **changes,
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", RULES)
def test_training_equals_reference(name, variant):
    member = list(VARIANTS).index(variant)
    found = jax.tree.map(lambda leaf: leaf[member], trained(name))
    assert_follows(found, by_hand(name, variant))
    assert np.isnan(found["diverged_at"].values)


def test_every_variant_changes_the_training():
    """The table above tests something: no two members of the plain rule end alike."""
    ends = trained("sgd")["parameters"].values[:, -1]
    distances = np.abs(ends[:, None] - ends[None]).max(axis=-1)
    assert np.all(distances[~np.eye(len(ends), dtype=bool)] > 1e-3)


def test_l1_reaches_exact_zeros_in_training():
    member = list(VARIANTS).index("l1")
    found = trained("sgd")["parameters"].values[member, -1]
    expected = reference.flattened(by_hand("sgd", "l1")[0][-1])
    assert np.sum(expected == 0) > 2
    np.testing.assert_array_equal(found == 0, expected == 0)


def test_record_at_zero_is_the_initial_network():
    found = trained("adamw")["parameters"].values[:, 0]
    start = reference.flattened(problem.NETWORK)
    np.testing.assert_array_equal(found, np.broadcast_to(start, found.shape))


def test_eager_python_floats_equal_jitted_traced_numbers():
    """Parts that are None are left out; the rest is the member of the jitted, vmapped program."""
    found = problem.fit(jn.optimizer("sgd", 0.2, momentum=0.8, clip_norm=0.2))
    assert_follows(found, by_hand("momentum", "clip_norm"))
    member = list(VARIANTS).index("clip_norm")
    close(found["parameters"].values, trained("momentum")["parameters"].values[member])


# Schedules and records


@pytest.fixture(scope="module")
def scheduled():
    """A cosine schedule with a traced peak, with L1 under the same schedule; k = 2."""

    @jax.jit
    @jax.vmap
    def run(peak):
        schedule = optax.cosine_decay_schedule(peak, decay_steps=6)
        return problem.fit(jn.optimizer("sgd", schedule, l1=0.05), num_steps=6, record_every=2)

    with jax.enable_x64(True), relaxed():
        return jax.device_get(run(np.array([0.1, 0.4])))


@pytest.mark.parametrize(("member", "peak"), [(0, 0.1), (1, 0.4)], ids=str)
def test_schedule_with_traced_peak_equals_manual_rates(scheduled, member, peak):
    rates = [peak * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    expected = reference.train(
        problem.NETWORK, problem.X, problem.LABELS, TANH, reference.sgd(), rates, l1=0.05
    )
    assert_follows(jax.tree.map(lambda leaf: leaf[member], scheduled), expected, every=2)


def test_records_stand_at_multiples_of_record_every(scheduled):
    assert scheduled["step"].values == (0, 2, 4, 6)
    assert scheduled["loss"].dims == ("step",)
    assert scheduled["parameters"].dims == ("step", "parameter")
    assert scheduled["loss"].values.shape == (2, 4)
    assert (scheduled["diverged_at"].dims, scheduled["diverged_at"].unit) == ((), "step")


@pytest.fixture(scope="module")
def initial():
    """No steps, weights that follow from the key, validation measured on a prefix."""

    def draw(key, shape, dtype):  # one number a kernel: random draws take a second to compile
        numbers = jax.random.key_data(key).astype(dtype) / 2**32 - 0.5
        return jnp.full(shape, numbers[0]) + numbers[1] * jnp.eye(*shape, dtype=dtype)

    model = jn.mlp(problem.DEPTH, problem.WIDTH, problem.OUT, weights=draw)

    @jax.jit
    def run(key):
        return problem.fit(
            optax.sgd(0.1),
            model=model,
            key=key,
            num_steps=0,
            probes=[problem.parameters, probes.act_var],
            validation_probes=[probes.loss, probes.accuracy],
            probe_size=4,
        )

    with jax.enable_x64(True):
        return [jax.device_get(run(jax.random.key(seed))) for seed in (0, 0, 1)]


def test_zero_steps_measure_initialisation_only(initial):
    assert initial[0]["step"].values == (0,)
    assert initial[0]["act_var"].values.shape == (1, problem.DEPTH)
    assert initial[0]["layer"].values == (1, 2)
    assert np.isnan(initial[0]["diverged_at"].values)


def test_key_decides_the_initial_network(initial):
    first, again, other = (found["parameters"].values for found in initial)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_validation_probes_see_the_first_validation_examples(initial):
    """Under the name `validation_...`; the network is rebuilt from its recorded parameters."""
    flat = initial[0]["parameters"].values[0]
    sizes = jax.tree.map(np.zeros_like, reference.stacked(problem.NETWORK))
    leaves, form = jax.tree.flatten(sizes)
    parts = np.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1])
    params = form.unflatten(
        [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )
    x, labels = problem.UNSEEN[:4], problem.UNSEEN_LABELS[:4]
    expected = reference.evaluate(reference.unstacked(params), x, labels, TANH)
    close(initial[0]["validation_loss"].values, [expected.loss])
    right = expected.passed.outputs.argmax(axis=1) == labels
    close(initial[0]["validation_accuracy"].values, [right.mean()])
    assert "loss" not in initial[0]


# The training set's size, and sampling


def test_traced_training_set_size_equals_truncated_arrays():
    """With weights of the examples; the loss is recorded on those in use."""
    weight = np.linspace(0.5, 2.0, problem.NUM_TRAIN)

    @jax.jit
    @jax.vmap
    def run(num_train):
        data = problem.dataset(num_train, weight)
        return problem.fit(jn.optimizer("sgd", 0.3), data=data, num_steps=3)

    sizes = [8, 5, 1]
    found = jax.device_get(run(np.array(sizes)))
    for member, size in enumerate(sizes):
        network, networks, losses = problem.NETWORK, [problem.NETWORK], []
        for _ in range(4):
            result = reference.evaluate(
                network, problem.X[:size], problem.LABELS[:size], TANH, weight=weight[:size]
            )
            network = reference.updated(network, result.gradients, reference.sgd(), 0.3)
            networks.append(network)
            losses.append(result.loss)
        assert_follows(
            jax.tree.map(lambda leaf, member=member: leaf[member], found), (networks[:4], losses)
        )


@pytest.mark.parametrize(
    ("sampling", "num_train", "batch_size"),
    [("epochs", problem.NUM_TRAIN, problem.NUM_TRAIN), ("replacement", 1, 3)],
    ids=["epochs", "replacement"],
)
def test_batch_that_must_be_the_whole_set_trains_as_the_whole_set(sampling, num_train, batch_size):
    """One epoch a batch is the full batch in another order; of one example there is one draw."""
    data = problem.dataset(num_train)
    found = jax.jit(
        lambda: problem.fit(
            jn.optimizer("sgd", 0.3), data=data, sampling=sampling, batch_size=batch_size
        )
    )()
    x, labels = problem.X[:num_train], problem.LABELS[:num_train]
    expected = reference.train(problem.NETWORK, x, labels, TANH, reference.sgd(), [0.3] * 5)
    assert_follows(found, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_weights_of_any_float_dtype_are_taken(dtype):
    """Under strict dtype promotion, as everywhere in these tests."""
    data = problem.dataset(5, np.ones(problem.NUM_TRAIN, dtype))
    found = jax.eval_shape(lambda: problem.fit(jn.optimizer("sgd", 0.3), data=data))
    assert found["loss"].values.dtype == jnp.float64


# Divergence

HEALTHY = (0.02, 0.05, 0.01)
# climbing: the loss overflows after two steps; leap: after one; nowhere: the first step fails
BAD = {"climbing": 1e20, "leap": 1e120, "nowhere": math.inf}
NUM_STEPS = 10


@pytest.fixture(scope="module")
def diverging():
    """Three members in one program, the middle one healthy or not."""

    @jax.jit
    @jax.vmap
    def run(rate):
        return problem.fit(
            jn.optimizer("sgd", rate),
            model=problem.model("relu"),
            loss=jn.squared_error,
            num_steps=NUM_STEPS,
            probes=[problem.parameters, probes.loss, probes.act_var],
            validation_probes=[probes.accuracy],
        )

    def members(middle):
        return jax.device_get(run(np.array([HEALTHY[0], middle, HEALTHY[2]])))

    with jax.enable_x64(True):
        return {"healthy": members(HEALTHY[1]), **{name: members(BAD[name]) for name in BAD}}


@functools.cache
def relu_by_hand(rate):
    """The numpy training, and its first step whose loss or update is not finite (None: all are)."""
    with np.errstate(all="ignore"):
        networks, losses = reference.train(
            problem.NETWORK,
            problem.X,
            problem.LABELS,
            reference.PHIS["relu"],
            reference.sgd(),
            [rate] * NUM_STEPS,
            loss=reference.squared_error,
        )
    flat = [reference.flattened(network) for network in networks]
    bad = [
        step
        for step in range(NUM_STEPS)
        if not (np.isfinite(losses[step]) and np.all(np.isfinite(flat[step + 1])))
    ]
    return flat, losses, min(bad, default=None)


@pytest.mark.parametrize("member", [0, 1, 2])
def test_healthy_relu_members_equal_reference(diverging, member):
    flat, losses, bad = relu_by_hand(HEALTHY[member])
    assert bad is None
    close(diverging["healthy"]["parameters"].values[member], flat)
    close(diverging["healthy"]["loss"].values[member], losses)
    assert np.isnan(diverging["healthy"]["diverged_at"].values[member])


@pytest.mark.parametrize("name", BAD)
def test_diverged_at_is_the_first_step_that_is_not_finite(diverging, name):
    _, _, bad = relu_by_hand(BAD[name])
    assert diverging[name]["diverged_at"].values[1] == bad
    assert {"climbing": bad > 1, "leap": bad == 1, "nowhere": bad == 0}[name]


@pytest.mark.parametrize("name", BAD)
def test_diverged_member_follows_reference_until_it_freezes(diverging, name):
    flat, losses, bad = relu_by_hand(BAD[name])
    # errors grow with the numbers here, which square and more at each step: 1e-16 * 10^6
    good = max(bad, 1)  # the initial state is always recorded
    np.testing.assert_allclose(
        diverging[name]["parameters"].values[1, :good], flat[:good], rtol=1e-8
    )
    np.testing.assert_allclose(diverging[name]["loss"].values[1, :good], losses[:good], rtol=1e-8)


def test_member_stays_frozen_after_one_bad_batch():
    """Of the eight examples, one a step, one overflows; the steps after it are not taken."""
    x = problem.X.copy()
    x[5] = 1e200
    data = problem.dataset()._replace(train=Batch(x, problem.LABELS))

    @jax.jit
    @jax.vmap
    def run(key):
        return problem.fit(
            jn.optimizer("sgd", 0.05),
            model=problem.model("relu"),
            loss=jn.squared_error,
            data=data,
            key=key,
            num_steps=8,
            sampling="epochs",
            batch_size=1,
            probe_size=4,
        )

    found = jax.device_get(run(jax.random.split(jax.random.key(0), 4)))
    bad, flat = found["diverged_at"].values, found["parameters"].values
    moved = np.any(flat[:, 1:] != flat[:, :-1], axis=-1)
    np.testing.assert_array_equal(moved, np.arange(8) < bad[:, None])
    assert np.any((bad > 0) & (bad < 7))  # in some order there are steps before it and after it


@pytest.mark.parametrize("name", BAD)
def test_diverged_member_is_constant_afterwards(diverging, name):
    bad = int(diverging[name]["diverged_at"].values[1])
    for key, record in diverging[name].items():
        if key in ("diverged_at", "step", "layer"):
            continue
        after = record.values[1, bad + 1 :]
        np.testing.assert_array_equal(after, np.broadcast_to(after[:1], after.shape))


@pytest.mark.parametrize("name", BAD)
def test_parameters_of_diverged_member_stay_finite(diverging, name):
    bad = int(diverging[name]["diverged_at"].values[1])
    assert np.all(np.isfinite(diverging[name]["parameters"].values[1, bad + 1 :]))


@pytest.mark.parametrize("name", BAD)
def test_neighbours_of_diverged_member_keep_their_bits(diverging, name):
    for key, record in diverging[name].items():
        if key in ("step", "layer"):
            continue
        for member in (0, 2):
            np.testing.assert_array_equal(
                record.values[member], diverging["healthy"][key].values[member]
            )
