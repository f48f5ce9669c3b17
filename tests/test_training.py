"""Plain gradient descent: the literal loop, the order of its outputs, and what it refuses."""

import pytest
import torch
from tiny_images import random_image

from ntkbook.layers import Conv, Relu, Serial, vanilla
from ntkbook.networks import build
from ntkbook.tangent import EmpiricalKernel
from ntkbook.training import gradient_descent

X = random_image(3, 6, 6)
TARGET = random_image(3, 6, 6, seed=1)


def network():
    return build(vanilla(3, 3), 5, seed=4, dtype=torch.float64)


def literal(iterations: int, step: float, offset: torch.Tensor) -> torch.Tensor:
    """PyTorch's own optimiser."""
    trained = network()
    optimiser = torch.optim.SGD(trained.parameters(), lr=step)
    for _ in range(iterations):
        optimiser.zero_grad()
        (0.5 * (trained(X[None])[0] - offset - TARGET).square().sum()).backward()
        optimiser.step()
    return trained(X[None])[0].detach() - offset


@pytest.mark.parametrize("from_zero", [True, False])
def test_it_is_the_step_of_sgd(from_zero):
    start = network()(X[None])[0].detach()
    offset = start if from_zero else torch.zeros_like(start)
    found = dict(gradient_descent(network(), X, TARGET, 1e-3, [0, 1, 7], from_zero))
    assert list(found) == [0, 1, 7]
    torch.testing.assert_close(found[0], start - offset, rtol=0, atol=0)
    for iterations in (1, 7):
        torch.testing.assert_close(found[iterations], literal(iterations, 1e-3, offset), rtol=1e-12, atol=1e-12)


def test_a_small_step_is_the_tangent_kernel_times_the_residual():
    trained = network()
    expected = EmpiricalKernel(trained, X).product(TARGET)
    ((_, output),) = gradient_descent(trained, X, TARGET, 1e-8, [1])
    torch.testing.assert_close(output / 1e-8, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_frozen_parameters_stay():
    trained = network()
    first = next(trained.parameters()).requires_grad_(False)
    before = first.clone()
    list(gradient_descent(trained, X, TARGET, 1e-3, [3]))
    assert torch.equal(first, before)


def test_divergence_is_told_with_its_iteration_and_step():
    trained = build(Serial(Conv(3), Relu(), Conv(3)), 8, seed=0, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"diverged at iteration \d+ with the step 1e\+06"):
        list(gradient_descent(trained, X, TARGET, 1e6, [100]))
