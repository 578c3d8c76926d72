"""scripts/bench.py: what it counts, what it refuses to quote, and small runs of it."""

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("bench*.py"))
LIGHT = [name for name in NAMES if name.removeprefix("bench_") not in ("torch", "equinox")]
IN_PROCESS = [
    "jaxnn",
    "jaxnn_exact",
    "jax_one_by_one",
    "jax_masked_vmap",
    "jax_depth_vmap",
    "jax_python_loop",
    "equinox",
    "torch_eager",
    "torch_func",
]


@pytest.fixture(scope="module")
def bench():
    """The modules by name, imported as they import each other: from their own folder."""
    sys.path.insert(0, str(SCRIPTS))
    modules = {name.removeprefix("bench_"): importlib.import_module(name) for name in LIGHT}
    yield SimpleNamespace(**modules)
    sys.path.remove(str(SCRIPTS))
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def small(bench):
    """A problem of four members, small enough to solve here."""
    return bench.problems.DepthSweep(
        depths=(2, 3), num_gains=2, width=8, batch_size=8, num_steps=5, probe_size=16
    )


@pytest.fixture
def loose():
    """JAX as it is outside these tests: contenders are written for it."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def replies(values, *, rounds=2, seconds=0.5, members=None, compile_seconds=0.0):
    """What a worker would say whose first sweep takes 2 s, and compiles for one of these."""
    warm = {
        "values": list(values),
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "peak_bytes": 10**8,
    }
    cold = {
        **warm,
        "seconds": 2.0,
        "compile_seconds": 1.0,
        "import_seconds": 1.0,
        "first_result_seconds": 2.5,
        "cold_seconds": 3.25,
        "note": "",
        "members": members,
    }
    return [cold, *[warm] * rounds]


@pytest.fixture
def told(bench, small, monkeypatch):
    """Measure the small problem with contenders that say what the test wants."""
    exact = np.array([1.0, 2.0, 3.0, 4.0])
    inputs = {"exact": exact, "rounded": np.stack([exact, exact, exact])}

    def run(said, *, inputs=inputs):
        said = {bench.contenders.PRODUCT: replies([], seconds=0.1), **said}
        monkeypatch.setattr(bench.measure, "make_inputs", lambda problem, folder: inputs)
        monkeypatch.setattr(bench.measure, "importable", lambda package: package != "absent")
        monkeypatch.setattr(
            bench.measure, "race", lambda names, *_: {name: said[name] for name in names}
        )
        names = [name for name in said if name != bench.contenders.PRODUCT]
        return bench.measure.measure(small, names, 2, lambda text: None)

    return run


def markdown(bench, found):
    return bench.report.table("sweep", "A title", [found]).markdown()


def test_depth_sweep_flops_equal_a_hand_count(bench):
    problem = bench.problems.DepthSweep(
        depths=(2, 4), num_gains=3, width=3, batch_size=5, num_steps=7
    )
    first = 2 * (2 * 5 * 64 * 3)  # forward, and for the kernel
    hidden = 3 * (2 * 5 * 3 * 3)  # forward, for the kernel, for the inputs
    readout = 3 * (2 * 5 * 3 * 10)
    a_step = (first + 1 * hidden + readout) + (first + 3 * hidden + readout)
    assert problem.matrix_flops == a_step * 7 * 3
    assert len(problem.members) == 2 * 3


def test_reference_sweep_is_314_gflop(bench):
    assert bench.problems.DepthSweep().matrix_flops == pytest.approx(314.4e9, rel=1e-3)


def test_rate_sweep_flops_equal_a_hand_count(bench):
    problem = bench.problems.RateSweep(grid=2, width=3, num_steps=5)
    assert problem.num_points == 12
    first, readout = 2 * (2 * 12 * 3 * 3), 3 * (2 * 12 * 3)
    assert problem.matrix_flops == (first + readout) * 5 * 4


def test_problem_survives_its_file(bench, small, tmp_path):
    for problem in (small, bench.problems.RateSweep(grid=3)):
        bench.problems.save_problem(problem, tmp_path)
        assert bench.problems.load_problem(tmp_path) == problem


def test_agreeing_contenders_have_figures(bench, told):
    exact = [1.0, 2.0, 3.0, 4.0]
    found = told({"jaxnn": replies(exact), "torch_eager": replies(exact, seconds=1.0)})
    figures = found.outcomes["torch_eager"].figures
    assert figures.members_per_second.median == 4.0
    assert figures.relative_time.rounds == (2.0, 2.0)
    assert figures.compile_seconds == 1.0
    assert figures.cold_seconds == 3.25
    assert figures.product_share.median == pytest.approx(
        found.problem.matrix_flops / (bench.contenders.PRODUCT_FLOPS / 0.1)
    )
    assert "2.00 [2.00, 2.00]" in markdown(bench, found)
    assert bench.bench.is_well(found)


@pytest.mark.parametrize("wrong", [3.01, np.nan], ids=["off", "nan"])
def test_times_are_refused_when_results_disagree(bench, told, wrong):
    said = {
        "jaxnn": replies([1.0, 2.0, 3.0, 4.0]),
        "torch_eager": replies([1.0, 2.0, wrong, 4.0], seconds=0.123),
    }
    found = told(said)
    outcome = found.outcomes["torch_eager"]
    assert outcome.figures is None
    assert "depth 3" in outcome.refusal
    text = markdown(bench, found)
    assert "0.123" not in text
    assert "no figures: its results are off by" in text
    assert not bench.bench.is_well(found)
    json.dumps(bench.report.plain(found))


def test_a_single_wrong_warm_sweep_is_refused(told):
    said = replies([1.0, 2.0, 3.0, 4.0])
    said[-1] = {**said[-1], "values": [1.0, 2.0, 3.0, 5.0]}
    assert told({"jaxnn": said}).outcomes["jaxnn"].figures is None


def test_nothing_is_relative_to_a_refused_baseline(told):
    said = {"jaxnn": replies([9.0] * 4), "torch_eager": replies([1.0, 2.0, 3.0, 4.0])}
    assert told(said).outcomes["torch_eager"].figures.relative_time is None


def test_members_that_amplify_rounding_are_not_compared(told):
    exact = np.array([1.0, 2.0, 3.0, 4.0])
    inputs = {"exact": exact, "rounded": np.stack([exact, [1.0, 2.0, 3.0, 4.1], exact])}
    found = told({"jaxnn": replies([1.0, 2.0, 3.0, 9.0])}, inputs=inputs)
    assert found.num_compared == 3
    assert found.outcomes["jaxnn"].figures is not None


def test_a_problem_that_rounding_decides_is_refused(told):
    exact = np.array([1.0, 2.0, 3.0, 4.0])
    inputs = {"exact": exact, "rounded": np.array([[1.0, 3.0, 4.0, 5.0]])}
    with pytest.raises(ValueError, match="rounding decides the results of 3 of 4"):
        told({"jaxnn": replies(exact)}, inputs=inputs)


def test_missing_package_is_skipped_and_told(bench, told, monkeypatch):
    entry = bench.contenders.ENTRIES["torch_eager"]._replace(packages=("absent",))
    monkeypatch.setitem(bench.contenders.ENTRIES, "torch_eager", entry)
    found = told({"jaxnn": replies([1.0, 2.0, 3.0, 4.0]), "torch_eager": []})
    assert found.outcomes["torch_eager"].skipped
    assert f"{entry.title}: no figures: absent is not installed." in markdown(bench, found)
    assert bench.bench.is_well(found)


def test_package_is_asked_of_python(bench):
    assert bench.workers.importable("json")
    assert not bench.workers.importable("no_such_package_at_all")


def test_sample_is_extrapolated_and_told(bench, told):
    found = told({"torch_eager": replies([1.0, 3.0], members=[0, 2])})
    figures = found.outcomes["torch_eager"].figures
    assert figures.seconds.median == 1.0
    assert figures.cold_seconds == 3.25 + 2.0
    assert "times extrapolated from 2 of 4 members" in markdown(bench, found)


def test_compiling_again_is_not_counted_and_told(bench, told):
    found = told({"jaxnn": replies([1.0, 2.0, 3.0, 4.0], compile_seconds=0.375)})
    assert found.outcomes["jaxnn"].figures.seconds.median == 0.125
    assert "warm sweeps compile again" in markdown(bench, found)


def test_looking_up_a_compiled_program_is_counted(bench, told):
    found = told({"jaxnn": replies([1.0, 2.0, 3.0, 4.0], compile_seconds=0.125)})
    assert found.outcomes["jaxnn"].figures.seconds.median == 0.5
    assert "compile again" not in markdown(bench, found)


def test_failing_worker_says_why(bench, small, tmp_path):
    bench.problems.save_problem(small, tmp_path)
    worker = bench.workers.Worker("no_such_contender", tmp_path)
    try:
        assert worker.reply() == {"failed": "KeyError: 'no_such_contender'"}
        assert worker.go() == {"failed": "its process ended with exit status 0"}
    finally:
        worker.stop()


@pytest.fixture(scope="module")
def inputs(bench, small):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        made = bench.inputs.depth_sweep_inputs(small)
        return bench.inputs.with_results(small, made, bench.inputs.final_losses)


@pytest.mark.parametrize("name", IN_PROCESS)
@pytest.mark.filterwarnings("ignore")  # other people's packages
def test_contender_does_the_same_work(bench, small, inputs, loose, name):
    entry = bench.contenders.ENTRIES[name]
    for package in entry.packages:
        pytest.importorskip(package)
    contender = bench.contenders.load_builder(name)(small, inputs)
    for _ in range(2):
        found = bench.workers.swept(contender)
        np.testing.assert_allclose(found["values"], inputs["exact"], rtol=1e-5)
        assert 0 < found["first_seconds"] <= found["seconds"]
        assert 0 <= found["compile_seconds"] <= found["seconds"]


def test_every_contender_of_the_sweep_is_tested(bench):
    assert set(IN_PROCESS) == set(bench.contenders.CONTENDERS)


def test_sampled_eager_trains_its_sample(bench, small, inputs):
    pytest.importorskip("torch")
    sampled = dataclasses.replace(small, sample=1)
    contender = bench.contenders.load_builder("torch_eager")(sampled, inputs)
    assert contender.members == (0, 2)
    found = bench.workers.swept(contender)
    np.testing.assert_allclose(found["values"], inputs["exact"][[0, 2]], rtol=1e-5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["--contenders", "torch_eage"], "did you mean torch_eager", id="contender"),
        pytest.param(["--rounds", "0"], "--rounds: expected at least 1, got 0", id="rounds"),
        pytest.param(["--sample", "0"], "--sample: expected at least 1, got 0", id="sample"),
        pytest.param(["swep"], "swep", id="part"),
    ],
)
def test_wrong_usage_exits_2_and_says_why(bench, capsys, args, message):
    try:
        status = bench.bench.main(args)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert re.search(message, capsys.readouterr().err)


def run_quickly(bench, tmp_path, *args):
    status = bench.bench.main([*args, "--scale", "quick", "--rounds", "1", "--out", str(tmp_path)])
    folder = tmp_path / "bench"
    return status, json.loads((folder / "bench.json").read_text()), folder


def test_one_part_from_end_to_end(bench, tmp_path, capsys):
    status, made, folder = run_quickly(bench, tmp_path, "fractal")
    assert status == 0
    (found,) = made["parts"]["fractal"]
    assert found["num_compared"] >= 32
    assert set(found["outcomes"]) == set(bench.contenders.FRACTAL)
    for outcome in found["outcomes"].values():
        assert outcome["figures"]["members_per_second"]["median"] > 0
        assert outcome["figures"]["cold_seconds"] > outcome["figures"]["import_seconds"] > 0
    assert made["start"]["cores"] >= 1
    assert "Python loop" in (folder / "table.md").read_text()
    assert "Python loop" in capsys.readouterr().out
    assert not (folder / "figure.png").exists()  # there is no series to draw


@pytest.mark.slow
def test_everything_from_end_to_end(bench, tmp_path):
    status, made, folder = run_quickly(bench, tmp_path)
    assert status == 0
    assert list(made["parts"]) == list(bench.bench.PARTS)
    assert {path.name for path in folder.iterdir()} == {
        *("bench.json", "table.md", "figure.png", "figure.svg")
    }
