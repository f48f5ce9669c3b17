"""`denoise_ntk`: scikit-image's conventions, and on the whole image the closed form and the stop by SURE."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from skimage.restoration import estimate_sigma

from ntkbook.denoise import as_picture, denoise_ntk, estimated_sigma
from ntkbook.images import to_image, to_matrix
from ntkbook.kernels import PatchKernel
from ntkbook.landmarks import KINDS, Landmarks
from ntkbook.nystrom import nystrom_filter, select_columns
from ntkbook.restoration import LARGEST_ITERATION, PER_DECADE, Recipe, restore
from ntkbook.stopping import iteration_grid

SIGMA = 25 / 255


def whole(count: int, patch_size: int = 11, kind: str = "uniform") -> Recipe:
    """The paper's way: the whole image at once, with one kind of landmarks."""
    return Recipe((Landmarks(kind, count, patch_size),), window=None)


SMALL = whole(40, 7)


def noisy_version(clean: NDArray, sigma: float = SIGMA, seed: int = 0) -> NDArray:
    return clean + sigma * np.random.default_rng(seed).standard_normal(clean.shape)


def small_picture(height: int = 24, width: int = 24, channels: int = 3) -> NDArray:
    """Two smooth waves and an edge, in [0.1, 0.9]."""
    y, x = np.mgrid[:height, :width] / 16
    planes = [0.5 + 0.2 * np.sin(3 * x + c) * np.cos(2 * y) + 0.2 * (x > y) for c in range(channels)]
    return np.stack(planes, axis=-1).clip(0.1, 0.9)


@pytest.fixture(scope="module")
def astronaut() -> SimpleNamespace:
    """A 96x96 photograph, its noisy version, and PSNR in dB by iteration of the filter with 300 columns."""
    clean = data.astronaut()[40:136, 170:266] / 255
    noisy = noisy_version(clean)
    filter_, centred = filter_of(noisy, columns=300, patch_size=11)
    times = iteration_grid(10**4, 24)
    height, width = clean.shape[:2]
    curve = {}
    for t, picture in filter_.iterates(to_matrix(centred), times):
        estimate = to_image(picture, height, width).permute(1, 2, 0).numpy() + 0.5
        curve[t] = peak_signal_noise_ratio(clean, estimate.clip(0, 1), data_range=1)
    return SimpleNamespace(clean=clean, noisy=noisy, curve=curve)


def filter_of(noisy: NDArray, columns: int, patch_size: int, selection: str = "uniform", seed: int = 0):
    """The filter, built by hand from the package's parts, and the centred image it is made from."""
    centred = torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1) - 0.5
    kernel = PatchKernel(centred, patch_size)
    chosen = select_columns(kernel, columns, selection, seed)
    return nystrom_filter(kernel, kernel.patches_at(chosen)).scaled(), centred


def quality(estimate: NDArray, clean: NDArray) -> float:
    return peak_signal_noise_ratio(clean, estimate.clip(0, 1).astype(clean.dtype), data_range=1)


# --- what it does to a photograph


@pytest.mark.parametrize("sigma", [SIGMA, None], ids=["given", "estimated"])
def test_sure_stops_within_a_tenth_of_a_decibel_of_the_oracle(astronaut, sigma):
    restored = denoise_ntk(astronaut.noisy, sigma, recipe=whole(300), channel_axis=-1, device="cpu")
    oracle = max(astronaut.curve.values())
    assert oracle - 0.1 < quality(restored, astronaut.clean) < oracle + 0.02
    assert quality(restored, astronaut.clean) > quality(astronaut.noisy, astronaut.clean) + 5


@pytest.mark.parametrize(("recipe", "gain"), [("fastest", 6.5), ("fast", 7), ("paper", 7), ("best", 7.5)])
def test_every_recipe_denoises_a_photograph(astronaut, recipe, gain):
    restored = denoise_ntk(astronaut.noisy, SIGMA, recipe=recipe, channel_axis=-1, device="cpu")
    assert quality(restored, astronaut.clean) > quality(astronaut.noisy, astronaut.clean) + gain


def test_too_few_and_too_many_iterations_are_worse(astronaut):
    best = max(astronaut.curve, key=astronaut.curve.get)
    for t in (best / 20, best * 20):
        restored = denoise_ntk(astronaut.noisy, iterations=t, recipe=whole(300), channel_axis=-1, device="cpu")
        assert quality(restored, astronaut.clean) < astronaut.curve[best] - 0.5


