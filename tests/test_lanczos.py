"""Lanczos' method gives the function of the matrix that its eigendecomposition gives."""

import functools

import numpy as np
import pytest
import torch
from tiny_images import random_image
from torch import Tensor

from ntkbook import checks
from ntkbook.filters import SpectralFilter
from ntkbook.images import to_matrix
from ntkbook.kernels import PatchKernel
from ntkbook.lanczos import lanczos


def vectors(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)))


def low_rank(rows: int, rank: int) -> Tensor:
    factor = vectors(rows, rank, seed=9)
    return factor @ factor.T


@pytest.mark.parametrize("t", [0, 1, 2.5, 30, 500])
def test_all_steps_give_the_closed_form_of_the_whole_kernel(t):
    kernel = PatchKernel(random_image(3, 6, 7), 3)
    noisy = to_matrix(kernel.image)
    krylov = lanczos(lambda v: kernel @ v, noisy, kernel.pixels)
    exact = SpectralFilter.from_matrix(kernel.dense())
    checks.identity("6", krylov.largest, exact.eigenvalues[0])
    checks.identity("6", krylov.apply(t), exact.scaled().apply(noisy, t), **({"atol": 1e-12} if t == 0 else {}))


def test_few_steps_suffice_for_few_iterations():
    kernel = PatchKernel(random_image(3, 12, 12), 3)
    noisy = to_matrix(kernel.image)
    krylov = lanczos(lambda v: kernel @ v, noisy, 30)
    exact = SpectralFilter.from_matrix(kernel.dense()).scaled()
    error = (krylov.apply(30) - exact.apply(noisy, 30)).abs().max()
    fewer = (krylov.truncated(8).apply(30) - exact.apply(noisy, 30)).abs().max()
    assert error < 1e-8 < fewer


def test_truncated_is_what_fewer_steps_give():
    matrix, noisy = low_rank(30, 20), vectors(30, 2)
    calls = []
    whole = lanczos(lambda v: matrix @ v, noisy, 12, calls.append)
    assert calls == list(range(1, 13))
    short = lanczos(lambda v: matrix @ v, noisy, 7)
    truncated = whole.truncated(7)
    checks.identity("6", truncated.tridiagonal, short.tridiagonal)
    checks.identity("6", truncated.apply(5), short.apply(5))


def test_basis_is_orthonormal_and_tridiagonalises():
    matrix, noisy = low_rank(40, 40), vectors(40, 2)
    krylov = lanczos(lambda v: matrix @ v, noisy, 25)
    for basis, small in zip(krylov.bases, krylov.tridiagonal, strict=True):
        checks.identity("6", basis.T @ basis, torch.eye(25).double())
        checks.identity("6", basis.T @ matrix @ basis, small)
        assert not small.triu(2).any()
        assert torch.equal(small, small.T)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_space_that_is_used_up_does_no_harm(rank):
    matrix, noisy = low_rank(20, rank), vectors(20, 3)
    krylov = lanczos(lambda v: matrix @ v, noisy, 20)
    assert krylov.bases[..., : rank + 1].any(dim=1).all()
    assert not krylov.bases[..., rank + 1 :].any()
    exact = SpectralFilter.from_matrix(matrix).scaled()
    for t in (1, 50):
        checks.identity("6", krylov.apply(t), exact.apply(noisy, t))


def test_a_start_at_an_eigenvector_ends_after_one_step():
    matrix = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
    noisy = torch.eye(3, dtype=torch.float64)[:, :2]
    krylov = lanczos(lambda v: matrix @ v, noisy, 3)
    checks.identity("6", krylov.apply(2), [[1.0, 0.0], [0.0, 0.75], [0.0, 0.0]])


def test_zero_channels_and_zero_matrices_give_zeros():
    noisy = vectors(9, 2)
    noisy[:, 1] = 0
    matrix = low_rank(9, 9)
    estimate = lanczos(lambda v: matrix @ v, noisy, 9).apply(10)
    exact = SpectralFilter.from_matrix(matrix).scaled().apply(noisy, 10)
    checks.identity("6", estimate, exact)
    assert not estimate[:, 1].any()
    assert not lanczos(torch.zeros_like, noisy, 5).apply(10).any()


def test_single_precision_stays_finite_past_breakdown():
    matrix, noisy = low_rank(25, 2), vectors(25, 2)
    estimate = lanczos(lambda v: matrix.float() @ v, noisy.float(), 25).apply(100)
    assert estimate.dtype == torch.float32
    exact = SpectralFilter.from_matrix(matrix).scaled().apply(noisy, 100)
    torch.testing.assert_close(estimate.double(), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [0, 10, -1])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(ValueError, match=f"between 1 and 9 steps for 9 pixels, not {steps}"):
        lanczos(functools.partial(torch.mul, 2), vectors(9, 1), steps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gives_the_same():
    matrix, noisy = low_rank(30, 30), vectors(30, 2)
    expected = lanczos(lambda v: matrix @ v, noisy, 10).apply(20)
    on_gpu = lanczos(lambda v: matrix.cuda() @ v, noisy.cuda(), 10).apply(20)
    assert on_gpu.is_cuda
    checks.identity("6", on_gpu, expected, rtol=1e-8)
