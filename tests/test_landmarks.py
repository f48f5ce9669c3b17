"""Landmarks: centres of clusters of patches, and pixels."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from tiny_images import posterised_image, random_image, smooth_image
from torch import Tensor

from ntkbook import checks
from ntkbook.kernels import PatchKernel
from ntkbook.landmarks import KINDS, SAMPLE, Landmarks, cluster_centres
from ntkbook.nystrom import select_columns


def textured(height: int = 24, width: int = 20, seed: int = 0) -> Tensor:
    """Waves with some noise: patches fall into no clear clusters."""
    return smooth_image(2, height, width) - 0.5 + 0.2 * random_image(2, height, width, seed)


def every_patch(kernel: PatchKernel) -> Tensor:
    """What is clustered in an image as small as these."""
    return kernel.patches_at(torch.arange(kernel.pixels))


def quantisation_error(sample: Tensor, centres: Tensor) -> float:
    """Mean squared distance of a patch to its nearest centre, by all the differences."""
    return (sample[:, None] - centres).square().sum(dim=-1).min(dim=1).values.mean().item()


# --- centres of clusters


def test_without_a_step_centres_are_patches_of_the_image():
    kernel = PatchKernel(textured(), 3)
    same = (cluster_centres(kernel, 10, steps=0)[:, None] == every_patch(kernel)).all(dim=-1)
    assert (same.sum(dim=1) == 1).all()
    assert len(same.float().argmax(dim=1).unique()) == 10  # ten different pixels


def test_a_step_is_lloyd_s_by_loops():
    kernel = PatchKernel(textured(), 3)
    before, after = (cluster_centres(kernel, 6, steps) for steps in (2, 3))
    members = [[] for _ in range(6)]
    for patch in every_patch(kernel):
        distances = [(patch - centre).square().sum().item() for centre in before]
        members[distances.index(min(distances))].append(patch)
    assert all(members)
    checks.identity("Lloyd", after, torch.stack([sum(cluster) / len(cluster) for cluster in members]))


def test_one_centre_is_the_mean_of_a_regular_grid_of_patches():
    kernel = PatchKernel(textured(24, 20), 3)
    stride = math.isqrt(480 // SAMPLE)
    assert stride == 3
    pixels = torch.cartesian_prod(torch.arange(0, 24, stride), torch.arange(0, 20, stride)) @ torch.tensor([20, 1])
    assert len(pixels) >= SAMPLE
    checks.identity("Lloyd", cluster_centres(kernel, 1)[0], kernel.patches_at(pixels).mean(dim=0))


@pytest.mark.parametrize("image", [textured(), posterised_image(2, 24, 20)], ids=["textured", "posterised"])
@pytest.mark.parametrize("count", [4, 12, 40])
def test_steps_never_increase_the_quantisation_error(image, count):
    kernel = PatchKernel(image, 3)
    errors = [quantisation_error(every_patch(kernel), cluster_centres(kernel, count, steps)) for steps in range(8)]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(errors))
    assert errors[1] < 0.9 * errors[0]


def test_a_batch_is_clustered_image_by_image():
    images = torch.stack([textured(seed=seed) for seed in range(3)])
    together = cluster_centres(PatchKernel(images, 3), 9)
    for centres, image in zip(together, images, strict=True):
        checks.identity("Lloyd", centres, cluster_centres(PatchKernel(image, 3), 9))


def test_flat_regions_are_found_exactly():
    """With 1x1 patches and three colours the centres are the colours."""
    colours = torch.tensor([[0.1, -0.4], [0.3, 0.2], [-0.25, 0.45]], dtype=torch.float64)
    which = torch.arange(12).repeat_interleave(12).reshape(12, 12) // 4
    kernel = PatchKernel(colours.T[:, which].contiguous(), 1)
    centres = cluster_centres(kernel, 3)
    order = (centres[:, None] - colours).square().sum(dim=-1).argmin(dim=0)
    assert sorted(order.tolist()) == [0, 1, 2]
    checks.identity("Lloyd", centres[order], colours)


def test_a_cluster_without_patches_keeps_its_centre():
    """One colour alone: all patches go to one of the equal centres, and the others are not lost."""
    centres = cluster_centres(PatchKernel(torch.full((1, 8, 8), 0.25).double(), 3), 5)
    assert centres.isfinite().all()
    checks.identity("Lloyd", centres, torch.full((5, 9), 0.25).double())


@pytest.mark.parametrize("size", [(5, 6), (7, 59), (31, 32)])
def test_as_many_centres_as_pixels(size):
    kernel = PatchKernel(textured(*size), 3)
    checks.identity("Lloyd", cluster_centres(kernel, kernel.pixels), every_patch(kernel))
    assert cluster_centres(kernel, 1).shape == (1, 18)


@pytest.mark.parametrize("count", [0, -1, 31])
def test_more_centres_than_pixels_are_refused(count):
    with pytest.raises(ValueError, match=f"between 1 and 30, .*, not {count}"):
        cluster_centres(PatchKernel(textured(5, 6), 3), count)


# --- Landmarks


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("medoids", 5), "Unknown kind of landmarks 'medoids'; accepted are centres, uniform, grid, residual"),
        (("centres", 0), "number of landmarks must be 1 or more, not 0"),
        (("uniform", -3), "number of landmarks must be 1 or more, not -3"),
    ],
)
def test_landmarks_refuse(arguments, says):
    with pytest.raises(ValueError, match=says):
        Landmarks(*arguments)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_pixels_follow_the_other_image(kind):
    kernel = PatchKernel(textured(), 3)
    other = dataclasses.replace(kernel, image=textured(seed=1))
    patches = Landmarks(kind, 20).choose(kernel, seed=3)
    pixels = select_columns(kernel, 20, kind, seed=3)
    assert torch.equal(patches(kernel), kernel.patches_at(pixels))
    assert torch.equal(patches(other), other.patches_at(pixels))


def test_centres_stay_what_they_are():
    kernel = PatchKernel(textured(), 3)
    patches = Landmarks("centres", 20).choose(kernel, seed=3)
    assert torch.equal(patches(kernel), cluster_centres(kernel, 20))
    assert torch.equal(patches(dataclasses.replace(kernel, image=textured(seed=1))), patches(kernel))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_with_fewer_pixels_has_one_landmark_for_each(kind):
    kernel = PatchKernel(textured(4, 5), 3)
    every = every_patch(kernel)
    found = Landmarks(kind, 500).choose(kernel)(kernel)
    assert found.shape == every.shape
    distances = torch.cdist(found, every)
    assert distances.min(dim=0).values.max() < 1e-6


@pytest.mark.parametrize("kind", ["centres", "uniform", "grid"])
def test_landmarks_of_a_batch_are_those_of_each_image(kind):
    images = torch.stack([textured(seed=seed) for seed in range(3)])
    kernel = PatchKernel(images, 3)
    together = Landmarks(kind, 10).choose(kernel, seed=1)(kernel)
    for found, image in zip(together, images, strict=True):
        alone = PatchKernel(image, 3)
        checks.identity("73", found, Landmarks(kind, 10).choose(alone, seed=1)(alone))


def test_residual_landmarks_are_for_one_image():
    image, landmarks = textured(), Landmarks("residual", 10)
    one = PatchKernel(image[None], 3)
    alone = PatchKernel(image, 3)
    assert torch.equal(landmarks.choose(one, 2)(one)[0], landmarks.choose(alone, 2)(alone))
    with pytest.raises(ValueError, match="chosen for one whole image, not window by window"):
        landmarks.choose(PatchKernel(torch.stack([image, image]), 3))
