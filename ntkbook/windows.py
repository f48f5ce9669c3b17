"""Windows: a large image as many small ones that overlap, and back.

A filter of a window compares its pixels with one another only, as non-local means does with its search window. Each
window is an image of its own, with the border of an image.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Origin = tuple[int, int]


def window_starts(length: int, side: int, overlap: int) -> list[int]:
    """Where windows start along an axis: evenly spaced, they cover it and overlap by ``overlap`` pixels or more."""
    if length <= side:
        return [0]
    steps = math.ceil((length - side) / (side - overlap))
    return [round(i * (length - side) / steps) for i in range(steps + 1)]


@dataclass(frozen=True)
class Windows:
    """The windows of an image.

    Args:
        height: of the image.
        width: of the image.
        side: of a window; None makes the whole image one window. An image smaller than that has one window.
        overlap: pixels that neighbours share, from 0 to less than the side.

    Raises:
        ValueError: the overlap is out of range.
    """

    height: int
    width: int
    side: int | None = None
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.side is not None and not 0 <= self.overlap < self.side:
            raise ValueError(f"Windows of side {self.side} overlap by 0 to {self.side - 1} pixels, not {self.overlap}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of each window."""
        side = max(self.height, self.width) if self.side is None else self.side
        return min(side, self.height), min(side, self.width)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of windows down and across."""
        return len(self._starts(0)), len(self._starts(1))

    def _starts(self, axis: int) -> list[int]:
        side = self.shape[axis]
        return window_starts((self.height, self.width)[axis], side, min(self.overlap, side - 1))

    @property
    def origins(self) -> list[Origin]:
        """Upper left corner (row, column) of each window, row after row."""
        return [(top, left) for top in self._starts(0) for left in self._starts(1)]

    def chunks(self, count: int) -> Iterator[tuple[slice, list[Origin]]]:
        """Up to ``count`` windows at a time: their place in ``origins``, and their corners."""
        origins = self.origins
        for start in range(0, len(origins), count):
            where = slice(start, min(start + count, len(origins)))
            yield where, origins[where]

    def cut(self, image: Tensor, origins: Sequence[Origin]) -> Tensor:
        """Windows of (..., channels, height, width): (..., len(origins), channels, window height, window width)."""
        height, width = self.shape
        crops = [image[..., top : top + height, left : left + width] for top, left in origins]
        return torch.stack(crops, dim=-4)


class Blend:
    """Windows put together again: an average that gives the middle of a window more weight than its border.

    Args:
        windows: the layout.
        like: a tensor with the shape (..., channels, height, width), dtype and device of the result.
    """

    def __init__(self, windows: Windows, like: Tensor) -> None:
        self._windows = windows
        self._sum = torch.zeros_like(like)
        self._total = torch.zeros(like.shape[-2:], dtype=like.dtype, device=like.device)
        rise, across = (_tent(side, like) for side in windows.shape)
        self._weight = rise[:, None] * across

    def add(self, crops: Tensor, origins: Sequence[Origin]) -> None:
        """Add windows, shape (..., len(origins), channels, window height, window width)."""
        height, width = self._windows.shape
        weighted = crops * self._weight
        for crop, (top, left) in zip(weighted.unbind(-4), origins, strict=True):
            self._sum[..., top : top + height, left : left + width] += crop
            self._total[top : top + height, left : left + width] += self._weight

    def result(self) -> Tensor:
        """The average, once every window has been added."""
        return self._sum / self._total


def _tent(length: int, like: Tensor) -> Tensor:
    ramp = torch.arange(1, length + 1, dtype=like.dtype, device=like.device)
    return torch.minimum(ramp, ramp.flip(0)) / length
