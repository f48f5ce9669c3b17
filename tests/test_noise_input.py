"""The two numbers of a network that looks at noise: against their formulas, whole matrices, limits, real noise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkbook.kernels import infinite_width
from ntkbook.layers import vanilla
from ntkbook.noise_input import limit_of_covariance, noise_filter, off_diagonals

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=20)


def by_formulas(layers: int, first_layer: bool) -> tuple[list[float], list[float]]:
    """Both recursions in scalars; the diagonal of the tangent kernel is counted, not computed."""
    kappa, tangent, diagonal = 0.0, 0.0, int(first_layer)
    found = [(kappa, tangent / diagonal if diagonal else math.nan)]
    for _ in range(layers - 1):
        angle = math.acos(kappa)
        kappa = (math.sin(angle) + (math.pi - angle) * kappa) / math.pi
        tangent, diagonal = kappa + (1 - angle / math.pi) * tangent, diagonal + 1
        found.append((kappa, tangent / diagonal))
    covariances, tangents = zip(*found, strict=True)
    return list(covariances), list(tangents)


@pytest.mark.parametrize("first_layer", [False, True])
def test_values_follow_the_formulas(first_layer):
    found, expected = off_diagonals(120, first_layer), by_formulas(120, first_layer)
    np.testing.assert_allclose(found.covariance, expected[0], rtol=1e-12)
    np.testing.assert_allclose(found.tangent, expected[1], rtol=1e-12)  # NaN where the kernel is 0


def test_first_values_are_known():
    found = off_diagonals(2)
    assert found.covariance == pytest.approx([0, 1 / math.pi], rel=1e-14)
    assert math.isnan(found.tangent[0])
    assert found.tangent[1] == pytest.approx(1 / math.pi, rel=1e-14)
    assert off_diagonals(2, first_layer=True).tangent == pytest.approx([0, 1 / (2 * math.pi)], rel=1e-14)


def test_covariance_rises_to_one():
    covariance = np.array(off_diagonals(300).covariance)
    assert (np.diff(covariance) > 0).all()
    assert covariance[0] == 0
    assert covariance[-1] < 1


def test_tangent_rises_then_falls_to_a_quarter():
    tangent = np.array(off_diagonals(1000).tangent)[1:]
    top = int(tangent.argmax())
    assert top + 2 == 6
    assert (np.diff(tangent[: top + 1]) > 0).all()
    assert (np.diff(tangent[top:]) < 0).all()
    assert 0.25 < tangent[-1] < 0.254


@pytest.mark.parametrize("layer", [500, 2000])
def test_limit_is_approached(layer):
    gap = 1 - off_diagonals(layer).covariance[-1]
    # The next term of the expansion is a logarithm: 1.5 ln(l) / l on the root of the gap.
    assert gap / limit_of_covariance(layer) == pytest.approx((1 + 1.5 * math.log(layer) / layer) ** -2, rel=0.02)


def test_limit_is_the_constant_of_the_step():
    step = 2 * math.sqrt(2) / (3 * math.pi)
    assert limit_of_covariance(1) == pytest.approx(4 / step**2, rel=1e-14)
    assert limit_of_covariance(10) == pytest.approx(limit_of_covariance(1) / 100, rel=1e-14)


@REPRODUCIBLE
@given(st.integers(2, 60))
def test_first_layer_scales_the_tangent_value(layers):
    without, with_first = off_diagonals(layers), off_diagonals(layers, first_layer=True)
    assert with_first.covariance == without.covariance
    assert with_first.tangent[-1] == pytest.approx(without.tangent[-1] * (layers - 1) / layers, rel=1e-13)


@REPRODUCIBLE
@given(st.integers(2, 30))
def test_longer_networks_begin_like_shorter_ones(layers):
    whole, part = off_diagonals(30), off_diagonals(layers)
    assert part.covariance == whole.covariance[:layers]
    assert part.tangent[1:] == whole.tangent[1:layers]


@REPRODUCIBLE
@given(st.integers(2, 20), st.integers(2, 12))
def test_filter_has_trace_one_and_two_eigenvalues(layers, pixels):
    matrix = noise_filter(layers, pixels)
    off = off_diagonals(layers).tangent[-1]
    assert matrix.shape == (pixels, pixels)
    assert torch.equal(matrix, matrix.T)
    assert matrix.trace().item() == pytest.approx(1, rel=1e-12)
    values = torch.linalg.eigvalsh(matrix)
    assert values[-1].item() == pytest.approx((1 - off) / pixels + off, rel=1e-12)
    np.testing.assert_allclose(values[:-1], (1 - off) / pixels, rtol=1e-10)
    constant = torch.ones(pixels, dtype=torch.float64)
    torch.testing.assert_close(matrix @ constant, values[-1] * constant)


@pytest.mark.parametrize("layers", [2, 4])
def test_real_noise_has_these_values(layers):
    """The whole package on many input channels of noise: fluctuations of 1 / sqrt(9 c0), about one per cent."""
    x = torch.from_numpy(np.random.default_rng(layers).standard_normal((900, 6, 6)))
    network = vanilla(*[3] * (layers - 1), padding="circular")
    apart = ~torch.eye(36, dtype=torch.bool)
    for parametrisation, first_layer in (("paper", False), ("ntk", True)):
        kernels, expected = infinite_width(network, x, parametrisation), off_diagonals(layers, first_layer)
        for kernel, values in ((kernels.nngp, expected.covariance), (kernels.ntk, expected.tangent)):
            ratios = kernel[apart] / kernel.diagonal().mean()
            assert ratios.mean().item() == pytest.approx(values[-1], abs=2e-3)
            assert ratios.std().item() < 0.02


@pytest.mark.parametrize("layers", [1, 0, -3])
def test_too_few_layers_are_refused(layers):
    with pytest.raises(ValueError, match=f"at least 2 layers, not {layers}"):
        off_diagonals(layers)
    with pytest.raises(ValueError, match=f"at least 2 layers, not {layers}"):
        noise_filter(layers, 5)
