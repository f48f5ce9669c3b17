"""Nystrom's method: the printed recipe, the orthonormal eigenpairs and the streamed filter."""

import math

import pytest
import torch
from tiny_images import posterised_image, random_image, smooth_image
from torch import Tensor

from ntkbook import checks, nystrom
from ntkbook.filters import SpectralFilter, twicing
from ntkbook.images import to_matrix
from ntkbook.kernels import PatchKernel
from ntkbook.nystrom import (
    SELECTIONS,
    inverse_root,
    literal_eigenpairs,
    nystrom_blocks,
    nystrom_filter,
    orthonormal_eigenpairs,
    select_columns,
    uniform_columns,
)


@pytest.fixture(name="kernel")
def random_kernel() -> PatchKernel:
    return PatchKernel(random_image(3, 7, 8), 3)


def blocks(kernel: PatchKernel, count: int = 15) -> tuple[Tensor, Tensor]:
    return nystrom_blocks(kernel, uniform_columns(kernel.pixels, count, seed=0))


def eigenvectors(filter_: SpectralFilter) -> Tensor:
    """The basis as a tensor, whether it is streamed or not."""
    return filter_.basis @ torch.eye(len(filter_.eigenvalues), dtype=filter_.basis.landmarks.dtype)


def matrix_of(values: Tensor, vectors: Tensor) -> Tensor:
    return vectors @ torch.diag(values) @ vectors.T


def nystrom_matrix(kernel: PatchKernel, columns: Tensor) -> Tensor:
    """C S^-1 C^T from the dense kernel."""
    dense = kernel.dense()
    return dense[:, columns] @ torch.linalg.solve(dense[columns][:, columns], dense[columns])


def test_blocks_73_are_those_of_the_dense_kernel(kernel):
    columns = torch.tensor([5, 40, 41, 3])
    tall, small = nystrom_blocks(kernel, columns)
    checks.identity("73", tall, kernel.dense()[:, columns])
    checks.identity("73", small, kernel.dense()[columns][:, columns])


def test_literal_eigenpairs_are_74_and_75_term_by_term(kernel):
    tall, small = blocks(kernel)
    pixels, count = tall.shape
    values, vectors = literal_eigenpairs(tall, small)
    assert (values.diff() <= 0).all()
    ascending, small_vectors = torch.linalg.eigh(small)
    for i in range(count):
        value, vector = ascending[count - 1 - i], small_vectors[:, count - 1 - i]
        literal = torch.tensor(
            [
                math.sqrt(count / pixels) / value * sum(tall[p, j] * vector[j] for j in range(count))
                for p in range(pixels)
            ]
        )
        checks.identity("74", vectors[:, i], literal)
        checks.identity("75", values[i], pixels / count * value)


def test_literal_eigenpairs_give_the_low_rank_matrix_but_are_not_orthonormal(kernel):
    tall, small = blocks(kernel)
    values, vectors = literal_eigenpairs(tall, small)
    checks.identity("74 and 75", matrix_of(values, vectors), tall @ torch.linalg.solve(small, tall.T))
    gram = vectors.T @ vectors
    assert (gram - torch.eye(len(gram))).abs().max() > 0.1
    # So the closed form (6) with them is not the iteration of their own matrix.
    noisy, top = to_matrix(kernel.image), values[0]
    right = twicing(matrix_of(values, vectors) / top, noisy, 20)
    checks.printed_fails("74", SpectralFilter(values / top, vectors).apply(noisy, 20), right, at_least=0.05)
    orthonormal = orthonormal_eigenpairs(tall, small)
    scaled = SpectralFilter(orthonormal[0] / top, orthonormal[1])
    checks.identity("6", scaled.apply(noisy, 20), right)


@pytest.mark.parametrize("count", [1, 2, 15, 56])
def test_orthonormal_eigenpairs_diagonalise_the_same_matrix(kernel, count):
    tall, small = blocks(kernel, count)
    values, vectors = orthonormal_eigenpairs(tall, small)
    assert (values.diff() <= 0).all()
    checks.identity("74", vectors.T @ vectors, torch.eye(count).double())
    checks.identity("75", matrix_of(values, vectors), tall @ torch.linalg.solve(small, tall.T))
    reference = torch.linalg.eigvalsh(tall @ torch.linalg.solve(small, tall.T)).flip(0)[:count]
    checks.identity("75", values, reference)


