"""Plain gradient descent: the literal loop, the order of its outputs, and what it refuses; rules and their end."""

import dataclasses
import math
import re

import pytest
import torch
from tiny_images import random_image

from ntkbook.adam import Adam
from ntkbook.layers import Conv, Relu, Serial, vanilla
from ntkbook.networks import build
from ntkbook.tangent import EmpiricalKernel
from ntkbook.training import GradientDescent, Stopping, gradient_descent

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


# The rules, and when training ends


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
def test_rules_refuse_what_is_not_a_positive_number(value):
    with pytest.raises(ValueError, match=re.escape(f"The gamma of gradient descent must be positive, not {value}.")):
        GradientDescent(value)
    with pytest.raises(ValueError, match=re.escape(f"The learning rate of Adam must be positive, not {value}.")):
        Adam(value)


@pytest.mark.parametrize("betas", [(1.0, 0.99), (0.9, 1.0), (-0.1, 0.99), (0.9, math.nan)])
def test_adam_refuses_betas(betas):
    with pytest.raises(ValueError, match=re.escape(f"betas must be at least 0 and below 1, not {betas}.")):
        Adam(1e-3, betas)
    assert Adam(1e-3, (0.0, 0.0)).betas == (0, 0)


def test_adam_is_set_as_in_the_paper():
    assert (Adam(1e-3).betas, GradientDescent().gamma) == ((0.9, 0.99), 1)


@pytest.mark.parametrize(
    ("stopping", "best", "last"),
    [
        (Stopping(), 0, 100),
        (Stopping(), 1, 101),
        (Stopping(), 200, 300),
        (Stopping(), 201, 301),  # half of it is 100.5
        (Stopping(), 202, 303),
        (Stopping(), 2000, 3000),
        (Stopping(patience=1000), 1999, 2999),
        (Stopping(patience=0), 7, 10),
        (Stopping(patience=5, share=0), 10_000, 10_005),
        (Stopping(share=2), 100, 300),
        (Stopping(largest=50), 0, 50),
        (Stopping(largest=1), 0, 1),
        (Stopping(largest=2500), 2000, 2500),
    ],
)
def test_training_ends_when_it_has_waited_long_enough(stopping, best, last):
    assert stopping.last(best) == last
    assert not any(stopping.ends(t, best) for t in (0, best, last))
    assert all(stopping.ends(t, best) for t in (last + 1, last + 1000))


@pytest.mark.parametrize("change", [{"patience": -1}, {"share": -0.1}, {"largest": 0}])
def test_stopping_refuses(change):
    message = "Patience and share must be 0 or more and the largest number 1 or more, not Stopping"
    with pytest.raises(ValueError, match=message) as refusal:
        dataclasses.replace(Stopping(), **change)
    assert all(f"{name}={value}" in str(refusal.value) for name, value in change.items())
