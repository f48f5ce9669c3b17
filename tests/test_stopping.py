"""Where to stop: the grid of iterations, and SURE with and without the filter's dependence on the noise."""

import functools
import math

import numpy as np
import pytest
import torch
from tiny_images import random_image, smooth_image
from torch import Tensor

from ntkbook import checks
from ntkbook.filters import SpectralFilter
from ntkbook.images import centre, psnr, to_image, to_matrix
from ntkbook.kernels import PatchKernel
from ntkbook.nystrom import nystrom_filter
from ntkbook.stopping import (
    PROBE,
    Analysis,
    SureCurve,
    fixed_filter_sure,
    iteration_grid,
    monte_carlo_sure,
    psnr_curve,
    stein_estimates,
    sure_probe,
)

STD = 0.1
TIMES = (1, 10, 100, 1000)
CLEAN = centre(smooth_image(1, 8, 8))


def build(image: Tensor) -> SpectralFilter:
    """The whole filter of an image, all columns, as a chapter builds it."""
    kernel = PatchKernel(image, 3)
    return nystrom_filter(kernel, kernel.patches_at(torch.arange(kernel.pixels))).scaled()


def noisy_image(seed: int) -> Tensor:
    return CLEAN + STD * torch.from_numpy(np.random.default_rng(seed).standard_normal(CLEAN.shape))


def squared_error(filter_: SpectralFilter, noisy: Tensor, t: float) -> float:
    return (filter_.apply(to_matrix(noisy), t) - to_matrix(CLEAN)).square().sum().item()


def standard_errors_from_zero(differences: list) -> np.ndarray:
    differences = np.array(differences)
    return differences.mean(axis=0) / (differences.std(axis=0, ddof=1) / math.sqrt(len(differences)))


