"""When to stop twicing: with the clean image (the oracle), and without it (SURE).

SURE with the divergence of a *fixed* filter, the trace of the response, fails here: the filter was computed from
the same noise it is to remove. :func:`monte_carlo_sure` probes the whole denoiser, kernel included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkbook.filters import SpectralFilter, twicing_response
from ntkbook.images import psnr, to_image, to_matrix

PROBE = 1 / 20  # length of SURE's probe in standard deviations of the noise


def iteration_grid(largest: int = 10_000, per_decade: int = 24) -> tuple[int, ...]:
    """Whole numbers of iterations from 1 to ``largest``, evenly spaced on a logarithmic scale, without repeats."""
    if largest < 1:
        raise ValueError(f"The largest number of iterations must be 1 or more, not {largest}.")
    count = max(2, round(np.log10(largest) * per_decade) + 1)
    return tuple(int(t) for t in np.unique(np.geomspace(1, largest, count).round()))


def psnr_curve(filter_: SpectralFilter, noisy: Tensor, clean: Tensor, times: Sequence[float]) -> dict[float, float]:
    """PSNR of :math:`z^t` in dB at each t, for the paper's centred images.

    Args:
        filter_: the filter.
        noisy: y, centred, shape (pixels, channels).
        clean: the noiseless image in [0, 1], shape (channels, height, width).
        times: iterations.
    """
    height, width = clean.shape[1:]
    pictures = filter_.iterates(noisy, times)
    return {t: psnr(to_image(picture, height, width) + 0.5, clean) for t, picture in pictures}


def fixed_filter_sure(filter_: SpectralFilter, noisy: Tensor, noise_std: float, iterations: float) -> float:
    r"""Stein's estimate with the divergence of a filter that ignores its own dependence on the noise.

    :math:`\|y - z^t\|^2 - N\sigma^2 + 2\sigma^2 C \sum_i (1 - (1-\lambda_i)^t)`, C channels, as the sum over
    pixels and channels. It leans on the independence that :eq:`eq-ntk-7` assumes, and is wrong without it.
    """
    divergence = noisy.shape[1] * filter_.degrees_of_freedom(iterations)
    residual = (noisy - filter_.apply(noisy, iterations)).double().square().sum().item()
    return residual - noisy.numel() * noise_std**2 + 2 * noise_std**2 * divergence


@dataclass(frozen=True)
class SureCurve:
    """SURE along the iterations.

    Args:
        times: iterations.
        estimates: estimated mean squared error per pixel and channel, one for each t.
        divergences: estimated divergence of the denoiser, one for each t.
    """

    times: tuple[float, ...]
    estimates: tuple[float, ...]
    divergences: tuple[float, ...]

    @property
    def best(self) -> float:
        """The iteration with the least estimate."""
        return self.times[int(np.argmin(self.estimates))]


def sure_probe(noisy: Tensor, seed: int = 0) -> Tensor:
    """SURE's random direction b: independent signs, the shape of ``noisy``, drawn on the CPU."""
    signs = np.random.default_rng(seed).integers(0, 2, tuple(noisy.shape)) * 2.0 - 1.0
    return torch.from_numpy(signs).to(noisy)


@dataclass(frozen=True)
class Analysis:
    """All that SURE needs of a filter and an image, in the filter's eigenvectors; of a batch, with its axes in front.

    Args:
        eigenvalues: of the filter, shape (rank,).
        energy: the image's coefficients, shape (rank, channels).
        along: the probe's coefficients, shape (rank, channels).
        total: the image's sum of squares, shape ().
    """

    eigenvalues: Tensor
    energy: Tensor
    along: Tensor
    total: Tensor

    @classmethod
    def of(cls, filter_: SpectralFilter, image: Tensor, probe: Tensor) -> "Analysis":
        """The analysis of an image and a probe, each of shape (pixels, channels)."""
        energy, along = (filter_.basis.mT @ torch.cat([image, probe], dim=-1)).double().chunk(2, dim=-1)
        return cls(filter_.eigenvalues, energy, along, image.double().square().sum(dim=(-2, -1)))


def stein_estimates(
    analysis: Analysis, shifted: Analysis, entries: int, noise_std: float, times: Sequence[float]
) -> tuple[Tensor, Tensor]:
    r"""SURE through a whole denoiser, from the filters of :math:`y` and of :math:`y + \epsilon b`.

    The divergence is :math:`b^T (D_t(y + \epsilon b) - D_t(y)) / \epsilon` (Ramani, Blu and Unser, 2008) with
    :math:`\epsilon = \sigma/20`.

    Args:
        analysis: of the filter of y, y and b.
        shifted: of the filter of :math:`y + \epsilon b`, that image and b.
        entries: pixels times channels.
        noise_std: standard deviation of the noise in the image's units.
        times: iterations.

    Returns:
        Estimated mean squared errors per pixel and channel, and divergences, each of shape (times, ...).
    """
    grid = torch.tensor(times, dtype=torch.float64, device=analysis.energy.device)
    grid = grid.reshape(-1, *[1] * analysis.eigenvalues.ndim)
    passed, moved = (twicing_response(each.eigenvalues, grid) for each in (analysis, shifted))
    power = analysis.energy.square().sum(dim=-1)
    residual = analysis.total - ((2 * passed - passed**2) * power).sum(dim=-1)  # the eigenvectors are orthonormal
    along = (passed * (analysis.energy * analysis.along).sum(dim=-1)).sum(dim=-1)
    along_shifted = (moved * (shifted.energy * shifted.along).sum(dim=-1)).sum(dim=-1)
    divergences = (along_shifted - along) / (noise_std * PROBE)
    return (residual + 2 * noise_std**2 * divergences) / entries - noise_std**2, divergences


def monte_carlo_sure(
    build: Callable[[Tensor], SpectralFilter],
    noisy: Tensor,
    noise_std: float,
    times: Sequence[float],
    seed: int = 0,
) -> tuple[SureCurve, SpectralFilter]:
    r"""SURE through the whole denoiser, kernel included, with one random probe: :func:`stein_estimates`.

    Only the coefficients in the eigenvectors are needed, so all t cost little more than building the filter twice.

    Args:
        build: from a noisy image to its filter; called on y and on :math:`y + \epsilon b`.
        noisy: y, centred, shape (channels, height, width); nothing is clipped.
        noise_std: standard deviation of the noise in the image's units, positive.
        times: iterations.
        seed: of the probe.

    Returns:
        The :class:`SureCurve`, and the filter of y.

    Raises:
        ValueError: the standard deviation is not a positive number.
    """
    if not 0 < noise_std < np.inf:
        raise ValueError(f"SURE needs a positive standard deviation of the noise, not {noise_std}.")
    probe = sure_probe(noisy, seed)
    moved = noisy + noise_std * PROBE * probe
    # The filter of the moved image is gone when the second is built: the two never share the memory.
    shifted = Analysis.of(build(moved), to_matrix(moved), to_matrix(probe))
    filter_ = build(noisy)
    analysis = Analysis.of(filter_, to_matrix(noisy), to_matrix(probe))
    estimates, divergences = stein_estimates(analysis, shifted, noisy.numel(), noise_std, times)
    return SureCurve(tuple(times), tuple(estimates.tolist()), tuple(divergences.tolist())), filter_
