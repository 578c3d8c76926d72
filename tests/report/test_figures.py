"""Figures carry names and units, put cells where they belong, and are the same bytes each time."""

import sys

import numpy as np
import pytest
import xarray as xr

from jaxnn.report import figures

UNITS = {"long_name": "learning rate", "units": "1/step"}


def grid_data():
    values = np.arange(12.0).reshape(3, 4) + 1
    values[1, 2] = np.nan
    coords = {"gain": [1.0, 2.0, 4.0], "learning_rate": ("learning_rate", [0.1, 1, 10, 100], UNITS)}
    attrs = {"long_name": "gradient RMS", "units": "nat"}
    return xr.DataArray(values, coords, ("gain", "learning_rate"), "grad_rms", attrs)


def draw():
    fig, (left, right) = figures.new_figure(1, 2)
    figures.heatmap(left, grid_data(), x="learning_rate", y="gain", log_x=True)
    figures.profiles(right, grid_data(), x="learning_rate", hue="gain")
    return fig


@pytest.mark.parametrize(
    ("name", "attrs", "label"),
    [
        ("grad_rms", {}, "grad rms"),
        ("grad_rms", {"long_name": "gradient RMS", "units": "1"}, "gradient RMS"),
        ("grad_rms", {"long_name": "gradient RMS", "units": "nat"}, "gradient RMS [nat]"),
        (None, {}, ""),
    ],
)
def test_axis_label_has_name_and_unit(name, attrs, label):
    assert figures.axis_label(xr.DataArray(0.0, name=name, attrs=attrs)) == label


def test_axis_label_takes_another_name():
    array = xr.DataArray(0.0, attrs={"long_name": "loss", "units": "nat"})
    assert figures.axis_label(array, "median loss") == "median loss [nat]"


def test_heatmap_labels_both_axes_and_the_colour_bar():
    fig = draw()
    left, right, bar = fig.axes
    assert left.get_xlabel() == right.get_xlabel() == "learning rate [1/step]"
    assert left.get_ylabel() == "gain"
    assert bar.get_ylabel() == right.get_ylabel() == "gradient RMS [nat]"
    sizes = [text.get_fontsize() for ax in fig.axes for text in ax.get_xticklabels()]
    assert min(sizes) >= 10
    assert bar.yaxis.label.get_fontsize() >= 10


def test_heatmap_cells_meet_halfway_on_uneven_coordinates():
    _, ax = figures.new_figure()
    shuffled = grid_data().isel(gain=[2, 0, 1])
    mesh = figures.heatmap(ax, shuffled, x="learning_rate", y="gain", log_x=True, vmin=0, vmax=9)
    corners = np.asarray(mesh.get_coordinates())
    np.testing.assert_allclose(corners[0, :, 0], 10.0 ** np.arange(-1.5, 3), rtol=1e-12)
    np.testing.assert_allclose(corners[:, 0, 1], [0.5, 1.5, 3.0, 5.0], rtol=1e-12)
    cells = np.ma.asarray(mesh.get_array()).reshape(3, 4)
    np.testing.assert_array_equal(cells.filled(-1), grid_data().fillna(-1))
    assert mesh.get_clim() == (0, 9)


def test_heatmap_takes_text_and_single_coordinates():
    _, ax = figures.new_figure()
    data = xr.DataArray([[1.0], [2.0]], {"activation": ["relu", "tanh"], "depth": [8]})
    data = data.rename(dim_0="activation", dim_1="depth") if "dim_0" in data.dims else data
    figures.heatmap(ax, data, x="depth", y="activation", label="loss", log_x=True, log_color=True)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["relu", "tanh"]


@pytest.mark.parametrize("drawing", ["heatmap", "profiles"])
def test_other_dimensions_are_refused_with_the_fix(drawing):
    _, ax = figures.new_figure()
    data = grid_data().expand_dims(seed=2)
    words = {"x": "learning_rate", ("y" if drawing == "heatmap" else "hue"): "gain"}
    with pytest.raises(ValueError, match=f"{drawing}.*seed.*average"):
        getattr(figures, drawing)(ax, data, **words)


