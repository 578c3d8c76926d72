"""Learning rate: too small, right, too large; where training diverges, and what noise asks of it.

Goodfellow et al. 2016, figure 11.1, for the curve; Smith 2017 (1506.01186) for the range test, one
training on a rising rate, against the truth of a sweep; LeCun et al. 1998 for the limit 2/lambda of
a quadratic; Kingma & Ba 2014 (1412.6980) for a rate that no longer knows the loss's scale; Goyal et
al. 2017 (1706.02677) for warm-up and for noise at a constant rate over batch; McCandlish et al.
2018 (1812.06162) for the noise scale and the best rate at a batch size.

Networks train on real MNIST. The exact laws are on quadratics: least squares of real digits (from
pixels to one-hot classes), and one weight for the stationary noise. A training counts as diverged
if its last loss is above its first. Standard errors are over seeds.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn.report import Claim, Measurement, agrees, at_least, at_most, between, exact, figures
from jaxnn.theory import noise

SETTINGS = ("plain", "loss x 100", "warm-up", "cosine")
SCALE = 100.0  # of the loss, in one of the settings
CLOSE = 1e-3  # relative distance from 2/lambda at which a quadratic must tell the sides apart
CLIFF = 3.0  # factor between range test and sweep that the claim allows
RATE_OVER_BATCH = 0.025  # where the stationary noise is compared

_divergence = jax.jit(jn.range_test.divergence)
_variance = jax.jit(noise.stationary_variance)


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    width: int = 32
    rules: tuple[str, ...] = ("sgd", "adam")
    log10_rates: tuple[float, float, int] = (-4.0, 1.0, 21)  # least, most, number
    num_seeds: int = 3
    num_steps: int = 300
    batch_size: int = 32
    num_batches: int = 200  # of 256 examples, for the noise scale of a network
    noise_examples: int = 1000  # the whole training set, in that measurement
    num_chains: int = 2048  # of the stationary noise
    num_draws: int = 10_000  # batches, for the best rate on least squares


SCALES = {
    "quick": Config(
        log10_rates=(-4.0, 1.0, 11),
        num_seeds=2,
        num_batches=60,
        noise_examples=500,
        num_chains=1024,
        num_draws=4000,
    ),
    "default": Config(),
    "paper": Config(
        width=512,
        rules=("sgd", "adam", "rmsprop", "nadam", "lion", "muon"),
        log10_rates=(-5.0, 2.0, 57),
        num_seeds=16,
        num_steps=5000,
        num_batches=2000,
        noise_examples=3500,
        num_chains=65_536,
        num_draws=1_000_000,
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Sweep rates and settings; ramp the rate; measure curvature and noise; run the quadratics."""
    mnist = jn.data.mnist5k()
    model = jn.mlp(2, config.width, 10, "tanh")
    low, high, count = config.log10_rates
    rates, steps = 10.0 ** np.linspace(low, high, count), config.num_steps

    def train(key, *, rule, setting, learning_rate):
        scale = jnp.where(setting == 1, SCALE, 1.0)
        falling = jn.schedules.cosine(
            learning_rate, steps, final=jnp.where(setting == 3, 0.0, learning_rate)
        )
        rate = jn.schedules.warm_up(jnp.where(setting == 2, steps / 4, 0), falling)
        return jn.fit(
            model,
            lambda outputs, targets: scale * jn.cross_entropy(outputs, targets),
            jn.optimizer(rule, rate),
            mnist,
            key=key,
            num_steps=steps,
            record_every=steps,
            batch_size=config.batch_size,
            probe_size=512,
            probes=[jn.probes.loss, jn.probes.gradient_noise()],
        )

    def ramp(key):
        rate = jn.schedules.ramp(10.0**low, 10.0**high, steps)
        return jn.fit(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", rate),
            mnist,
            key=key,
            num_steps=steps,
            record_every=1,
            batch_size=config.batch_size,
            probe_size=128,
            probes=[jn.probes.loss],
        )

    def at_start(key):
        return initial_noise(model, mnist.train, config, key)

    seeds = {"num_seeds": config.num_seeds, "seed": seed}
    trained = jn.sweep(
        train,
        rule=list(config.rules),
        setting=jn.traced(range(len(SETTINGS))),
        learning_rate=rates,
        store=store / "train",
        **seeds,
    )
    ramped = jn.sweep(ramp, store=store / "ramp", **seeds)
    started = jn.sweep(at_start, store=store / "start", **seeds)
    quadratics = _quadratics(config, seed, store)
    parts = [
        trained.assign_coords(setting=list(SETTINGS)),
        ramped[["loss"]].rename(loss="ramp_loss", step="ramp_step"),
        started,
        *quadratics,
    ]
    merged = xr.merge(parts, combine_attrs="drop_conflicts")
    merged["ramp_rate"] = 10.0 ** (low + (high - low) * merged["ramp_step"] / steps)
    for name in ("wall_seconds", "compile_seconds"):
        merged.attrs[name] = sum(each.attrs[name] for each in (*parts, trained, ramped)[2:])
    return merged.assign_attrs(num_steps=steps, batch_size=config.batch_size)


