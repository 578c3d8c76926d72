"""Compute: what a training run costs in flops, bytes and seconds, and how full it keeps a machine.

Kaplan et al. 2020 (2001.08361): 6 flops a weight and example; Williams et al. 2009
(10.1145/1498765.1498785): the roofline; Touvron et al. 2023 (2307.09288): hours of large runs.

Flops of a step (SGD, one batch of real MNIST) are counted by formula, in the traced program with
loops unrolled, and by XLA, which counts a loop's body once; bytes by XLA. Timed programs are called
directly, not swept (members would share the machine), and take turns; a time is the shortest of all
rounds. Claims on time are about ratios, with bounds for a busy machine, which delays long calls.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn import report
from jaxnn.report import Claim, Measurement, at_least, at_most, between, figures, part
from jaxnn.sweep.jaxprs import matrix_flops

INPUTS, OUT, WORD = 784, 10, 4  # of MNIST; bytes of a float32
AXES = {"step": ["width", "batch"], "loop": ["depth"], "product": ["size"], "copy": ["words"]}
ELEMENTWISE = 8  # operations allowed a number: a weight's update and checks, a unit's bias and ReLU
BILLION = (16, 8192, 512)  # depth, width and batch of a network of a billion weights
RUN = 6 * 1e9 * 2e10  # flops, on paper: 20 tokens a weight (Hoffmann et al. 2022, 2203.15556)
USED, A100 = 0.4, 312e12  # share that a large run uses; flops a second, bfloat16 (data sheet)
ASSUMED = "N = 1e9, 20 N tokens: 6 N D = 1.2e20 flop;\nAdam in float32: 16 bytes a weight, 16 GB"
TIMES = {"1 µs": 1e-6, "1 s": 1.0, "1 day": 86_400.0, "1,000 years": 3.156e10}
LLAMA2_FLOPS = 6 * np.array([7e9, 13e9, 34e9, 70e9]) * 2e12  # 6 N D
LLAMA2_SECONDS = 3600.0 * np.array([184_320, 368_640, 1_038_336, 1_720_320])  # of one A100


@dataclass(frozen=True)
class Config:
    """What is varied; the networks of `widths` have two hidden layers, one of them in a loop."""

    widths: tuple[int, ...] = (32, 128, 512, 1024)
    batches: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    depths: tuple[int, ...] = (2, 4, 8, 16)  # of other networks, all but one layer in a loop
    loop: tuple[int, int] = (256, 64)  # their width and batch
    products: tuple[int, ...] = (256, 512, 1024, 2048)  # rows and columns
    copies: tuple[int, ...] = (2**16, 2**18, 2**20, 2**22, 2**24, 2**26)  # numbers
    rounds: int = 20
    visit_seconds: float = 0.02  # of a program in a round, at least


SCALES = {
    "quick": Config((32, 512), (1, 256), (2, 8), products=(256, 512), copies=(2**18,), rounds=4),
    "default": Config(),
    "paper": Config((32, 128, 512, 2048, 4096), tuple(2**k for k in range(12)), rounds=40),
}


class Program(NamedTuple):
    """A compiled function from a state to the next one, a first state, and a call's counts."""

    call: Callable[[Any], Any]
    state: Any
    counts: dict[str, float]


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Count and compile all programs, then time them in turns; no sweep is stored."""
    train, begin = jn.data.mnist5k().train, time.perf_counter()

    def step(*sizes: int) -> Program:
        made = one_step(train, seed, *sizes)
        return compiled(made.advance, first_state(made), formulas(*sizes))

    programs = {
        "step": [step(2, *sizes) for sizes in itertools.product(config.widths, config.batches)],
        "loop": [step(depth, *config.loop) for depth in config.depths],
        "product": [compiled(lambda x: x @ x, jnp.eye(n), {"size": n}) for n in config.products],
        "copy": [compiled(jnp.negative, jnp.ones(n), {"words": n}) for n in config.copies],
    }
    compiling = time.perf_counter() - begin
    every = [each for some in programs.values() for each in some]
    seconds = iter(in_turns(every, config.rounds, config.visit_seconds))
    giant = one_step(train, seed, *BILLION)
    traced = jax.jit(giant.advance).trace(jax.eval_shape(giant.init))  # by shapes: no array is made
    counts = {**formulas(*BILLION), "traced_flops": matrix_flops(traced.jaxpr.jaxpr)}
    parts = {"billion": xr.Dataset(counts)}
    for name, axes in AXES.items():
        told = [{**each.counts, "seconds": ("round", next(seconds))} for each in programs[name]]
        placed = [xr.Dataset(each).set_coords(axes).expand_dims(axes) for each in told]
        parts[name] = xr.combine_by_coords(placed)
    return report.gather(parts, compile_seconds=compiling)


def one_step(train: jn.Batch, seed: int, depth: int, width: int, batch: int) -> jn.Training:
    """Return a training whose `advance` is one step of SGD on a whole batch."""
    some, sgd = jn.Batch(train.x[:batch], train.y[:batch]), jn.optimizer("sgd", 0.01)
    model, task = jn.mlp(depth, width, OUT, "relu"), jn.Dataset(some, some, some)
    given = {"key": jax.random.key(seed), "num_steps": 1, "record_every": 1, "sampling": "full"}
    return jn.training(model, jn.cross_entropy, sgd, task, probes=[jn.probes.loss], **given)


def first_state(made: jn.Training) -> Any:
    """Return a state of equal weights: a step costs the same with any that are finite."""
    shapes = jax.eval_shape(made.init)
    filled = jax.tree.map(lambda leaf: jnp.array(np.full(leaf.shape, 0.01, leaf.dtype)), shapes)
    return filled._replace(diverged_at=jnp.array(np.nan, shapes.diverged_at.dtype))


def formulas(depth: int, width: int, batch: int) -> dict[str, float]:
    """Count what a step's matrix products cost, and the numbers that it meets elementwise.

    Each weight is in three products, forward and backward to the weights and to the inputs, at 2
    flops an example: 6 N B. The first layer's inputs get no gradient. A product reads two matrices
    and writes one. The numbers are weights, biases, and the units of each example.
    """
    sizes = [INPUTS, *[width] * depth, OUT]
    layers = [(m, n, 3 - (at == 0)) for at, (m, n) in enumerate(itertools.pairwise(sizes))]
    weights = sum(m * n for m, n, _ in layers)
    return {
        **{"depth": depth, "width": width, "batch": batch, "weights": weights},
        "numbers": weights + sum(sizes[1:]) + batch * sum(sizes),
        "formula_flops": sum(2 * batch * times * m * n for m, n, times in layers),
        "formula_bytes": WORD * sum(k * (batch * (m + n) + m * n) for m, n, k in layers),
    }


def compiled(function: Callable, state: Any, counts: dict[str, float]) -> Program:
    """Compile a function that writes the next state over the last, and count a call."""
    traced = jax.jit(function, donate_argnums=0).trace(state)
    call, flops = traced.lower().compile(), matrix_flops(traced.jaxpr.jaxpr)
    xla = {"flops": call.cost_analysis()["flops"], "bytes": call.cost_analysis()["bytes accessed"]}
    return Program(call, state, {**counts, "traced_flops": flops, **xla})


def in_turns(programs: Sequence[Program], num_rounds: int, visit_seconds: float) -> np.ndarray:
    """Return the seconds `[program, round]` of each program's fastest call in each round."""
    states = [each.state for each in programs]
    seconds = np.empty((len(programs), num_rounds))
    for turn, (number, each) in itertools.product(range(num_rounds), enumerate(programs)):
        calls, end = [], time.perf_counter() + visit_seconds
        while not calls or time.perf_counter() < end:
            begin = time.perf_counter()
            states[number] = jax.block_until_ready(each.call(states[number]))
            calls.append(time.perf_counter() - begin)
        seconds[number, turn] = min(calls)
    return seconds


