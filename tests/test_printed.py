"""The equations that fail as printed: what the functions compute, and by how much it misses the right form."""

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tiny_images import random_image
from torch import Tensor

from ntkbook import checks, dynamics, gaussian_process, printed
from ntkbook.adam import Adam, Averages, metric
from ntkbook.errata import ERRATA
from ntkbook.kernels import infinite_width
from ntkbook.layers import vanilla
from ntkbook.matrix_form import error_gradients, preactivations
from ntkbook.networks import build
from ntkbook.propagation import (
    convolution_map,
    layer_covariance,
    layer_tangent,
    preactivation_covariance,
)
from ntkbook.tangent import EmpiricalKernel, jacobian

PACKAGE = Path(printed.__file__).parent
SHAPE, PIXELS, SIZE = (3, 4), 12, 3
WITHOUT_A_FUNCTION = {
    21: "a statement about an order, with no formula",
    22: "the same step as (23), which names its kernel",
    29: "its compact form is (30), which has lost the same factor",
    39: "a statement about a limit: the right values are numbers, and no printed formula gives others",
    69: "a statement about the range of a kernel, not a formula",
    74: "nystrom.literal_eigenpairs is the formula as printed; what is wrong is its use in (6)",
}
NUMBERED = {int(name.removeprefix("equation_")) for name in vars(printed) if name.startswith("equation_")}