def initial_noise(model: jn.Model, train: jn.Batch, config: Config, key: jax.Array) -> dict:
    """Measure curvature and gradient noise of a network at its start, by probes and exactly."""
    whole = jax.tree.map(lambda leaf: jnp.asarray(leaf[: config.noise_examples]), train)
    variables = model.init(key, whole.x)
    flow = jn.probes.flow(model, jn.cross_entropy, variables, whole)
    size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(flow.gradients))

    def square(place: jax.Array) -> jax.Array:
        one = jax.tree.map(lambda leaf: leaf[place][None], whole)
        passed = jn.probes.flow(model, jn.cross_entropy, variables, one)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(passed.gradients))

    def estimate(key: jax.Array) -> dict:
        places = jax.random.randint(key, (256,), 0, config.noise_examples)
        batch = jax.tree.map(lambda leaf: leaf[places], whole)
        passed = jn.probes.flow(model, jn.cross_entropy, variables, batch)
        found = jn.probes.measure([jn.probes.gradient_noise()], passed)
        return {name: found[f"gradient_noise_{name}"].values for name in ("trace", "signal")}

    squares = jax.lax.map(square, jnp.arange(config.noise_examples), batch_size=50)
    keys = jax.random.split(jax.random.fold_in(key, 1), config.num_batches)
    estimates = jax.lax.map(estimate, keys)
    sharpest = jn.probes.measure([jn.probes.hessian_extremes(30)], flow)["hessian_max"].values
    return {
        "initial_sharpness": sharpest,
        "exact_noise_scale": (jnp.mean(squares) - size) / size,
        "noise_trace": jn.Labelled(estimates["trace"], ("batch",)),
        "noise_signal": jn.Labelled(estimates["signal"], ("batch",)),
    }


def _quadratics(config: Config, seed: int, store: Path) -> list[xr.Dataset]:
    """Run what is exact: divergence, stationary noise, the best rate at a batch size."""
    train = jn.data.digits(standardize="feature").train
    x, targets = jnp.asarray(train.x), jax.nn.one_hot(train.y, 10)
    hessian, mean = x.T @ x / len(x), x.T @ targets[:, 0] / len(x)  # of one class and the rest
    limit = 2.0 / jnp.linalg.eigvalsh(hessian)[-1]

    def descend(key, *, ratio):
        def step(_, weights):
            return weights - ratio * limit * (hessian @ weights - mean)

        def slope(weights):
            return jnp.linalg.norm(hessian @ weights - mean)

        half = jax.lax.fori_loop(0, 1500, step, jnp.zeros_like(mean))
        return {"growth": slope(jax.lax.fori_loop(0, 1500, step, half)) / slope(half)}

    def settle(key, *, batch):
        rate, start_key = RATE_OVER_BATCH * batch, jax.random.fold_in(key, 0)

        def step(number, carry):
            weight, total = carry
            drawn = jax.random.normal(jax.random.fold_in(key, number + 1), weight.shape)
            weight = weight - rate * (weight + drawn / jnp.sqrt(batch))
            return weight, total + jnp.where(number < 400, 0.0, jnp.mean(weight**2) / 400)

        spread = jnp.sqrt(noise.stationary_variance(rate, 1.0, 1.0, batch))
        start = 0.5 * spread * jax.random.normal(start_key, (config.num_chains,))
        _, mean_square = jax.lax.fori_loop(0, 800, step, (start, 0.0))
        return {"stationary_square": mean_square}

    def best_step(key, *, batch):
        return {"best_rate": best_rate(x, targets, batch, key, config.num_draws)}

    ratios = [1.0 - CLOSE, 1.0 + CLOSE]
    grown = jn.sweep(descend, ratio=ratios, seed=seed, store=store / "quadratic")
    settled = jn.sweep(
        settle, batch=[1.0, 8.0, 32.0, 64.0], num_seeds=8, seed=seed, store=store / "settled"
    )
    best = jn.sweep(
        best_step, batch=[1.0, 4.0, 16.0, 64.0], num_seeds=8, seed=seed, store=store / "best"
    )
    theory = [float(_best_rate_theory(x, targets, each)) for each in best["batch"].values]
    best = best.rename(batch="best_batch", seed="draw")
    best["best_rate_theory"] = ("best_batch", theory)
    settled = settled.rename(batch="settled_batch", seed="draw")
    return [grown.isel(seed=0, drop=True), settled, best]