def speeds(ds: xr.Dataset) -> xr.Dataset:
    """Return the machine's peak and bandwidths, and each step's useful flops a second and byte."""
    step, square, copied = part(ds, "step"), part(ds, "product"), part(ds, "copy")
    peak = (square["traced_flops"] / square["seconds"].min("round")).max()
    copies = copied["bytes"] / copied["seconds"].min("round")
    intensity = step["formula_flops"] / step["bytes"]
    rate = step["formula_flops"] / step["seconds"].min("round")
    machine = {"peak": peak, "fastest": copies.max(), "largest": copies.isel(words=-1, drop=True)}
    roof = np.minimum(peak, intensity * copies.max())
    steps = {"intensity": intensity, "rate": rate, "roof": roof, "share": rate / peak}
    return xr.Dataset({**machine, **steps}).transpose("batch", ...)


def within(values: xr.DataArray | np.ndarray, low: float, high: float) -> Measurement:
    """Hold all of some values to a range, and tell the one that is furthest from its middle."""
    flat = np.ravel(values)
    return between(flat[np.argmax(np.abs(flat - (low + high) / 2))], low, high)


def _traced(ds: xr.Dataset) -> Measurement:
    parts = [part(ds, name) for name in ("step", "loop", "billion")]
    errors = [abs(each["traced_flops"] / each["formula_flops"] - 1).max() for each in parts]
    return at_most(float(max(errors)), 1e-12, expected=0.0)


