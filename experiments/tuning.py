"""Tuning: grid, random, halving, population, Bayesian search and a student by hand, one budget.

All search four settings of one network on real MNIST images, choose by the loss on 250 images and
are judged by the errors on others. A table of networks trained all over the space lets grid, random
search and successive halving be replayed without training, and tests the exact laws of chance; the
searchers that choose as they go (`_searchers.py`) train networks of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import xarray as xr

import jaxnn as jn
from experiments import _searchers as searchers
from experiments._images import pooled
from experiments._searchers import PARTS, ROUNDS, SPACE
from jaxnn.report import Claim, Measurement, agrees, at_least, at_most, exact, figures, gather, part
from jaxnn.theory import search

RULE = jn.halving("validation_seen", at=(1, 3), keep=1 / 3)  # in ninths of a training
SEEN, UNSEEN = 250, 250  # images that searchers see, and that judge
TOP, GOOD = 0.05, 0.25  # shares that count as top settings, and as good learning rates
REPLAYS = 20_000  # of random search; a fiftieth of halving


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    num_steps: int = 108  # of a whole training, a multiple of 9
    width: int = 32
    num_values: tuple[int, int, int, int] = (16, 4, 4, 2)  # of each setting in the table, even
    num_seeds: int = 4  # of the table
    round_size: int = 4  # trainings in each of the 7 rounds
    repetitions: int = 16  # of the searchers that choose as they go


SCALES = {
    "quick": Config(36, 16, (12, 4, 2, 2), 2, 2, 8),
    "default": Config(),
    "paper": Config(900, 128, (32, 8, 8, 4), 8, 12, 64),
}


def _seen(flow: jn.probes.Flow) -> jax.Array:
    return flow.example_loss(flow.outputs, flow.targets)[:SEEN].mean()


def _errors(flow: jn.probes.Flow) -> jax.Array:
    return (flow.outputs.argmax(-1) != flow.targets)[SEEN:].mean()


PROBES = (
    jn.probes.Probe("seen", (), "nat", "loss that searchers see", _seen),
    jn.probes.Probe("errors", (), "1", "errors that judge", _errors),
)


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train the table, and what the searchers that choose as they go ask for."""
    optuna, task = searchers.import_optuna(), jax.tree.map(pooled, jn.data.mnist5k())

    def train(key, *, log_rate, log_gain, dropout, log_decay):
        weights = jn.he(10.0**log_gain)
        return jn.training(
            jn.mlp(2, config.width, 10, "relu", weights=weights, dropout=dropout),
            jn.cross_entropy,
            jn.optimizer("adamw", 10.0**log_rate, weight_decay=10.0**log_decay),
            task,
            key=key,
            num_steps=config.num_steps,
            record_every=config.num_steps // PARTS,
            batch_size=32,
            probes=[],
            validation_probes=PROBES,
            probe_size=SEEN + UNSEEN,
        )

    grid = {
        name: low + (high - low) * (np.arange(count) + 0.5) / count
        for (name, (low, high, _)), count in zip(SPACE.items(), config.num_values, strict=True)
    }
    table = jn.sweep(train, **grid, num_seeds=config.num_seeds, seed=seed, store=store / "table")
    size, repetitions = config.round_size, config.repetitions
    crew = searchers.Crew(train, round_size=size, repetitions=repetitions, seed=seed)
    bayesian = [searchers.bayesian(optuna, size, each) for each in range(repetitions)]
    found = {
        "bayesian": searchers.asked(bayesian, crew),
        "student": searchers.asked([searchers.student(size) for _ in range(repetitions)], crew),
        "population": searchers.population(crew, np.random.default_rng(seed)),
    }
    ends = {name: over_budget(errors, ROUNDS * size) for name, errors in found.items()}
    return gather({"table": table, **ends}, budget=ROUNDS * size)


def over_budget(errors: np.ndarray, budget: int) -> xr.Dataset:
    """Return errors `[part of the budget, repetition]` with what was spent by then."""
    spent = budget * np.arange(1, 1 + len(errors)) / len(errors)
    return xr.Dataset({"errors": (("spent", "repetition"), errors)}, {"spent": spent})


def table(ds: xr.Dataset, name: str) -> np.ndarray:
    """Return a record of the table, `[seed, setting, step]`."""
    values = part(ds, "table")[f"validation_{name}"].transpose("seed", *SPACE, "step")
    return values.values.reshape(values.sizes["seed"], -1, values.sizes["step"])


