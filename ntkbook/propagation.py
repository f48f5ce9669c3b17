r"""How covariances travel through a wide network, layer by layer, as whole matrices: the paper's Appendices B to E.

Each function is one equation, for small images and any float dtype. :func:`ntkbook.kernels.infinite_width` composes the
same maps for a whole architecture, in tiles and much faster.

A covariance has shape (pixels, pixels), its pixels row after row; ``shape`` is (height, width). The default padding is
circular, for the paper's convolutions are circulant matrices. Weights have the variance
:math:`\sigma_w^2 = 2` over the fan-in, the right one for the relu.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ntkbook.covariances import relu_moments
from ntkbook.images import PADDINGS, extract_patches

WEIGHT_VARIANCE = 2.0


def window_positions(shape: tuple[int, int], size: int, padding: str = "circular") -> Tensor:
    """Pixels of the window around each pixel.

    Args:
        shape: (height, width) of the image.
        size: r, the side of the windows, odd.
        padding: ``"circular"``, ``"reflect"`` or ``"zeros"``.

    Returns:
        Row-major indices, shape (r * r, pixels); where ``"zeros"`` leaves the image, the number of pixels.

    Raises:
        ValueError: the size is even or below 1, or the padding is unknown.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"The side of a window must be odd and at least 1, not {size}.")
    if padding not in PADDINGS:
        raise ValueError(f"Unknown padding {padding!r}; accepted are {', '.join(PADDINGS)}.")
    pixels = shape[0] * shape[1]
    numbered = torch.arange(1, pixels + 1).view(1, *shape)  # from 1, for outside the image the patches have zeros
    return (extract_patches(numbered, size, padding, 0, shape[0]).mT - 1) % (pixels + 1)


def convolution_map(covariance: Tensor, shape: tuple[int, int], size: int, padding: str = "circular") -> Tensor:
    r"""The map :math:`\mathcal A` of a convolution, :eq:`eq-ntk-13`: a mean over pairs of pixels at the same offset.

    It is also what the own term in :eq:`eq-ntk-61` is made of.

    Args:
        covariance: shape (pixels, pixels).
        shape: (height, width).
        size: r, odd.
        padding: see :func:`window_positions`.

    Returns:
        Shape (pixels, pixels).

    Raises:
        ValueError: the covariance does not have the size of the image; also as :func:`window_positions`.
    """
    pixels = shape[0] * shape[1]
    if covariance.shape != (pixels, pixels):
        raise ValueError(f"A covariance of {pixels} pixels is needed, not one of shape {tuple(covariance.shape)}.")
    whole = torch.nn.functional.pad(covariance, (0, 1, 0, 1))
    return sum(whole[at][:, at] for at in window_positions(shape, size, padding)) / size**2


def preactivation_covariance(inputs: Tensor, size: int, padding: str = "circular") -> Tensor:
    r"""Covariance over a convolution's weights of what it makes of fixed inputs.

    :math:`\frac{\sigma_w^2}{c}\sum_j\mathcal A(x_jx_j^T)`: :eq:`eq-ntk-28` and the right form of :eq:`eq-ntk-29` and
    :eq:`eq-ntk-30` for one channel; :eq:`eq-ntk-67` and the right form of :eq:`eq-ntk-68` for several; with the
    features of a layer as inputs :eq:`eq-ntk-34` and the right form of :eq:`eq-ntk-35`.

    Args:
        inputs: the channels, shape (c, height, width).
        size: r, odd.
        padding: see :func:`window_positions`.

    Returns:
        Shape (pixels, pixels), the same for each output channel.
    """
    x = inputs.flatten(1)
    return WEIGHT_VARIANCE * convolution_map(x.T @ x / len(x), tuple(inputs.shape[1:]), size, padding)