def _excess(ds: xr.Dataset) -> Measurement:
    step = part(ds, "step")
    return within((step["flops"] - step["formula_flops"]) / step["numbers"], 0, ELEMENTWISE)


def _looped(ds: xr.Dataset) -> Measurement:
    added = part(ds, "loop").isel(depth=-1) - part(ds, "loop").isel(depth=0)
    allowed = ELEMENTWISE * added["numbers"] / added["formula_flops"]
    return at_most(float(added["flops"] / added["formula_flops"]), float(allowed), expected=0.0)


def _each_example(ds: xr.Dataset) -> Measurement:
    seconds = part(ds, "step")["seconds"].min("round") / part(ds, "step")["batch"]
    return at_least(float((seconds.isel(batch=0) / seconds.isel(batch=-1)).min()), 2)


def _roof(ds: xr.Dataset) -> Measurement:
    nearest = (speeds(ds)["rate"] / speeds(ds)["roof"]).max()
    return at_most(float(nearest), 1.5, expected="0.5 to 1 when idle")


CLAIMS = (
    Claim(
        "A step's products cost 6 N B flops, less 2 B a weight of the first layer, to N of 1e9",
        "Kaplan et al. 2020, section 2.1; count of traced programs (largest relative error)",
        _traced,
    ),
    Claim(
        "XLA counts up to 8 operations more for each weight, bias and unit of an example",
        "elementwise work; ours, the step furthest from 4 (CPU)",
        _excess,
    ),
    Claim(
        "Of the products of layers added to a loop, XLA's count shows none",
        "it counts a loop's body once; bound: 8 operations a number",
        _looped,
    ),
    Claim(
        "A step does 0.2 to 1 times the flops a byte of its matrix products alone",
        "a product reads two matrices and writes one; ours, XLA's bytes",
        lambda ds: within(part(ds, "step")["formula_bytes"] / part(ds, "step")["bytes"], 0.2, 1),
    ),
    Claim(
        "Trend: from the smallest batch to the largest, time an example falls at least twofold",
        "ours; fastest calls, the width with the least fall",
        _each_example,
    ),
    Claim(
        "No step passes the roofline (the nearest to it; its throughput over the roof)",
        "Williams et al. 2009; rates of the same run; 1.5 allows for a busy machine",
        _roof,
    ),
    Claim(
        "6 N D flops at 40% of 312 TFLOP/s are the A100 hours that Llama 2 took (worst of 4 runs)",
        "Touvron et al. 2023, tables 1 and 2: 7 to 70 billion weights, 2e12 tokens",
        lambda _: within(LLAMA2_FLOPS / (USED * A100) / LLAMA2_SECONDS, 1 / 1.5, 1.5),
    ),
)


