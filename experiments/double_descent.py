"""Double descent: least squares errs most where there are as many examples as features.

Belkin, Hsu and Xu 2019 (1903.07571) and Hastie et al. 2019 (1903.08560): the risk of minimum-norm
least squares; Advani and Saxe 2017 (1710.03667): a linear student over training time. Gaussian
inputs and a random teacher, for which these are exact at every size.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn.report import (
    Claim,
    Measurement,
    agrees,
    at_least,
    figures,
    gather,
    jackknife,
    mean_and_error,
    part,
)
from jaxnn.theory import least_squares

APART = 5  # examples less features, from which the risk's variance is small enough to average
CUTOFF = 1e-5  # of the largest eigenvalue: those below count as 0 (float32)
LINEAR = jn.Model(
    lambda key, x: {"params": {"readout": {"kernel": jnp.zeros((x.shape[1], 1), x.dtype)}}},
    lambda variables, x, **_: (x @ variables["params"]["readout"]["kernel"], None, variables),
)

BELKIN, HASTIE, SAXE = "Belkin et al. 2019", "Hastie et al. 2019", "Advani & Saxe 2017"
RISKS = {  # by whether p is all d features, and whether the n examples are more than p
    (True, True): "Least squares with n > d: excess error s^2 d / (n - d - 1), all n",
    (True, False): "Minimum norm with n < d: |b|^2 (1 - n/d) + s^2 n / (d - n - 1)",
    (False, True): "p of d features, p < n: the features left out act as noise",
    (False, False): "p of d features, p > n: the error descends a second time",
}


@dataclass(frozen=True)
class Config:
    """What is varied; `sizes` are numbers of training examples."""

    regression_features: int = 40
    regression_used: tuple[int, ...] = (5, 10, 15, 20, 25, 30, 35, 40)
    regression_sizes: tuple[int, ...] = (5, 10, 15, 20, 25, 30, 35, 40, 50, 60, 80, 120)
    regression_noise: float = 0.5
    regression_seeds: int = 1000
    student_features: int = 50
    student_sizes: tuple[int, ...] = (25, 50, 100)
    student_noise: float = 0.7
    student_steps: int = 4000
    student_rate: float = 0.01
    student_seeds: int = 128


SCALES = {
    "quick": Config(
        regression_used=(10, 20, 40),
        regression_sizes=(10, 20, 30, 40, 60, 120),
        regression_seeds=256,
        student_steps=1000,
        student_rate=0.04,
    ),
    "default": Config(),
    "paper": Config(regression_seeds=20_000, student_features=500, student_sizes=(250, 500, 1000)),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Fit least squares over examples and features, and train linear students."""
    regression = jn.sweep(
        _regression(config),
        size=jn.traced(config.regression_sizes),
        used=jn.traced(config.regression_used),
        num_seeds=config.regression_seeds,
        seed=seed,
        store=store / "regression",
    )
    student = jn.sweep(
        _student(config),
        size=jn.traced(config.student_sizes),
        num_seeds=config.student_seeds,
        seed=seed + 1,
        store=store / "student",
    )
    return gather(
        {"regression": regression, "student": student},
        regression_features=config.regression_features,
        regression_noise=config.regression_noise,
        student_features=config.student_features,
        student_rate=config.student_rate,
    )


def minimum_norm(x: jax.Array, y: jax.Array, size: jax.Array, used: jax.Array) -> jax.Array:
    """Return the smallest-norm least-squares weights `[feature]` of `y = x w`.

    Only the first `size` examples and `used` features count; both may be traced.
    """
    rows, columns = jnp.arange(x.shape[0]) < size, jnp.arange(x.shape[1]) < used
    x = jnp.where(rows[:, None] & columns[None, :], x, 0.0)
    values, vectors = jnp.linalg.eigh(x.T @ x)
    inverse = jnp.where(values > CUTOFF * values[-1], 1.0 / values, 0.0)
    return vectors @ (inverse * (vectors.T @ (x.T @ jnp.where(rows, y, 0.0))))


