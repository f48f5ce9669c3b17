"""Landmarks: the patches whose columns of the kernel Nystrom's method uses. They need not be patches of the image.

The kernel compares patches, so a column can belong to any patch. Pixels of the noisy image carry noise into their
columns; the centre of a cluster of patches is an average and carries less.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ntkbook.images import extract_patches
from ntkbook.kernels import PatchKernel
from ntkbook.nystrom import SELECTIONS, select_columns

KINDS = ("centres", *SELECTIONS)
SAMPLE = 32  # patches clustered for each centre, at least
LLOYD_STEPS = 1


def cluster_centres(kernel: PatchKernel, count: int, steps: int = LLOYD_STEPS) -> Tensor:
    """Centres of clusters of patches, by Lloyd's algorithm (k-means).

    The patches lie on a regular grid of pixels, as fine as it must be for about 32 of them for each centre or for all
    there are; every so many of them the first centres.

    Args:
        kernel: the patch kernel, of one image or of a batch, whose images then are clustered apart.
        count: number of centres, between 1 and the number of pixels.
        steps: of Lloyd's algorithm, 0 or more; 0 gives patches of pixels.

    Returns:
        Shape (..., count, channels * size**2). A cluster that loses all its patches keeps its centre.

    Raises:
        ValueError: more centres than pixels are asked for.
    """
    if not 1 <= count <= kernel.pixels:
        raise ValueError(f"The number of centres must be between 1 and {kernel.pixels}, the pixels, not {count}.")
    stride = max(1, math.isqrt(kernel.pixels // (SAMPLE * count)))
    sample = extract_patches(kernel.image, kernel.size, kernel.padding, 0, kernel.image.shape[-2], stride)
    first = torch.linspace(0, sample.shape[-2] - 1, count).long()
    centres = sample[..., first, :]
    for _ in range(steps):
        distances = centres.square().sum(dim=-1)[..., None, :] - sample @ (2 * centres).mT  # less the samples' norms
        nearest = distances.argmin(dim=-1)[..., None, :]
        member = sample.new_zeros(*centres.shape[:-1], sample.shape[-2]).scatter_(-2, nearest, 1)
        size = member.sum(dim=-1, keepdim=True)
        centres = torch.where(size > 0, member @ sample / size.clamp_min(1), centres)
    return centres


@dataclass(frozen=True)
class Landmarks:
    """Which landmarks to use: how they are found, how many, and of what size.

    Args:
        kind: ``"centres"`` of clusters, or pixels chosen as by :func:`ntkbook.nystrom.select_columns`: ``"uniform"``,
            ``"grid"`` or ``"residual"``.
        count: how many, at least 1; an image with fewer pixels has one for each pixel.
        patch_size: side of the patches, odd: the receptive field of the network.

    Raises:
        ValueError: the kind is not known, or there would be none.
    """

    kind: str
    count: int
    patch_size: int = 11

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Unknown kind of landmarks {self.kind!r}; accepted are {', '.join(KINDS)}.")
        if self.count < 1:
            raise ValueError(f"The number of landmarks must be 1 or more, not {self.count}.")

    def choose(self, kernel: PatchKernel, seed: int = 0) -> Callable[[PatchKernel], Tensor]:
        """Choose on one kernel; what comes back gives the landmarks of any kernel on images of the same size.

        Centres stay what they are; pixels stay where they are, and their patches are those of the other image. That
        is what SURE's probe needs.

        Raises:
            ValueError: residual-weighted pixels are asked for of several images at once.
        """
        count = min(self.count, kernel.pixels)
        if self.kind == "centres":
            centres = cluster_centres(kernel, count)
            return lambda _: centres
        if self.kind == "residual":  # depends on the entries of the kernel, so on the image
            images = kernel.image.flatten(0, -4) if kernel.image.ndim > 3 else kernel.image[None]
            if len(images) > 1:
                raise ValueError("Residual-weighted landmarks are chosen for one whole image, not window by window.")
            kernel = replace(kernel, image=images[0], progress=None)
        pixels = select_columns(kernel, count, self.kind, seed)
        return lambda other: other.patches_at(pixels)
