"""A member of a sweep is the same run alone: in every layout, tile size and device count."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn import probes

DEPTHS = [1, 3]
NUM_SEEDS = 2
# stable: the loss falls, and no step comes near 2 / (largest curvature)
RATES = {"tanh_sgd": [0.02, 0.05], "relu_momentum": [0.005, 0.01], "tanh_adam": [0.002, 0.005]}


def optimizer(rule, learning_rate):
    if rule == "tanh_adam":
        return jn.optimizer("adam", learning_rate, weight_decay=1e-2, clip_norm=0.5)
    momentum = 0.9 if rule == "relu_momentum" else None
    return jn.optimizer("sgd", learning_rate, momentum=momentum)


def run(key, *, depth, learning_rate, rule, data):
    """A hundred steps of the smallest network that has every part."""
    model = jn.mlp(depth, width=8, out=10, activation=rule[:4])
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes floats with int counts
        return jn.fit(
            model,
            jn.cross_entropy,
            optimizer(rule, learning_rate),
            data,
            key=key,
            num_steps=100,
            record_every=50,
            probes=[probes.loss, probes.grad_rms],
            batch_size=16,
            probe_size=32,
        )


def draws(key, *, depth, learning_rate):
    """A run with no training in it."""
    first, second = jax.random.split(key)
    steps = jnp.arange(3)
    walk = jnp.cumsum(learning_rate * jax.random.normal(first, (depth.maximum,)))
    reached = jnp.sum(jnp.where(jnp.arange(depth.maximum) < depth.num_layers, walk, 0.0))
    angle = jax.random.uniform(second) * steps.astype(walk.dtype)
    return {
        "walk_end": reached,
        "wave": jn.Labelled(jnp.sin(angle), ("step",), "1", "wave"),
        "step": jn.Coordinate((0, 1, 2), "step", "step"),
    }


def swept(run, rates, layout, tile_size, devices, depths=DEPTHS):
    return jn.sweep(
        run,
        depth=jn.depths(depths),
        learning_rate=rates,
        num_seeds=NUM_SEEDS,
        layout=layout,
        tile_size=tile_size,
        devices=jax.devices()[:devices],
        seed=3,
    )


def lone_members(run, rates, depths=DEPTHS):
    """Every grid point's arrays by (depth, rate, seed), each from a jitted call of its own."""
    root = jax.random.key(3)

    @functools.partial(jax.jit, static_argnames="maximum")
    def alone(seed, learning_rate, maximum):
        found = run(
            jax.random.fold_in(root, seed), depth=jn.Depth(maximum), learning_rate=learning_rate
        )
        return {n: each.values for n, each in found.items() if isinstance(each, jn.Labelled)}

    return {
        (depth, rate, seed): jax.device_get(alone(seed, jnp.asarray(rate, float), depth))
        for depth in depths
        for rate in rates
        for seed in range(NUM_SEEDS)
    }


def assert_same(dataset, lone, rtol):
    for (depth, rate, seed), arrays in lone.items():
        member = dataset.sel(depth=depth, learning_rate=rate, seed=seed)
        for name, expected in arrays.items():
            found = member[name].values
            if "layer" in member[name].dims:
                assert np.isnan(found[:, depth:]).all(), (name, "past the depth", depth)
                found = found[:, :depth]
            where = f"{name} of depth {depth}, rate {rate}, seed {seed}"
            np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol, err_msg=where)


@pytest.fixture(scope="module")
def lone(digits):
    """Each rule's members alone, computed once; the shallow ones, once masked, stand for all."""

    @functools.cache
    def of(rule):
        depths = DEPTHS if rule == "tanh_sgd" else DEPTHS[:1]
        return lone_members(functools.partial(run, rule=rule, data=digits), RATES[rule], depths)

    return of


# Every rule in both layouts; every tile size and device count in both layouts, and together.
@pytest.mark.parametrize(
    ("rule", "layout", "depths", "tile_size", "devices"),
    [
        pytest.param("tanh_sgd", "exact", [1, 3], 1, 2, id="sgd-exact-tile1-all_devices"),
        pytest.param("tanh_sgd", "masked", [1, 3], 8, 1, id="sgd-masked-one_tile-one_device"),
        pytest.param("relu_momentum", "exact", [1], 3, 1, id="momentum-exact-tile3-one_device"),
        pytest.param(
            "relu_momentum", "masked", [1, 3], 3, 2, id="momentum-masked-tile3-all_devices"
        ),
        pytest.param("tanh_sgd", "ragged", [1, 3], 3, 2, id="sgd-ragged-tile3-all_devices"),
        pytest.param("tanh_adam", "exact", [1], 4, 2, id="adam-exact-one_tile-all_devices"),
        pytest.param("tanh_adam", "masked", [1, 3], 1, 1, id="adam-masked-tile1-one_device"),
    ],
)
def test_trained_member_equals_the_run_alone(
    digits, lone, rule, layout, depths, tile_size, devices
):
    task = functools.partial(run, rule=rule, data=digits)
    dataset = swept(task, RATES[rule], layout, tile_size, devices, depths)
    assert dataset["diverged_at"].isnull().all()
    assert (dataset["loss"].isel(step=-1) < dataset["loss"].isel(step=0)).all()  # it trained
    # float32 rounds at 6e-8; a stable run keeps an error's growth below about 10 a step's worth,
    # and 100 steps add up to below 1e-4 (4e-6 is usual for a lane of a vmap)
    assert_same(dataset, lone(rule), rtol=1e-4)


