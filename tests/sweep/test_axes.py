"""Hyperparameters are data: each of them is an axis of one and the same compiled program."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn

# a usual value, and another one that must change the training
DENSE = {
    "learning_rate": [0.1, 0.3],
    "momentum": [0.0, 0.9],
    "weight_decay": [0.0, 0.1],
    "l1": [0.0, 0.01],
    "clip_norm": [math.inf, 0.05],
    "dropout": [0.0, 0.5],
    "label_noise": [0.0, 0.5],
    "num_train": jn.traced([200, 20]),
    "gain": [1.0, 2.0],
    "leaky_slope": [0.0, 0.3],
    "branch_scale": [0.0, 1.0],
    "patience": jn.traced([100, 1]),
}
RECURRENT = {
    "spectral_radius": [1.0, 0.5],
    "forget_bias": [0.0, 2.0],
}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Dtype promotion as users have it: optax's numbers meet float32 parameters."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def dense_run(digits):
    def run(key, **h):
        fit_key, noise_key = jax.random.split(key)
        noise = {"key": noise_key, "num_classes": 10}
        task = jn.data.with_label_noise(digits, h["label_noise"], **noise)
        task = jn.data.with_train_size(task, h["num_train"])
        model = jn.mlp(
            2,
            8,
            10,
            jn.leaky_relu(h["leaky_slope"]),
            weights=jn.gaussian(h["gain"]),
            residual=h["branch_scale"],
            dropout=h["dropout"],
        )
        names = ("momentum", "weight_decay", "l1", "clip_norm")
        return jn.fit(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", h["learning_rate"], **{name: h[name] for name in names}),
            task,
            key=fit_key,
            num_steps=24,
            record_every=2,
            batch_size=16,
            probe_size=32,
            probes=[jn.probes.loss],
            validation_probes=[jn.probes.loss],
            stop=jn.stopping.patience(h["patience"]),
        )

    return run


def recurrent_run(key, *, spectral_radius, forget_bias):
    x = jax.random.normal(key, (4, 5, 2))
    recurrent = jn.orthogonal(spectral_radius)
    model = jn.rnn(6, 1, "lstm", recurrent=recurrent, forget_bias=forget_bias)
    outputs, _, _ = model.apply(model.init(jax.random.fold_in(key, 0), x), x)
    return {"loss": jnp.mean(outputs**2)}


@pytest.mark.parametrize("family", ["dense", "recurrent"])
def test_each_axis_sweeps_in_the_one_program_of_all(family, digits, compiled):
    axes, run = (DENSE, dense_run(digits)) if family == "dense" else (RECURRENT, recurrent_run)
    usual = {
        name: jn.traced(list(axis.values)[:1]) if name in ("num_train", "patience") else axis[:1]
        for name, axis in axes.items()
    }
    jax.random.key(0)  # JAX's own small program
    compiled.clear()
    for name, axis in axes.items():
        found = jn.sweep(run, **{**usual, name: axis}, tile_size=2)
        curves = found["loss"].squeeze().transpose(name, ...).values
        assert np.isfinite(curves).all(), name
        assert np.max(np.abs(curves[0] - curves[1])) > 1e-4, f"{name} changes nothing"
    assert len(compiled) == 1