def test_log_axis_refuses_what_is_not_positive():
    _, ax = figures.new_figure()
    data = grid_data().assign_coords(gain=[0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"gain from 0"):
        figures.heatmap(ax, data, x="gain", y="learning_rate", log_x=True)


def test_profiles_names_few_lines_and_draws_all():
    _, ax = figures.new_figure()
    values = np.exp(-np.outer(np.arange(1, 21), np.arange(5)))
    data = xr.DataArray(values, {"depth": np.arange(1, 21)}, ("depth", "layer"), "grad_rms")
    figures.profiles(ax, data, hue="depth", label="gradient")
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(ax.lines) == 20
    assert len(names) == figures.MAX_LEGEND
    assert names[0] == "1"
    assert names[-1] == "20"
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "gradient"
    assert ax.get_legend().get_title().get_text() == "depth"


def test_profiles_without_hue_draws_one_line():
    _, ax = figures.new_figure()
    figures.profiles(ax, xr.DataArray([1.0, 2.0], dims="layer", name="act_var"), log_y=False)
    assert len(ax.lines) == 1
    assert ax.get_yscale() == "linear"


def test_save_writes_the_same_bytes_each_time(tmp_path):
    first = [path.read_bytes() for path in figures.save(draw(), tmp_path / "first")]
    fig = draw()
    figures.save(fig, tmp_path / "second")
    again = [path.read_bytes() for path in figures.save(fig, tmp_path / "second")]
    assert first == again
    assert first[0].startswith(b"\x89PNG")
    assert b"<dc:date>" not in first[1]


def test_figures_leave_no_global_state():
    draw()
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def spread_data():
    values = np.array([[1.0, 2.0], [3.0, 2.0], [8.0, 2.0]])
    return xr.DataArray(values, {"step": [0, 10]}, ("seed", "step"), "loss")


@pytest.mark.parametrize(
    ("show", "text", "low", "centre", "high"),
    [
        ("mean", "mean ± s.e. of 3 seeds", 4.0 - (13 / 3) ** 0.5, 4.0, 4.0 + (13 / 3) ** 0.5),
        ("median", "median, quartiles of 3 seeds", 2.0, 3.0, 5.5),
        ("range", "median, range of 3 seeds", 1.0, 3.0, 8.0),
    ],
)
def test_over_seeds_draws_the_centre_and_the_spread(show, text, low, centre, high):
    _, ax = figures.new_figure()
    assert figures.over_seeds(ax, spread_data(), x="step", show=show) == text
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [centre, 2.0])
    corners = ax.collections[0].get_paths()[0].vertices
    at_start = corners[corners[:, 0] == 0.0][:, 1]
    np.testing.assert_allclose([at_start.min(), at_start.max()], [low, high])


def test_over_seeds_draws_bars():
    _, ax = figures.new_figure()
    figures.over_seeds(ax, spread_data(), x="step", show="range", bars=True)
    (bars,) = ax.collections
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [1.0, 8.0])


def test_over_seeds_of_one_seed_says_so():
    _, ax = figures.new_figure()
    assert figures.over_seeds(ax, spread_data().isel(seed=[0]), x="step") == "one seed"


def test_over_seeds_refuses_other_dims_and_other_spreads():
    _, ax = figures.new_figure()
    with pytest.raises(ValueError, match="over_seeds: expected an array over"):
        figures.over_seeds(ax, spread_data().isel(seed=0), x="step")
    with pytest.raises(ValueError, match="show must be one of"):
        figures.over_seeds(ax, spread_data(), x="step", show="mode")


def test_plain_ticks_are_the_only_ones():
    _, ax = figures.new_figure()
    ax.set(xscale="log", xlim=(1, 100))
    figures.plain_ticks(ax.xaxis, [2, 50])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "50"]
    assert len(ax.get_xticks(minor=True)) == 0


def test_write_cells_puts_each_text_in_its_cell():
    _, ax = figures.new_figure()
    figures.write_cells(ax, np.array([["a", "b"], ["c", "d"]]))
    written = {text.get_text(): text.get_position() for text in ax.texts}
    assert written == {"a": (0, 0), "b": (1, 0), "c": (0, 1), "d": (1, 1)}
