"""The grokking study: its measures against plain numpy, its claims on curves made up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import grokking
from jaxnn import report
from jaxnn.probes import Flow
from jaxnn.theory import memorisation

STEPS = np.arange(0, 1001, 10)


def curve(at):
    """Accuracy 0 up to a step, 1 from it on."""
    return (at <= STEPS).astype(float)


def made_up(steps_of, digits_at=200):
    """A dataset whose members memorise at step 20 and generalise at `steps_of(f, d, g)`."""
    axes = {"fraction": [0.4, 0.6], "decay": [0.0, 1.0], "gain": [1.0, 4.0], "seed": [0, 1]}
    grid = np.array(np.meshgrid(*axes.values(), indexing="ij")).reshape(4, -1).T
    shape = (2, 2, 2, 2, STEPS.size)
    dims = (*axes, "step")
    held_out = np.stack([curve(steps_of(*each[:3])) for each in grid]).reshape(shape)
    expected, _ = grokking.random_share(23)
    share = np.where(held_out > 0, 3.0 * expected, expected)
    share[..., 0] = expected
    digits = np.broadcast_to(np.where(digits_at <= STEPS, 0.9, 0.15), (2, 2, 2, STEPS.size)).copy()
    digits[0], digits[:, 0] = 0.15, 0.9
    memorised = np.broadcast_to(curve(20), digits.shape)
    digits_dims = ("decay", "gain", "seed", "step")
    sums = {"accuracy": np.broadcast_to(curve(20), shape), "validation_accuracy": held_out}
    sums = {name: (dims, each) for name, each in {**sums, "fourier_share": share}.items()}
    images = {"accuracy": memorised, "validation_accuracy": digits}
    images = {name: (digits_dims, each) for name, each in images.items()}
    digits_axes = {"decay": [0.0, 0.2], "gain": [1.0, 4.0], "seed": [0, 1], "step": STEPS}
    parts = {
        "sums": xr.Dataset(sums, {**axes, "step": STEPS}),
        "digits": xr.Dataset(images, digits_axes),
        "form": xr.Dataset({"accuracy": ("seed", [1.0, 1.0])}),
    }
    return report.gather(parts, modulus=23, width=16, num_digits=200)


def grokks(fraction, decay, gain):
    return np.inf if fraction < 0.5 or decay == 0 else 100 * gain


def verdicts(ds):
    return [claim.check(ds).holds for claim in grokking.CLAIMS]


def test_claims_hold_where_networks_grok():
    assert verdicts(made_up(grokks)) == [True] * 13


@pytest.mark.parametrize(
    ("steps_of", "failing"),
    [
        (lambda *_: 20, [1, 2, 4, 5, 6, 8]),  # generalises with the memory, whatever is varied
        (lambda *_: np.inf, [2, 3, 4, 5, 6, 8]),  # never generalises
        (lambda f, d, g: 100.0 * g, [4, 5, 8]),  # decay and data do nothing
        (lambda f, d, g: 100.0 / d if d else np.inf, [5, 6]),
    ],
    ids=["at once", "never", "only gain", "only decay"],
)
def test_claims_fail_where_networks_do_not(steps_of, failing):
    found = verdicts(made_up(steps_of))
    assert [place for place, holds in enumerate(found) if not holds] == failing


def test_claims_about_digits_fail_where_these_generalise_at_once():
    found = verdicts(made_up(grokks, digits_at=0))
    assert [place for place, holds in enumerate(found) if not holds] == [10]


def test_ratio_counts_the_budget_for_what_never_came_and_drops_pairs_without_either():
    found = grokking.CLAIMS[4].check(made_up(grokks))
    assert (found.value, found.standard_error, found.holds) == (6.25, 0.0, True)  # of 10 and 2.5


def test_claim_about_the_closed_form_fails_where_one_sum_in_a_hundred_is_wrong():
    found = verdicts(made_up(grokks).assign(form_accuracy=("form_seed", [1.0, 0.98])))
    assert [place for place, holds in enumerate(found) if not holds] == [9]


def test_random_share_is_that_of_gaussian_weights():
    """A mean over 40,000 columns, whose error is the theory's own; the spread to 10%."""
    generator = np.random.default_rng(0)
    power = np.abs(np.fft.rfft(generator.standard_normal((500, 23, 80)), axis=1)[:, 1:]) ** 2
    shares = power.max(axis=1).sum(axis=1) / power.sum(axis=(1, 2))  # of 40 units, 80 columns
    mean, deviation = grokking.random_share(23, 40)
    assert abs(shares.mean() - mean) < 4 * deviation / 500**0.5
    assert shares.std() == pytest.approx(deviation, rel=0.1)  # 3 standard errors of a spread of 500


def test_fourier_share_tells_a_wave_from_a_spike():
    turns = 2 * np.pi * np.arange(11) / 11
    wave, spike = np.cos(3 * turns + 1.0), np.eye(11)[0]
    kernel = np.stack([np.tile(wave, 2), np.tile(spike, 2)], axis=1)

    def share(kernel):
        nothing = dict.fromkeys(Flow._fields)
        flow = Flow(**{**nothing, "params": {"first": {"kernel": jnp.asarray(kernel)}}})
        return float(grokking.fourier_share.measure(flow))

    assert share(kernel[:, :1]) == pytest.approx(1.0, rel=1e-5)
    assert share(kernel[:, 1:]) == pytest.approx(1 / 5, rel=1e-5)  # all 5 frequencies alike


def test_form_accuracy_equals_the_network_that_it_stands_for():
    key, modulus = jax.random.key(4), 7
    written = jax.jit(memorisation.modular_addition, static_argnums=(1, 2))
    first, readout = (np.asarray(each) for each in written(key, modulus, 12))
    pairs = np.stack(np.divmod(np.arange(49), 7), axis=1)
    one_hot = np.concatenate([np.eye(7)[pairs[:, 0]], np.eye(7)[pairs[:, 1]]], axis=1)
    logits = (one_hot @ first) ** 2 @ readout
    expected = (logits.argmax(axis=1) == pairs.sum(axis=1) % 7).mean()
    found = jax.jit(grokking.form, static_argnums=(1, 2))(key, modulus, 12)
    assert float(found["accuracy"]) == pytest.approx(expected)


def test_figure_draws_and_labels_every_panel():
    fig = grokking.figure(made_up(grokks))
    drawn = [ax for ax in fig.axes if ax.get_title()]
    assert len(drawn) == 4
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in drawn)
    assert "2 seeds" in fig.get_suptitle()


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("grokking") == []
