"""Dead ReLUs: networks born dead, units killed in training, and what prevents either.

A ReLU unit that is inactive on every input gets no gradient. Lu et al. 2019 (1903.06733) compute
how probable it is that a deep, narrow network is constant from birth. That law is counted here on
networks of one input, with the leaky slope (Maas et al. 2013) and the randomised asymmetric start
(RAI, Lu et al.) as cures. Units that die in training are followed one by one on real digits, with
one hidden layer and the whole training set at each step. Last comes a factorial of causes and
cures.

Dead is not zero: a network counts as constant where no unit's derivative over the input differs
from 0, whatever its biases make it say; a unit is dead where it is inactive on every training
example.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import xarray as xr

import jaxnn as jn
from jaxnn.report import Claim, Measurement, agrees, at_least, at_most, between, figures
from jaxnn.theory import dead_units

PROBES = jn.probes
HEALTHY = {
    "norm": "none",
    "gain": 1.0,  # sqrt(fan_in Var W)
    "learning_rate": 0.1,
    "relief": 1.0,  # multiplies the learning rate
    "bias": 0.0,  # of all units at the start
    "slope": 0.0,
}
CAUSES = {
    "healthy": {},
    "large rate": {"learning_rate": 1.0},
    "negative bias": {"bias": -1.0},
    "both": {"learning_rate": 1.0, "bias": -1.0},
}
CURES = {
    "none": {},
    "rate / 10": {"relief": 0.1},
    "He weights": {"gain": 2.0**0.5},
    "leaky": {"slope": 0.1},
    "leaky + He": {"slope": 0.1, "gain": 2.0**0.5},
    "batch norm": {"norm": "batch"},
}


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    widths: tuple[int, ...] = (2, 3, 4, 5, 8)
    num_hidden: int = 49
    num_groups: int = 64  # of networks that are born together
    num_nets: int = 125  # in a group
    leaks: tuple[float, ...] = (0.0, 0.01, 0.1, 0.3)
    kill_rates: tuple[float, float, int] = (0.5, 10.0, 16)  # least, most, number of values
    kill_width: int = 64
    kill_steps: int = 100
    kill_seeds: int = 8
    num_examples: int = 512  # all of them are probed
    cure_shape: tuple[int, int] = (3, 32)  # hidden layers and their units
    cure_steps: int = 150
    cure_seeds: int = 16


SCALES = {
    "quick": Config(
        widths=(2, 5),
        num_groups=32,
        leaks=(0.0, 0.1),
        kill_rates=(0.5, 4.0, 5),
        kill_steps=60,
        kill_seeds=6,
        num_examples=256,
        cure_seeds=8,
    ),
    "default": Config(),
    "paper": Config(
        widths=(2, 3, 4, 5, 6, 7, 8, 10, 12, 16),
        num_hidden=99,
        num_groups=800,
        kill_rates=(0.1, 10.0, 32),
        kill_steps=1000,
        kill_seeds=32,
        num_examples=1259,
        cure_steps=2000,
        cure_seeds=64,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Count networks born dead, follow units that are killed, train causes against cures."""
    with jax.enable_x64(True):  # derivatives of 49 leaky layers are as small as 1e-98
        born = _born(config, seed, store / "born")
    digits = jn.data.digits()
    task = digits._replace(train=jax.tree.map(lambda x: x[: config.num_examples], digits.train))
    sweeps = {
        "born": born,
        "kill": _kill(config, task, seed, store / "kill"),
        "cure": _cure(config, task, seed, store / "cure"),
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
    return merged.assign_attrs(**seconds, num_nets=config.num_nets)


def _born(config: Config, seed: int, store: Path) -> xr.Dataset:
    """B1, B2: the share of networks of one input that are constant after each hidden layer.

    Death at a point is of the input 1, death on the line of a grid and two inputs far away.
    """
    x = jnp.concatenate([jnp.array([1.0, -1e3, 1e3]), jnp.linspace(-3.0, 3.0, 21)])[:, None]

    def born(key, *, width, asymmetric, slope):
        variance_kept = (1.0 + slope**2) ** -0.5
        model = jn.mlp(
            config.num_hidden, width, 1, jn.leaky_relu(slope), weights=jn.he(variance_kept)
        )

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

    return jn.sweep(
        born,
        width=list(config.widths),
        asymmetric=[0.0, 1.0],
        slope=list(config.leaks),
        num_seeds=config.num_groups,
        seed=seed,
        store=store,
    )


@PROBES.probe(("unit",), long_name="dead unit")
def dead_unit(flow: PROBES.Flow) -> jax.Array:
    """1 for each unit of the first layer that is inactive on every example."""
    return jnp.all(flow.taps.pre[0] <= 0, axis=0).astype(flow.taps.pre.dtype)


def _kill(config: Config, task: jn.Dataset, seed: int, store: Path) -> xr.Dataset:
    """B3: follow each unit of one hidden layer over full-batch training."""

    def train(key, *, learning_rate, momentum):
        return jn.fit(
            jn.mlp(1, config.kill_width, 10, "relu", weights=jn.he()),
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate, momentum=momentum),
            task,
            key=key,
            num_steps=config.kill_steps,
            record_every=1,
            sampling="full",
            probe_size=config.num_examples,
            probes=[dead_unit, PROBES.accuracy],
        )

    return jn.sweep(
        train,
        learning_rate=np.geomspace(*config.kill_rates),
        momentum=[0.0, 0.9],
        num_seeds=config.kill_seeds,
        seed=seed + 1,
        store=store,
    )


