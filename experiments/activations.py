"""Activations: which trains how deep, why sigmoids stall, and why non-linearity is needed.

Seven activations on real digits at several depths, each at its own best learning rate. Glorot &
Bengio 2010: in a deep sigmoid network of standard weights the top hidden layer is driven to 0 while
the loss stays at ln C. A deep linear network is one matrix: it obeys superposition and cannot tell
circles apart, but it learns by the modes of Saxe et al. 2013 (1312.6120), and how fast a deep one
learns depends on its start.

Which activation a member has is data: one program computes all of them and takes one.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn.report import Claim, Measurement, at_least, at_most, between, figures
from jaxnn.theory import linear_nets

PROBES = jn.probes
GAINS = {  # of LeCun weights: 2^1/2 for activations that halve the second moment, 4 to undo 1/4
    "sigmoid": 4.0,
    "tanh": 1.0,
    "softsign": 1.0,
    "relu": 2.0**0.5,
    "leaky_relu": 2.0**0.5,
    "gelu": 2.0**0.5,
    "identity": 1.0,
}
NAMES = tuple(GAINS)
PLATEAU = 0.95  # of ln C: the loss from which a network has learnt nothing
DRIVEN = 0.2  # mean activation of a sigmoid layer that counts as driven to 0
LEARNT = 0.05  # of the first loss


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    depths: tuple[int, ...] = (2, 8, 16)
    width: int = 32
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    num_steps: int = 200
    num_seeds: int = 16
    circle_steps: int = 500
    stall_steps: int = 1000
    stall_width: int = 64
    stall_seeds: int = 16
    strengths: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)  # s of the modes
    start: float = 0.05  # u0 of each mode
    end: float = 6.0  # of the modes' training, in units of learning rate times step
    mode_rates: tuple[float, ...] = (0.001, 0.002)
    speed_depths: tuple[int, ...] = (8, 32)  # weight matrices
    speed_rates: tuple[float, ...] = (0.1, 0.2, 0.4, 0.6)  # times depth
    speed_steps: int = 600
    speed_seeds: int = 16


SCALES = {
    "quick": Config(
        depths=(2, 16),
        learning_rates=(0.1, 0.3),
        num_steps=100,
        num_seeds=2,
        stall_steps=600,
        stall_seeds=4,
        speed_depths=(8, 16),
        speed_rates=(0.2, 0.4),
        speed_seeds=2,
    ),
    "default": Config(),
    "paper": Config(
        depths=(1, 2, 4, 8, 16, 32, 64),
        width=256,
        learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        num_steps=5000,
        num_seeds=16,
        stall_steps=20_000,
        stall_width=1000,
        speed_depths=(2, 4, 8, 16, 32, 64),
        speed_steps=1500,
        speed_seeds=16,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train activations over depth and on circles, follow sigmoids, and train linear networks."""
    sweeps = {
        "depth": _depths(config, seed, store / "depth"),
        "circle": _circles(config, seed + 1, store / "circle"),
        "stall": _stall(config, seed + 2, store / "stall"),
        "mode": _modes(config, seed + 3, store / "mode"),
        "speed": _speeds(config, seed + 4, store / "speed"),
    }
    named = [
        ds.rename({each: f"{name}_{each}" for each in {*ds.variables, *ds.dims}})
        for name, ds in sweeps.items()
    ]
    seconds = {
        name: sum(ds.attrs[name] for ds in sweeps.values())
        for name in ("wall_seconds", "compile_seconds")
    }
    merged = xr.merge(named, combine_attrs="drop_conflicts")
    return merged.assign_attrs(**seconds, start=config.start, num_steps=config.num_steps)


def chosen(number: jax.Array) -> jn.Activation:
    """Return the activation of a number that may be traced, in the order of NAMES."""
    each = [jn.activation(name) for name in NAMES]

    def function(z: jax.Array) -> jax.Array:
        return jax.lax.switch(number, [one.function for one in each], z)

    def slope(z: jax.Array) -> jax.Array:
        return jax.lax.switch(number, [one.slope for one in each], z)

    return jn.Activation("chosen", function, slope)


