"""The amount of data: learning curves are power laws, on real images and where theory says why.

Hestness et al. 2017 (1712.00409): power laws of trained networks, here on real MNIST; Bordelon et
al. 2020 (2002.02561): least squares on features of a power-law spectrum, where the power comes
from. How more data can hurt is the study `double_descent`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import xarray as xr

import jaxnn as jn
from jaxnn.report import (
    Claim,
    Measurement,
    at_least,
    between,
    figures,
    gather,
    jackknife,
    mean_and_error,
    part,
)
from jaxnn.theory import least_squares

PROBES = jn.probes


@dataclass(frozen=True)
class Config:
    """What is varied; `sizes` are numbers of training examples."""

    spectrum_features: int = 2500
    spectrum_exponents: tuple[float, ...] = (0.5, 1.0)
    spectrum_sizes: tuple[int, ...] = (20, 40, 80, 160)
    spectrum_seeds: int = 128
    mnist_sizes: tuple[int, ...] = (50, 100, 200, 400, 800, 1600, 3200)
    mnist_width: int = 64
    mnist_steps: int = 800
    mnist_seeds: int = 8


SCALES = {
    "quick": Config(
        spectrum_features=1000,
        spectrum_exponents=(1.0,),
        spectrum_sizes=(20, 40, 80),
        spectrum_seeds=128,
        mnist_sizes=(50, 200, 800, 3200),
        mnist_steps=300,
        mnist_seeds=2,
    ),
    "default": Config(),
    "paper": Config(
        spectrum_features=20_000,
        spectrum_sizes=(20, 40, 80, 160, 320, 640),
        mnist_width=512,
        mnist_steps=20_000,
        mnist_seeds=32,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Fit least squares on a power-law spectrum, and train networks on MNIST."""
    spectrum = jn.sweep(
        _spectrum(config),
        size=jn.traced(config.spectrum_sizes),
        exponent=list(config.spectrum_exponents),
        num_seeds=config.spectrum_seeds,
        seed=seed + 2,
        store=store / "spectrum",
    )
    mnist = jn.sweep(
        _mnist(config),
        size=jn.traced(config.mnist_sizes),
        num_seeds=config.mnist_seeds,
        seed=seed + 3,
        store=store / "mnist",
    )
    parts = {"spectrum": spectrum, "mnist": mnist}
    return gather(parts, spectrum_features=config.spectrum_features)


def _spectrum(config: Config) -> Callable:
    def spectrum(key, *, size, exponent):
        largest, features = max(config.spectrum_sizes), config.spectrum_features
        task = jn.data.power_law_regression(
            key, largest, num_features=features, exponent=exponent, num_held_out=200
        )
        rows = jnp.arange(largest) < size
        x = jnp.where(rows[:, None], task.train.x, 0.0)
        gram = x @ x.T + jnp.diag(jnp.where(rows, 0.0, 1.0))  # rows left out: the identity's
        dual = jnp.linalg.solve(gram, jnp.where(rows, task.train.y[:, 0], 0.0))
        error = jnp.mean((task.test.x @ (x.T @ dual) - task.test.y[:, 0]) ** 2)
        variances = jnp.arange(1, features + 1, dtype=x.dtype) ** -(1 + exponent)
        theory = least_squares.spectrum_error(variances, size)
        return {"error": error, "theory": theory}

    return spectrum


def _mnist(config: Config) -> Callable:
    mnist = jn.data.mnist5k()
    mnist = mnist._replace(  # the test split is not used otherwise: 1,050 images, all held out
        train=jax.tree.map(lambda leaf: leaf[: max(config.mnist_sizes)], mnist.train),
        validation=jax.tree.map(lambda *two: np.concatenate(two), mnist.validation, mnist.test),
    )

    def train(key, *, size):
        return jn.fit(
            jn.mlp(1, config.mnist_width, 10, "relu", weights=jn.he()),
            jn.cross_entropy,
            jn.optimizer("adam", 1e-3),
            jn.data.with_train_size(mnist, size),
            key=key,
            num_steps=config.mnist_steps,
            record_every=config.mnist_steps,
            probes=[PROBES.accuracy],
            validation_probes=[PROBES.accuracy],
            probe_size=len(mnist.validation.x),
        )

    return train


def slope(errors: xr.DataArray) -> xr.DataArray:
    """Return the exponent of a power law fitted to errors, by least squares in logarithms."""
    logs = np.log(errors).assign_coords(size=np.log(errors["size"]))
    return logs.polyfit("size", 1)["polyfit_coefficients"].sel(degree=1, drop=True)


