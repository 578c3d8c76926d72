"""The plan: programs, members, tiles and work, counted by hand."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.sweep.jaxprs import matrix_flops
from jaxnn.sweep.tiles import choose_tile


def product(key, *, depth, scale, name):
    """Depth.maximum products of [2, 3] @ [3, 3]: 2 * 2 * 3 * 3 = 36 flops each."""
    matrix = jnp.full((3, 3), scale)
    start = jnp.ones((2, 3))
    end, _ = jax.lax.scan(lambda x, _: (x @ matrix, None), start, length=depth.maximum)
    return {"sum": end.sum()}


def planned(layout, **changes):
    arguments = {
        "depth": jn.depths([10, 40]),
        "scale": [0.5, 0.7, 0.9],
        "name": ["a", "b"],
        "num_seeds": 5,
        **changes,
    }
    return jn.plan(product, layout=layout, **arguments)


@pytest.mark.parametrize(
    ("layout", "programs", "members"), [("exact", 4, 15), ("masked", 2, 30), (None, 4, 15)]
)
def test_plan_has_a_program_for_each_static_point(layout, programs, members):
    chosen = planned(layout)
    assert len(chosen.programs) == programs
    assert [len(p.numbers) for p in chosen.programs] == [members] * programs
    assert sorted(np.concatenate([p.numbers for p in chosen.programs])) == list(range(60))
    assert chosen.grid.num_members == 60


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 100, np.int64(3)])
@pytest.mark.parametrize("devices", [1, 2])
def test_tile_holds_whole_rounds_and_no_idle_one(lanes, devices):
    tile = choose_tile(
        planned("exact").programs[0].trace, 15, np.array(jax.devices() * 2)[:devices], lanes
    )
    assert tile.lanes == min(lanes, -(-15 // devices))
    assert tile.slots % tile.lanes == 0
    calls = -(-15 // (tile.slots * devices))
    assert calls * tile.slots * devices - 15 < tile.lanes * devices * calls


@pytest.mark.parametrize(
    ("layout", "spent", "padding"),
    [
        # 36 flops a product, 15 members of each program in 16 lanes, for each of 2 names
        pytest.param("exact", 2 * 16 * 36 * (10 + 40), 1 / 16, id="exact"),
        # one program of 30 members, all as deep as 40; 10 and 40 are used
        pytest.param("masked", 2 * 30 * 36 * 40, 1 - 50 / (2 * 40), id="masked"),
        # 14 of 15 members in lanes as deep as their own; the odd ones of 40 and of 10 share 40
        pytest.param("ragged", 2 * 36 * (16 * 40 + 14 * 10), 1 - 750 / 780, id="ragged"),
    ],
)
def test_explain_counts_the_work(layout, spent, padding):
    chosen = planned(layout, tile_size=2, devices=jax.devices()[:2])
    words = chosen.explain()
    assert f"60 members in {len(chosen.programs)} programs, depth layout {layout!r}" in words
    assert ("15 members" if layout == "exact" else "30 members") in words
    flops, share = re.search(r"([\d.e+-]+) GFLOP, (\d+)% of it padding", words).groups()
    assert float(flops) == pytest.approx(spent / 1e9, rel=1e-3)  # printed with four digits
    assert int(share) == round(100 * padding)
    assert re.search(r"\d+ tiles, ", words)
    assert "MB of results" in words


def test_explain_of_a_run_without_products_pads_nothing():
    words = jn.plan(lambda key, *, scale: {"y": scale}, scale=[1.0, 2.0], tile_size=1).explain()
    assert " 0% of it padding" in words


def test_explain_counts_the_bytes_of_the_results():
    def run(key, *, scale):
        return {"half": jnp.zeros(250_000) + scale}

    assert "2 MB of results" in jn.plan(run, scale=[1.0, 2.0]).explain()


def test_explain_hints_at_one_device(monkeypatch):
    hint = "import jaxnn before JAX starts"
    chosen = planned("exact", devices=jax.devices()[:1])
    assert hint not in chosen.explain() or jax.device_count() == 1
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert hint in chosen.explain()


def test_run_that_calls_lapack_takes_one_device_where_it_could_hang():
    def run(key, *, scale):
        return {"trace": jnp.trace(jnp.linalg.qr(scale * jax.random.normal(key, (4, 4)))[0])}

    chosen = jn.plan(run, scale=[1.0, 2.0])
    safe = jax.__version_info__ >= (0, 12)
    assert chosen.mesh.devices.size == (jax.device_count() if safe else 1)
    assert ("LAPACK" in chosen.explain()) != safe


def scanned(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, length=7)[0]


def branched(x, w):
    return jax.lax.cond(x.sum() > 0, lambda x: x @ w @ w, lambda x: x @ w, x)


X, W = jax.ShapeDtypeStruct((4, 5), jnp.float32), jax.ShapeDtypeStruct((5, 5), jnp.float32)
ONE = 2 * 4 * 5 * 5  # [4, 5] @ [5, 5]: 2 m k n


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        pytest.param(lambda x, w: x @ w, ONE, id="product"),
        pytest.param(scanned, 7 * ONE, id="scan"),
        pytest.param(lambda x, w: jax.jit(scanned)(x, w) @ w, 8 * ONE, id="jit_and_product"),
        pytest.param(branched, 2 * ONE, id="dearest_branch"),
        pytest.param(lambda x, w: jnp.tanh(x) + w[:4], 0, id="no_product"),
        pytest.param(
            lambda x, w: jax.vmap(lambda w: x @ w)(jnp.stack([w, w, w])), 3 * ONE, id="batched"
        ),
        # dL/dw of sum(x w): the product forward (dropped, its value is not used) and x^T g
        pytest.param(lambda x, w: jax.grad(lambda w: (x @ w).sum())(w), 2 * ONE, id="gradient"),
    ],
)
def test_matrix_flops_equal_a_hand_count(function, flops):
    assert matrix_flops(jax.make_jaxpr(function)(X, W).jaxpr) == flops


def test_points_of_a_program_are_its_batched_axes_and_seed():
    chosen = planned("masked")
    points = chosen.points(chosen.programs[1], np.arange(30, 60))
    assert {name: each.dtype for name, each in points.items()} == {
        "depth": np.int32,
        "scale": np.float32,
        "seed": np.int32,
    }
    assert points["depth"].tolist() == [10] * 15 + [40] * 15
    assert points["seed"].tolist() == [0, 1, 2, 3, 4] * 6
    assert chosen.programs[1].fixed == {"name": "b"}