def window(pixel: int, size: int = SIZE) -> list[int]:
    """Row-major indices of the window around a pixel, periodic."""
    (height, width), reach = SHAPE, range(-(size // 2), size // 2 + 1)
    row, column = divmod(pixel, width)
    return [(row + i) % height * width + (column + j) % width for i in reach for j in reach]


def by_entries(entry: Callable[[int, int], float]) -> Tensor:
    """A matrix (pixels, pixels) from a function of two pixels."""
    rows = [[float(entry(p, q)) for q in range(PIXELS)] for p in range(PIXELS)]
    return torch.tensor(rows, dtype=torch.float64)


def offsets(matrix: Tensor, size: int = SIZE) -> Tensor:
    """The map A: a mean over pairs of pixels at the same offset in their windows."""
    pairs = [[list(zip(window(p, size), window(q, size), strict=True)) for q in range(PIXELS)] for p in range(PIXELS)]
    return by_entries(lambda p, q: sum(matrix[i, j] for i, j in pairs[p][q]) / size**2)


def angle(matrix: Tensor, p: int, q: int) -> float:
    """The angle of two pixels."""
    return 0.0 if p == q else math.acos(matrix[p, q] / math.sqrt(matrix[p, p] * matrix[q, q]))


def features(matrix: Tensor) -> Tensor:
    """The map V of the relu, (38)."""

    def entry(p: int, q: int) -> float:
        phi = angle(matrix, p, q)
        return math.sqrt(matrix[p, p] * matrix[q, q]) / math.pi * (math.sin(phi) + (math.pi - phi) * math.cos(phi))

    return by_entries(entry)


def slopes(matrix: Tensor) -> Tensor:
    """The map V' of the relu, (52)."""
    return by_entries(lambda p, q: 1 - angle(matrix, p, q) / math.pi)


def products(channels: Tensor) -> Tensor:
    """Mean over the channels of the products of two pixels."""
    rows = channels.flatten(1).tolist()
    return by_entries(lambda p, q: sum(row[p] * row[q] for row in rows) / len(rows))


def circulant(kernel: Tensor) -> Tensor:
    """The matrix of one periodic convolution, entry by entry; the kernel is (size, size)."""
    matrix = torch.zeros(PIXELS, PIXELS, dtype=torch.float64)
    for pixel in range(PIXELS):
        for weight, at in zip(kernel.flatten(), window(pixel, len(kernel)), strict=True):
            matrix[pixel, at] += weight
    return matrix


def over_largest(kernel: Tensor) -> Tensor:
    """Scaled to the largest eigenvalue 1."""
    return kernel / torch.linalg.eigvalsh(kernel)[-1]


class Case(NamedTuple):
    """A printed form, the same by loops, the right form, and a bound of the error that holds on this problem."""

    printed: Tensor
    literal: Tensor
    right: Tensor
    at_least: float


GRAY, COLOUR = random_image(1, *SHAPE, seed=1), random_image(3, *SHAPE, seed=2)
ADAM, TARGET = Adam(1e-3), random_image(3, *SHAPE, seed=3)
COVARIANCE = preactivation_covariance(COLOUR, SIZE)
NETWORK = build(vanilla(3, 3, 3, output=3, padding="circular"), 4, 1, 1, 5, dtype=torch.float64)
WEIGHTS = [weight.detach() for weight in NETWORK.parameters()]
FOUND = preactivations(WEIGHTS, GRAY)
TARGET = random_image(1, *SHAPE, seed=3)
ERRORS = error_gradients(WEIGHTS, FOUND, TARGET)
PRIOR = infinite_width(vanilla(3, padding="circular"), COLOUR).nngp
CLEAN, NOISY = (random_image(2, *SHAPE, seed=seed).flatten(1).T for seed in (4, 5))
FILTER, STEPS = 0.9 * over_largest(PRIOR), 6


def first_two_layers() -> Case:
    """(12)."""
    right = layer_covariance(preactivation_covariance(GRAY, SIZE), SHAPE, SIZE)
    return Case(printed.equation_12(GRAY, SIZE), features(offsets(products(GRAY))), right, 0.5)


def recursion() -> Case:
    """(11), with the map A in its base case, which (12) forgets; kernels of 3x3, 3x3 and 1x1."""
    spec = vanilla(3, 3, padding="circular")
    second = offsets(features(offsets(products(COLOUR))))
    output = features(second) + slopes(second) * second
    right = over_largest(infinite_width(spec, COLOUR, "standard").ntk)
    return Case(over_largest(printed.equation_11(spec, COLOUR)), over_largest(output), right, 0.1)


def all_pairs() -> Case:
    """(13)."""

    def entry(p: int, q: int) -> float:
        return sum(COVARIANCE[i, j] for i, j in itertools.product(window(p), window(q))) / SIZE**2

    right = convolution_map(COVARIANCE, SHAPE, SIZE)
    return Case(printed.equation_13(COVARIANCE, SHAPE, SIZE), by_entries(entry), right, 1)


def own_channel_alone() -> Case:
    """(23) for layer 3, from the blocks of the kernel with a metric."""
    cut, rng = NETWORK[:5], np.random.default_rng(6)
    H = {name: torch.from_numpy(rng.uniform(0.5, 2, tuple(p.shape))) for name, p in cut.named_parameters()}
    J = {name: rows.unflatten(0, (4, PIXELS)) for name, rows in jacobian(cut, GRAY).items()}
    blocks = [sum(J[name][i] * H[name].flatten() @ J[name][i].T for name in J) for i in range(4)]
    literal = torch.stack([-0.1 * block @ error.flatten() for block, error in zip(blocks, ERRORS[2], strict=True)])
    kernel = EmpiricalKernel(cut, GRAY, H)
    found = printed.equation_23(kernel, ERRORS[2], 0.1)
    return Case(found, literal.view(found.shape), -0.1 * kernel.product(ERRORS[2]), 0.1)


def one_channel() -> Case:
    """(30): half of the right form."""
    right = preactivation_covariance(GRAY, SIZE)
    return Case(printed.equation_30(GRAY, SIZE), offsets(products(GRAY)), right, 0.499999)


def later_layer() -> Case:
    """(35) for one of 16 channels: 9 * 16 / 2 times the right form."""
    channel = GRAY.clamp_min(0)
    values = channel.flatten()
    entries = by_entries(lambda p, q: sum(values[i] * values[j] for i, j in zip(window(p), window(q), strict=True)))
    right = preactivation_covariance(channel, SIZE) / 16
    return Case(printed.equation_35(channel[0], SIZE), entries, right, 70.99)


def posterior_mean() -> Case:
    """(43): the mean."""
    inverse = np.linalg.inv(PRIOR.numpy())
    literal = np.linalg.solve(np.eye(PIXELS) + 0.04 * inverse, CLEAN.numpy())
    right = gaussian_process.posterior(PRIOR, NOISY, 0.2).mean
    return Case(printed.equation_43(PRIOR, CLEAN, 0.2).mean, torch.from_numpy(literal), right, 0.1)


def error_gradient() -> Case:
    """(45) for layer 3: by automatic differentiation, the gradient that belongs to layer 2."""
    with torch.no_grad():
        second = NETWORK[:3](GRAY[None])
    second.requires_grad_(True)
    loss = 0.5 * (NETWORK[3:](second)[0] - TARGET).square().sum()
    literal = torch.autograd.grad(loss, second)[0][0]
    return Case(printed.equation_45(ERRORS, 3), literal, ERRORS[2], 0.1)


def backward_recursion() -> Case:
    """(50) for layer 2."""
    layer = 2
    literal = [
        (FOUND[layer - 2][i].flatten() > 0)
        * sum(circulant(WEIGHTS[layer - 1][j, i]).T @ ERRORS[layer][j].flatten() for j in range(4))
        for i in range(4)
    ]
    found = printed.equation_50(WEIGHTS, FOUND, ERRORS, layer)
    return Case(found, torch.stack(literal).view(found.shape), ERRORS[layer - 1], 0.1)


def base_case() -> Case:
    """(59), with 16 channels."""
    covariance = preactivation_covariance(GRAY, SIZE)
    right = 16 * layer_tangent(covariance, 9 / 2 * covariance / 16, SHAPE, SIZE, own=9 / 2)
    return Case(printed.equation_59(GRAY, SIZE, 16), 16 * features(offsets(products(GRAY))), right, 0.5)


def finite_recursion() -> Case:
    """(61), from the kernels of the single channels of layer 3."""
    below = sum(block @ block.T for block in jacobian(NETWORK[:5], GRAY).values()).view(4, PIXELS, 4, PIXELS)
    tangent = torch.stack([below[j, :, j] for j in range(4)])
    literal = torch.zeros(PIXELS, PIXELS, dtype=torch.float64)
    for j, channel in enumerate(FOUND[2]):
        slope = torch.diag((channel.flatten() > 0).double())
        matrix = circulant(WEIGHTS[3][0, j])
        literal += offsets(products(channel[None].clamp_min(0))) + matrix @ slope @ tangent[j] @ slope @ matrix.T
    right = EmpiricalKernel(NETWORK, GRAY).dense()
    return Case(printed.equation_61(WEIGHTS[3], FOUND[2], tangent), literal, right, 0.1)


def limit_recursion() -> Case:
    """(62)."""
    after = offsets(features(COVARIANCE))
    literal = after + offsets(slopes(after) * PRIOR)
    right = layer_tangent(COVARIANCE, PRIOR, SHAPE, SIZE)
    return Case(printed.equation_62(COVARIANCE, PRIOR, SHAPE, SIZE), literal, right, 0.01)


def powers(first: int) -> Tensor:
    """The sum of the powers of the filter up to t - 1, applied to the noisy image."""
    return sum(torch.linalg.matrix_power(FILTER, k) @ NOISY for k in range(first, STEPS))


def decayed_start() -> Tensor:
    """The part of the start that is left after t steps."""
    start = CLEAN
    for _ in range(STEPS):
        start = start - FILTER @ start
    return start


def sum_of_powers() -> Case:
    """(64)."""
    right = dynamics.descent_sum(FILTER, CLEAN, NOISY, STEPS)
    return Case(printed.equation_64(FILTER, CLEAN, NOISY, STEPS), decayed_start() + powers(1), right, 0.1)


def geometric_series() -> Case:
    """(65): what the inverse stands for is the sum from k = 0."""
    right = dynamics.descent(FILTER, CLEAN, NOISY, STEPS)
    return Case(printed.equation_65(FILTER, CLEAN, NOISY, STEPS), decayed_start() + powers(0), right, 0.1)


def mean_after_training() -> Case:
    """(66): the mean."""
    right = dynamics.descent_distribution(FILTER, PRIOR, NOISY, STEPS).mean
    return Case(printed.equation_66(FILTER, PRIOR, NOISY, STEPS).mean, powers(0), right, 0.1)


def several_channels() -> Case:
    """(68): half of the right form."""
    right = preactivation_covariance(COLOUR, SIZE)
    return Case(printed.equation_68(COLOUR, SIZE), offsets(products(COLOUR)), right, 0.499999)


def second_step_of_adam() -> tuple[EmpiricalKernel, Tensor, dict, dict, dict, dict, dict]:
    """Before PyTorch's second step: kernel, Jacobian, metric, gradient, the last change; then the metric before it and
    the step itself.
    """
    network = build(vanilla(3), 4, dtype=torch.float64)
    optimiser = torch.optim.Adam(network.parameters(), ADAM.learning_rate, ADAM.betas)
    memory, known, changes = Averages.of_nothing(dict(network.named_parameters())), [], []
    for _ in range(2):
        kernel = EmpiricalKernel(network, COLOUR)
        rows = torch.cat(list(jacobian(network, COLOUR).values()), dim=1)
        gradient = kernel.pull(kernel.output - TARGET)
        memory = memory.after(gradient, ADAM)
        known.append((metric(memory, ADAM), gradient))
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for name, parameter in network.named_parameters():
            parameter.grad = gradient[name]
        optimiser.step()
        changes.append({name: p.detach() - before[name] for name, p in network.named_parameters()})
    (earlier, _), (now, gradient) = known
    network.load_state_dict(before)
    return EmpiricalKernel(network, COLOUR, now), rows, now, gradient, changes[0], earlier, changes[1]


def in_one(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in named.values()])


def step_of_adam() -> Case:
    """(18): at the second step the momentum is about twice what it should be."""
    _, _, now, gradient, last, _, right = second_step_of_adam()
    rate = ADAM.learning_rate * (1 - ADAM.betas[0])
    literal = -rate * in_one(now) * in_one(gradient) + ADAM.betas[0] * in_one(last)
    return Case(in_one(printed.equation_18(now, gradient, ADAM, last)), literal, in_one(right), 0.3)


def output_under_adam() -> Case:
    """(20): the same, pushed forwards."""
    kernel, rows, now, _, last, earlier, _ = second_step_of_adam()
    residual = TARGET - kernel.output
    changed = rows @ in_one(last)
    rate, beta = ADAM.learning_rate * (1 - ADAM.betas[0]), ADAM.betas[0]
    filtered = rate * rows @ (in_one(now) * (rows.T @ residual.flatten()))
    carried = rows @ (in_one(now) / in_one(earlier) * in_one(last))
    found = printed.equation_20(kernel, residual, ADAM, changed.view_as(residual))
    return Case(found.flatten(), filtered + beta * changed, filtered + beta * carried, 0.2)


CASES: dict[int, Callable[[], Case]] = {
    11: recursion,
    12: first_two_layers,
    13: all_pairs,
    18: step_of_adam,
    20: output_under_adam,
    23: own_channel_alone,
    30: one_channel,
    35: later_layer,
    43: posterior_mean,
    45: error_gradient,
    50: backward_recursion,
    59: base_case,
    61: finite_recursion,
    62: limit_recursion,
    64: sum_of_powers,
    65: geometric_series,
    66: mean_after_training,
    68: several_channels,
}


@pytest.mark.parametrize("number", CASES)
def test_the_function_is_what_is_printed_and_that_is_wrong(number):
    case = CASES[number]()
    checks.identity(str(number), case.printed, case.literal)
    checks.printed_fails(str(number), case.printed, case.right, at_least=case.at_least)


def test_every_function_is_tested_and_has_an_erratum():
    assert set(CASES) == NUMBERED
    assert set(ERRATA) >= NUMBERED


def test_every_erratum_has_a_printed_function_or_a_reason_for_none():
    assert set(ERRATA) - NUMBERED == set(WITHOUT_A_FUNCTION)


def test_what_is_right_in_an_equation_with_a_slip():
    covariance = gaussian_process.posterior(PRIOR, NOISY, 0.2).covariance
    checks.identity("43", printed.equation_43(PRIOR, CLEAN, 0.2).covariance, covariance)
    covariance = dynamics.descent_distribution(FILTER, PRIOR, NOISY, STEPS).covariance
    checks.identity("66", printed.equation_66(FILTER, PRIOR, NOISY, STEPS).covariance, covariance)


def test_the_recursion_as_printed_holds_for_equal_kernel_sizes():
    spec = vanilla(3, 3, output=3, padding="circular")
    right = over_largest(infinite_width(spec, COLOUR, "standard").ntk)
    checks.identity("11", over_largest(printed.equation_11(spec, COLOUR)), right)


def test_the_recursion_as_printed_holds_with_the_right_covariance_in_the_slope():
    """(62) is off by one index only: where all pixels have one angle to each other nothing is left of the slip."""
    parallel = torch.ones(PIXELS, PIXELS, dtype=torch.float64)
    right = layer_tangent(parallel, COVARIANCE, SHAPE, SIZE)
    checks.identity("62", printed.equation_62(parallel, COVARIANCE, SHAPE, SIZE), right)


def test_the_two_layer_kernel_as_printed_has_the_right_shape_for_a_single_pixel_output():
    """(12) forgets the map A of the last layer, which is the identity for a 1x1 kernel; a factor is left."""
    right = layer_covariance(preactivation_covariance(GRAY, SIZE), SHAPE, 1)
    checks.identity("12", 2 * printed.equation_12(GRAY, SIZE), right)


def test_the_geometric_series_as_printed_needs_an_inverse_that_may_not_exist():
    unit = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
    start, target = torch.zeros(2, 1).double(), torch.ones(2, 1).double()
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        printed.equation_65(unit, start, target, 3)
    checks.identity("65", dynamics.descent(unit, start, target, 3), torch.tensor([[1.0], [0.875]]).double())


def test_nothing_in_the_package_uses_a_printed_form():
    used = re.compile(r"\bimport printed\b|\bfrom ntkbook\.printed\b|\bntkbook\.printed\.|\bimport .*, printed\b")
    for path in PACKAGE.glob("*.py"):
        code = [line for line in path.read_text(encoding="utf-8").splitlines() if "import" in line]
        assert not any(used.search(line) for line in code), f"{path.name} imports what is known to be wrong"


@pytest.mark.parametrize("number", ERRATA)
def test_an_erratum_says_in_a_sentence_or_two_what_is_wrong_and_what_follows(number):
    for text in ERRATA[number]:
        sentences = re.findall(r"[.](?=\s|$)", text)
        assert len(sentences) in (1, 2), text
        assert text == text.strip() and text.endswith(".") and re.match(r"[A-Z(]|sigma_w", text), text
        assert "  " not in text and "\n" not in text, text
