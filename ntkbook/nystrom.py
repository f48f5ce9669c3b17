"""Nystrom's method: the leading eigenpairs of a kernel from a few of its columns.

The paper's recipe (Appendix G) is :func:`literal_eigenpairs`. Its eigenvectors are not orthonormal, so the closed
form of twicing cannot be used with them; :func:`orthonormal_eigenpairs` is the same low-rank matrix with
eigenvectors that are. :func:`nystrom_filter` does that for whole photographs, reading the columns block by block.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkbook.filters import SpectralFilter
from ntkbook.kernels import PatchKernel

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
        return grid_columns(*kernel.image.shape[-2:], count)
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
    features = tall @ inverse_root(small, tall.dtype).to(tall.dtype)
    values, mixing = _diagonalised(features.mT @ features, tall.dtype)
    return values, features @ mixing.to(tall.dtype)


def inverse_root(small: Tensor, dtype: torch.dtype) -> Tensor:
    r"""A square root of the inverse of :math:`\Theta_{m,m}`, for features :math:`F = \Theta_{d,m} R`.

    Nystrom's matrix is :math:`F F^T`. With :math:`\Theta_{m,m} = L L^T`, Cholesky's factors, :math:`R = L^{-T}`. A
    little is added to the diagonal, no more than the rounding of ``dtype``, so that landmarks may repeat each other.

    Args:
        small: :math:`\Theta_{m,m}`, shape (..., m, m), positive semidefinite.
        dtype: precision of the columns that the root will multiply.

    Returns:
        R, shape (..., m, m), float64, upper triangular.

    Raises:
        ValueError: an entry is NaN or infinite.
    """
    precise = small.double()
    if not precise.isfinite().all():
        raise ValueError("The landmarks' kernel has NaN or infinite entries; none is accepted.")
    ridge = torch.finfo(dtype).eps * precise.diagonal(dim1=-2, dim2=-1).amax(dim=-1, keepdim=True).clamp_min(1e-30)
    failed = torch.ones(())
    while failed.any():  # rarely a second time
        ridge = 10 * ridge
        lower, failed = torch.linalg.cholesky_ex(precise + torch.diag_embed(ridge.expand_as(precise[..., 0])))
    identity = torch.eye(small.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, identity, upper=False).mT


@dataclass(frozen=True)
class NystromBasis:
    """Orthonormal eigenvectors of Nystrom's matrix, never formed: a tall matrix, read by blocks, times a small one.

    Args:
        kernel: the patch kernel, of one image or of a batch.
        landmarks: patches of the columns, shape (..., m, channels * size**2).
        mixing: the small matrix, shape (..., m, rank), float64.
        kept: blocks of rows of the features F with their slices of pixels, when all of them fit in memory; else the
            tall matrix is that of the columns C, computed again at each product, and the mixing begins with the root.
    """

    kernel: PatchKernel
    landmarks: Tensor
    mixing: Tensor
    kept: tuple[tuple[slice, Tensor], ...] | None

    @property
    def mT(self) -> "TransposedBasis":
        """The transpose, for ``basis.mT @ y``."""
        return TransposedBasis(self)

    def blocks(self) -> Iterable[tuple[slice, Tensor]]:
        """Blocks of rows of the tall matrix with their slices of pixels."""
        return self.kernel.against(self.landmarks) if self.kept is None else self.kept

    def __matmul__(self, coefficients: Tensor) -> Tensor:
        """(..., rank, k) -> (..., pixels, k)."""
        mixed = (self.mixing @ coefficients.to(self.mixing.dtype)).to(coefficients.dtype)
        # Transposed on both sides, which is how the blocks lie in memory.
        return torch.cat([mixed.mT @ block.mT for _, block in self.blocks()], dim=-1).mT


@dataclass(frozen=True)
class TransposedBasis:
    """The transpose of a :class:`NystromBasis`."""

    basis: NystromBasis

    def __matmul__(self, image: Tensor) -> Tensor:
        """(..., pixels, k) -> (..., rank, k)."""
        mixing = self.basis.mixing
        total = sum((block.mT @ image[..., where, :]).to(mixing.dtype) for where, block in self.basis.blocks())
        return (mixing.mT @ total).to(image.dtype)


def nystrom_filter(kernel: PatchKernel, landmarks: Tensor, memory: int = COLUMN_MEMORY) -> SpectralFilter:
    """The filter of Nystrom's matrix from landmark patches, of one image or of each image of a batch.

    Scale it, by :meth:`ntkbook.filters.SpectralFilter.scaled`, before twicing.

    Args:
        kernel: the patch kernel.
        landmarks: patches, shape (..., m, channels * size**2), such as ``kernel.patches_at(select_columns(...))``;
            they need not be patches of the image.
        memory: bytes of columns kept between passes; with more than that they are computed again, so that peak
            memory is about this plus a few m x m matrices.

    Returns:
        :class:`~ntkbook.filters.SpectralFilter` with a :class:`NystromBasis`.
    """
    fits = kernel.pixels * landmarks[..., 0].numel() * landmarks.element_size() <= memory
    precise = landmarks.double()
    norms = precise.norm(dim=-1)
    small = kernel.affinity(precise @ precise.mT, norms[..., :, None], norms[..., None, :])
    root = inverse_root(small, landmarks.dtype)
    gram = torch.zeros_like(small)
    kept = []
    for where, block in kernel.against(landmarks):
        features = (root.to(block.dtype).mT @ block.mT).mT  # the columns' own order in memory
        _add_gram(gram, features)
        if fits:
            kept.append((where, features))
    values, mixing = _diagonalised(gram.triu() + gram.triu(1).mT, landmarks.dtype)
    if not fits:
        mixing = root @ mixing
    return SpectralFilter(values, NystromBasis(kernel, landmarks, mixing, tuple(kept) if fits else None))


def _add_gram(gram: Tensor, block: Tensor) -> None:
    # The upper triangle only, by halves: the rest is its mirror, and would cost half as much again.
    size = gram.shape[-1]
    if size <= 256:
        gram += block.mT @ block
        return
    left, right = block[..., : size // 2], block[..., size // 2 :]
    _add_gram(gram[..., : size // 2, : size // 2], left)
    _add_gram(gram[..., size // 2 :, size // 2 :], right)
    gram[..., : size // 2, size // 2 :] += left.mT @ right


def _diagonalised(gram: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # Eigenvalues of F F^T, largest first, and what makes the features F orthonormal. Those that are rounding are 0.
    values, rotation = torch.linalg.eigh(gram.double())
    values, rotation = values.flip(-1), rotation.flip(-1)
    real = values > torch.finfo(dtype).eps * values[..., :1]
    rank = int(real.sum(dim=-1).max())
    values, rotation, real = values[..., :rank], rotation[..., :rank], real[..., :rank]
    return values * real, rotation * (torch.where(real, values, 1).rsqrt() * real)[..., None, :]


def _check_count(pixels: int, count: int) -> None:
    if not 1 <= count <= pixels:
        raise ValueError(f"The number of columns must be between 1 and {pixels}, the number of pixels, not {count}.")