def best_rate(
    x: jax.Array, targets: jax.Array, batch: jax.Array, key: jax.Array, num_draws: int
) -> jax.Array:
    """Measure the rate of one step from weights 0 that lowers the mean loss most.

    The loss over all examples after a step is a parabola of the rate, averaged over many batches.
    A batch is 64 examples drawn with replacement, of which the first `batch` count.
    """
    size, gram, mean = len(x), x.T @ x / len(x), x.T @ targets / len(x)
    used = jnp.where(jnp.arange(64, dtype=x.dtype) < batch, 1.0 / batch, 0.0)

    def parabola(key: jax.Array) -> jax.Array:
        places = jax.random.randint(key, (64,), 0, size)
        step = jnp.einsum("b,bi,bo->io", used, x[places], targets[places])  # minus the gradient
        return jnp.stack([jnp.sum(step * mean), jnp.sum(step * (gram @ step))])

    keys = jax.random.split(key, num_draws)
    fall, rise = jnp.mean(jax.lax.map(parabola, keys, batch_size=500), axis=0)
    return fall / rise  # of -rate fall + rate^2 rise / 2


@jax.jit
def _best_rate_theory(x: jax.Array, targets: jax.Array, batch: jax.Array) -> jax.Array:
    """Return eps_max / (1 + B_noise / B); H is the same block for each of the ten outputs."""
    gradients = -jnp.einsum("ni,no->noi", x, targets).reshape(len(x), -1)
    mean = jnp.mean(gradients, axis=0)
    covariance = gradients.T @ gradients / len(x) - jnp.outer(mean, mean)
    hessian = jnp.kron(jnp.eye(targets.shape[1]), x.T @ x / len(x))
    scale = noise.noise_scale(mean, hessian, covariance)
    return noise.optimal_learning_rate(noise.largest_step(mean, hessian), scale, batch)


def last_loss(ds: xr.Dataset, rule: str = "sgd", setting: str = "plain") -> xr.DataArray:
    """Return the last loss by rate and seed, in nats; infinite where it is not a number."""
    found = ds["loss"].sel(rule=rule, setting=setting).isel(step=-1)
    return found.fillna(np.inf) / (SCALE if setting == "loss x 100" else 1.0)


def best_learning_rate(ds: xr.Dataset, rule: str = "sgd", setting: str = "plain") -> float:
    """Return the rate with the lowest last loss, the mean over seeds."""
    return float(last_loss(ds, rule, setting).mean("seed").idxmin("learning_rate"))


def divergence(ds: xr.Dataset, setting: str = "plain") -> np.ndarray:
    """Return the lowest rate at which SGD ends above its first loss, by seed."""
    losses = last_loss(ds, "sgd", setting).transpose("seed", "learning_rate").values
    first = ds["loss"].sel(rule="sgd", setting="plain").isel(step=0, learning_rate=0).values
    rates = ds["learning_rate"].values
    pairs = zip(losses, first, strict=True)
    return np.array([float(_divergence(rates, each, limit=limit)) for each, limit in pairs])


