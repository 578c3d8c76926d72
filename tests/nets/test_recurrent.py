"""Recurrent cells against independent numpy ones, and the exact facts of memory and gradients."""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as jn
from jaxnn.nets.recurrent import rnn, scaled_identity

BATCH, TIME, FEATURES, WIDTH, OUT = 3, 4, 2, 3, 2
BLOCKS = {"tanh": 1, "relu": 1, "gru": 3, "lstm": 4}
CELLS = pytest.mark.parametrize("cell", BLOCKS)

RNG = np.random.default_rng(11)
X = RNG.standard_normal((BATCH, TIME, FEATURES))
TARGETS = RNG.standard_normal((BATCH, TIME, OUT))
SHIFT = 0.1 * RNG.standard_normal((TIME, BATCH, WIDTH))


# The cells in plain numpy. All functions are analytic, so that they take complex numbers: the
# imaginary part of f(x + i h) / h is the derivative to rounding, with no difference taken.


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def vanilla_step(phi, params, pre, hidden, x, shift):
    pre = x @ params["input"]["kernel"] + params["input"]["bias"] + shift
    pre = pre + hidden @ params["recurrent"]["kernel"]
    return pre, phi(pre)


def gru_step(params, pre, hidden, x, shift):
    w_r, w_z, w_n = np.split(params["input"]["kernel"], 3, axis=1)
    u_r, u_z, u_n = np.split(params["recurrent"]["kernel"], 3, axis=1)
    b_r, b_z, b_n = np.split(params["input"]["bias"], 3)
    reset, update = sigmoid(x @ w_r + hidden @ u_r + b_r), sigmoid(x @ w_z + hidden @ u_z + b_z)
    new = np.tanh(x @ w_n + b_n + reset * (hidden @ u_n + params["recurrent"]["bias"]))
    hidden = (1 - update) * new + update * hidden + shift
    return hidden, hidden


def lstm_step(params, memory, hidden, x, shift):
    w = np.split(params["input"]["kernel"], 4, axis=1)
    u = np.split(params["recurrent"]["kernel"], 4, axis=1)
    b = np.split(params["input"]["bias"], 4)
    i, f, g, o = (x @ w[k] + hidden @ u[k] + b[k] for k in range(4))
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g) + shift
    return memory, sigmoid(o) * np.tanh(memory)


STEPS = {
    "tanh": functools.partial(vanilla_step, np.tanh),
    "relu": functools.partial(vanilla_step, lambda z: np.where(z.real > 0, z, 0)),
    "gru": gru_step,
    "lstm": lstm_step,
}


def forward(cell, params, shift):
    """Outputs `[batch, time, out]`, and pre and post `[time, batch, unit]`."""
    pre = hidden = np.zeros((BATCH, WIDTH))
    steps = []
    for t in range(TIME):
        pre, hidden = STEPS[cell](params, pre, hidden, X[:, t], shift[t])
        steps.append((pre, hidden))
    pre, post = (np.stack(each) for each in zip(*steps, strict=True))
    outputs = post @ params["readout"]["kernel"] + params["readout"]["bias"]
    return outputs.transpose(1, 0, 2), pre, post


def objective_of(outputs, every_step):
    """Half the mean squared error of every step's outputs, or of the last one's."""
    if every_step:
        return ((outputs - TARGETS) ** 2).mean() / 2
    return ((outputs[:, -1] - TARGETS[:, -1]) ** 2).mean() / 2


def complex_step_gradient(cell, params, every_step):
    """The gradient for params and shift, one complex forward pass for each number."""
    leaves, tree = jax.tree.flatten((params, SHIFT))
    leaves = [leaf.astype(complex) for leaf in leaves]
    slopes = [np.zeros(leaf.shape) for leaf in leaves]
    for leaf, slope in zip(leaves, slopes, strict=True):
        for place in np.ndindex(*leaf.shape):
            leaf[place] += 1e-30j
            outputs, _, _ = forward(cell, *jax.tree.unflatten(tree, leaves))
            slope[place] = objective_of(outputs, every_step).imag / 1e-30
            leaf[place] = leaf[place].real
    return jax.tree.unflatten(tree, slopes)