def _cure(config: Config, task: jn.Dataset, seed: int, store: Path) -> xr.Dataset:
    """Train every combination of causes and cures on minibatches."""

    def train(key, *, norm, gain, learning_rate, relief, bias, slope):
        model = jn.mlp(
            *config.cure_shape,
            10,
            jn.leaky_relu(slope),
            weights=jn.gaussian(gain),
            biases=jn.constant(bias),
            norm=norm,
        )
        return jn.fit(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", learning_rate * relief),
            task,
            key=key,
            num_steps=config.cure_steps,
            record_every=config.cure_steps,
            batch_size=32,
            probe_size=config.num_examples,
            probes=[PROBES.dead_fraction, PROBES.accuracy],
        )

    changes = [*CAUSES.values(), *CURES.values()]
    factors = {
        name: list(dict.fromkeys(each.get(name, level) for each in changes))
        for name, level in HEALTHY.items()
    }
    return jn.sweep(train, **factors, num_seeds=config.cure_seeds, seed=seed + 2, store=store)


def born_dead(ds: xr.Dataset, where: str, **cell: float) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the share of networks born dead at a "point" or on the "line", and its error."""
    found = {"asymmetric": 0.0, "slope": 0.0, **cell}
    groups = ds[f"born_{where}"].sel({f"born_{name}": value for name, value in found.items()})
    share = groups.mean("born_seed")
    return share, (share * (1.0 - share) / (groups.sizes["born_seed"] * ds.num_nets)) ** 0.5


def _point_law(width: int, num_hidden: int) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        share, error = born_dead(ds, "point", width=width, hidden=num_hidden)
        expected = dead_units.death_probability(width, num_hidden)
        return agrees(float(share), float(expected), float(error), rtol=0.05)

    statement = f"Width {width}, {num_hidden} hidden layers: share born dead at one input"
    return Claim(statement, "Lu et al. 2019, 1903.06733: 1 - (1 - 2^-N)^H, exact", check)


def _line_law(width: int, num_hidden: int) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        share, error = (
            float(each) for each in born_dead(ds, "line", width=width, hidden=num_hidden)
        )
        low, high = (float(each) for each in dead_units.line_death_bounds(width, num_hidden))
        return between(share, low - 3.0 * error, high + 3.0 * error, error)

    statement = f"Width {width}, {num_hidden} hidden layers: share born dead on the whole line"
    return Claim(
        statement, "Lu et al. 2019, 1903.06733: their bounds, 3 standard errors wide", check
    )


def _hazard(ds: xr.Dataset) -> Measurement:
    """Compare the deaths at a layer among networks alive before it with 2^-N; the worst width."""
    share, _ = born_dead(ds, "point")
    alive = (1.0 - share).shift(born_hidden=1, fill_value=1.0).sum("born_hidden")
    expected = 2.0 ** -share["born_width"]
    found = share.isel(born_hidden=-1) / alive
    trials = alive * ds.sizes["born_seed"] * ds.num_nets
    z = (found - expected) / (expected * (1.0 - expected) / trials) ** 0.5
    return at_most(float(np.abs(z).max()), 3.0)


def _two_layers(ds: xr.Dataset) -> Measurement:
    share, error = born_dead(ds, "line", width=2, hidden=2)
    return agrees(float(share), 5.0 / 32.0, float(error), rtol=0.1)


def _asymmetric(ds: xr.Dataset) -> Measurement:
    plain, redrawn = (
        born_dead(ds, "line", width=2, hidden=9, asymmetric=each) for each in (0.0, 1.0)
    )
    ratio = float(redrawn[0] / plain[0])
    error = ratio * np.hypot(*(float(error / share) for share, error in (plain, redrawn)))
    return at_most(ratio, 1.0 / 3.0, error, expected=0.292 / 0.919)


def _leaky_alive(ds: xr.Dataset) -> Measurement:
    slopes = ds["born_slope"] > 0
    return between(float(ds["born_point"].where(slopes, drop=True).max()), 0.0, 0.0)


def revived(ds: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return how many units were dead at some step, and how many of them were not later."""
    dead = (ds["kill_dead_unit"] > 0).transpose("kill_step", ...)
    ever = dead.copy(data=np.logical_or.accumulate(dead.values))
    others = ("kill_learning_rate", "kill_seed", "kill_unit")
    return ever.isel(kill_step=-1).sum(others), (ever & ~dead).any("kill_step").sum(others)


