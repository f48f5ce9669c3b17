r"""The paper's equations that do not hold, exactly as printed, beside the functions that are their right forms.

Nothing in the package uses them. The chapters set them beside what they derive, and the errata page shows both numbers.
Names follow the paper's numbers; arguments are those of the right form where that is possible.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ntkbook.adam import Adam, Weights, output_step, weight_step
from ntkbook.dynamics import Gaussian, descent, descent_distribution
from ntkbook.kernels import infinite_width
from ntkbook.layers import Serial
from ntkbook.matrix_form import convolution_matrix
from ntkbook.propagation import convolution_map, layer_covariance, relu_derivative_map, relu_map, window_positions
from ntkbook.tangent import EmpiricalKernel


def equation_11(spec: Serial, x: Tensor) -> Tensor:
    """(11): each layer's own term has the same weight, whatever its kernel size; the base case (12) has the map A here.

    The right one is ``"standard"`` of :func:`ntkbook.kernels.infinite_width`.
    """
    return infinite_width(spec, x, "paper").ntk


def equation_12(x: Tensor, size: int) -> Tensor:
    """(12): covariance and tangent kernel of the second layer, both without that layer's map A."""
    return relu_map(equation_30(x, size))


def equation_13(covariance: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    """(13), (31): the sum over all pairs of pixels, one from each window, over r^2; circular padding."""
    windows = window_positions(shape, size)
    return sum(covariance[i][:, j] for i in windows for j in windows) / size**2


def equation_18(now: Weights, gradient: Weights, rule: Adam, last: Weights) -> dict[str, Tensor]:
    """(18): Adam's momentum is carried on as if the metric had not changed; arguments as of its right form."""
    return weight_step(now, gradient, rule, now, last)


def equation_20(kernel: EmpiricalKernel, residual: Tensor, rule: Adam, last: Tensor) -> Tensor:
    r"""(20): as (18), with the output's last change :math:`z^t-z^{t-1}`, shape (outputs, height, width)."""
    return output_step(kernel, residual, rule) + rule.betas[0] * last


def equation_23(kernel: EmpiricalKernel, error: Tensor, rate: float, channels: Iterable[int] | None = None) -> Tensor:
    r"""(22), (23): a channel's pre-activations move by its own error gradient alone.

    Args:
        kernel: of the network cut off after the layer, with Adam's metric.
        error: :math:`\delta^\ell` of all its channels, shape (c, height, width).
        rate: :math:`\eta`.
        channels: whose steps to compute; all by default.

    Returns:
        Their first-order steps, shape (channels, height, width).
    """
    steps = []
    for i in range(len(error)) if channels is None else channels:
        alone = torch.zeros_like(error)
        alone[i] = error[i]
        steps.append(-rate * kernel.product(alone)[i])
    return torch.stack(steps)


def equation_30(x: Tensor, size: int) -> Tensor:
    r"""(29), (30): the covariance of the first layer without :math:`\sigma_w^2`; x has shape (1, height, width)."""
    values = x.flatten()
    return convolution_map(torch.outer(values, values), tuple(x.shape[1:]), size)


def equation_35(features: Tensor, size: int) -> Tensor:
    r"""(35): a term of the covariance of a later layer, without :math:`\sigma_w^2/(r^2c)`; features (height, width)."""
    values = features.flatten()
    return size**2 * convolution_map(torch.outer(values, values), tuple(features.shape), size)


def equation_43(prior: Tensor, image: Tensor, noise_std: float) -> Gaussian:
    """(43): the posterior's mean is computed from z, the clean image, where y should stand."""
    precision = torch.linalg.inv(prior)
    unit = torch.eye(len(prior)).to(prior)
    mean = torch.linalg.inv(unit + noise_std**2 * precision) @ image
    return Gaussian(mean, torch.linalg.inv(unit / noise_std**2 + precision))


def equation_45(errors: Sequence[Tensor], layer: int) -> Tensor:
    r"""(45): the chain of derivatives ends at :math:`a^{\ell-1}`, so it is the error gradient of the layer below.

    Args:
        errors: of the layers 1 to L, see :func:`ntkbook.matrix_form.error_gradients`.
        layer: from 2 on.
    """
    return errors[layer - 2]


def equation_50(weights: Sequence[Tensor], found: Sequence[Tensor], errors: Sequence[Tensor], layer: int) -> Tensor:
    r"""(50): the error gradient of a layer from that of the next, with :math:`\phi'(a^{\ell-1})` and :math:`W^\ell`.

    Args:
        weights: of the layers 1 to L, with circular padding.
        found: their pre-activations.
        errors: their error gradients.
        layer: from 2 to L - 2, with as many channels in the layers around it.
    """
    below = found[layer - 2]
    matrix = convolution_matrix(weights[layer - 1], tuple(below.shape[1:]))
    return (below > 0) * (matrix.T @ errors[layer].flatten()).view(below.shape)


def equation_59(x: Tensor, size: int, channels: int) -> Tensor:
    """(59): the tangent kernel of two layers as c times (12)."""
    return channels * equation_12(x, size)


def equation_61(weight: Tensor, preactivation: Tensor, tangent: Tensor) -> Tensor:
    """(61): the tangent kernel of one output channel, from the kernels of single channels below.

    Args:
        weight: of the layer, shape (1, c, r, r); circular padding.
        preactivation: of the layer below, shape (c, height, width).
        tangent: kernel of each channel below, shape (c, pixels, pixels).
    """
    shape, size = tuple(preactivation.shape[1:]), weight.shape[-1]
    values = preactivation.flatten(1).clamp_min(0)
    slopes = (preactivation.flatten(1) > 0).to(weight)
    matrices = convolution_matrix(weight, shape).unflatten(1, (len(values), -1)).movedim(1, 0)
    below = slopes[:, :, None] * tangent * slopes[:, None, :]
    return convolution_map(values.T @ values, shape, size) + (matrices @ below @ matrices.mT).sum(0)


def equation_62(covariance: Tensor, tangent: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    r"""(62): the recursion with :math:`\mathcal V'` of the layer's own covariance in place of the layer's below it."""
    after = layer_covariance(covariance, shape, size)
    return after + convolution_map(relu_derivative_map(after) * tangent, shape, size)


def equation_64(filter_matrix: Tensor, start: Tensor, target: Tensor, iterations: int) -> Tensor:
    """(64): powers of W instead of I - W, from k = 1, and W is missing before y; output after t steps."""
    power, total = target, torch.zeros_like(target)
    for _ in range(1, iterations):
        power = filter_matrix @ power
        total = total + power
    return descent(filter_matrix, start, torch.zeros_like(target), iterations) + total


def equation_65(filter_matrix: Tensor, start: Tensor, target: Tensor, iterations: int) -> Tensor:
    """(65): the geometric series of powers of W, with the inverse of I - W."""
    from_start = descent(filter_matrix, start, torch.zeros_like(target), iterations)
    return from_start + _series(filter_matrix, target, iterations)


def equation_66(filter_matrix: Tensor, prior: Tensor, target: Tensor, iterations: int) -> Gaussian:
    """(66): the mean of the printed geometric series; the covariance is right."""
    right = descent_distribution(filter_matrix, prior, target, iterations)
    return right._replace(mean=_series(filter_matrix, target, iterations))


def equation_68(inputs: Tensor, size: int) -> Tensor:
    r"""(68): the covariance of the first layer for c0 channels without :math:`\sigma_w^2` (its j runs from 1 here)."""
    x = inputs.flatten(1)
    return convolution_map(x.T @ x / len(x), tuple(inputs.shape[1:]), size)


def _series(filter_matrix: Tensor, target: Tensor, iterations: int) -> Tensor:
    difference = target - torch.linalg.matrix_power(filter_matrix, iterations) @ target
    return torch.linalg.solve(torch.eye(len(filter_matrix)).to(filter_matrix) - filter_matrix, difference)
