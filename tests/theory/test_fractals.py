"""Box counting on sets of known dimension, and the cells of a boundary against a loop."""

import math

import numpy as np
import pytest
import scipy.stats
from matplotlib.path import Path

from jaxnn.theory import fractals


def sierpinski_triangle(num_levels):
    """Pascal's triangle modulo 2: 3 of the 4 quarters of a box are like the box, the last empty."""
    row, column = np.indices((2**num_levels,) * 2)
    return row & column == 0


def koch_island(x, y):
    """Inside of a unit square whose sides are the quadratic Koch curve, pieces down to 1/64."""
    sides = np.array([1.0, -1j, -1.0, 1j])
    for _ in range(3):
        pieces = np.array([1, 1j, 1, -1j, -1j, 1, 1j, 1]) / 4  # 8 of a quarter: D = log 8 / log 4
        sides = (sides[:, None] * pieces).ravel()
    corners = np.cumsum(sides)
    outline = Path(np.column_stack([corners.real, corners.imag]))
    x, y = np.meshgrid(x, y)
    return outline.contains_points(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)


def line(slope, num_cells=64):
    x, y = np.indices((num_cells + 1,) * 2)
    return y - 0.3 < slope * x


def dimension(cells, num_sizes):
    return fractals.box_dimension(fractals.box_counts(cells, num_sizes))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        pytest.param(np.ones((64, 64), bool), 2.0, id="square"),
        pytest.param(np.eye(64, dtype=bool), 1.0, id="diagonal"),
        pytest.param(sierpinski_triangle(6), math.log2(3.0), id="Sierpinski triangle"),
        pytest.param(fractals.boundary_cells(line(0.0)), 1.0, id="boundary along the cells"),
    ],
)
def test_dimension_of_sets_aligned_with_the_boxes_is_exact(cells, expected):
    found, error = dimension(cells, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(error, 0.0, atol=1e-12)


@pytest.mark.parametrize("slope", [0.01, 0.3, 0.5, 1.0, 1.7, 30.0])
def test_dimension_of_a_line_is_1_within_a_box(slope):
    found, _ = dimension(fractals.boundary_cells(line(slope)), 4)
    # A line meets its columns and its rows of boxes, less 1, and at most 1 more for each where it
    # starts within a box. The largest of 4 sizes has at least 8 boxes on it, and 0.3 of the
    # slope's weight, the next 16 and 0.1: 0.3 log2(9/8) + 0.1 log2(17/16) = 0.06.
    np.testing.assert_allclose(found, 1.0, atol=0.06)


def test_dimension_of_a_circle_is_1():
    x, y = np.indices((257, 257)) - 128.3
    found, _ = dimension(fractals.boundary_cells(x**2 + y**2 < 100.0**2), 6)
    # four arcs, so 4 boxes more or less of 4 * 200 / 32 = 25 at the largest size, which has
    # 5/35 of the weight, and half of that relative error at the next, with 3/35
    np.testing.assert_allclose(found, 1.0, atol=5 / 35 * math.log2(29 / 25) + 3 / 35 * 0.11)


def test_dimension_of_the_koch_island_is_one_and_a_half():
    labels = koch_island(np.linspace(-0.61, 1.63, 257), np.linspace(-1.61, 0.63, 257))
    counts = fractals.box_counts(fractals.boundary_cells(labels), 7)
    found, _ = fractals.box_dimension(counts[2:])
    # Boxes of 4 to 64 cells, between the smallest pieces, 1.8 cells, and the square's side of 114.
    # Where the boxes lie matters most for the 12 largest, which have 0.2 of the slope's weight:
    # 3 boxes of them are 0.2 log2(15/12) = 0.06.
    np.testing.assert_allclose(found, 1.5, atol=0.06)


def test_boundary_cells_equal_a_loop():
    labels = np.random.default_rng(0).random((3, 6, 5)) < 0.5
    found = fractals.boundary_cells(labels)
    points = fractals.boundary_points(labels)
    touched = np.zeros_like(labels)
    for n, i, j in np.ndindex(3, 5, 4):
        corners = labels[n, i : i + 2, j : j + 2]
        assert found[n, i, j] == (corners.min() != corners.max())
        touched[n, i : i + 2, j : j + 2] |= found[n, i, j]
    np.testing.assert_array_equal(points, touched)


def test_box_counts_equal_a_loop_and_take_a_batch():
    cells = np.random.default_rng(0).random((2, 3, 16, 16)) < 0.02
    found = fractals.box_counts(cells, 4)
    assert found.shape == (2, 3, 4)
    for n, m, k in np.ndindex(2, 3, 4):
        size = 2**k
        starts = range(0, 16, size)
        boxes = [cells[n, m, i : i + size, j : j + size] for i in starts for j in starts]
        assert found[n, m, k] == sum(box.any() for box in boxes)


def test_dimension_and_its_error_are_the_regressions():
    counts = np.array([900, 310, 130, 41, 16])
    fit = scipy.stats.linregress(-np.arange(5.0), np.log2(counts))
    found = fractals.box_dimension(counts)
    np.testing.assert_allclose(found, (fit.slope, fit.stderr), rtol=1e-12)


def test_dimension_without_a_boundary_is_nan():
    found, _ = fractals.box_dimension(np.array([[8, 4, 2], [0, 0, 0]]))
    np.testing.assert_array_equal(found, [1.0, np.nan])


@pytest.mark.parametrize("num_sizes", [0, 5])
def test_boxes_that_do_not_tile_the_map_are_refused(num_sizes):
    with pytest.raises(ValueError, match=r"num_sizes: expected at least 1, .* tile"):
        fractals.box_counts(np.ones((24, 24), bool), num_sizes)
