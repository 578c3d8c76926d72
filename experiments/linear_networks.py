"""Deep linear networks: how they learn mode by mode, and how fast from which start.

Saxe et al. 2013 (1312.6120): although a deep linear network is one matrix, its training is not
linear. From aligned weights each singular mode of the task follows an equation of its own; from
random ones the steps to learn hardly grow with depth if the weights are orthogonal, and do if they
are Gaussian of the same variance, n Var W = 1.
"""

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
    at_least,
    at_most,
    between,
    figures,
    first_where,
    gather,
    part,
)
from jaxnn.theory import linear_nets

PROBES = jn.probes
LEARNT = 0.05  # of the first loss


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes; depths count weight matrices."""

    strengths: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)  # s of the modes
    start: float = 0.05  # u0 of each mode
    end: float = 6.0  # of the modes' training, in units of learning rate times step
    mode_rates: tuple[float, float] = (0.001, 0.002)  # one half of the other
    width: int = 16
    depths: tuple[int, ...] = (8, 32)
    rates: tuple[float, ...] = (0.1, 0.2, 0.4, 0.6)  # times depth
    num_steps: int = 600
    num_seeds: int = 16


SCALES = {
    "quick": Config(depths=(8, 16), rates=(0.2, 0.4), num_seeds=3),
    "default": Config(),
    "paper": Config(depths=(2, 4, 8, 16, 32, 64), num_steps=1500),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train from aligned weights, and from orthogonal and Gaussian ones."""
    task, spread = whitened(config.strengths), whitened(jnp.linspace(0.5, 1.5, config.width))
    mode_steps, size = round(config.end / min(config.mode_rates)), len(config.strengths)

    def modes(key, *, depth, learning_rate):
        each = config.start ** (1.0 / (depth.num_layers + 1))
        return jn.fit(
            jn.mlp(depth, size, size, "identity", weights=jn.scaled_identity(each)),
            jn.squared_error,
            jn.optimizer("sgd", learning_rate),
            task,
            key=key,
            num_steps=mode_steps,
            record_every=mode_steps // 300,
            sampling="full",
            probes=[mode_strength],
        )

    def speed(key, *, depth, orthogonal, rate):
        def weights(key, shape, dtype):
            drawn = [make()(key, shape, dtype) for make in (jn.orthogonal, jn.gaussian)]
            return jnp.where(orthogonal > 0, *drawn)

        return jn.fit(
            jn.mlp(depth, config.width, config.width, "identity", weights=weights),
            jn.squared_error,
            jn.optimizer("sgd", rate / (depth.num_layers + 1)),
            spread,
            key=key,
            num_steps=config.num_steps,
            record_every=4,
            sampling="full",
            probes=[PROBES.loss],
        )

    learnt = jn.sweep(
        modes,
        depth=jn.depths([1, 2, 4]),  # hidden layers
        learning_rate=list(config.mode_rates),
        num_seeds=1,
        seed=seed,
        store=store / "mode",
    )
    speeds = jn.sweep(
        speed,
        depth=jn.depths([matrices - 1 for matrices in config.depths]),
        orthogonal=[0.0, 1.0],
        rate=list(config.rates),
        num_seeds=config.num_seeds,
        seed=seed,
        store=store / "speed",
    )
    learnt = learnt.isel(seed=0).assign_coords(mode=list(config.strengths))
    parts = {"mode": learnt, "speed": speeds}
    parts = {name: ds.assign_coords(depth=ds["depth"] + 1) for name, ds in parts.items()}
    return gather(parts, start=config.start)


def whitened(strengths: jax.typing.ArrayLike) -> jn.Dataset:
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


def theory(modes: xr.Dataset) -> xr.DataArray:
    """Return the strength that gradient flow gives each mode, at the steps' times."""
    mode_time = jax.jit(linear_nets.mode_time)
    share = 1.0 / (1.0 + np.exp(-np.linspace(-12.0, 12.0, 2000)))  # fine at both ends

    def strength(times: np.ndarray, final: float, matrices: float) -> np.ndarray:
        start = modes.attrs["start"]
        along = start + (final - start) * share
        return np.interp(times, np.asarray(mode_time(along, final, start, float(matrices))), along)

    return xr.apply_ufunc(
        strength,
        modes["step"] * modes["learning_rate"],
        modes["mode"],
        modes["depth"],
        input_core_dims=[["step"], [], []],
        output_core_dims=[["step"]],
        vectorize=True,
    )


