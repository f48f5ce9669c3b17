"""Twicing in closed form is twicing step by step, and its bias, variance and normalisations are what they say."""

import functools
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_images import kernels, random_image, smooth_image
from torch import Tensor

from ntkbook import checks
from ntkbook.filters import SpectralFilter, row_normalised, sinkhorn_normalised, twicing, twicing_response
from ntkbook.images import to_matrix
from ntkbook.kernels import PatchKernel, nlm_affinity

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=30)


def symmetric(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    draw = np.random.default_rng(seed).standard_normal((len(values), len(values)))
    vectors = torch.linalg.qr(torch.from_numpy(draw)).Q
    return vectors @ torch.diag(values) @ vectors.T


def signal(rows: int, channels: int = 2, seed: int = 7) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, channels)))


def literal_response(matrix: Tensor, iterations: int) -> Tensor:
    """I - (I - W)^t, by repeated products."""
    identity = torch.eye(len(matrix), dtype=matrix.dtype)
    return identity - torch.linalg.matrix_power(identity - matrix, iterations)


ABOVE_ONE = [1.9, 1.5, 1.0, 0.5, 0.01, 0.0]
BELOW_ONE = [1.0, 0.999, 0.7, 0.2, 1e-3, 1e-7, 0.0]


@pytest.mark.parametrize("eigenvalues", [ABOVE_ONE, BELOW_ONE], ids=["up to 1.9", "up to 1"])
@pytest.mark.parametrize("t", [0, 1, 2, 3, 10, 75, 200])
def test_closed_form_6_is_the_iteration_5(eigenvalues, t):
    matrix, noisy = symmetric(eigenvalues), signal(len(eigenvalues))
    stepwise = noisy * 0
    for _ in range(t):
        stepwise += matrix @ (noisy - stepwise)
    closed = SpectralFilter.from_matrix(matrix).apply(noisy, t)
    absolute = {"atol": 1e-12} if t == 0 else {}
    checks.identity("5", twicing(matrix, noisy, t), stepwise, **absolute)
    checks.identity("6", closed, stepwise, **absolute)
    checks.identity("6", closed, literal_response(matrix, t) @ noisy, **absolute)


def test_closed_form_6_on_an_image():
    kernel = PatchKernel(random_image(3, 6, 7), 3)
    matrix = kernel.dense() / torch.linalg.eigvalsh(kernel.dense()).max()
    noisy = to_matrix(kernel.image)
    filter_ = SpectralFilter.from_matrix(kernel.dense()).scaled()
    for t in (1, 7, 300):
        checks.identity("6", filter_.apply(noisy, t), twicing(matrix, noisy, t))


@pytest.mark.parametrize("t", [0.5, 1.5, math.pi, 1234.5])
def test_fractional_iterations_are_the_matrix_power(t):
    matrix, noisy = symmetric(BELOW_ONE), signal(len(BELOW_ONE))
    values, vectors = torch.linalg.eigh(torch.eye(len(matrix)) - matrix)
    power = vectors @ torch.diag(values.clamp_min(0) ** t) @ vectors.T
    checks.identity("6", SpectralFilter.from_matrix(matrix).apply(noisy, t), noisy - power @ noisy, rtol=1e-8)


def test_two_halves_of_an_iteration_make_one():
    matrix, noisy = symmetric([0.9, 0.4, 0.1]), signal(3)
    filter_ = SpectralFilter.from_matrix(matrix)
    half = filter_.apply(noisy, 0.5)
    checks.identity("6", half + filter_.apply(noisy - half, 0.5), filter_.apply(noisy, 1))


def test_response_keeps_its_digits_near_zero():
    small = torch.tensor([1e-18, 1e-13, 1e-9], dtype=torch.float64)
    checks.identity("6", twicing_response(small, 10), -torch.expm1(10 * torch.log1p(-small)))
    assert twicing_response(small, 10)[0].item() == pytest.approx(1e-17, rel=1e-12)


