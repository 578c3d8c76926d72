"""Laws of search against draws and counting; the table of Hyperband against the published one."""

import math

import numpy as np
import pytest

from jaxnn.theory import search

pytestmark = pytest.mark.usefixtures("double_precision")


def test_random_search_hits_as_often_as_drawn():
    rng, repeats = np.random.default_rng(0), 20_000
    for num_trials, fraction in ((60, 0.05), (5, 0.3)):
        hits = np.any(rng.random((repeats, num_trials)) < fraction, axis=1).mean()
        expected = search.random_success(num_trials, fraction)
        assert abs(hits - expected) < 4 * math.sqrt(expected * (1 - expected) / repeats)
    np.testing.assert_allclose(search.random_success(60, 0.05), 0.9539, atol=5e-5)


@pytest.mark.parametrize(("success", "fraction"), [(0.95, 0.05), (0.5, 0.5), (0.99, 0.001)])
def test_trials_are_the_fewest_that_suffice(success, fraction):
    num = search.trials_for(success, fraction)
    assert 1 - (1 - fraction) ** num >= success > 1 - (1 - fraction) ** (num - 1)


@pytest.mark.parametrize(("success", "fraction"), [(1.0, 0.1), (0.9, 0.0)])
def test_certainty_is_refused(success, fraction):
    with pytest.raises(ValueError, match="expected a probability between 0 and 1"):
        search.trials_for(success, fraction)


def test_grid_hits_as_often_as_its_offsets():
    num_values, widths = 5, np.array([0.13, 0.07])
    offsets = (np.arange(1000) + 0.5) / 1000 / num_values  # of the first value, every one
    values = offsets[:, None] + np.arange(num_values) / num_values
    hit = [np.any((values > 0.4) & (values < 0.4 + width), axis=1).mean() for width in widths]
    found = search.grid_success(num_values, widths)
    np.testing.assert_allclose(found, np.prod(hit), rtol=0.01)  # of a thousand offsets
    np.testing.assert_allclose(search.grid_success(10, np.array([0.2, 0.05])), 0.5, rtol=1e-14)


def test_hyperband_has_both_published_tables():
    rounded = search.hyperband(81)
    assert [[tuple(rung) for rung in bracket] for bracket in rounded] == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]
    truncated = search.hyperband(81, truncated=True)
    assert [bracket[0].num_members for bracket in truncated] == [81, 27, 9, 6, 5]


@pytest.mark.parametrize(
    ("max_resource", "reduction", "brackets"), [(243, 3, 6), (242, 3, 5), (1, 2, 1), (1000, 10, 4)]
)
def test_hyperband_counts_brackets_in_integers(max_resource, reduction, brackets):
    table = search.hyperband(max_resource, reduction)
    assert len(table) == brackets  # floor(log 243 / log 3) is 4 in floats, and one bracket less
    assert all(bracket[-1].resource == max_resource for bracket in table)
    assert all(bracket[0].resource >= 1 for bracket in table)


@pytest.mark.parametrize(("arguments", "name"), [((0, 3), "max_resource"), ((81, 1), "reduction")])
def test_hyperband_refuses_what_has_no_brackets(arguments, name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        search.hyperband(*arguments)
