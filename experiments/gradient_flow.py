"""Gradient flow: normal, vanishing and exploding gradients over depth, and which cure works where.

Glorot & Bengio 2010; He et al. 2015 (1502.01852); Hanin 2018 (1801.03744); Yang & Schoenholz 2017
(1712.08969); Pascanu et al. 2013 (1211.5063) for clipping. Real MNIST.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn.report import Claim, Measurement, agrees, at_least, at_most, between, figures
from jaxnn.theory import finite_width, mean_field

PROBES = jn.probes
CURES = {  # by whether there are residual connections and clipping
    (False, False): "none",
    (False, True): "clipping",
    (True, False): "residual",
    (True, True): "both",
}
GAINS = {"vanishing": 0.5, "normal": 1.0, "exploding": 2.0}  # of He weights, in training


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    activations: tuple[str, ...] = ("sigmoid", "tanh", "relu")
    schemes: tuple[str, ...] = ("standard", "glorot", "he", "orthogonal")
    depth: int = 32
    width: int = 64
    profile_width: int = 64
    profile_seeds: int = 4
    num_gains: int = 7
    law_width: int = 512
    law_seeds: int = 32
    he_depth: int = 22
    hanin_width: int = 50
    hanin_depth: int = 10
    hanin_nets: int = 8000
    residual_depth: int = 64
    num_steps: int = 100
    train_seeds: int = 16
    learning_rates: tuple[float, ...] = (0.01, 0.1)


SCALES = {
    "quick": Config(
        activations=("tanh", "relu"),
        schemes=("standard", "he"),
        depth=12,
        width=32,
        profile_width=32,
        profile_seeds=2,
        num_gains=3,
        law_width=128,
        law_seeds=16,
        hanin_width=16,
        hanin_depth=4,
        hanin_nets=2000,
        residual_depth=16,
        num_steps=40,
        train_seeds=4,
    ),
    "default": Config(),
    "paper": Config(
        width=256,
        profile_width=1000,
        profile_seeds=32,
        num_gains=17,
        law_width=1000,
        law_seeds=64,
        hanin_nets=200_000,
        num_steps=1000,
        train_seeds=32,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Measure profiles over depth, the exact laws at initialisation, and cures in training."""
    sweeps = {
        "profile": _profiles(config, seed, store),
        "linear": _linear_law(config, seed, store),
        "relu": _relu_law(config, seed, store),
        "hanin": _hanin_law(config, seed, store),
        "residual": _residual_law(config, seed, store),
        "cure": _cures(config, seed, store),
    }
    merged = xr.merge(
        [_prefixed(ds, name) for name, ds in sweeps.items()], combine_attrs="drop_conflicts"
    )
    seconds = {
        name: sum(ds.attrs[name] for ds in sweeps.values())
        for name in ("wall_seconds", "compile_seconds")
    }
    sizes = {name: getattr(config, name) for name in ("hanin_width", "hanin_depth")}
    return merged.assign_attrs({**sweeps["profile"].attrs, **seconds, **sizes})


