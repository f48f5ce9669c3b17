"""Nystrom's method: the leading eigenpairs of a kernel from a few of its columns.

The paper's recipe (Appendix G) is :func:`literal_eigenpairs`. Its eigenvectors are not orthonormal, so the closed
form of twicing cannot be used with them; :func:`orthonormal_eigenpairs` is the same low-rank matrix with
eigenvectors that are. :func:`nystrom_filter` does that for whole photographs, reading the columns block by block.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf, dtrtri
from torch import Tensor

from ntkbook.filters import SpectralFilter
from ntkbook.kernels import TILE_ENTRIES, PatchKernel

SELECTIONS = ("uniform", "grid", "residual")
COLUMN_MEMORY = 2**30  # bytes of columns kept between two passes; more are computed again
CUTOFF = 1e-6  # part of the largest eigenvalue, or of the trace, below which a residual is float32 rounding


def uniform_columns(pixels: int, count: int, seed: int) -> Tensor:
    """``count`` pixels drawn uniformly without replacement (Section 4.1), sorted row-major indices, shape (count,)."""
    _check_count(pixels, count)
    return torch.from_numpy(np.sort(np.random.default_rng(seed).choice(pixels, count, replace=False)))


def grid_columns(height: int, width: int, count: int) -> Tensor:
    """About ``count`` pixels (never more) on a regular grid centred in the image, row-major indices."""
    _check_count(height * width, count)
    across = max(1, min(width, count, round(math.sqrt(count * width / height))))
    down = min(height, count // across)
    rows = ((torch.arange(down) + 0.5) * height / down).long()
    columns = ((torch.arange(across) + 0.5) * width / across).long()
    return (rows[:, None] * width + columns).flatten()


def residual_columns(kernel: PatchKernel, count: int, seed: int, block: int = 50) -> Tensor:
    """Pixels drawn with probability proportional to what the columns so far leave out of the diagonal.

    Randomly pivoted Cholesky in blocks (Chen, Epperly, Tropp and Webber, 2022). Holds a (pixels, count) factor.

    Returns:
        Row-major indices in the order drawn; fewer than ``count`` when the kernel's rank is used up, but at
        least one, also of a zero kernel.
    """
    _check_count(kernel.pixels, count)
    generator = np.random.default_rng(seed)
    residual = kernel.diagonal().double()
    trace = residual.sum().item()
    factor = kernel.image.new_zeros(kernel.pixels, count)
    chosen = torch.empty(0, dtype=torch.long)
    while len(chosen) < count and residual.sum() > CUTOFF * trace:
        weight = residual.cpu().numpy()
        size = min(block, count - len(chosen), int(np.count_nonzero(weight)))
        drawn = torch.from_numpy(generator.choice(kernel.pixels, size, replace=False, p=weight / weight.sum()))
        done = len(chosen)
        columns = kernel.columns(drawn) - factor[:, :done] @ factor[drawn, :done].T
        values, vectors = torch.linalg.eigh(columns[drawn].double())
        kept = values > CUTOFF * values.max()
        root = (vectors[:, kept] / values[kept].sqrt()).to(factor.dtype)
        factor[:, done : done + root.shape[1]] = columns @ root
        residual = (residual - (columns @ root).double().square().sum(dim=1)).clamp_min(0)
        residual[drawn] = 0
        chosen = torch.cat([chosen, drawn])
    return chosen if len(chosen) else torch.zeros(1, dtype=torch.long)


def select_columns(kernel: PatchKernel, count: int, selection: str = "uniform", seed: int = 0) -> Tensor:
    """Pixels whose columns are used, row-major indices.

    Args:
        kernel: the patch kernel.
        count: how many, between 1 and the number of pixels.
        selection: ``"uniform"`` (the paper's), ``"grid"`` or ``"residual"``.
        seed: of the random draw; a grid has none.

    Raises:
        ValueError: more columns than pixels are asked for, or the selection is not known.
    """
    if selection == "uniform":
        return uniform_columns(kernel.pixels, count, seed)
    if selection == "grid":
        return grid_columns(*kernel.image.shape[1:], count)
    if selection == "residual":
        return residual_columns(kernel, count, seed)
    raise ValueError(f"Unknown selection of columns {selection!r}; accepted are {', '.join(SELECTIONS)}.")


def nystrom_blocks(kernel: PatchKernel, columns: Tensor) -> tuple[Tensor, Tensor]:
    r"""The blocks of :eq:`eq-ntk-73`: :math:`\Theta_{d,m}` (pixels, m) and its rows :math:`\Theta_{m,m}` (m, m)."""
    tall = kernel.columns(columns)
    return tall, tall[columns]


def literal_eigenpairs(tall: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
    r"""Eigenpairs exactly as printed: :eq:`eq-ntk-74` for the vectors, :eq:`eq-ntk-75` for the values.

    :math:`v_i = \sqrt{m/d}\,\Theta_{d,m}\tilde v_i/\tilde\lambda_i` and :math:`\lambda_i = (d/m)\tilde\lambda_i`. The
    vectors are not orthonormal, though :math:`\sum_i \lambda_i v_i v_i^T` is Nystrom's matrix.

    Args:
        tall: :math:`\Theta_{d,m}`, shape (pixels, m).
        small: :math:`\Theta_{m,m}`, shape (m, m), positive definite.

    Returns:
        Eigenvalues (m,), largest first, and vectors (pixels, m).
    """
    pixels, count = tall.shape
    values, vectors = torch.linalg.eigh(small)
    values, vectors = values.flip(0), vectors.flip(1)
    return (pixels / count) * values, math.sqrt(count / pixels) * (tall @ vectors) / values


def orthonormal_eigenpairs(tall: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
    r"""Eigenpairs of Nystrom's matrix :math:`\Theta_{d,m}\Theta_{m,m}^{-1}\Theta_{d,m}^T`, orthonormal.

    Same arguments and returns as :func:`literal_eigenpairs`; directions that are rounding are left out.
    """
    mixing, values = _mixing(small, tall.T @ tall, tall.dtype)
    return values, tall @ mixing.to(tall.dtype)


@dataclass(frozen=True)
class NystromBasis:
    """Orthonormal eigenvectors ``C @ mixing`` of Nystrom's matrix, never formed: C is read block by block.

    Args:
        kernel: the patch kernel whose columns C are.
        landmarks: patches of the columns, shape (m, channels * size**2).
        mixing: shape (m, rank), float64: its entries are large and cancel.
        kept: C, shape (pixels, m), when it fits in memory; else it is computed again, block by block, at each product.
    """

    kernel: PatchKernel
    landmarks: Tensor
    mixing: Tensor
    kept: Tensor | None

    @property
    def T(self) -> "TransposedBasis":
        """The transpose, for ``basis.T @ y``."""
        return TransposedBasis(self)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows of C with their slices of pixels."""
        if self.kept is None:
            yield from self.kernel.against(self.landmarks)
            return
        step = max(1, TILE_ENTRIES // len(self.landmarks))
        for start in range(0, self.kernel.pixels, step):
            where = slice(start, min(start + step, self.kernel.pixels))
            yield where, self.kept[where]

    def __matmul__(self, coefficients: Tensor) -> Tensor:
        """(rank, k) -> (pixels, k)."""
        mixed = (self.mixing @ coefficients.to(self.mixing.dtype)).to(self.landmarks.dtype)
        product = mixed.new_empty(self.kernel.pixels, mixed.shape[1])
        for where, block in self.blocks():
            torch.matmul(block, mixed, out=product[where])
        return product


@dataclass(frozen=True)
class TransposedBasis:
    """The transpose of a :class:`NystromBasis`."""

    basis: NystromBasis

    def __matmul__(self, image: Tensor) -> Tensor:
        """(pixels, k) -> (rank, k)."""
        mixing = self.basis.mixing
        total = sum((block.T @ image[where]).to(mixing.dtype) for where, block in self.basis.blocks())
        return (mixing.T @ total).to(image.dtype)


def nystrom_filter(kernel: PatchKernel, landmarks: Tensor, memory: int = COLUMN_MEMORY) -> SpectralFilter:
    """The filter of Nystrom's matrix from landmark patches.

    Scale it, by :meth:`ntkbook.filters.SpectralFilter.scaled`, before twicing.

    Args:
        kernel: the patch kernel.
        landmarks: patches, shape (m, channels * size**2), such as ``kernel.patches_at(select_columns(...))``.
        memory: bytes of columns kept between passes; with more than that they are computed again, so that peak
            memory is about this plus a few m x m matrices.

    Returns:
        :class:`~ntkbook.filters.SpectralFilter` with a :class:`NystromBasis`.
    """
    count = len(landmarks)
    fits = kernel.pixels * count * landmarks.element_size() <= memory
    precise = landmarks.double()
    norms = precise.norm(dim=1)
    small = kernel.affinity(precise @ precise.T, norms[:, None], norms)
    gram = torch.zeros_like(small)
    kept = landmarks.new_empty(kernel.pixels, count) if fits else None
    for where, block in kernel.against(landmarks):
        _add_gram(gram, block.double())  # in float32 the small eigenvectors would not come out orthogonal
        if kept is not None:
            kept[where] = block
    mixing, values = _mixing(small, gram.triu() + gram.triu(1).T, landmarks.dtype)
    basis = NystromBasis(kernel, landmarks, mixing, kept)
    return SpectralFilter(values, basis)


def _add_gram(gram: Tensor, block: Tensor) -> None:
    # The upper triangle only, by halves: the rest is its mirror, and would cost half as much again.
    if len(gram) <= 256:
        gram.addmm_(block.T, block)
        return
    half = len(gram) // 2
    left, right = block[:, :half], block[:, half:]
    _add_gram(gram[:half, :half], left)
    _add_gram(gram[half:, half:], right)
    gram[:half, half:].addmm_(left.T, right)


def _mixing(small: Tensor, gram: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # With S = L L^T, the columns of C L^-T have the Gram matrix L^-1 (C^T C) L^-T; its eigenvectors make them
    # orthogonal. Pivoting drops landmarks that repeat others to within rounding, as on a constant image.
    values = small.double().cpu().numpy()
    tolerance = 10 * torch.finfo(dtype).eps * values.diagonal().max(initial=0.0)
    factor, pivots, rank, _ = dpstrf(values, tol=tolerance, lower=1)
    if not tolerance > 0:  # a black image: every patch is zero, and nothing passes
        rank = 0
    inverse = dtrtri(factor[:rank, :rank], lower=1)[0] if rank else np.zeros((0, 0))
    root = torch.zeros(len(values), rank, dtype=torch.float64, device=small.device)
    root[torch.from_numpy(pivots[:rank] - 1).long()] = torch.from_numpy(np.tril(inverse).T.copy()).to(small.device)
    eigenvalues, rotation = torch.linalg.eigh(root.T @ gram.double() @ root)
    eigenvalues, rotation = eigenvalues.flip(0), rotation.flip(1)
    real = eigenvalues > torch.finfo(dtype).eps ** 2 * eigenvalues.amax() if rank else eigenvalues > 0
    return root @ (rotation[:, real] / eigenvalues[real].sqrt()), eigenvalues[real]


def _check_count(pixels: int, count: int) -> None:
    if not 1 <= count <= pixels:
        raise ValueError(f"The number of columns must be between 1 and {pixels}, the number of pixels, not {count}.")
