"""`restore`: whole images and windows against a loop of their own, and what SURE chooses."""

import math
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from tiny_images import smooth_image
from torch import Tensor

from ntkbook.images import add_noise, centre, psnr, read, to_image, to_matrix, uncentre
from ntkbook.kernels import PatchKernel
from ntkbook.landmarks import Landmarks
from ntkbook.nystrom import nystrom_filter
from ntkbook.restoration import LARGEST_ITERATION, PER_DECADE, RECIPES, Recipe, Restoration, restore
from ntkbook.stopping import PROBE, Analysis, iteration_grid, stein_estimates, sure_probe
from ntkbook.windows import Windows

STD = 25 / 255
GRID = iteration_grid(LARGEST_ITERATION, PER_DECADE)
CENTRES, PIXELS = Landmarks("centres", 16, 3), Landmarks("uniform", 64, 7)


def photograph(top: int = 40, left: int = 170, side: int = 96) -> Tensor:
    whole = read(Path(skimage.__file__).parent / "data" / "astronaut.png")
    return whole[:, top : top + side, left : left + side]


def noisy_photograph(**place: int) -> Tensor:
    return add_noise(photograph(**place), 25, 0)


def small_noisy(height: int = 40, width: int = 52, channels: int = 2) -> Tensor:
    return add_noise(smooth_image(channels, height, width).float(), 25, 0)


def filtered(crop: Tensor, landmarks: Landmarks, t: float, seed: int = 0) -> Tensor:
    """One centred image by one filter, from the package's parts."""
    kernel = PatchKernel(crop, landmarks.patch_size)
    filter_ = nystrom_filter(kernel, landmarks.choose(kernel, seed)(kernel)).scaled()
    return to_image(filter_.apply(to_matrix(crop), t), *crop.shape[1:])


def window_estimates(noisy: Tensor, windows: Windows, landmarks: Landmarks, seed: int = 0) -> Tensor:
    """SURE for each window filtered alone, at each number of iterations, shape (windows, times)."""
    height, width = windows.shape
    y = centre(noisy)
    probe = sure_probe(y, seed)
    found = []
    for top, left in windows.origins:
        here, along = (each[:, top : top + height, left : left + width] for each in (y, probe))
        there = here + STD * PROBE * along
        kernels = [PatchKernel(image, landmarks.patch_size) for image in (here, there)]
        choice = landmarks.choose(kernels[0], seed)
        analyses = [
            Analysis.of(nystrom_filter(kernel, choice(kernel)).scaled(), to_matrix(image), to_matrix(along))
            for kernel, image in zip(kernels, (here, there), strict=True)
        ]
        found.append(stein_estimates(*analyses, here.numel(), STD, GRID)[0])
    return torch.stack(found)


def same(found: Restoration, expected: Restoration, atol: float) -> None:
    torch.testing.assert_close(found.image, expected.image, rtol=0, atol=atol)
    assert torch.equal(found.landmarks, expected.landmarks)
    assert torch.equal(found.iterations, expected.iterations)


# --- the filter behind it, with the iterations given


@pytest.mark.parametrize("t", [0, 1, 2.5, 100])
@pytest.mark.parametrize("landmarks", [CENTRES, PIXELS, Landmarks("residual", 50, 5)], ids=lambda each: each.kind)
def test_without_windows_it_is_the_filter_of_the_whole_image(landmarks, t):
    noisy = small_noisy()
    found = restore(noisy, None, t, Recipe((landmarks,), window=None), seed=2)
    torch.testing.assert_close(found.image, uncentre(filtered(centre(noisy), landmarks, t, 2)), rtol=0, atol=1e-5)
    assert found.windows.grid == found.iterations.shape == found.landmarks.shape == (1, 1)
    assert (found.iterations, found.landmarks, found.expected_psnr) == (t, 0, None)


@pytest.mark.parametrize("landmarks", [CENTRES, PIXELS, Landmarks("grid", 50, 5)], ids=lambda each: each.kind)
@pytest.mark.parametrize(("window", "overlap"), [(20, 7), (24, 0), (45, 3)])
def test_with_windows_it_is_a_loop_over_crops(landmarks, window, overlap):
    noisy, t = small_noisy(), 60
    found = restore(noisy, None, t, Recipe((landmarks,), window, overlap), seed=1)
    windows = Windows(40, 52, window, overlap)
    height, width = windows.shape
    weight = [[min(i + 1, height - i) * min(j + 1, width - j) for j in range(width)] for i in range(height)]
    weight = torch.tensor(weight, dtype=torch.float64)
    total, weights = torch.zeros(2, 40, 52).double(), torch.zeros(40, 52).double()
    for top, left in windows.origins:
        here = (slice(top, top + height), slice(left, left + width))
        crop = centre(noisy)[:, *here]
        total[:, *here] += weight * filtered(crop, landmarks, t, seed=1)
        weights[here] += weight
    torch.testing.assert_close(found.image.double(), total / weights + 0.5, rtol=0, atol=1e-5)
    assert found.windows == windows
    assert torch.equal(found.iterations, torch.full(windows.grid, 60.0).double())
    assert torch.equal(found.landmarks, torch.zeros(windows.grid, dtype=torch.int64))


