r"""The kernels of a deep relu network whose input is noise: all pairs of pixels are alike.

Independent noise has :math:`\mathcal A(xx^T) = I` on average, and a matrix with one value on the diagonal and one off
it keeps that form through every layer. So two numbers for each layer say all: the off-diagonal values of covariance and
tangent kernel, over the diagonal.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ntkbook.propagation import relu_derivative_map, relu_map


class OffDiagonals(NamedTuple):
    """Off-diagonal over diagonal value by layer: of the covariance (NNGP) and of the tangent kernel (NTK)."""

    covariance: list[float]
    tangent: list[float]


def off_diagonals(layers: int, first_layer: bool = False) -> OffDiagonals:
    r"""The values :math:`\kappa_\ell` of :eq:`eq-ntk-39` for the layers 1 to L, and those of the tangent kernel.

    Args:
        layers: L, at least 2.
        first_layer: the tangent kernel has the first layer's own term, as in the NTK parametrisation; the paper's base
            case (12) leaves it out.

    Returns:
        Lists of L values. Without the first layer's term the tangent kernel of one layer is 0, and its value is NaN.

    Raises:
        ValueError: there are fewer than 2 layers.
    """
    if layers < 2:
        raise ValueError(f"A network has at least 2 layers, not {layers}.")
    covariance = torch.eye(2, dtype=torch.float64)
    tangent = covariance * float(first_layer)
    found: list[tuple[float, float]] = []
    for _ in range(layers):
        ratios = [(m[0, 1] / m[0, 0]).item() for m in (covariance, tangent)]
        found.append((ratios[0], ratios[1]))
        covariance, tangent = _next(covariance, tangent)
    return OffDiagonals(*map(list, zip(*found, strict=True)))


def _next(covariance: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    after = relu_map(covariance)  # the map A changes nothing here
    return after, after + relu_derivative_map(covariance) * tangent


def noise_filter(layers: int, pixels: int) -> Tensor:
    r"""The expected filter of a deep network with noise as its input, :eq:`eq-ntk-17`; its trace is 1.

    Args:
        layers: L, at least 2.
        pixels: d.

    Returns:
        Shape (d, d).
    """
    off = off_diagonals(layers).tangent[-1]
    return torch.full((pixels, pixels), off / pixels, dtype=torch.float64).fill_diagonal_(1 / pixels)


def limit_of_covariance(layer: int) -> float:
    r"""How far :math:`\kappa_\ell` is from 1 in a late layer, to leading order: :math:`9\pi^2/2\ell^2`."""
    return 9 * math.pi**2 / (2 * layer**2)
