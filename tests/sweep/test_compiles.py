"""One compile for each program of the plan, and no device waits for another inside it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    assert len(compiled) == programs
    # Python runs it once a program, and for shared depths at both ends, to count their work
    assert len(calls) == programs * (1 if layout == "exact" else 3)


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
    # the images are an argument: as text in the program they would be copied for each program
    images = ",".join(map(str, digits.train.x.shape))
    assert re.findall(rf"f32\[{images}\]\S* constant\(", text) == []
    assert re.findall(rf"f32\[{images}\]\S* parameter\(", text)
    assert [jnp.shape(each) for each in program.trace.observe.constants] == [digits.train.x.shape]
