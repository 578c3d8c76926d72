"""Normalisation and depth: what lets a network of any depth start, and what only seems to.

Batch norm makes gradients explode (Yang et al. 2019, 1902.08129); gradients at two inputs shatter
(Balduzzi et al. 2017, 1702.08591); orthogonal weights keep the Jacobian's singular values together
(Pennington et al. 2017, 1711.04735), so that 1,000 plain layers train (Xiao et al. 2018,
1806.05393); branches must be scaled (Zhang et al. 2019, 1901.09321). Real MNIST and digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import jaxnn as jn
from jaxnn import report
from jaxnn.report import Claim, Measurement, at_least, between, figures
from jaxnn.theory import batch_norm, mean_field, shattering

PROBES = jn.probes
BRANCHES = ("unscaled", "last zero", "1/sqrt(L)", "ReZero", "Fixup")
PLAIN = ("orthogonal, critical", "orthogonal, ordered", "orthogonal, chaotic", "Gaussian, critical")
EQUAL = (np.pi / (2 * np.pi - 1)) ** 0.5  # skip as strong as a normalised ReLU branch, in the end
VARIANCE = 0.2  # q* of tanh, where the Jacobian is measured
SEEN = slice(0, 6)  # layers over which gradients correlate by more than noise


@dataclass(frozen=True)
class Config:
    """What is varied, and the sizes."""

    batch_sizes: tuple[int, ...] = (16, 128)
    explosion: tuple[int, int, int] = (512, 20, 16)  # width, depth, seeds
    shatter: tuple[int, int, int, int] = (128, 512, 24, 12)  # batch, width, depth, seeds
    spread: tuple[int, int, int] = (256, 8, 6)  # width, depth, seeds
    depths: tuple[int, ...] = (4, 64)  # of residual networks, in blocks
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    residual: tuple[int, int, int] = (32, 120, 3)  # width, steps, seeds
    plain: tuple[int, int, int, int] = (32, 1000, 120, 2)  # width, depth, steps, seeds


SCALES = {
    "quick": Config(
        batch_sizes=(32,),
        explosion=(256, 14, 8),
        shatter=(128, 192, 8, 16),
        spread=(96, 4, 4),
        depths=(4, 16),
        rates=(0.03,),
        residual=(32, 40, 2),
        plain=(32, 200, 40, 1),
    ),
    "default": Config(),
    "paper": Config(
        explosion=(1024, 50, 32),
        shatter=(256, 2048, 50, 20),
        residual=(64, 2000, 16),
        plain=(32, 10_000, 5000, 4),
    ),
}


def run(config: Config, *, seed: int, store: Path) -> xr.Dataset:
    """Measure three laws of random networks, then train residual and plain ones."""
    measured = (_explosion, _shatter, _spread, _residual, _plain)
    parts = {each.__name__[1:]: each(config, seed, store / each.__name__) for each in measured}
    return report.gather(parts, plain_depth=config.plain[1])


def _by_layer(found: jax.Array, law: jax.Array) -> dict[str, jn.Labelled | jn.Coordinate]:
    """Label a measurement over 1, 2, ... layers and its law."""
    both = {"found": found, "law": law}
    labelled = {name: jn.Labelled(each, ("layer",), "1", name) for name, each in both.items()}
    return {**labelled, "layer": jn.Coordinate(tuple(range(1, 1 + found.size)), "1", "layers")}


def _explosion(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Squared gradients of plain networks with batch norm in training, downwards from the top."""
    (width, depth, num_seeds), images = config.explosion, jn.data.mnist5k().train

    def measured(key, *, batch_size):
        model = jn.mlp(depth, width, 10, "relu", weights=jn.he(), norm="batch")
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[:batch_size]), images)
        variables = model.init(key, batch.x)
        passed = PROBES.flow(model, jn.cross_entropy, variables, batch, train=True)
        squares = PROBES.preact_grad_rms.measure(passed)[::-1] ** 2
        growth = batch_norm.relu_gradient_growth(float(batch_size))
        return _by_layer(squares / squares[0], growth ** jnp.arange(depth))

    axes = {"batch_size": list(config.batch_sizes), "num_seeds": num_seeds}
    found = jn.sweep(measured, **axes, seed=seed, store=store)
    return found.assign_coords(batch_size=[f"batches of {each}" for each in config.batch_sizes])


