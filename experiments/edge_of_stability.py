"""Edge of stability: full-batch descent sharpens until it is barely stable, and trains on there.

Cohen et al. 2021 (2103.00065): along training the largest Hessian eigenvalue, the sharpness, rises
("progressive sharpening") up to the limit above which descent on a quadratic diverges, 2/eta, and
then hovers there while the loss goes up and down and still falls. It does so only if the exact
gradient flow, followed here beside descent, gets sharper than the limit; rates so small that it
does not are the controls. With momentum b the limits are (2 + 2b)/eta and (2 + 2b)/(eta (1 + 2b)),
so all three methods are run at rates that put their limits at the same sharpness. Momentum is 0.5:
at 0.9 heavy ball leaves the flow in its first steps, and some networks diverge or end flat.

Real digits, each pixel standardised, squared error 1/2 |outputs - one-hot|^2 as the mean over
examples (which sets the scale of the sharpness), a tanh network from weights of variance 1/(3n),
PyTorch's, as in the paper: networks that start larger hardly sharpen. Steps are full-batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

import jaxnn as jn
from jaxnn import report
from jaxnn.report import Claim, Measurement, at_least, at_most, between, exact, figures
from jaxnn.theory import noise

DESCENT, HEAVY_BALL, NESTEROV = METHODS = ("gradient descent", "heavy ball", "Nesterov")
CLOSE = 1e-4  # relative distance from the limit at which quadratics must tell the sides apart
EDGE = (0.9, 1.1)  # late sharpness over the limit, at the edge
CLEAR = 1.1  # flow's largest sharpness over the limit from which a network must reach the edge
BELOW = 0.8  # share of the limit up to which descent must follow the flow
FOLLOWS = 0.1  # by how much its sharpness may then differ, relatively
LATE = 0.25  # share of the records that are late


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    task: str = "digits"  # a loader of jn.data
    num_examples: int = 100
    depth: int = 2
    width: int = 24
    momentum: float = 0.5
    limits: tuple[float, ...] = (3.0, 4.0, 5.0, 12.0, 24.0)  # sharpness that the rates allow
    num_seeds: int = 4
    num_steps: int = 2000
    record_every: int = 25  # odd, so that an oscillation of two steps is seen
    flow_time: float = 1000.0  # learning rate times step
    num_products: int = 15  # of the Hessian with a vector, for each sharpness


SCALES = {
    "quick": Config(limits=(3.0, 4.0, 16.0), num_seeds=2, num_steps=1000, flow_time=400.0),
    "default": Config(),
    "paper": Config(
        task="cifar10",
        num_examples=5000,
        width=200,
        limits=(20.0, 40.0, 80.0, 160.0, 1000.0),
        num_steps=20_000,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Train at limits x methods x seeds, follow the flow from the same starts, try quadratics."""
    task = getattr(jn.data, config.task)(standardize="feature")
    batch = jax.tree.map(lambda leaf: leaf[: config.num_examples], task.train)
    weights = jn.lecun(3.0**-0.5)
    model = jn.mlp(config.depth, config.width, int(batch.y.max()) + 1, "tanh", weights=weights)
    probes = [jn.probes.loss, jn.probes.hessian_extremes(config.num_products)]

    def train(key, *, optimizer, limit):
        start = model.init(key, jnp.asarray(batch.x))
        return jn.fit(
            model._replace(init=lambda key, x: start),
            jn.squared_error,
            descent(optimizer, limit, config.momentum),
            task._replace(train=batch),
            key=key,
            num_steps=config.num_steps,
            record_every=config.record_every,
            probes=probes,
            sampling="full",
            probe_size=config.num_examples,
        )

    def follow(key):
        times = (0.0, *np.geomspace(1.0, config.flow_time, 48))
        start = model.init(key, jnp.asarray(batch.x))
        return jn.gradient_flow(
            model, jn.squared_error, batch, times, variables=start, probes=probes, rtol=1e-5
        )

    def try_quadratic(key, *, optimizer, ratio):
        return {"growth": growth(descent(optimizer, 1.0, config.momentum), ratio)}

    methods, where = jn.traced(range(len(METHODS))), {"seed": seed, "num_seeds": config.num_seeds}
    limits, sides = list(config.limits), [1.0 - CLOSE, 1.0 + CLOSE]
    swept = (
        jn.sweep(train, optimizer=methods, limit=limits, **where, store=store / "train"),
        jn.sweep(follow, **where, store=store / "flow"),
        jn.sweep(try_quadratic, optimizer=methods, ratio=sides, store=store / "quadratic"),
    )
    trained, flow, tried = swept
    trained = trained[["loss", "hessian_max"]].rename(hessian_max="sharpness")
    flow = flow[["hessian_max"]].rename(hessian_max="flow_sharpness")
    parts = (trained, flow, tried[["growth"]].isel(seed=0, drop=True))
    merged = xr.merge(parts, combine_attrs="drop").assign_coords(optimizer=list(METHODS))
    seconds = {each: sum(ds.attrs[each] for ds in swept) for each in report.parts.SECONDS}
    return merged.assign_attrs(seconds, num_examples=config.num_examples)


