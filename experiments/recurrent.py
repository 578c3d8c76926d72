"""Recurrent networks: how gradients vanish and explode over time, and what keeps a memory.

The Jacobian of the state over T steps is a product of T factors (Bengio et al. 1994; Pascanu et al.
2013, 1211.5063). It is measured at initialisation against its exact laws; then tasks that need
memory are learnt, beside the exact loss of the best answer without memory.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

import jaxnn as jn
from jaxnn import report
from jaxnn.report import Claim, Measurement, at_most, between, exact, figures, part
from jaxnn.theory import mean_field, recurrent
from jaxnn.types import Labelled, Model, Variables

DRIVES = (0.0, 0.5)  # standard deviation of what inputs add to z; at 0 tanh units are linear
BURN_IN = 20  # steps before the Jacobian begins, in which the state forgets that it began at 0
GROWTH_LAG = 20  # over which a Jacobian's growth is taken
FORGET_BIASES = (0.0, 1.0)
CLIPS = (1.0, np.inf)  # largest norm of the gradient
CELLS = {"tanh": "tanh, orthogonal", "relu": "ReLU, identity", "gru": "GRU", "lstm": "LSTM"}
# Exact losses without memory; squared_error halves the square.
GUESSES = {"order": jn.data.temporal_order_baseline(), "adding": jn.data.adding_baseline() / 2}
LEARNT = 0.5  # share of the guess's loss at which a task counts as learnt
FORGOTTEN = 0.9  # share from which nothing counts as learnt


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    kernels: tuple[str, ...] = ("orthogonal", "gaussian")
    radii: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # spectral
    jacobian: tuple[int, int, int] = (40, 64, 8)  # steps of time, width, seeds
    order: tuple[int, int] = (20, 32)  # steps of time, width
    order_radii: tuple[float, ...] = (0.5, 1.0, 1.5)
    order_rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    adding: tuple[int, int] = (50, 16)  # steps of time, width
    adding_cells: tuple[str, ...] = ("tanh", "relu", "gru", "lstm")
    adding_rates: tuple[float, ...] = (0.003, 0.01)
    num_steps: int = 1000
    num_records: int = 40
    num_seeds: int = 8  # of trainings


SCALES = {
    "quick": Config(
        kernels=("orthogonal",),
        radii=(0.5, 1.0, 1.5),
        jacobian=(30, 32, 6),
        order_rates=(0.03, 0.3),
        order_radii=(0.5, 1.0),
        adding=(20, 16),
        adding_cells=("lstm",),
        adding_rates=(0.01,),
        num_steps=320,
        num_records=20,
        num_seeds=2,
    ),
    "default": Config(),
    "paper": Config(
        jacobian=(100, 512, 8),
        order=(100, 50),
        order_rates=(0.001, 0.003, 0.01, 0.03, 0.1),
        adding=(200, 128),
        num_steps=100_000,
        num_seeds=16,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Measure Jacobians at initialisation, then train on temporal order and on adding."""
    lag, width, num_seeds = config.jacobian
    (order_length, order_width), (adding_length, adding_width) = config.order, config.adding
    order_key, adding_key = jax.random.split(jax.random.key(seed))
    order_task = jn.data.temporal_order(order_key, order_length, num_held_out=256)
    adding_task = jn.data.adding(adding_key, adding_length, num_held_out=256)

    def jacobian(key: Array, *, kernel: str, radius: Array, drive: Array) -> dict[str, Labelled]:
        back = jn.initialiser(kernel, radius)
        model = jn.rnn(width, 1, weights=jn.gaussian(drive), recurrent=back)
        init_key, input_key = jax.random.split(key)
        x = jax.random.normal(input_key, (1, BURN_IN + lag + 1, 16))
        variables = model.init(init_key, x)
        found = jacobians(model, variables, x)[: lag + 1]
        norm = jnp.linalg.norm(variables["params"]["recurrent"]["kernel"], ord=2)
        rms = jnp.sqrt(jnp.sum(found**2, axis=(1, 2)) / width)
        return {"rms": Labelled(rms, ("lag",)), "weight_norm": Labelled(norm)}

    fit = partial(
        jn.fit,
        num_steps=config.num_steps,
        record_every=config.num_steps // config.num_records,
        probes=[],
        validation_probes=[jn.probes.loss],
        batch_size=20,
    )

    def order(key: Array, *, radius: Array, clip_norm: Array, learning_rate: Array):
        model = jn.rnn(order_width, 4, recurrent=jn.orthogonal(radius))
        rule = jn.optimizer("sgd", learning_rate, clip_norm=clip_norm)
        return fit(model, jn.cross_entropy, rule, order_task, key=key)

    def adding(key: Array, *, cell: str, forget_bias: Array, learning_rate: Array):
        options = {"forget_bias": forget_bias} if cell in ("gru", "lstm") else {}
        kernel = jn.scaled_identity() if cell == "relu" else jn.orthogonal()
        model = jn.rnn(adding_width, 1, cell, recurrent=kernel, **options)
        rule = jn.optimizer("adam", learning_rate, clip_norm=1.0)
        return fit(model, jn.squared_error, rule, adding_task, key=key)

    def swept(measure, count: int, **axes) -> xr.Dataset:
        return jn.sweep(measure, num_seeds=count, seed=seed, store=store / measure.__name__, **axes)

    seeds, radii, rates = config.num_seeds, config.order_radii, config.order_rates
    cells, biases, tries = config.adding_cells, FORGET_BIASES, config.adding_rates
    parts = {
        "jacobian": swept(
            jacobian, num_seeds, kernel=config.kernels, radius=config.radii, drive=DRIVES
        ),
        "order": swept(order, seeds, radius=radii, clip_norm=CLIPS, learning_rate=rates),
        "adding": swept(adding, seeds, cell=cells, forget_bias=biases, learning_rate=tries),
    }
    return report.gather(parts, order_length=order_length, adding_length=adding_length)


