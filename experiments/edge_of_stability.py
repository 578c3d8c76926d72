"""Edge of stability: full-batch descent sharpens until it is barely stable, and trains on there.

Cohen et al. 2021 (2103.00065): along training the largest Hessian eigenvalue, the sharpness, rises
("progressive sharpening") up to the limit above which descent on a quadratic diverges, 2/eta, and
then hovers there while the loss goes up and down and still falls. It does so only if the exact
gradient flow, followed here beside descent, gets sharper than the limit; rates so small that it
does not are the controls. With momentum b the limits are (2 + 2b)/eta and (2 + 2b)/(eta (1 + 2b)),
so all three methods are run at rates that put their limits at the same sharpness. Momentum is 0.5:
at 0.9 such rates are so large that heavy ball leaves the flow in its first steps, and of networks
that should have reached the edge some diverge and some end flat (0.75 of the limit).

Real digits, each pixel standardised, squared error 1/2 |outputs - one-hot|^2 as the mean over
examples (which sets the scale of the sharpness), a tanh network from weights of variance 1/(3n),
PyTorch's, as in the paper: networks that start larger hardly sharpen. All training examples are in
each step. Standard errors are over initialisations.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

import jaxnn as jn
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
    "quick": Config(
        limits=(3.0, 4.0, 16.0),
        num_seeds=2,
        num_steps=1000,
        flow_time=400.0,
    ),
    "default": Config(),
    "paper": Config(
        task="cifar10",
        num_examples=5000,
        width=200,
        limits=(20.0, 40.0, 80.0, 160.0, 1000.0),
        num_steps=20_000,
        flow_time=1000.0,
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

    num_seeds = config.num_seeds
    methods = jn.traced(range(len(METHODS)))
    trained = jn.sweep(
        train,
        optimizer=methods,
        limit=list(config.limits),
        num_seeds=num_seeds,
        seed=seed,
        store=store / "train",
    )
    flow = jn.sweep(follow, num_seeds=num_seeds, seed=seed, store=store / "flow")
    sides = [1.0 - CLOSE, 1.0 + CLOSE]
    tried = jn.sweep(try_quadratic, optimizer=methods, ratio=sides, store=store / "quadratic")
    kept = {"loss": "flow_loss", "hessian_max": "flow_sharpness", "failed_at": "flow_failed_at"}
    merged = xr.merge(
        [
            trained[["loss", "hessian_max", "diverged_at"]].rename(hessian_max="sharpness"),
            flow[list(kept)].rename(kept),
            tried[["growth"]].isel(seed=0, drop=True),
        ],
        combine_attrs="drop_conflicts",
    )
    merged = merged.assign_coords(optimizer=list(METHODS))
    for name in ("wall_seconds", "compile_seconds"):
        merged.attrs[name] = sum(each.attrs[name] for each in (trained, flow, tried))
    return merged.assign_attrs(momentum=config.momentum, num_examples=config.num_examples)


def descent(
    method: int | jax.Array, limit: float | jax.Array, momentum: float
) -> optax.GradientTransformation:
    """Return a method, by its place in METHODS, at the rate that puts its limit at a sharpness.

    With `v = b v + g` the step is `w = w - eta ((1 - k) v + k (g + b v))`, k 1 for Nesterov's and
    else 0: one program trains all methods.
    """
    limits = (
        noise.heavy_ball_limit(1.0),
        noise.heavy_ball_limit(1.0, momentum),
        noise.nesterov_limit(1.0, momentum),
    )
    rate = jnp.stack(limits)[method] / limit
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
    num_late = max(1, int(LATE * ds.sizes["step"]))
    return (
        ds["sharpness"].isel(step=slice(-num_late, None)).mean("step", skipna=False) / ds["limit"]
    )


def flow_at_steps(ds: xr.Dataset) -> xr.DataArray:
    """Return the flow's sharpness at gradient descent's times, NaN after the flow's end."""
    times = 2.0 / ds["limit"] * ds["step"]
    return ds["flow_sharpness"].interp(time=times).drop_vars("time")