def test_trained_member_equals_the_run_alone_in_float64(digits):
    with jax.enable_x64(True):
        data = jax.tree.map(
            lambda leaf: leaf.astype(float) if leaf.dtype.kind == "f" else leaf, digits
        )
        task = functools.partial(run, rule="tanh_sgd", data=data)
        dataset = swept(task, RATES["tanh_sgd"], "masked", 3, 2)
        assert dataset["loss"].dtype == np.float64
        # 2^-53 grows as in float32: 1e-4 * 2^-29 = 2e-13, far below what is promised
        assert_same(dataset, lone_members(task, RATES["tanh_sgd"], [1]), rtol=1e-9)


@pytest.mark.parametrize(
    ("layout", "tile_size", "devices"), [("exact", 3, 2), ("masked", 1, 1), ("masked", 8, 2)]
)
def test_untrained_member_equals_the_run_alone(layout, tile_size, devices):
    rates = [0.5, 2.0]
    dataset = swept(draws, rates, layout, tile_size, devices)
    assert_same(dataset, lone_members(draws, rates), rtol=1e-6)  # a dozen roundings of 6e-8


def test_last_device_alone_gives_the_same_members():
    arguments = {"scale": [1.0, 2.0, 3.0], "num_seeds": 2}

    def product(key, *, scale):
        return {"product": scale * jax.random.normal(key)}

    everywhere = jn.sweep(product, **arguments)
    last = jn.sweep(product, devices=jax.devices()[-1:], **arguments)
    np.testing.assert_array_equal(everywhere["product"], last["product"])


def test_data_put_on_one_device_is_used_on_all():
    data = jax.device_put(jnp.arange(3.0), jax.devices()[0])
    found = jn.sweep(lambda key, *, scale: {"sum": (scale * data).sum()}, scale=[1.0, 2.0])
    assert found["sum"].values.ravel().tolist() == [3.0, 6.0]


# Common random numbers


@pytest.mark.parametrize("layout", ["exact", "masked"])
def test_seed_gives_the_same_numbers_at_every_point(layout):
    def number(key, *, depth, scale):
        return {"drawn": jax.random.normal(key) + 0.0 * scale}

    drawn = jn.sweep(
        number,
        depth=jn.depths([2, 1, 4]),
        scale=[0.0, 1.0],
        num_seeds=3,
        layout=layout,
        seed=5,
    )["drawn"]
    root = jax.random.key(5)
    expected = [float(jax.random.normal(jax.random.fold_in(root, seed))) for seed in range(3)]
    np.testing.assert_array_equal(drawn, np.broadcast_to(np.float32(expected), drawn.shape))


def test_root_seed_changes_every_member():
    def number(key, *, scale):
        return {"drawn": scale * jax.random.normal(key)}

    first, second = (jn.sweep(number, scale=[1.0, 2.0], num_seeds=3, seed=s) for s in (0, 1))
    assert (first["drawn"] != second["drawn"]).all()


# A member that is not finite


def test_diverged_member_changes_no_other_bit(digits):
    def few(key, *, depth, learning_rate):
        return jn.fit(
            jn.mlp(depth, width=4, out=10),
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate),
            digits,
            key=key,
            num_steps=6,
            record_every=3,
            probes=[probes.loss, probes.grad_rms],
            batch_size=16,
            probe_size=16,
        )

    # the step itself is infinite; the weights are finite once, and the next loss is not
    bad = {1: float("inf"), 3: 3e38}
    healthy, sick = (
        swept(few, rates, "exact", 3, 2, [1])
        for rates in ([0.05, 0.02, 0.01, 0.03], [0.05, bad[1], 0.01, bad[3]])
    )
    others = {"learning_rate": [0, 2]}
    for name in ("loss", "grad_rms", "diverged_at"):
        ours, theirs = (each[name].isel(others).values for each in (sick, healthy))
        np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32), err_msg=name)
    assert healthy["diverged_at"].isnull().all()
    assert sick["diverged_at"].isel(others).isnull().all()
    assert (sick["diverged_at"].isel(learning_rate=1) == 0).all()
    assert sick["diverged_at"].isel(learning_rate=3).notnull().all()
    frozen = sick["loss"].isel(learning_rate=1)  # no step was taken
    assert (frozen == frozen.isel(step=0)).all()


@pytest.mark.parametrize("tile_size", [1, 4])
def test_member_that_divides_by_zero_changes_no_other_bit(tile_size):
    def run(key, *, scale):
        matrix = jax.random.normal(key, (4, 4)) / scale
        return {"trace": jnp.trace(matrix @ jnp.exp(matrix))}

    sick, healthy = (
        jn.sweep(run, scale=[1.0, each, 3.0, 4.0], num_seeds=3, tile_size=tile_size)["trace"]
        for each in (0.0, 2.0)
    )
    assert not np.isfinite(sick[1]).any()
    np.testing.assert_array_equal(sick[[0, 2, 3]].values, healthy[[0, 2, 3]].values)


def test_layouts_agree_where_norms_see_all_parameters(digits):
    """A penalty and a global norm must not see the layers that a masked member lacks."""

    def run(key, *, depth, learning_rate):
        model = jn.mlp(depth, 8, 10, weights=jn.gaussian(1.5), biases=jn.gaussian(0.2))
        chain = jn.optimizer("sgd", learning_rate, l2=0.1, clip_norm=0.05)
        fitted = {"num_steps": 20, "record_every": 20, "batch_size": 16, "probe_size": 32}
        probes = [jn.probes.loss, jn.probes.weight_rms]
        return jn.fit(model, jn.cross_entropy, chain, digits, key=key, probes=probes, **fitted)

    axes = {"depth": jn.depths([1, 3]), "learning_rate": [0.5]}
    exact, masked = (jn.sweep(run, **axes, layout=layout) for layout in ("exact", "masked"))
    for name in ("loss", "weight_rms"):
        # float32 roundings of 20 stable steps; NaN past a member's depth in both
        chex.assert_trees_all_close(exact[name].values, masked[name].values, rtol=1e-4)
