"""Each network family in a sweep: a tenth of the members diverges and changes no other bit."""

import jax
import numpy as np
import pytest

import jaxnn as jn

FAMILIES = {
    "residual": lambda: jn.residual_mlp(2, 4, 10, norm="batch", dropout=0.1),
    "normalised": lambda: jn.mlp(2, 4, 10, norm="layer", input_dropout=0.1),
    "convolutional": lambda: jn.cnn(2, 2, 10, norm="batch"),
    "recurrent": lambda: jn.rnn(4, 10, "gru"),
    "transformer": lambda: jn.transformer(1, 4, 10, heads=2),
}
RATES = 0.02 * 1.1 ** np.arange(10)


@pytest.fixture(scope="module")
def images():
    """Digits as images `[batch, 8, 8, 1]`, few of them."""
    return jax.tree.map(lambda leaf: leaf[:64], jn.data.digits(flat=False))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tenth_of_the_members_diverges_and_changes_no_other_bit(family, images):
    def run(key, *, learning_rate):
        sequences = family in ("recurrent", "transformer")
        data = jax.tree.map(lambda x: x[..., 0] if sequences and x.ndim == 4 else x, images)
        return jn.fit(
            FAMILIES[family](),
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate),
            data,
            key=key,
            num_steps=4,
            record_every=2,
            probes=[jn.probes.loss],
            batch_size=8,
            probe_size=8,
        )

    sick_rates = RATES.copy()
    sick_rates[3] = np.inf
    healthy, sick = (jn.sweep(run, learning_rate=r, tile_size=10) for r in (RATES, sick_rates))
    others = np.delete(np.arange(10), 3)
    ours, theirs = (each["loss"].isel(learning_rate=others).values for each in (sick, healthy))
    np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32))
    assert np.isfinite(theirs).all()
    assert len(np.unique(theirs[:, 0, -1])) == len(others)  # the members did train apart
    assert sick["diverged_at"].isel(learning_rate=3).item() == 0
    assert sick["diverged_at"].isel(learning_rate=others).isnull().all()