def power_law(errors: xr.DataArray) -> tuple[np.ndarray, float]:
    """Return `a, b, c` of `a n^-b + c`, c at least 0, fitted in logarithms, and the fit's R^2."""
    sizes, logs = errors["size"].values.astype(float), np.log(errors.values)

    def residuals(params: np.ndarray) -> np.ndarray:
        return np.log(np.exp(params[0]) * sizes ** -params[1] + params[2]) - logs

    bounds = ([-np.inf, 0.0, 0.0], [np.inf, 3.0, float(errors.min())])
    found = scipy.optimize.least_squares(residuals, [0.0, 0.5, 0.0], bounds=bounds)
    explained = 1.0 - (found.fun**2).sum() / ((logs - logs.mean()) ** 2).sum()
    return np.array([np.exp(found.x[0]), *found.x[1:]]), float(explained)


def mnist_errors(ds: xr.Dataset) -> xr.DataArray:
    """Return the share of held-out images that trained networks get wrong."""
    return 1.0 - part(ds, "mnist")["validation_accuracy"].isel(step=-1)


def _spectrum_theory(ds: xr.Dataset) -> Measurement:
    spectrum = part(ds, "spectrum")
    ratio = (spectrum["error"] / spectrum["theory"].mean("seed")).mean(["size", "exponent"])
    mean, error = mean_and_error(ratio)
    return between(float(mean), 0.9, 1.1, float(error), expected=1.0)


def _spectrum_slope(ds: xr.Dataset) -> Measurement:
    errors = part(ds, "spectrum")["error"].sel(exponent=1.0)
    value, error = jackknife(errors, lambda some: slope(some.mean("seed")))
    return between(value, -1.1, -0.9, error, expected=-1.0)


def _mnist_law(ds: xr.Dataset) -> Measurement:
    value, error = jackknife(mnist_errors(ds), lambda some: power_law(some.mean("seed"))[1])
    return at_least(value, 0.97, error)


def _mnist_falls(ds: xr.Dataset) -> Measurement:
    mean, error = mean_and_error(slope(mnist_errors(ds)))
    return between(float(mean), -0.7, -0.3, float(error))


CLAIMS = (
    Claim(
        "Power-law features: the error is n kappa at every n (measured / theory)",
        "Bordelon et al. 2020; the limit of large n, hence 10%",
        _spectrum_theory,
    ),
    Claim(
        "Power-law features: variances i^-2 make the error fall as n^-1 (exponent)",
        "Spigler et al. 2019, 1905.10843; finite sizes, hence 0.1",
        _spectrum_slope,
    ),
    Claim(
        "Trend: on MNIST the error is a n^-b + c (R^2 in logarithms)",
        "Hestness et al. 2017; Rosenfeld et al. 2020, 1909.12673",
        _mnist_law,
    ),
    Claim(
        "Trend: on MNIST the error falls with an exponent of -0.7 to -0.3",
        "Hestness et al. 2017: the exponent is the task's own; the range is ours",
        _mnist_falls,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the learning curve of networks, and those of least squares with the theory on them."""
    fig, (left, right) = figures.new_figure(1, 2, size=(13, 5.4))
    _draw_mnist(left, mnist_errors(ds))
    _draw_spectrum(right, part(ds, "spectrum"))
    return fig


def _draw_mnist(ax, errors: xr.DataArray) -> None:
    (factor, exponent, floor), explained = power_law(errors.mean("seed"))
    sizes = np.geomspace(*errors["size"].values[[0, -1]], 50)
    label = rf"${factor:.2f}\,n^{{-{exponent:.2f}}} + {floor:.3f}$, $R^2 = {explained:.3f}$"
    ax.plot(sizes, factor * sizes**-exponent + floor, linewidth=2, label=label)
    drawn = figures.over_seeds(ax, errors, x="size", bars=True, fmt="o", color="black")
    ax.set(xscale="log", yscale="log", xlabel="training images n", ylabel="held-out error")
    figures.plain_ticks(ax.xaxis, errors["size"].values)
    figures.plain_ticks(ax.yaxis, (0.05, 0.1, 0.2, 0.4))
    ax.set(title=f"Networks on real MNIST: a power law\n({drawn}, line: fit)")
    ax.legend(frameon=False)


def _draw_spectrum(ax, ds: xr.Dataset) -> None:
    drawn = ""
    for exponent, colour in zip(ds["exponent"].values, figures.PALETTE, strict=False):
        there = ds.sel(exponent=exponent)
        label = rf"variances $i^{{-{1 + exponent:g}}}$: error as $n^{{-{exponent:g}}}$"
        ax.plot(ds["size"], there["theory"].mean("seed"), color=colour, linewidth=2, label=label)
        drawn = figures.over_seeds(ax, there["error"], x="size", bars=True, fmt="o", color=colour)
    ax.set(xscale="log", yscale="log", xlabel="training examples n", ylabel="test error")
    figures.plain_ticks(ax.xaxis, ds["size"].values)
    figures.plain_ticks(ax.yaxis, (0.02, 0.05, 0.1, 0.2, 0.5, 1.0))
    features = ds.attrs["spectrum_features"]
    ax.set(title=f"Least squares on {features} power-law features\n({drawn}, lines: theory)")
    ax.legend(frameon=False)
