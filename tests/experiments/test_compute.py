"""The compute study: counts by hand, and the claims on a made-up machine that must fail."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import jaxnn as jn
from experiments import compute as study
from jaxnn import report
from jaxnn.report import part
from jaxnn.sweep.jaxprs import matrix_flops

PEAK, BANDWIDTH, DELAY = 1e11, 2e10, 1e-4  # flops and bytes a second, seconds a call
WIDTHS, BATCHES, DEPTHS = (32, 512), (1, 256), (2, 8)


def holds(words, ds):
    (found,) = [claim for claim in study.CLAIMS if words in claim.statement]
    return found.check(ds).holds


def steps(all_sizes):
    """Counts of steps as XLA would have them, and seconds at half of the roofline."""
    found = [study.formulas(*sizes) for sizes in all_sizes]
    counts = {name: np.array([float(each[name]) for each in found]) for name in found[0]}
    flops, words = counts["formula_flops"], counts["formula_bytes"]
    seconds = DELAY + 2 * np.maximum(flops / PEAK, 2 * words / BANDWIDTH)
    counted = {"flops": flops + 4 * counts["numbers"], "bytes": 2 * words, "traced_flops": flops}
    return {**counts, **counted, "seconds": np.stack([seconds, 3 * seconds], axis=-1)}


def over(columns, axes):
    """Put columns in a dataset over axes; the last dim of `seconds` is the round."""
    shape = [len(values) for values in axes.values()]
    named = {
        name: ((*axes, *["round"] * (values.ndim - 1)), values.reshape(*shape, *values.shape[1:]))
        for name, values in columns.items()
        if name not in axes
    }
    return xr.Dataset(named, {axis: list(values) for axis, values in axes.items()})


@pytest.fixture
def ds():
    grid = steps([(2, *sizes) for sizes in itertools.product(WIDTHS, BATCHES)])
    loop = steps([(depth, 256, 64) for depth in DEPTHS])
    loop["flops"] = loop["formula_flops"][:1] + 4 * loop["numbers"]  # the body once
    billion = study.formulas(*study.BILLION)
    billion["traced_flops"] = billion["formula_flops"]
    products = np.array([2.0 * 512**3, 2.0 * 1024**3])
    copies = np.array([8.0 * 2**18, 8.0 * 2**22])
    product = {"traced_flops": products, "seconds": products[:, None] / [[PEAK / 2, PEAK]]}
    copied = {"bytes": copies, "seconds": copies[:, None] / [[BANDWIDTH], [BANDWIDTH / 4]]}
    return report.gather(
        {
            "step": over(grid, {"width": WIDTHS, "batch": BATCHES}),
            "loop": over(loop, {"depth": DEPTHS}),
            "product": over(product, {"size": (512, 1024)}),
            "copy": over(copied, {"words": (2**18, 2**22)}),
            "billion": xr.Dataset(billion),
        }
    )


def test_formulas_equal_a_hand_count():
    found = study.formulas(2, 3, 5)  # 784 -> 3 -> 3 -> 10, five examples
    assert found["weights"] == 2352 + 9 + 30
    assert found["numbers"] == 2391 + 16 + 5 * 800
    assert found["formula_flops"] == 2 * 5 * (2 * 2352 + 3 * (9 + 30))
    words = 2 * (5 * 787 + 2352) + 3 * (5 * 6 + 9) + 3 * (5 * 13 + 30)
    assert found["formula_bytes"] == 4 * words


def test_formulas_equal_the_products_of_a_traced_step():
    train = jn.Batch(np.zeros((4, 784), np.float32), np.zeros(4, np.int32))
    made = study.one_step(train, 0, 3, 5, 2)
    state = study.first_state(made)
    assert bool(state.alive)
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(made.init))
    traced = jax.jit(made.advance).trace(state)
    assert matrix_flops(traced.jaxpr.jaxpr) == study.formulas(3, 5, 2)["formula_flops"]


def test_compiled_counts_bytes_and_products():
    copied = study.compiled(jnp.negative, jnp.ones(8), {"words": 8})
    assert copied.counts["bytes"] == 2 * 4 * 8
    assert copied.counts["traced_flops"] == 0
    np.testing.assert_array_equal(copied.call(copied.state), -np.ones(8))


def test_programs_take_turns_each_from_its_last_state():
    visits = []

    def call(state):
        visits.append(state)
        return (state[0], state[1] + 1)

    programs = [study.Program(call, (name, 0), {}) for name in "ab"]
    seconds = study.in_turns(programs, num_rounds=2, visit_seconds=0.0)
    assert visits == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert seconds.shape == (2, 2)
    assert (seconds >= 0).all()


def test_a_visit_lasts_as_long_as_it_should():
    called = []
    program = study.Program(lambda state: called.append(state) or state, 0, {})
    study.in_turns([program], num_rounds=1, visit_seconds=0.01)
    assert len(called) > 1


def test_speeds_are_those_of_the_made_up_machine(ds):
    found = study.speeds(ds)
    assert float(found["peak"]) == pytest.approx(PEAK)
    assert float(found["fastest"]) == pytest.approx(BANDWIDTH)
    assert float(found["largest"]) == pytest.approx(BANDWIDTH / 4)
    wide = found.sel(width=512, batch=256)
    step = part(ds, "step").sel(width=512, batch=256)
    assert float(wide["rate"]) == pytest.approx(step["formula_flops"] / step["seconds"].min())
    assert float(wide["share"]) == pytest.approx(0.5, rel=0.02)  # the delay is 0.6% of the step
    assert float(wide["roof"]) == pytest.approx(PEAK)
    narrow = found.sel(width=32, batch=1)
    assert float(narrow["roof"]) == pytest.approx(BANDWIDTH * float(narrow["intensity"]))


def test_all_claims_hold_on_a_good_machine(ds):
    verdicts = report.judge(study.CLAIMS, ds)
    assert [each.claim.statement for each in verdicts if not each.holds] == []


def test_within_tells_the_value_furthest_out():
    assert study.within(np.array([1.0, 3.0, 2.5]), 0, 4).value == 1.0
    assert not study.within(np.array([[1.0, 4.5], [2.0, 3.0]]), 0, 4).holds
    assert not study.within(np.array([-0.1, 3.0]), 0, 4).holds


@pytest.mark.parametrize(
    ("words", "variable", "change"),
    [
        ("6 N B flops, less", "step_traced_flops", lambda x: 1.001 * x),
        ("6 N B flops, less", "loop_traced_flops", lambda x: 1.001 * x),
        ("6 N B flops, less", "billion_traced_flops", lambda x: 1.001 * x),
        ("8 operations more", "step_flops", lambda x: 0.9 * x),
        ("8 operations more", "step_flops", lambda x: 4 * x),
        ("added to a loop", "loop_flops", lambda x: x * [1, 1.2]),
        ("flops a byte", "step_bytes", lambda x: 3 * x),
        ("flops a byte", "step_bytes", lambda x: 0.4 * x),
        ("time an example", "step_seconds", lambda x: x * np.array([1, 1e4])[:, None]),
        ("roofline", "step_seconds", lambda x: 0.3 * x),
    ],
)
def test_claims_fail_on_what_they_deny(words, variable, change, ds):
    assert holds(words, ds)
    assert not holds(words, ds.assign({variable: change(ds[variable])}))


def test_time_an_example_is_held_to_its_bound_at_every_width(ds):
    step = part(ds, "step")
    slow = xr.where((step["width"] == 512) & (step["batch"] == 1), 1e-2, 1.0)
    slowed = slow.rename(width="step_width", batch="step_batch") * ds["step_seconds"]
    assert not holds("time an example", ds.assign(step_seconds=slowed))


@pytest.mark.parametrize("used", [0.2, 0.8])
def test_published_hours_deny_another_use_of_the_device(used, ds, monkeypatch):
    monkeypatch.setattr(study, "USED", used)
    assert not holds("Llama 2", ds)


def test_claims_hold_at_quick_scale(fails_at_quick):
    assert fails_at_quick("compute") == []