@REPRODUCIBLE
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
)
def test_response_lies_in_0_1_and_grows_with_t(eigenvalues, t, longer):
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    first, second = (twicing_response(values, time) for time in sorted((t, t + longer)))
    assert (first >= 0).all()
    assert (second <= 1).all()
    assert (second >= first - 1e-15).all()


@pytest.mark.parametrize(
    ("eigenvalues", "t", "message"),
    [
        ([0.5, 2.0], 3, r"eigenvalues in \[0, 2\), not from 0\.5 to 2"),
        ([-0.1, 1.0], 3, r"not from -0\.1 to 1"),
        ([math.nan], 3, "not from nan"),
        ([0.5], -1, "must be finite and 0 or more, not -1"),
        ([0.5], math.nan, "not nan"),
        ([0.5], math.inf, "not inf"),
        ([0.5, 1.5], 2.5, r"must be whole, not 2\.5"),
    ],
)
def test_response_refuses(eigenvalues, t, message):
    with pytest.raises(ValueError, match=message):
        twicing_response(torch.tensor(eigenvalues, dtype=torch.float64), t)


def test_a_tensor_of_iterations_is_element_by_element():
    values = torch.tensor(ABOVE_ONE, dtype=torch.float64)
    times = torch.tensor([0, 1, 2, 7, 40], dtype=torch.float64)
    together = twicing_response(values, times[:, None])
    assert together.shape == (5, 6)
    for row, t in zip(together, times.tolist(), strict=True):
        assert torch.equal(row, twicing_response(values, t))
    paired = twicing_response(torch.tensor([0.5, 1e-9, 0.2]).double(), torch.tensor([0.5, 1e6, 0.0]))
    expected = [1 - 0.5**0.5, -math.expm1(1e6 * math.log1p(-1e-9)), 0]
    checks.identity("6", paired, expected)


@pytest.mark.parametrize(
    ("times", "message"),
    [([1.0, -2.0], "finite and 0 or more"), ([1.0, math.nan], "finite and 0"), ([2.0, 2.5], "must be whole")],
)
def test_a_tensor_of_iterations_is_refused_for_one_of_them(times, message):
    with pytest.raises(ValueError, match=message):
        twicing_response(torch.tensor([[0.5, 1.5]], dtype=torch.float64), torch.tensor(times)[:, None])


def batch_of_filters() -> SpectralFilter:
    """Three filters: of full rank, of rank 2, and of a black image."""
    alone = [SpectralFilter.from_matrix(symmetric(values, seed)) for seed, values in enumerate(BATCH)]
    return SpectralFilter(torch.stack([f.eigenvalues for f in alone]), torch.stack([f.basis for f in alone]))


BATCH = ([8.0, 4.0, 1.0, 0.5], [3.0, 1.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])