def test_expected_psnr_is_what_is_reached(astronaut):
    noisy = torch.from_numpy(astronaut.noisy.astype(np.float32)).permute(2, 0, 1)
    found = restore(noisy, SIGMA, recipe=whole(300))
    unclipped = ((found.image.permute(1, 2, 0).numpy() - astronaut.clean) ** 2).mean()
    assert found.expected_psnr == pytest.approx(-10 * np.log10(unclipped), abs=0.3)
    assert found.iterations.item() in iteration_grid(LARGEST_ITERATION, PER_DECADE)


def test_estimated_sigma_is_scikit_images(astronaut):
    by_library = estimate_sigma(astronaut.noisy, average_sigmas=True, channel_axis=-1)
    assert estimated_sigma(np.moveaxis(astronaut.noisy, -1, 0)) == pytest.approx(by_library, rel=1e-12)
    assert by_library == pytest.approx(SIGMA, rel=0.05)


def test_without_sigma_the_estimate_is_used():
    noisy = noisy_version(small_picture(), 0.1)
    estimate = estimated_sigma(as_picture(noisy, -1))
    unasked = denoise_ntk(noisy, channel_axis=-1, recipe=SMALL, device="cpu")
    np.testing.assert_array_equal(unasked, denoise_ntk(noisy, estimate, channel_axis=-1, recipe=SMALL, device="cpu"))
    other = denoise_ntk(noisy, 2 * estimate, channel_axis=-1, recipe=SMALL, device="cpu")
    assert np.abs(unasked - other).max() > 1e-3


# --- the closed form behind it


@pytest.mark.parametrize("selection", ["grid", "uniform", "residual"])
@pytest.mark.parametrize("iterations", [0, 1, 2.5, 300])
def test_given_iterations_equal_the_spectral_filter(iterations, selection):
    noisy = noisy_version(small_picture(19, 26), 0.1)
    filter_, centred = filter_of(noisy, 70, 5, selection, seed=3)
    expected = to_image(filter_.apply(to_matrix(centred), iterations), 19, 26).permute(1, 2, 0).numpy() + 0.5
    options = {"recipe": whole(70, 5, selection), "seed": 3, "channel_axis": -1, "device": "cpu"}
    found = denoise_ntk(noisy, iterations=iterations, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    if iterations == 0:
        np.testing.assert_allclose(found, 0.5, rtol=0, atol=1e-7)


def test_all_columns_are_the_exact_filter():
    noisy = noisy_version(small_picture(16, 16, 1), 0.1)
    centred = torch.from_numpy(noisy).permute(2, 0, 1) - 0.5
    kernel = PatchKernel(centred, 5).dense()
    response = torch.eye(256) - torch.linalg.matrix_power(
        torch.eye(256, dtype=torch.float64) - kernel / torch.linalg.eigvalsh(kernel)[-1], 40
    )
    expected = (response @ to_matrix(centred)).reshape(16, 16).numpy() + 0.5
    found = denoise_ntk(noisy[..., 0], iterations=40, recipe=whole(256, 5), device="cpu")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


# --- scikit-image's conventions


@pytest.mark.parametrize(
    ("dtype", "expected", "step"),
    [
        (np.uint8, np.float64, 1 / 255),
        (np.uint16, np.float64, 1 / 65535),
        (np.float16, np.float32, 1e-3),
        (np.float32, np.float32, 1e-7),
        (np.float64, np.float64, 1e-7),
    ],
)
def test_types(dtype, expected, step):
    noisy = noisy_version(small_picture(), 0.05).clip(0, 1)
    scale = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    given = (noisy * scale).round().astype(dtype) if scale > 1 else noisy.astype(dtype)
    before = given.copy()
    options = {"iterations": 50, "recipe": whole(80, 7), "channel_axis": -1, "device": "cpu"}
    found, reference = denoise_ntk(given, 0.05, **options), denoise_ntk(noisy, 0.05, **options)
    assert found.dtype == expected
    assert found.shape == given.shape
    np.testing.assert_array_equal(given, before)
    np.testing.assert_allclose(found, reference, rtol=0, atol=2 * step + 1e-5)
    assert found.min() > -0.2
    assert found.max() < 1.2


def test_a_picture_of_booleans():
    clean = small_picture(channels=1)[..., 0] > 0.5
    found = denoise_ntk(clean, 0.1, device="cpu")
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, denoise_ntk(clean.astype(float), 0.1, device="cpu"), rtol=0, atol=1e-6)


def test_the_channels_axis_may_be_anywhere():
    noisy = noisy_version(small_picture(17, 22), 0.1)
    last = denoise_ntk(noisy, 0.1, channel_axis=-1, device="cpu")
    assert last.shape == (17, 22, 3)
    for axis in (0, 1, 2, -3, -2):
        found = denoise_ntk(np.moveaxis(noisy, -1, axis), 0.1, channel_axis=axis, device="cpu")
        np.testing.assert_array_equal(np.moveaxis(found, axis, -1), last)


