"""The network written with matrices is the one of loops, of PyTorch's convolutions and of automatic differentiation."""

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_kernels import position
from tiny_images import random_image
from torch import Tensor

from ntkbook import checks
from ntkbook.images import PADDINGS
from ntkbook.layers import vanilla
from ntkbook.matrix_form import convolution_matrix, error_gradients, preactivations, weight_gradient
from ntkbook.networks import build

SIZES = (3, 5, 1, 3)
SHAPE = (4, 5)


def random_weight(outputs: int, inputs: int, size: int, seed: int = 0) -> Tensor:
    """Independent numbers of no particular scale."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((outputs, inputs, size, size)))


def literal_matrix(weight: Tensor, shape: tuple[int, int], padding: str) -> Tensor:
    """One entry after the other: row (i, p), column (j, q) sums the weights whose offset leads from p to q."""
    outputs, inputs, size, _ = weight.shape
    height, width = shape
    matrix = torch.zeros(outputs, height, width, inputs, height, width, dtype=weight.dtype)
    ends = (range(outputs), range(inputs), range(height), range(width), range(size), range(size))
    for i, j, row, column, k, m in itertools.product(*ends):
        source = position(row + k - size // 2, height, padding), position(column + m - size // 2, width, padding)
        if None not in source:
            matrix[(i, row, column, j, *source)] += weight[i, j, k, m]
    return matrix.flatten(3).flatten(0, 2)


def network(padding: str, inputs: int = 2, channels: int = 3, outputs: int = 2, seed: int = 0):
    """The network of four layers and its weights, in float64."""
    spec = vanilla(*SIZES[:-1], output=SIZES[-1], padding=padding)
    built = build(spec, channels, inputs, outputs, seed, dtype=torch.float64)
    return built, [p.detach() for p in built.parameters()]


def by_autograd(weights: Sequence[Tensor], x: Tensor, target: Tensor, padding: str) -> tuple[tuple[Tensor, ...], ...]:
    """Gradients of half the squared error by the weights, and by the pre-activations, through PyTorch's layers."""
    spec = vanilla(*SIZES[:-1], output=SIZES[-1], padding=padding)
    built = build(spec, len(weights[0]), len(x), len(target), dtype=torch.float64)
    for parameter, weight in zip(built.parameters(), weights, strict=True):
        parameter.data.copy_(weight)
    seen, u = [], x[None]
    for layer in built:
        u = layer(u)
        if hasattr(layer, "weight"):
            seen.append(u)
    loss = (seen[-1][0] - target).square().sum() / 2
    by_weights = torch.autograd.grad(loss, tuple(built.parameters()), retain_graph=True)
    return by_weights, tuple(each[0] for each in torch.autograd.grad(loss, seen))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [1, 3])
def test_the_matrix_is_that_of_loops(padding, size):
    weight = random_weight(2, 3, size)
    checks.identity("1", convolution_matrix(weight, SHAPE, padding), literal_matrix(weight, SHAPE, padding))