def descent(
    method: int | jax.Array, limit: float | jax.Array, momentum: float
) -> optax.GradientTransformation:
    """Return a method, by its place in METHODS, at the rate that puts its limit at a sharpness.

    With `v = b v + g` the step is `w = w - eta ((1 - k) v + k (g + b v))`, k 1 for Nesterov's and
    else 0: one program trains all methods.
    """
    limits = (noise.heavy_ball_limit(1.0, each) for each in (0.0, momentum))
    rate = jnp.stack((*limits, noise.nesterov_limit(1.0, momentum)))[method] / limit
    kept = jnp.array([0.0, momentum, momentum])[method]
    ahead = jnp.array([0.0, 0.0, 1.0])[method]
    running = optax.trace(kept)

    def update(gradients, state, params=None):
        sums, state = running.update(gradients, state)

        def step(gradient: jax.Array, total: jax.Array) -> jax.Array:
            return -rate * ((1.0 - ahead) * total + ahead * (gradient + kept * total))

        return jax.tree.map(step, gradients, sums), state

    return optax.GradientTransformation(running.init, update)


def growth(
    optimizer: optax.GradientTransformation, curvature: jax.Array, num_steps: int = 4000
) -> jax.Array:
    """Return |w| after some steps on `curvature / 2 w^2` over that after half as many."""

    def step(_, carry):
        weight, state = carry
        update, state = optimizer.update(curvature * weight, state)
        return weight + update, state

    weight = jnp.ones_like(curvature)
    half = jax.lax.fori_loop(0, num_steps // 2, step, (weight, optimizer.init(weight)))
    return jnp.abs(jax.lax.fori_loop(0, num_steps // 2, step, half)[0] / half[0])


def flow_ratio(ds: xr.Dataset) -> xr.DataArray:
    """Return the largest sharpness of the exact flow over the limit, `[limit, seed]`."""
    return ds["flow_sharpness"].max("time", skipna=False) / ds["limit"]


def late_ratio(ds: xr.Dataset) -> xr.DataArray:
    """Return the mean sharpness of the late records over the limit."""
    late = ds["sharpness"].isel(step=slice(-max(1, int(LATE * ds.sizes["step"])), None))
    return late.mean("step", skipna=False) / ds["limit"]


def flow_at_steps(ds: xr.Dataset) -> xr.DataArray:
    """Return the flow's sharpness at gradient descent's times, NaN after the flow's end."""
    times = 2.0 / ds["limit"] * ds["step"]
    return ds["flow_sharpness"].interp(time=times).drop_vars("time")


def rises(ds: xr.Dataset) -> xr.DataArray:
    """Return between how many neighbouring records gradient descent's loss rises."""
    return (ds["loss"].sel(optimizer=DESCENT).diff("step") > 0).sum("step")


def _quadratic(ds: xr.Dataset) -> Measurement:
    diverges = ds["growth"] > 1.0
    return exact(float((diverges == (ds["ratio"] > 1.0)).mean()), 1.0, rtol=0.0)


def _sharpens(ds: xr.Dataset) -> Measurement:
    ratio = ds["flow_sharpness"].max("time", skipna=False) / ds["flow_sharpness"].isel(time=0)
    return at_least(float(ratio.min(skipna=False)), 2.0)


def _hovers(optimizer: str) -> Callable[[xr.Dataset], Measurement]:
    """Make a check of the late sharpness of the network that is farthest off the edge."""

    def check(ds: xr.Dataset) -> Measurement:
        late = late_ratio(ds).sel(optimizer=optimizer).fillna(np.inf)  # not a number: diverged
        late = late.where(flow_ratio(ds) > CLEAR)
        known = late.values[late.notnull().values]
        finite = late.where(np.isfinite(late)).mean("limit")
        farthest = float(known[np.abs(known - 1.0).argmax()])
        return between(farthest, *EDGE, float(report.mean_and_error(finite)[1]), expected=1.0)

    return check


def _controls(ds: xr.Dataset) -> Measurement:
    largest = ds["sharpness"].fillna(np.inf).max("step") / ds["limit"]
    return at_most(float(largest.where(flow_ratio(ds) < 1.0).max()), 1.0)


def _follows(ds: xr.Dataset) -> Measurement:
    flow = flow_at_steps(ds)
    early = (flow < BELOW * ds["limit"]).cumprod("step") > 0
    off = np.abs(ds["sharpness"].sel(optimizer=DESCENT) / flow - 1.0).where(early)
    return at_most(float(off.max()), FOLLOWS)


def _leaves(ds: xr.Dataset) -> Measurement:
    """Compare flow and descent at the same time, where the flow is clearly past the limit."""
    past = flow_at_steps(ds) > CLEAR * ds["limit"]
    ratio = (ds["sharpness"].sel(optimizer=DESCENT) / flow_at_steps(ds)).where(past)
    mean, error = report.mean_and_error(ratio.mean(("step", "limit")))
    return at_most(float(mean), 1.0 / CLEAR, float(error))


def _falls_anyway(ds: xr.Dataset) -> Measurement:
    loss = ds["loss"].sel(optimizer=DESCENT)
    crossing = (flow_at_steps(ds) > ds["limit"]).argmax("step")
    ratio = loss.isel(step=-1) / loss.isel(step=crossing)
    return at_most(float(ratio.where(flow_ratio(ds) > CLEAR).max()), 0.1)


def _rises(ds: xr.Dataset) -> Measurement:
    return at_least(float(rises(ds).where(flow_ratio(ds) > CLEAR).min()), 1.0)


def _never_rises(ds: xr.Dataset) -> Measurement:
    return at_most(float(rises(ds).where(flow_ratio(ds) < 1.0).max()), 0.0)


EXACT = "2/eta, (2+2b)/eta, (2+2b)/(eta(1+2b)): Cohen et al. 2021, appendix B; exact"
EDGES = "Cohen et al. 2021, 2103.00065, figures 1 and 4; eq. 1"
COHEN, FIVE = "Cohen et al. 2021, section 3; bound ours", "Cohen et al. 2021, figure 5; bound ours"
STATEMENTS = (
    ("Quadratics diverge exactly above the methods' limits, to 1e-4 (share)", EXACT, _quadratic),
    ("Progressive sharpening: the flow's largest sharpness over its first", COHEN, _sharpens),
    *(
        (f"At the edge, {name}: late sharpness over the limit (farthest off)", EDGES, _hovers(name))
        for name in METHODS
    ),
    ("Controls, whose flow stays below the limit: largest sharpness over it", COHEN, _controls),
    ("Descent follows the flow up to 0.8 of the limit (largest difference)", FIVE, _follows),
    ("Descent leaves the flow where that is past the limit (over the flow's)", COHEN, _leaves),
    ("At the edge the loss rises between some records (rises, least)", COHEN, _rises),
    ("Yet it falls: last loss over that at the crossing (the worst network)", COHEN, _falls_anyway),
    ("Controls: gradient descent's loss never rises (rises, most)", "Descent lemma", _never_rises),
)
CLAIMS = tuple(Claim(*each) for each in STATEMENTS)


def figure(ds: xr.Dataset):
    """Draw sharpness along training beside the flow, where all networks end, and the loss."""
    fig, (left, middle, right) = figures.new_figure(1, 3, size=(18, 5.4))
    _draw_training(left, right, ds.sel(optimizer=DESCENT).isel(seed=0))
    for ax, along in ((left, "time [learning rate x step]"), (right, "training step")):
        ax.set_xlabel(f"{along}, initialisation 1 of {ds.sizes['seed']}")
    _draw_ends(middle, ds)
    return fig


def _draw_training(left, right, ds: xr.Dataset) -> None:
    """Draw sharpness over time beside the flow's, and loss over steps, of one initialisation."""
    for limit, colour in zip(ds["limit"].values, figures.PALETTE, strict=False):
        drawn = {"color": colour, "label": f"2/η = {limit:g}"}
        there, times = ds.sel(limit=limit), 2.0 / limit * ds["step"]
        left.plot(times[1:], there["sharpness"][1:], linewidth=2, **drawn)
        left.axhline(limit, color=colour, linestyle="--", linewidth=1.2)
        right.plot(ds["step"], there["loss"], linewidth=1.6, **drawn)
    left.plot(ds["time"], ds["flow_sharpness"], "k:", linewidth=2.5, label="gradient flow")
    left.set(xscale="log", yscale="log", ylabel="sharpness [largest Hessian eigenvalue]")
    left.set_title("Gradient descent sharpens to 2/η (dashed)")
    figures.plain_ticks(left.yaxis, [2, 3, 4, 5, 8, 12, 24])
    left.legend(fontsize=11, frameon=False, loc="upper left", ncols=2)
    left.set(xlim=(1.0, None), ylim=(1.5, 2.4 * float(ds["limit"].max())))
    right.set(yscale="log", ylabel="training loss [1/2 squared error]")
    right.set_title(f"Up and down, yet down: {ds.attrs['num_examples']} real digits")
    right.legend(fontsize=11, frameon=False)


def _draw_ends(ax, ds: xr.Dataset) -> None:
    x, y = flow_ratio(ds), late_ratio(ds)
    for name, marker in zip(ds["optimizer"].values, "os^", strict=True):
        pairs = xr.broadcast(x, y.sel(optimizer=name))
        ax.plot(*(each.values.ravel() for each in pairs), marker, label=name, alpha=0.75)
    most = 1.1 * float(x.max())
    ax.plot([0, 1, most], [0, 1, 1], "k:", linewidth=2, label="min(flow, 1)")
    ax.axhspan(*EDGE, color="0.88", zorder=0)
    ax.set(xlabel="gradient flow's largest sharpness / limit", ylabel="late sharpness / limit")
    title = f"All networks: {ds.sizes['limit']} limits x {ds.sizes['seed']} initialisations"
    ax.set(xlim=(0, most), ylim=(0, 1.35), title=title)
    ax.legend(fontsize=11, frameon=False, loc="lower right")
