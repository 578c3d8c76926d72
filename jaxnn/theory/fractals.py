"""Box counting: the dimension of the boundary between two regions of a sampled map.

For two regions of a plane told apart at the points of a square grid. Not for clouds of points. A
grid of `n + 1` by `n + 1` points has `n` by `n` cells, and a cell belongs to the boundary where its
four corners disagree. Boxes of `s` by `s` cells share their edges, so a line along the grid meets
exactly `n / s` boxes of each size, and its dimension is 1 without a bias. What is finer than a cell
is missed, which lowers a dimension. Numpy suffices, as maps are looked at once they are made.
"""

import numpy as np


def boundary_cells(labels: np.ndarray) -> np.ndarray:
    """Find the cells of a grid whose corners are not all in the same region.

    Args:
        labels: `[..., n + 1, m + 1]` bool, the region of each point.

    Returns:
        `[..., n, m]` bool, True where the boundary passes.

    Example:
        >>> boundary_cells(np.array([[True, True, False], [True, True, False]])).tolist()
        [[False, True]]
    """
    corners = _corners(np.asarray(labels, bool))
    return np.any(corners, axis=0) & ~np.all(corners, axis=0)


def boundary_points(labels: np.ndarray) -> np.ndarray:
    """Find the points of a grid that are corners of a boundary cell.

    Args:
        labels: `[..., n + 1, m + 1]` bool, the region of each point.

    Returns:
        `[..., n + 1, m + 1]` bool, True at the boundary.

    Example:
        >>> boundary_points(np.array([[True, True, False], [True, True, False]])).tolist()
        [[False, True, True], [False, True, True]]
    """
    cells = boundary_cells(labels)
    around = np.pad(cells, [(0, 0)] * (cells.ndim - 2) + [(1, 1), (1, 1)])
    return np.any(_corners(around), axis=0)


def box_counts(cells: np.ndarray, num_sizes: int) -> np.ndarray:
    """Count the boxes that hold a boundary cell, for boxes 1, 2, 4, ... cells wide.

    Args:
        cells: `[..., n, n]` bool; n is divisible by the largest box.
        num_sizes: how many sizes, `2**0` to `2**(num_sizes - 1)`.

    Returns:
        `[..., num_sizes]` the number of boxes `N(s)`.

    Raises:
        ValueError: boxes of the largest size do not tile the map.

    Example:
        >>> box_counts(np.eye(8, dtype=bool), 3).tolist()
        [8, 4, 2]
    """
    cells, largest = np.asarray(cells, bool), 2 ** (num_sizes - 1)
    if num_sizes < 1 or any(side % largest for side in cells.shape[-2:]):
        raise ValueError(
            f"num_sizes: expected at least 1, and boxes that tile {cells.shape[-2:]} cells; "
            f"got {num_sizes}, the largest boxes {largest} cells wide"
        )
    counts = [cells.sum((-2, -1))]
    for _ in range(num_sizes - 1):
        *batch, rows, columns = cells.shape
        fours = cells.reshape(*batch, rows // 2, 2, columns // 2, 2)
        cells = np.any(fours, axis=(-3, -1))
        counts.append(cells.sum((-2, -1)))
    return np.stack(counts, axis=-1)


def box_dimension(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the box-counting dimension `D` of `N(s) ~ s^-D` to counts of boxes.

    The least-squares slope of `log2 N` over `-log2 s`. Its standard error is the regression's, and
    knows only how far from a power law the counts are: counts of nested boxes are not independent.
    Where there are several maps, their spread is the honest error.

    Args:
        counts: `[..., size]` of boxes 1, 2, 4, ... cells wide, three sizes or more.

    Returns:
        `(dimension, standard error)`, each `[...]`; NaN where a map has no boundary.

    Source: Falconer, 2003, Fractal Geometry, section 3.1; McDonald et al., 1985, Fractal basin
        boundaries, for boundaries between regions.

    Example:
        >>> dimension, error = box_dimension(np.array([27, 9, 3]))  # Sierpinski: log2(3)
        >>> print(dimension.round(4), error.round(4))
        1.585 0.0
    """
    counts = np.asarray(counts, float)
    logs = np.log2(np.where(counts > 0, counts, np.nan))
    fineness = -np.arange(counts.shape[-1], dtype=float)
    centred = fineness - fineness.mean()
    slope = logs @ centred / (centred @ centred)
    residual = logs - logs.mean(-1, keepdims=True) - slope[..., None] * centred
    freedom = counts.shape[-1] - 2
    return slope, np.sqrt((residual**2).sum(-1) / freedom / (centred @ centred))


def _corners(values: np.ndarray) -> list[np.ndarray]:
    """Return the four values around each cell, `[..., n, m]` each."""
    ends = (slice(None, -1), slice(1, None))
    return [values[..., row, column] for row in ends for column in ends]
