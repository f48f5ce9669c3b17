r"""The maps on covariances that belong to the layers of a wide network.

A layer with many channels turns one Gaussian image into another, and all that matters of an image is its covariance,
pixels x pixels. A convolution becomes :func:`window_sums` along the diagonals (the paper's map :math:`\mathcal A`), a
non-linearity :func:`relu_moments` (:math:`\mathcal V` and :math:`\mathcal V'`), resampling a product with a matrix
from both sides. What each convolution adds to the tangent kernel by its own weights is a :class:`Term`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ntkbook.layers import INITIALISATIONS, Downsample, Serial, Upsample

PARAMETRISATIONS = ("ntk", "standard", "paper")


@dataclass(frozen=True)
class Term:
    r"""What one convolution does to covariance and tangent kernel, per entry of a window's mean.

    With M the mean over the window of the features' covariance and N that of their tangent kernel, the layer's
    covariance is ``scale * M + bias`` and its tangent kernel ``scale * N + own * scale * M + own_bias``.

    Args:
        scale: the variance of the weights times the fan-in, :math:`\sigma_w^2`.
        bias: the variance of the biases.
        own: weight of the layer's own term.
        own_bias: what the training of its biases adds.
    """

    scale: float
    bias: float
    own: float
    own_bias: float

    def apply(self, covariance: Tensor, tangent: Tensor, count: int) -> None:
        """Turn sums over windows into the layer's covariance and tangent kernel, in place.

        Args:
            covariance: sums of the features' covariance, any shape.
            tangent: sums of their tangent kernel, the same shape.
            count: how many entries a sum has.
        """
        share = self.scale / count
        tangent.add_(covariance, alpha=self.own).mul_(share).add_(self.own_bias)
        covariance.mul_(share).add_(self.bias)


def terms(
    spec: Serial,
    inputs: int,
    parametrisation: str = "ntk",
    channels: float = math.inf,
    initialisation: str = "he",
) -> list[Term]:
    """The :class:`Term` of each convolution, in order.

    Args:
        spec: the network.
        inputs: channels of its input.
        parametrisation: see :func:`ntkbook.kernels.infinite_width`.
        channels: likewise.
        initialisation: likewise.

    Raises:
        ValueError: an argument is not one of the accepted, or the paper's recursion is asked for a network with
            biases.
    """
    if parametrisation not in PARAMETRISATIONS:
        raise ValueError(f"Unknown parametrisation {parametrisation!r}; accepted are {', '.join(PARAMETRISATIONS)}.")
    if initialisation not in INITIALISATIONS:
        raise ValueError(f"Unknown initialisation {initialisation!r}; accepted are {', '.join(INITIALISATIONS)}.")
    if not channels >= 1:
        raise ValueError(f"The number of channels must be at least 1, not {channels}.")
    found = []
    for conv in spec.convolutions():
        scale, bias, first = conv.variance, (conv.bias or 0.0) ** 2, not found
        own, own_bias = 1.0, bias
        if parametrisation == "paper":
            if conv.bias is not None:
                raise ValueError("The paper's recursion has no biases; use the parametrisation 'ntk' or 'standard'.")
            if first:
                scale, own = 1.0, 0.0
        if first and initialisation == "printed" and parametrisation != "paper":
            scale *= inputs
        if parametrisation == "standard":
            own = conv.size**2 * (inputs / channels if first else 1) / scale
            own_bias = 0.0 if conv.bias is None else 1 / channels
        found.append(Term(scale, bias, own, own_bias))
    return found


def window_sums(values: Tensor, dims: tuple[int, ...], size: int, step: int = 1) -> Tensor:
    """Sums of ``size`` entries, ``step`` apart along some axes at once, by doubling: 11 = 1 + 2 + 8 takes five steps.

    Args:
        values: any shape.
        dims: the axes; with two of them the sums run along diagonals.
        size: number of entries.
        step: distance of the entries along each of the axes.

    Returns:
        A tensor shorter by ``(size - 1) * step`` entries along each of the axes.
    """

    def shifted(values: Tensor, shift: int, fewer: int) -> Tensor:
        for dim in dims:
            values = values.narrow(dim, shift * step, values.shape[dim] - fewer * step)
        return values

    power, start, reach, total = 1, 0, size - 1, None
    while True:
        if size & power:
            part = shifted(values, start, reach)
            total = part if total is None else total + part
            start += power
        if start == size:
            return total
        values = shifted(values, 0, power) + shifted(values, power, power)
        reach -= power
        power *= 2


def relu_moments(covariance: Tensor, scale: Tensor, slope: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Expectations over a Gaussian pair (u, v): :math:`\E\phi(u)\phi(v)` and :math:`\E\phi'(u)\phi'(v)`.

    The maps :math:`\mathcal V` and :math:`\mathcal V'` of the paper's (38) and (52) without their :math:`\sigma_w^2`,
    which belongs to the convolution after them.

    Args:
        covariance: of u and v, any shape.
        scale: the product of their standard deviations, the same shape.
        slope: of the non-linearity for negative values, 0 for the relu.

    Returns:
        The two expectations, of that shape. Where the scale is 0 both are exactly 0: a pixel that is zero whatever
        the weights passes nothing on.
    """
    # With the cosine's sign turned, acos gives pi minus the angle. A cosine off 1 or -1 by no more than rounding counts
    # as that: there the angle is the square root of what is missing. In place, for passes over memory take the time.
    lowest = 8 * torch.finfo(scale.dtype).eps - 1
    cosine = torch.div(covariance, scale.clamp_min(torch.finfo(scale.dtype).tiny))
    negative = functional.threshold_(functional.threshold_(cosine, lowest, -1).neg_(), lowest, -1)
    share = torch.acos(negative).mul_(1 / (2 * math.pi))
    sine = torch.addcmul(torch.ones((), dtype=scale.dtype, device=scale.device), negative, negative, value=-1).sqrt_()
    features = sine.mul_(1 / (2 * math.pi)).addcmul_(share, negative, value=-1).mul_(scale)
    if slope:
        features.mul_((1 - slope) ** 2).add_(covariance, alpha=slope)
        share.mul_((1 - slope) ** 2).add_(slope)
    if not scale.all():
        outside = scale == 0
        features.masked_fill_(outside, 0)
        share.masked_fill_(outside, 0)
    return features, share


def second_moment(variance: Tensor, slope: float) -> Tensor:
    r"""The diagonal of :math:`\E\phi\phi^T`: :math:`\tfrac12(1 + \alpha^2)\sigma^2`."""
    return variance * ((1 + slope**2) / 2)


def mean_feature(variance: Tensor, slope: float) -> Tensor:
    r"""The mean :math:`\E\phi(u) = (1 - \alpha)\sigma/\sqrt{2\pi}` of a non-linearity's features."""
    return variance.sqrt() * ((1 - slope) / math.sqrt(2 * math.pi))


def resampling_matrix(layer: Downsample | Upsample, length: int, dtype: torch.dtype) -> Tensor:
    """Resampling along one axis of the given length as a matrix, shape (samples after, samples before).

    The Kronecker product of two of them is the matrix D of :eq:`eq-ntk-71` or U of :eq:`eq-ntk-72`.
    """
    after = length * layer.factor if isinstance(layer, Upsample) else length // layer.factor
    mode = "linear" if layer.mode == "bilinear" else "nearest"
    return functional.interpolate(torch.eye(length, dtype=torch.float64)[None], after, mode=mode)[0].T.to(dtype)