def _regression(config: Config) -> Callable:
    def regression(key, *, size, used):
        largest = max(config.regression_sizes)
        features, noise = config.regression_features, config.regression_noise
        task = jn.data.teacher_regression(
            key, largest, num_features=features, noise_std=noise, num_held_out=200
        )
        weights = minimum_norm(task.train.x, task.train.y[:, 0], size, used)
        error = task.test.x @ weights - task.test.y[:, 0]
        return {"excess": jn.Labelled(jnp.mean(error**2), (), "1", "error over the noise's")}

    return regression


def _student(config: Config) -> Callable:
    num_steps, every = config.student_steps, config.student_steps // 100

    def student(key, *, size):
        features, noise = config.student_features, config.student_noise
        largest, own = max(config.student_sizes), jax.random.fold_in(key, 1)
        task = jn.data.teacher_regression(own, largest, num_features=features, noise_std=noise)
        found = jn.fit(
            LINEAR,
            jn.squared_error,
            jn.optimizer("sgd", config.student_rate),
            jn.data.with_train_size(task, size),
            key=key,
            num_steps=num_steps,
            record_every=every,
            sampling="full",
            probes=[],
            validation_probes=[jn.probes.loss],
            probe_size=1000,
        )
        rows = jnp.arange(largest) < size
        x = jnp.where(rows[:, None], task.train.x, 0.0)
        values = jnp.linalg.eigvalsh(x.T @ x / size)
        values = jnp.where(values > CUTOFF * values[-1], values, 0.0)
        times = config.student_rate * jnp.arange(0, num_steps + 1, every)
        theory = jax.vmap(least_squares.student_error, (0, *[None] * 5))
        expected = theory(times, values, size, 1.0 / features, 0.0, noise**2)
        return {**found, "theory": jn.Labelled(expected, ("step",), "1", "Advani and Saxe")}

    return student


def exact_risk(regression: xr.Dataset) -> xr.DataArray:
    """Return the exact risk over the noise's of each cell; NaN where sizes are within APART."""
    features, noise = (regression.attrs[f"regression_{each}"] for each in ("features", "noise"))
    size, used = xr.broadcast(regression["size"], regression["used"])
    share = used.values / features
    risk = jax.jit(least_squares.weak_features_risk)
    found = risk(used.values, size.values, share, 1.0 - share, noise**2)
    return size.copy(data=np.asarray(found, float) - noise**2).where(abs(size - used) >= APART)


def student_error(student: xr.Dataset) -> xr.DataArray:
    """Return the student's squared error on clean targets (the loss has a factor 1/2)."""
    return 2.0 * student["validation_loss"]


def pooled_ratio(measured: xr.DataArray, theory: xr.DataArray) -> Measurement:
    """Compare the mean of measured / exact over all cells with 1, with the error over seeds."""
    ratio = measured / theory
    mean, error = mean_and_error(ratio.mean(set(ratio.dims) - {"seed"}))
    return agrees(float(mean), 1.0, float(error), rtol=0.1)


def _risk_claim(all_features: bool, more_examples: bool) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        regression = part(ds, "regression")
        size, used = regression["size"], regression["used"]
        chosen = (used == ds.attrs["regression_features"]) == all_features
        inside = chosen & ((size > used) == more_examples)
        return pooled_ratio(regression["excess"], exact_risk(regression).where(inside))

    source = f"{HASTIE if all_features else BELKIN}; exact at finite size"
    return Claim(f"{RISKS[all_features, more_examples]} (measured / exact)", source, check)


