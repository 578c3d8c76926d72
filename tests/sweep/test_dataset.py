"""What a sweep returns: axes in the user's order, labels, units, NaN where there is nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxnn as jn
from jaxnn.sweep.axes import parse_axes
from jaxnn.sweep.grid import Grid


def label(key, *, rate, depth, name, size, count, flag):
    """A number that tells the point it was made at."""
    number = (
        rate
        + 10.0 * jnp.asarray(depth.num_layers, float)
        + 100.0 * ["a", "b"].index(name)
        + 1000.0 * (0 if size is None else size)
        + 10_000.0 * count.astype(float)
        + 100_000.0 * flag
    )
    active = jnp.arange(depth.maximum) < depth.num_layers
    layers = jnp.where(active, jnp.broadcast_to(number, active.shape), jnp.nan)
    return {
        "number": jn.Labelled(number, (), "nat", "the point's number"),
        "by_layer": jn.Labelled(layers, ("layer",), "bit", "the same in each layer"),
        "layer": jn.Coordinate(tuple(range(1, depth.maximum + 1)), "1", "hidden layer"),
        "plain": jnp.zeros((2, 3)) + number,
    }


# traced axes stand between static ones: storage numbers the members in another order
AXES = {
    "rate": [0.5, 0.25],
    "name": ["b", "a"],
    "depth": jn.depths([3, 1]),
    "count": jn.traced([7, 2, 5]),
    "size": [None, 4],
    "flag": np.array([True, False]),
}


@pytest.fixture(scope="module", params=["exact", "masked"])
def dataset(request):
    axes = {**AXES, "flag": [True]} if request.param == "exact" else AXES
    return jn.sweep(label, **axes, num_seeds=2, layout=request.param)


def test_axes_stand_in_the_users_order(dataset):
    assert dataset["number"].dims == (*AXES, "seed")
    assert dataset["by_layer"].dims == (*AXES, "seed", "layer")
    assert dataset["plain"].dims == (*AXES, "seed", "plain_0", "plain_1")
    assert dataset["rate"].values.tolist() == [0.5, 0.25]
    assert dataset["name"].values.tolist() == ["b", "a"]
    assert dataset["depth"].values.tolist() == [3, 1]
    assert dataset["count"].values.tolist() == [7, 2, 5]
    assert dataset["size"].values.tolist() == ["None", "4"]
    assert dataset["seed"].values.tolist() == [0, 1]


def test_every_member_stands_at_its_own_point(dataset):
    expected = (
        dataset["rate"]
        + 10.0 * dataset["depth"]
        + 100.0 * (dataset["name"] == "b")
        + 1000.0 * (dataset["size"] == "4") * 4.0
        + 10_000.0 * dataset["count"]
        + 100_000.0 * dataset["flag"]
    )
    found, expected = xr.broadcast(dataset["number"], expected)
    # sums below 2^18 in steps of 2^-2 are exact in float32
    np.testing.assert_array_equal(found, expected.transpose(*found.dims))
    np.testing.assert_array_equal(dataset["plain"].isel(plain_0=1, plain_1=2), found)


def test_layer_reads_nan_past_a_members_depth(dataset):
    assert dataset["layer"].values.tolist() == [1, 2, 3]
    exists = dataset["layer"] <= dataset["depth"]
    assert (dataset["by_layer"].notnull() == exists).all()


def test_labels_become_units_and_long_names(dataset):
    assert dataset["number"].attrs == {"units": "nat", "long_name": "the point's number"}
    assert dataset["by_layer"].attrs == {"units": "bit", "long_name": "the same in each layer"}
    assert dataset["layer"].attrs == {"units": "1", "long_name": "hidden layer"}


def test_attributes_say_where_the_result_comes_from(dataset):
    attrs = dataset.attrs
    assert attrs["run"] == f"{label.__module__}.label"
    assert f"jax {jax.__version__}" in attrs["versions"]
    assert attrs["backend"] == jax.default_backend()
    assert attrs["devices"].startswith(f"{jax.device_count()} x ")
    assert attrs["root_seed"] == 0
    assert attrs["members_done"] == dataset["number"].size
    assert 0.0 < attrs["compile_seconds"] < attrs["wall_seconds"]
    assert "programs" in attrs["plan"]


@pytest.mark.parametrize(
    "wrap", [lambda run: functools.partial(run, shift=1.0), jax.jit], ids=["partial", "jit"]
)
def test_run_may_be_wrapped(wrap):
    def run(key, *, scale, shift=1.0):
        return {"sum": scale + shift}

    dataset = jn.sweep(wrap(run), scale=[1.0, 2.0])
    assert dataset["sum"].values.ravel().tolist() == [2.0, 3.0]
    assert dataset.attrs["run"]


def test_sweep_without_axes_is_one_run_for_each_seed():
    dataset = jn.sweep(lambda key: {"drawn": jax.random.normal(key)}, num_seeds=3)
    assert dataset["drawn"].dims == ("seed",)
    assert len(set(dataset["drawn"].values.tolist())) == 3


# Axes


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        pytest.param([0.1, 1], "traced", id="floats"),
        pytest.param(np.linspace(0.0, 1.0, 3), "traced", id="numpy_floats"),
        pytest.param(jnp.linspace(0.0, 1.0, 3), "traced", id="jax_float32"),
        pytest.param([0.1, float("inf")], "traced", id="infinity"),
        pytest.param(jn.traced([1, 2]), "traced", id="marked_ints"),
        pytest.param(jn.depths([1, 2]), "depth", id="depths"),
        pytest.param([1, 2], "static", id="ints"),
        pytest.param(range(2), "static", id="range"),
        pytest.param(jnp.arange(2), "static", id="jax_ints"),
        pytest.param(["tanh", "relu"], "static", id="strings"),
        pytest.param(np.array(["tanh", "relu"]), "static", id="numpy_strings"),
        pytest.param([True, False], "static", id="bools"),
        pytest.param([None, "he", 3], "static", id="mixed"),
    ],
)
def test_axis_has_the_kind_of_its_values(values, kind):
    (axis,) = parse_axes(lambda key, *, x: {}, {"x": values})
    assert axis.kind == kind
    assert len(axis.coordinate()) == len(axis.values)


def test_static_values_reach_the_run_as_python_objects():
    seen = []

    def run(key, **point):
        seen.append(point)
        return {"zero": jnp.zeros(())}

    numbers = {"width": np.array([4]), "name": np.array(["a"]), "flag": np.array([True])}
    jn.plan(run, **numbers, size=[None])
    assert seen == [{"width": 4, "name": "a", "flag": True, "size": None}]
    assert {name: type(value) for name, value in seen[0].items()} == {
        "width": int,
        "name": str,
        "flag": bool,
        "size": type(None),
    }


def test_traced_values_reach_the_run_in_jaxs_default_dtypes():
    def run(key, *, rate, half, count):
        assert (rate.dtype, half.dtype, count.dtype) == (jnp.float32, jnp.float32, jnp.int32)
        assert not rate.weak_type
        return {"rate": rate, "half": half}

    def rename(key, **point):
        return {f"{name}_seen": value for name, value in run(key, **point).items()}

    dataset = jn.sweep(
        rename, rate=[0.1], half=jnp.array([0.1], jnp.float32), count=jn.traced(np.arange(2))
    )
    assert dataset["rate_seen"].dtype == np.float32
    np.testing.assert_array_equal(dataset["rate_seen"], dataset["half_seen"])
    assert dataset["rate"].dtype == np.float64  # the label is what the user wrote
    assert dataset["half"].dtype == np.float32


def test_programs_of_different_sizes_are_padded_with_nan():
    def run(key, *, width):
        return {
            "unit_norm": jn.Labelled(jnp.ones(width), ("unit",)),
            "index": jn.Labelled(jnp.arange(width), ("unit",)),
        }

    dataset = jn.sweep(run, width=[2, 3], num_seeds=2)
    assert dataset["unit_norm"].notnull().sum("unit").values.tolist() == [[2, 2], [3, 3]]
    assert dataset["index"].isel(width=1, seed=0).values.tolist() == [0.0, 1.0, 2.0]
    assert np.isnan(dataset["index"].isel(width=0, unit=2)).all()


def test_depths_are_kept_in_the_given_order():
    assert jn.depths([4, 16, 1]).values == (4, 16, 1)


# Grid


@pytest.fixture
def grid():
    return Grid(parse_axes(lambda key, **point: {}, {**AXES, "gain": [0.1, np.inf]}), 2)


def test_members_of_a_program_are_neighbours(grid):
    kinds = [axis.kind for axis in grid.numbered_axes]
    assert kinds == ["static"] * 3 + ["depth"] + ["traced"] * 3
    assert grid.num_members == 2 * 2 * 2 * 3 * 2 * 2 * 2 * 2
    values = grid.values(np.arange(grid.num_members))
    assert values["seed"][:4].tolist() == [0, 1, 0, 1]
    assert values["gain"][:4].tolist() == [0.1, 0.1, np.inf, np.inf]
    assert values["name"].tolist() == ["b"] * 192 + ["a"] * 192
    points = set(zip(*(each.tolist() for each in values.values()), strict=True))
    assert len(points) == grid.num_members


def test_grid_survives_json(grid):
    again = Grid.from_json(grid.to_json())
    assert again.to_json() == grid.to_json()
    assert again.num_seeds == grid.num_seeds
    for ours, theirs in zip(again.axes, grid.axes, strict=True):
        assert (ours.name, ours.kind) == (theirs.name, theirs.kind)
        assert ours.coordinate().dtype == theirs.coordinate().dtype
        np.testing.assert_array_equal(ours.coordinate(), theirs.coordinate())
    numbers = np.arange(grid.num_members)
    for name, values in grid.values(numbers).items():
        np.testing.assert_array_equal(values, again.values(numbers)[name])
