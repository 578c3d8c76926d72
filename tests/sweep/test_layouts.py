"""Which depths share a program: the dynamic programme against every split there is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.sweep.axes import Axis
from jaxnn.sweep.layouts import ABSENT, Cost, choose, stretches
from jaxnn.sweep.machine import cache_directory, recall, remember
from jaxnn.sweep.machine import costs as machine_costs


def splits(depths):
    """Every way to cut sorted depths into stretches."""
    for cuts in itertools.product([False, True], repeat=len(depths) - 1):
        stops = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(depths)]
        yield [depths[a:b] for a, b in itertools.pairwise([0, *stops])]


def padded(split, cost, absent, members):
    """The work of a split by the definition: a member pays for its layers and a share of others."""
    return members * sum(
        cost.constant + cost.layer * (depth + absent * (stretch[-1] - depth))
        for stretch in split
        for depth in stretch
    )


@pytest.mark.parametrize("layout", ["masked", "ragged"])
@pytest.mark.parametrize("draw", range(5))
def test_stretches_are_the_best_of_all_splits(layout, draw):
    random = np.random.default_rng(draw)
    depths = sorted(random.choice(np.arange(1, 100), size=7, replace=False).tolist())
    cost = Cost(constant=random.uniform(), layer=random.uniform(), program=1.0, at_once=2)
    absent = ABSENT[layout]
    for number, (found, split) in enumerate(stretches(depths, 3, cost, absent), start=1):
        every = [each for each in splits(depths) if len(each) == number]
        assert found == pytest.approx(min(padded(each, cost, absent, 3) for each in every))
        assert found == pytest.approx(padded(split, cost, absent, 3))
        assert len(split) == number


DEPTHS = Axis("depth", "depth", (64, 2, 4, 8, 16, 32))


@pytest.mark.parametrize(
    ("program", "layout", "number"),
    [
        pytest.param(0.0, "exact", 6, id="compiling_is_free"),
        pytest.param(1e9, "ragged", 1, id="compiling_is_all"),
        pytest.param(30.0, "ragged", 2, id="between"),
    ],
)
def test_choice_weighs_compiling_against_padding(program, layout, number):
    cost = Cost(constant=0.1, layer=0.1, program=program, at_once=1)
    chosen = choose(["exact", "ragged"], DEPTHS, 16, cost)
    assert chosen.layout == layout
    assert len(chosen.stretches["depth"]) == number
    assert sorted(itertools.chain(*chosen.stretches["depth"])) == sorted(DEPTHS.values)
    assert "s of them compiling" in chosen.reason


def test_programs_that_compile_side_by_side_cost_one():
    cost = Cost(constant=0.1, layer=0.1, program=1e9, at_once=2)
    assert len(choose(["exact", "ragged"], DEPTHS, 16, cost).stretches["depth"]) == 2


def test_layout_that_is_asked_for_is_not_exact():
    cost = Cost(constant=0.1, layer=0.1, program=0.0, at_once=1)
    chosen = choose(["masked"], DEPTHS, 16, cost)
    assert chosen.layout == "masked"
    assert len(chosen.stretches["depth"]) == 5


def swept(key, *, depth, gain):
    params = jn.mlp(depth, 4, 2, weights=jn.gaussian(gain)).init(key, jnp.ones((1, 3)))["params"]
    return {"norm": sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))}


def test_plan_says_why():
    plan = jn.plan(swept, depth=jn.depths([2, 3, 4, 5]), gain=[1.0, 2.0])
    assert plan.layout == "ragged"
    assert "layout 'ragged': about" in plan.explain()
    assert plan.explain().count("depth=") == len(plan.programs)


def test_run_that_takes_no_shared_depths_is_laid_out_exactly():
    def reads_only_the_maximum(key, *, depth):
        return {"most": jnp.zeros(()) + depth.maximum}

    def counts_on_an_int(key, *, depth):
        if depth.active is not None:
            raise TypeError("no masks here")
        return {"most": jnp.zeros(()) + depth.maximum}

    for run in (reads_only_the_maximum, counts_on_an_int):
        plan = jn.plan(run, depth=jn.depths([1, 2, 3]))
        assert plan.layout == "exact"
        assert "does not take depths that share a program" in plan.explain()
        assert jn.sweep(run, depth=jn.depths([1, 2, 3]))["most"].values.ravel().tolist() == [
            1,
            2,
            3,
        ]


def test_costs_are_measured_once_and_kept(monkeypatch, tmp_path, compiled):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = machine_costs(jax.devices()[0])
    assert 0 < first.seconds_per_work < 1e-6
    assert first.compiling > 0
    assert first.compile_seconds(first.equations) == pytest.approx(first.compiling)
    compiled.clear()
    assert machine_costs(jax.devices()[0]) == first
    assert compiled == []
    assert cache_directory() == tmp_path / "jaxnn"


def test_nothing_is_remembered_where_nothing_can_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remember("lanes", "name", 4)
    assert recall("lanes", "name") is None


def test_damaged_memory_is_measured_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember("lanes", "name", 4)
    assert recall("lanes", "name") == 4
    (file,) = (tmp_path / "jaxnn" / "lanes").iterdir()
    file.write_text("{")
    assert recall("lanes", "name") is None