@pytest.mark.parametrize("t", [1, 40, 1000])
def test_all_columns_are_the_exact_filter(kernel, t):
    exact = SpectralFilter.from_matrix(kernel.dense()).scaled()
    every = nystrom_filter(kernel, kernel.patches_at(torch.arange(kernel.pixels))).scaled()
    noisy = to_matrix(kernel.image)
    checks.identity("6", every.apply(noisy, t), exact.apply(noisy, t))
    checks.identity("6", every.degrees_of_freedom(t), exact.degrees_of_freedom(t))
    clean = to_matrix(smooth_image(3, 7, 8))
    checks.identity("7", every.mean_squared_error(clean, 0.1, t), exact.mean_squared_error(clean, 0.1, t))


@pytest.mark.parametrize("memory", [0, nystrom.COLUMN_MEMORY])
def test_streamed_filter_is_the_dense_one(kernel, memory, monkeypatch):
    monkeypatch.setattr("ntkbook.kernels.TILE_ENTRIES", 15 * 8)  # one image row at a time
    columns = uniform_columns(kernel.pixels, 15, seed=0)
    filter_ = nystrom_filter(kernel, kernel.patches_at(columns), memory)
    assert (filter_.basis.kept is None) == (memory == 0)
    assert len(list(filter_.basis.blocks())) == 7
    dense = SpectralFilter(*orthonormal_eigenpairs(*nystrom_blocks(kernel, columns)))
    checks.identity("75", filter_.eigenvalues, dense.eigenvalues)
    vectors = eigenvectors(filter_)
    checks.identity("74", vectors.T @ vectors, torch.eye(15).double())
    checks.identity("74", filter_.basis.mT @ kernel.image.flatten(1).T, vectors.T @ kernel.image.flatten(1).T)
    checks.identity("75", matrix_of(filter_.eigenvalues, vectors), nystrom_matrix(kernel, columns))
    for t in (1, 2.5, 60):
        noisy = to_matrix(kernel.image)
        checks.identity("6", filter_.scaled().apply(noisy, t), dense.scaled().apply(noisy, t))


def test_kept_columns_are_bounded_by_the_memory(kernel):
    landmarks = kernel.patches_at(torch.arange(10))
    size = kernel.pixels * 10 * 8
    assert nystrom_filter(kernel, landmarks, size).basis.kept is not None
    assert nystrom_filter(kernel, landmarks, size - 1).basis.kept is None


@pytest.mark.parametrize("make", [random_image, posterised_image])
def test_single_precision_is_orthonormal_to_a_hundredth_and_follows_double(make):
    image = make(3, 9, 9)
    columns = uniform_columns(81, 30, seed=1)
    single, double = (PatchKernel(image.to(dtype), 3) for dtype in (torch.float32, torch.float64))
    filter_ = nystrom_filter(single, single.patches_at(columns)).scaled()
    exact = nystrom_filter(double, double.patches_at(columns)).scaled()
    vectors = eigenvectors(filter_)
    assert vectors.dtype == torch.float32
    assert (vectors.T @ vectors - torch.eye(vectors.shape[1])).abs().max() < 1e-2
    for t in (1, 100):
        got, expected = filter_.apply(to_matrix(image).float(), t), exact.apply(to_matrix(image), t)
        assert (got - expected).abs().max() < 1e-3


def nearly_flat(seed: int = 0) -> Tensor:
    """A smooth image with so little noise that patches hardly differ."""
    return smooth_image(3, 24, 24) - 0.5 + 2e-3 * random_image(3, 24, 24, seed)