def cliff(ds: xr.Dataset) -> np.ndarray:
    """Return the rate at which the range test's loss breaks away, by seed."""
    losses = ds["ramp_loss"].transpose("seed", "ramp_step").values
    return np.array([float(_divergence(ds["ramp_rate"].values, each)) for each in losses])


def _ratio(values: np.ndarray) -> tuple[float, float]:
    """Return the geometric mean and its standard error."""
    logs = np.log(values)
    mean = float(np.exp(logs.mean()))
    return mean, mean * float(logs.std(ddof=1)) / len(logs) ** 0.5


def _quadratic(ds: xr.Dataset) -> Measurement:
    agrees_with_theory = (ds["growth"] > 1.0) == (ds["ratio"] > 1.0)
    return exact(float(agrees_with_theory.mean()), 1.0, rtol=0.0)


def _above_limit(ds: xr.Dataset) -> Measurement:
    return at_least(float((divergence(ds) * ds["initial_sharpness"].values / 2.0).min()), 1.0)


def _range_test(ds: xr.Dataset) -> Measurement:
    mean, error = _ratio(cliff(ds) / divergence(ds))
    return between(mean, 1.0 / CLIFF, CLIFF, error, expected=1.0)


def _regimes(ds: xr.Dataset) -> Measurement:
    decades = np.log10(divergence(ds) / best_learning_rate(ds))
    error = float(decades.std(ddof=1)) / len(decades) ** 0.5
    return between(round(float(decades.mean()), 4), 0.0, 1.5, error)  # float32 rates on a grid


def _too_small(ds: xr.Dataset) -> Measurement:
    first = ds["loss"].sel(rule="sgd", setting="plain").isel(step=0)
    fallen = (last_loss(ds) / first).mean("seed")
    return at_least(float(fallen.isel(learning_rate=0) / fallen.min("learning_rate")), 4.0)


def _sgd_scale(ds: xr.Dataset) -> Measurement:
    """Compare trainings at a rate on 100 times the loss with those at 100 times the rate."""
    rates, shift = ds["learning_rate"].values, 0
    shift = int(np.abs(np.log(rates / rates[0] / SCALE)).argmin())
    stable = rates[shift:] < divergence(ds).min() / 10.0
    scaled = last_loss(ds, setting="loss x 100").isel(learning_rate=slice(None, -shift)).values
    plain = last_loss(ds).isel(learning_rate=slice(shift, None)).values
    return exact(float(np.median((scaled / plain)[stable])), 1.0, rtol=1e-3)


def _adam_scale(ds: xr.Dataset) -> Measurement:
    ratio = last_loss(ds, "adam", "loss x 100") / last_loss(ds, "adam")
    return between(float(ratio.median()), 0.98, 1.02, expected=1.0)


def _warm_up(ds: xr.Dataset) -> Measurement:
    mean, error = _ratio(divergence(ds, "warm-up") / divergence(ds))
    return at_least(mean, 1.0, error)


def _cosine(ds: xr.Dataset) -> Measurement:
    losses = [last_loss(ds, setting=name).mean("seed").min() for name in ("cosine", "plain")]
    return at_most(float(losses[0] / losses[1]), 1.0)


def _stationary(ds: xr.Dataset) -> Measurement:
    """Compare the variance with theory's at the batch where it is farthest off."""
    batches, squares = ds["settled_batch"].values, ds["stationary_square"]
    expected = _variance(RATE_OVER_BATCH * batches, 1.0, 1.0, batches)
    expected, means = np.asarray(expected), squares.mean("draw").values
    worst = np.abs(means / expected - 1.0).argmax()
    error = float(squares.isel(settled_batch=worst).std(ddof=1)) / squares.sizes["draw"] ** 0.5
    return agrees(means[worst], expected[worst], error, rtol=0.02)