def killed(ds: xr.Dataset) -> xr.DataArray:
    """Return the share of units dead after training, by seed."""
    return ds["kill_dead_unit"].isel(kill_step=-1).mean("kill_unit")


def _rate_kills(ds: xr.Dataset) -> Measurement:
    plain = ds.sel(kill_momentum=0.0)
    stable = ~plain["kill_diverged_at"].notnull().any("kill_seed")

    def rank(part: xr.DataArray) -> float:
        mean = part.mean("kill_seed").where(stable, drop=True)
        return float(scipy.stats.spearmanr(mean, mean["kill_learning_rate"]).statistic)

    shares = killed(plain)
    count = shares.sizes["kill_seed"]
    left_out = [rank(shares.drop_isel(kill_seed=number)) for number in range(count)]
    error = float(np.std(left_out)) * (count - 1) ** 0.5  # the jackknife's
    return at_least(rank(shares), 0.9, error)


def _stay_dead(momentum: float) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        ever, back = (int(each.sel(kill_momentum=momentum)) for each in revived(ds))
        if not ever:
            raise ValueError("no unit died, so none could come back")
        return at_least(back, 1) if momentum else between(back, 0, 0)

    if momentum:
        return Claim("Control: with momentum 0.9 dead units come back (units)", "Ours", check)
    statement = "Full-batch gradient descent: dead units that come back (units, of all that died)"
    return Claim(statement, "Exact: their gradient is 0; folklore (CS231n)", check)


def cell(ds: xr.Dataset, quantity: str, cause: str, cure: str) -> xr.DataArray:
    """Return a measurement after training under a cause and a cure, the mean over layers."""
    levels = {**HEALTHY, **CAUSES[cause], **CURES[cure]}
    found = ds[f"cure_{quantity}"].isel(cure_step=-1)
    found = found.sel({f"cure_{name}": level for name, level in levels.items()})
    return found.mean("cure_layer") if "cure_layer" in found.dims else found


def _mean_and_error(values: xr.DataArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / values.size**0.5)


def _causes(cause: str) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        dead = [cell(ds, "dead_fraction", each, "none") for each in (cause, "healthy")]
        mean, error = _mean_and_error(dead[0] - dead[1])
        return at_least(mean, 0.3, error)

    return Claim(f"Trend: a {cause} kills (share of units, minus the healthy)", "Ours", check)


def _cured(cause: str, cure: str, source: str) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        dead = {each: cell(ds, "dead_fraction", cause, each) for each in (cure, "none")}
        mean, error = _mean_and_error(dead[cure] / dead["none"].mean())
        return at_most(mean, 1.0 / 3.0, error)

    statement = f"Trend: {cure} cures a {cause} (share of dead units, with / without)"
    return Claim(statement, source, check)


def _no_relief(ds: xr.Dataset) -> Measurement:
    dead = {each: cell(ds, "dead_fraction", "negative bias", each) for each in CURES}
    mean, error = _mean_and_error(dead["rate / 10"] / dead["none"].mean())
    return between(mean, 0.9, 1.1, error, expected=1.0)


def _leaky_trains(ds: xr.Dataset) -> Measurement:
    right = {each: cell(ds, "accuracy", "negative bias", each) for each in CURES}
    mean, error = _mean_and_error(right["leaky + He"] - right["none"])
    return at_least(mean, 0.3, error)