@pytest.mark.parametrize("count", [40, 150])
def test_single_precision_stays_orthonormal_where_patches_hardly_differ(count):
    kernel = PatchKernel(nearly_flat().float(), 7)
    columns = uniform_columns(kernel.pixels, count, seed=0)
    landmarks = kernel.patches_at(columns)
    filter_ = nystrom_filter(kernel, landmarks)
    kept = filter_.eigenvalues > 1e-5 * filter_.eigenvalues[0]
    vectors = eigenvectors(filter_)[:, kept]
    assert kept.sum() >= 30
    assert (vectors.T @ vectors - torch.eye(vectors.shape[1])).abs().max() < 1e-3
    # A Gram matrix of the columns themselves, in single precision, cannot tell these directions apart.
    tall, precise = kernel.columns(columns), landmarks.double()
    norms = precise.norm(dim=1)
    root = inverse_root(kernel.affinity(precise @ precise.T, norms[:, None], norms), torch.float32)
    values, mixing = torch.linalg.eigh(root.T @ (tall.T @ tall).double() @ root)
    kept = values > 1e-5 * values[-1]
    vectors = tall.double() @ root @ mixing[:, kept] / values[kept].sqrt()
    assert (vectors.T @ vectors - torch.eye(int(kept.sum()))).abs().max() > 0.1


def covariances(count: int = 3, side: int = 6) -> Tensor:
    """Positive definite matrices, one for each of a batch."""
    factors = random_image(count, side, 2 * side)
    return factors @ factors.mT


