"""The kernels of wide networks written out with loops over pairs of pixels, and of finite ones by whole Jacobians.

For tests on tiny images. Nothing here is shared with the package but the layers: a covariance is a nested dictionary
from pairs of pixels to numbers, and every map is the sum or the integral that defines it.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional

from ntkbook.layers import Conv, Relu, Serial, Skip, Upsample


def position(index: int, length: int, padding: str) -> int | None:
    """Where the sample at an index past the border is read; None where there is nothing."""
    if 0 <= index < length:
        return index
    if padding == "circular":
        return index % length
    if padding == "reflect":
        return -index if index < 0 else 2 * (length - 1) - index
    return None


class Literal:
    """Covariance K, tangent kernel T and mean of one channel's features, entry by entry."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.pixels = [(row, column) for row in range(height) for column in range(width)]
        self.K: dict = {}
        self.T: dict = {}
        self.mean: dict = dict.fromkeys(self.pixels, 0.0)

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """Covariance and tangent kernel, pixels x pixels."""
        return tuple(np.array([[each[p, q] for q in self.pixels] for p in self.pixels]) for each in (self.K, self.T))


def convolved(before: Literal, conv: Conv, scale: float, own: float, own_bias: float, variance: float) -> Literal:
    """A convolution: the mean over all pairs of places of two windows that correspond."""
    after = Literal(*conv.output_size(before.height, before.width))
    reach = range(-(conv.size // 2), conv.size // 2 + 1)

    def window(pixel: tuple[int, int]) -> list:
        rows = [position(pixel[0] * conv.stride + k, before.height, conv.padding) for k in reach]
        columns = [position(pixel[1] * conv.stride + k, before.width, conv.padding) for k in reach]
        return [None if row is None or column is None else (row, column) for row in rows for column in columns]

    windows = {pixel: window(pixel) for pixel in after.pixels}
    for p in after.pixels:
        for q in after.pixels:
            pairs = [pair for pair in zip(windows[p], windows[q], strict=True) if None not in pair]
            share = scale / conv.size**2 * sum(before.K[pair] for pair in pairs)
            after.K[p, q] = share + variance
            after.T[p, q] = scale / conv.size**2 * sum(before.T[pair] for pair in pairs) + own * share + own_bias
    return after


def activated(before: Literal, slope: float) -> Literal:
    """A leaky relu, by the arc-cosine kernels of order one and zero."""
    after = Literal(before.height, before.width)
    for p in before.pixels:
        after.mean[p] = (1 - slope) * math.sqrt(before.K[p, p] / (2 * math.pi))
        for q in before.pixels:
            size = math.sqrt(before.K[p, p] * before.K[q, q])
            if size == 0:
                after.K[p, q] = after.T[p, q] = 0.0
                continue
            # Rounded, for an arc cosine near 1 has half of the digits: parallel patches are parallel.
            cosine = max(-1.0, min(1.0, round(before.K[p, q] / size, 14)))
            angle = math.acos(cosine)
            both = size / (2 * math.pi) * (math.sin(angle) + (math.pi - angle) * cosine)
            after.K[p, q] = slope * before.K[p, q] + (1 - slope) ** 2 * both
            after.T[p, q] = before.T[p, q] * (slope + (1 - slope) ** 2 * (math.pi - angle) / (2 * math.pi))
    return after


def resampled(before: Literal, layer: object) -> Literal:
    """Linear resampling: the matrix is read off from what PyTorch makes of images with one pixel set."""
    after = Literal(*layer.output_size(before.height, before.width))
    unit = torch.eye(len(before.pixels), dtype=torch.float64).reshape(1, -1, before.height, before.width)
    factor = layer.factor if isinstance(layer, Upsample) else 1 / layer.factor
    weights = functional.interpolate(unit, scale_factor=factor, mode=layer.mode)[0].flatten(1).T
    for i, p in enumerate(after.pixels):
        taps = [(before.pixels[k], weights[i, k].item()) for k in weights[i].nonzero().flatten().tolist()]
        after.mean[p] = sum(weight * before.mean[a] for a, weight in taps)
        for j, q in enumerate(after.pixels):
            others = [(before.pixels[k], weights[j, k].item()) for k in weights[j].nonzero().flatten().tolist()]
            for target, source in ((after.K, before.K), (after.T, before.T)):
                target[p, q] = sum(u * v * source[a, b] for a, u in taps for b, v in others)
    return after


def added(first: Literal, second: Literal) -> Literal:
    """The sum of two independent features: covariances add, and so do products of their means."""
    after = Literal(first.height, first.width)
    for p in first.pixels:
        after.mean[p] = first.mean[p] + second.mean[p]
        for q in first.pixels:
            means = first.mean[p] * second.mean[q] + second.mean[p] * first.mean[q]
            after.K[p, q] = first.K[p, q] + second.K[p, q] + means
            after.T[p, q] = first.T[p, q] + second.T[p, q]
    return after


def literal_network(
    spec: Serial,
    image: np.ndarray,
    parametrisation: str = "ntk",
    channels: float = math.inf,
    initialisation: str = "he",
) -> Literal:
    """The kernels of a network on an image (channels, height, width)."""
    count = [0]

    def through(layers: Serial, state: Literal) -> Literal:
        for layer in layers:
            if isinstance(layer, Skip):
                state = added(state, through(layer.branch, state))
            elif isinstance(layer, Relu):
                state = activated(state, layer.slope)
            elif isinstance(layer, Conv):
                first = count[0] == 0
                count[0] += 1
                scale, own, own_bias = layer.variance, 1.0, (layer.bias or 0.0) ** 2
                if parametrisation == "paper" and first:
                    scale, own = 1.0, 0.0
                elif first and initialisation == "printed":
                    scale *= len(image)
                if parametrisation == "standard":
                    own = layer.size**2 * (len(image) / channels if first else 1.0) / scale
                    own_bias = 0.0 if layer.bias is None else 1 / channels
                state = convolved(state, layer, scale, own, own_bias, (layer.bias or 0.0) ** 2)
            else:
                state = resampled(state, layer)
        return state

    start = Literal(*image.shape[1:])
    for p in start.pixels:
        for q in start.pixels:
            start.K[p, q] = float(image[:, p[0], p[1]] @ image[:, q[0], q[1]]) / len(image)
            start.T[p, q] = 0.0
    return through(spec, start)


def jacobian_kernel(network: nn.Module, image: Tensor) -> Tensor:
    """The tangent kernel of a finite network with its whole Jacobian, outputs x weights."""
    parameters = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    jacobian = jacrev(lambda weights: functional_call(network, weights, (image[None],))[0].flatten())(parameters)
    rows = torch.cat([each.flatten(1) for each in jacobian.values()], dim=1)
    return rows @ rows.T