def _shatter(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Correlation of two inputs' gradients in layers z + N(W relu(z)), z times a skip's strength.

    Batch norm's statistics are the batch's, and held fixed: each input has a gradient of its own. A
    branch passes pi / (pi - 1) / s^2 of the squared gradient, s^2 the variance of z.
    """
    count, width, depth, num_seeds = config.shatter

    def measured(key, *, skip):
        x = jax.random.normal(jax.random.fold_in(key, 1), (count, width))
        norm = jn.batch_norm(momentum=0.0)
        model = jn.mlp(depth, width, 1, "relu", weights=jn.he(), norm=norm, residual=skip)
        fixed = model.apply(model.init(key, x), x, train=True)[2]
        batch = jn.Batch(x, jnp.zeros(count, jnp.int32))
        passed = PROBES.flow(model, lambda outputs, _: outputs[:, 0], fixed, batch)
        gradients = passed._replace(taps=passed.taps._replace(pre=passed.backward))
        variance = jnp.cumsum(skip ** (2 * jnp.arange(depth - 1.0)))
        branch = batch_norm.RELU_GRADIENT_GROWTH / variance
        blocks = shattering.residual_correlation(1.0, jnp.sqrt(branch) / jnp.maximum(skip, 1e-3))
        law = jnp.cumprod(jnp.append(0.5, blocks[::-1]))  # half of the top layer's units are active
        return _by_layer(PROBES.preact_cosine.measure(gradients)[::-1], law)

    found = jn.sweep(measured, skip=[0, EQUAL, 1], num_seeds=num_seeds, seed=seed, store=store)
    return found.assign_coords(skip=["no skip", f"skip {EQUAL:.2f}", "skip 1"])


def _mixed(gaussian: jax.Array, sigma_w: jax.Array):
    """Draw Gaussian kernels where the first argument is 1, orthogonal ones where it is 0."""
    isometric, gauss = jn.orthogonal(sigma_w), jn.gaussian(sigma_w)
    return lambda *args: jnp.where(gaussian == 1, gauss(*args), isometric(*args))


def _spread(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Variance over squared mean of the squared singular values: L (mu_2 / mu_1^2 - 1 - s_1)."""
    (width, depth, num_seeds), tanh = config.spread, jn.activations.tanh

    def measured(key, *, weights):
        sigma_w, sigma_b = mean_field.critical_line(tanh, VARIANCE)
        kernels = {"weights": _mixed(weights, sigma_w), "biases": jn.gaussian(sigma_b)}
        model = jn.mlp(depth, width, 1, tanh, **kernels)
        x = jax.random.normal(jax.random.fold_in(key, 1), (width,))
        x = x * jnp.sqrt((VARIANCE - sigma_b**2) / sigma_w**2 / jnp.mean(x**2))  # q* at once
        variables = model.init(key, x[None])
        jacobians = jax.jacfwd(lambda x: model.apply(variables, x[None])[1].post[:, 0])(x)
        gram = jacobians @ jacobians.mT
        spread = width * jnp.sum(gram**2, (1, 2)) / jnp.trace(gram, axis1=1, axis2=2) ** 2 - 1
        squared = tanh._replace(slope=lambda z: tanh.slope(z) ** 2)  # so its chi is E phi'^4
        mu_1, mu_2 = (mean_field.chi(each, VARIANCE, 1.0) for each in (tanh, squared))
        law = mu_2 / mu_1**2 - 1 + weights  # s_1 is -1 for Gaussian weights, else 0
        return _by_layer(spread, jnp.arange(1, 1 + depth) * law)

    axes = {"weights": [0.0, 1.0], "num_seeds": num_seeds}
    found = jn.sweep(measured, **axes, seed=seed, store=store)
    return found.assign_coords(weights=["orthogonal", "Gaussian"])


def _fit(key: jax.Array, model: jn.Model, steps: int, rule: str, rate: jax.Array, **options: float):
    """Train a network on digits."""
    optimizer = jn.optimizer(rule, rate, **options)
    counts = {"num_steps": steps, "record_every": 20, "batch_size": 32}
    seen = {"probes": [PROBES.loss], "validation_probes": [PROBES.accuracy]}
    return jn.fit(model, jn.cross_entropy, optimizer, jn.data.digits(), key=key, **counts, **seen)


def _residual(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Residual networks whose branches have a trained factor, by how they start."""
    width, steps, num_seeds = config.residual

    def train(key, *, start, depth, learning_rate):
        shrunk = depth.num_layers**-0.5
        starts = ((1, 1, 1), (1, 1, 0), (shrunk, 1, 1), (0, 1, 1), (1, shrunk, 0))
        factor, inner, last = jnp.asarray(starts, float)[start]
        kernels = {"weights": jn.he(inner), "last": jn.he(last), "readout": jn.lecun()}
        scale = {"branch_scale": factor, "trained_scale": True}
        model = jn.residual_mlp(depth, width, 10, **kernels, **scale)
        return _fit(key, model, steps, "sgd", learning_rate, momentum=0.9)

    axes = {"start": jn.traced(range(len(BRANCHES))), "learning_rate": list(config.rates)}
    options = {"depth": jn.depths(config.depths), "num_seeds": num_seeds, "seed": seed}
    return jn.sweep(train, **axes, **options, store=store).assign_coords(start=list(BRANCHES))


def _plain(config: Config, seed: int, store: Path) -> xr.Dataset:
    """Plain tanh networks with q* = 1 / depth; the readout's gain undoes the small signal."""
    width, depth, steps, num_seeds = config.plain

    def train(key, *, start, learning_rate):
        gaussian, scale = jnp.asarray(((0, 1), (0, 0.9), (0, 1.5), (1, 1)), float)[start]
        sigma_w, sigma_b = mean_field.critical_line(jn.activations.tanh, 1.0 / depth)
        kernels = {"weights": _mixed(gaussian, scale * sigma_w), "readout": jn.lecun(depth**0.5)}
        model = jn.mlp(depth, width, 10, "tanh", **kernels, biases=jn.gaussian(sigma_b))
        return _fit(key, model, steps, "adam", learning_rate)

    axes = {"start": jn.traced(range(len(PLAIN))), "learning_rate": [0.02 / depth]}
    found = jn.sweep(train, **axes, num_seeds=num_seeds, seed=seed, store=store)
    return found.assign_coords(start=list(PLAIN))


def _law(part: str, layers: slice | int, rtol: float, **network: int) -> Callable:
    """Hold the factor a layer, or the value at one, to that of infinite width, within rtol."""

    def statistic(values: xr.DataArray) -> float:
        mean = values.mean("seed").isel(layer=layers)
        if isinstance(layers, int):
            return float(mean)
        slope = np.log(mean).polyfit("layer", 1)["polyfit_coefficients"].sel(degree=1)
        return float(np.exp(slope))

    def check(ds: xr.Dataset) -> Measurement:
        chosen = report.part(ds, part).isel(network)
        value, error = report.jackknife(chosen["found"], statistic)
        law = statistic(chosen["law"])
        return between(value, (1 - rtol) * law, (1 + rtol) * law, error, expected=law)

    return check


def _gain(part: str, good: slice, bad: slice) -> Callable:
    """Compare the worst of some starts with the best of others, each at its best rate."""

    def check(ds: xr.Dataset) -> Measurement:
        final = report.part(ds, part)["validation_accuracy"].isel(step=-1)
        best = final.isel(depth=-1, missing_dims="ignore").max("learning_rate")
        gain = best.isel(start=good).min("start") - best.isel(start=bad).max("start")
        mean, error = map(float, report.mean_and_error(gain))
        return at_least(mean, 0.5, error)

    return check


SHATTERED = (
    ("Batch norm and ReLU halve the correlation of two inputs' gradients a layer", SEEN, 0.02),
    ("A skip as strong as the branch slows this to 3/4 a layer", SEEN, 0.014),
    ("A skip of strength 1 slows it to L^-0.733 (our product; L^-0.5 in the paper)", -1, 0.1),
)
CLAIMS = (
    Claim(
        "Batch norm with ReLU: squared gradients grow by pi/(pi-1) a layer, more at finite B",
        "Yang et al. 2019, 1902.08129; at finite batches ours",
        _law("explosion", slice(4, -4), 0.02, batch_size=-1),  # far from the loss and the images
    ),
    *(
        Claim(words, "Balduzzi et al. 2017, 1702.08591", _law("shatter", *bound, skip=number))
        for number, (words, *bound) in enumerate(SHATTERED)
    ),
    *(
        Claim(
            f"{weights} weights: spread of the squared singular values of a critical Jacobian",
            "Pennington et al. 2017, 1711.04735; tanh, q* = 0.2",
            _law("spread", -1, 0.1, weights=number),
        )
        for number, weights in enumerate(("Orthogonal", "Gaussian"))
    ),
    Claim(
        "Trend: 1/sqrt(L), ReZero and Fixup train where unscaled branches do not (accuracy gained)",
        "Zhang et al. 2019, 1901.09321; Bachlechner et al. 2020, 2003.04887; bound ours",
        _gain("residual", slice(2, None), slice(0, 1)),
    ),
    Claim(
        "Trend: 1,000 plain layers (quick: 200) train if critical and orthogonal (accuracy gained)",
        "Xiao et al. 2018, 1806.05393, for convolutions; bound ours",
        _gain("plain", slice(0, 1), slice(1, None)),
    ),
)


def figure(ds: xr.Dataset):
    """Draw the three laws over layers, and what trains at depth."""
    fig, axes = figures.new_figure(2, 3, size=(17, 9.5))
    laws = {
        "explosion": ("Batch norm's gradients explode", "squared gradient / the top layer's"),
        "shatter": ("Gradients shatter under batch norm", "correlation of two inputs' gradients"),
        "spread": ("Tanh network at criticality", "variance / mean² of squared singular values"),
    }
    for ax, (name, (title, label)) in zip(axes[0], laws.items(), strict=True):
        chosen = report.part(ds, name)
        _draw(ax, chosen["found"], "layer", f"{title}; dotted: theory", chosen["law"])
        ax.set(yscale="log", xlabel="layers below the output", ylabel=label)
    axes[0, 1].set(ylim=(2e-4, 1))
    axes[0, 2].set(xlabel="layers")
    final = report.part(ds, "residual")["validation_accuracy"].isel(step=-1)
    for ax, number in zip(axes[1], (0, -1), strict=False):
        chosen = final.isel(depth=number)
        _draw(ax, chosen, "learning_rate", f"{int(chosen['depth'])} residual blocks, digits")
        ax.set(xscale="log", xlabel="learning rate [1/step]")
        figures.plain_ticks(ax.xaxis, final["learning_rate"].values)
    plain = report.part(ds, "plain")["validation_accuracy"].isel(learning_rate=0)
    _draw(axes[1, 2], plain, "step", f"Plain tanh, {ds.attrs['plain_depth']:,} layers, digits")
    for ax in axes[1]:
        ax.set(ylim=(0, 1), ylabel="validation accuracy")
    return fig


def _draw(ax, found: xr.DataArray, x: str, title: str, law: xr.DataArray | None = None) -> None:
    """Draw a line for each network, with the spread of its seeds, and its law dotted."""
    (network,) = set(found.dims) - {x, "seed"}
    for colour, name in zip(figures.PALETTE, found[network].values, strict=False):
        style = {"color": colour, "marker": "o", "markersize": 4, "label": name}
        told = figures.over_seeds(ax, found.sel({network: name}), x=x, **style)
        if law is not None:
            ax.plot(found[x], law.sel({network: name}).isel(seed=0), "k:", linewidth=1.5)
    ax.set(xlabel=x, title=f"{title}\n({told})")
    ax.legend(fontsize=10, frameon=False)
