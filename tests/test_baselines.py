"""The baselines are the libraries' own denoisers, with the settings that are stated."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_nl_means
from tiny_images import random_image, smooth_image

from ntkbook.baselines import BASELINES, bm3d, nlm_fast, nlm_slow
from ntkbook.images import psnr

STD = 0.1
CLEAN = smooth_image(3, 20, 24)
NOISY = CLEAN + STD * torch.from_numpy(np.random.default_rng(0).standard_normal(CLEAN.shape))


@pytest.mark.parametrize(("denoiser", "strength", "fast"), [(nlm_fast, 0.6, True), (nlm_slow, 0.8, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nlm_is_scikit_image_s(denoiser, strength, fast, dtype):
    noisy = NOISY.to(dtype)
    picture = noisy.double().permute(1, 2, 0).numpy()
    direct = denoise_nl_means(
        picture, patch_size=5, patch_distance=6, h=strength * STD, sigma=STD, fast_mode=fast, channel_axis=-1
    )
    estimate = denoiser(noisy, STD)
    assert estimate.dtype == dtype
    torch.testing.assert_close(estimate, torch.from_numpy(direct).permute(2, 0, 1).to(dtype), rtol=0, atol=0)
    assert psnr(estimate, CLEAN.to(dtype)) > psnr(noisy, CLEAN.to(dtype)) + 2


def test_bm3d_missing_is_said_clearly(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs the package bm3d \(licence: non-commercial\).*pip install bm3d"
    ):
        bm3d(NOISY, STD)


def test_bm3d_is_handed_a_picture_with_channels_last(monkeypatch):
    """The package is not a requirement; what it is given and what becomes of its answer can be seen without it."""
    given = []
    library = ModuleType("bm3d")
    library.bm3d_rgb = lambda picture, std: given.append((picture, std)) or picture / 2
    monkeypatch.setitem(sys.modules, "bm3d", library)
    estimate = bm3d(NOISY.float(), STD)
    (picture, std), *others = given
    assert not others
    assert std == STD
    assert picture.dtype == np.float64
    assert np.array_equal(picture, NOISY.float().double().permute(1, 2, 0).numpy())
    torch.testing.assert_close(estimate, NOISY.float() / 2, rtol=0, atol=0)


def test_bm3d_is_the_package_s_own():
    library = pytest.importorskip("bm3d", reason="the package bm3d is not installed")
    clean = smooth_image(3, 32, 32)
    noisy = clean + STD * random_image(3, 32, 32)
    direct = library.bm3d_rgb(noisy.permute(1, 2, 0).numpy(), STD)
    torch.testing.assert_close(bm3d(noisy, STD), torch.from_numpy(direct).permute(2, 0, 1), rtol=0, atol=1e-12)


def test_baselines_by_name():
    assert dict(BASELINES) == {"nlm_fast": nlm_fast, "nlm_slow": nlm_slow, "bm3d": bm3d}
