"""The amount of data: learning curves as power laws, and how more data can hurt.

Hestness et al. 2017 (1712.00409): power laws, real MNIST; Belkin, Hsu and Xu 2019 (1903.07571) and
Hastie et al. 2019 (1903.08560): double descent, exact; Advani and Saxe 2017 (1710.03667): error
over training time, exact; Bordelon et al. 2020 (2002.02561): where the power comes from.
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
from jaxnn.report import Claim, Measurement, agrees, at_least, between, figures
from jaxnn.theory import least_squares

PROBES = jn.probes
APART = 5  # examples less features, from which the risk's variance is small enough to average
CUTOFF = 1e-5  # of the largest eigenvalue: those below count as 0 (float32)


@dataclass(frozen=True)
class Config:
    """What is varied; `sizes` are numbers of training examples throughout."""

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
        regression_used=(10, 20, 40),
        regression_sizes=(10, 20, 30, 40, 60, 120),
        regression_seeds=400,
        student_steps=2000,
        student_rate=0.02,
        spectrum_features=1000,
        spectrum_exponents=(1.0,),
        spectrum_sizes=(20, 40, 80),
        spectrum_seeds=64,
        mnist_sizes=(50, 200, 800, 3200),
        mnist_steps=300,
        mnist_seeds=2,
    ),
    "default": Config(),
    "paper": Config(
        regression_seeds=20_000,
        student_features=500,
        student_sizes=(250, 500, 1000),
        spectrum_features=20_000,
        spectrum_sizes=(20, 40, 80, 160, 320, 640),
        mnist_width=512,
        mnist_steps=20_000,
        mnist_seeds=32,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Fit least squares, train linear students, and train networks on MNIST."""
    parts = {}

    def sweep(name: str, measured: Callable, **axes) -> None:
        seeds = getattr(config, f"{name}_seeds")
        where = {"seed": seed + len(parts), "store": store / name}
        ds = jn.sweep(measured, num_seeds=seeds, **where, **axes)
        parts[name] = ds.rename({each: f"{name}_{each}" for each in {*ds.variables, *ds.dims}})

    sizes = {
        name: jn.traced(getattr(config, f"{name}_sizes"))
        for name in ("regression", "student", "spectrum", "mnist")
    }
    used = jn.traced(config.regression_used)
    sweep("regression", _regression(config), size=sizes["regression"], used=used)
    sweep("student", _student(config), size=sizes["student"])
    exponents = list(config.spectrum_exponents)
    sweep("spectrum", _spectrum(config), size=sizes["spectrum"], exponent=exponents)
    sweep("mnist", _mnist(config), size=sizes["mnist"])
    seconds = ("wall_seconds", "compile_seconds")
    return xr.merge(parts.values(), combine_attrs="drop_conflicts").assign_attrs(
        {name: sum(ds.attrs[name] for ds in parts.values()) for name in seconds},
        regression_features=config.regression_features,
        regression_noise=config.regression_noise,
        spectrum_features=config.spectrum_features,
        student_features=config.student_features,
        student_rate=config.student_rate,
    )


def minimum_norm(x: jax.Array, y: jax.Array, size: jax.Array, used: jax.Array) -> jax.Array:
    """Return the smallest-norm least-squares weights `[feature]` of some examples and features.

    Args:
        x: `[example, feature]`.
        y: `[example]`.
        size: the first examples that count; may be traced.
        used: the first features that count; the weights of the others are 0.
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


LINEAR = jn.Model(
    lambda key, x: {"params": {"readout": {"kernel": jnp.zeros((x.shape[1], 1), x.dtype)}}},
    lambda variables, x, **_: (x @ variables["params"]["readout"]["kernel"], None, variables),
)


def _student(config: Config) -> Callable:
    def student(key, *, size):
        num_steps, features = config.student_steps, config.student_features
        task = jn.data.teacher_regression(
            jax.random.fold_in(key, 1),
            max(config.student_sizes),
            num_features=features,
            noise_std=config.student_noise,
        )
        found = jn.fit(
            LINEAR,
            jn.squared_error,
            jn.optimizer("sgd", config.student_rate),
            jn.data.with_train_size(task, size),
            key=key,
            num_steps=num_steps,
            record_every=num_steps // 100,
            sampling="full",
            probes=[PROBES.loss],
            validation_probes=[PROBES.loss],
            probe_size=1000,
        )
        rows = jnp.arange(len(task.train.x)) < size
        x = jnp.where(rows[:, None], task.train.x, 0.0)
        values = jnp.linalg.eigvalsh(x.T @ x / size)
        values = jnp.where(values > CUTOFF * values[-1], values, 0.0)
        times = config.student_rate * jnp.arange(0, num_steps + 1, num_steps // 100)
        noise = config.student_noise**2
        theory = jax.vmap(least_squares.student_error, (0, *[None] * 5))
        expected = theory(times, values, size, 1.0 / features, 0.0, noise)
        return {**found, "theory": jn.Labelled(expected, ("step",), "1", "Advani and Saxe")}

    return student


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
            validation_probes=[PROBES.accuracy, PROBES.loss],
            probe_size=len(mnist.validation.x),
        )

    return train


def regression_theory(ds: xr.Dataset) -> xr.DataArray:
    """Return the exact risk over the noise's of each cell; NaN where sizes are within APART."""
    features, noise = ds.attrs["regression_features"], ds.attrs["regression_noise"] ** 2
    size, used = xr.broadcast(ds["regression_size"], ds["regression_used"])
    share = used.values / features
    exact_risk = jax.jit(least_squares.weak_features_risk)
    risk = exact_risk(used.values, size.values, share, 1.0 - share, noise)
    apart = abs(size - used) >= APART
    return size.copy(data=np.asarray(risk, float) - noise).where(apart).rename("theory")


