"""`NTKDenoiser`: a module called with a batch and the noise level, image by image what `restore` gives."""

import math

import numpy as np
import pytest
import torch
from tiny_images import smooth_image
from torch import Tensor

from ntkbook.denoise import NTKDenoiser, denoise_ntk, estimated_sigma
from ntkbook.images import add_noise, psnr
from ntkbook.landmarks import Landmarks
from ntkbook.restoration import RECIPES, Recipe, restore

SMALL = Recipe((Landmarks("centres", 24, 5),), window=24, overlap=8)
LEVELS = (0.06, 0.1)


def batch(channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two images with noise of two levels."""
    clean = smooth_image(channels, 32, 40)
    images = [add_noise(image, 255 * level, 1) for image, level in zip((clean, 1 - clean), LEVELS, strict=True)]
    return torch.stack(images).to(dtype)


# --- what it gives


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_each_image_is_restored_alone_in_its_own_type(channels, dtype):
    noisy = batch(channels, dtype)
    before = noisy.clone()
    found = NTKDenoiser(SMALL)(noisy, torch.tensor(LEVELS))
    assert (found.shape, found.dtype, found.device) == (noisy.shape, dtype, noisy.device)
    assert torch.equal(noisy, before)
    for image, level, restored in zip(noisy, LEVELS, found, strict=True):
        assert torch.equal(restored, restore(image.float(), level, recipe=SMALL).image.to(dtype))


def test_it_denoises():
    noisy, clean = batch()[0], smooth_image(3, 32, 40).float()
    assert psnr(NTKDenoiser()(noisy[None], LEVELS[0])[0], clean) > psnr(noisy, clean) + 3


@pytest.mark.parametrize("recipe", ["fast", "best"])
def test_it_is_denoise_ntk(recipe):
    noisy = batch()[:1]
    found = NTKDenoiser(recipe)(noisy, 0.06)[0]
    expected = denoise_ntk(noisy[0].numpy(), 0.06, recipe=recipe, channel_axis=0, device="cpu")
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    "sigma",
    [0.1, torch.tensor(0.1), torch.tensor([0.1]), [0.1, 0.1], torch.full((2,), 0.1), torch.full((2, 1, 1, 1), 0.1)],
    ids=["float", "()", "(1,)", "list", "(B,)", "(B,1,1,1)"],
)
def test_sigma_in_every_form(sigma):
    found = NTKDenoiser(SMALL)(batch(), sigma)
    torch.testing.assert_close(found, NTKDenoiser(SMALL)(batch(), 0.1), rtol=0, atol=1e-5)


def test_each_image_has_its_own_sigma():
    denoiser = NTKDenoiser(SMALL)
    found = denoiser(batch(), torch.tensor(LEVELS).reshape(2, 1, 1, 1))
    swapped = denoiser(batch(), torch.tensor(LEVELS[::-1]))
    for index, level in enumerate(LEVELS):
        alone = denoiser(batch()[index : index + 1], level)[0]
        torch.testing.assert_close(found[index], alone, rtol=0, atol=1e-5)
        assert (swapped[index] - found[index]).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_without_sigma_each_image_s_own_is_estimated(dtype):
    noisy = batch(dtype=dtype)
    levels = [estimated_sigma(image.float().numpy()) for image in noisy]
    assert levels[1] > levels[0] + 0.01
    found = NTKDenoiser(SMALL)(noisy)
    torch.testing.assert_close(found, NTKDenoiser(SMALL)(noisy, levels), rtol=0, atol=2e-2)
    if dtype.itemsize >= 4:
        torch.testing.assert_close(found, NTKDenoiser(SMALL)(noisy, levels), rtol=0, atol=1e-5)


def test_given_iterations_need_no_sigma():
    found = NTKDenoiser(SMALL, iterations=30)(batch())
    for image, restored in zip(batch(), found, strict=True):
        assert torch.equal(restored, restore(image, None, 30, SMALL).image)


def test_the_seed_is_the_same_at_each_call():
    pixels = Recipe((Landmarks("uniform", 20, 5),))
    one, other = NTKDenoiser(pixels, 50, seed=1), NTKDenoiser(pixels, 50, seed=2)
    assert torch.equal(one(batch()), one(batch()))
    assert (one(batch()) - other(batch())).abs().max() > 1e-3


def test_a_batch_of_no_images():
    for sigma in (0.1, None, torch.zeros(0)):
        assert NTKDenoiser()(torch.zeros(0, 3, 16, 16), sigma).shape == (0, 3, 16, 16)


# --- as a module


@pytest.mark.parametrize("sigma", [0.1, None])
def test_no_gradient_passes(sigma):
    noisy = batch().requires_grad_()
    level = sigma and torch.full((2,), sigma, requires_grad=True)
    assert not NTKDenoiser(SMALL)(noisy, level).requires_grad
    assert noisy.grad is None
    assert not NTKDenoiser(SMALL)(noisy[:0], 0.1).requires_grad


def test_it_has_no_parameters_and_no_state():
    denoiser = NTKDenoiser(SMALL, iterations=20)
    assert list(denoiser.parameters()) == list(denoiser.buffers()) == []
    assert NTKDenoiser(SMALL).load_state_dict(denoiser.state_dict()).missing_keys == []
    first = denoiser(batch())
    assert torch.equal(denoiser.eval()(batch()), first)
    assert torch.equal(denoiser.train()(batch()), first)
    assert torch.equal(torch.nn.Sequential(denoiser).double()(batch()), first)


# --- refusals


@pytest.mark.parametrize(
    ("y", "sigma", "error", "says"),
    [
        (torch.zeros(3, 16, 16), 0.1, ValueError, r"\(batch, channels, height, width\), not \(3, 16, 16\)"),
        (torch.zeros(1, 1, 3, 16, 16), 0.1, ValueError, r"not \(1, 1, 3, 16, 16\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), 0.1, TypeError, "not torch.uint8"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.complex64), 0.1, TypeError, "not torch.complex64"),
        (np.zeros((1, 3, 16, 16)), 0.1, TypeError, "floating-point tensor, not float64"),
        ([[0.5]], 0.1, TypeError, "floating-point tensor, not list"),
        (torch.zeros(2, 3, 16, 16), torch.ones(3), ValueError, "one for each of 2 images, not 3"),
        (torch.zeros(2, 3, 16, 16), torch.zeros(0), ValueError, "one for each of 2 images, not 0"),
        (torch.zeros(2, 3, 16, 16), torch.ones(2, 3, 16, 16), ValueError, "one for each of 2 images, not 1536"),
        (torch.zeros(2, 3, 16, 16), -0.1, ValueError, "0 or more, not -0.1"),
        (torch.zeros(2, 3, 16, 16), torch.tensor([0.1, math.nan]), ValueError, "not nan"),
        (torch.full((1, 3, 16, 16), math.inf), 0.1, ValueError, "infinite"),
        (torch.zeros(1, 3, 16, 6), 0.1, ValueError, "patch of 7 x 7 does not fit in an image of 16 x 6"),
    ],
)
def test_bad_batches_and_levels_are_refused(y, sigma, error, says):
    with pytest.raises(error, match=says):
        NTKDenoiser()(y, sigma)


def test_bad_recipes_are_refused():
    with pytest.raises(ValueError, match=f"Unknown recipe 'slow'; accepted are {', '.join(RECIPES)}"):
        NTKDenoiser("slow")
    with pytest.raises(ValueError, match="the number of iterations cannot be given"):
        NTKDenoiser("best", iterations=10)(batch())