@functools.cache
def both_sures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Monte Carlo SURE, fixed-filter SURE and the true squared error, (draws, times), per pixel and channel."""
    whole, fixed, true = [], [], []
    for seed in range(200):
        noisy = noisy_image(seed)
        curve, filter_ = monte_carlo_sure(build, noisy, STD, TIMES, seed=seed)
        whole.append(curve.estimates)
        fixed.append([fixed_filter_sure(filter_, to_matrix(noisy), STD, t) / noisy.numel() for t in TIMES])
        true.append([squared_error(filter_, noisy, t) / noisy.numel() for t in TIMES])
    return np.array(whole), np.array(fixed), np.array(true)


def test_sure_through_the_whole_denoiser_is_unbiased():
    whole, _, true = both_sures()
    assert (np.abs(standard_errors_from_zero(whole - true)) < 4).all()
    # Sharp enough to mean something: the standard error is a few per cent of the mean squared error.
    assert ((whole - true).std(axis=0) / math.sqrt(len(whole)) < 0.05 * true.mean(axis=0)).all()


def test_fixed_filter_sure_is_wrong_for_a_filter_of_the_same_noise():
    _, fixed, true = both_sures()
    assert (standard_errors_from_zero(fixed - true)[1:] < -10).all()
    assert fixed.mean(axis=0)[-2] < 0.7 * true.mean(axis=0)[-2]


def test_fixed_filter_sure_is_right_for_an_independent_filter():
    filter_ = build(noisy_image(10_000))
    differences = []
    for seed in range(200):
        noisy = noisy_image(seed)
        estimates = [fixed_filter_sure(filter_, to_matrix(noisy), STD, t) for t in TIMES]
        differences.append([e - squared_error(filter_, noisy, t) for e, t in zip(estimates, TIMES, strict=True)])
    assert (np.abs(standard_errors_from_zero(differences)) < 4).all()


def test_fixed_filter_sure_is_stein_s_formula_with_matrices():
    image = random_image(2, 5, 6)
    filter_, noisy = build(image), to_matrix(image)
    kernel = PatchKernel(image, 3).dense()
    identity = torch.eye(30, dtype=torch.float64)
    response = identity - torch.linalg.matrix_power(identity - kernel / torch.linalg.eigvalsh(kernel).max(), 17)
    expected = (noisy - response @ noisy).square().sum() - 60 * STD**2 + 2 * STD**2 * 2 * response.trace()
    checks.identity("7", fixed_filter_sure(filter_, noisy, STD, 17), expected)


def test_monte_carlo_sure_is_its_formula_step_by_step():
    """With all columns, on two channels: two whole denoisings and their difference along the probe."""
    noisy = random_image(2, 6, 6, seed=3)
    curve, filter_ = monte_carlo_sure(build, noisy, STD, TIMES, seed=5)
    probe, step = sure_probe(noisy, 5), STD / 20
    for t, estimate, divergence in zip(TIMES, curve.estimates, curve.divergences, strict=True):
        here = filter_.apply(to_matrix(noisy), t)
        there = build(noisy + step * probe).apply(to_matrix(noisy + step * probe), t)
        moved = (to_matrix(probe) * (there - here)).sum() / step
        checks.identity("7", divergence, moved, rtol=1e-8)
        residual = (here - to_matrix(noisy)).square().sum()
        checks.identity("7", estimate, residual / 72 - STD**2 + 2 * STD**2 * moved / 72, rtol=1e-8)


def analyses(images: Tensor, probes: Tensor) -> tuple[Analysis, Analysis]:
    """Of the filters of an image, or of each of a batch, and of the image moved along its probe."""
    found = []
    for noisy in (images, images + STD * PROBE * probes):
        kernel = PatchKernel(noisy, 3)
        filter_ = nystrom_filter(kernel, kernel.patches_at(torch.arange(0, kernel.pixels, 3))).scaled()
        found.append(Analysis.of(filter_, noisy.flatten(-2).mT, probes.flatten(-2).mT))
    return found[0], found[1]


def test_stein_estimates_of_a_batch_are_those_of_each_image():
    """One of them has a filter of rank 1, one is black."""
    images = torch.stack([random_image(2, 6, 6, seed) for seed in range(4)])
    images[2], images[3] = 0.3, 0
    probes = torch.stack([sure_probe(images[0], seed) for seed in range(4)])
    estimates, divergences = stein_estimates(*analyses(images, probes), 72, STD, TIMES)
    assert estimates.shape == divergences.shape == (4, 4)  # times, images
    for index in range(4):
        alone, moved = stein_estimates(*analyses(images[index], probes[index]), 72, STD, TIMES)
        torch.testing.assert_close(estimates[:, index], alone, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(divergences[:, index], moved, rtol=1e-8, atol=1e-8)
    assert (estimates.amin(dim=1) < estimates.amax(dim=1)).all()


def test_divergence_of_a_filter_that_ignores_the_image_is_its_trace_on_average():
    filter_ = build(noisy_image(0))
    divergences = [
        monte_carlo_sure(lambda _: filter_, noisy_image(1), STD, TIMES, seed)[0].divergences for seed in range(300)
    ]
    expected = np.array([filter_.degrees_of_freedom(t) for t in TIMES])
    assert (np.abs(standard_errors_from_zero(np.array(divergences) - expected)) < 4).all()


def test_the_filter_returned_is_that_of_the_noisy_image():
    noisy = noisy_image(2)
    _, filter_ = monte_carlo_sure(build, noisy, STD, TIMES)
    checks.identity("6", filter_.apply(to_matrix(noisy), 9), build(noisy).apply(to_matrix(noisy), 9))


def test_best_is_the_iteration_of_the_least_estimate():
    assert SureCurve((1, 5, 25), (0.3, 0.1, 0.2), (1, 2, 3)).best == 5
    whole, _, _ = both_sures()
    curve, _ = monte_carlo_sure(build, noisy_image(4), STD, TIMES, seed=4)
    assert curve.times == TIMES
    assert curve.estimates == pytest.approx(whole[4])
    assert curve.best == TIMES[int(whole[4].argmin())]


@pytest.mark.parametrize("std", [0, -0.1, math.nan, math.inf])
def test_sure_refuses_a_standard_deviation_that_is_not_positive(std):
    with pytest.raises(ValueError, match=f"positive standard deviation of the noise, not {std}"):
        monte_carlo_sure(build, CLEAN, std, TIMES)


def test_probe_is_signs_by_seed():
    probe = sure_probe(CLEAN.float(), 1)
    assert probe.dtype == torch.float32
    assert probe.shape == CLEAN.shape
    assert set(probe.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(probe, sure_probe(CLEAN.float(), 1))
    assert not torch.equal(probe, sure_probe(CLEAN.float(), 2))


def test_psnr_curve_is_the_psnr_of_each_picture():
    clean = smooth_image(3, 7, 9)
    noisy = centre(clean) + STD * random_image(3, 7, 9)
    filter_ = build(noisy)
    curve = psnr_curve(filter_, to_matrix(noisy), clean, (1, 2.5, 30))
    assert list(curve) == [1, 2.5, 30]
    for t, value in curve.items():
        picture = to_image(filter_.apply(to_matrix(noisy), t), 7, 9) + 0.5
        assert value == pytest.approx(psnr(picture, clean), abs=1e-9)


@pytest.mark.parametrize("largest", [1, 2, 37, 10_000, 10**7])
@pytest.mark.parametrize("per_decade", [1, 16, 24])
def test_iteration_grid_covers_its_range_without_repeats(largest, per_decade):
    grid = iteration_grid(largest, per_decade)
    assert grid[0] == 1
    assert grid[-1] == largest
    assert all(isinstance(t, int) for t in grid)
    assert list(grid) == sorted(set(grid))


def test_iteration_grid_is_evenly_spaced_on_a_logarithmic_scale():
    grid = iteration_grid(10_000, 24)
    ratios = np.diff(np.log10([t for t in grid if t >= 1000]))
    assert ratios == pytest.approx(1 / 24, rel=0.02)
    assert iteration_grid(100, 1) == (1, 10, 100)


@pytest.mark.parametrize("largest", [0, -5])
def test_iteration_grid_refuses_an_empty_range(largest):
    with pytest.raises(ValueError, match=f"must be 1 or more, not {largest}"):
        iteration_grid(largest)
