"""The whole kernels of an infinitely wide network on one image, for any architecture.

Covariance and tangent kernel are kept as (height, width, height, width) and go through the network tile by tile: a
tile holds the pairs of pixels of two blocks of image rows, and passes several layers while it is near the cores.
Both matrices are symmetric, so only the tiles on one side of the diagonal are computed.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from ntkbook.covariances import mean_feature, relu_moments, second_moment, window_sums
from ntkbook.images import extract_patches, padded_positions, padded_strip
from ntkbook.layers import Conv
from ntkbook.resampling import Resampling, exchanged
from ntkbook.tile_groups import Border, Branch, Group

TILE_ENTRIES = 2**18  # 2 MB in float64
GPU_TILE_ENTRIES = 2**26


@dataclass(frozen=True)
class State:
    """What a layer passes on: the two matrices of one channel's features.

    Args:
        covariance: shape (height + 2 reach, width + 2 reach) twice, continued past the border as the convolution that
            reads it next asks.
        tangent: the tangent kernel, the same shape.
        reach: pixels past the border.
        mean: of the features, shape (height, width); None where it is zero.
    """

    covariance: Tensor
    tangent: Tensor
    reach: int
    mean: Tensor | None

    def inner(self, whole: Tensor) -> Tensor:
        """One of the matrices without what lies past the border, (height, width, height, width)."""
        return _inner(whole, self.reach)


class ImageSource:
    """What the first group reads: sums over windows of the image, which are products of patches."""

    def __init__(self, image: Tensor, group: Group) -> None:
        self.image, self.conv = image, group.conv[0]
        self.count = len(image) * self.conv.size**2
        self.variances = image.square().mean(dim=0)
        self.mean = None

    def sums(self, rows: slice, others: slice) -> tuple[Tensor, Tensor]:
        """Sums over windows of covariance and tangent kernel, each (rows, width, other rows, width)."""
        near, far = self._patches(rows), self._patches(others)
        pairs = (near.flatten(0, 1) @ far.flatten(0, 1).mT).view(*near.shape[:2], *far.shape[:2])
        return pairs, torch.zeros_like(pairs)

    def _patches(self, rows: slice) -> Tensor:
        stride = self.conv.stride
        found = extract_patches(
            self.image, self.conv.size, self.conv.padding, rows.start * stride, rows.stop * stride, stride
        )
        return found.unflatten(0, (rows.stop - rows.start, -1))


class StateSource:
    """What a later group reads: sums over windows of what is stored, upsampled first where the group asks for it."""

    def __init__(self, state: State, group: Group) -> None:
        conv = group.conv[0] if group.conv else Conv(1)
        self.state, self.size, self.stride = state, conv.size, conv.stride
        self.count = conv.size**2
        self.variances, self.mean, self.resampling = _diagonal(state.inner(state.covariance)), state.mean, None
        if group.ups:
            up = Resampling.of(group.ups, self.variances.shape, self.variances)
            self.variances = up.diagonal(state.covariance)
            self.mean = None if self.mean is None else up.image(self.mean)
            self.resampling = up.continued(conv.size // 2, conv.padding)

    def sums(self, rows: slice, others: slice) -> tuple[Tensor, Tensor]:
        """Sums over windows of covariance and tangent kernel, each (rows, width, other rows, width)."""
        near, far = (
            slice(each.start * self.stride, (each.stop - 1) * self.stride + self.size) for each in (rows, others)
        )
        covariance, tangent = (self._summed(near, far, whole) for whole in (self.state.covariance, self.state.tangent))
        return covariance, tangent

    def _summed(self, near: slice, far: slice, whole: Tensor) -> Tensor:
        tile = whole[near, :, far] if self.resampling is None else self.resampling.both_sides(whole, near, far)
        sums = window_sums(window_sums(tile, (0, 2), self.size), (1, 3), self.size)
        step = self.stride
        found = sums[::step, ::step, ::step, ::step]
        return found.clone() if self.size == 1 else found  # the caller writes into it


def passed(group: Group, source: ImageSource | StateSource, after: Border) -> State:
    """What a group of layers makes of its source, stored with the border that is read next."""
    variances, mean, deviations = _diagonal_through(group, source)
    height, width = variances.shape
    factor = group.factor
    down = Resampling.of(group.downs, (height, width), variances) if group.downs else None
    if down and mean is not None:
        mean = down.image(mean)
    sides = [length // factor + 2 * after.reach for length in (height, width)] * 2
    covariance, tangent = _large(sides, variances), _large(sides, variances)
    limit = TILE_ENTRIES if variances.device.type == "cpu" else GPU_TILE_ENTRIES
    step = max(1, math.isqrt(limit) // (width * factor))
    blocks = [slice(top, min(top + step, height // factor)) for top in range(0, height // factor, step)]

    def fill(pair: tuple[slice, slice]) -> None:
        near, far = pair
        rows, others = (slice(each.start * factor, each.stop * factor) for each in (near, far))
        tiles = source.sums(rows, others)
        if group.conv:
            group.conv[1].apply(*tiles, source.count)
        relus = iter(deviations)
        for layer, term in group.pointwise:
            if term is None:
                deviation = next(relus)
                scale = deviation[rows, :, None, None] * deviation[others]
                features, share = relu_moments(tiles[0], scale, layer.slope)
                tiles = features, tiles[1].mul_(share)
            else:
                term.apply(*tiles, 1)
        if down:
            tiles = tuple(down.both_sides(tile, near, far, (rows.start, others.start)) for tile in tiles)
        for whole, tile in zip((covariance, tangent), tiles, strict=True):
            _store(_inner(whole, after.reach), near, far, tile)

    _each(fill, list(combinations_with_replacement(blocks, 2)), variances.device)
    for whole in (covariance, tangent):
        _continue(whole, after)
    return State(covariance, tangent, after.reach, mean)


def _diagonal_through(group: Group, source: ImageSource | StateSource) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    # The variances before downsampling, the features' mean, and the standard deviations that each non-linearity gets.
    variances, mean, deviations = source.variances, source.mean, []
    if group.conv:
        conv, term = group.conv
        strip = padded_strip(variances[None], conv.size, conv.padding, 0, len(variances))[0]
        sums = window_sums(window_sums(strip, (0,), conv.size), (1,), conv.size)[:: conv.stride, :: conv.stride]
        variances, mean = sums * (term.scale / conv.size**2) + term.bias, None
    for layer, term in group.pointwise:
        if term is None:
            deviations.append(variances.sqrt())
            variances, mean = second_moment(variances, layer.slope), mean_feature(variances, layer.slope)
        else:
            variances, mean = variances * term.scale + term.bias, None
    return variances, mean, deviations


def through(parts: Sequence[Group | Branch], state: State | Tensor, after: Border) -> State:
    """What a network, or the branch beside a skip connection, makes of an image or of a state.

    Args:
        parts: the groups.
        state: what they read: an image (channels, height, width), or a state.
        after: the border that is read next.
    """
    borders = [*(part.border for part in parts[1:]), after]
    for part, border in zip(parts, borders, strict=True):
        if isinstance(part, Branch):
            state = _added(state, through(part.groups, state, border), border)
        else:
            source = ImageSource if isinstance(state, Tensor) else StateSource
            state = passed(part, source(state, part), border)
    return state


def _added(state: State, branch: State, border: Border) -> State:
    # Independent given the past, so covariances add; those of features have means, and the product of the means adds.
    for whole, other in ((branch.covariance, state.covariance), (branch.tangent, state.tangent)):
        branch.inner(whole).add_(state.inner(other))
    means = [each.mean for each in (state, branch) if each.mean is not None]
    if len(means) == 2:
        first, second = (mean[:, :, None, None] for mean in means)
        covariance = branch.inner(branch.covariance)
        for row in range(len(covariance)):  # both products before the sum: symmetric to the last bit
            covariance[row] += first[row] * means[1] + second[row] * means[0]
    for whole in (branch.covariance, branch.tangent):
        _continue(whole, border)
    return replace(branch, mean=sum(means) if means else None)


def _each(work: Callable[[tuple[slice, slice]], None], pairs: list[tuple[slice, slice]], device: torch.device) -> None:
    # On the CPU a thread for each tile: a tile is too small to share one well, and its numbers do not depend on them.
    threads = min(torch.get_num_threads(), len(pairs)) if device.type == "cpu" else 1
    if threads == 1:
        for pair in pairs:
            work(pair)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, pairs):
                pass
    finally:
        torch.set_num_threads(before)


def _large(shape: Sequence[int], like: Tensor) -> Tensor:
    # NumPy asks Linux for large pages and PyTorch does not: fetching small ones took a fifth of the time.
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, np.float32 if like.dtype == torch.float32 else np.float64))


def _inner(whole: Tensor, reach: int) -> Tensor:
    for axis in range(4):
        whole = whole.narrow(axis, reach, whole.shape[axis] - 2 * reach)
    return whole


def _diagonal(whole: Tensor) -> Tensor:
    return torch.einsum("yxyx->yx", whole).clone()


def _store(whole: Tensor, near: slice, far: slice, tile: Tensor) -> None:
    if near == far:
        square = tile.flatten(2).flatten(0, 1)
        tile = (square.triu() + square.triu(1).mT).view(tile.shape)  # symmetric to the last bit
    else:
        whole[far, :, near].copy_(exchanged(tile))
    whole[near, :, far].copy_(tile)


def _continue(whole: Tensor, border: Border) -> None:
    # Fill what lies past the border of the image, one axis after the other.
    reach = border.reach
    for axis in range(4):
        length = whole.shape[axis] - 2 * reach
        positions, _ = padded_positions(-reach, length + reach, length, border.padding)
        for index in [*range(reach), *range(length + reach, length + 2 * reach)]:
            if border.padding == "zeros":
                whole.select(axis, index).zero_()
            else:
                whole.select(axis, index).copy_(whole.select(axis, reach + positions[index].item()))