@PROBES.probe(long_name="error of superposition")
def superposition_error(flow: PROBES.Flow) -> jax.Array:
    """Return the rms of f(a) + f(b) - f(a + b) - f(0) over that of f(a) - f(0)."""
    a = flow.x
    f = lambda x: flow.network(flow.params, x)  # noqa: E731
    zero = f(0.0 * a)
    error = f(a) + f(a[::-1]) - f(a + a[::-1]) - zero
    return jnp.sqrt(jnp.mean(error**2) / jnp.mean((f(a) - zero) ** 2))


def _depths(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Train every activation at every depth and learning rate on digits."""
    digits = jn.data.digits()

    def train(key, *, activation, depth, learning_rate):
        weights = jn.lecun(jnp.asarray(list(GAINS.values()))[activation])
        model = jn.mlp(depth, config.width, 10, chosen(activation), weights=weights)
        return jn.fit(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate),
            digits,
            key=key,
            num_steps=config.num_steps,
            record_every=config.num_steps,
            batch_size=32,
            probes=[PROBES.accuracy, superposition_error],
        )

    return _named(
        jn.sweep(
            train,
            activation=jn.traced(range(len(NAMES))),
            depth=jn.depths(config.depths),
            learning_rate=list(config.learning_rates),
            num_seeds=config.num_seeds,
            seed=seed,
            store=store,
        )
    )


def _named(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign_coords(activation=[NAMES[number] for number in ds["activation"].values])


def _circles(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Train two hidden layers to tell two circles apart, one inside the other."""
    circles = jn.data.circles(factor=0.5)

    def train(key, *, activation, learning_rate):
        weights = jn.lecun(jnp.asarray(list(GAINS.values()))[activation])
        return jn.fit(
            jn.mlp(2, 16, 2, chosen(activation), weights=weights),
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate),
            circles,
            key=key,
            num_steps=config.circle_steps,
            record_every=config.circle_steps,
            probes=[PROBES.accuracy],
        )

    return _named(
        jn.sweep(
            train,
            activation=jn.traced(range(len(NAMES))),
            learning_rate=[0.1, 0.3, 1.0],
            num_seeds=config.num_seeds,
            seed=seed,
            store=store,
        )
    )


