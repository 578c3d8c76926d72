"""Born dead: how many deep, narrow ReLU networks are constant from birth, and what prevents it.

A ReLU unit that is inactive gets no gradient. Lu et al. 2019 (1903.06733) compute how probable it
is that all units of a layer are, which makes a network constant. That law is counted here on
networks of one input, with the leaky slope (Maas et al. 2013) and the randomised asymmetric start
(RAI, Lu et al.) as cures.

Dead is not zero: a network counts as constant where no unit's derivative over the input differs
from 0, whatever its biases make it say.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn.report import Claim, Measurement, agrees, at_most, between, figures
from jaxnn.theory import dead_units

LU = "Lu et al. 2019, 1903.06733"


@dataclass(frozen=True)
class Config:
    """What is varied, and how many networks are counted."""

    widths: tuple[int, ...] = (2, 3, 4, 5, 8)
    num_hidden: int = 49
    num_groups: int = 64  # of networks that are born together
    num_nets: int = 125  # in a group
    leaks: tuple[float, ...] = (0.0, 0.01, 0.1, 0.3)


SCALES = {
    "quick": Config(widths=(2, 5), num_groups=32, leaks=(0.0, 0.1)),
    "default": Config(),
    "paper": Config(widths=(2, 3, 4, 5, 6, 7, 8, 10, 12, 16), num_hidden=99, num_groups=800),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Count the networks that are constant after each hidden layer, by group.

    Death at a point is of the input 1, death on the line of a grid and two inputs far away.
    """

    def born(key, *, width, asymmetric, slope):
        x = jnp.concatenate([jnp.array([1.0, -1e3, 1e3]), jnp.linspace(-3.0, 3.0, 21)])[:, None]
        weights = jn.he((1.0 + slope**2) ** -0.5)  # keeps the variance
        model = jn.mlp(config.num_hidden, width, 1, jn.leaky_relu(slope), weights=weights)

        def constant(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            plain = model.init(key, x)
            choose = functools.partial(jnp.where, asymmetric > 0)
            variables = jax.tree.map(choose, jn.rai(key, plain), plain)
            hidden = lambda x: model.apply(variables, x)[1].post  # noqa: E731
            _, derivatives = jax.jvp(hidden, (x,), (jnp.ones_like(x),))  # [layer, input, unit]
            dead = jnp.all(derivatives == 0, axis=-1)
            return dead[:, 0], jnp.all(dead, axis=-1)

        point, line = jax.vmap(constant)(jax.random.split(key, config.num_nets))
        shares = {"point": point.mean(0), "line": line.mean(0)}
        found = {
            name: jn.Labelled(share, ("hidden",), "1", "share of networks born dead")
            for name, share in shares.items()
        }
        return {**found, "hidden": jn.Coordinate(tuple(range(1, config.num_hidden + 1)))}

    with jax.enable_x64(True):  # derivatives of 49 leaky layers are as small as 1e-98
        ds = jn.sweep(
            born,
            width=list(config.widths),
            asymmetric=[0.0, 1.0],
            slope=list(config.leaks),
            num_seeds=config.num_groups,
            seed=seed,
            store=store,
        )
    return ds.assign_attrs(num_counted=config.num_groups * config.num_nets)


def born_dead(ds: xr.Dataset, where: str, **cell: float) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the share of networks born dead at a "point" or on the "line", and its error."""
    share = ds[where].sel({"asymmetric": 0.0, "slope": 0.0, **cell}).mean("seed")
    return share, (share * (1.0 - share) / ds.attrs["num_counted"]) ** 0.5


def _point_law(width: int, num_hidden: int) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        share, error = born_dead(ds, "point", width=width, hidden=num_hidden)
        expected = dead_units.death_probability(width, num_hidden)
        return agrees(float(share), float(expected), float(error), rtol=0.05)

    statement = f"Width {width}, {num_hidden} hidden layers: share born dead at one input"
    return Claim(statement, f"{LU}: 1 - (1 - 2^-N)^H, exact", check)


def _line_law(width: int, num_hidden: int) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        found = born_dead(ds, "line", width=width, hidden=num_hidden)
        share, error = (float(each) for each in found)
        low, high = (float(each) for each in dead_units.line_death_bounds(width, num_hidden))
        return between(share, low - 3.0 * error, high + 3.0 * error, error)

    statement = f"Width {width}, {num_hidden} hidden layers: share born dead on the whole line"
    return Claim(statement, f"{LU}: their bounds, 3 standard errors wide", check)


def _hazard(ds: xr.Dataset) -> Measurement:
    """Compare the deaths at a layer among networks alive before it with 2^-N; the worst width."""
    share, _ = born_dead(ds, "point")
    alive = (1.0 - share).shift(hidden=1, fill_value=1.0).sum("hidden")
    expected = 2.0 ** -share["width"]
    found = share.isel(hidden=-1) / alive
    trials = alive * ds.attrs["num_counted"]
    z = (found - expected) / (expected * (1.0 - expected) / trials) ** 0.5
    return at_most(float(np.abs(z).max()), 3.0)


def _two_layers(ds: xr.Dataset) -> Measurement:
    share, error = born_dead(ds, "line", width=2, hidden=2)
    return agrees(float(share), 5.0 / 32.0, float(error), rtol=0.1)


def _asymmetric(ds: xr.Dataset) -> Measurement:
    deaths = [
        born_dead(ds, "line", width=2, hidden=9, asymmetric=redrawn) for redrawn in (1.0, 0.0)
    ]
    ratio = float(deaths[0][0] / deaths[1][0])
    error = ratio * np.hypot(*(float(error / share) for share, error in deaths))
    return at_most(ratio, 1.0 / 3.0, error, expected=0.292 / 0.919)


def _leaky_alive(ds: xr.Dataset) -> Measurement:
    leaky = ds["point"].where(ds["slope"] > 0, drop=True)
    return between(float(leaky.max()), 0.0, 0.0)


CLAIMS = (
    _point_law(2, 9),
    _point_law(5, 49),
    Claim(
        "A live signal dies in each layer with probability 2^-N (|z| of the worst width)",
        f"{LU}, exact",
        _hazard,
    ),
    _line_law(2, 9),
    _line_law(5, 49),
    Claim(
        "Width 2, 2 hidden layers: share born dead on the whole line",
        "Exact, 5/32; ours, as the chain of two rays",
        _two_layers,
    ),
    Claim(
        "Trend: RAI cures narrow and deep networks (share born dead, with / without; N 2, H 9)",
        f"{LU}: 91.9% to 29.2% (theirs after training)",
        _asymmetric,
    ),
    Claim(
        "With any leaky slope above 0 no network is born dead (largest share, at one input)",
        "Maas et al. 2013, exact",
        _leaky_alive,
    ),
)


def figure(ds: xr.Dataset):
    """Draw death at one input against the exact law, and what the cures change on the line."""
    fig, (left, right) = figures.new_figure(1, 2, size=(13, 5.4))
    hidden = ds["hidden"].values
    shown = np.unique(np.geomspace(1, hidden[-1], 10).round().astype(int))
    _draw_law(left, ds, shown)
    _draw_cures(right, ds, shown)
    for ax in (left, right):
        ax.set(xscale="log", xlabel="hidden layers", ylabel="share of networks born dead")
        ax.set(ylim=(-0.03, 1.03))
        figures.plain_ticks(ax.xaxis, (1, 2, 5, 10, 20, 50))
    return fig


def _draw_law(ax, ds: xr.Dataset, shown: np.ndarray) -> None:
    hidden = ds["hidden"].values
    for number, width in enumerate(ds["width"].values):
        colour = figures.PALETTE[number % len(figures.PALETTE)]
        ax.plot(hidden, dead_units.death_probability(width, hidden), color=colour)
        share, error = born_dead(ds, "point", width=width, hidden=shown)
        ax.errorbar(shown, share, 3.0 * error, fmt="o", color=colour, label=f"{width} units")
    count = ds.attrs["num_counted"]
    ax.set_title(f"At one input: {count} networks each (dots, 3 s.e.)\nand the exact law (lines)")
    ax.legend(frameon=False, loc="upper left")


def _draw_cures(ax, ds: xr.Dataset, shown: np.ndarray) -> None:
    hidden, width = ds["hidden"].values, ds["width"].values[0]
    bounds = dead_units.line_death_bounds(width, hidden)
    ax.fill_between(
        hidden, *bounds, color=figures.PALETTE[0], alpha=0.2, label="Lu et al.'s bounds"
    )
    leaky = ds["slope"].values[ds["slope"].values > 0]
    drawn = {"He": {}, "RAI": {"asymmetric": 1.0}}
    drawn.update({f"leaky, slope {slope:g}": {"slope": slope} for slope in leaky[:1]})
    for (name, cell), colour in zip(drawn.items(), figures.PALETTE, strict=False):
        share, error = born_dead(ds, "line", width=width, hidden=shown, **cell)
        ax.errorbar(shown, share, 3.0 * error, fmt="o-", color=colour, label=name)
    ax.set_title(f"On the whole line, {width} units: what prevents it\n(counted, 3 s.e.)")
    ax.legend(frameon=False, loc="upper left")
