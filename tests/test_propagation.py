"""The maps on covariances, against loops over pixels, closed forms, Monte Carlo and the kernels of whole networks."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_kernels import position
from tiny_images import literal_patches, random_image
from torch import Tensor

from ntkbook import checks
from ntkbook.images import PADDINGS
from ntkbook.kernels import infinite_width
from ntkbook.layers import vanilla
from ntkbook.propagation import (
    convolution_map,
    error_covariance,
    layer_covariance,
    layer_tangent,
    nonlinearity_map,
    preactivation_covariance,
    relu_derivative_map,
    relu_map,
    window_positions,
)

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=20)
SHAPES = [(3, 3), (3, 4), (4, 5)]


def window(pixel: tuple[int, int], shape: tuple[int, int], size: int, padding: str) -> list[int | None]:
    """Row-major indices of a pixel's window, None outside."""
    reach, found = range(-(size // 2), size // 2 + 1), []
    for k in itertools.product(reach, reach):
        row, column = (position(p + step, n, padding) for p, step, n in zip(pixel, k, shape, strict=True))
        found.append(None if row is None or column is None else row * shape[1] + column)
    return found


def windows(shape: tuple[int, int], size: int, padding: str) -> list[list[int | None]]:
    """The windows of all pixels."""
    return [window(pixel, shape, size, padding) for pixel in itertools.product(*map(range, shape))]


def literal_map(covariance: Tensor, shape: tuple[int, int], size: int, padding: str) -> Tensor:
    """A as a sum over offsets, entry by entry."""
    around = windows(shape, size, padding)
    pairs = [[zip(first, second, strict=True) for second in around] for first in around]
    entries = [
        [sum(covariance[i, j].item() for i, j in pair if None not in (i, j)) / size**2 for pair in row] for row in pairs
    ]
    return torch.tensor(entries, dtype=torch.float64)


def literal_relu(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """V and V' of the relu, entry by entry in plain arithmetic."""
    values, slopes = torch.zeros_like(covariance), torch.zeros_like(covariance)
    for p, q in itertools.product(range(len(covariance)), repeat=2):
        scale = math.sqrt(covariance[p, p] * covariance[q, q])
        phi = 0.0 if p == q else math.acos(max(-1.0, min(1.0, covariance[p, q] / scale)))
        values[p, q] = scale / math.pi * (math.sin(phi) + (math.pi - phi) * math.cos(phi))
        slopes[p, q] = (math.pi - phi) / math.pi
    return values, slopes


def random_matrix(size: int, seed: int = 0) -> Tensor:
    """Independent normal entries."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((size, size)))


def covariance_of(size: int, seed: int = 0) -> Tensor:
    """Positive definite, with variances of several sizes."""
    root = random_matrix(size, seed) * torch.linspace(0.3, 1.5, size).double()[:, None]
    return root @ root.T / size + 0.01 * torch.eye(size).double()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("shape", "size"), [((3, 3), 1), ((3, 4), 3), ((4, 5), 5), ((5, 3), 5)])
def test_positions_of_windows(shape, size, padding):
    found = window_positions(shape, size, padding)
    outside = shape[0] * shape[1]
    expected = [[outside if at is None else at for at in around] for around in windows(shape, size, padding)]
    assert found.T.tolist() == expected


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_convolution_map_by_loops(shape, size, padding):
    matrix = random_matrix(shape[0] * shape[1])
    checks.identity("13", convolution_map(matrix, shape, size, padding), literal_map(matrix, shape, size, padding))


def test_the_convolution_map_is_linear_and_keeps_what_depends_on_offsets_only():
    first, second = random_matrix(12, 1), random_matrix(12, 2)
    together = convolution_map(3 * first - second, (3, 4), 3)
    checks.identity("13", together, 3 * convolution_map(first, (3, 4), 3) - convolution_map(second, (3, 4), 3))
    row = random_image(1, 3, 4)[0]
    places = itertools.product(range(3), range(4))
    stationary = torch.stack([row.roll(place, (0, 1)).flatten() for place in places])
    checks.identity("13", convolution_map(stationary, (3, 4), 3), stationary)
    assert not torch.allclose(convolution_map(stationary, (3, 4), 3, "zeros"), stationary)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_layer_is_inner_products_of_patches(channels, padding):
    image = random_image(channels, 4, 5)
    patches = literal_patches(image, 3, padding).reshape(20, -1)
    expected = 2 / (9 * channels) * patches @ patches.T
    checks.identity("30", preactivation_covariance(image, 3, padding), expected)


def test_the_relu_maps_by_plain_arithmetic():
    covariance = covariance_of(7)
    values, slopes = literal_relu(covariance)
    checks.identity("38", relu_map(covariance), values)
    checks.identity("52", relu_derivative_map(covariance), slopes)


def test_the_relu_maps_by_quadrature():
    covariance = covariance_of(7)
    checks.identity("38", relu_map(covariance), nonlinearity_map(covariance, torch.relu))
    step = nonlinearity_map(covariance, lambda h: (h > 0).to(h))
    checks.identity("52", relu_derivative_map(covariance), step)


def test_the_relu_maps_at_equal_opposite_and_zero_pixels():
    signal = torch.tensor([1.0, 2.0, -1.0, 0.0], dtype=torch.float64)
    values, slopes = relu_map(torch.outer(signal, signal)), relu_derivative_map(torch.outer(signal, signal))
    positive, negative = signal.clamp_min(0), (-signal).clamp_min(0)
    # h is the signal times one normal number: its relu is the positive or the negative part.
    checks.identity("38", values, torch.outer(positive, positive) + torch.outer(negative, negative))
    same_sign = [[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    checks.identity("52", slopes, torch.tensor(same_sign, dtype=torch.float64))


def closed_forms() -> dict:
    """Non-linearities with the closed form of sigma_w^2 E f(u) f(v) by the variances a, b and the covariance c."""
    return {
        "erf": (  # Williams (1998)
            torch.erf,
            lambda a, b, c: 4 / math.pi * math.asin(2 * c / math.sqrt((1 + 2 * a) * (1 + 2 * b))),
        ),
        "derivative of erf": (
            lambda h: 2 / math.sqrt(math.pi) * (-h.square()).exp(),
            lambda a, b, c: 8 / (math.pi * math.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * c**2)),
        ),
        "sine": (torch.sin, lambda a, b, c: 2 * math.exp(-(a + b) / 2) * math.sinh(c)),
        "identity": (lambda h: h, lambda a, b, c: 2 * c),
        "square": (torch.square, lambda a, b, c: 2 * (a * b + 2 * c**2)),
        "leaky relu": (
            lambda h: torch.where(h > 0, h, 0.2 * h),
            lambda a, b, c: 0.4 * c + 0.64 * math.sqrt(a * b) / math.pi * arc(c / math.sqrt(a * b)),
        ),
    }


def arc(cosine: float) -> float:
    """The angular factor of the relu."""
    phi = math.acos(max(-1.0, min(1.0, cosine)))
    return math.sin(phi) + (math.pi - phi) * math.cos(phi)


@pytest.mark.parametrize("name", closed_forms())
def test_the_map_of_any_nonlinearity_in_closed_form(name):
    activation, closed = closed_forms()[name]
    covariance = covariance_of(5)
    rows = range(5)
    expected = [[closed(covariance[p, p], covariance[q, q], covariance[p, q]) for q in rows] for p in rows]
    checks.identity("14", nonlinearity_map(covariance, activation), torch.tensor(expected, dtype=torch.float64))


def test_the_map_of_any_nonlinearity_by_monte_carlo():
    covariance = covariance_of(4)
    root = torch.linalg.cholesky(covariance)
    normal = torch.from_numpy(np.random.default_rng(3).standard_normal((200, 2000, 4)))
    features = torch.sigmoid(normal @ root.T)
    checks.expectation("14", 2 * features.mT @ features / 2000, nonlinearity_map(covariance, torch.sigmoid))


def test_maps_leave_their_arguments_alone_and_keep_the_dtype():
    covariance = covariance_of(12)
    before = covariance.clone()
    for mapped in (
        convolution_map(covariance, (3, 4), 3),
        relu_map(covariance),
        relu_derivative_map(covariance),
        nonlinearity_map(covariance, torch.tanh),
        layer_tangent(covariance, covariance, (3, 4), 3),
        error_covariance(covariance, covariance, (3, 4), 3),
    ):
        assert mapped.dtype == torch.float64
        assert torch.equal(covariance, before)
    assert nonlinearity_map(covariance.float(), torch.tanh).dtype == torch.float32
    assert layer_covariance(covariance.float(), (3, 4), 3).dtype == torch.float32


@pytest.mark.parametrize("padding", PADDINGS)
def test_one_layer_by_loops(padding):
    shape, covariance, tangent = (3, 4), covariance_of(12, 4), covariance_of(12, 5)
    values, slopes = literal_relu(covariance)
    after = literal_map(values, shape, 3, padding)
    below = literal_map(slopes * tangent, shape, 3, padding)
    checks.identity("36", layer_covariance(covariance, shape, 3, padding), after)
    checks.identity("11", layer_tangent(covariance, tangent, shape, 3, padding), after + below)
    checks.identity("11", layer_tangent(covariance, tangent, shape, 3, padding, own=4.5), 4.5 * after + below)


def test_error_gradients_by_loops():
    shape, error, covariance = (3, 4), covariance_of(12, 6), covariance_of(12, 7)
    slopes = literal_relu(covariance)[1]
    expected = literal_map(error, shape, 3, "circular") * slopes
    checks.identity("24", error_covariance(error, covariance, shape, 3), expected)
    checks.identity("48", error_covariance(error, covariance, shape, 3, share=1 / 5), expected / 5)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("sizes", "output"), [((3,), 1), ((3, 5), 3), ((1, 3, 3), 1)])
def test_the_layers_compose_to_the_kernels_of_whole_networks(sizes, output, padding):
    image = random_image(3, 4, 5, seed=8)
    whole = infinite_width(vanilla(*sizes, output=output, padding=padding), image)
    covariance = preactivation_covariance(image, sizes[0], padding)
    tangent = covariance
    for size in (*sizes[1:], output):
        tangent = layer_tangent(covariance, tangent, (4, 5), size, padding)
        covariance = layer_covariance(covariance, (4, 5), size, padding)
    checks.identity("40", covariance, whole.nngp)
    checks.identity("62", tangent, whole.ntk)


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_layers_compose_in_the_standard_parametrisation(padding):
    image, c = random_image(2, 4, 4, seed=9), 7
    whole = infinite_width(vanilla(3, 5, padding=padding), image, "standard", channels=c)
    covariance = preactivation_covariance(image, 3, padding)
    tangent = 2 * 9 / (2 * c) * covariance  # fan-in over c sigma_w^2
    for size in (5, 1):
        tangent = layer_tangent(covariance, tangent, (4, 4), size, padding, own=size**2 / 2)
        covariance = layer_covariance(covariance, (4, 4), size, padding)
    checks.identity("62", tangent, whole.ntk)


ROOTS = st.builds(lambda seed, rank: random_matrix(12, seed)[:, :rank], st.integers(0, 2**32 - 1), st.integers(1, 12))


@REPRODUCIBLE
@given(ROOTS, st.sampled_from([1, 3, 5]), st.sampled_from(PADDINGS))
def test_maps_keep_matrices_symmetric_and_positive_semidefinite(root, size, padding):
    covariance = root @ root.T
    for name, mapped in (
        ("13", convolution_map(covariance, (3, 4), size, padding)),
        ("38", relu_map(covariance)),
        ("36", layer_covariance(covariance, (3, 4), size, padding)),
        ("62", layer_tangent(covariance, covariance, (3, 4), size, padding)),
        ("24", error_covariance(covariance, covariance, (3, 4), size)),
    ):
        checks.positive_semidefinite(name, mapped)


@REPRODUCIBLE
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_the_relu_keeps_variances_scales_and_raises_correlations(seed, factor):
    covariance = covariance_of(6, seed)
    mapped = relu_map(covariance)
    torch.testing.assert_close(mapped.diagonal(), covariance.diagonal(), rtol=1e-12, atol=0)
    torch.testing.assert_close(relu_map(factor * covariance), factor * mapped, rtol=1e-9, atol=0)
    torch.testing.assert_close(relu_derivative_map(factor * covariance), relu_derivative_map(covariance))
    assert (mapped >= covariance - 1e-12).all()


@pytest.mark.parametrize("size", [0, 2, -3])
def test_even_windows_are_refused(size):
    message = f"The side of a window must be odd and at least 1, not {size}."
    with pytest.raises(ValueError, match=re.escape(message)):
        window_positions((4, 4), size)
    with pytest.raises(ValueError, match=re.escape(message)):
        preactivation_covariance(random_image(1, 4, 4), size)


def test_unknown_paddings_and_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="Unknown padding 'wrap'; accepted are reflect, zeros, circular"):
        convolution_map(covariance_of(12), (3, 4), 3, "wrap")
    with pytest.raises(ValueError, match=re.escape("A covariance of 12 pixels is needed, not one of shape (9, 9).")):
        layer_covariance(covariance_of(9), (3, 4), 3)
    with pytest.raises(ValueError, match=re.escape("not one of shape (9, 9).")):
        error_covariance(covariance_of(9), covariance_of(12), (3, 4), 3)