def rises(ds: xr.Dataset) -> xr.DataArray:
    """Return between how many neighbouring records gradient descent's loss rises."""
    return (ds["loss"].sel(optimizer=DESCENT).diff("step") > 0).sum("step")


def _farthest(values: xr.DataArray, centre: float) -> float:
    """Return the value that is farthest from a number, of those that are there."""
    flat = values.values[values.notnull().values]
    return float(flat[np.abs(flat - centre).argmax()])


def _error(by_seed: xr.DataArray) -> float:
    return float(by_seed.std("seed", ddof=1) / by_seed.sizes["seed"] ** 0.5)


def _quadratic(ds: xr.Dataset) -> Measurement:
    diverges = ds["growth"] > 1.0
    return exact(float((diverges == (ds["ratio"] > 1.0)).mean()), 1.0, rtol=0.0)


def _sharpens(ds: xr.Dataset) -> Measurement:
    ratio = ds["flow_sharpness"].max("time", skipna=False) / ds["flow_sharpness"].isel(time=0)
    return at_least(float(ratio.min(skipna=False)), 2.0)


def _hovers(optimizer: str) -> Claim:
    def check(ds: xr.Dataset) -> Measurement:
        late = late_ratio(ds).sel(optimizer=optimizer).fillna(np.inf)  # not a number: diverged
        late = late.where(flow_ratio(ds) > CLEAR)
        finite = late.where(np.isfinite(late)).mean("limit")
        return between(_farthest(late, 1.0), *EDGE, _error(finite), expected=1.0)

    statement = (
        f"At the edge, {optimizer}: late sharpness over the limit (the network farthest off)"
    )
    return Claim(statement, "Cohen et al. 2021, 2103.00065, figures 1 and 4; eq. 1", check)


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
    by_seed = ratio.mean(("step", "limit"))
    return at_most(float(by_seed.mean(skipna=False)), 1.0 / CLEAR, _error(by_seed))


def _non_monotone(ds: xr.Dataset) -> Measurement:
    return at_least(float(rises(ds).where(flow_ratio(ds) > CLEAR).min()), 1.0)


def _falls_anyway(ds: xr.Dataset) -> Measurement:
    """Compare the last loss with that when the flow passes the limit, the worst network."""
    loss = ds["loss"].sel(optimizer=DESCENT)
    crossing = (flow_at_steps(ds) > ds["limit"]).argmax("step")
    ratio = loss.isel(step=-1) / loss.isel(step=crossing)
    return at_most(float(ratio.where(flow_ratio(ds) > CLEAR).max()), 0.1)


def _monotone(ds: xr.Dataset) -> Measurement:
    return at_most(float(rises(ds).where(flow_ratio(ds) < 1.0).max()), 0.0)


COHEN = "Cohen et al. 2021, 2103.00065"
CLAIMS = (
    Claim(
        f"Quadratics diverge exactly above the methods' limits, to {CLOSE:g} (share that agrees)",
        "2/eta, (2+2b)/eta, (2+2b)/(eta(1+2b)): Cohen et al. 2021, appendix B; exact",
        _quadratic,
    ),
    Claim(
        "Progressive sharpening: largest sharpness of the flow over its first, the least",
        f"{COHEN}, section 3.1; the ratio is ours",
        _sharpens,
    ),
    *(_hovers(name) for name in METHODS),
    Claim(
        "Controls, whose flow stays below the limit: largest sharpness over it, of all methods",
        f"{COHEN}; the converse is ours",
        _controls,
    ),
    Claim(
        f"Descent follows the flow up to {BELOW:g} of the limit (largest relative difference)",
        f"{COHEN}, figure 5; the tolerance is ours",
        _follows,
    ),
    Claim(
        "Descent leaves the flow where that is past the limit (sharpness over the flow's)",
        f"{COHEN}, section 3.2; ours",
        _leaves,
    ),
    Claim(
        "At the edge the loss rises between some records (number of rises, least of all networks)",
        f"{COHEN}, section 3.3; ours",
        _non_monotone,
    ),
    Claim(
        "Yet it falls: last loss over that at the crossing (the worst network)",
        f"{COHEN}, section 3.3; the ratio is ours",
        _falls_anyway,
    ),
    Claim(
        "Controls: gradient descent's loss never rises (number of rises, most of all networks)",
        "Descent lemma, sharpness below 2/eta; ours",
        _monotone,
    ),
)


