"""A network cut into groups of layers that a tile of its kernel passes at once.

All layers but convolutions larger than a pixel and upsampling need nothing from a tile's neighbours. So a group begins
with upsampling and a convolution, each if there is one, and goes on up to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from ntkbook.covariances import Term
from ntkbook.layers import Conv, Downsample, Layer, Relu, Serial, Skip, Upsample


class Border(NamedTuple):
    """How far a matrix is continued past the border of the image, in pixels, and by which padding."""

    reach: int
    padding: str

    def entries(self, height: int, width: int) -> int:
        """Entries of a matrix on an image of this size with its border."""
        return ((height + 2 * self.reach) * (width + 2 * self.reach)) ** 2


@dataclass(frozen=True)
class Group:
    """Layers in their order: upsampling, a convolution, layers of one pixel, downsampling; each may be missing.

    Args:
        ups: upsampling.
        conv: a convolution with its term, or None.
        pointwise: non-linearities, with None, and 1x1 convolutions with their terms.
        downs: downsampling.
    """

    ups: tuple[Upsample, ...] = ()
    conv: tuple[Conv, Term] | None = None
    pointwise: tuple[tuple[Relu | Conv, Term | None], ...] = ()
    downs: tuple[Downsample, ...] = ()

    def followed_by(self, layer: Layer, term: Term | None) -> Group | None:
        """The group with one more layer, or None where that layer begins the next group."""
        begins = not (self.conv or self.pointwise or self.downs)
        if isinstance(layer, Upsample):
            return replace(self, ups=(*self.ups, layer)) if begins else None
        if isinstance(layer, Downsample):
            return replace(self, downs=(*self.downs, layer))
        if isinstance(layer, Conv) and (begins or layer.size > 1 or layer.stride > 1):
            return replace(self, conv=(layer, term)) if begins else None
        return None if self.downs else replace(self, pointwise=(*self.pointwise, (layer, term)))

    @property
    def factor(self) -> int:
        """By how much the downsampling shrinks each side."""
        return prod(down.factor for down in self.downs)

    @property
    def border(self) -> Border:
        """What the group reads past the border of what is stored before it; upsampling sees to that by itself."""
        if self.conv is None or self.ups:
            return Border(0, "zeros")
        return Border(self.conv[0].size // 2, self.conv[0].padding)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        layers = [*self.ups, *([self.conv[0]] if self.conv else []), *self.downs]
        for layer in layers:
            height, width = layer.output_size(height, width)
        return height, width


@dataclass(frozen=True)
class Branch:
    """The groups beside a skip connection."""

    groups: tuple[Group | Branch, ...]

    @property
    def border(self) -> Border:
        """That of the first group."""
        return self.groups[0].border


def groups(layers: Serial, terms: Iterator[Term]) -> tuple[Group | Branch, ...]:
    """Cut a network.

    Args:
        layers: the network, or a part of it.
        terms: of the convolutions in their order; as many are taken as there are convolutions.
    """
    found: list[Group | Branch] = []
    for layer in layers:
        if isinstance(layer, Skip):
            found.append(Branch(groups(layer.branch, terms)))
            continue
        term = next(terms) if isinstance(layer, Conv) else None
        longer = found[-1].followed_by(layer, term) if found and isinstance(found[-1], Group) else None
        if longer is None:
            found.append(Group().followed_by(layer, term))
        else:
            found[-1] = longer
    return tuple(found)


def peak_entries(parts: Sequence[Group | Branch], height: int, width: int, after: Border, held: int = 0) -> int:
    """How many entries of each of the two matrices are held at once.

    Args:
        parts: of the network.
        height: of their input.
        width: of their input.
        after: the border that is read next.
        held: entries that are held all the time: the input of a branch, until the sum.
    """
    peak, stored = held, 0
    borders = [*(part.border for part in parts[1:]), after]
    for part, border in zip(parts, borders, strict=True):
        if isinstance(part, Branch):
            peak = max(peak, peak_entries(part.groups, height, width, border, held + stored))
            stored = border.entries(height, width)  # the branch's own, with the sum in it
        else:
            height, width = part.output_size(height, width)
            written = border.entries(height, width)
            peak, stored = max(peak, held + stored + written), written
    return peak


def check_gaussian(layers: Serial, gaussian: bool = False) -> bool:
    """Refuse non-linearities of what is not Gaussian: the kernels are known for those of convolutions' outputs only.

    Args:
        layers: the network, or a part of it.
        gaussian: whether their input is.

    Returns:
        Whether their output is.

    Raises:
        ValueError: a non-linearity follows another, or features with a skip connection, without a convolution between.
    """
    for layer in layers:
        if isinstance(layer, Conv):
            gaussian = True
        elif isinstance(layer, Skip):
            gaussian = check_gaussian(layer.branch, gaussian) and gaussian
        elif isinstance(layer, Relu):
            if not gaussian:
                raise ValueError(
                    f"{layer!r} acts on features of another non-linearity, which are not Gaussian, so its kernel has "
                    "no closed form; a convolution must come between."
                )
            gaussian = False
    return gaussian