def _more_hurts(ds: xr.Dataset) -> Measurement:
    features = ds.attrs["regression_features"]
    risk = part(ds, "regression")["excess"].sel(used=features).median("seed")
    return at_least(float(risk.sel(size=features) / risk.sel(size=features // 2)), 2.0)


def _student_theory(ds: xr.Dataset) -> Measurement:
    student = part(ds, "student")
    return pooled_ratio(student_error(student), student["theory"].mean("seed"))


def _overtrained(ds: xr.Dataset) -> Measurement:
    """Compare the last error over the best at P = N with the same where P is half or twice N."""
    features = ds.attrs["student_features"]

    def ratio(by_seed: xr.DataArray) -> float:
        errors = by_seed.mean("seed")
        worse = errors.isel(step=-1) / errors.min("step")
        return float(worse.sel(size=features) / worse.drop_sel(size=features).max())

    value, error = jackknife(student_error(part(ds, "student")), ratio)
    return at_least(value, 1.2, error)


CLAIMS = (
    *(_risk_claim(*regime) for regime in RISKS),
    Claim(
        "Trend: more data hurts: the median error at n = d is at least twice that at n = d/2",
        f"{HASTIE}; Nakkiran 2019, 1912.07242; the ratio is ours",
        _more_hurts,
    ),
    Claim(
        "Linear student: its error at every time is the closed form (measured / exact)",
        SAXE,
        _student_theory,
    ),
    Claim(
        "Trend: training too long costs at least 1.2 times as much at P = N as at N/2 and 2N",
        f"{SAXE}; last error over the best, the ratio is ours",
        _overtrained,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the risk over examples and over features, and the student over training time."""
    fig, axes = figures.new_figure(1, 3, size=(18, 5.6))
    regression, features = part(ds, "regression"), ds.attrs["regression_features"]
    half, most = features // 2, 3 * features // 4
    _draw_risk(axes[0], regression, x="size", hue="used", values=(features, half))
    _draw_risk(axes[1], regression, x="used", hue="size", values=(half, most))
    _draw_student(axes[2], part(ds, "student"))
    seeds = f"{regression.sizes['seed']} seeds, lines: exact"
    titles = (
        "More data can hurt: the error peaks at n = p",
        "A second descent: more features, p > n",
    )
    axes[0].set(xlabel="training examples n", title=f"{titles[0]}\n({seeds})")
    axes[1].set(xlabel=f"features used p (of {features})", title=f"{titles[1]}\n({seeds})")
    return fig


def _draw_risk(ax, ds: xr.Dataset, *, x: str, hue: str, values: Iterable[int]) -> None:
    """Draw the risk along x: means where these exist, medians and quartiles near n = p."""
    name = {"size": "n", "used": "p"}[hue]
    for value, colour in zip(values, figures.PALETTE, strict=False):
        cells = ds.sel({hue: value}, method="nearest")
        fine = {x: np.arange(int(ds[x][0]), int(ds[x][-1]) + 1), hue: cells[hue]}
        line = exact_risk(xr.Dataset(coords=fine, attrs=ds.attrs))
        ax.plot(line[x], line, color=colour, linewidth=2, label=f"{name} = {int(cells[hue])}")
        apart = np.isfinite(exact_risk(cells)).values
        drawn = {"x": x, "bars": True, "color": colour}
        figures.over_seeds(ax, cells["excess"].isel({x: apart}), fmt="o", **drawn)
        near = cells["excess"].isel({x: ~apart})
        figures.over_seeds(ax, near, show="median", fmt="s", **drawn)
    ax.plot([], [], "ko", label="mean ± s.e.")
    ax.plot([], [], "ks", label="median, quartiles")
    ax.set(yscale="log", ylabel="test error over the noise's")
    ax.legend(frameon=False)


def _draw_student(ax, ds: xr.Dataset) -> None:
    later = ds.assign_coords(step=ds["step"] * ds.attrs["student_rate"]).isel(step=slice(1, None))
    some = np.unique(np.geomspace(1, later.sizes["step"], 14).astype(int)) - 1
    style = {"x": "step", "bars": True, "fmt": "o", "markersize": 4}
    drawn = ""
    for size, colour in zip(ds["size"].values, figures.PALETTE, strict=False):
        cells = later.sel(size=size)
        line = cells["theory"].mean("seed")
        ax.plot(line["step"], line, color=colour, linewidth=2, label=f"n = {size} examples")
        drawn = figures.over_seeds(ax, student_error(cells).isel(step=some), color=colour, **style)
    ax.set(xscale="log", xlabel="time [steps × learning rate]", ylabel="test error")
    weights = ds.attrs["student_features"]
    ax.set(title=f"Training too long: a student of {weights} weights\n({drawn}, lines: exact)")
    ax.legend(frameon=False)