def test_a_batch_of_filters_is_each_of_them():
    batch, noisy = batch_of_filters().scaled(), torch.stack([signal(4, seed=seed) for seed in range(3)])
    assert batch.eigenvalues.isfinite().all()
    assert not batch.eigenvalues[2].any()
    times = torch.tensor([[2.0], [17.5], [9.0]], dtype=torch.float64)
    one, different = batch.apply(noisy, 30), batch.apply(noisy, times)
    for index in range(3):
        alone = SpectralFilter.from_matrix(symmetric(BATCH[index], index)).scaled()
        checks.identity("6", batch.eigenvalues[index] + 1, alone.eigenvalues + 1)
        for found, t in ((one, 30), (different, times[index].item())):
            torch.testing.assert_close(found[index], alone.apply(noisy[index], t), rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(batch.response(t)[index], alone.response(t), rtol=1e-10, atol=1e-12)


def test_iterates_are_apply_however_much_memory_there_is():
    filter_, noisy = SpectralFilter.from_matrix(symmetric(BELOW_ONE)), signal(7, channels=3)
    times = [1, 2.5, 10, 100, 3]
    for memory in (1, 2 * noisy.numel() * 8, 2**20):
        found = list(filter_.iterates(noisy, times, memory))
        assert [t for t, _ in found] == times
        for t, picture in found:
            checks.identity("6", picture, filter_.apply(noisy, t))
    assert list(filter_.iterates(noisy, [])) == []


@dataclass
class CountedBasis:
    """An orthonormal basis that notes how many columns each product gave."""

    vectors: Tensor
    widths: list[int] = field(default_factory=list)

    @property
    def mT(self) -> Tensor:
        return self.vectors.T

    def __matmul__(self, coefficients: Tensor) -> Tensor:
        self.widths.append(coefficients.shape[1])
        return self.vectors @ coefficients


@pytest.mark.parametrize(("pictures", "widths"), [(0, [3] * 5), (2, [6, 6, 3]), (5, [15]), (100, [15])])
def test_iterates_hold_no_more_pictures_than_the_memory_allows(pictures, widths):
    whole, noisy = SpectralFilter.from_matrix(symmetric(BELOW_ONE)), signal(7, channels=3)
    basis = CountedBasis(whole.basis)
    times = [1, 2, 3, 4, 5]
    list(SpectralFilter(whole.eigenvalues, basis).iterates(noisy, times, pictures * noisy.numel() * 8))
    assert basis.widths == widths


def test_scaled_sets_the_largest_eigenvalue_and_keeps_the_rest_in_proportion():
    filter_ = SpectralFilter.from_matrix(symmetric([8.0, 4.0, 1.0]))
    checks.identity("6", filter_.scaled().eigenvalues, [1.0, 0.5, 0.125])
    checks.identity("6", filter_.scaled(0.5).eigenvalues, [0.5, 0.25, 0.0625])
    assert filter_.scaled().basis is filter_.basis


def test_a_zero_filter_stays_zero():
    filter_ = SpectralFilter.from_matrix(torch.zeros(4, 4, dtype=torch.float64)).scaled()
    assert not filter_.apply(signal(4), 100).any()
    assert filter_.degrees_of_freedom(100) == 0
    none = SpectralFilter(torch.zeros(0, dtype=torch.float64), torch.zeros(4, 0, dtype=torch.float64)).scaled()
    assert not none.apply(signal(4), 100).any()


@pytest.mark.parametrize("eigenvalues", [ABOVE_ONE, BELOW_ONE])
@pytest.mark.parametrize("t", [1, 4, 33])
def test_degrees_of_freedom_bias_and_variance_are_those_of_the_literal_response(eigenvalues, t):
    matrix, clean, std = symmetric(eigenvalues), signal(len(eigenvalues), channels=3), 0.3
    filter_, response = SpectralFilter.from_matrix(matrix), literal_response(matrix, t)
    bias, variance = (response @ clean - clean).square().sum(), std**2 * response.square().sum()
    checks.identity("7", filter_.degrees_of_freedom(t), response.trace())
    checks.identity("7", filter_.squared_bias(clean, t), bias)
    checks.identity("7", filter_.variance(std, t), variance)
    checks.identity("7", filter_.mean_squared_error(clean, std, t), bias + 3 * variance)


def test_bias_counts_what_lies_outside_the_eigenvectors():
    whole = SpectralFilter.from_matrix(symmetric([1.0, 0.5, 0.25, 0.0, 0.0]))
    part = SpectralFilter(whole.eigenvalues[:3], whole.basis[:, :3])
    clean = signal(5)
    for t in (0, 1, 50):
        checks.identity("7", part.squared_bias(clean, t), whole.squared_bias(clean, t))
    assert part.squared_bias(clean, 10_000) > 0.01


@pytest.mark.parametrize("t", [1, 12, 400])
def test_mean_squared_error_7_is_the_average_over_noise(t):
    """Of a fixed filter, computed from another image; the draws are laid side by side as channels."""
    clean, std, draws = to_matrix(smooth_image(1, 6, 6)) - 0.5, 0.1, 20_000
    filter_ = SpectralFilter.from_matrix(PatchKernel(random_image(1, 6, 6), 3).dense()).scaled()
    noise = torch.from_numpy(np.random.default_rng(t).standard_normal((36, draws))) * std
    errors = (filter_.apply(clean + noise, t) - clean).square().sum(dim=0)
    checks.expectation("7", errors, filter_.mean_squared_error(clean, std, t))


def nlm_matrix(image: Tensor, bandwidth: float = 1.0) -> Tensor:
    return PatchKernel(image, 3, functools.partial(nlm_affinity, bandwidth=bandwidth)).dense()


@REPRODUCIBLE
@given(kernels(largest_side=5), st.floats(0.5, 2))
def test_normalisations_of_footnote_2(kernel, bandwidth):
    affinities = nlm_matrix(kernel.image, bandwidth)
    ones = torch.ones(len(affinities), dtype=torch.float64)
    by_rows = row_normalised(affinities)
    checks.identity("footnote 2", by_rows @ ones, ones)
    sums = affinities.sum(dim=1)
    checks.identity("footnote 2", by_rows, torch.diag(1 / sums) @ affinities)

    doubly = sinkhorn_normalised(affinities)
    assert torch.equal(doubly > 0, affinities > 0)
    checks.identity("footnote 2", doubly @ ones, ones, rtol=2e-10)
    checks.identity("footnote 2", doubly.T @ ones, ones, rtol=2e-10)
    checks.positive_semidefinite("footnote 2", doubly)
    scale = (doubly / affinities).diagonal().sqrt()
    checks.identity("footnote 2", doubly, torch.diag(scale) @ affinities @ torch.diag(scale))
    eigenvalues = torch.linalg.eigvalsh(doubly)
    assert eigenvalues.min() >= -1e-10
    assert eigenvalues.max() <= 1 + 1e-9
    # Row normalisation is similar to a positive semidefinite matrix: its eigenvalues are real and in [0, 1] too.
    rows = torch.linalg.eigvals(by_rows)
    assert rows.imag.abs().max() < 1e-6
    assert rows.real.min() > -1e-6
    assert rows.real.max() < 1 + 1e-9


def test_row_normalisation_is_not_symmetric():
    by_rows = row_normalised(nlm_matrix(random_image(1, 5, 5)))
    assert (by_rows - by_rows.T).abs().max() > 0.01 * by_rows.max()


def test_sinkhorn_keeps_the_mean_grey():
    doubly, noisy = sinkhorn_normalised(nlm_matrix(random_image(1, 6, 6))), signal(36)
    checks.identity("footnote 2", (doubly @ noisy).mean(dim=0), noisy.mean(dim=0), rtol=1e-9)


def test_sinkhorn_says_when_it_gives_up():
    affinities = nlm_matrix(random_image(1, 5, 5))
    with pytest.raises(ValueError, match=r"still .* off after 2 sweeps; accepted is 1\.0e-10"):
        sinkhorn_normalised(affinities, sweeps=2)
    with pytest.raises(ValueError, match="still nan off"):
        sinkhorn_normalised(-affinities)


def test_sinkhorn_stops_at_the_tolerance_asked_for():
    affinities = nlm_matrix(random_image(1, 5, 5))
    rough = sinkhorn_normalised(affinities, tolerance=1e-2)
    error = (rough.sum(dim=1) - 1).abs().max().item()
    assert 1e-10 < error <= 1e-2 * (1 + 1e-12)


def test_an_eigenvalue_over_1_by_rounding_counts_as_1():
    values = torch.tensor([1 + 2**-52, 1 + 2**-51, 0.5], dtype=torch.float64)
    checks.identity("6", twicing_response(values, 0.5), [1, 1, 1 - math.sqrt(0.5)])
    checks.identity("6", twicing_response(values, 3), [1, 1, 0.875])
