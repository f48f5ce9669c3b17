"""Gradient descent in closed form agrees with loops, linear algebra and networks that are really trained."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_images import random_image
from torch import Tensor

from ntkbook import printed
from ntkbook.dynamics import descent, descent_distribution, descent_step, descent_sum, weight_change
from ntkbook.filters import SpectralFilter
from ntkbook.images import to_matrix
from ntkbook.layers import Serial, vanilla
from ntkbook.networks import build
from ntkbook.tangent import EmpiricalKernel, jacobian
from ntkbook.training import gradient_descent
from ntkbook.widths import weight_changes

PIXELS, CHANNELS = 6, 2
REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=40)


def symmetric(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    normal = torch.from_numpy(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))
    vectors = torch.linalg.qr(normal)[0]
    return vectors * torch.tensor(eigenvalues, dtype=torch.float64) @ vectors.T


def images(seed: int) -> tuple[Tensor, Tensor]:
    normal = np.random.default_rng(seed).standard_normal
    return tuple(torch.from_numpy(normal((PIXELS, CHANNELS))) for _ in range(2))


@st.composite
def problems(draw) -> tuple[Tensor, Tensor, Tensor, int]:
    eigenvalues = draw(st.lists(st.floats(0, 1.99), min_size=PIXELS, max_size=PIXELS))
    seed = draw(st.integers(0, 99))
    return symmetric(eigenvalues, seed), *images(seed + 100), draw(st.integers(0, 12))


def looped(filter_matrix: Tensor, start: Tensor, target: Tensor, iterations: int) -> Tensor:
    """Twicing entry by entry, nothing but numbers."""
    weights, z, y = filter_matrix.tolist(), start.tolist(), target.tolist()
    for _ in range(iterations):
        left = [[y[q][c] - z[q][c] for c in range(CHANNELS)] for q in range(PIXELS)]
        z = [
            [z[p][c] + sum(weights[p][q] * left[q][c] for q in range(PIXELS)) for c in range(CHANNELS)]
            for p in range(PIXELS)
        ]
    return torch.tensor(z, dtype=torch.float64)


@REPRODUCIBLE
@given(problems())
def test_closed_forms_are_the_loop(problem):
    expected = looped(*problem)
    for form in (descent, descent_sum):
        torch.testing.assert_close(form(*problem), expected, rtol=1e-9, atol=1e-9)


@REPRODUCIBLE
@given(problems())
def test_a_step_is_one_turn_of_the_loop(problem):
    filter_matrix, start, target, _ = problem
    expected = looped(filter_matrix, start, target, 1)
    torch.testing.assert_close(descent_step(filter_matrix, start, target), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", [descent, descent_sum])
def test_no_step_leaves_the_start(form):
    start, target = images(1)
    torch.testing.assert_close(form(symmetric([0.0, 0.1, 0.5, 1.0, 1.5, 1.9]), start, target, 0), start)


def test_from_zero_it_is_the_spectral_filter():
    _, target = images(2)
    matrix = symmetric([0.0, 0.01, 0.2, 0.7, 1.0, 1.0])
    expected = SpectralFilter.from_matrix(matrix).apply(target, 9)
    torch.testing.assert_close(descent(matrix, torch.zeros_like(target), target, 9), expected)


@pytest.mark.parametrize(
    ("eigenvalue", "shares"),
    [(0.0, [0, 0, 0]), (1.0, [1, 1, 1]), (1.5, [1.5, 0.75, 1.125]), (2.0, [2, 0, 2]), (2.5, [2.5, -1.25, 4.375])],
)
def test_share_of_one_eigenvector(eigenvalue, shares):
    one = torch.ones(1, 1).double()
    for t, share in enumerate(shares, start=1):
        for form in (descent, descent_sum):
            assert form(eigenvalue * one, 0 * one, one, t).item() == pytest.approx(share, abs=1e-14)


@pytest.mark.parametrize(("largest", "arrives"), [(0.5, True), (1.0, True), (1.9, True), (2.1, False)])
def test_the_bound_on_the_step_is_two(largest, arrives):
    start, target = images(3)
    end = descent(symmetric([0.3, 0.4, 0.5, 0.5, 0.5, largest]), start, target, 400)
    assert ((end - target).norm() < 1e-9) == arrives
    assert arrives or (end - target).norm() > 1e6


def test_a_singular_filter_keeps_what_it_does_not_see():
    matrix = symmetric([0.0, 0.5, 0.5, 1.0, 1.0, 1.0])
    start, target = images(4)
    unseen = torch.linalg.eigh(matrix)[1][:, :1]
    end = descent(matrix, start, target, 500)
    torch.testing.assert_close(unseen.T @ end, unseen.T @ start)
    rest = torch.eye(PIXELS) - unseen @ unseen.T
    torch.testing.assert_close(rest @ end, rest @ target)


def test_distribution_is_that_of_an_affine_map():
    matrix, root = symmetric([0.1, 0.2, 0.5, 0.9, 1.0, 1.3]), symmetric([0.1, 0.5, 1, 1, 2, 3], seed=5)
    _, target = images(6)
    found = descent_distribution(matrix, root @ root, target, 4)
    # z is a + B g for standard normal g: read a and B off the map itself
    zero = torch.zeros(PIXELS, CHANNELS).double()
    torch.testing.assert_close(found.mean, looped(matrix, zero, target, 4))
    columns = [descent_sum(matrix, root[:, i : i + 1], 0 * root[:, :1], 4) for i in range(PIXELS)]
    linear = torch.cat(columns, dim=1)
    torch.testing.assert_close(found.covariance, linear @ linear.T)


def test_distribution_at_the_start_and_at_the_end():
    matrix, prior = symmetric([0.2, 0.3, 0.5, 0.9, 1.0, 1.3]), symmetric([0.1, 0.5, 1, 1, 2, 3], seed=7)
    _, target = images(8)
    begun, ended = (descent_distribution(matrix, prior, target, t) for t in (0, 300))
    assert begun.mean.abs().max() == 0
    torch.testing.assert_close(begun.covariance, prior)
    torch.testing.assert_close(ended.mean, target)
    assert ended.covariance.abs().max() < 1e-12


def test_printed_forms_fail_where_the_chapter_says():
    matrix = symmetric([0.1, 0.2, 0.4, 0.5, 0.8, 0.9])
    _, target = images(9)
    zero = torch.zeros_like(target)
    assert printed.equation_64(matrix, zero, target, 1).abs().max() == 0
    torch.testing.assert_close(printed.equation_65(matrix, zero, target, 1), target)
    one, none = printed.equation_65(matrix, zero, target, 5), printed.equation_64(matrix, zero, target, 5)
    torch.testing.assert_close(one - none, target)  # (65) sums from k = 0, (64) from k = 1
    far = printed.equation_65(matrix, zero, target, 1000)
    torch.testing.assert_close(far, torch.linalg.solve(torch.eye(PIXELS) - matrix, target))


def last_layer_only(spec: Serial, x: Tensor) -> torch.nn.Sequential:
    network = build(spec, 5, inputs=len(x), outputs=len(x), seed=10, dtype=torch.float64)
    for parameter in list(network.parameters())[:-1]:
        parameter.requires_grad_(False)
    return network


@pytest.mark.parametrize("from_zero", [True, False])
def test_training_the_last_layer_is_descent(from_zero):
    x = random_image(2, 4, 5)
    network = last_layer_only(vanilla(3, 3, output=3), x)
    kernel = EmpiricalKernel(network, x)
    own, start = kernel.dense(), to_matrix(kernel.output.detach())
    step = 1.5 / torch.linalg.eigvalsh(own)[-1].item()
    expected = descent(step * own, 0 * start if from_zero else start, to_matrix(x), 7)
    ((_, output),) = gradient_descent(network, x, x, step, [7], from_zero)
    torch.testing.assert_close(to_matrix(output), expected, rtol=1e-10, atol=1e-10)


def test_weight_change_of_the_last_layer():
    x = random_image(2, 4, 5)
    network = last_layer_only(vanilla(3, 3, output=3), x)
    own = EmpiricalKernel(network, x).dense()
    step = 1 / torch.linalg.eigvalsh(own)[-1].item()
    before = network[-1].weight.detach().clone()
    outputs = [z for _, z in gradient_descent(network, x, x, step, range(7))]
    residuals = sum(to_matrix(x - z) for z in outputs[:-1])
    moved = (network[-1].weight.detach() - before).norm().item()
    assert weight_change(own, residuals, step) == pytest.approx(moved, rel=1e-12)


def test_weight_change_of_every_layer_in_one_step():
    x = random_image(1, 4, 5)
    network = build(vanilla(3, 3), 5, inputs=1, outputs=1, seed=11, dtype=torch.float64)
    laws = [weight_change(J @ J.T, to_matrix(x), 0.01) for J in jacobian(network, x).values()]
    before = [p.detach().clone() for p in network.parameters()]
    list(gradient_descent(network, x, x, 0.01, [1]))
    moved = [each["l2"] for each in weight_changes(before, network.parameters())]
    assert laws == pytest.approx(moved, rel=1e-12)


def test_weight_change_of_a_diagonal_kernel():
    residuals = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double()
    own = torch.diag(torch.tensor([4.0, 16.0]).double())
    assert weight_change(own, residuals, 0.1) == pytest.approx(0.1 * math.sqrt(4 * 9 + 16), rel=1e-14)