def nonlinearity_map(covariance: Tensor, activation: Callable[[Tensor], Tensor], nodes: int = 40) -> Tensor:
    r"""The maps :math:`\mathcal V` and :math:`\mathcal V'` of any non-linearity, :eq:`eq-ntk-14` and :eq:`eq-ntk-15`.

    :math:`\sigma_w^2\,\mathbb E\,f(h)f(h)^T` for Gaussian h, by quadrature in polar coordinates. The angle is cut where
    h changes sign, so a kink or a jump at 0 costs no precision.

    Args:
        covariance: shape (pixels, pixels), with a positive diagonal.
        activation: f, entry by entry: :math:`\phi` or its derivative.
        nodes: of the quadrature, along the radius and on each of four arcs. A smooth f that bends within a fraction of
            the deviations of h needs more: for the derivative of tanh 40 give an error of 3e-6 at variances of 1, of
            3e-3 at 4.

    Returns:
        Shape (pixels, pixels).
    """
    deviations = covariance.diagonal().sqrt()
    cosine = (covariance / (deviations[:, None] * deviations)).clamp(-1, 1)
    turn = cosine.fill_diagonal_(1).acos()[..., None]
    like = {"dtype": covariance.dtype, "device": covariance.device}
    points, weights = (torch.tensor(each, **like) for each in np.polynomial.legendre.leggauss(nodes))
    levels, masses = (torch.tensor(each, **like) for each in np.polynomial.laguerre.laggauss(nodes))
    radius = (2 * levels).sqrt()  # r dr exp(-r^2 / 2) is exp(-s) ds for s = r^2 / 2
    half = math.pi / 2
    kinks = (torch.full_like(turn, -half), turn - half, torch.full_like(turn, half), turn + half)
    ends = (*kinks[1:], torch.full_like(turn, 3 * half))
    total = torch.zeros_like(covariance)
    for low, high in zip(kinks, ends, strict=True):
        angle = (low + high) / 2 + (high - low) / 2 * points
        first = activation(deviations[:, None, None, None] * radius * angle.cos()[..., None])
        second = activation(deviations[:, None, None] * radius * (angle - turn).cos()[..., None])
        total += ((first * second) @ masses @ weights) * (high - low)[..., 0] / 2
    return WEIGHT_VARIANCE * total / (2 * math.pi)


def relu_map(covariance: Tensor) -> Tensor:
    r"""The map :math:`\mathcal V` of the relu in closed form, :eq:`eq-ntk-38`; (pixels, pixels) to the same."""
    return WEIGHT_VARIANCE * relu_moments(covariance, _scale(covariance))[0]


def relu_derivative_map(covariance: Tensor) -> Tensor:
    r"""The map :math:`\mathcal V'` of the relu in closed form, :eq:`eq-ntk-52`; (pixels, pixels) to the same."""
    return WEIGHT_VARIANCE * relu_moments(covariance, _scale(covariance))[1]


def layer_covariance(covariance: Tensor, shape: tuple[int, int], size: int, padding: str = "circular") -> Tensor:
    r"""Covariance of the next layer, :math:`\mathcal A(\mathcal V(\Sigma))`.

    :eq:`eq-ntk-36`, and :eq:`eq-ntk-40` for the output. Arguments as in :func:`convolution_map`.
    """
    return convolution_map(relu_map(covariance), shape, size, padding)


def layer_tangent(
    covariance: Tensor, tangent: Tensor, shape: tuple[int, int], size: int, padding: str = "circular", own: float = 1.0
) -> Tensor:
    r"""Tangent kernel of the next layer: the right form of the recursion.

    :math:`\rho\,\mathcal A(\mathcal V(\Sigma)) + \mathcal A(\mathcal V'(\Sigma)\circ\Theta)` with the covariance and
    the tangent kernel of the layer before: :eq:`eq-ntk-11`, :eq:`eq-ntk-62`; base case :eq:`eq-ntk-12`,
    :eq:`eq-ntk-59`.

    Args:
        covariance: :math:`\Sigma` of the layer before.
        tangent: :math:`\Theta` of the layer before; zeros there make the base case.
        shape: (height, width).
        size: r of this layer.
        padding: see :func:`window_positions`.
        own: :math:`\rho`, weight of the layer's own term: 1 as the paper has it and in the NTK parametrisation,
            :math:`r^2/\sigma_w^2` for :math:`\Theta/c` with standard weights.
    """
    below = convolution_map(relu_derivative_map(covariance) * tangent, shape, size, padding)
    return own * layer_covariance(covariance, shape, size, padding) + below


def error_covariance(
    error: Tensor, covariance: Tensor, shape: tuple[int, int], size: int, share: float = 1.0
) -> Tensor:
    r"""Covariance of a layer's error gradients from that of the layer after it, :eq:`eq-ntk-24`; circular padding.

    :math:`\rho\,\mathcal A(\Sigma_\delta)\circ\mathcal V'(\Sigma_a)`.

    Args:
        error: :math:`\Sigma_\delta` of the layer after, shape (pixels, pixels).
        covariance: :math:`\Sigma_a` of the pre-activations of this layer.
        shape: (height, width).
        size: r of the convolution between the two.
        share: :math:`\rho`, channels after that convolution over channels before: 1 inside the network, 1/c for an
            output of one channel, :eq:`eq-ntk-48` and :eq:`eq-ntk-25`.
    """
    return share * convolution_map(error, shape, size) * relu_derivative_map(covariance)


def _scale(covariance: Tensor) -> Tensor:
    deviations = covariance.diagonal().sqrt()
    return deviations[:, None] * deviations