@given(st.integers(3, 6), st.integers(3, 6), st.sampled_from([1, 3, 5]), st.sampled_from(PADDINGS), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_the_matrix_does_what_a_convolution_does(height, width, size, padding, seed):
    weight, x = random_weight(3, 2, size, seed), random_image(2, height, width, seed)
    mode = {"reflect": "reflect", "circular": "circular", "zeros": "constant"}[padding]
    padded = torch.nn.functional.pad(x[None], (size // 2,) * 4, mode=mode)
    expected = torch.nn.functional.conv2d(padded, weight)[0]
    found = convolution_matrix(weight, (height, width), padding) @ x.flatten()
    checks.identity("1", found.view(expected.shape), expected)


def test_a_window_as_wide_as_the_torus_and_wider_counts_each_pixel_as_often_as_it_is_met():
    weight = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    assert torch.equal(convolution_matrix(weight, (5, 5)), torch.ones(25, 25, dtype=torch.float64))
    once = literal_matrix(weight, (3, 3), "circular")
    assert once.max() == 4
    assert torch.equal(convolution_matrix(weight, (3, 3)), once)


def test_with_circular_padding_each_block_is_circulant_along_both_axes():
    height, width = SHAPE
    matrix = convolution_matrix(random_weight(2, 3, 3), SHAPE)
    blocks = matrix.view(2, height, width, 3, height, width)
    for down, right in itertools.product(range(height), range(width)):
        moved = blocks.roll((down, right), (1, 2)).roll((down, right), (4, 5))
        assert torch.equal(moved, blocks)
    others = [convolution_matrix(random_weight(2, 3, 3), SHAPE, padding) for padding in ("reflect", "zeros")]
    for other in others:
        blocks = other.view(2, height, width, 3, height, width)
        assert not torch.equal(blocks.roll(1, 1).roll(1, 4), blocks)


@pytest.mark.parametrize(("padding", "mirrored"), [("circular", True), ("zeros", True), ("reflect", False)])
def test_the_transpose_is_the_convolution_with_the_mirrored_kernel_but_for_mirrored_borders(padding, mirrored):
    weight = random_weight(2, 3, 3)
    flipped = convolution_matrix(weight.flip(2, 3).transpose(0, 1), SHAPE, padding)
    assert torch.allclose(convolution_matrix(weight, SHAPE, padding).T, flipped, rtol=1e-14) == mirrored


@pytest.mark.parametrize("padding", PADDINGS)
def test_preactivations_are_those_of_the_built_network(padding):
    built, weights = network(padding)
    x = random_image(2, *SHAPE, seed=1)
    found = preactivations(weights, x, padding)
    assert [tuple(a.shape) for a in found] == [(3, *SHAPE), (3, *SHAPE), (3, *SHAPE), (2, *SHAPE)]
    for count, a in enumerate(found):
        checks.identity("2", a, built[: 2 * count + 1](x[None])[0].detach())
    checks.identity("3", found[-1], built(x[None])[0].detach())


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("inputs", "channels", "outputs"), [(2, 3, 2), (1, 4, 1), (3, 2, 3)])
def test_error_gradients_and_weight_gradients_are_those_of_autograd(padding, inputs, channels, outputs):
    _, weights = network(padding, inputs, channels, outputs)
    x, target = random_image(inputs, *SHAPE, seed=2), random_image(outputs, *SHAPE, seed=3)
    found = preactivations(weights, x, padding)
    errors = error_gradients(weights, found, target, padding)
    by_weights, by_preactivations = by_autograd(weights, x, target, padding)
    assert len(errors) == len(weights)
    for error, expected in zip(errors, by_preactivations, strict=True):
        checks.identity("45", error, expected)
    features = [x] + [a.relu() for a in found[:-1]]
    for error, entering, size, expected in zip(errors, features, SIZES, by_weights, strict=True):
        checks.identity("44", weight_gradient(error, entering, size, padding), expected)


def test_the_last_error_gradient_is_the_residual_and_vanishes_at_the_target():
    _, weights = network("circular")
    found = preactivations(weights, random_image(2, *SHAPE))
    assert torch.equal(error_gradients(weights, found, torch.zeros_like(found[-1]))[-1], found[-1])
    assert all(not error.any() for error in error_gradients(weights, found, found[-1]))


def test_in_every_layer_errors_and_preactivations_have_one_inner_product():
    _, weights = network("reflect")
    found = preactivations(weights, random_image(2, *SHAPE), "reflect")
    errors = error_gradients(weights, found, random_image(2, *SHAPE, seed=5), "reflect")
    products = [(a * d).sum().item() for a, d in zip(found, errors, strict=True)]
    assert products == pytest.approx([products[-1]] * len(SIZES), rel=1e-12)


def test_a_network_of_one_layer_has_one_of_each():
    weight, x = random_weight(2, 3, 3), random_image(3, *SHAPE)
    found = preactivations([weight], x)
    errors = error_gradients([weight], found, torch.zeros_like(found[0]))
    assert len(found) == len(errors) == 1
    checks.identity("46", errors[0], found[0])


def test_a_number_is_not_shared_between_weights_and_matrices():
    weight = random_weight(1, 1, 3)
    matrix = convolution_matrix(weight, SHAPE)
    matrix.zero_()
    assert weight.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_that_of_the_weights(dtype):
    weight, x = random_weight(2, 2, 3).to(dtype), random_image(2, *SHAPE, dtype=dtype)
    found = preactivations([weight, weight], x)
    errors = error_gradients([weight, weight], found, torch.zeros_like(found[-1]))
    assert {convolution_matrix(weight, SHAPE).dtype, found[1].dtype, errors[0].dtype} == {dtype}
    assert weight_gradient(errors[0], x, 3).dtype == dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: convolution_matrix(random_weight(1, 1, 2), SHAPE), "must be odd and at least 1, not 2."),
        (
            lambda: convolution_matrix(random_weight(1, 1, 3), SHAPE, "same"),
            "Unknown padding 'same'; accepted are reflect, zeros, circular.",
        ),
        (
            lambda: preactivations([random_weight(1, 1, 4)], random_image(1, *SHAPE)),
            "must be odd and at least 1, not 4.",
        ),
        (
            lambda: weight_gradient(random_image(1, *SHAPE), random_image(1, *SHAPE), 0),
            "The side of a window must be odd and at least 1, not 0.",
        ),
        (
            lambda: weight_gradient(random_image(1, *SHAPE), random_image(1, *SHAPE), 3, "wrap"),
            "Unknown padding 'wrap'",
        ),
    ],
)
def test_bad_windows_are_refused_at_the_door(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_weights_as_they_are_drawn_keep_the_size_of_an_image():
    height = width = 12
    weight = random_weight(40, 20, 3) * math.sqrt(1 / (9 * 20))
    x = random_image(20, height, width)
    out = convolution_matrix(weight, (height, width)) @ x.flatten()
    assert out.square().mean().item() == pytest.approx(x.square().mean().item(), rel=0.1)