def figure(ds: xr.Dataset):
    """Draw flops against weights, the roofline, how full the machine is, and a run on paper."""
    fig, axes = figures.new_figure(2, 2, size=(14, 10.5))
    _draw_flops(axes[0, 0], *(part(ds, name) for name in ("step", "loop", "billion")))
    _draw_roofline(axes[0, 1], speeds(ds))
    _draw_share(axes[1, 0], speeds(ds)["share"], part(ds, "step").sizes["round"])
    _draw_paper(axes[1, 1], part(ds, "step"), float(speeds(ds)["rate"].max()))
    for ax in axes.flat:
        ax.legend(frameon=False)
    return fig


def _draw_flops(ax, step: xr.Dataset, loop: xr.Dataset, billion: xr.Dataset) -> None:
    ends = np.array([step["weights"].min(), billion["weights"]])
    ax.loglog(ends, 6 * ends, "k-", label="6 N")
    ax.plot(ends, 4 * ends, "k:", label="4 N, of a first layer")
    some = step.isel(batch=[0, -1])
    names = [f"XLA, batch {batch}" for batch in some["batch"].values]
    ax.plot(some["weights"], some["flops"] / some["batch"], "o", markersize=9, label=names)
    name = f"XLA, {loop['depth'].values[0]} to {loop['depth'].values[-1]} layers in a loop"
    ax.plot(loop["weights"], loop["flops"] / loop["batch"], "X", markersize=9, label=name)
    traced = billion["traced_flops"] / billion["batch"]
    ax.plot(billion["weights"], traced, "*", markersize=15, label="traced by shapes alone")
    ax.set(xlabel="weights N", ylabel="flops an example [flop]", title="Flops of a training step")


def _draw_roofline(ax, found: xr.Dataset) -> None:
    across, peak = np.geomspace(0.1, 1000, 200), float(found["peak"])
    for name, style in (("fastest", "k-"), ("largest", "k--")):
        roof, label = across * float(found[name]), f"{name} copy, {found[name] / 1e9:.0f} GB/s"
        ax.loglog(across, np.minimum(peak, roof) / 1e9, style, label=label)
    names = [f"width {width}" for width in found["width"].values]
    ax.plot(found["intensity"], found["rate"] / 1e9, "o-", label=names)
    ax.set(xlabel="flops a byte [flop/byte]", ylabel="useful flops a second [GFLOP/s]")
    ax.set(title=f"Roofline; peak {peak / 1e9:.0f} GFLOP/s of the fastest matrix product")


def _draw_share(ax, share: xr.DataArray, num_rounds: int) -> None:
    names = [f"width {width}" for width in share["width"].values]
    ax.loglog(share["batch"], 100 * share, "o-", label=names)
    first = report.first_where(share >= 0.5, along="batch").to_series()
    full = ",\n".join(f"{b:g} at width {width}" for width, b in first.items() if b < np.inf)
    ax.axhline(50.0, color="0.3", linestyle="--", label=f"half full: from batch {full or '(none)'}")
    ax.set(xlabel="batch [examples]", ylabel="share of the machine's peak [%]")
    figures.plain_ticks(ax.yaxis, (1, 10, 50, 100))
    ax.set(title=f"How full the machine is; fastest calls of {num_rounds} rounds")


def _draw_paper(ax, step: xr.Dataset, best: float) -> None:
    across = np.array([1e4, 1e25])
    here, there = (
        f"this machine, {best / 1e9:.0f} GFLOP/s",
        "an A100, 40% of 312 TFLOP/s (bfloat16)",
    )
    for name, speed in ((here, best), (there, USED * A100)):
        ax.loglog(across, across / speed, label=f"{name}: {RUN / speed / TIMES['1 day']:,.0f} days")
    flops, seconds = np.ravel(step["formula_flops"]), np.ravel(step["seconds"].min("round"))
    ax.plot(flops, seconds, ".", label="steps, measured")
    ax.plot(LLAMA2_FLOPS, LLAMA2_SECONDS, "*", markersize=12, label="Llama 2, published")
    ax.axvline(RUN, color="0.3", linestyle="--", label=ASSUMED)
    ax.set_yticks(list(TIMES.values()), list(TIMES))
    ax.set(xlabel="flops of a run [flop]", ylabel="time on one device", ylim=(1e-10, 1e24))
    ax.set_title("On paper: a run of a billion weights")