def _noise_scale(ds: xr.Dataset) -> Measurement:
    """Compare the ratio of averages over batches with the exact scale, seed by seed."""
    means = ds[["noise_trace", "noise_signal"]].mean("batch")
    ratio = means["noise_trace"] / means["noise_signal"] / ds["exact_noise_scale"]
    off = ds["noise_trace"] - ratio * ds["exact_noise_scale"] * ds["noise_signal"]
    errors = off.std("batch", ddof=1) / ds.sizes["batch"] ** 0.5 / means["noise_trace"] * ratio
    error = float(np.sqrt((errors**2).sum()) / errors.size)
    return agrees(float(ratio.mean()), 1.0, error, rtol=0.1)


def _best_rate(ds: xr.Dataset) -> Measurement:
    found = ds["best_rate"].sel(best_batch=16.0)
    error = float(found.std(ddof=1)) / found.size**0.5
    return agrees(
        float(found.mean()), float(ds["best_rate_theory"].sel(best_batch=16.0)), error, rtol=0.01
    )


def _noise_grows(ds: xr.Dataset) -> Measurement:
    where = {"rule": "sgd", "setting": "plain", "learning_rate": best_learning_rate(ds)}
    parts = ds[["gradient_noise_trace", "gradient_noise_signal"]].sel(where).mean("seed")
    scale = parts["gradient_noise_trace"] / parts["gradient_noise_signal"]
    return at_least(float(scale.isel(step=-1) / scale.isel(step=0)), 3.0)


MCCANDLISH = "McCandlish et al. 2018, 1812.06162"
CLAIMS = (
    Claim(
        f"Least squares of digits diverges exactly above 2/lambda_max, to {CLOSE:g} (share)",
        "LeCun et al. 1998, Efficient BackProp, section 5.2; exact",
        _quadratic,
    ),
    Claim(
        "Networks diverge only above 2/lambda_max at the start (rate over it, the least of seeds)",
        "Lewkowycz et al. 2020, 2003.02218: large rates catapult to flatter ground",
        _above_limit,
    ),
    Claim(
        "The range test's cliff is where the sweep diverges (ratio of rates)",
        "Smith 2017, 1506.01186, section 3.3; factor 3, ours",
        _range_test,
    ),
    Claim(
        "Trend: the best rate is at most 1.5 decades below divergence (decades)",
        "Goodfellow et al. 2016, section 11.4.1; ours",
        _regimes,
    ),
    Claim(
        "Trend: the smallest rate hardly trains (its last loss over the best rate's)",
        "Goodfellow et al. 2016, figure 11.1; ours",
        _too_small,
    ),
    Claim(
        "SGD on 100 times the loss trains as at 100 times the rate (median ratio of last losses)",
        "Chain rule; exact",
        _sgd_scale,
    ),
    Claim(
        "Adam does not see the loss's scale (median ratio of last losses, x 100 / x 1)",
        "Kingma & Ba 2014, 1412.6980, section 2.1",
        _adam_scale,
    ),
    Claim(
        "Trend: with warm-up SGD diverges at no lower rate than without (ratio of rates)",
        "Goyal et al. 2017, 1706.02677, section 2.2; ours",
        _warm_up,
    ),
    Claim(
        "Trend: falling along a cosine ends no higher than a constant rate (each at its best)",
        "Loshchilov & Hutter 2016, 1608.03983; ours",
        _cosine,
    ),
    Claim(
        "Stationary variance at a constant eta/B, the batch farthest off",
        "Goyal et al. 2017, 1706.02677, for the rule; eta s^2/(B lam (2 - eta lam)), exact",
        _stationary,
    ),
    Claim(
        "Noise scale of a network from two batch sizes, over the exact one",
        f"{MCCANDLISH}, appendix A.1",
        _noise_scale,
    ),
    Claim(
        "Best rate of a step on 16 digits, least squares: eps_max/(1 + B_noise/B)",
        f"{MCCANDLISH}, eq. 2.6",
        _best_rate,
    ),
    Claim(
        "Trend: the noise scale grows in training (last over first, at the best rate)",
        f"{MCCANDLISH}, section 2.4; the factor is ours",
        _noise_grows,
    ),
)


def figure(ds: xr.Dataset):
    """Draw the regimes with the range test, the settings of two rules, and rate against batch."""
    fig, (left, middle, right) = figures.new_figure(1, 3, size=(18, 5.4))
    _draw_regimes(left, ds)
    _draw_settings(middle, ds)
    _draw_batches(right, ds)
    return fig


