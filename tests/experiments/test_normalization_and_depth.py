"""The normalization_and_depth study: its claims on data made with known answers, its figure."""

import numpy as np
import pytest
import xarray as xr

from experiments import normalization_and_depth as study
from jaxnn import report
from jaxnn.theory import batch_norm, shattering

LAYERS = np.arange(1, 13)
NETWORKS = {  # of each part with a law: the dimension of its networks, and the law of each
    "explosion": ("batch_size", {"B = 16": 1.6 ** (LAYERS - 1.0), "B = 128": 1.48**LAYERS}),
    "shatter": ("skip", {"0": 0.5**LAYERS, "equal": 0.75**LAYERS, "1": 0.7 * LAYERS**-0.7}),
    "spread": ("weights", {"orthogonal": 0.1 * LAYERS, "Gaussian": 1.1 * LAYERS}),
}


def by_layer(dim, laws):
    """Two seeds, one above its law and one below, the same mean."""
    law = np.stack(list(laws.values()))[:, None].repeat(2, 1)
    dims, found = (dim, "seed", "layer"), law * np.array([0.99, 1.01])[:, None]
    coords = {dim: list(laws), "seed": range(2), "layer": LAYERS}
    return xr.Dataset({"found": (dims, found), "law": (dims, law)}, coords)


def trained(dims, coords, good):
    """Validation accuracies: 0.9 at the end where good, else 0.1."""
    shape = [len(coords[dim]) for dim in dims]
    accuracy = xr.DataArray(np.full(shape, 0.1), coords, dims, name="validation_accuracy")
    accuracy.loc[{"step": 40, **good}] = 0.9
    return accuracy.to_dataset()


def whole():
    common = {"learning_rate": [0.01, 0.1], "seed": [0, 1], "step": [0, 40]}
    residual = {"start": list(study.BRANCHES), "depth": [4, 64], **common}
    plain = {"start": list(study.PLAIN), **common, "learning_rate": [1e-4]}
    good = {"start": list(study.BRANCHES[1:]), "learning_rate": 0.01}
    parts = {name: by_layer(*networks) for name, networks in NETWORKS.items()}
    parts["residual"] = trained(list(residual), residual, good)
    parts["plain"] = trained(list(plain), plain, {"start": study.PLAIN[0]})
    return report.gather(parts, plain_depth=1000)


def verdicts(ds):
    return [verdict.holds for verdict in report.judge(study.CLAIMS, ds)]


def test_claims_hold_on_data_that_follows_the_laws():
    found = report.judge(study.CLAIMS, whole())
    assert not [each.error for each in found if each.error]
    assert all(each.holds for each in found)
    growth, halves, slower, power, *_ = (each.measurement for each in found)
    assert growth.expected == pytest.approx(1.48)
    assert halves.value == pytest.approx(0.5)
    assert slower.value == pytest.approx(0.75)
    assert power.value == pytest.approx(0.7 * LAYERS[-1] ** -0.7)
    assert [each.measurement.value for each in found[-2:]] == pytest.approx([0.8, 0.8])


@pytest.mark.parametrize(
    ("part", "network", "change", "claim"),
    [
        ("explosion", -1, 1.03**LAYERS, 0),
        ("shatter", 0, 1.03**LAYERS, 1),
        ("shatter", 1, 0.98**LAYERS, 2),
        ("shatter", 2, 1.01**LAYERS, 3),
        ("spread", 0, np.full(LAYERS.size, 1.11), 4),
        ("spread", 1, np.full(LAYERS.size, 0.89), 5),
    ],
)
def test_a_law_fails_where_its_network_departs_from_it(part, network, change, claim):
    ds = whole()
    ds[f"{part}_found"][{f"{part}_{NETWORKS[part][0]}": network}] *= change
    assert [number for number, holds in enumerate(verdicts(ds)) if not holds] == [claim]


@pytest.mark.parametrize(
    ("part", "start", "accuracy", "claim"),
    [
        ("residual", "Fixup", 0.5, 6),  # a cure that does not train
        ("residual", "unscaled", 0.5, 6),  # a network that needs none
        ("plain", "orthogonal, critical", 0.5, 7),
        ("plain", "Gaussian, critical", 0.5, 7),
    ],
)
def test_gains_are_of_the_worst_over_the_best(part, start, accuracy, claim):
    ds = whole()
    ds[f"{part}_validation_accuracy"].loc[{f"{part}_start": start}] = accuracy
    assert [number for number, holds in enumerate(verdicts(ds)) if not holds] == [claim]


def test_the_residual_gain_is_the_deepest_networks():
    ds = whole()
    ds["residual_validation_accuracy"].loc[{"residual_depth": 4}] = 0.1
    assert all(verdicts(ds))


def test_an_equal_skip_passes_as_much_of_the_gradient_as_its_branch():
    variance = 1 / (1 - study.EQUAL**2)  # of the stream, in the end: s^2 = skip^2 s^2 + 1
    branch = (batch_norm.RELU_GRADIENT_GROWTH / variance) ** 0.5
    assert branch == pytest.approx(study.EQUAL)
    assert shattering.residual_correlation(1.0, branch / study.EQUAL) == pytest.approx(0.75)


def test_figure_draws_every_network():
    axes = [ax for ax in study.figure(whole()).axes if ax.get_legend()]
    assert len(axes) == 6
    drawn = [len(ax.get_legend().get_texts()) for ax in axes]
    assert drawn == [2, 3, 2, len(study.BRANCHES), len(study.BRANCHES), len(study.PLAIN)]
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in axes)


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("normalization_and_depth") == []
