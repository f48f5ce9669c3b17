"""Filters: twicing with a fixed affinity matrix, in closed form and step by step, and what it costs and gains.

A filter here is a positive semidefinite matrix known through its eigenpairs. Twicing acts on each eigenvector
alone, so any number of iterations is one line, and so are the bias, the variance and the degrees of freedom.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Basis(Protocol):
    """Orthonormal columns, shape (..., pixels, rank): a tensor, or anything that can be multiplied like one."""

    @property
    def mT(self) -> "Basis":
        """The transpose."""

    def __matmul__(self, other: Tensor) -> Tensor:
        """The product with a tensor."""


def twicing(filter_matrix: Tensor, noisy: Tensor, iterations: int) -> Tensor:
    r"""Twicing step by step, :eq:`eq-ntk-5`: :math:`z^{t+1} = z^t + W(y - z^t)` from :math:`z^0 = 0`.

    Gradient descent on a wide network is the same with :math:`W = \eta\Theta`: :eq:`eq-ntk-9`, and for each channel of
    the output :eq:`eq-ntk-70`.

    Args:
        filter_matrix: W, shape (pixels, pixels), or any object with ``@``.
        noisy: y, shape (pixels, channels).
        iterations: number of steps, 0 or more.

    Returns:
        :math:`z^t`, shape (pixels, channels).
    """
    estimate = torch.zeros_like(noisy)
    for _ in range(iterations):
        estimate = estimate + filter_matrix @ (noisy - estimate)
    return estimate


def twicing_response(eigenvalues: Tensor, iterations: float | Tensor) -> Tensor:
    r"""What ``iterations`` steps of twicing pass of each eigenvector: :math:`1 - (1 - \lambda)^t`, from :eq:`eq-ntk-6`.

    Args:
        eigenvalues: :math:`\lambda` in [0, 2), any shape; one that exceeds 1 by rounding counts as 1.
        iterations: t, 0 or more; whole when an eigenvalue exceeds 1. One number, or a tensor that broadcasts
            against the eigenvalues.

    Returns:
        Responses, the shape of ``eigenvalues`` (broadcast with ``iterations``), exact also for eigenvalues near 0.

    Raises:
        ValueError: an eigenvalue lies outside [0, 2), t is negative or infinite, or is fractional
            with an eigenvalue over 1.
    """
    if eigenvalues.numel() and not (eigenvalues.min() >= 0 and eigenvalues.max() < 2):
        lowest, highest = eigenvalues.min().item(), eigenvalues.max().item()
        raise ValueError(
            f"Twicing needs eigenvalues in [0, 2), not from {lowest:.3g} to {highest:.3g}: scale the filter."
        )
    times = torch.as_tensor(iterations, dtype=eigenvalues.dtype, device=eigenvalues.device)
    if not ((times >= 0) & times.isfinite()).all():
        raise ValueError(f"The number of iterations must be finite and 0 or more, not {iterations}.")
    over = eigenvalues > 1 + 8 * torch.finfo(eigenvalues.dtype).eps
    if over.any() and (times != times.floor()).any():
        raise ValueError(f"With eigenvalues above 1 the number of iterations must be whole, not {iterations}.")
    # log1p and expm1 keep all digits where (1 - lambda)**t would round 1 - lambda to 1.
    size = torch.where(over, torch.log(eigenvalues - 1), torch.log1p(-eigenvalues.clamp_max(1)))
    power = torch.where(times == 0, 0.0, times * size)  # 0 times minus infinity is 0 here
    return torch.where(over & (times % 2 == 1), 1 + torch.exp(power), -torch.expm1(power))


@dataclass(frozen=True)
class SpectralFilter:
    """A positive semidefinite filter known through eigenvalues and orthonormal eigenvectors.

    What lies outside the span of the eigenvectors has eigenvalue 0 and never passes. It can be a batch of filters:
    ``scaled``, ``response`` and ``apply`` then work on each, with the batch's axes in front of every shape.

    Args:
        eigenvalues: shape (rank,), float64, in [0, 2), largest first.
        basis: orthonormal eigenvectors, shape (pixels, rank): a tensor or a streamed basis.
    """

    eigenvalues: Tensor
    basis: Tensor | Basis

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> "SpectralFilter":
        """The filter of a symmetric positive semidefinite matrix, shape (pixels, pixels), by its eigendecomposition."""
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        return cls(eigenvalues.flip(0).clamp_min(0).double(), vectors.flip(1))

    def scaled(self, largest: float = 1.0) -> "SpectralFilter":
        """The same eigenvectors with the eigenvalues scaled so that the largest is ``largest`` (Appendix G: 1).

        A zero filter, such as the one of a black image, stays as it is.
        """
        top = self.eigenvalues[..., :1]
        return replace(self, eigenvalues=self.eigenvalues / torch.where(top > 0, top / largest, 1.0))

    def response(self, iterations: float | Tensor) -> Tensor:
        """:func:`twicing_response` of this filter's eigenvalues, shape (rank,)."""
        return twicing_response(self.eigenvalues, iterations)

    def apply(self, noisy: Tensor, iterations: float | Tensor) -> Tensor:
        r"""Twicing in closed form, :eq:`eq-ntk-6`: :math:`z^t = \sum_i (1-(1-\lambda_i)^t)(v_i^T y) v_i`.

        Args:
            noisy: y, shape (pixels, channels).
            iterations: t, 0 or more; for a batch one number, or a tensor (..., 1).

        Returns:
            :math:`z^t`, shape (pixels, channels).
        """
        return self.synthesis(self.basis.mT @ noisy, iterations)

    def synthesis(self, energy: Tensor, iterations: float | Tensor) -> Tensor:
        """:meth:`apply` for an image whose coefficients in the eigenvectors, (rank, channels), are known."""
        return self.basis @ (self.response(iterations).to(energy.dtype)[..., None] * energy)

    def iterates(self, noisy: Tensor, times: Sequence[float], memory: int = 2**28) -> Iterator[tuple[float, Tensor]]:
        """``(t, z^t)`` for many t, several at a time in one product, in at most ``memory`` bytes of pictures."""
        energy = self.basis.mT @ noisy
        together = max(1, memory // (noisy.numel() * noisy.element_size()))
        for start in range(0, len(times), together):
            group = times[start : start + together]
            passed = torch.stack([self.response(t) for t in group], dim=1).to(noisy.dtype)
            coefficients = passed[:, :, None] * energy[:, None, :]
            pictures = self.basis @ coefficients.flatten(1)
            yield from zip(group, pictures.unflatten(1, coefficients.shape[1:]).unbind(1), strict=True)

    def degrees_of_freedom(self, iterations: float) -> float:
        r"""The trace of the filter after t iterations, :math:`\sum_i 1 - (1-\lambda_i)^t`, per channel."""
        return self.response(iterations).sum().item()

    def squared_bias(self, clean: Tensor, iterations: float) -> float:
        r"""First term of :eq:`eq-ntk-7`, over pixels and channels: :math:`\sum_i (1-\lambda_i)^{2t}(v_i^T\hat x)^2`.

        The part of the clean image outside the span of the eigenvectors has eigenvalue 0 and counts in full.
        """
        energy = (self.basis.mT @ clean).double().square().sum(dim=1)
        outside = clean.double().square().sum() - energy.sum()
        return ((1 - self.response(iterations)) ** 2 @ energy + outside.clamp_min(0)).item()

    def variance(self, noise_std: float, iterations: float) -> float:
        r"""Second term of :eq:`eq-ntk-7` for one channel: :math:`\sum_i (1-(1-\lambda_i)^t)^2 \sigma^2`."""
        return self.response(iterations).square().sum().item() * noise_std**2

    def mean_squared_error(self, clean: Tensor, noise_std: float, iterations: float) -> float:
        """:eq:`eq-ntk-7`, summed over pixels and channels; true when the filter is independent of the noise.

        Args:
            clean: the noiseless image, shape (pixels, channels).
            noise_std: standard deviation of the noise, in the units of the image.
            iterations: t, 0 or more.
        """
        channels = clean.shape[1]
        return self.squared_bias(clean, iterations) + channels * self.variance(noise_std, iterations)


def row_normalised(affinities: Tensor) -> Tensor:
    r"""Footnote 2: :math:`\mathrm{diag}(1 / 1^T W)\, W`, whose rows sum to 1. Not symmetric. (pixels, pixels)."""
    return affinities / affinities.sum(dim=1, keepdim=True)


def sinkhorn_normalised(affinities: Tensor, tolerance: float = 1e-10, sweeps: int = 1000) -> Tensor:
    r"""Footnote 2: the symmetric, doubly stochastic scaling :math:`\mathrm{diag}(s)\, W\, \mathrm{diag}(s)`.

    A positive semidefinite W stays positive semidefinite, with eigenvalues in [0, 1].

    Args:
        affinities: W, shape (pixels, pixels), symmetric with positive entries.
        tolerance: largest deviation of a row sum from 1 that is accepted.
        sweeps: number of sweeps after which to give up.

    Raises:
        ValueError: the row sums are not within the tolerance after all the sweeps.
    """
    scale = affinities.sum(dim=1).rsqrt()
    for _ in range(sweeps):
        sums = affinities @ scale
        error = (scale * sums - 1).abs().max().item()
        if error <= tolerance:
            return scale[:, None] * affinities * scale
        scale = (scale / sums).sqrt()  # the square root is what makes the symmetric iteration converge
    raise ValueError(f"Sinkhorn's scaling is still {error:.1e} off after {sweeps} sweeps; accepted is {tolerance:.1e}.")