def test_grey_is_one_channel():
    noisy = noisy_version(small_picture(channels=1), 0.1)
    grey = denoise_ntk(noisy[..., 0], 0.1, device="cpu")
    assert grey.shape == (24, 24)
    np.testing.assert_array_equal(grey, denoise_ntk(noisy, 0.1, channel_axis=-1, device="cpu")[..., 0])


def test_memory_layout_does_not_matter():
    noisy = noisy_version(small_picture(20, 26), 0.1)
    plain = denoise_ntk(noisy, 0.1, channel_axis=-1, device="cpu")
    fortran = denoise_ntk(np.asfortranarray(noisy), 0.1, channel_axis=-1, device="cpu")
    reversed_twice = denoise_ntk(noisy[::-1].copy()[::-1], 0.1, channel_axis=-1, device="cpu")
    np.testing.assert_array_equal(fortran, plain)
    np.testing.assert_array_equal(reversed_twice, plain)


@pytest.mark.parametrize(
    ("height", "width", "patch_size"), [(16, 16, 11), (11, 11, 11), (13, 40, 11), (31, 17, 7), (5, 6, 5), (1, 9, 1)]
)
def test_sizes(height, width, patch_size):
    noisy = noisy_version(small_picture(height, width), 0.1)
    found = denoise_ntk(
        noisy, 0.1, recipe=Recipe((Landmarks("centres", 64, patch_size),)), channel_axis=-1, device="cpu"
    )
    assert found.shape == noisy.shape
    assert np.isfinite(found).all()
    assert np.abs(found - noisy).max() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_one_picture(kind):
    noisy = noisy_version(small_picture(), 0.1)

    def run(seed):
        return denoise_ntk(noisy, 0.1, recipe=whole(40, 7, kind), channel_axis=-1, seed=seed, device="cpu")

    np.testing.assert_array_equal(run(1), run(1))
    if kind != "grid":
        assert np.abs(run(1) - run(2)).max() > 1e-4


def test_the_global_random_state_is_neither_read_nor_moved():
    noisy = noisy_version(small_picture(), 0.1)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = denoise_ntk(noisy, 0.1, channel_axis=-1, device="cpu")
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(2)
    second = denoise_ntk(noisy, 0.1, channel_axis=-1, device="cpu")
    np.testing.assert_array_equal(first, second)


# --- pictures without noise, without anything


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("sigma", [0, 0.1, None])
def test_constant_pictures_stay_what_they_are(value, sigma):
    for shape, axis in (((20, 20), None), ((20, 20, 3), -1)):
        constant = np.full(shape, value)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = denoise_ntk(constant, sigma, channel_axis=axis, device="cpu")
        np.testing.assert_allclose(found, constant, rtol=0, atol=0.02)


def test_one_black_channel_does_not_spoil_the_estimate():
    noisy = noisy_version(small_picture(48, 48), 0.1)
    noisy[..., 2] = 0
    estimate = estimated_sigma(as_picture(noisy, -1))
    assert 0.05 < estimate < 0.12
    assert np.isfinite(denoise_ntk(noisy, channel_axis=-1, device="cpu")).all()


def test_without_noise_the_picture_comes_back():
    clean = small_picture()
    np.testing.assert_array_equal(denoise_ntk(clean.astype(np.float32), 0, channel_axis=-1), clean.astype(np.float32))
    found = restore(torch.from_numpy(clean.astype(np.float32)).permute(2, 0, 1), 0)
    assert (found.landmarks == -1).all()
    assert (found.iterations == 0).all()
    assert found.expected_psnr == np.inf


def test_where_the_filter_would_harm_the_picture_comes_back():
    static = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (1, 24, 24)).astype(np.float32))
    found = restore(static, 1e-3, recipe=whole(20))  # independent pixels: nothing to average
    assert (found.landmarks, found.iterations) == (-1, 0)
    torch.testing.assert_close(found.image, static, rtol=0, atol=1e-6)
    assert found.expected_psnr == pytest.approx(60, abs=0.01)


# --- progress


def test_the_bar_is_asked_for(capsys):
    noisy = noisy_version(small_picture(), 0.1)
    denoise_ntk(noisy, 0.1, channel_axis=-1)
    assert capsys.readouterr() == ("", "")
    denoise_ntk(noisy, 0.1, channel_axis=-1, progress=True)
    shown = capsys.readouterr()
    assert "100%" in shown.err
    assert shown.out == ""