def pooled_ratio(measured: xr.DataArray, theory: xr.DataArray) -> Measurement:
    """Compare the mean of measured / theory over all cells with 1, with the error over seeds."""
    ratio = measured / theory
    mean, error = mean_and_error(ratio.mean([dim for dim in ratio.dims if "seed" not in str(dim)]))
    return agrees(mean, 1.0, error, rtol=0.1)


def mean_and_error(by_seed: xr.DataArray) -> tuple[float, float]:
    """Return the mean over seeds and its standard error."""
    return float(by_seed.mean()), float(by_seed.std(ddof=1) / by_seed.size**0.5)


def slope(errors: xr.DataArray, size: str) -> xr.DataArray:
    """Return the exponent of a power law fitted to errors, by least squares in logarithms."""
    logs = np.log(errors).assign_coords({size: np.log(errors[size])})
    return logs.polyfit(size, 1)["polyfit_coefficients"].sel(degree=1, drop=True)


def _regime(where: Callable[[xr.DataArray, xr.DataArray, int], xr.DataArray]):
    def check(ds: xr.Dataset) -> Measurement:
        inside = where(
            ds["regression_size"], ds["regression_used"], ds.attrs["regression_features"]
        )
        return pooled_ratio(ds["regression_excess"], regression_theory(ds).where(inside))

    return check