def _band(ax, losses: xr.DataArray, **style) -> None:
    """Draw the mean over seeds, and their range; rates that diverged are not drawn."""
    finite = losses.where(losses < 100.0)
    rates = losses["learning_rate"]
    ax.plot(rates, finite.mean("seed", skipna=False), linewidth=2, **style)
    ends = (finite.min("seed"), finite.max("seed"))
    ax.fill_between(rates, *ends, color=style["color"], alpha=0.2, linewidth=0)


def _draw_regimes(ax, ds: xr.Dataset) -> None:
    blue, orange = figures.PALETTE[:2]
    _band(ax, last_loss(ds), color=blue, marker="o", markersize=4, label="sweep: last loss")
    ramp = ds["ramp_loss"].isel(seed=0)
    ax.plot(
        ds["ramp_rate"],
        ramp.where(ramp < 100.0),
        color=orange,
        label="range test: one training, seed 0",
    )
    limit = float((2.0 / ds["initial_sharpness"]).mean())
    marks = {"2/λ at the start": (limit, ":"), "divergence": (_ratio(divergence(ds))[0], "--")}
    for name, (rate, line) in marks.items():
        ax.axvline(rate, color="black", linestyle=line, linewidth=1.8, label=name)
    ax.set(xscale="log", yscale="log", ylim=(None, 2000.0))
    ax.set(xlabel="learning rate", ylabel="training loss [nats]")
    ax.set_title(f"SGD, {ds.attrs['num_steps']} steps on real MNIST: too small, right, too large")
    ax.legend(fontsize=11, frameon=False, loc="upper left")


def _draw_settings(ax, ds: xr.Dataset) -> None:
    for number, setting in enumerate(SETTINGS):
        colour = figures.PALETTE[number]
        _band(ax, last_loss(ds, setting=setting), color=colour, label=f"SGD, {setting}")
    for number, setting in enumerate(SETTINGS[:2]):
        style = {"color": figures.PALETTE[5 + number], "linestyle": "-." if number else "--"}
        _band(ax, last_loss(ds, "adam", setting), **style, label=f"Adam, {setting}")
    ax.set(xscale="log", yscale="log", ylim=(None, 2000.0))
    ax.set(xlabel="(peak) learning rate", ylabel="last training loss [nats]")
    ax.set_title(f"Rules and settings: mean and range of {ds.sizes['seed']} seeds")
    ax.legend(fontsize=10.5, frameon=False, loc="upper left", ncols=2)


def _draw_batches(ax, ds: xr.Dataset) -> None:
    """Draw both laws of noise against the batch, each over its value at an infinite one or at 1."""
    blue, orange = figures.PALETTE[:2]
    found, error = ds["best_rate"].mean("draw"), ds["best_rate"].std("draw", ddof=1)
    error = error / ds.sizes["draw"] ** 0.5
    theory = ds["best_rate_theory"]
    ax.plot(theory["best_batch"], theory, color=blue, linewidth=2, label="best rate, theory")
    style = {"color": blue, "fmt": "o", "capsize": 4}
    ax.errorbar(found["best_batch"], found, error, **style, label="measured, least squares")
    batches = np.geomspace(1.0, 70.0, 100)
    rates = RATE_OVER_BATCH * batches
    variance = np.asarray(_variance(rates, 1.0, 1.0, batches))
    ax.plot(batches, variance, color=orange, linewidth=2, label="stationary variance, theory")
    squares = ds["stationary_square"]
    error = squares.std("draw", ddof=1) / ds.sizes["draw"] ** 0.5
    style = {"color": orange, "fmt": "s", "capsize": 4}
    ax.errorbar(ds["settled_batch"], squares.mean("draw"), error, **style, label="measured, SGD")
    ax.set(xscale="log", yscale="log", xlabel="batch size [examples]")
    ax.set_ylabel("best learning rate, or variance of a weight")
    ax.set_title(f"Quadratics (variance at η/B = {RATE_OVER_BATCH:g}); error bars 1 s.e.")
    ax.legend(fontsize=11, frameon=False)
