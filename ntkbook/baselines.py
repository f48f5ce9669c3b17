"""The denoisers the paper is compared with, from the libraries that people use."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor


def _nlm(noisy: Tensor, noise_std: float, strength: float, fast: bool) -> Tensor:
    from skimage.restoration import denoise_nl_means

    picture = noisy.permute(1, 2, 0).double().cpu().numpy()
    settings = {"patch_size": 5, "patch_distance": 6, "h": strength * noise_std, "sigma": noise_std}
    estimate = denoise_nl_means(picture, **settings, fast_mode=fast, channel_axis=-1)
    return torch.from_numpy(np.ascontiguousarray(estimate.transpose(2, 0, 1))).to(noisy)


def nlm_fast(noisy: Tensor, noise_std: float) -> Tensor:
    """scikit-image's fast non-local means: 5x5 patches, distance 6, strength 0.6 sigma. (channels, height, width)."""
    return _nlm(noisy, noise_std, 0.6, fast=True)


def nlm_slow(noisy: Tensor, noise_std: float) -> Tensor:
    """scikit-image's exact non-local means: 5x5 patches, distance 6, strength 0.8 sigma. (channels, height, width)."""
    return _nlm(noisy, noise_std, 0.8, fast=False)


def bm3d(noisy: Tensor, noise_std: float) -> Tensor:
    """Colour BM3D of the package ``bm3d``, (channels, height, width).

    The package's licence is for non-commercial use, so it is no requirement of this one.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    try:
        from bm3d import bm3d_rgb
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "BM3D needs the package bm3d (licence: non-commercial), which ntkbook does not install: pip install bm3d"
        ) from missing
    estimate = bm3d_rgb(noisy.permute(1, 2, 0).double().cpu().numpy(), noise_std)
    return torch.from_numpy(np.ascontiguousarray(estimate.transpose(2, 0, 1))).to(noisy)


BASELINES: Mapping[str, Callable[[Tensor, float], Tensor]] = {"nlm_fast": nlm_fast, "nlm_slow": nlm_slow, "bm3d": bm3d}