def _prefixed(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Put a sweep's name before its variables and dims, so that several share one dataset."""
    return ds.rename({each: f"{name}_{each}" for each in {*ds.variables, *ds.dims}})


def _initial(model: jn.Model, key: jax.Array, batch: jn.Batch, probes: list) -> dict:
    """Measure a network at initialisation on a batch."""
    batch = jax.tree.map(jnp.asarray, batch)
    passed = PROBES.flow(model, jn.cross_entropy, model.init(key, batch.x), batch)
    return PROBES.measure(probes, passed)


def _mnist_batch(size: int) -> jn.Batch:
    return jax.tree.map(lambda leaf: leaf[:size], jn.data.mnist5k().train)


def _profiles(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Sweep activation x scheme x residual x gain at initialisation; all layers."""
    batch = _mnist_batch(128)

    def profile(key, *, activation, scheme, residual, gain):
        weights = jn.initialiser(scheme, gain)
        model = jn.mlp(
            config.depth, config.profile_width, 10, activation, weights=weights, residual=residual
        )
        measured = [PROBES.preact_grad_rms, PROBES.grad_rms, PROBES.act_var]
        return _initial(model, key, batch, [*measured, PROBES.saturated_fraction])

    return jn.sweep(
        profile,
        activation=list(config.activations),
        scheme=list(config.schemes),
        residual=[0.0, 1.0],
        gain=np.geomspace(0.5, 2.0, config.num_gains),
        num_seeds=config.profile_seeds,
        seed=seed,
        store=store / "profile",
    )


def _linear_law(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A1: standard (fan Var W = 1/3) against normalised (1) weights, linear and tanh networks."""
    batch = _mnist_batch(32)

    def linear(key, *, activation, fan_variance, input_scale):
        scaled = batch._replace(x=batch.x * input_scale)
        weights = jn.uniform((3.0 * fan_variance) ** 0.5)
        model = jn.mlp(6, config.law_width, 10, activation, weights=weights)
        return _initial(model, key, scaled, [PROBES.preact_second_moment, PROBES.preact_grad_rms])

    return jn.sweep(
        linear,
        activation=["identity", "tanh"],
        fan_variance=[1.0 / 3.0, 1.0],
        input_scale=[0.1, 1.0],
        num_seeds=config.law_seeds,
        seed=seed,
        store=store / "linear",
    )


def _relu_law(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A3: ReLU layers multiply the second moment by g/2, g = n Var W: Xavier's 1, He's 2."""
    batch = _mnist_batch(32)

    def relu(key, *, scheme):
        weights = jn.initialiser(scheme)
        model = jn.mlp(config.he_depth, config.law_width, 10, "relu", weights=weights)
        return _initial(model, key, batch, [PROBES.preact_second_moment])

    return jn.sweep(
        relu,
        scheme=["glorot", "he"],
        num_seeds=config.law_seeds,
        seed=seed,
        store=store / "relu",
    )


def _hanin_law(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A8: ln of the squared-norm ratio over a He ReLU network, one random input each."""

    def norm_ratio(key):
        key_x, key_w = jax.random.split(key)
        x = jax.random.normal(key_x, (1, config.hanin_width))
        model = jn.mlp(config.hanin_depth, config.hanin_width, 1, "relu", weights=jn.he())
        _, taps, _ = model.apply(model.init(key_w, x), x)
        return {"log_ratio": jnp.log(jnp.mean(taps.post[-1] ** 2) / jnp.mean(x**2))}

    return jn.sweep(
        norm_ratio,
        num_seeds=config.hanin_nets,
        seed=seed,
        store=store / "hanin",
    )


def _residual_law(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A12: forward and backward growth of residual tanh and ReLU stacks."""
    batch = _mnist_batch(32)

    def residual(key, *, activation):
        weights = jn.gaussian(2.0**0.5 if activation == "relu" else 1.0)
        model = jn.mlp(
            config.residual_depth, config.law_width, 10, activation, weights=weights, residual=True
        )
        probes = [PROBES.preact_second_moment, PROBES.preact_grad_rms]
        moment = jn.Labelled(jnp.mean(batch.x**2, axis=1), ("input",), "1", "mean squared pixel")
        return {**_initial(model, key, batch, probes), "input_moment": moment}

    return jn.sweep(
        residual,
        activation=["tanh", "relu"],
        num_seeds=config.law_seeds,
        seed=seed,
        store=store / "residual",
    )


def _cures(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Train plain and residual networks from too small, right and too large weights."""
    mnist = jn.data.mnist5k()

    def train(key, *, activation, gain, residual, clip_norm, learning_rate):
        model = jn.mlp(
            config.depth, config.width, 10, activation, weights=jn.he(gain), residual=residual
        )
        return jn.fit(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate, clip_norm=clip_norm),
            mnist,
            key=key,
            num_steps=config.num_steps,
            record_every=config.num_steps,
            probes=[PROBES.accuracy, PROBES.loss],
        )

    return jn.sweep(
        train,
        activation=["tanh", "relu"],
        gain=list(GAINS.values()),
        residual=[0.0, 1.0],
        clip_norm=[1.0, np.inf],
        learning_rate=list(config.learning_rates),
        num_seeds=config.train_seeds,
        seed=seed,
        store=store / "cure",
    )


def _mean_and_error(values: xr.DataArray, seed: str) -> tuple[xr.DataArray, xr.DataArray]:
    return values.mean(seed), values.std(seed, ddof=1) / values.sizes[seed] ** 0.5


def _slope(squares: xr.DataArray, sweep: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the slope over layers of the logarithm of the mean over seeds, and its error.

    The mean is taken first since theory's factor a layer is exact for it at every width; the
    standard error is the jackknife's.
    """
    layer, seed = f"{sweep}_layer", f"{sweep}_seed"

    def slope(means: xr.DataArray) -> xr.DataArray:
        fitted = xr.ufuncs.log(means).polyfit(layer, 1)["polyfit_coefficients"]
        return fitted.sel(degree=1, drop=True)

    count = squares.sizes[seed]
    left_out = slope((squares.sum(seed) - squares) / (count - 1))
    return slope(squares.mean(seed)), left_out.std(seed) * (count - 1) ** 0.5


def _linear_slope(ds: xr.Dataset, quantity: str, **where) -> tuple[float, float]:
    """Return the slope of the logarithm of a variance in the linear sweep, towards its flow."""
    squares = {
        "forward": ds["linear_preact_second_moment"],
        "backward": ds["linear_preact_grad_rms"] ** 2,
    }
    slope, error = _slope(squares[quantity], "linear")
    found = {f"linear_{name}": value for name, value in where.items()}
    sign = 1.0 if quantity == "forward" else -1.0
    return sign * float(slope.sel(found)), float(error.sel(found))


def _standard_law(quantity: str) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        where = {"activation": "identity", "fan_variance": 1.0 / 3.0, "input_scale": 1.0}
        slope, error = _linear_slope(ds, quantity, **where)
        return agrees(slope, -np.log(3.0), error, rtol=0.03)

    signal = {"forward": "activation", "backward": "back-propagated gradient"}[quantity]
    statement = f"Standard init of a linear network: {signal} variance falls by ln 3 a layer"
    return Claim(statement, "Glorot & Bengio 2010, eq. 5-8 (n Var W = 1/3)", check)


def _tanh_law(ds: xr.Dataset) -> Measurement:
    where = {"activation": "tanh", "fan_variance": 1.0 / 3.0, "input_scale": 0.1}
    slope, error = _linear_slope(ds, "forward", **where)
    low, high = sorted((-1.15 * np.log(3.0), -0.85 * np.log(3.0)))
    return between(slope, low, high, error, expected=-np.log(3.0))


def _normalised_law(ds: xr.Dataset) -> Measurement:
    where = {"activation": "identity", "fan_variance": 1.0, "input_scale": 1.0}
    slope, error = _linear_slope(ds, "forward", **where)
    return between(slope, -0.1, 0.1, error, expected=0.0)


def _relu_factor(scheme: str, factor: float) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        slope, error = _slope(ds["relu_preact_second_moment"], "relu")
        found, error = (float(each.sel(relu_scheme=scheme)) for each in (slope, error))
        return agrees(np.exp(found), factor, error * np.exp(found), rtol=0.05)

    statement = f"{scheme.title()} weights change the second moment of ReLU layers by {factor:g}"
    return Claim(statement, "He et al. 2015, eq. 10, 1502.01852: g/2, g = n Var W", check)


def _log_ratios(ds: xr.Dataset) -> tuple[np.ndarray, float, float]:
    """Return ln r of each network that is not all dead, and the law's mean and variance."""
    values = ds["hanin_log_ratio"].values
    mean, variance = finite_width.relu_log_moments(ds.attrs["hanin_width"])
    depth = ds.attrs["hanin_depth"]
    return values[np.isfinite(values)], depth * float(mean), depth * float(variance)


def _hanin_mean(ds: xr.Dataset) -> Measurement:
    values, mean, variance = _log_ratios(ds)
    return agrees(values.mean(), mean, (variance / values.size) ** 0.5, rtol=0.15)


def _hanin_variance(ds: xr.Dataset) -> Measurement:
    values, _, variance = _log_ratios(ds)
    spread = (values - values.mean()) ** 2
    return agrees(spread.mean(), variance, spread.std() / values.size**0.5, rtol=0.05)


def _residual_tanh(ds: xr.Dataset) -> Measurement:
    """Compare ln of the squared gradient's growth with the mean-field recursion's."""
    part = ds.sel(residual_activation="tanh")
    squares = part["residual_preact_grad_rms"] ** 2
    ratio = squares.isel(residual_layer=0) / squares.isel(residual_layer=-1)
    mean, error = (float(each) for each in _mean_and_error(ratio, "residual_seed"))
    starts = part["residual_input_moment"].isel(residual_seed=0).values
    expected = _residual_growth(jnp.asarray(starts), ds.sizes["residual_layer"])
    return agrees(np.log(mean), float(jnp.log(expected)), error / mean, rtol=0.05)


def _residual_growth(starts: jax.Array, depth: int) -> jax.Array:
    """Return the product of chi over a residual tanh network, sigma_w = 1, the mean over inputs."""
    tanh = jn.activations.tanh

    def block(q: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        chi = mean_field.residual_chi(tanh, q, 1.0)
        return mean_field.residual_variance_map(tanh, q, 1.0, 0.0), jnp.log(chi)

    def product(q: jax.Array) -> jax.Array:
        return jnp.exp(jax.lax.scan(block, q, length=depth - 1)[1].sum())

    return jax.jit(jax.vmap(product))(starts).mean()


def _residual_relu(ds: xr.Dataset) -> Measurement:
    """Compare the mean second moment's growth a block with 2, exact at every width."""
    moments = ds["residual_preact_second_moment"].sel(residual_activation="relu").astype(float)
    first, last = moments.isel(residual_layer=0), moments.isel(residual_layer=-1)
    blocks, ratio = moments.sizes["residual_layer"] - 1, last / first
    mean, error = (float(each) for each in _mean_and_error(ratio, "residual_seed"))
    growth = mean ** (1.0 / blocks)
    return agrees(growth, 2.0, growth * error / mean / blocks, rtol=0.05)


def cured(ds: xr.Dataset, activation: str = "relu") -> xr.DataArray:
    """Return final accuracy by regime and cure, at each cell's best learning rate, by seed."""
    accuracy = ds["cure_accuracy"].isel(cure_step=-1).sel(cure_activation=activation)
    best = accuracy.mean("cure_seed").argmax("cure_learning_rate")
    accuracy = accuracy.isel(cure_learning_rate=best)
    cells = accuracy.stack(cure=("cure_residual", "cure_clip_norm")).transpose(..., "cure_seed")
    cures = [CURES[bool(residual), bool(clip < np.inf)] for residual, clip in cells["cure"].values]
    cells = cells.drop_vars(["cure", "cure_residual", "cure_clip_norm"]).rename(cure_gain="regime")
    return cells.assign_coords(cure=cures, regime=list(GAINS)).sel(cure=list(CURES.values()))


def _accuracy_gained(ds: xr.Dataset, cure: str) -> tuple[float, float]:
    """Return what a cure adds to the accuracy of ReLU networks with vanishing gradients."""
    accuracy = cured(ds).sel(regime="vanishing")
    difference = accuracy.sel(cure=cure) - accuracy.sel(cure="none")
    mean, error = _mean_and_error(difference, "cure_seed")
    return float(mean), float(error)


def _residual_vanishing(ds: xr.Dataset) -> Measurement:
    mean, error = _accuracy_gained(ds, "residual")
    return at_least(mean, 0.2, error)


def _clipping_vanishing(ds: xr.Dataset) -> Measurement:
    mean, error = _accuracy_gained(ds, "clipping")
    return between(mean, -0.05, 0.05, error, expected=0.0)


def _right_weights(ds: xr.Dataset) -> Measurement:
    accuracy = cured(ds, "tanh").sel(cure="none")
    wrong = accuracy.drop_sel(regime="normal").max("regime")
    mean, error = _mean_and_error(accuracy.sel(regime="normal") - wrong, "cure_seed")
    return at_least(float(mean), 0.2, float(error))


def _clipping_exploding(ds: xr.Dataset) -> Measurement:
    """Compare the diverged share of exploding ReLU runs with clipping and without."""
    where = {"cure_activation": "relu", "cure_gain": GAINS["exploding"], "cure_residual": 0.0}
    diverged = ds["cure_diverged_at"].sel(where).notnull().mean("cure_learning_rate")
    shares, errors = _mean_and_error(diverged, "cure_seed")
    clipped, free = (float(shares.sel(cure_clip_norm=each)) for each in (1.0, np.inf))
    of_clipped, of_free = (float(errors.sel(cure_clip_norm=each)) for each in (1.0, np.inf))
    ratio = clipped / free if free else np.nan
    error = float(np.hypot(of_clipped, ratio * of_free)) / free if free else np.nan
    return at_most(ratio, 1.0 / 3.0, error)


CLAIMS = (
    _standard_law("forward"),
    _standard_law("backward"),
    Claim(
        "Standard init of a tanh network at small inputs: within 15% of -ln 3 a layer",
        "Glorot & Bengio 2010, section 4.2",
        _tanh_law,
    ),
    Claim(
        "Normalised init keeps the activation variance of a linear network (slope of ln)",
        "Glorot & Bengio 2010, eq. 16",
        _normalised_law,
    ),
    _relu_factor("glorot", 0.5),
    _relu_factor("he", 1.0),
    Claim(
        "Mean of ln(norm ratio) of He ReLU networks follows the exact finite-width law",
        "Hanin 2018, 1801.03744; digamma form ours",
        _hanin_mean,
    ),
    Claim(
        "Variance of ln(norm ratio) of He ReLU networks follows the exact finite-width law",
        "Hanin 2018, 1801.03744; digamma form ours",
        _hanin_variance,
    ),
    Claim(
        "Residual tanh: ln growth of the squared gradient follows the mean-field recursion",
        "Yang & Schoenholz 2017, 1712.08969",
        _residual_tanh,
    ),
    Claim(
        "Residual ReLU with He weights: the second moment doubles in each block",
        "Yang & Schoenholz 2017, 1712.08969",
        _residual_relu,
    ),
    Claim(
        "Trend: the right weight scale cures plain tanh networks (accuracy over a wrong scale)",
        "Glorot & Bengio 2010; ours",
        _right_weights,
    ),
    Claim(
        "Trend: residual connections cure vanishing gradients of ReLU networks (accuracy gained)",
        "Yang & Schoenholz 2017; ours",
        _residual_vanishing,
    ),
    Claim(
        "Trend: clipping does not cure vanishing gradients (accuracy gained)",
        "Pascanu et al. 2013, 1211.5063; ours",
        _clipping_vanishing,
    ),
    Claim(
        "Trend: clipping stops exploding ReLU runs from diverging (diverged share, with / without)",
        "Pascanu et al. 2013, 1211.5063; ours",
        _clipping_exploding,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the three regimes over depth, the schemes' growth, and what cures training."""
    fig, axes = figures.new_figure(2, 2, size=(14, 10))
    _draw_regimes(axes[0, 0], ds, "profile_preact_grad_rms", "Backward signal")
    _draw_regimes(axes[0, 1], ds, "profile_act_var", "Activations")
    _draw_schemes(axes[1, 0], ds)
    _draw_cures(axes[1, 1], ds)
    return fig


def _profile(ds: xr.Dataset, name: str, **where) -> xr.DataArray:
    """Return a profile's typical value, the geometric mean over seeds."""
    found = ds[name].sel({f"profile_{key}": value for key, value in where.items()})
    return np.exp(np.log(found).mean("profile_seed")).assign_attrs(ds[name].attrs)


def _draw_regimes(ax, ds: xr.Dataset, name: str, title: str) -> None:
    typical = _profile(ds, name, activation="relu", scheme="he", residual=0.0)
    middle = ds.sizes["profile_gain"] // 2
    chosen = typical.isel(profile_gain=[0, middle, -1]).assign_attrs(typical.attrs)
    chosen["profile_gain"].attrs = {"long_name": "gain of He weights"}
    figures.profiles(ax, chosen, x="profile_layer", hue="profile_gain")
    last = ds.sizes["profile_layer"]
    for line, regime in zip(ax.get_lines(), GAINS, strict=True):
        end = 0 if name == "profile_preact_grad_rms" else -1  # where the signal arrives
        at = (line.get_xdata()[end], line.get_ydata()[end])
        start = {"xy": at, "xytext": (1 + 0.12 * last if end == 0 else 0.62 * last, at[1])}
        arrow = {"arrowstyle": "->", "color": line.get_color(), "linewidth": 2}
        ax.annotate(
            regime, va="bottom", **start, color=line.get_color(), fontsize=13, arrowprops=arrow
        )
    ax.set(title=f"{title} of plain ReLU networks, {last} layers")


def _draw_schemes(ax, ds: xr.Dataset) -> None:
    nearest = float(ds["profile_gain"].isel(profile_gain=ds.sizes["profile_gain"] // 2))
    typical = _profile(ds, "profile_preact_grad_rms", gain=nearest)
    blocks = typical.sizes["profile_layer"] - 1
    ratio = typical.isel(profile_layer=0) / typical.isel(profile_layer=-1)
    growth = (np.log10(ratio) / blocks).stack(network=("profile_activation", "profile_residual"))
    names = [f"{a}{', residual' if r else ''}" for a, r in growth["network"].values]
    growth = growth.drop_vars(["network", "profile_activation", "profile_residual"])
    growth = growth.assign_coords(network=names).rename(profile_scheme="weights")
    growth.attrs = {
        "long_name": "growth of the gradient towards the input",
        "units": "decades/layer",
    }
    limit = float(np.abs(growth).max())
    figures.heatmap(ax, growth, x="weights", y="network", vmin=-limit, vmax=limit, cmap="RdBu_r")
    _write_cells(ax, growth.transpose("network", "weights"), "{:+.2f}")
    ax.set(title="Vanishing (blue), normal (white), exploding (red)")


def _draw_cures(ax, ds: xr.Dataset) -> None:
    accuracy = cured(ds).mean("cure_seed")
    accuracy.attrs = {"long_name": "training accuracy", "units": "1"}
    figures.heatmap(ax, accuracy, x="cure", y="regime", vmin=0.0, vmax=1.0)
    _write_cells(ax, accuracy.transpose("regime", "cure"), "{:.2f}")
    ax.set(title="What cures ReLU training, real MNIST")


def _write_cells(ax, cells: xr.DataArray, form: str) -> None:
    for (row, column), value in np.ndenumerate(cells.values):
        box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 2}
        ax.text(column, row, form.format(value), ha="center", va="center", fontsize=11, bbox=box)
