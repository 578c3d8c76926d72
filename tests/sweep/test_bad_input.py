"""Errors of a sweep: each names what is wrong and the fix, before anything is compiled."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr

import jaxnn as jn
from jaxnn.sweep.driver import Driven

LOOP = importlib.import_module("jaxnn.sweep.loop")

pytestmark = pytest.mark.usefixtures("nothing_compiled")


@pytest.fixture
def nothing_compiled(compiled):
    """Whatever a test asks for, an error comes before the first compile."""
    yield
    assert compiled == []


def square(key, *, scale):
    return {"square": scale**2}


def any_axes(key, **point):
    return {"zero": jnp.zeros(())}


# Axes


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        pytest.param([], ValueError, "'x'.*at least one value", id="empty"),
        pytest.param(jn.traced([]), ValueError, "'x'.*at least one value", id="empty_traced"),
        pytest.param(0.1, TypeError, r"'x'.*got 0\.1.*x=\[0\.1\]", id="scalar"),
        pytest.param("tanh", TypeError, r"'x'.*'tanh'.*x=\['tanh'\]", id="string"),
        pytest.param(None, TypeError, r"'x'.*None", id="none"),
        pytest.param(np.float32(0.5), TypeError, "'x'.*list or an array", id="numpy_scalar"),
        pytest.param(np.ones((2, 3)), ValueError, r"'x'.*\(2, 3\).*flatten", id="two_dims"),
        pytest.param([[1.0], [2.0]], ValueError, r"'x'.*\(2, 1\).*flatten", id="nested"),
        pytest.param([0.1, 0.1], ValueError, "'x'.*distinct", id="duplicates"),
        pytest.param(["a", "b", "a"], ValueError, "'x'.*distinct", id="duplicate_strings"),
        pytest.param(jn.depths([2, 2]), ValueError, "'x'.*distinct", id="duplicate_depths"),
        pytest.param([0.1, float("nan")], ValueError, "'x'.*NaN", id="nan"),
        pytest.param([jnp.tanh], TypeError, "'x'.*sweep a name", id="functions"),
        pytest.param(
            jn.traced(["a"]), TypeError, r"'x'.*jn\.traced takes numbers", id="traced_str"
        ),
        pytest.param(jn.traced([True]), TypeError, r"'x'.*jn\.traced", id="traced_bool"),
        pytest.param([1j], TypeError, "'x'.*floats, ints", id="complex"),
    ],
)
def test_bad_axis_is_refused(values, error, words):
    with pytest.raises(error, match=words):
        jn.sweep(any_axes, x=values)


@pytest.mark.parametrize("values", [np.array(0.1), jnp.array(0.1), jn.traced(3)])
def test_scalar_array_as_axis_is_refused(values):
    with pytest.raises(TypeError, match=r"'x'.*list or an array"):
        jn.sweep(any_axes, x=values)


def test_floats_mixed_with_none_are_refused_with_the_reason():
    with pytest.raises(TypeError, match=r"'x'.*got both"):
        jn.sweep(any_axes, x=[1.0, None])


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        pytest.param([-1, 2], ValueError, "depths.*at least 1.*-1", id="negative"),
        pytest.param([0], ValueError, "depths.*at least 1.*0", id="zero"),
        pytest.param([], ValueError, "depths.*list of ints", id="empty"),
        pytest.param(3, ValueError, "depths.*list of ints.*3", id="scalar"),
        pytest.param([1.0, 2.0], TypeError, "depths.*ints", id="floats"),
        pytest.param(["3"], TypeError, "depths.*ints", id="strings"),
        pytest.param([[1, 2]], ValueError, "depths.*list of ints", id="nested"),
    ],
)
def test_bad_depths_are_refused(values, error, words):
    with pytest.raises(error, match=words):
        jn.depths(values)


# Axes that do not fit the run


def as_shape(key, *, width):
    return {"zeros": jnp.zeros(width).sum()}


def as_width(key, *, width):
    x = jnp.ones((1, 3))
    return {"y": jn.mlp(2, width, 2).init(key, x)["params"]["readout"]["bias"]}


def in_branch(key, *, width):
    return {"y": width if width > 2 else -width}


def as_loop(key, *, width):
    return {"y": sum(jnp.float32(n) for n in range(width))}


def as_index(key, *, width):
    return {"y": [1.0, 2.0, 3.0, 4.0][width]}


@pytest.mark.parametrize("run", [as_shape, in_branch, as_loop, as_index])
@pytest.mark.parametrize(
    "values", [jnp.array([2.0, 3.0]), jn.traced([2, 3])], ids=["floats", "traced_ints"]
)
def test_traced_value_that_must_be_static_is_refused_by_name(run, values):
    with pytest.raises(TypeError, match=r"axis 'width'.*traced.*shape.*give ints \(width=\["):
        jn.sweep(run, width=values)


def test_traced_width_of_a_network_is_refused():
    with pytest.raises(TypeError, match=r"axis 'width'.*give ints \(width=\["):
        jn.sweep(as_width, width=np.array([2.0, 3.0]))


def test_error_of_the_run_itself_passes_through():
    def broken(key, *, scale):
        raise TypeError("my own words")

    with pytest.raises(TypeError, match=r"^my own words"):
        jn.sweep(broken, scale=[1.0])


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        pytest.param({"scale": [1.0], "gain": [1.0]}, "'gain'.*takes no.*'scale'", id="unknown"),
        pytest.param({}, r"no axis for its argument 'scale'.*scale=\[", id="missing"),
    ],
)
def test_axes_of_another_run_are_refused(axes, words):
    with pytest.raises(TypeError, match=words):
        jn.sweep(square, **axes)


def test_run_without_a_key_is_refused():
    with pytest.raises(TypeError, match="function of a key"):
        jn.sweep(lambda: {"y": 1.0})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"num_seeds": 0}, "num_seeds.*at least 1.*0", id="no_seeds"),
        pytest.param({"num_seeds": 2.0}, "num_seeds.*an int.*2.0", id="float_seeds"),
        pytest.param({"tile_size": -1}, "tile_size.*at least 1.*-1", id="negative_tile"),
        pytest.param(
            {"tile_size": 0},
            "tile_size.*at least 1.*0",
            id="no_tile",
        ),
        pytest.param({"layout": "diagonal"}, "layout.*exact, masked.*'diagonal'", id="layout"),
    ],
)
def test_bad_option_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        jn.sweep(square, scale=[1.0], **options)


# What a run returns


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        pytest.param(None, "run: expected a dictionary.*NoneType", id="nothing"),
        pytest.param({}, "run: expected a dictionary", id="empty"),
        pytest.param(jnp.ones, "run: expected a dictionary", id="function"),
        pytest.param(np.ones(2), "run: expected a dictionary.*ndarray", id="array"),
        pytest.param({"y": "text"}, "output 'y' is no array but str", id="text"),
        pytest.param({"y": {"z": 1.0}}, "output 'y' is no array but dict", id="nested"),
        pytest.param({"y": object()}, "output 'y' is no array but object", id="object"),
        pytest.param(
            {"y": None},
            "output 'y' is no array but NoneType",
            id="none",
        ),
    ],
)
def test_run_that_returns_no_arrays_is_refused(outputs, words):
    with pytest.raises(TypeError, match=words):
        jn.sweep(lambda key, *, scale: outputs, scale=[1.0])


def test_run_that_returns_a_key_is_refused():
    with pytest.raises((TypeError, ValueError), match=r"output 'y'.*key"):
        jn.sweep(lambda key: {"y": key})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda width: {f"y{width}": 1.0}, r"same outputs.*'y2', 'y3'", id="names"),
        pytest.param(
            lambda width: {"y": jnp.zeros((1,) * width)}, r"output 'y': dims.*'y_1'", id="dims"
        ),
        pytest.param(
            lambda width: {"y": jn.Labelled(jnp.zeros(2), ("unit", "layer"))},
            r"output 'y': shape \(2,\) does not fit.*'unit', 'layer'",
            id="rank",
        ),
        pytest.param(
            lambda width: {"y": 1.0, "step": jn.Coordinate((0, width))},
            "coordinate 'step'.*begin the other's",
            id="coordinates",
        ),
    ],
)
def test_programs_that_disagree_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        jn.sweep(lambda key, *, width: make(width), width=[2, 3])


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param(lambda x: {"scale": x}, id="named_as_an_axis"),
        pytest.param(lambda x: {"seed": x}, id="named_seed"),
        pytest.param(
            lambda x: {
                "a": jn.Labelled(jnp.zeros(2), ("layer",)),
                "b": jn.Labelled(jnp.zeros(3), ("layer",)),
            },
            id="two_lengths_of_a_dim",
        ),
        pytest.param(
            lambda x: {
                "a": jn.Labelled(jnp.zeros(2), ("layer",)),
                "layer": jn.Coordinate((1, 2, 3)),
            },
            id="coordinate_of_another_length",
        ),
    ],
)
def test_outputs_that_make_no_dataset_are_refused(outputs):
    with pytest.raises((TypeError, ValueError), match=r"output|axis|coordinate"):
        jn.sweep(lambda key, *, scale: outputs(scale), scale=[1.0])


# Stores


def shifted(shift, *, length=3):
    """A run with what a store must notice hidden in its closure."""
    table = np.full(3, shift, np.float32)

    def run(key, *, scale):
        total, _ = jax.lax.scan(lambda c, _: (c + scale, None), jnp.zeros(()), length=length)
        return {"total": total + (table * scale).sum()}

    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "store"
    jn.sweep(shifted(1.0), scale=[1.0, 2.0], num_seeds=2, store=path)
    return path


def contents(path):
    """Every file below a path, with its bytes."""
    return {each: each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}


@pytest.mark.parametrize(
    ("run", "changes", "differs"),
    [
        pytest.param(shifted(1.0), {"scale": [1.0, 3.0]}, "axes", id="other_values"),
        pytest.param(shifted(1.0), {"scale": [1.0, 2.0, 3.0]}, "axes", id="more_values"),
        pytest.param(shifted(1.0), {"num_seeds": 3}, "num_seeds", id="other_num_seeds"),
        pytest.param(shifted(1.0), {"seed": 1}, "seed", id="other_seed"),
        pytest.param(shifted(1.0, length=4), {}, "computation", id="other_computation"),
        pytest.param(shifted(2.0), {}, "computation", id="other_data"),
    ],
)
def test_store_of_another_sweep_is_refused_and_kept(store, run, changes, differs):
    before = contents(store)
    arguments = {"scale": [1.0, 2.0], "num_seeds": 2, "store": store, **changes}
    with pytest.raises(ValueError, match=rf"another sweep.*differs in .*{differs}.*resume=False"):
        jn.sweep(run, **arguments)
    assert contents(store) == before


def test_store_made_with_other_data_inside_a_jitted_run_is_refused(monkeypatch, tmp_path):
    assert_refused(monkeypatch, tmp_path, lambda data: jax.jit(shifted(data)), {})


def test_store_whose_second_program_was_another_is_refused(monkeypatch, tmp_path):
    def made(shift):
        def run(key, *, scale, kind):
            return {"y": scale if kind == "plain" else scale + shift}

        return run

    assert_refused(monkeypatch, tmp_path, made, {"kind": ["plain", "shifted"]})


def assert_refused(monkeypatch, tmp_path, made, axes):
    """A store made with 1 is refused by the same sweep with 2; nothing is run to find out."""
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, "run_members", lambda *args: Driven())
        jn.sweep(made(1.0), scale=[1.0], **axes, store=tmp_path / "store")
        with pytest.raises(ValueError, match="another sweep"):
            jn.sweep(made(2.0), scale=[1.0], **axes, store=tmp_path / "store")


def some_text(path):
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


def other_dataset(path):
    xr.Dataset({"x": ("n", [1, 2])}).to_zarr(path, consolidated=False)


def lone_array(path):
    zarr.create_array(path, shape=(2,), dtype="f4")


def broken_group(path):
    path.mkdir()
    (path / "zarr.json").write_text("no json")


@pytest.mark.parametrize("resume", [True, False], ids=["resume", "afresh"])
@pytest.mark.parametrize("make", [some_text, other_dataset, lone_array, broken_group])
def test_foreign_directory_is_refused_and_kept(tmp_path, make, resume):
    make(tmp_path / "mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="store: expected a sweep's store or an empty directory"):
        jn.sweep(square, scale=[1.0], store=tmp_path / "mine", resume=resume)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("resume", [True, False], ids=["resume", "afresh"])
def test_store_that_is_a_file_is_refused_and_kept(tmp_path, resume):
    path = tmp_path / "results.csv"
    path.write_text("1,2,3")
    with pytest.raises(ValueError, match=re.escape(f"got the file {str(path)!r}; name another")):
        jn.sweep(square, scale=[1.0], store=path, resume=resume)
    assert path.read_text() == "1,2,3"


def test_foreign_directory_beside_the_store_is_kept(monkeypatch, tmp_path):
    some_text(tmp_path / "store.partial")
    monkeypatch.setattr(LOOP, "run_members", lambda *args: Driven())
    before = contents(tmp_path)
    jn.sweep(square, scale=[1.0], store=tmp_path / "store")
    assert before.items() <= contents(tmp_path).items()


def test_loading_no_store_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    some_text(tmp_path / "folder")
    for path in (tmp_path / "none", tmp_path / "file", tmp_path / "folder"):
        with pytest.raises(ValueError, match=f"store: expected.*{path.name}"):
            jn.load(path)