def drawn(ds: xr.Dataset, num_trials: int) -> np.ndarray:
    """Draw settings of the table at random `[replay, trial]`, as numbers."""
    count = np.prod([ds.sizes[f"table_{name}"] for name in SPACE])
    return np.random.default_rng(num_trials).integers(count, size=(REPLAYS, num_trials))


def grids(ds: xr.Dataset, num_values: int) -> np.ndarray:
    """Return the settings `[grid, trial]` of all grids of so many values a knob in the table."""
    sizes = [ds.sizes[f"table_{name}"] for name in SPACE]
    apart = [share for size in sizes for share in (num_values, size // num_values)]
    numbers = np.arange(np.prod(sizes)).reshape(apart)
    offsets_first = np.moveaxis(numbers, range(0, 2 * len(sizes), 2), range(-len(sizes), 0))
    return offsets_first.reshape(-1, num_values ** len(sizes))


def left(losses: np.ndarray) -> np.ndarray:
    """Return which members of a race `[member, step]` are left at its end, by jn.halving's rule."""
    stopped = np.zeros(len(losses), bool)
    for rung, step in enumerate(RULE.steps):
        stopped = RULE.stopped(np.where(stopped, np.nan, losses[:, step]), rung)
    return ~stopped


def outcome(ds: xr.Dataset, name: str, budget: int) -> np.ndarray:
    """Return the errors `[repetition or seed]` that a searcher ends with on a budget."""
    if name not in ("random", "grid", "halving"):
        return part(ds, name)["errors"].isel(spent=-1).values
    losses, errors = table(ds, "seen"), table(ds, "errors")[..., -1]
    if name == "halving":
        raced = drawn(ds, 27 * budget // ROUNDS)[: REPLAYS // 50]
        lasting = [[own[left(one[own])] for own in raced] for one in losses]
    else:
        lasting = [grids(ds, 2) if name == "grid" else drawn(ds, budget)] * len(losses)
    members = zip(losses[..., -1], errors, np.array(lasting), strict=True)
    ended = [searchers.choice(one[own].T, judged[own].T) for one, judged, own in members]
    return np.mean(ended, 1)


def is_top(ds: xr.Dataset) -> np.ndarray:
    """Return which settings of the table are among the best by the loss seen of seed 0."""
    losses = table(ds, "seen")[0, :, -1]
    return losses.argsort().argsort() < TOP * losses.size


def has_good_rate(ds: xr.Dataset) -> np.ndarray:
    """Return which settings of the table have a learning rate of the best quarter, by errors."""
    errors = table(ds, "errors")[..., -1].mean(0).reshape(ds.sizes["table_log_rate"], -1)
    ranks = errors.mean(1).argsort().argsort()
    return np.repeat(ranks < GOOD * len(ranks), errors.shape[1])


def _random_law(ds: xr.Dataset) -> Measurement:
    top, num_trials = is_top(ds), ds.attrs["budget"]
    hits = top[drawn(ds, num_trials)].any(1)
    law = search.random_success(num_trials, top.mean())
    return agrees(hits.mean(), law, hits.std() / len(hits) ** 0.5, rtol=0.02)


def _grid_law(ds: xr.Dataset) -> Measurement:
    hits = has_good_rate(ds)[grids(ds, 2)].any(1)
    return exact(hits.mean(), search.grid_success(2, np.array([GOOD])), rtol=1e-6)


def _race_cost(ds: xr.Dataset) -> Measurement:
    losses = table(ds, "seen")[0][drawn(ds, 27)[0]]
    stops = [RULE.stopped(losses[:, step], rung).sum() for rung, step in enumerate(RULE.steps)]
    spent = np.dot(27 - np.array([0, *stops]), np.diff([0, *RULE.steps, PARTS]))
    members, reached = np.array(search.hyperband(PARTS)[0]).T  # 9, 3 and 1: a third of the race
    return exact(spent / PARTS, 3 * members @ np.diff(reached, prepend=0) / PARTS, rtol=1e-6)


def _ratio(name: str, compare: Callable[..., Measurement]) -> Callable[[xr.Dataset], Measurement]:
    """Return a check of the errors that a searcher ends with, over those of random search."""

    def check(ds: xr.Dataset) -> Measurement:
        budget = 2 ** len(SPACE) if name == "grid" else ds.attrs["budget"]
        ended = [outcome(ds, each, budget) for each in (name, "random")]
        shares = [np.std(each, ddof=1) / len(each) ** 0.5 / np.mean(each) for each in ended]
        ratio = np.mean(ended[0]) / np.mean(ended[1])
        return compare(ratio, 1.0, ratio * np.hypot(*shares))

    return check


CLAIMS = (
    Claim(
        "n random trials find one of the best 5% of settings with probability 1 - (1 - q)^n",
        "Bergstra & Bengio 2012; replays on a table of trained networks",
        _random_law,
    ),
    Claim(
        "Grids of 2 values a knob try one of the best quarter of learning rates in half of cases",
        "Bergstra & Bengio 2012, the argument; min(1, k q) is ours",
        _grid_law,
    ),
    Claim(
        "A race of 27 by jn.halving costs as many whole trainings as Hyperband's table says",
        "Li et al. 2016, algorithm 1: 9 x 1, 3 x 3, 1 x 9 ninths of a training, three times",
        _race_cost,
    ),
    Claim(
        "Trend: grids of 16 trials end with at least the errors of 16 random ones (ratio)",
        "Bergstra & Bengio 2012; all grids of the table",
        _ratio("grid", at_least),
    ),
    *(
        Claim(
            f"Trend: {words} with at most random search's errors (ratio)",
            source,
            _ratio(name, at_most),
        )
        for name, words, source in (
            ("halving", "successive halving ends", "Jamieson & Talwalkar 2016"),
            ("bayesian", "Bayesian search ends", "Bergstra et al. 2011"),
            ("population", "a population ends", "Jaderberg et al. 2017"),
            ("student", "a student by hand, from good defaults, ends", "ours, after a pilot"),
        )
    ),
)


def figure(ds: xr.Dataset):
    """Draw the laws of chance, and the errors of every searcher over its budget."""
    fig, (left, right) = figures.new_figure(1, 2, size=(13.5, 5.4))
    _draw_laws(left, ds)
    _draw_searchers(right, ds)
    return fig


def _draw_laws(ax, ds: xr.Dataset) -> None:
    trials, fine = 2 ** np.arange(8), np.geomspace(1, 128)
    goods = {"one of the best 5%": is_top(ds), "a rate of the best quarter": has_good_rate(ds)}
    for (words, good), colour in zip(goods.items(), figures.PALETTE, strict=False):
        law = search.random_success(fine, good.mean())
        ax.plot(fine, law, color=colour, label=f"random: {words}")
        ax.plot(trials, [good[drawn(ds, n)].any(1).mean() for n in trials], "o", color=colour)
    hits = [has_good_rate(ds)[grids(ds, k)].any(1).mean() for k in (1, 2)]
    ax.plot([1, 2 ** len(SPACE)], hits, "s--", color=figures.PALETTE[1], label="grids: the same")
    ax.set(xscale="log", xlabel="trials", ylabel="probability of a hit", ylim=(0, 1.3))
    ax.set_title("Solid lines: theory; markers: replays on trained networks")
    ax.legend(fontsize=11, frameon=False, loc="upper left")
    figures.plain_ticks(ax.xaxis, [1, 4, 16, 64])


def _draw_searchers(ax, ds: xr.Dataset) -> None:
    budget = ds.attrs["budget"]
    tried = {"random": 2 ** np.arange(1, 8), "grid": [16], "halving": [budget, 2 * budget]}
    lines = {
        name: over_budget(np.array([outcome(ds, name, each) for each in spent]), 1).assign_coords(
            spent=spent
        )
        for name, spent in tried.items()
    } | {name: part(ds, name) for name in ("bayesian", "student", "population")}
    for (name, line), colour in zip(lines.items(), figures.PALETTE, strict=False):
        style = {"fmt": "-" if name == "random" else "o-", "color": colour, "label": name}
        errors = 100 * line["errors"]
        figures.over_seeds(ax, errors, x="spent", over="repetition", bars=True, **style)
    ax.set(xscale="log", xlabel="budget [whole trainings]")
    ax.set(yscale="log", ylabel="errors on unseen images [%]")
    ax.set_title(f"Real MNIST, budget {budget}: mean ± s.e.")
    ax.legend(fontsize=11, frameon=False)
    figures.plain_ticks(ax.xaxis, [2, 7, 14, 28, 56, 112])
    figures.plain_ticks(ax.yaxis, [10, 20, 40, 80])
