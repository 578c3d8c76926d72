"""One compile for each program of the plan, and no device waits for another inside it."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import eval_jaxpr

import jaxnn as jn
from jaxnn.sweep.compiling import lower


def counted(calls):
    """A run that notes each time Python runs it."""

    def run(key, *, depth, scale, name, size):
        calls.append(name)
        drawn = scale * jax.random.normal(key, (3,)).sum()
        return {"drawn": drawn, "layers": depth.num_layers + size}

    return run


@pytest.mark.parametrize(
    ("layout", "programs"),
    [
        pytest.param("exact", 4, id="exact"),
        pytest.param("masked", 2, id="masked"),
        pytest.param("ragged", 2, id="ragged"),
    ],
)
@pytest.mark.parametrize("num_values", [1, 7])
def test_program_compiles_once_whatever_the_traced_values(compiled, layout, programs, num_values):
    calls = []
    jax.random.key(0)  # JAX's own small program, kept from here on
    compiled.clear()
    dataset = jn.sweep(
        counted(calls),
        name=["a", "b"],
        depth=jn.depths([1, 2]),
        scale=np.linspace(1.0, 2.0, num_values),
        size=jn.traced([1, 2, 3]),
        num_seeds=2,
        layout=layout,
        tile_size=1,
    )
    assert dataset["drawn"].notnull().all()
    assert len(compiled) == programs / 2  # those of "a" and "b" are equal
    # Python runs it once a program, and for shared depths at both ends, to count their work
    assert len(calls) == programs * (1 if layout == "exact" else 3)


@pytest.mark.parametrize("layout", ["masked", "ragged"])
def test_more_depths_compile_no_more_than_the_plan_says(compiled, layout):
    for depths in ([1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8]):
        axes = {"depth": jn.depths(depths), "scale": [1.0], "name": ["a"], "size": [1]}
        programs = len(jn.plan(counted([]), **axes, layout=layout).programs)
        jax.random.key(0)
        compiled.clear()
        jn.sweep(counted([]), **axes, layout=layout)
        assert len(compiled) == programs < len(depths)


def test_finished_store_compiles_nothing(compiled, tmp_path):
    def run(key, *, scale):
        return {"square": scale**2}

    first = jn.sweep(run, scale=[1.0, 2.0], store=tmp_path / "store")
    compiled.clear()
    again = jn.sweep(run, scale=[1.0, 2.0], store=tmp_path / "store")
    assert compiled == []
    np.testing.assert_array_equal(first["square"], again["square"])


def descent(data):
    """A run that holds all that training does: draws, data, a scan, a gradient."""

    def run(key, *, depth, rate):
        kernel = jax.random.normal(key, (64, 4))

        def loss(kernel):
            hidden = jnp.tanh(data.train.x @ kernel)
            return jnp.sum(hidden**2) * jnp.asarray(depth.num_layers, float)

        def step(kernel, _):
            return kernel - rate * jax.grad(loss)(kernel), loss(kernel)

        return {"losses": jax.lax.scan(step, kernel, length=3)[1]}

    return run


def test_plan_compiles_nothing(compiled, digits):
    run = descent(digits)
    compiled.clear()
    chosen = jn.plan(run, depth=jn.depths([1, 2]), rate=[0.1, 0.2], layout="masked")
    assert len(chosen.programs) == 1
    assert "GFLOP" in chosen.explain()
    assert compiled == []


def test_program_holds_no_collective_and_no_data(digits):
    chosen = jn.plan(
        descent(digits), depth=jn.depths([1, 2]), rate=[0.1], num_seeds=4, layout="masked"
    )
    assert chosen.mesh.devices.size == len(jax.devices())
    program = chosen.programs[0]
    text = lower(chosen, program).compile().as_text()
    collective = r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+)"
    assert re.findall(collective, text) == []
    assert re.findall(r"\b(infeed|outfeed|send|recv|xla_ffi_python\w*callback)\b", text) == []
    # the images are an argument: as text in the program they would be copied for each program
    images = ",".join(map(str, digits.train.x.shape))
    assert re.findall(rf"f32\[{images}\]\S* constant\(", text) == []
    assert re.findall(rf"f32\[{images}\]\S* parameter\(", text)
    assert [jnp.shape(each) for each in program.trace.observe.constants] == [digits.train.x.shape]


KEEPING = """
import sys, time, jax, jaxnn as jn
path = jn.keep_compiled(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
def run(key, *, x):
    return {"y": jax.random.normal(key, (50, 50)) @ jax.random.uniform(key, (50, 50)) * x}
found = jn.sweep(run, x=[1.0, 2.0])
print(path, sum("cache_hits" in hit for hit in hits), float(found["y"].sum()))
"""


def test_later_process_takes_compiled_programs_from_disk(tmp_path):
    command = [sys.executable, "-c", KEEPING, str(tmp_path)]
    usual = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
    options = {"env": usual, "capture_output": True, "text": True, "timeout": 200, "check": True}
    told = [subprocess.run(command, **options).stdout for _ in range(2)]
    (path, none, value), (same, hits, again) = (line.split() for line in told)
    assert (none, hits) == ("0", "1")
    assert path == same
    assert value == again
    assert path.startswith(str(tmp_path))
    assert jax.__version__ in path


def test_planned_flops_are_those_that_the_compiler_counts(digits):
    """One hidden layer and one step, since the compiler counts the body of a loop once.

    The compiler counts elementwise work too, of order 1 / width of the products'.
    """

    def run(key, *, rate):
        model = jn.mlp(1, 512, 10, "relu")
        return jn.training(
            model,
            jn.cross_entropy,
            jn.optimizer("sgd", rate),
            digits,
            key=key,
            num_steps=1,
            record_every=1,
            batch_size=1024,
            probe_size=1024,
            probes=[jn.probes.loss],
        )

    program = jn.plan(run, rate=[0.1]).programs[0]
    counted = []
    for part, times in zip(program.trace.parts, (1, 1, 2), strict=True):
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in part.jaxpr.invars]
        compiled = jax.jit(lambda *args, part=part: eval_jaxpr(part.jaxpr, part.constants, *args))
        counted.append(times * compiled.lower(*shapes).compile().cost_analysis().get("flops", 0.0))
    assert sum(counted) == pytest.approx(program.flops[0], rel=0.05)
