"""Augmentations: what each strength does, with the strength traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import data

HEIGHT, WIDTH = 6, 5
IMAGE = 1 + np.arange(HEIGHT * WIDTH * 2, dtype=np.float32).reshape(HEIGHT, WIDTH, 2)
IMAGES = np.tile(IMAGE, (900, 1, 1, 1))
STRENGTHS = [0, 1, 2, 7]
traces = []


@jax.jit
@jax.vmap
def shifted(pixels):
    traces.append(pixels)
    return data.random_shifts(pixels)(jax.random.key(0), jnp.asarray(IMAGES))


@pytest.fixture(scope="module")
def moved():
    """Images [strength, image, ...] of all strengths, by one program."""
    traces.clear()
    found = np.asarray(shifted(jnp.array(STRENGTHS)))
    shifted(jnp.array([3, 0, 0, 1]))
    assert len(traces) == 1
    return dict(zip(STRENGTHS, found, strict=True))


def reference(down, right):
    """Shift IMAGE by slices of a padded copy."""
    padded = np.pad(IMAGE, ((9, 9), (9, 9), (0, 0)))
    return padded[9 - down : 9 - down + HEIGHT, 9 - right : 9 - right + WIDTH]


def shifts_of(images, pixels):
    """Find the shift of each image [image, 2], which must be one that is allowed."""
    candidates = [(d, r) for d in range(-pixels, 1 + pixels) for r in range(-pixels, 1 + pixels)]
    shapes = np.stack([reference(*each) for each in candidates])
    equal = (images[:, None] == shapes[None]).all((2, 3, 4))
    assert (equal.sum(1) == 1).all()
    return np.array(candidates)[equal.argmax(1)]


def test_no_shift_is_the_identity(moved):
    np.testing.assert_array_equal(moved[0], IMAGES)


@pytest.mark.parametrize("pixels", [1, 2])
def test_shifts_are_whole_pixels_zero_padded_and_uniform(moved, pixels):
    found = shifts_of(moved[pixels], pixels)
    number = (2 * pixels + 1) ** 2
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == number  # 900 draws of 25: one is missed with probability 3e-15
    expected = len(IMAGES) / number
    statistic = ((counts - expected) ** 2 / expected).sum()
    # Laurent and Massart (2000): exceeded with probability exp(-10).
    assert statistic < number - 1 + 2 * np.sqrt(10 * (number - 1)) + 20


def test_shift_past_the_border_leaves_nothing(moved):
    empty = (moved[7] == 0).all((1, 2, 3))
    # Of 15 shifts down, those of 6 and 7 pixels either way empty a height of 6: 4; of 15 right,
    # those of 5 to 7 a width of 5: 6.
    share = 1 - (11 / 15) * (9 / 15)
    assert abs(empty.mean() - share) < 4 * np.sqrt(share * (1 - share) / len(empty))


def test_larger_shifts_go_the_same_way(moved):
    smaller, larger = shifts_of(moved[1], 1), shifts_of(moved[2], 2)
    assert ((smaller * larger) >= 0).all()


@jax.jit
def noisy(std):
    return data.add_noise(std)(jax.random.key(1), jnp.full((100, 50), 3.0))


def test_noise_has_its_standard_deviation_and_scales_with_it():
    noise = np.asarray(noisy(0.5)) - 3
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(noise.size)
    assert abs(noise.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * noise.size)
    np.testing.assert_array_equal(noisy(0.0), 3.0)
    # Twice the noise: roundings of numbers up to 8, 5e-7 each.
    np.testing.assert_allclose(np.asarray(noisy(1.0)) - 3, 2 * noise, atol=2e-6)


def test_noise_is_independent_between_inputs():
    correlation = np.corrcoef(np.asarray(noisy(0.5)).T)[np.triu_indices(50, 1)]
    # 1225 correlations of 100 pairs each, of standard deviation 1/sqrt(99).
    assert np.abs(correlation).max() < 5 / np.sqrt(99)


@pytest.mark.parametrize("augment", [data.add_noise, data.random_shifts])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_and_shape_are_kept_in_float64_mode(augment, dtype):
    def run(strength, x):
        return augment(strength)(jax.random.key(0), x)

    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct((3, 4, 4, 1), dtype)
        found = jax.eval_shape(run, jnp.float64(1.0), x)
    assert (found.shape, found.dtype) == (x.shape, dtype)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: data.add_noise(-0.1), "std must be one finite number of at least 0, got -0.1"),
        (lambda: data.add_noise(np.ones(3)), "std must be.*vmap or sweep over it"),
        (lambda: data.random_shifts(-1), "pixels must be one finite number"),
        (lambda: data.random_shifts(float("nan")), "pixels must be one finite number.*nan"),
    ],
)
def test_bad_strengths_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_shifts_refuse_flat_images():
    with pytest.raises(ValueError, match=r"batch, height, width, channel.*\(3, 64\).*flat=False"):
        data.random_shifts(1)(jax.random.key(0), jnp.zeros((3, 64)))