def jacobians(model: Model, variables: Variables, x: Array) -> Array:
    """Return the Jacobians of the last pre-activation z in that of k steps before.

    `[lag, unit, unit]`, with a lag for each time of the one sequence x, `[1, time, feature]`.
    """

    def last(shift: Array) -> Array:
        return model.apply(variables, x, shift=shift)[1].pre[-1, 0]

    found = jax.jacrev(last)(jnp.zeros_like(model.apply(variables, x)[1].pre))
    return jnp.swapaxes(found[:, ::-1, 0], 0, 1)  # of [unit, time, 1, unit]


@jax.jit
def chi_1(radii: Array) -> Array:
    """Return mean field's growth of the squared Jacobian a step, of driven tanh networks."""
    return jax.vmap(lambda each: mean_field.chi_1(jn.activations.tanh, each, DRIVES[1]))(radii)


def over_guess(ds: xr.Dataset, task: str) -> xr.DataArray:
    """Return a training's loss over that of the best guess, infinite where it is not finite."""
    found = part(ds, task)
    loss = found["validation_loss"].where(found["diverged_at"].isnull(), np.inf)
    return loss / GUESSES[task]


def diverged(ds: xr.Dataset) -> xr.DataArray:
    """Return which trainings on temporal order end a tenth above the loss without memory."""
    return over_guess(ds, "order").isel(step=-1) > 1.1


def furthest(ratios: xr.DataArray) -> float:
    """Return the ratio furthest from 1; NaN if one is."""
    values = ratios.values.ravel()
    return float(values[np.argmax(np.abs(np.log(values)))])


def _bound(ds: xr.Dataset) -> Measurement:
    found = part(ds, "jacobian")
    norm, lag = xr.broadcast(found["weight_norm"], found["lag"])
    bound = np.asarray(recurrent.jacobian_bound(norm.values, lag.values))
    ratio = found["rms"].transpose(*norm.dims) / bound
    attained = (ratio["drive"] == 0) & (ratio["kernel"] == "orthogonal")
    return exact(furthest(ratio.where(attained, ratio.clip(min=1.0))), 1.0, rtol=1e-4)


def _mean_field(ds: xr.Dataset) -> Measurement:
    theory = np.asarray(chi_1(ds["jacobian_radius"].values))

    def ratio(rms: xr.DataArray) -> float:
        growth = (rms**2).mean("seed") ** (1 / GROWTH_LAG)
        return furthest(growth.transpose(..., "radius") / theory)

    driven = part(ds, "jacobian")["rms"].sel(drive=DRIVES[1], lag=GROWTH_LAG)
    value, error = report.jackknife(driven, ratio)
    return between(value, 0.9, 1.1, error, expected=1.0)


def _vanished(ds: xr.Dataset) -> Measurement:
    loss = over_guess(ds, "order").isel(step=-1, radius=0, learning_rate=0).sel(clip_norm=np.inf)
    mean, error = report.mean_and_error(loss)
    return between(float(mean), 0.95, 1.05, float(error), expected=1.0)


def _clipped(ds: xr.Dataset) -> Measurement:
    def ratio(lost: xr.DataArray) -> float:
        return float(lost.sel(clip_norm=1.0).mean() / lost.sel(clip_norm=np.inf).mean())

    value, error = report.jackknife(diverged(ds), ratio)
    return at_most(value, 1 / 3, error)


def _cells(ds: xr.Dataset) -> Measurement:
    final = over_guess(ds, "adding").isel(step=-1).sel(forget_bias=1.0)
    best = final.median("seed").min("learning_rate")
    right = xr.where(best["cell"] == "tanh", best >= FORGOTTEN, best <= LEARNT)
    return at_most(float((~right).sum()), 0.0)