# --- what SURE chooses


def test_one_choice_for_each_window():
    noisy = noisy_photograph()
    found = restore(noisy, STD, recipe=Recipe((CENTRES,), 40, 12))
    assert found.windows == Windows(96, 96, 40, 12)
    assert found.windows.grid == found.iterations.shape == found.landmarks.shape == (3, 3)
    assert set(found.iterations.flatten().tolist()) <= set(GRID)
    assert len(found.iterations.unique()) > 1
    estimates = window_estimates(noisy, found.windows, CENTRES)
    for t, curve in zip(found.iterations.flatten().tolist(), estimates, strict=True):
        assert curve[GRID.index(t)] == pytest.approx(curve.min().item(), abs=1e-7)


@pytest.fixture(scope="module")
def candidates() -> tuple[Restoration, Restoration, Restoration]:
    """Four windows side by side with two candidates, and with each of them alone."""
    recipes = (Recipe(kinds, 48, 0) for kinds in ((CENTRES, PIXELS), (CENTRES,), (PIXELS,)))
    return tuple(restore(noisy_photograph(), STD, recipe=recipe) for recipe in recipes)


def test_of_two_candidates_each_window_has_the_one_that_sure_prefers(candidates):
    both, *alone = candidates
    windows = both.windows
    estimates = [window_estimates(noisy_photograph(), windows, each).min(dim=1).values for each in (CENTRES, PIXELS)]
    assert set(both.landmarks.flatten().tolist()) == {0, 1}
    for index, (top, left) in enumerate(windows.origins):
        chosen = both.landmarks.flatten()[index].item()
        assert estimates[chosen][index] < estimates[1 - chosen][index] + 1e-7
        assert both.iterations.flatten()[index] == alone[chosen].iterations.flatten()[index]
        here = (slice(None), slice(top, top + 48), slice(left, left + 48))
        torch.testing.assert_close(both.image[here], alone[chosen].image[here], rtol=0, atol=1e-5)
        assert (both.image[here] - alone[1 - chosen].image[here]).abs().max() > 1e-3


def test_a_worse_candidate_in_between_changes_nothing(candidates):
    three = restore(noisy_photograph(), STD, recipe=Recipe((CENTRES, Landmarks("uniform", 1, 3), PIXELS), 48, 0))
    assert torch.equal(three.landmarks, 2 * candidates[0].landmarks)
    assert torch.equal(three.iterations, candidates[0].iterations)


def test_expected_psnr_is_sure_s_average_over_windows_side_by_side(candidates):
    both, *_ = candidates
    estimates = [window_estimates(noisy_photograph(), both.windows, each) for each in (CENTRES, PIXELS)]
    best = torch.cat(estimates, dim=1).min(dim=1).values
    assert both.expected_psnr == pytest.approx(-10 * math.log10(best.mean()), abs=1e-3)
    assert all(both.expected_psnr >= each.expected_psnr - 1e-3 for each in candidates[1:])


@pytest.mark.parametrize(("recipe", "gain"), [("fast", 7), ("best", 7.3)])
@pytest.mark.parametrize("place", [{"top": 40, "left": 170}, {"top": 300, "left": 60}], ids=["face", "suit"])
def test_a_photograph_becomes_better_by_about_what_sure_expects(recipe, gain, place):
    clean, noisy = photograph(**place), noisy_photograph(**place)
    found = restore(noisy, STD, recipe=RECIPES[recipe])
    reached = -10 * math.log10((found.image - clean).double().square().mean())
    assert psnr(found.image, clean) > psnr(noisy, clean) + gain
    assert found.expected_psnr == pytest.approx(reached, abs=1)


def test_static_comes_back_as_it_was():
    static = torch.from_numpy(np.random.default_rng(0).random((1, 60, 50), dtype=np.float32))
    for stages in (1, 2):
        found = restore(static, 1e-3, recipe=Recipe((CENTRES,), 24, 8, stages))
        torch.testing.assert_close(found.image, static, rtol=0, atol=1e-6)
        assert (found.landmarks == -1).all()
        assert not found.iterations.any()
        assert found.expected_psnr == pytest.approx(60, abs=0.02)


def test_only_some_windows_are_left_as_they_were():
    """Half of the picture is static: nothing to average there."""
    picture = smooth_image(1, 48, 96).float()
    picture[..., 48:] = torch.from_numpy(np.random.default_rng(0).random((48, 48), dtype=np.float32))
    noisy = add_noise(picture, 5, 1)
    found = restore(noisy, 5 / 255, recipe=Recipe((Landmarks("uniform", 256, 5),), 48, 0))
    assert found.landmarks.tolist() == [[0, -1]]
    assert found.iterations[0, 1] == 0
    torch.testing.assert_close(found.image[..., 48:], noisy[..., 48:], rtol=0, atol=1e-6)
    assert psnr(found.image[..., :48], picture[..., :48]) > psnr(noisy[..., :48], picture[..., :48]) + 1