def _more_hurts(ds: xr.Dataset) -> Measurement:
    features = ds.attrs["regression_features"]
    risk = ds["regression_excess"].sel(regression_used=features).median("regression_seed")
    few = risk.sel(regression_size=features // 2)
    return at_least(float(risk.sel(regression_size=features) / few), 2.0)


def student_error(ds: xr.Dataset) -> xr.DataArray:
    """Return the student's squared error on clean targets (the loss has a factor 1/2)."""
    return 2.0 * ds["student_validation_loss"]


def _student_theory(ds: xr.Dataset) -> Measurement:
    mean = ds["student_theory"].mean("student_seed")
    return pooled_ratio(student_error(ds), mean)


def _overtrained(ds: xr.Dataset) -> Measurement:
    """Compare the last error over the best at P = N with the same where P is half or twice N."""

    def ratio(errors: xr.DataArray) -> float:
        final = errors.isel(student_step=-1) / errors.min("student_step")
        at = final.sel(student_size=ds.attrs["student_features"])
        return float(at / final.drop_sel(student_size=at["student_size"].item()).max())

    errors = student_error(ds)
    parts = [errors.isel(student_seed=slice(k, None, 8)).mean("student_seed") for k in range(8)]
    spread = np.std([ratio(each) for each in parts], ddof=1) / len(parts) ** 0.5
    return at_least(ratio(errors.mean("student_seed")), 1.2, float(spread))


def _spectrum_theory(ds: xr.Dataset) -> Measurement:
    theory = ds["spectrum_theory"].mean("spectrum_seed")
    found = pooled_ratio(ds["spectrum_error"], theory)
    return between(found.value, 0.9, 1.1, found.standard_error, expected=1.0)


def _spectrum_slope(ds: xr.Dataset) -> Measurement:
    errors = ds["spectrum_error"].sel(spectrum_exponent=1.0)
    by_group = errors.coarsen(spectrum_seed=errors.sizes["spectrum_seed"] // 8).mean()
    _, spread = mean_and_error(slope(by_group, "spectrum_size"))
    value = float(slope(errors.mean("spectrum_seed"), "spectrum_size"))
    return between(value, -1.1, -0.9, spread, expected=-1.0)


def mnist_errors(ds: xr.Dataset) -> xr.DataArray:
    """Return the share of held-out images that trained networks get wrong."""
    return 1.0 - ds["mnist_validation_accuracy"].isel(mnist_step=-1)


def power_law(sizes: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, float]:
    """Return `a, b, c` of `a n^-b + c`, c at least 0, fitted in logarithms, and the fit's R^2."""
    logs = np.log(errors)

    def residuals(params: np.ndarray) -> np.ndarray:
        return np.log(np.exp(params[0]) * sizes ** -params[1] + params[2]) - logs

    start, most = [0.0, 0.5, 0.0], errors.min()
    bounds = ([-np.inf, 0.0, 0.0], [np.inf, 3.0, most])
    found = scipy.optimize.least_squares(residuals, start, bounds=bounds)
    explained = 1.0 - (found.fun**2).sum() / ((logs - logs.mean()) ** 2).sum()
    return np.array([np.exp(found.x[0]), *found.x[1:]]), float(explained)


def _mnist_fit(ds: xr.Dataset) -> tuple[np.ndarray, float]:
    mean = mnist_errors(ds).mean("mnist_seed")
    return power_law(mean["mnist_size"].values.astype(float), mean.values)


def _mnist_law(ds: xr.Dataset) -> Measurement:
    return at_least(_mnist_fit(ds)[1], 0.97)


def _mnist_falls(ds: xr.Dataset) -> Measurement:
    exponents = slope(mnist_errors(ds), "mnist_size")
    mean, error = mean_and_error(exponents)
    return between(mean, -0.7, -0.3, error)


BELKIN, HASTIE, SAXE = "Belkin et al. 2019", "Hastie et al. 2019", "Advani & Saxe 2017"
CLAIMS = (
    Claim(
        "Least squares with n > d: excess error s^2 d / (n - d - 1) (measured / exact, all n)",
        f"{HASTIE}; exact at finite size",
        _regime(lambda size, used, features: (used == features) & (size > used)),
    ),
    Claim(
        "Minimum norm with n < d: |b|^2 (1 - n/d) + s^2 n / (d - n - 1) (measured / exact)",
        f"{HASTIE}; exact at finite size",
        _regime(lambda size, used, features: (used == features) & (size < used)),
    ),
    Claim(
        "p of d features, p < n: the features left out act as noise (measured / exact)",
        f"{BELKIN}; exact at finite size",
        _regime(lambda size, used, features: (used < features) & (size > used)),
    ),
    Claim(
        "p of d features, p > n: the error descends a second time (measured / exact)",
        f"{BELKIN}; exact at finite size",
        _regime(lambda size, used, features: (used < features) & (size < used)),
    ),
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
    """Draw the learning curves and the exact laws beside what was measured."""
    fig, axes = figures.new_figure(2, 3, size=(17, 9.6))
    _draw_mnist(axes[0, 0], ds)
    _draw_spectrum(axes[0, 1], ds)
    _draw_student(axes[0, 2], ds)
    features, sizes = ds.attrs["regression_features"], ds["regression_size"]
    _draw_risk(axes[1, 0], ds.sel(regression_used=features), "regression_size")
    axes[1, 0].set(xlabel=f"training examples n ({features} features)")
    axes[1, 0].set_title("More data can hurt")
    middle = int(sizes.sel(regression_size=features // 2, method="nearest"))
    _draw_risk(axes[1, 1], ds.sel(regression_size=middle), "regression_used")
    axes[1, 1].set(xlabel=f"features used (of {features}; n = {middle})")
    axes[1, 1].set_title("More parameters: a second descent")
    _draw_map(axes[1, 2], ds)
    for ax in (*axes[0], *axes[1, :2]):
        ax.legend(fontsize=11, frameon=False)
    seeds = [f"{ds.sizes[f'{name}_seed']} {name}" for name in ("mnist", "spectrum", "student")]
    fig.suptitle(
        f"Points: mean ± standard error over seeds ({', '.join(seeds)}, "
        f"{ds.sizes['regression_seed']} regression: median ± quartiles within {APART} of n = p)"
    )
    return fig


def _points(ax, values: xr.DataArray, along: str, seed: str, **drawn) -> None:
    error = values.std(seed, ddof=1) / values.sizes[seed] ** 0.5
    ax.errorbar(values[along], values.mean(seed), error, fmt="o", capsize=3, **drawn)


def _plain_ticks(axis, values) -> None:
    """Write some numbers along a logarithmic axis, and no others."""
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def _draw_mnist(ax, ds: xr.Dataset) -> None:
    (factor, exponent, floor), explained = _mnist_fit(ds)
    sizes = np.geomspace(*ds["mnist_size"].values[[0, -1]], 50)
    label = f"{factor:.2f} n^-{exponent:.2f} + {floor:.3f}, R² = {explained:.3f}"
    ax.plot(sizes, factor * sizes**-exponent + floor, linewidth=2, label=label)
    _points(ax, mnist_errors(ds), "mnist_size", "mnist_seed", color="black", label="MNIST images")
    ax.set(xscale="log", yscale="log", xlabel="training images n", ylabel="held-out error")
    _plain_ticks(ax.xaxis, ds["mnist_size"].values)
    _plain_ticks(ax.yaxis, (0.05, 0.1, 0.2, 0.4))
    ax.set_title("Networks on real images: a power law")


def _draw_spectrum(ax, ds: xr.Dataset) -> None:
    for exponent, colour in zip(ds["spectrum_exponent"].values, figures.PALETTE, strict=False):
        there = ds.sel(spectrum_exponent=exponent)
        label = f"variances i^-{1 + exponent:g}: n^-{exponent:g}"
        theory = there["spectrum_theory"].mean("spectrum_seed")
        ax.plot(ds["spectrum_size"], theory, color=colour, linewidth=2, label=label)
        _points(ax, there["spectrum_error"], "spectrum_size", "spectrum_seed", color=colour)
    ax.set(xscale="log", yscale="log", xlabel="training examples n", ylabel="test error")
    _plain_ticks(ax.xaxis, ds["spectrum_size"].values)
    _plain_ticks(ax.yaxis, (0.02, 0.05, 0.1, 0.2, 0.5, 1.0))
    ax.set_title(f"{ds.attrs['spectrum_features']} features of a power-law spectrum; lines: theory")


def _draw_student(ax, ds: xr.Dataset) -> None:
    times = ds["student_step"] * ds.attrs["student_rate"]
    later, last = slice(1, None), len(times) - 1
    every = np.unique(np.geomspace(1, last, 14).astype(int))
    for size, colour in zip(ds["student_size"].values, figures.PALETTE, strict=False):
        there = ds.sel(student_size=size).assign_coords(time=times)
        theory = there["student_theory"].mean("student_seed").isel(student_step=later)
        ax.plot(times[later], theory, color=colour, linewidth=2, label=f"P = {size} examples")
        errors = student_error(there).isel(student_step=every).swap_dims(student_step="time")
        _points(ax, errors, "time", "student_seed", color=colour, markersize=4)
    ax.set(xscale="log", xlabel="time [steps × learning rate]", ylabel="test error")
    ax.set_title(f"Linear student of {ds.attrs['student_features']} weights; lines: exact")


def _draw_risk(ax, ds: xr.Dataset, along: str) -> None:
    """Draw the risk along one axis: means where these exist, medians and quartiles near n = p."""
    theory, excess = regression_theory(ds), ds["regression_excess"]
    apart = np.isfinite(theory)
    _draw_theory(ax, ds, along)
    _points(ax, excess.isel({along: apart.values}), along, "regression_seed", label="mean")
    near = excess.isel({along: ~apart.values})
    low, middle, high = near.quantile([0.25, 0.5, 0.75], "regression_seed")
    spread = (middle - low, high - middle)
    ax.errorbar(near[along], middle, spread, fmt="s", capsize=3, label="median, quartiles")
    ax.set(yscale="log", ylabel="test error over the noise's")


def _draw_theory(ax, ds: xr.Dataset, along: str) -> None:
    ends = ds[along].values[[0, -1]]
    fine = ds.drop_vars(list(ds.data_vars)).drop_dims(along)
    line = regression_theory(fine.assign_coords({along: np.arange(ends[0], ends[1] + 1)}))
    ax.plot(line[along], line, color="black", linewidth=2, label="exact")


def _draw_map(ax, ds: xr.Dataset) -> None:
    risk = ds["regression_excess"].median("regression_seed")
    names = {"regression_size": "training examples n", "regression_used": "features used p"}
    for dim, name in names.items():
        texts = [f"{value}" for value in risk[dim].values]
        risk = risk.assign_coords({dim: (dim, texts, {"long_name": name})})
    label = "median test error over the noise's"
    figures.heatmap(ax, risk, x="regression_size", y="regression_used", label=label, log_color=True)
    ax.set_title("The ridge of double descent follows n = p")
