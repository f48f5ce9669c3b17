"""Which pixels' columns Nystrom's method takes: uniform, on a grid, or where the residual is large."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_images import random_image
from torch import Tensor

from ntkbook.kernels import PatchKernel
from ntkbook.nystrom import SELECTIONS, grid_columns, residual_columns, select_columns, uniform_columns

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=30)


@pytest.fixture(name="kernel")
def random_kernel() -> PatchKernel:
    return PatchKernel(random_image(3, 7, 8), 3)


@REPRODUCIBLE
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_uniform_and_grid_columns_are_different_pixels(height, width, data):
    count = data.draw(st.integers(1, height * width))
    for columns in (uniform_columns(height * width, count, seed=3), grid_columns(height, width, count)):
        assert columns.dtype == torch.int64
        assert (columns.diff() > 0).all()  # sorted, so none repeats
        assert columns[0] >= 0
        assert columns[-1] < height * width
    assert len(uniform_columns(height * width, count, seed=3)) == count
    assert count / 4 <= len(grid_columns(height, width, count)) <= count


def test_grid_of_a_square_image_is_regular_and_centred():
    assert grid_columns(6, 6, 9).tolist() == [7, 9, 11, 19, 21, 23, 31, 33, 35]
    assert grid_columns(2, 3, 6).tolist() == list(range(6))


def test_uniform_columns_are_uniform():
    counts = torch.zeros(20)
    for seed in range(2000):
        counts[uniform_columns(20, 5, seed)] += 1
    spread = math.sqrt(2000 * 0.25 * 0.75)
    assert (counts - 500).abs().max() < math.sqrt(4**2 + 2 * math.log(20)) * spread


@pytest.mark.parametrize("selection", SELECTIONS)
def test_columns_are_determined_by_the_seed_and_do_not_repeat(kernel, selection):
    first, again = (select_columns(kernel, 20, selection, seed=4) for _ in range(2))
    other = select_columns(kernel, 20, selection, seed=5)
    assert torch.equal(first, again)
    assert len(first.unique()) == len(first) <= 20
    assert torch.equal(first, other) == (selection == "grid")


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("count", [0, 57, -3])
def test_counts_out_of_range_are_refused(kernel, selection, count):
    with pytest.raises(ValueError, match=f"between 1 and 56, the number of pixels, not {count}"):
        select_columns(kernel, count, selection)


def test_an_unknown_selection_is_refused(kernel):
    with pytest.raises(
        ValueError, match="Unknown selection of columns 'leverage'; accepted are uniform, grid, residual"
    ):
        select_columns(kernel, 5, "leverage")


@dataclass(frozen=True)
class MatrixKernel:
    """A kernel given as a matrix, with what :func:`residual_columns` asks of a patch kernel."""

    matrix: Tensor

    @property
    def pixels(self) -> int:
        return len(self.matrix)

    @property
    def image(self) -> Tensor:
        return self.matrix

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal()

    def columns(self, pixels: Tensor) -> Tensor:
        return self.matrix[:, pixels]


def trace_left_out(matrix: Tensor, columns: Tensor) -> float:
    residual = matrix - matrix[:, columns] @ torch.linalg.pinv(matrix[columns][:, columns]) @ matrix[columns]
    return (residual.trace() / matrix.trace()).item()


def low_rank_with_spikes() -> Tensor:
    """Rank 3 everywhere, and 8 of 200 pixels with a large diagonal entry of their own."""
    factor = random_image(1, 200, 3, seed=2)[0]
    spikes = torch.zeros(200, dtype=torch.float64)
    spikes[torch.arange(7, 200, 25)] = 5
    return factor @ factor.T + torch.diag(spikes)


def test_residual_columns_find_the_spikes_that_uniform_ones_miss():
    matrix = low_rank_with_spikes()
    for seed in range(5):
        residual = residual_columns(MatrixKernel(matrix), 20, seed, block=4)
        uniform = uniform_columns(200, 20, seed)
        assert trace_left_out(matrix, residual) < 1e-10
        assert trace_left_out(matrix, uniform) > 0.2
        assert len(residual) <= 20


def test_residual_columns_stop_when_the_rank_is_used_up():
    factor = random_image(1, 50, 3, seed=2)[0]
    columns = residual_columns(MatrixKernel(factor @ factor.T), 40, seed=0, block=1)
    assert len(columns) == 3
    constant = PatchKernel(torch.full((1, 9, 9), 0.25), 3)
    assert len(residual_columns(constant, 60, seed=0, block=10)) == 10