def mode_error(modes: xr.Dataset) -> xr.DataArray:
    """Return each mode's largest distance from its theory over training, over its final value."""
    return (np.abs(modes["mode_strength"] - theory(modes)) / modes["mode"]).max("step")


def _mode_law(matrices: int) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        found = mode_error(part(ds, "mode")).sel(depth=matrices).isel(learning_rate=0)
        return at_most(float(found.max()), 0.01, expected=0.0)

    statement = f"Modes of {matrices} matrices follow theory at all times (largest error over s)"
    return Claim(statement, "Saxe et al. 2013, 1312.6120: du/dt = D u^(2 - 2/D) (s - u)", check)


def _mode_order(ds: xr.Dataset) -> Measurement:
    small, large = mode_error(part(ds, "mode")).max(("mode", "depth")).values
    return between(float(small / large), 0.4, 0.6, expected=0.5)


def steps_to_learn(ds: xr.Dataset) -> xr.DataArray:
    """Return the median steps to LEARNT of the first loss at the best rate; inf: most never."""
    loss = part(ds, "speed")["loss"]
    return first_where(loss < LEARNT * loss.isel(step=0)).median("seed").min("rate")


def _orthogonal_depth(ds: xr.Dataset) -> Measurement:
    steps = steps_to_learn(ds).sel(orthogonal=1.0)
    return at_most(float(steps[-1] / steps[0]), 2.5)


def _gaussian_depth(ds: xr.Dataset) -> Measurement:
    """Take runs that never learn as if they had at the last step."""
    steps = steps_to_learn(ds).isel(depth=-1).clip(max=float(ds["speed_step"][-1]))
    return at_least(float(steps.sel(orthogonal=0.0) / steps.sel(orthogonal=1.0)), 10.0)


CLAIMS = (
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
    """Draw the modes on their theory, and the loss from either start."""
    fig, (left, right) = figures.new_figure(1, 2, size=(13, 5.2))
    _draw_modes(left, part(ds, "mode"))
    _draw_speeds(right, part(ds, "speed"))
    return fig


def _draw_modes(ax, ds: xr.Dataset) -> None:
    """Draw the weakest and the strongest mode at the smaller learning rate."""
    times = ds["step"] * ds["learning_rate"][0]
    measured, expected = (
        each.isel(learning_rate=0, mode=[0, -1]).transpose("depth", "step", "mode")
        for each in (ds["mode_strength"], theory(ds))
    )
    for number, matrices in enumerate(ds["depth"].values):
        colour = figures.PALETTE[number]
        lines = ax.plot(times, expected[number], color=colour, linewidth=2)
        lines[0].set_label(f"{matrices} matrices")
        ax.plot(times[::12], measured[number, ::12], "o", color=colour, markersize=5)
    ax.set(xlabel="time [learning rate x step]", ylabel="strength u of a mode")
    weakest, strongest = measured["mode"].values
    ax.set_title(f"Modes of s = {weakest:g} and {strongest:g}:\ndescent (dots) on theory (lines)")
    ax.legend(fontsize=11, frameon=False, loc="center right")


def _draw_speeds(ax, ds: xr.Dataset) -> None:
    """Draw the median loss at each start's and depth's best rate."""
    curves = (ds["loss"] / ds["loss"].isel(step=0)).median("seed")
    curves = curves.isel(rate=curves.fillna(np.inf).mean("step").argmin("rate"))
    for number, name in enumerate(("Gaussian", "orthogonal")):
        for matrices, style in zip(ds["depth"].values[[0, -1]], ("-", "--"), strict=True):
            line = curves.sel(orthogonal=number, depth=matrices)
            label = f"{name}, {matrices} matrices"
            ax.plot(1 + ds["step"], line, style, color=figures.PALETTE[number], label=label)
    ax.axhline(LEARNT, color="0.5", linestyle=":")
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 3.0))
    ax.set(xlabel="1 + training step", ylabel="loss over the first loss")
    ax.set_title(
        f"Best rate, median of {ds.sizes['seed']} seeds\n(dotted: {LEARNT:.0%}, counted as learnt)"
    )
    ax.legend(fontsize=10, frameon=False, loc="lower left")