def random_params(cell, rng):
    blocks = BLOCKS[cell]
    params = {
        "input": {
            "kernel": rng.standard_normal((FEATURES, blocks * WIDTH)),
            "bias": 0.3 * rng.standard_normal(blocks * WIDTH),
        },
        "recurrent": {"kernel": 0.7 * rng.standard_normal((WIDTH, blocks * WIDTH))},
        "readout": {"kernel": rng.standard_normal((WIDTH, OUT)), "bias": rng.standard_normal(OUT)},
    }
    if cell == "gru":
        params["recurrent"]["bias"] = 0.3 * rng.standard_normal(WIDTH)
    return params


PARAMS = {cell: random_params(cell, RNG) for cell in BLOCKS}


def as_arrays(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def pull(model, params, x, targets, shift):
    """The gradient of the objective for params and shift, and what passed: outputs, taps."""

    def objective(params, shift):
        outputs, taps, _ = model.apply({"params": params}, x, shift=shift)
        return 0.5 * jnp.mean((outputs - targets) ** 2), (outputs, taps)

    return jax.grad(objective, argnums=(0, 1), has_aux=True)(params, shift)


@functools.cache
def passed(cell, every_step):
    """What a compiled float64 pass finds, as numpy: outputs, taps, gradients, signals."""
    with jax.enable_x64(True):
        model = rnn(WIDTH, OUT, cell, every_step=every_step)
        targets = TARGETS if every_step else TARGETS[:, -1]
        arguments = as_arrays((PARAMS[cell], X, targets, SHIFT), jnp.float64)
        found = jax.jit(functools.partial(pull, model))(*arguments)
        (gradients, signals), (outputs, taps) = jax.device_get(found)
        return outputs, taps, gradients, signals


# sums of a few products through four steps: 1e-15, with room for cancellation
close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13)


@CELLS
def test_values_equal_numpy(cell):
    outputs, taps, _, _ = passed(cell, True)
    for ours, theirs in zip((outputs, *taps), forward(cell, PARAMS[cell], SHIFT), strict=True):
        close(ours, theirs)


@CELLS
def test_gradients_equal_complex_step(cell):
    """Of every parameter, and of the shift at each step."""
    _, _, gradients, signals = passed(cell, True)
    expected, expected_signals = complex_step_gradient(cell, PARAMS[cell], True)
    jax.tree.map(close, gradients, expected)
    close(signals, expected_signals)


def test_last_step_alone_is_read_out_unless_told():
    outputs, _, gradients, signals = passed("lstm", False)
    close(outputs, passed("lstm", True)[0][:, -1])
    expected, expected_signals = complex_step_gradient("lstm", PARAMS["lstm"], False)
    jax.tree.map(close, gradients, expected)
    close(signals, expected_signals)


@pytest.mark.parametrize("cell", ["tanh", "relu"])
def test_vanilla_equals_backpropagation_through_time(cell):
    """dL/dU = sum_t h_{t-1}^T dL/dz_t, dL/dW = sum_t x_t^T dL/dz_t, written out."""
    outputs, taps, gradients, signals = passed(cell, True)
    params = PARAMS[cell]
    error = (outputs - TARGETS) / outputs.size
    slopes = 1 - taps.post**2 if cell == "tanh" else (taps.pre > 0).astype(float)
    recurrent, kernel = np.zeros((WIDTH, WIDTH)), np.zeros((FEATURES, WIDTH))
    later = np.zeros((BATCH, WIDTH))
    for t in reversed(range(TIME)):
        reaching = error[:, t] @ params["readout"]["kernel"].T
        later = slopes[t] * (reaching + later @ params["recurrent"]["kernel"].T)
        close(signals[t], later)
        kernel += X[:, t].T @ later
        recurrent += taps.post[t - 1].T @ later if t else 0
    close(gradients["recurrent"]["kernel"], recurrent)
    close(gradients["input"]["kernel"], kernel)


