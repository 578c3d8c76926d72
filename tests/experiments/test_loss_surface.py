"""The loss surface study: its claims on data with known answers, its runs on small inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import loss_surface
from jaxnn import report
from jaxnn.theory import linear_nets

SIZES, CLASSES = np.array([8.0, 128.0, np.inf]), np.array([2, 6])
LOWEST = -0.3


def points():
    """A minimum of loss 1, a saddle of loss 2 (number 1)."""
    arrays = {"loss": [1.0, 2.0], "expected_loss": [1.0, 2.0], "lowest": [0.0, LOWEST]}
    arrays |= {"index": [0, 1], "expected_index": [0, 1]}
    return xr.Dataset({k: (("point", "seed"), np.array(v)[:, None]) for k, v in arrays.items()})


def descent():
    """Escapes at steps as the law has them, and a start that is never left."""
    slope = 0.5 / np.log1p(-loss_surface.RATE * LOWEST)
    steps = np.arange(400)
    jitter = np.array([1, -1, 1])[:, None] * np.array([-4, -1, 1, 4])
    first = 60 + slope * np.log(SIZES / 8.0)[:, None] + jitter
    loss = np.where(steps < first[..., None], 2.0, 1.0)
    dims = ("size", "seed", "step")
    return xr.Dataset({"loss": (dims, loss)}, {"size": SIZES, "step": steps})


def classes():
    """Eigenvalues with a gap after C - 1, and a loss that falls all the way."""
    values = np.ones((2, 1, 3, 21)) * 0.9 ** np.arange(21)
    for number, count in enumerate(CLASSES):
        values[number, ..., : count - 1] *= 3.0
    way = np.broadcast_to(2.0 - loss_surface.FRACTIONS, (2, 1, 3, 25))
    dims = ("classes", "rate", "seed")
    arrays = {
        "top_eigenvalues": ((*dims, "eigenvalue"), values),
        "way": ((*dims, "fraction"), way),
    }
    return xr.Dataset(arrays, {"classes": CLASSES, "rate": [0.1]})


def slices():
    ratio = np.array([0.4, 0.1])[:, None, None] * np.ones((2, 3, 5))
    plane = 1.0 + np.add.outer(loss_surface.OFFSETS**2, loss_surface.OFFSETS**2)
    dims = ("skip", "seed")
    arrays = {
        "non_convexity": ((*dims, "place"), ratio),
        "loss_slice": ((*dims, "offset", "other_offset"), np.broadcast_to(plane, (2, 3, 17, 17))),
    }
    return xr.Dataset(arrays, {"skip": [0.0, 1.0]})


@pytest.fixture(scope="module")
def ds():
    parts = {"points": points(), "descent": descent(), "classes": classes(), "slices": slices()}
    found = report.gather(parts, saddle=1, depth=24)
    return found.assign_coords(points_point=[0, 1])


def verdicts(ds):
    return [verdict.holds for verdict in report.judge(loss_surface.CLAIMS, ds)]


def test_claims_hold_where_the_answers_are_those_of_theory(ds):
    found = report.judge(loss_surface.CLAIMS, ds)
    assert [(each.claim.statement, each.error) for each in found if not each.holds] == []


@pytest.mark.parametrize(
    ("name", "change", "failing"),
    [
        ("points_loss", lambda x: 1.001 * x, [0]),
        ("points_index", lambda x: x + 1, [0]),
        ("points_lowest", lambda x: 2.0 * x, [1]),
        ("descent_loss", lambda x: x.where(x["descent_step"] < 50, 1.0), [1, 2]),
        ("classes_top_eigenvalues", lambda x: x.shift(classes_eigenvalue=2, fill_value=9.0), [3]),
        ("slices_non_convexity", lambda x: x**0.2, [4]),
        ("classes_way", lambda x: x.where(x["classes_fraction"] != 20, 1.5), [5]),
        ("classes_way", lambda x: 4.0 - x, [5]),
    ],
)
def test_claims_fail_where_the_answers_are_wrong(ds, name, change, failing):
    numbered = {dim: np.arange(ds.sizes[dim]) for dim in ("classes_fraction",)}
    wrong = ds.assign_coords(numbered)
    wrong = wrong.assign({name: change(wrong[name])})
    assert [number for number, holds in enumerate(verdicts(wrong)) if not holds] == failing


def test_a_saddle_that_is_not_left_fails_both_claims_of_escape(ds):
    wrong = ds.assign(descent_loss=0.0 * ds["descent_loss"] + 2.0)
    assert verdicts(wrong)[1:3] == [False, False]


def test_critical_point_and_descent_on_diagonal_data():
    """The minimum of an autoencoder with one unit keeps the first of two directions."""
    x = jnp.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # variances 2 and 1/2
    known = linear_nets.autoencoder_critical_points(np.array([2.0, 0.5]), 1)
    axes = np.eye(2, dtype=np.float32)
    encoders = [linear_nets.autoencoder_weights(axes, each, 1)[0] for each in known.kept]
    start = jnp.asarray([[each, each] for each in encoders])

    @jax.jit
    def run():
        given = {"x": x, "points": start, "known": known}
        each = [loss_surface.critical_point(None, **given, point=number) for number in range(3)]
        full = loss_surface.descend(jax.random.key(0), x=x, start=start[2], size=jnp.inf)
        return each, full["loss"].values

    found, losses = run()
    np.testing.assert_allclose([float(each["loss"].values) for each in found], [1.25, 0.25, 1.0])
    assert [int(each["index"].values) for each in found] == [2, 0, 1]
    np.testing.assert_allclose(losses, 1.0, rtol=1e-6)  # full batches stay on the saddle


def test_figure_draws_labelled_panels(ds):
    fig = loss_surface.figure(ds)
    panels = [ax for ax in fig.axes if ax.get_title()]
    assert len(panels) == 6
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in panels)


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("loss_surface") == []