def _forget_bias(ds: xr.Dataset) -> Measurement:
    loss = over_guess(ds, "adding").sel(cell="lstm").isel(learning_rate=-1)
    steps = report.first_where(loss <= LEARNT).median("seed")
    return at_most(float(steps.sel(forget_bias=1.0) / steps.sel(forget_bias=0.0)), 1.0)


CLAIMS = (
    Claim(
        "Over T steps no Jacobian exceeds (weights' norm)^T; orthogonal ones at rest attain it",
        "Pascanu et al. 2013, section 2.1; rms singular value, ratio furthest from 1",
        _bound,
    ),
    Claim(
        "Driven tanh networks: the squared Jacobian grows by mean field's chi_1 a step",
        "Chen et al. 2018, 1806.05394; ratio furthest from 1",
        _mean_field,
    ),
    Claim(
        "Temporal order, radius 0.5, smallest rate: training stays at the guess (loss / ln 4)",
        "Bengio et al. 1994; trend, ours",
        _vanished,
    ),
    Claim(
        "Trend: clipping to norm 1 leaves at most 1/3 of the divergences (all radii and rates)",
        "Pascanu et al. 2013, algorithm 1; the bound ours",
        _clipped,
    ),
    Claim(
        "Trend: LSTM, GRU and IRNN learn adding (loss below half the guess), tanh does not (0.9)",
        "Le et al. 2015, 1504.00941; bounds ours; cells on the wrong side, best rate, median",
        _cells,
    ),
    Claim(
        "Trend: an LSTM learns adding in fewer steps with forget bias 1 than 0 (ratio of medians)",
        "Jozefowicz et al. 2015; the bound ours",
        _forget_bias,
    ),
)


def figure(ds: xr.Dataset):
    """Draw Jacobians over time, divergence with and without clipping, and learning to add."""
    fig, axes = figures.new_figure(1, 3, size=(17, 5.4))
    for draw, ax in zip((_draw_norms, _draw_clipped, _draw_adding), axes, strict=True):
        draw(ax, ds)
        ax.legend(fontsize=11, frameon=False)
    return fig


def _draw_norms(ax, ds: xr.Dataset) -> None:
    rms, spread = part(ds, "jacobian")["rms"].sel(kernel="orthogonal"), ""
    theory, lags = rms["radius"].copy(data=chi_1(rms["radius"].values)), rms["lag"].values
    for radius, colour in zip((0.5, 1.0, 1.5), figures.PALETTE, strict=False):
        style = {"color": colour, "label": rf"$\rho$ = {radius:g}"}
        driven = rms.sel(radius=radius, drive=DRIVES[1])
        spread = figures.over_seeds(ax, driven, x="lag", show="range", **style)
        ax.plot(lags, radius**lags, "--", color=colour)
        ax.plot(lags, float(theory.sel(radius=radius)) ** (lags / 2), "k:")
    ax.set(yscale="log", xlabel="time between [steps]", ylabel="rms singular value of Jacobian")
    ax.set_title(
        f"tanh driven by inputs ({spread});\n"
        r"dotted: theory $\chi_1^{T/2}$; dashed: at rest, $\rho^T$"
    )


def _draw_clipped(ax, ds: xr.Dataset) -> None:
    share, spread = diverged(ds).mean("radius"), ""
    for norm, name in ((np.inf, "no clipping"), (1.0, "clipped to norm 1")):
        line = share.sel(clip_norm=norm)
        spread = figures.over_seeds(ax, line, x="learning_rate", bars=True, label=name)
    ax.set(xscale="log", ylim=(-0.05, 1.05), xlabel="learning rate", ylabel="share diverged")
    figures.plain_ticks(ax.xaxis, share["learning_rate"].values)
    title = f"Temporal order over {ds.attrs['order_length']} steps: runs that end\nabove the guess"
    ax.set_title(f"{title} (all radii; {spread})")


def _draw_adding(ax, ds: xr.Dataset) -> None:
    loss, spread = over_guess(ds, "adding").isel(learning_rate=-1), ""
    for cell, colour in zip(loss["cell"].values, figures.PALETTE, strict=False):
        for bias in FORGET_BIASES if cell == "lstm" else (1.0,):
            label = CELLS[str(cell)] + (f", b = {bias:g}" if cell == "lstm" else "")
            style = {"color": colour, "label": label, "linestyle": "-" if bias else ":"}
            line = loss.sel(cell=cell, forget_bias=bias)
            spread = figures.over_seeds(ax, line, x="step", show="median", **style)
    ax.axhline(1.0, color="0.4", linestyle="--", label="exact, no memory")
    ax.set(yscale="log", xlabel="training step", ylabel="loss / loss without memory")
    ax.set_title(f"Adding over {ds.attrs['adding_length']} steps ({spread})")