def linen_params(cell, params):
    """Our parameters in the names of flax.linen's cells."""
    names = {"tanh": [""], "gru": "rzn", "lstm": "ifgo"}[cell]
    blocks = len(names)
    kernels = [jnp.split(params[g]["kernel"], blocks, axis=1) for g in ("input", "recurrent")]
    biases = jnp.split(params["input"]["bias"], blocks)
    inputs = {f"i{n}": {"kernel": k} for n, k in zip(names, kernels[0], strict=True)}
    back = {f"h{n}": {"kernel": k} for n, k in zip(names, kernels[1], strict=True)}
    for n, bias in zip(names, biases, strict=True):
        (back[f"h{n}"] if cell == "lstm" else inputs[f"i{n}"])["bias"] = bias
    if cell == "gru":
        back["hn"]["bias"] = params["recurrent"]["bias"]
    return {"params": {**inputs, **back}}


def test_cells_equal_flax_ones():
    """The same weights in linen's cells give the same states: weights carry over."""
    kinds = {"tanh": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}

    @jax.jit
    def states(all_params, x):
        found = {}
        for cell, kind in kinds.items():
            rest = jnp.zeros((BATCH, WIDTH))
            carry, variables = (rest, rest) if cell == "lstm" else rest, all_params[cell]
            steps = []
            for t in range(TIME):
                carry, hidden = kind(WIDTH).apply(linen_params(cell, variables), carry, x[:, t])
                steps.append(hidden)
            ours = rnn(WIDTH, OUT, cell).apply({"params": variables}, x)[1].post
            found[cell] = ours, jnp.stack(steps)
        return found

    with jax.enable_x64(True):
        params = {cell: as_arrays(PARAMS[cell], jnp.float64) for cell in kinds}
        for ours, theirs in jax.device_get(states(params, jnp.asarray(X))).values():
            close(ours, theirs)


# Contracts


def test_jit_equals_eager():
    params, x, shift = as_arrays((PARAMS, X, SHIFT), jnp.float32)

    def run(params):
        return {
            cell: rnn(WIDTH, OUT, cell).apply({"params": params[cell]}, x, shift=shift)[:2]
            for cell in ("tanh", "gru", "lstm")
        }

    compare = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(compare, run(params), jax.jit(run)(params))  # float32, fused or not


def test_vmap_lane_equals_alone_in_one_program():
    """Spectral radius, gain, forget bias and longest memory are data."""

    def run(key, radius, gain, forget_bias, longest, x):
        options = {"weights": jn.constant(gain), "recurrent": scaled_identity(radius)}
        found = {}
        for cell, gates in {
            "tanh": {},
            "gru": {"chrono": longest},
            "lstm": {"forget_bias": forget_bias},
        }.items():
            model = rnn(WIDTH, OUT, cell, **options, **gates)
            params = model.init(key, x)["params"]
            found[cell] = pull(model, params, x, TARGETS[:, -1], SHIFT)
        return found

    with jax.enable_x64(True):
        x = jnp.asarray(X)
        keys = jax.random.split(jax.random.key(0), 3)
        numbers = jnp.array([[0.5, 1.0, 0.0, 3.0], [1.0, 0.3, 1.0, 50.0], [1.5, 2.0, -1.0, 8.0]]).T
        alone = jax.jit(run)
        lanes = jax.jit(jax.vmap(run, in_axes=(0, 0, 0, 0, 0, None)))(keys, *numbers, x)
        members = [alone(keys[lane], *numbers[:, lane], x) for lane in range(3)]
        assert alone._cache_size() == 1
        # the same sums in another order, through four steps: 1e-14
        compare = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
        jax.tree.map(lambda all_, *each: compare(all_, np.stack(each)), lanes, *members)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@CELLS
