"""Resampling of images and of the matrices over their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkbook.covariances import resampling_matrix
from ntkbook.images import padded_positions
from ntkbook.layers import Downsample, Upsample


@dataclass(frozen=True)
class Resampling:
    """A linear map of images as one matrix along image rows and one along columns.

    Args:
        rows: shape (rows after, rows before).
        columns: shape (columns after, columns before).
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, layers: Sequence[Downsample | Upsample], size: tuple[int, int], like: Tensor) -> "Resampling":
        """Layers one after the other, for images of a height and width."""
        return cls(*(_composed(layers, length, like) for length in size))

    def continued(self, reach: int, padding: str) -> "Resampling":
        """With samples past the border."""
        return Resampling(*(_continued(each, reach, padding) for each in (self.rows, self.columns)))

    def image(self, image: Tensor) -> Tensor:
        """Applied to an image, shape (height, width)."""
        return self.rows @ image @ self.columns.T

    def diagonal(self, whole: Tensor) -> Tensor:
        """The diagonal, as an image, of what :meth:`both_sides` makes of a whole matrix."""
        by_columns = torch.einsum("yxzw,jx,jw->yzj", whole, self.columns, self.columns)
        return torch.einsum("yzj,iy,iz->ij", by_columns, self.rows, self.rows)

    def both_sides(self, whole: Tensor, near: slice, far: slice, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """M K M^T for a matrix K, the paper's (71) and (72), for some image rows on either side.

        Args:
            whole: K, or the part of it that begins at two image rows, shape (rows, width, rows, width).
            near: image rows that are written.
            far: those of the second pixel.
            origin: the two image rows at which ``whole`` begins.
        """
        read = [_range_of(self.rows[each]) for each in (near, far)]
        first, second = (slice(each.start - at, each.stop - at) for each, at in zip(read, origin, strict=True))
        tile = whole[first, :, second]
        for written, used in zip((near, far), read, strict=True):
            # Plain matrix products only: of the leading axis and of the last, then the two pixels change places.
            tile = (self.rows[written, used] @ tile.flatten(1)).unflatten(1, tile.shape[1:])
            tile = exchanged(tile @ self.columns.T)
        return tile


def exchanged(tile: Tensor) -> Tensor:
    """The transpose: (a, x, b, y) -> (b, y, a, x). As that of a matrix PyTorch copies it several times faster."""
    square = tile.flatten(2).flatten(0, 1)
    return square.T.contiguous().view(*tile.shape[2:], *tile.shape[:2])


def _composed(layers: Sequence[Downsample | Upsample], length: int, like: Tensor) -> Tensor:
    # Resampling along one axis as one matrix.
    whole = torch.eye(length, dtype=like.dtype, device=like.device)
    for layer in layers:
        whole = resampling_matrix(layer, len(whole), like.dtype).to(like.device) @ whole
    return whole


def _continued(matrix: Tensor, reach: int, padding: str) -> Tensor:
    # The rows of a matrix that resamples along one axis, continued past the border.
    positions, outside = padded_positions(-reach, len(matrix) + reach, len(matrix), padding)
    rows = matrix[positions.to(matrix.device)]
    if padding == "zeros":
        rows[outside] = 0
    return rows


def _range_of(rows: Tensor) -> slice:
    # The range of columns in which some rows of a matrix are not zero.
    used = rows.any(dim=0).nonzero()
    return slice(used[0].item(), used[-1].item() + 1)
