r"""Gradient descent on a network whose tangent kernel stays put, in closed form: the end of the paper's Appendix D.

The filter is :math:`W = \eta\Theta`, shape (pixels, pixels), symmetric. Estimates are (pixels, channels).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """A Gaussian image: mean, shape (pixels, channels), and covariance of each channel, (pixels, pixels)."""

    mean: Tensor
    covariance: Tensor


def descent_step(filter_matrix: Tensor, estimate: Tensor, target: Tensor) -> Tensor:
    """One step of gradient descent on the squared loss, :eq:`eq-ntk-63`: from :math:`z^t` to :math:`z^{t+1}`."""
    return estimate + filter_matrix @ (target - estimate)


def descent_sum(filter_matrix: Tensor, start: Tensor, target: Tensor, iterations: int) -> Tensor:
    r"""The output after t steps as a sum, the right form of :eq:`eq-ntk-64`.

    :math:`(I - W)^tz^0 + \sum_{k=0}^{t-1}(I - W)^kWy`.

    Args:
        filter_matrix: W.
        start: :math:`z^0`.
        target: y.
        iterations: t, at least 0.
    """
    passed, total = filter_matrix @ target, torch.zeros_like(target)
    for _ in range(iterations):
        total, passed, start = total + passed, passed - filter_matrix @ passed, start - filter_matrix @ start
    return start + total


def descent(filter_matrix: Tensor, start: Tensor, target: Tensor, iterations: int) -> Tensor:
    r"""The output after t steps in closed form, the right form of :eq:`eq-ntk-65`.

    :math:`(I - W)^tz^0 + \bigl(I - (I - W)^t\bigr)y`; no inverse is needed. Arguments as in :func:`descent_sum`.
    """
    return target + _decay(filter_matrix, iterations) @ (start - target)


def descent_distribution(filter_matrix: Tensor, prior: Tensor, target: Tensor, iterations: int) -> Gaussian:
    r"""Distribution of the output after t steps over random initial weights, the right form of :eq:`eq-ntk-66`.

    Args:
        filter_matrix: W, the limit's, so not random.
        prior: :math:`\Sigma_z`, covariance of :math:`z^0`.
        target: y.
        iterations: t.
    """
    decay = _decay(filter_matrix, iterations)
    return Gaussian(target - decay @ target, decay @ prior @ decay)


def weight_change(own: Tensor, residuals: Tensor, step: float) -> float:
    r"""Euclidean norm of the change of one layer's weights, while training is lazy: the law behind :eq:`eq-ntk-8`.

    Gradient descent adds up to :math:`\Delta w_\ell = \eta J_\ell^Tu` with the sum :math:`u = \sum_s(y - z^s)` of all
    residuals, so :math:`\|\Delta w_\ell\|^2 = \eta^2u^TJ_\ell J_\ell^Tu`.

    Args:
        own: the layer's own term :math:`J_\ell J_\ell^T` of the tangent kernel, one output channel, (pixels, pixels).
        residuals: u, shape (pixels, channels).
        step: :math:`\eta`.
    """
    return step * (residuals * (own @ residuals)).sum().sqrt().item()


def _decay(filter_matrix: Tensor, iterations: int) -> Tensor:
    return torch.linalg.matrix_power(torch.eye(len(filter_matrix)).to(filter_matrix) - filter_matrix, iterations)