def test_dtype_is_kept(cell, dtype):
    gates = {"chrono": 9.0} if BLOCKS[cell] > 1 else {}
    model = rnn(WIDTH, OUT, cell, biases=jn.gaussian(0.1), **gates)

    def run(x, targets, shift):
        params = model.init(jax.random.key(0), x)["params"]
        return params, pull(model, params, x, targets, shift)

    with jax.enable_x64(dtype == "float64"):
        shapes = (X.shape, TARGETS[:, -1].shape, SHIFT.shape)
        found = jax.eval_shape(run, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {dtype}


@CELLS
def test_shapes_are_as_the_contract_says(cell):
    def run(every_step):
        model = rnn(WIDTH, OUT, cell, every_step=every_step)
        variables = model.init(jax.random.key(0), jnp.ones(X.shape))
        return variables, *model.apply(variables, jnp.ones(X.shape))[:2]

    variables, outputs, taps = jax.eval_shape(functools.partial(run, False))
    assert jax.tree.map(np.shape, variables) == {"params": jax.tree.map(np.shape, PARAMS[cell])}
    assert outputs.shape == (BATCH, OUT)
    assert taps.pre.shape == taps.post.shape == (TIME, BATCH, WIDTH)
    assert jax.eval_shape(functools.partial(run, True))[1].shape == (BATCH, TIME, OUT)


def test_activation_is_that_of_vanilla_cells():
    assert rnn(2, 1, "relu").activation is jn.activations.relu
    own = jn.leaky_relu(0.3)
    assert rnn(2, 1, own).activation is own
    assert rnn(2, 1, "gru").activation is rnn(2, 1, "lstm").activation is None


# Initialisation


def fingerprint(key, shape, dtype):
    """Fill an array with a number of the key it is drawn from: equal keys are equal draws."""
    low, high = jax.random.key_data(key) >> 8
    return jnp.full(shape, low.astype(dtype) + high.astype(dtype) / 2**24)


@pytest.fixture(scope="module")
def drawn():
    """Variables drawn with fingerprints from one key, by cell and by what the gates are told."""
    marks = {"weights": fingerprint, "recurrent": fingerprint, "biases": fingerprint}
    gates = {"plain": {}, "forget": {"forget_bias": 1.5}, "chrono": {"chrono": 20.0}}
    cases = [("tanh", "plain"), *itertools.product(("gru", "lstm"), gates)]

    @jax.jit
    def draw(key):
        x = jnp.ones(X.shape)
        found = {
            case: rnn(WIDTH, OUT, case[0], **marks, **gates[case[1]]).init(key, x)["params"]
            for case in cases
        }
        mlp = jn.mlp(1, WIDTH, OUT, weights=fingerprint, biases=fingerprint)
        return found, mlp.init(key, x[:, 0])["params"]["readout"]

    return jax.device_get(draw(jax.random.key(3)))


@pytest.mark.parametrize(("cell", "draws"), [("tanh", 5), ("gru", 12), ("lstm", 14)])
def test_blocks_are_drawn_independently(drawn, cell, draws):
    """Two groups of kernels and one of biases by block, the readout's pair, the GRU's own bias."""
    params = drawn[0][cell, "plain"]
    numbers = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    assert len(np.unique(numbers)) == draws == 3 * BLOCKS[cell] + 2 + (cell == "gru")


def test_readout_draws_as_that_of_other_families(drawn):
    jax.tree.map(np.testing.assert_array_equal, drawn[0]["lstm", "plain"]["readout"], drawn[1])


@pytest.mark.parametrize(("cell", "forget", "admit"), [("gru", 1, None), ("lstm", 1, 0)])
def test_gate_biases_set_their_blocks_only(drawn, cell, forget, admit):
    rows = {
        case: drawn[0][cell, case]["input"]["bias"].reshape(-1, WIDTH)
        for case in ("plain", "forget", "chrono")
    }
    others = [block for block in range(BLOCKS[cell]) if block != forget]
    np.testing.assert_array_equal(rows["forget"][forget], 1.5)
    np.testing.assert_array_equal(rows["forget"][others], rows["plain"][others])
    if admit is not None:
        np.testing.assert_array_equal(rows["chrono"][admit], -rows["chrono"][forget])
        others.remove(admit)
    assert len(np.unique(rows["chrono"][forget])) == WIDTH  # one draw for each unit
    np.testing.assert_array_equal(rows["chrono"][others], rows["plain"][others])
    for group in ("recurrent", "readout"):
        jax.tree.map(
            np.testing.assert_array_equal,
            drawn[0][cell, "chrono"][group],
            drawn[0][cell, "plain"][group],
        )


def test_gaussian_recurrence_has_radius_g_and_norm_2g():
    """Circular law and its edge; both scale with g exactly (claims F1: 1.08, 1.98 at n = 100)."""
    size = 256

    @jax.jit
    @jax.vmap
    def kernels(gain):
        model = rnn(size, 1, weights=jn.zeros(), recurrent=jn.gaussian(gain))
        params = model.init(jax.random.key(0), jnp.ones((1, 1, 1)))["params"]
        return params["recurrent"]["kernel"]

    with jax.enable_x64(True):
        small, large = np.asarray(kernels(jnp.array([0.8, 1.6])))
    radius = np.abs(np.linalg.eigvals(small)).max() / 0.8
    # the largest modulus fluctuates on the scale 1 / sqrt(4 n) = 0.03 (Rider 2003); four of them
    assert abs(radius - 1) < 0.13
    # 2 - O(n^(-2/3)), where n^(-2/3) = 0.025 and the Tracy-Widom law is within -4 ... 2
    assert abs(np.linalg.norm(small, 2) / 0.8 - 2) < 0.1
    np.testing.assert_allclose(large, 2 * small, rtol=1e-13)


# Memory and gradients: exact facts


def jacobians(model, variables, x):
    """dh_T/dz_t of the first example for all steps t: `[time, unit of h, unit of z]`."""

    def last(shift):
        return model.apply(variables, x, shift=shift)[1].post[-1, 0]

    shape = jax.eval_shape(model.apply, variables, x)[1].pre.shape
    return jnp.moveaxis(jax.jacrev(last)(jnp.zeros(shape, x.dtype))[:, :, 0], 1, 0)


SPAN, STATES = 20, 8
AGES = np.arange(SPAN)[::-1]  # steps from each step to the last


def test_orthogonal_linear_recurrence_scales_by_radius_to_the_age():
    """All singular values of dh_T/dh_t are rho^(T - t) (Pascanu et al. 2013, 1211.5063)."""
    radii = np.array([0.5, 0.9, 1.0, 1.1])

    @jax.jit
    @jax.vmap
    def run(radius):
        x = jnp.ones((1, SPAN, 1))
        found = {}
        ones = jn.constant(1.0)
        for name, inputs in (("identity", x), ("tanh", 0 * x)):
            model = rnn(STATES, 1, name, weights=ones, recurrent=jn.orthogonal(radius))
            found[name] = jacobians(model, model.init(jax.random.key(0), inputs), inputs)
        return found

    with jax.enable_x64(True):
        found = jax.device_get(run(jnp.asarray(radii)))
    for name in found:  # at rest tanh has slope 1: there the bound is met
        values = np.linalg.svd(found[name], compute_uv=False)
        expected = np.broadcast_to(radii[:, None, None] ** AGES[:, None], values.shape)
        # 20 products of matrices orthogonal to 1e-15 each
        np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_jacobian_never_exceeds_pascanu_bound():
    """|dh_T/dz_t| <= gamma (gamma lambda_1)^(T - t); gamma 1 for tanh, 1/4 for sigmoid."""
    gammas = {"tanh": 1.0, "sigmoid": 0.25}
    inputs = RNG.standard_normal((1, SPAN, 1))

    @jax.jit
    @jax.vmap
    def run(gain):
        x, found = jnp.asarray(inputs), {}
        for name in gammas:
            model = rnn(STATES, 1, name, weights=jn.constant(1.0), recurrent=jn.gaussian(gain))
            variables = model.init(jax.random.key(0), x)
            kernel = variables["params"]["recurrent"]["kernel"]
            found[name] = jacobians(model, variables, x), kernel
        return found

    with jax.enable_x64(True):
        found = jax.device_get(run(jnp.array([0.1, 0.5, 1.0, 2.0, 4.0])))
    for name, (jacobian, kernel) in found.items():
        norm = np.linalg.norm(jacobian, 2, axis=(-2, -1))
        largest = np.linalg.norm(kernel, 2, axis=(-2, -1))[:, None]
        bound = gammas[name] * (gammas[name] * largest) ** AGES
        assert np.all(norm <= bound * (1 + 1e-12))
        assert np.all(norm > 0)
        # the units are driven off their steepest point, so the bound is never met after a step
        slope = np.log(norm[:, 0] / norm[:, -1]) / AGES[0]
        assert np.all(slope < np.log(gammas[name] * largest[:, 0]))


def test_clipped_gradient_has_norm_of_the_smaller_and_its_direction():
    """g min(1, theta / |g|) of an exploding recurrence, theta being data."""
    thresholds = np.array([1e-3, 1.0, 1e3, np.inf])

    @jax.jit
    def run(thresholds, x, targets):
        ones = jn.constant(1.0)
        model = rnn(WIDTH, OUT, "identity", weights=ones, recurrent=scaled_identity(2.0))
        params = model.init(jax.random.key(0), x)["params"]
        gradients = pull(model, params, x, targets, jnp.asarray(SHIFT))[0][0]

        def clipped(threshold):
            transform = jn.optimizer("sgd", 1.0, clip_norm=threshold)
            updates, _ = transform.update(gradients, transform.init(params), params)
            return jax.flatten_util.ravel_pytree(updates)[0]

        return jax.flatten_util.ravel_pytree(gradients)[0], jax.vmap(clipped)(thresholds)

    with jax.enable_x64(True):
        arguments = as_arrays((thresholds, X, TARGETS[:, -1]), jnp.float64)
        gradient, updates = jax.device_get(run(*arguments))
    norm = np.linalg.norm(gradient)
    assert thresholds[1] < norm < thresholds[2]  # both branches are taken
    norms = np.minimum(norm, thresholds)
    np.testing.assert_allclose(np.linalg.norm(updates, axis=1), norms, rtol=1e-13)
    np.testing.assert_allclose(updates, -norms[:, None] * gradient / norm, rtol=1e-13)


def test_latch_holds_its_fixed_points_and_contracts_gradients():
    """h* = tanh(w h*); dL/dz shrinks by w (1 - h*^2) a step (Bengio et al. 1994, IEEE TNN 5)."""
    span = 300  # 0.83^300 = 1e-24: settled
    strengths = np.array([1.1, 1.25, 1.5, 2.0])

    @jax.jit
    @jax.vmap
    def run(strength):
        model = rnn(1, 1, "tanh", weights=jn.constant(1.0), recurrent=scaled_identity(strength))
        x = jnp.zeros((2, span, 1)).at[:, 0, 0].set(jnp.array([1.0, -1.0]))  # a pulse each way
        params = model.init(jax.random.key(0), x)["params"]

        def total(shift):
            y, taps, _ = model.apply({"params": params}, x, shift=shift)
            return jnp.sum(y), taps.post[-1, :, 0]

        return jax.grad(total, has_aux=True)(jnp.zeros((span, 2, 1)))

    with jax.enable_x64(True):
        signals, held = jax.device_get(run(jnp.asarray(strengths)))
    fixed = np.ones(4)
    for _ in range(span):
        fixed = np.tanh(strengths * fixed)
    np.testing.assert_allclose(held, fixed[:, None] * np.array([1, -1]), rtol=1e-12)
    contraction = strengths * (1 - fixed**2)
    np.testing.assert_allclose(contraction, [0.8218, 0.6191, 0.3943, 0.1664], atol=5e-5)
    ratios = signals[:, -21, :, 0] / signals[:, -20, :, 0]
    np.testing.assert_allclose(ratios, contraction[:, None] * np.ones(2), rtol=1e-12)


def test_silent_readout_has_the_memoryless_loss_of_the_adding_task():
    """Predicting the mean 1 of a sum of two U[0, 1] leaves its variance, 1/6."""
    size = 4000
    values = RNG.random((size, 6))
    marks = np.zeros((size, 6))
    marks[:, [1, 4]] = 1
    x = jnp.asarray(np.stack([values, marks], axis=-1), jnp.float32)
    targets = jnp.asarray(np.sum(values * marks, axis=1, keepdims=True), jnp.float32)

    @jax.jit
    def run(x, targets):
        ones = jn.constant(1.0)
        silent = {"readout": jn.zeros(), "biases": ones}
        model = rnn(4, 1, "lstm", weights=ones, recurrent=scaled_identity(), **silent)
        outputs = model.apply(model.init(jax.random.key(0), x), x)[0]
        return outputs, 2 * jnp.mean(jn.squared_error(outputs, targets))

    outputs, loss = run(x, targets)
    assert np.all(outputs == 1)
    # E (y - 1)^4 = 1/15: one example's loss has variance 1/15 - 1/36
    assert abs(loss - 1 / 6) < 4 * math.sqrt((1 / 15 - 1 / 36) / size)


def test_memory_of_the_signal_alone_has_the_memoryless_loss_of_copying():
    """10 ln 8 / (T + 20) for a network that knows when to answer and nothing of what (1511.06464).

    The first unit turns on at the delimiter and stays; the second follows a step later, when the
    answers begin. One step off, and the loss is another.
    """
    delay, blank, delimiter = 100, 8, 9
    symbols = RNG.integers(0, 8, (5, 10))
    gap = np.full((5, delay - 1), blank)
    rest = np.full((5, 10), blank)
    x = np.concatenate([symbols, gap, np.full((5, 1), delimiter), rest], axis=1)
    targets = np.concatenate([np.full((5, delay + 10), blank), symbols], axis=1)
    surely = 40.0 * np.eye(9)[blank]
    params = {
        "input": {"kernel": np.eye(10)[delimiter][:, None] * [1.0, 0.0], "bias": np.zeros(2)},
        "recurrent": {"kernel": np.array([[1.0, 1.0], [0.0, 0.0]])},
        "readout": {"kernel": np.stack([np.zeros(9), -2 * surely]), "bias": surely},
    }

    @jax.jit
    def loss(params, x, targets):
        model = rnn(2, 9, "relu", every_step=True)
        return jnp.mean(jn.cross_entropy(model.apply({"params": params}, x)[0], targets))

    with jax.enable_x64(True):
        found = loss(*as_arrays((params, np.eye(10)[x]), jnp.float64), jnp.asarray(targets))
    # what a logit of 40 leaves to the other classes: 8 e^-40 = 3e-17
    np.testing.assert_allclose(found, 10 * math.log(8) / (delay + 20), rtol=1e-13)
    assert round(float(found), 4) == 0.1733


def test_irnn_jacobian_is_the_identity_while_all_units_are_on():
    """And gain^age I for another gain (Le et al. 2015, 1504.00941)."""

    @jax.jit
    @jax.vmap
    def run(gain):
        model = rnn(STATES, 1, "relu", weights=jn.constant(0.3), recurrent=scaled_identity(gain))
        x = jnp.ones((1, SPAN, 1))
        return jacobians(model, model.init(jax.random.key(0), x), x)

    identity, half = np.asarray(run(jnp.array([1.0, 0.5])))
    np.testing.assert_array_equal(identity, np.broadcast_to(np.eye(STATES), identity.shape))
    # powers of two are exact in float32 too
    np.testing.assert_array_equal(half, 0.5 ** AGES[:, None, None] * np.eye(STATES))


def test_scaled_identity_puts_its_gain_on_the_diagonal():
    draw = scaled_identity(3.0)
    np.testing.assert_array_equal(draw(jax.random.key(0), (2, 3)), 3 * np.eye(2, 3))
    with pytest.raises(ValueError, match=r"scaled_identity: expected a kernel .* \(3,\)"):
        draw(jax.random.key(0), (3,))


def test_memory_fades_by_the_forget_gate_alone_when_weights_are_zero():
    """dc_T/dc_t = s(b)^(T - t), the half-life ln 2 / -ln s(b) (Gers et al. 2000); GRU alike."""
    biases = np.array([0.0, 1.0, 2.0, 5.0])
    silent = {"weights": jn.zeros(), "recurrent": jn.zeros(), "readout": jn.constant(1.0)}

    @jax.jit
    @jax.vmap
    def run(bias):
        x = jnp.ones((1, SPAN, 1))
        shift = jnp.zeros((SPAN, 1, 2)).at[0].set(0.7)  # the memory that fades
        found = {}
        for cell in ("lstm", "gru"):
            model = rnn(2, 1, cell, forget_bias=bias, **silent)
            params = model.init(jax.random.key(0), x)["params"]
            (_, signals), (_, taps) = pull(model, params, x, jnp.ones((1, 1)), shift)
            found[cell] = taps.pre, signals
        return found

    with jax.enable_x64(True):
        found = jax.device_get(run(jnp.asarray(biases)))
    keep = sigmoid(biases)
    half_lives = np.log(2) / -np.log(keep)
    np.testing.assert_allclose(half_lives[:3], [1.0, 2.21, 5.46], atol=5e-3)
    assert round(half_lives[3]) == 103
    factors = np.broadcast_to((keep[:, None] ** AGES)[:, :, None, None], (4, SPAN, 1, 2))
    for memory, signals in found.values():
        # 20 products of one rounded number
        np.testing.assert_allclose(memory, 0.7 * factors[:, ::-1], rtol=1e-13)
        np.testing.assert_allclose(signals / signals[:, -1:], factors, rtol=1e-13)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_chrono_spreads_half_lives_up_to_the_longest_memory(cell):
    """1 / (1 - s(b)) is uniform on [2, T], whatever the other biases (1804.11188)."""
    units, longest = 4096, np.array([10.0, 1000.0])

    @jax.jit
    @jax.vmap
    def run(longest):
        options = {"weights": jn.zeros(), "recurrent": jn.zeros(), "biases": jn.uniform(1.0)}
        model = rnn(units, 1, cell, chrono=longest, **options)
        params = model.init(jax.random.key(5), jnp.ones((1, 1, 1)))["params"]
        return params["input"]["bias"].reshape(-1, units)

    with jax.enable_x64(True):
        rows = np.asarray(run(jnp.asarray(longest)))
    biases = rows[:, 1]
    half_lives = np.sort(np.log(2) / -np.log(sigmoid(biases)), axis=1)
    times = 1 / (1 - 0.5 ** (1 / half_lives))  # memory keeps a half over each half-life
    assert np.all((times > 2 - 1e-9) & (times < longest[:, None] + 1e-9))
    expected = (times - 2) / (longest[:, None] - 2)
    ranks = (np.arange(units) + 0.5) / units
    # Kolmogorov-Smirnov: exceeded once in a thousand draws
    assert np.abs(expected - ranks).max() < 1.95 / math.sqrt(units)
    others = (0, 2) if cell == "gru" else (2, 3)
    for row in (rows[0, other] for other in others):
        assert abs(np.corrcoef(row, biases[0])[0, 1]) < 4 / math.sqrt(units)  # four errors


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cell": "grru"}, ValueError, "cell: unknown name 'grru'; known: lstm, gru, identity"),
        ({"cell": jnp.tanh}, TypeError, "cell: expected 'lstm', 'gru', an activation's name"),
        ({"width": 0}, ValueError, "width: expected at least 1, got 0"),
        ({"out": 2.5}, TypeError, "out: expected an int"),
        ({"forget_bias": 1.0}, ValueError, "forget_bias: a vanilla cell has no gates, got 1.0"),
        ({"chrono": 9}, ValueError, "chrono: a vanilla cell has no gates"),
        ({"cell": "gru", "chrono": 1.5}, ValueError, "chrono: expected .* at least 2 steps"),
        ({"cell": "gru", "chrono": 9, "forget_bias": 1.0}, ValueError, "give one of them"),
    ],
    ids=["cell", "function", "width", "out", "forget", "chrono", "short", "both"],
)
def test_bad_argument_is_refused_by_name(change, error, message):
    with pytest.raises(error, match=message):
        rnn(**{"width": 2, "out": 1} | change)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((2, 3), np.float32), ValueError, r"x: expected sequences .* \(2, 3\)"),
        (np.ones((2, 3, 1), np.int32), TypeError, "x: expected floats, got int32; tokens"),
    ],
    ids=["flat", "tokens"],
)
def test_bad_input_is_refused_by_init_and_apply(x, error, message):
    model = rnn(2, 1)
    with pytest.raises(error, match=message):
        model.init(jax.random.key(0), x)
    with pytest.raises(error, match=message):
        model.apply({"params": {}}, x)