CLAIMS = (
    _point_law(2, 9),
    _point_law(5, 49),
    Claim(
        "A live signal dies in each layer with probability 2^-N (|z| of the worst width)",
        "Lu et al. 2019, 1903.06733, exact",
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
        "Lu et al. 2019, 1903.06733: 91.9% to 29.2% (theirs after training)",
        _asymmetric,
    ),
    Claim(
        "With any leaky slope above 0 no network is born dead (largest share, at one input)",
        "Maas et al. 2013, exact",
        _leaky_alive,
    ),
    Claim(
        "Trend: a larger learning rate kills more units (Spearman, below divergence)",
        "Folklore (CS231n)",
        _rate_kills,
    ),
    _stay_dead(0.0),
    _stay_dead(0.9),
    _causes("large rate"),
    _causes("negative bias"),
    _cured("large rate", "rate / 10", "Folklore (CS231n)"),
    _cured("large rate", "batch norm", "Ioffe & Szegedy 2015, 1502.03167; ours"),
    _cured("negative bias", "batch norm", "Exact at the start: it takes the bias out; ours"),
    Claim(
        "A lower rate does not bring back units born dead (share of dead units, with / without)",
        "Exact for units dead on every input: their gradient is 0",
        _no_relief,
    ),
    Claim(
        "Trend: a leaky slope and He weights cure a negative bias (accuracy gained over neither)",
        "Maas et al. 2013; ours",
        _leaky_trains,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the networks born dead, the units killed, and causes against cures."""
    fig, (left, middle, right) = figures.new_figure(1, 3, size=(19, 5.6))
    _draw_born(left, ds)
    _draw_killed(middle, ds)
    _draw_cures(right, ds)
    return fig


def _draw_born(ax, ds: xr.Dataset) -> None:
    """Draw death at one input over depth: theory as lines, counts as dots with 3 errors."""
    hidden = ds["born_hidden"].values
    shown = np.unique(np.geomspace(1, hidden[-1], 10).round().astype(int)) - 1
    for number, width in enumerate(ds["born_width"].values):
        colour = figures.PALETTE[number % len(figures.PALETTE)]
        share, error = born_dead(ds.isel(born_hidden=shown), "point", width=width)
        ax.plot(hidden, dead_units.death_probability(width, hidden), color=colour)
        ax.errorbar(
            hidden[shown], share, 3.0 * error, fmt="o", color=colour, label=f"{width} units"
        )
    width = ds["born_width"].values[0]
    redrawn, _ = born_dead(ds, "line", width=width, asymmetric=1.0)
    ax.plot(hidden, redrawn, "k--", linewidth=2, label=f"{width} units, RAI (counted)")
    leaky = born_dead(ds, "line", width=width, slope=ds["born_slope"].values[-1])[0]
    ax.plot(hidden, leaky, "k:", linewidth=3, label=f"{width} units, leaky (counted)")
    ax.set(xscale="log", xlabel="hidden layers", ylabel="share of networks born dead")
    count = ds.sizes["born_seed"] * ds.num_nets
    ax.set_title(f"Born dead: {count} networks each (dots, 3 s.e.)\nand the exact law (lines)")
    ax.legend(fontsize=10, frameon=False, loc="upper left")


def _draw_killed(ax, ds: xr.Dataset) -> None:
    shares, (ever, back) = killed(ds), revived(ds)
    rates = shares["kill_learning_rate"].values
    for momentum, colour in zip(shares["kill_momentum"].values, figures.PALETTE, strict=False):
        line = shares.sel(kill_momentum=momentum)
        mean, error = line.mean("kill_seed"), line.std("kill_seed", ddof=1)
        error = error / line.sizes["kill_seed"] ** 0.5
        died, lived = (int(each.sel(kill_momentum=momentum)) for each in (ever, back))
        name = f"momentum {momentum:g}: {lived} of {died} dead units came back"
        ax.plot(rates, mean, "o-", color=colour, linewidth=2, markersize=4, label=name)
        ax.fill_between(rates, mean - error, mean + error, color=colour, alpha=0.25)
    ax.set(xscale="log", ylim=(-0.03, 1.25), yticks=np.linspace(0.0, 1.0, 6))
    ax.set(xlabel="learning rate [1/step]", ylabel="share of units dead after training")
    seeds, steps = ds.sizes["kill_seed"], ds.sizes["kill_step"] - 1
    ax.set_title(
        f"Killed by the rate: digits, full batch,\n{steps} steps, mean ± s.e. of {seeds} seeds"
    )
    ax.legend(fontsize=10, frameon=False, loc="upper left")


def _draw_cures(ax, ds: xr.Dataset) -> None:
    tables = {}
    for quantity in ("dead_fraction", "accuracy"):
        values = [[float(cell(ds, quantity, a, b).mean()) for b in CURES] for a in CAUSES]
        coords = {"cause": list(CAUSES), "cure": list(CURES)}
        tables[quantity] = xr.DataArray(values, coords, ("cause", "cure"))
    dead = tables["dead_fraction"].assign_attrs(long_name="share of dead units")
    figures.heatmap(ax, dead, x="cure", y="cause", vmin=0.0, vmax=1.0, cmap="Oranges")
    for (row, column), value in np.ndenumerate(dead.values):
        text = f"{value:.2f} dead\n{tables['accuracy'].values[row, column]:.0%} right"
        box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 2}
        ax.text(column, row, text, ha="center", va="center", fontsize=9, bbox=box)
    ax.tick_params(axis="x", labelrotation=20)
    ax.set_title(
        f"Causes and cures: training accuracy on digits,\nmean of {ds.sizes['cure_seed']} seeds"
    )
