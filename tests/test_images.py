"""Images as tensors: noise, PSNR, layouts and patches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio
from torch.nn import functional

from ntkbook import images


def random_image(channels: int, height: int, width: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((channels, height, width))).to(dtype)


small_images = st.builds(
    random_image, st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1)
)


def literal_patches(image: np.ndarray, size: int, padding: str) -> np.ndarray:
    """Patches by loops over every pixel and every entry."""
    channels, height, width = image.shape
    half = size // 2

    def sample(channel: int, row: int, column: int) -> float:
        position = []
        for index, length in ((row, height), (column, width)):
            if padding == "circular":
                index %= length
            elif padding == "reflect":
                while not 0 <= index < length:
                    index = -index if index < 0 else 2 * (length - 1) - index
            elif not 0 <= index < length:
                return 0.0
            position.append(index)
        return image[channel, position[0], position[1]]

    return np.array(
        [
            [
                sample(channel, row + down, column + right)
                for channel in range(channels)
                for down in range(-half, half + 1)
                for right in range(-half, half + 1)
            ]
            for row in range(height)
            for column in range(width)
        ]
    )


@pytest.mark.parametrize("padding", images.PADDINGS)
@pytest.mark.parametrize(
    "shape, size", [((3, 6, 5), 3), ((2, 7, 9), 5), ((1, 3, 3), 3), ((1, 1, 1), 1), ((2, 5, 5), 5)]
)
def test_patches_equal_the_loops(shape, size, padding):
    image = random_image(*shape)
    got = images.patches(image, size, padding)
    assert got.dtype == torch.float64
    np.testing.assert_array_equal(got.numpy(), literal_patches(image.numpy(), size, padding))


@pytest.mark.parametrize("padding, name", [("reflect", "reflect"), ("zeros", "constant"), ("circular", "circular")])
def test_patches_times_weights_is_a_convolution(padding, name):
    image, weight = random_image(3, 12, 10), torch.randn(4, 3, 5, 5, dtype=torch.float64)
    product = images.to_image(images.patches(image, 5, padding) @ weight.flatten(1).T, 12, 10)
    convolution = functional.conv2d(functional.pad(image[None], (2, 2, 2, 2), mode=name), weight)[0]
    torch.testing.assert_close(product, convolution, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_equal_that_part_of_the_whole(data):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    image = random_image(2, height, width)
    size = data.draw(st.sampled_from([s for s in (1, 3, 5, 7, 9) if s <= min(height, width)]))
    padding = data.draw(st.sampled_from(images.PADDINGS))
    start = data.draw(st.integers(0, height - 1))
    stop = data.draw(st.integers(start + 1, height))
    whole = images.patches(image, size, padding)[start * width : stop * width]
    assert torch.equal(images.patches(image, size, padding, rows=(start, stop)), whole)
    assert torch.equal(images.patches(image, size, padding, rows=slice(start, stop)), whole)


def test_open_slices_and_gradients():
    image = random_image(1, 6, 5).requires_grad_()
    assert torch.equal(images.patches(image, 3, rows=slice(4, None)), images.patches(image, 3, rows=(4, 6)))
    images.patches(image, 3, "circular").sum().backward()
    assert torch.equal(image.grad, torch.full_like(image, 9))  # each pixel lies in nine patches


def test_a_strip_takes_only_its_own_memory():
    image = torch.zeros(3, 2048, 2048)
    assert images.patches(image, 11, rows=(1000, 1001)).untyped_storage().nbytes() == 2048 * 363 * 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": 4}, "odd and at least 1.*got 4"),
        ({"size": -3}, "got -3"),
        ({"size": 7}, r"7 x 7 does not fit in an image of 6 x 5"),
        ({"size": 3, "padding": "same"}, "one of reflect, zeros, circular; got 'same'"),
        ({"size": 3, "rows": (2, 2)}, "start 2 and stop 2"),
        ({"size": 3, "rows": (0, 7)}, "stop <= 6"),
        ({"size": 3, "rows": slice(-2, None)}, "start -2"),
        ({"size": 3, "rows": slice(0, 6, 2)}, "step 2"),
    ],
)
def test_patches_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        images.patches(random_image(1, 6, 5), **arguments)


def test_patches_refuse_a_size_that_is_no_integer():
    with pytest.raises(TypeError, match=r"integer, got 3\.0"):
        images.patches(random_image(1, 6, 5), 3.0)


FUNCTIONS_OF_AN_IMAGE = [
    lambda x: images.patches(x, 1),
    lambda x: images.add_noise(x, 25, 0),
    lambda x: images.psnr(x, torch.zeros(1, 2, 2)),
    lambda x: images.psnr(torch.zeros(1, 2, 2), x),
    images.constant_image,
    images.centre,
    images.uncentre,
    images.to_matrix,
]


@pytest.mark.parametrize("function", FUNCTIONS_OF_AN_IMAGE)
def test_what_is_not_an_image_is_refused(function):
    with pytest.raises(TypeError, match=r"must be a torch.Tensor .* got ndarray"):
        function(np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match=r"shape \(channels, height, width\), got \(2, 2\)"):
        function(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"got \(1, 0, 2\)"):
        function(torch.zeros(1, 0, 2))
    with pytest.raises(ValueError, match=r"floating-point dtype .* got torch\.uint8"):
        function(torch.zeros(1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="holds 1 value that is NaN or infinite"):
        function(torch.tensor([[[0.0, math.nan]]]))
    with pytest.raises(ValueError, match="holds 2 values that are NaN or infinite"):
        function(torch.tensor([[[math.inf, -math.inf]]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_noise_is_the_numpy_recipe(dtype):
    image = random_image(3, 8, 9, dtype=dtype)
    noise = np.random.default_rng(7).standard_normal((3, 8, 9)) * (25 / 255)
    noisy = images.add_noise(image, 25, 7)
    assert noisy.dtype == dtype
    assert torch.equal(noisy, image + torch.from_numpy(noise).to(dtype))


def test_noise_is_not_clipped_and_zero_sigma_changes_nothing():
    image = random_image(3, 16, 16)
    noisy = images.add_noise(image, 100, 0)
    assert noisy.min() < 0 and noisy.max() > 1
    assert torch.equal(images.add_noise(image, 0, 0), image)
    assert not torch.equal(noisy, images.add_noise(image, 100, 1))


@pytest.mark.parametrize("sigma", [-1, math.nan, math.inf, "25", None])
def test_noise_refuses_sigma(sigma):
    with pytest.raises(ValueError, match=rf"sigma must be .*got {sigma!r}"):
        images.add_noise(random_image(1, 2, 2), sigma, 0)


@pytest.mark.parametrize("seed, error", [(-1, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError)])
def test_noise_refuses_seed(seed, error):
    with pytest.raises(error, match=f"seed must be .*got {seed}"):
        images.add_noise(random_image(1, 2, 2), 25, seed)


@settings(max_examples=40, deadline=None)
@given(small_images, st.floats(0.01, 1))
def test_psnr_agrees_with_scikit_image(clean, scale):
    estimate = clean + scale * (random_image(*clean.shape, seed=3) - 0.5)
    expected = peak_signal_noise_ratio(clean.numpy(), estimate.clamp(0, 1).numpy(), data_range=1)
    assert images.psnr(estimate, clean) == pytest.approx(expected, rel=1e-12)


def test_psnr_of_known_images():
    clean = torch.full((3, 4, 4), 0.5)
    assert images.psnr(clean + 0.1, clean) == pytest.approx(20, abs=1e-5)
    assert images.psnr(clean, clean) == math.inf
    assert images.psnr(torch.full((3, 4, 4), 7.0), torch.ones(3, 4, 4)) == math.inf  # clipped first
    with pytest.raises(ValueError, match=r"\(3, 4, 4\), the clean image \(1, 4, 4\)"):
        images.psnr(clean, clean[:1])


def test_noise_of_sigma_25_costs_the_known_psnr():
    clean = torch.full((3, 256, 256), 0.5, dtype=torch.float64)
    assert images.psnr(images.add_noise(clean, 25, 0), clean) == pytest.approx(-20 * math.log10(25 / 255), abs=0.02)


@settings(max_examples=40, deadline=None)
@given(small_images)
def test_layouts_and_shift_undo_each_other(image):
    channels, height, width = image.shape
    matrix = images.to_matrix(image)
    assert matrix.shape == (height * width, channels) and matrix.is_contiguous()
    assert torch.equal(matrix[(height - 1) * width], image[:, height - 1, 0])
    assert torch.equal(images.to_image(matrix, height, width), image)
    assert torch.equal(images.centre(image), image - 0.5)
    torch.testing.assert_close(images.uncentre(images.centre(image)), image, rtol=0, atol=1e-15)


def test_to_image_refuses():
    with pytest.raises(ValueError, match=r"3 x 4 needs a matrix with 12 rows .* got shape \(11, 3\)"):
        images.to_image(torch.zeros(11, 3), 3, 4)
    with pytest.raises(TypeError, match="got list"):
        images.to_image([[0.0]], 1, 1)


def test_constant_image_is_the_mean_of_each_channel():
    image = random_image(3, 5, 6)
    constant = images.constant_image(image)
    for channel in range(3):
        assert torch.allclose(constant[channel], image[channel].mean())
    constant[0, 0, 0] = 2  # a real tensor, not a view of three numbers
    assert constant[0, 0, 1] != 2


@pytest.mark.parametrize("side", [1, 2, 5, 6, 8])
@pytest.mark.parametrize("shape", [(3, 9, 12), (1, 6, 5)])
def test_central_square(shape, side):
    image = random_image(*shape)
    found = images.central(image, side)
    height, width = (min(side, length) for length in shape[1:])
    top, left = (shape[1] - height) // 2, (shape[2] - width) // 2
    assert torch.equal(found, image[:, top : top + height, left : left + width])
    assert found.shape == (shape[0], height, width)
    assert found.is_contiguous()
