"""`NTKDenoiser` inside a plug-and-play iteration of deepinv, where that can be imported."""

import pytest
import torch
from skimage import data

from ntkbook.denoise import NTKDenoiser
from ntkbook.images import psnr

try:
    import deepinv
except (ImportError, RuntimeError) as error:  # its torchvision must match torch, and raises RuntimeError when not
    pytest.skip(f"deepinv cannot be imported: {error}", allow_module_level=True)


def test_plug_and_play_deblurs_a_photograph():
    clean = torch.from_numpy(data.astronaut()[20:116, 180:276]).permute(2, 0, 1)[None].float() / 255
    physics = deepinv.physics.Blur(
        filter=deepinv.physics.blur.gaussian_blur(sigma=(1.5, 1.5)),
        padding="circular",
        noise_model=deepinv.physics.GaussianNoise(10 / 255, rng=torch.Generator().manual_seed(0)),
    )
    observed = physics(clean)
    algorithm = deepinv.optim.optim_builder(
        iteration="PGD",
        prior=deepinv.optim.prior.PnP(denoiser=NTKDenoiser()),
        data_fidelity=deepinv.optim.data_fidelity.L2(),
        params_algo={"stepsize": 1.0, "g_param": 8 / 255},
        max_iter=8,
    )
    restored = algorithm(observed, physics)
    assert restored.shape == clean.shape
    assert psnr(restored[0], clean[0]) > psnr(observed[0], clean[0]) + 1
