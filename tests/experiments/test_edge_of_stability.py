"""The edge of stability: the methods' rates, and the claims on made-up trainings that must fail."""

import numpy as np
import pytest
import xarray as xr

from experiments import edge_of_stability as study

METHODS = study.METHODS
CLAIMS = {claim.statement: claim for claim in study.CLAIMS}


def holds(part, ds):
    (found,) = [claim for statement, claim in CLAIMS.items() if part in statement]
    return found.check(ds).holds


@pytest.fixture
def ds():
    """Flow from sharpness 2 to 8 in time 80; methods follow it to the limit and stay there."""
    time, step = np.linspace(0.0, 400.0, 201), np.arange(0, 401, 5)
    limits, seeds = np.array([4.0, 16.0]), np.array([0, 1])
    flow = np.minimum(2.0 + 6.0 * time / 80.0, 8.0)
    followed = [np.minimum(np.interp(2 / limit * step, time, flow), limit) for limit in limits]
    sharpness = np.broadcast_to(np.array(followed)[None, :, None], (3, 2, 2, step.size))
    loss = np.exp(-step / 50.0) * np.where(limits[:, None] < 8.0, 1.0 + 0.3 * (step % 10 > 0), 1.0)
    dims = ("optimizer", "limit", "seed", "step")
    return xr.Dataset(
        {
            "sharpness": (dims, sharpness.copy()),
            "loss": (dims, np.broadcast_to(loss[None, :, None], sharpness.shape).copy()),
            "flow_sharpness": (("seed", "time"), np.stack([flow, flow])),
            "growth": (("optimizer", "ratio"), np.tile([0.9, 1.1], (3, 1))),
        },
        {
            "optimizer": list(METHODS),
            "limit": limits,
            "seed": seeds,
            "step": step,
            "time": time,
            "ratio": [1 - study.CLOSE, 1 + study.CLOSE],
        },
        {"num_examples": 100},
    )


@pytest.mark.parametrize("method", range(3), ids=METHODS)
def test_methods_step_as_their_recursions_say(method):
    """On `curvature / 2 w^2`, in numpy; the rate puts the limit of stability at 7."""
    b, curvature = 0.5, 6.0
    rate = {0: 2.0, 1: 3.0, 2: 1.5}[method] / 7.0  # 2, 2 + 2b and (2 + 2b) / (1 + 2b), over 7
    weight, total, weights = 1.0, 0.0, []
    for _ in range(20):
        gradient = curvature * weight
        total = gradient + (b if method else 0.0) * total
        weight -= rate * (gradient + b * total if method == 2 else total)
        weights.append(weight)
    found = study.growth(study.descent(method, 7.0, b), np.float32(curvature), num_steps=20)
    # float32: 20 steps, each with a few roundings of 6e-8, some cancelling in a factor of ten
    assert float(found) == pytest.approx(abs(weights[19] / weights[9]), rel=1e-4)


def test_every_claim_holds_on_ideal_trainings(ds):
    assert [claim.statement for claim in study.CLAIMS if not claim.check(ds).holds] == []


@pytest.mark.parametrize("method", METHODS)
def test_one_network_off_the_edge_fails_its_method(ds, method):
    off = ds["sharpness"].copy()
    off.loc[{"optimizer": method, "limit": 4.0, "seed": 1}] *= 0.8
    bad = ds.assign(sharpness=off)
    failed = {each: not holds(f"At the edge, {each}", bad) for each in METHODS}
    assert failed == {each: each == method for each in METHODS}


def test_a_network_that_diverged_is_off_the_edge(ds):
    off = ds["sharpness"].copy()
    off.loc[{"optimizer": study.NESTEROV, "limit": 4.0, "seed": 0}] = np.nan
    assert not holds(f"At the edge, {study.NESTEROV}", ds.assign(sharpness=off))


def test_a_control_above_the_limit_fails(ds):
    off = ds["sharpness"].copy()
    off.loc[{"optimizer": study.HEAVY_BALL, "limit": 16.0, "seed": 0, "step": 5}] = 16.5
    assert not holds("Controls, whose flow", ds.assign(sharpness=off))


def test_descent_off_the_flow_or_never_leaving_it_fails(ds):
    assert not holds("follows the flow", ds.assign(sharpness=ds["sharpness"] * 0.85))
    assert not holds("leaves the flow", ds.assign(sharpness=ds["sharpness"] * 2.0))


def test_losses_that_fall_evenly_rise_or_stay_fail(ds):
    even = np.exp(-ds["step"] / 50.0).broadcast_like(ds["loss"])
    assert not holds("the loss rises", ds.assign(loss=even))
    assert not holds("loss never rises", ds.assign(loss=even + (ds["step"] == 200)))
    assert not holds("Yet it falls", ds.assign(loss=even * 0 + 1.0))


def test_flow_that_does_not_sharpen_and_a_wrong_side_fail(ds):
    flat = ds.assign(flow_sharpness=ds["flow_sharpness"] * 0 + 3.0)
    assert not holds("Progressive", flat)
    assert not holds("Quadratics", ds.assign(growth=ds["growth"] * 0 + 1.1))


def test_figure_draws_and_labels(ds):
    fig = study.figure(ds)
    assert len(fig.axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in fig.axes)
    fig.draw_without_rendering()


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("edge_of_stability") == []