@pytest.mark.parametrize("iterations", [None, 0])
def test_without_noise_the_picture_itself_comes_back(iterations):
    picture = photograph(side=60)
    found = restore(picture, 0, iterations, Recipe((CENTRES,), 40, 4))
    if iterations is None:
        assert torch.equal(found.image, picture)
        assert (found.landmarks == -1).all()
        assert not found.iterations.any()
        assert found.iterations.shape == found.windows.grid == (2, 2)
        assert found.expected_psnr == math.inf
    else:  # the noise level serves SURE alone
        torch.testing.assert_close(found.image, torch.full_like(picture, 0.5))


# --- a second stage


@pytest.mark.parametrize("window", [None, 48])
@pytest.mark.parametrize("kinds", [(CENTRES,), (PIXELS, CENTRES)], ids=len)
def test_sure_does_not_find_a_second_stage_worse(window, kinds):
    """Exactly so for windows side by side, where SURE of the picture is the mean of theirs."""
    first, second = (restore(noisy_photograph(), STD, recipe=Recipe(kinds, window, 0, stages)) for stages in (1, 2))
    assert second.expected_psnr >= first.expected_psnr - 1e-3
    kept = second.landmarks < len(kinds)  # windows that stay with the first stage
    assert torch.equal(second.landmarks[kept], first.landmarks[kept])
    assert torch.equal(second.iterations[kept], first.iterations[kept])
    assert not kept.all()
    assert second.landmarks.max() < 2 * len(kinds)


@pytest.mark.parametrize("window", [24, 40])
def test_with_overlap_a_second_stage_costs_at_most_a_twentieth_of_a_decibel(window):
    """A blend is not the sum of its windows, so here SURE of the picture may fall; by very little."""
    recipes = (Recipe((CENTRES, PIXELS), window, window // 3, stages) for stages in (1, 2))
    first, second = (restore(noisy_photograph(), STD, recipe=recipe) for recipe in recipes)
    assert second.expected_psnr >= first.expected_psnr - 0.05


def test_the_second_stage_filters_the_noisy_image_by_the_kernel_of_the_estimate():
    noisy = noisy_photograph(side=64)
    first, second = (restore(noisy, STD, recipe=Recipe((CENTRES,), None, 0, stages)) for stages in (1, 2))
    assert second.landmarks.item() == 1
    kernel = PatchKernel(centre(first.image), CENTRES.patch_size)
    filter_ = nystrom_filter(kernel, CENTRES.choose(kernel)(kernel)).scaled()
    expected = to_image(filter_.apply(to_matrix(centre(noisy)), second.iterations.item()), 64, 64)
    torch.testing.assert_close(second.image, uncentre(expected), rtol=0, atol=1e-4)
    assert (second.image - first.image).abs().max() > 1e-2


# --- the same each time, however it is cut into batches


@pytest.mark.parametrize("recipe", [Recipe((PIXELS, CENTRES), 40, 12, 2), RECIPES["fast"]], ids=["two", "fast"])
def test_the_same_twice_and_in_batches_of_any_size(recipe, monkeypatch):
    noisy = noisy_photograph()
    before = noisy.clone()
    first = restore(noisy, STD, recipe=recipe, seed=3)
    assert torch.equal(noisy, before)
    same(restore(noisy, STD, recipe=recipe, seed=3), first, atol=0)
    sizes, chunks = [], Windows.chunks
    monkeypatch.setattr(Windows, "chunks", lambda self, count: sizes.append(count) or chunks(self, count))
    for entries in (1, 2**26):
        monkeypatch.setattr("ntkbook.kernels.TILE_ENTRIES", entries)
        same(restore(noisy, STD, recipe=recipe, seed=3), first, atol=1e-4)
    assert min(sizes) == 1
    assert max(sizes) >= 9


def test_the_seed_decides():
    noisy = noisy_photograph(side=60)
    recipe = Recipe((PIXELS,), 40, 12)
    first, other = (restore(noisy, None, 50, recipe, seed) for seed in (0, 1))
    assert (first.image - other.image).abs().max() > 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("recipe", [Recipe((PIXELS, CENTRES), 40, 12, 2), *RECIPES.values()])
def test_a_gpu_gives_the_same_picture(recipe):
    noisy = noisy_photograph()
    found = restore(noisy.cuda(), STD, recipe=recipe)
    expected = restore(noisy, STD, recipe=recipe)
    assert found.image.is_cuda
    assert found.expected_psnr == pytest.approx(expected.expected_psnr, abs=0.05)
    assert (found.image.cpu() - expected.image).square().mean() < 1e-5
