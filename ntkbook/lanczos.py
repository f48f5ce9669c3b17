"""Lanczos' method: functions of a symmetric matrix that is known only through its products."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ntkbook.filters import twicing_response


@dataclass(frozen=True)
class KrylovFilter:
    """Functions of a symmetric matrix applied to fixed vectors, from Lanczos' tridiagonalisation.

    Args:
        bases: orthonormal Lanczos vectors, shape (channels, pixels, steps).
        tridiagonal: the matrix in those vectors, shape (channels, steps, steps), float64 on the CPU.
        lengths: Euclidean norm of each channel, shape (channels,), float64.
    """

    bases: Tensor
    tridiagonal: Tensor
    lengths: Tensor

    @cached_property
    def largest(self) -> float:
        """The largest Ritz value, which converges first to the matrix's largest eigenvalue; 1 for a zero matrix."""
        return torch.linalg.eigvalsh(self.tridiagonal).max().item() or 1.0

    def apply(self, iterations: float) -> Tensor:
        """:math:`z^t` of :eq:`eq-ntk-6` for the matrix divided by its largest eigenvalue, shape (pixels, channels)."""
        columns = []
        for basis, tridiagonal, length in zip(self.bases, self.tridiagonal, self.lengths, strict=True):
            ritz, weights = torch.linalg.eigh(tridiagonal)
            passed = twicing_response((ritz / self.largest).clamp(0, 1), iterations)
            columns.append(basis @ (weights @ (passed * weights[0]) * length).to(basis))
        return torch.stack(columns, dim=1)

    def truncated(self, steps: int) -> "KrylovFilter":
        """What the first ``steps`` products alone would have given; the difference shows whether there were enough."""
        return KrylovFilter(self.bases[..., :steps], self.tridiagonal[:, :steps, :steps], self.lengths)


def lanczos(
    product: Callable[[Tensor], Tensor], noisy: Tensor, steps: int, progress: Callable[[int], None] | None = None
) -> KrylovFilter:
    r"""Lanczos' method with full reorthogonalisation, one run a channel, the products shared.

    Args:
        product: applies the symmetric matrix to a tensor of shape (pixels, channels).
        noisy: start vectors y, shape (pixels, channels).
        steps: number of products, at most the number of pixels.
        progress: called after each product with the number of products done.

    Returns:
        The :class:`KrylovFilter`, accurate for :math:`z^t` once ``steps`` is a few times :math:`\sqrt t`.

    Raises:
        ValueError: the number of steps is not between 1 and the number of pixels.
    """
    noisy = noisy.T.contiguous()
    pixels = noisy.shape[1]
    if not 1 <= steps <= pixels:
        raise ValueError(f"Lanczos takes between 1 and {pixels} steps for {pixels} pixels, not {steps}.")
    lengths = noisy.norm(dim=1)
    bases = noisy.new_zeros(noisy.shape[0], steps, pixels)
    alphas = torch.zeros(noisy.shape[0], steps, dtype=torch.float64)
    betas = torch.zeros(noisy.shape[0], steps, dtype=torch.float64)
    tiny = torch.finfo(noisy.dtype).tiny
    vector = noisy / lengths[:, None].clamp_min(tiny)
    for k in range(steps):
        bases[:, k] = vector
        image = product(vector.T.contiguous()).T
        alphas[:, k] = (image * vector).sum(dim=1).cpu()  # the small matrix lives on the CPU, in float64
        done = bases[:, : k + 1]
        for _ in range(2):  # twice is enough to stay orthogonal to working precision
            image = image - torch.einsum("cs,csp->cp", torch.einsum("csp,cp->cs", done, image), done)
        beta = image.norm(dim=1)
        # A space that is used up leaves only rounding: go on with zeros, on which every response is 0.
        alive = beta > 100 * torch.finfo(noisy.dtype).eps * alphas.abs().amax(dim=1).to(beta)
        betas[:, k] = torch.where(alive, beta, 0).cpu()
        vector = torch.where(alive[:, None], image / beta[:, None].clamp_min(tiny), 0)
        if progress is not None:
            progress(k + 1)
    small = torch.diag_embed(alphas) + torch.diag_embed(betas[:, :-1], 1) + torch.diag_embed(betas[:, :-1], -1)
    return KrylovFilter(bases.transpose(1, 2), small, lengths.cpu().double())