def _stall(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A2: follow four hidden layers from standard weights U[-n^-1/2, n^-1/2]."""
    digits = jn.data.digits()

    def train(key, *, activation):
        return jn.fit(
            jn.mlp(4, config.stall_width, 10, activation, weights=jn.uniform()),
            jn.cross_entropy,
            jn.optimizer("sgd", 0.3),
            digits,
            key=key,
            num_steps=config.stall_steps,
            record_every=25,
            batch_size=16,
            probes=[PROBES.act_mean, PROBES.loss],
        )

    names = ["sigmoid", "tanh"]
    return jn.sweep(train, activation=names, num_seeds=config.stall_seeds, seed=seed, store=store)


def whitened(strengths: jax.Array) -> jn.Dataset:
    """Return examples whose inputs have the second moment I, and targets diag(s) x.

    Inputs come in pairs of opposite signs, so that biases get no gradient.
    """
    strengths = jnp.asarray(strengths)
    axes = jnp.eye(strengths.size) * strengths.size**0.5
    x = jnp.concatenate([axes, -axes])
    batch = jn.Batch(x, x * strengths[None, :])
    return jn.Dataset(batch, batch, batch)


@PROBES.probe(("mode",), long_name="strength of a mode")
def mode_strength(flow: PROBES.Flow) -> jax.Array:
    """u_i, the i-th singular value of a network on `whitened` inputs."""
    count = flow.x.shape[1]
    return jnp.diagonal(flow.outputs[:count]) / count**0.5


def _modes(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A4: train linear networks of 2, 3 and 5 matrices from aligned weights, all modes at u0."""
    task = whitened(jnp.asarray(config.strengths))
    num_steps, size = round(config.end / min(config.mode_rates)), len(config.strengths)

    def train(key, *, depth, learning_rate):
        each = config.start ** (1.0 / (depth.num_layers + 1))
        return jn.fit(
            jn.mlp(depth, size, size, "identity", weights=jn.scaled_identity(each)),
            jn.squared_error,
            jn.optimizer("sgd", learning_rate),
            task,
            key=key,
            num_steps=num_steps,
            record_every=num_steps // 300,
            sampling="full",
            probes=[mode_strength],
        )

    return jn.sweep(
        train,
        depth=jn.depths([1, 2, 4]),
        learning_rate=list(config.mode_rates),
        num_seeds=1,
        seed=seed,
        store=store,
    ).assign_coords(mode=list(config.strengths))


def _speeds(config: Config, seed: int, store: Path) -> xr.Dataset:
    """A5: train deep linear networks from orthogonal and from Gaussian weights, n Var W = 1."""
    task = whitened(jnp.linspace(0.5, 1.5, 16))

    def train(key, *, depth, orthogonal, rate):
        def weights(key, shape, dtype):
            drawn = [make()(key, shape, dtype) for make in (jn.orthogonal, jn.gaussian)]
            return jnp.where(orthogonal > 0, *drawn)

        return jn.fit(
            jn.mlp(depth, 16, 16, "identity", weights=weights),
            jn.squared_error,
            jn.optimizer("sgd", rate / (depth.num_layers + 1)),
            task,
            key=key,
            num_steps=config.speed_steps,
            record_every=4,
            sampling="full",
            probes=[PROBES.loss],
        )

    return jn.sweep(
        train,
        depth=jn.depths([each - 1 for each in config.speed_depths]),
        orthogonal=[0.0, 1.0],
        rate=list(config.speed_rates),
        num_seeds=config.speed_seeds,
        seed=seed,
        store=store,
    )


def best(ds: xr.Dataset, sweep: str) -> xr.DataArray:
    """Return the accuracy after training by seed, each cell at its best learning rate."""
    accuracy = ds[f"{sweep}_accuracy"].isel({f"{sweep}_step": -1})
    rate = accuracy.mean(f"{sweep}_seed").argmax(f"{sweep}_learning_rate")
    return accuracy.isel({f"{sweep}_learning_rate": rate})


def _mean_and_error(values: xr.DataArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / values.size**0.5)


def _deep_sigmoid(ds: xr.Dataset) -> Measurement:
    deep = best(ds, "depth").isel(depth_depth=-1)
    sigmoid, tanh = (deep.sel(depth_activation=name) for name in ("sigmoid", "tanh"))
    return at_least(*_two_groups(tanh, sigmoid, 0.5))


def _two_groups(more: xr.DataArray, less: xr.DataArray, bound: float) -> tuple[float, float, float]:
    """Return the difference of two means, the bound, and the difference's standard error."""
    (high, high_error), (low, low_error) = _mean_and_error(more), _mean_and_error(less)
    return high - low, bound, float(np.hypot(high_error, low_error))


def _linear_circles(ds: xr.Dataset) -> Measurement:
    return at_most(*_bounded(best(ds, "circle").sel(circle_activation="identity"), 0.65))


def _bounded(values: xr.DataArray, bound: float) -> tuple[float, float, float]:
    mean, error = _mean_and_error(values)
    return mean, bound, error


def _other_circles(ds: xr.Dataset) -> Measurement:
    others = best(ds, "circle").drop_sel(circle_activation="identity")
    worst = others.isel(circle_activation=int(np.argmin(others.mean("circle_seed").values)))
    return at_least(*_bounded(worst, 0.9))


def superposition(ds: xr.Dataset) -> xr.DataArray:
    """Return the error of superposition of the shallowest trained networks, by activation."""
    found = ds["depth_superposition_error"].isel(depth_step=-1, depth_depth=0)
    return found.isel(depth_learning_rate=0).median("depth_seed")


def _one_matrix(ds: xr.Dataset) -> Measurement:
    return at_most(float(superposition(ds).sel(depth_activation="identity")), 1e-4, expected=0.0)


def _not_one_matrix(ds: xr.Dataset) -> Measurement:
    return at_least(float(superposition(ds).drop_sel(depth_activation="identity").min()), 0.1)


def driven(ds: xr.Dataset) -> xr.Dataset:
    """Return the medians over seeds of the sigmoids when their top layer is first driven to 0."""
    typical = ds[["stall_act_mean", "stall_loss"]].sel(stall_activation="sigmoid")
    typical = typical.median("stall_seed")
    low = np.flatnonzero(typical["stall_act_mean"].isel(stall_layer=-1) < DRIVEN)
    if not low.size:
        raise ValueError(f"the top layer's mean activation never fell below {DRIVEN}")
    return typical.isel(stall_step=low[0])


def _on_plateau(ds: xr.Dataset) -> Measurement:
    return at_least(float(driven(ds)["stall_loss"]) / np.log(10.0), PLATEAU)


def _lower_layers(ds: xr.Dataset) -> Measurement:
    lower = driven(ds)["stall_act_mean"].isel(stall_layer=slice(None, -1))
    farthest = lower.isel(stall_layer=int(np.argmax(np.abs(lower.values - 0.5))))
    return between(float(farthest), 0.35, 0.65, expected=0.5)


def _tanh_layers(ds: xr.Dataset) -> Measurement:
    means = ds["stall_act_mean"].sel(stall_activation="tanh").median("stall_seed")
    return at_most(float(np.abs(means).max()), 0.3, expected=0.0)


def mode_error(ds: xr.Dataset) -> xr.DataArray:
    """Return each mode's largest distance from its theory over training, over its final value."""
    strengths, times = ds["mode_mode_strength"].isel(mode_seed=0), _mode_times(ds)
    expected = xr.zeros_like(strengths)
    for depth in ds["mode_depth"].values:
        for final in ds["mode_mode"].values:
            at = {"mode_depth": depth, "mode_mode": final}
            time, strength = mode_curve(final, ds.attrs["start"], depth + 1)
            for rate in ds["mode_learning_rate"].values:
                here = np.interp(times.sel(mode_learning_rate=rate), time, strength)
                expected.loc[{**at, "mode_learning_rate": rate}] = here
    return (np.abs(strengths - expected) / ds["mode_mode"]).max("mode_step")


def _mode_times(ds: xr.Dataset) -> xr.DataArray:
    return ds["mode_step"] * ds["mode_learning_rate"]


def mode_curve(final: float, start: float, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return theory's times and the strengths of a mode at them."""
    share = 1.0 / (1.0 + np.exp(-np.linspace(-12.0, 12.0, 2000)))  # fine at both ends
    strength = start + (final - start) * share
    return np.asarray(_mode_time(strength, final, start, float(depth))), strength


_mode_time = jax.jit(linear_nets.mode_time)


def _mode_law(matrices: int) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        found = mode_error(ds).sel(mode_depth=matrices - 1).isel(mode_learning_rate=0)
        return at_most(float(found.max()), 0.01, expected=0.0)

    statement = f"Modes of {matrices} matrices follow theory at all times (largest error over s)"
    return Claim(statement, "Saxe et al. 2013, 1312.6120: du/dt = D u^(2 - 2/D) (s - u)", check)


def _mode_order(ds: xr.Dataset) -> Measurement:
    small, large = mode_error(ds).max(("mode_mode", "mode_depth")).values
    return between(float(small / large), 0.4, 0.6, expected=0.5)


def steps_to_learn(ds: xr.Dataset) -> xr.DataArray:
    """Return the median steps to LEARNT of the first loss at the best rate; inf: most never."""
    loss = ds["speed_loss"]
    learnt = loss < LEARNT * loss.isel(speed_step=0)
    steps = loss["speed_step"].where(learnt, np.inf).min("speed_step")
    return steps.median("speed_seed").min("speed_rate")


def _orthogonal_depth(ds: xr.Dataset) -> Measurement:
    steps = steps_to_learn(ds).sel(speed_orthogonal=1.0)
    return at_most(float(steps[-1] / steps[0]), 2.5)


def _gaussian_depth(ds: xr.Dataset) -> Measurement:
    """Take runs that never learn as if they had at the last step."""
    steps = steps_to_learn(ds).isel(speed_depth=-1).clip(max=float(ds["speed_step"][-1]))
    ratio = steps.sel(speed_orthogonal=0.0) / steps.sel(speed_orthogonal=1.0)
    return at_least(float(ratio), 10.0)


CLAIMS = (
    Claim(
        "Trend: deep tanh networks train where sigmoid ones do not (accuracy gained, deepest)",
        "Glorot & Bengio 2010, section 3; gains ours",
        _deep_sigmoid,
    ),
    Claim(
        "Sigmoid: the loss is still at ln C when the top layer is driven below 0.2 (loss / ln C)",
        "Glorot & Bengio 2010, section 3.1; trend, median over seeds",
        _on_plateau,
    ),
    Claim(
        "Sigmoid: the layers below are not driven then (mean activation farthest from 0.5)",
        "Glorot & Bengio 2010, figure 2; trend, median over seeds",
        _lower_layers,
    ),
    Claim(
        "Tanh: no layer is driven to a side (largest mean activation at any step)",
        "Glorot & Bengio 2010, section 3.2; trend, median over seeds",
        _tanh_layers,
    ),
    Claim(
        "A deep linear network is one matrix: superposition holds (relative error, trained)",
        "Exact, in float32",
        _one_matrix,
    ),
    Claim("Control: no other activation obeys it (least relative error)", "Ours", _not_one_matrix),
    Claim("A linear network cannot tell circles apart (accuracy)", "Exact: 1/2", _linear_circles),
    Claim("Every other activation can (accuracy of the worst)", "Ours", _other_circles),
    _mode_law(2),
    _mode_law(3),
    _mode_law(5),
    Claim(
        "The modes' error is of first order in the learning rate (ratio at half the rate)",
        "Euler's method",
        _mode_order,
    ),
    Claim(
        "Trend: from orthogonal weights steps to learn hardly grow with depth (deepest / least)",
        "Saxe et al. 2013, section 3; best rate, median",
        _orthogonal_depth,
    ),
    Claim(
        "Trend: from Gaussian weights the deepest take longer (steps, over orthogonal; or never)",
        "Saxe et al. 2013, section 3; best rate, median",
        _gaussian_depth,
    ),
)


def figure(ds: xr.Dataset):
    """Draw accuracy over depth, the sigmoid's stall, the linear modes and the speed of starts."""
    fig, axes = figures.new_figure(2, 2, size=(14, 10))
    _draw_depths(axes[0, 0], ds)
    _draw_stall(axes[0, 1], ds)
    _draw_modes(axes[1, 0], ds)
    _draw_speeds(axes[1, 1], ds)
    return fig


def _draw_depths(ax, ds: xr.Dataset) -> None:
    found = best(ds, "depth")
    count = found.sizes["depth_seed"]
    depths = np.arange(found.sizes["depth_depth"])
    for number, name in enumerate(NAMES):
        line = found.sel(depth_activation=name)
        mean, error = line.mean("depth_seed"), line.std("depth_seed", ddof=1) / count**0.5
        style = {"color": figures.PALETTE[number], "linewidth": 2, "capsize": 3}
        aside = depths + 0.03 * (number - 3)  # so that bars do not hide one another
        ax.errorbar(aside, mean, error, fmt="o-", **style, label=name.replace("_", " "))
    ax.axhline(0.1, color="0.5", linestyle=":")
    ax.set(xticks=depths, xticklabels=found["depth_depth"].values, ylim=(0.0, 1.05))
    ax.set(xlabel="depth [hidden layers]", ylabel="training accuracy")
    ax.set_title(
        f"Digits, {ds.attrs['num_steps']} steps, best rate: mean ± s.e. of {count} seeds\n"
        "(dotted: chance)"
    )
    ax.legend(fontsize=10, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 0.08))


def _draw_stall(ax, ds: xr.Dataset) -> None:
    means = ds["stall_act_mean"].sel(stall_activation="sigmoid")
    low, middle, high = (means.quantile(each, "stall_seed") for each in (0.25, 0.5, 0.75))
    steps = ds["stall_step"].values
    for number, layer in enumerate(ds["stall_layer"].values):
        colour, at = figures.PALETTE[number], {"stall_layer": layer}
        ax.plot(steps, middle.sel(at), color=colour, linewidth=2, label=f"layer {layer}")
        ax.fill_between(steps, low.sel(at), high.sel(at), color=colour, alpha=0.25)
    loss = ds["stall_loss"].sel(stall_activation="sigmoid").median("stall_seed") / np.log(10.0)
    ax.plot(steps, loss, "k--", linewidth=2, label="loss / ln 10")
    ax.set(ylim=(0.0, 1.25), xlabel="training step", ylabel="mean activation; loss over ln 10")
    ax.set_title(
        "Sigmoid: the top layer is driven to 0\n"
        f"(median, quartiles of {means.sizes['stall_seed']} seeds)"
    )
    ax.legend(fontsize=10, frameon=False, ncols=3, loc="upper center")


def _draw_modes(ax, ds: xr.Dataset) -> None:
    strengths = ds["mode_mode_strength"].isel(mode_seed=0, mode_learning_rate=0)
    times = _mode_times(ds).isel(mode_learning_rate=0)
    final = float(ds["mode_mode"][-1])
    for number, depth in enumerate(ds["mode_depth"].values):
        for mode in ds["mode_mode"].values[[0, -1]]:
            colour = figures.PALETTE[number]
            time, strength = mode_curve(mode, ds.attrs["start"], depth + 1)
            ax.plot(time, strength, color=colour, linewidth=2)
            dots = strengths.sel(mode_depth=depth, mode_mode=mode).isel(
                mode_step=slice(0, None, 12)
            )
            name = f"{depth + 1} matrices" if mode == final else None
            ax.plot(times[::12], dots, "o", color=colour, markersize=5, label=name)
    ax.set(xlim=(0.0, float(times[-1])), xlabel="time [learning rate x step]")
    ax.set(ylabel="strength u of a mode")
    ax.set_title(
        f"Linear networks: modes of s = {float(ds['mode_mode'][0]):g} and {final:g},\n"
        "descent (dots) on theory (lines)"
    )
    ax.legend(fontsize=11, frameon=False, loc="center right")


def _draw_speeds(ax, ds: xr.Dataset) -> None:
    """Draw the median loss at each start's and depth's best rate."""
    loss = ds["speed_loss"] / ds["speed_loss"].isel(speed_step=0)
    curves = loss.median("speed_seed")
    fastest = curves.fillna(np.inf).mean("speed_step").argmin("speed_rate")
    curves = curves.isel(speed_rate=fastest)
    names = {0.0: "Gaussian", 1.0: "orthogonal"}
    for number, (orthogonal, name) in enumerate(names.items()):
        for depth, style in zip(ds["speed_depth"].values[[0, -1]], ("-", "--"), strict=True):
            line = curves.sel(speed_orthogonal=orthogonal, speed_depth=depth)
            label = f"{name}, {depth + 1} matrices"
            ax.plot(1 + ds["speed_step"], line, style, color=figures.PALETTE[number], label=label)
    ax.axhline(LEARNT, color="0.5", linestyle=":")
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 3.0))
    ax.set(xlabel="1 + training step", ylabel="loss over the first loss")
    ax.set_title(
        f"Deep linear networks at their best rate,\nmedian of {ds.sizes['speed_seed']} seeds"
    )
    ax.legend(fontsize=10, frameon=False, loc="lower left")
