"""Tiny images, and patches and kernels written out with loops, for the tests of the filters."""

import math

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from ntkbook.images import PADDINGS
from ntkbook.kernels import PatchKernel

NUMPY_PADDING = {"reflect": "reflect", "zeros": "constant", "circular": "wrap"}


def random_image(channels: int, height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Independent pixels in [-0.5, 0.5]."""
    return torch.from_numpy(np.random.default_rng(seed).random((channels, height, width)) - 0.5).to(dtype)


def posterised_image(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Few grey values, one of them 0: patches repeat, and some may be zero."""
    return (random_image(channels, height, width, seed) * 2).round() / 2


def smooth_image(channels: int, height: int, width: int) -> Tensor:
    """Waves of a few lengths, about as regular as a photograph, in [0, 1]."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = [torch.sin(5 * rows + c) * torch.cos(7 * columns - c) for c in range(channels)]
    edge = ((rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.1).double()
    return (0.3 * torch.stack(waves).double() + 0.3 * edge + 0.35).clamp(0, 1)


def kernels(largest_side: int = 7) -> st.SearchStrategy[PatchKernel]:
    """Patch kernels of random images, sizes and paddings, in float64."""
    sides = st.integers(3, largest_side)
    make = st.sampled_from([random_image, posterised_image])
    images = st.builds(
        lambda f, c, h, w, seed: f(c, h, w, seed), make, st.integers(1, 3), sides, sides, st.integers(0, 99)
    )
    return st.builds(PatchKernel, images, size=st.sampled_from([1, 3]), padding=st.sampled_from(PADDINGS))


def literal_patches(image: Tensor, size: int, padding: str) -> np.ndarray:
    """Patches cut one by one out of numpy's padded image, shape (pixels, channels, size, size)."""
    half = size // 2
    padded = np.pad(image.numpy(), ((0, 0), (half, half), (half, half)), mode=NUMPY_PADDING[padding])
    _, height, width = image.shape
    return np.array([padded[:, i : i + size, j : j + size] for i in range(height) for j in range(width)])


def literal_kernel(patches: np.ndarray, entry) -> Tensor:
    """The Gram matrix by two loops; ``entry`` is a function of two patches."""
    return torch.tensor([[entry(p, q) for q in patches] for p in patches], dtype=torch.float64)


def arc_cosine(p: np.ndarray, q: np.ndarray) -> float:
    """(16) for two patches, in plain arithmetic."""
    lengths = math.sqrt(np.vdot(p, p)) * math.sqrt(np.vdot(q, q))
    if lengths == 0:
        return 0.0
    phi = math.acos(max(-1.0, min(1.0, np.vdot(p, q) / lengths)))
    return lengths / math.pi * (math.sin(phi) + (math.pi - phi) * math.cos(phi))