def figure(ds: xr.Dataset):
    """Draw sharpness along training beside the flow, where all networks end, and the loss."""
    fig, (left, middle, right) = figures.new_figure(1, 3, size=(18, 5.4))
    shades = dict(zip(ds["limit"].values, figures.PALETTE, strict=False))
    _draw_sharpness(left, ds, shades)
    _draw_ends(middle, ds)
    _draw_loss(right, ds, shades)
    return fig


def _draw_sharpness(ax, ds: xr.Dataset, shades: dict[float, str]) -> None:
    flow = ds["flow_sharpness"].isel(seed=0)
    for limit, colour in shades.items():
        line = ds["sharpness"].sel(optimizer=DESCENT, limit=limit).isel(seed=0)
        times = 2.0 / limit * ds["step"]
        ax.plot(times[1:], line[1:], color=colour, linewidth=2, label=f"2/η = {limit:g}")
        ax.axhline(limit, color=colour, linestyle="--", linewidth=1.2)
    ax.plot(flow["time"], flow, color="black", linewidth=2.5, linestyle=":", label="gradient flow")
    ax.set(xscale="log", yscale="log", title="Gradient descent sharpens to 2/η (dashed)")
    ax.set(
        xlabel=f"time [learning rate x step], initialisation 1 of {ds.sizes['seed']}",
        ylabel="sharpness [largest Hessian eigenvalue]",
    )
    ticks = [1, 2, 3, 4, 5, 8, 12, 24]
    ax.set_yticks(ticks, [str(each) for each in ticks])
    ax.minorticks_off()
    ax.legend(fontsize=11, frameon=False, loc="upper left", ncols=2)
    ax.set(xlim=(1.0, None), ylim=(1.5, 2.4 * float(ds["limit"].max())))


def _draw_ends(ax, ds: xr.Dataset) -> None:
    x, y = flow_ratio(ds), late_ratio(ds)
    for number, name in enumerate(ds["optimizer"].values):
        pairs = xr.broadcast(x, y.sel(optimizer=name))
        style = {"color": figures.PALETTE[number], "alpha": 0.75}
        ax.plot(*(each.values.ravel() for each in pairs), "os^"[number], label=name, **style)
    most = 1.1 * float(x.max())
    ax.plot(
        [0, 1, most], [0, 1, 1], color="black", linestyle=":", linewidth=2, label="min(flow, 1)"
    )
    ax.axhspan(*EDGE, color="0.88", zorder=0)
    ax.set(xlabel="gradient flow's largest sharpness / limit", ylabel="late sharpness / limit")
    ax.set(title=f"All networks: {ds.sizes['limit']} limits x {ds.sizes['seed']} initialisations")
    ax.set(xlim=(0, most), ylim=(0, 1.35))
    ax.legend(fontsize=11, frameon=False, loc="lower right")


def _draw_loss(ax, ds: xr.Dataset, shades: dict[float, str]) -> None:
    for limit, colour in shades.items():
        line = ds["loss"].sel(optimizer=DESCENT, limit=limit).isel(seed=0)
        ax.plot(ds["step"], line, color=colour, linewidth=1.6, label=f"2/η = {limit:g}")
    ax.set(yscale="log", ylabel="training loss [1/2 squared error]")
    ax.set_xlabel(f"training step, initialisation 1 of {ds.sizes['seed']}")
    ax.set_title(f"Up and down, yet down: {ds.attrs['num_examples']} real digits")
    ax.legend(fontsize=11, frameon=False)