def test_inverse_root_makes_the_identity():
    small = covariances()
    root = inverse_root(small, torch.float64)
    checks.identity("74", root.mT @ small @ root, torch.eye(6).double().expand(3, 6, 6))
    checks.identity("74", root @ root.mT, torch.linalg.inv(small))
    assert torch.equal(root, root.triu())
    for alone, found in zip(small, root, strict=True):
        checks.identity("74", inverse_root(alone, torch.float64), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_root_where_landmarks_repeat(dtype):
    """What is added is rounding: the matrix of the features is the pseudo-inverse's, and nothing overflows."""
    once = covariances()
    small = once[:, [0, 1, 2, 0, 3, 3]][:, :, [0, 1, 2, 0, 3, 3]]  # rank 4
    root = inverse_root(small, dtype)
    assert root.dtype == torch.float64
    assert root.to(dtype).isfinite().all()
    product = small @ root @ root.mT @ small
    torch.testing.assert_close(product, small, rtol=0, atol=100 * torch.finfo(dtype).eps * small.max().item())
    energies = torch.linalg.eigvalsh(root.mT @ small @ root)
    assert energies.min() > -1e-3
    assert energies.max() < 1 + 1e-3
    torch.testing.assert_close(energies.sum(dim=-1), torch.full((3,), 4.0).double(), rtol=0, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_root_of_zero_is_finite(dtype):
    small = covariances()
    small[1] = 0
    root = inverse_root(small, dtype)
    assert root.to(dtype).isfinite().all()
    checks.identity("74", root[0], inverse_root(small[0], dtype))
    assert not (root[1].mT @ small[1] @ root[1]).any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_inverse_root_refuses_what_is_not_finite(value):
    small = covariances()
    small[1, 2, 2] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        inverse_root(small, torch.float32)


@pytest.mark.parametrize("memory", [0, nystrom.COLUMN_MEMORY])
def test_the_filter_of_a_batch_is_that_of_each_image(memory):
    """Also where the ranks differ: one image has no texture, one is black, one so dark that it is nearly black."""
    image = random_image(2, 7, 8)
    images = torch.stack([image, torch.full_like(image, 0.3), torch.zeros_like(image), 1e-7 * image])
    kernel = PatchKernel(images, 3)
    columns = uniform_columns(56, 15, seed=0)
    together = nystrom_filter(kernel, kernel.patches_at(columns), memory)
    noisy = torch.stack([to_matrix(random_image(2, 7, 8, seed=seed)) for seed in range(5, 9)])
    times = torch.tensor([[3.0], [40.5], [10.0], [100.0]])
    filtered = together.scaled().apply(noisy, times)
    vectors = together.basis @ torch.eye(15).double()
    assert together.eigenvalues.shape == (4, 15)
    for index, rank in enumerate((15, 1, 0, 15)):
        alone = PatchKernel(images[index], 3)
        expected = nystrom_filter(alone, alone.patches_at(columns), memory)
        assert len(expected.eigenvalues) == rank
        assert not together.eigenvalues[index, rank:].any()
        torch.testing.assert_close(together.eigenvalues[index, :rank], expected.eigenvalues, rtol=1e-10, atol=0)
        restored = expected.scaled().apply(noisy[index], times[index].item())
        torch.testing.assert_close(filtered[index], restored, rtol=1e-10, atol=1e-12)
        assert not vectors[index, :, rank:].any()  # nothing comes out of directions that are not there


def test_landmarks_that_repeat_add_nothing(kernel):
    once = kernel.patches_at(torch.tensor([3, 17, 30, 44]))
    filter_, repeated = nystrom_filter(kernel, once), nystrom_filter(kernel, torch.cat([once, once[:2], once[:1]]))
    checks.identity("75", repeated.eigenvalues, filter_.eigenvalues)
    noisy = to_matrix(kernel.image)
    checks.identity("6", repeated.scaled().apply(noisy, 30), filter_.scaled().apply(noisy, 30))


def test_landmarks_need_not_be_pixels(kernel):
    """Of any patches p: the matrix is k(., p) k(p, p)^-1 k(p, .)."""
    landmarks = random_image(4, 3, 9, seed=5).reshape(4, 27)
    filter_ = nystrom_filter(kernel, landmarks)
    tall = torch.cat([block for _, block in kernel.against(landmarks)])
    norms = landmarks.norm(dim=1)
    small = kernel.affinity(landmarks @ landmarks.T, norms[:, None], norms)
    expected = tall @ torch.linalg.solve(small, tall.T)
    checks.identity("75", matrix_of(filter_.eigenvalues, eigenvectors(filter_)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory", [0, nystrom.COLUMN_MEMORY])
def test_constant_image_has_rank_one_and_is_kept(dtype, memory):
    image = torch.full((3, 6, 6), 0.3, dtype=dtype)
    kernel = PatchKernel(image, 3)
    filter_ = nystrom_filter(kernel, kernel.patches_at(torch.arange(12)), memory).scaled()
    assert len(filter_.eigenvalues) == 1
    torch.testing.assert_close(filter_.apply(to_matrix(image), 1), to_matrix(image))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_black_image_passes_nothing(selection):
    image = torch.zeros(3, 6, 6)
    kernel = PatchKernel(image, 3)
    columns = select_columns(kernel, 10, selection)
    assert 1 <= len(columns) <= 10
    filter_ = nystrom_filter(kernel, kernel.patches_at(columns)).scaled()
    assert len(filter_.eigenvalues) == 0
    assert torch.equal(filter_.apply(torch.ones(36, 3), 10), torch.zeros(36, 3))


def test_zero_patches_among_the_landmarks():
    image = torch.zeros(1, 6, 6, dtype=torch.float64)
    image[0, 2:4, 1:3] = random_image(1, 2, 2)[0]
    kernel = PatchKernel(image, 3, padding="zeros")
    every = torch.arange(36)
    assert (kernel.patches_at(every).norm(dim=1) == 0).sum() == 20
    exact = SpectralFilter.from_matrix(kernel.dense()).scaled()
    filter_ = nystrom_filter(kernel, kernel.patches_at(every)).scaled()
    assert len(filter_.eigenvalues) <= 16
    checks.identity("6", filter_.apply(to_matrix(image), 25), exact.apply(to_matrix(image), 25), rtol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_gpu_gives_the_same_filter(selection):
    image = random_image(3, 12, 12)
    results = []
    for device in ("cpu", "cuda"):
        kernel = PatchKernel(image.to(device), 3)
        columns = select_columns(kernel, 40, selection)
        filter_ = nystrom_filter(kernel, kernel.patches_at(columns)).scaled()
        results.append(filter_.apply(to_matrix(image.to(device)), 50).cpu())
    checks.identity("6", results[1], results[0], rtol=1e-8)
