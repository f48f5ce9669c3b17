"""Images as tensors: noise, PSNR, patches, and the two ways of laying out pixels.

An image is a floating-point tensor of shape (channels, height, width). A clean image lies in [0, 1]; a noisy
one may leave that range, because noise is never clipped. The pixels as a matrix have shape (pixels,
channels), row after row.

Reading and writing files lives in :mod:`ntkbook.image_files`, the test photographs in
:mod:`ntkbook.photographs`; their public names can be used from here too.
"""

from __future__ import annotations

import math
import numbers

import numpy as np
import torch
from torch import Tensor

from ntkbook.image_files import check_image, read, save
from ntkbook.photographs import OTHERS, SET9, Photograph, available, load, photograph

__all__ = [
    "OTHERS",
    "PADDINGS",
    "SET9",
    "Photograph",
    "add_noise",
    "available",
    "centre",
    "check_image",
    "constant_image",
    "extract_patches",
    "load",
    "padded_positions",
    "padded_strip",
    "patches",
    "patches_around",
    "photograph",
    "psnr",
    "read",
    "save",
    "to_image",
    "to_matrix",
    "uncentre",
    "windows_at",
]

PADDINGS = ("reflect", "zeros", "circular")


def add_noise(image: Tensor, sigma: float, seed: int) -> Tensor:
    """Add white Gaussian noise that is the same on every device.

    The noise is ``numpy.random.default_rng(seed).standard_normal((channels, height, width))`` times
    ``sigma / 255``, drawn on the CPU in float64 and then cast to the image's dtype and device. The sum is not
    clipped. So the noisy image has the likelihood :eq:`eq-ntk-41`.

    Args:
        image: Tensor (channels, height, width), usually in [0, 1].
        sigma: Standard deviation of the noise on the 8-bit scale (25 is the paper's usual choice), at least
            0.
        seed: Non-negative integer.

    Returns:
        The noisy image, of the shape, dtype and device of ``image``.

    Raises:
        ValueError: If sigma is negative or not finite, if the seed is negative, or if the image is not one.
        TypeError: If the image is not a tensor or the seed is not an integer.
    """
    check_image(image)
    if not isinstance(sigma, numbers.Real) or not math.isfinite(sigma) or sigma < 0:
        raise ValueError(f"sigma must be a finite number that is at least 0 (on the 8-bit scale), got {sigma!r}")
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    noise = np.random.default_rng(int(seed)).standard_normal(tuple(image.shape)) * (float(sigma) / 255)
    return image + torch.from_numpy(noise).to(image.dtype).to(image.device)


def psnr(estimate: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, 10 log10(1 / MSE), for a peak of 1.

    The estimate is clipped to [0, 1] first; the clean image is used as it is. Squares are averaged in
    float64.

    Args:
        estimate: Tensor (channels, height, width).
        clean: Tensor of the same shape; the ground truth.

    Returns:
        The PSNR in dB; ``inf`` when the clipped estimate equals the clean image.

    Raises:
        ValueError: If the shapes differ, or either image holds NaN or infinity.
        TypeError: If either is not a tensor.
    """
    check_image(estimate, "the estimate")
    check_image(clean, "the clean image")
    if estimate.shape != clean.shape:
        raise ValueError(f"the estimate has shape {tuple(estimate.shape)}, the clean image {tuple(clean.shape)}")
    error = (estimate.detach().double().clamp(0, 1) - clean.detach().double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def constant_image(image: Tensor) -> Tensor:
    """The image whose every pixel is the mean of its channel: the second reference row of each table.

    Args:
        image: Tensor (channels, height, width).

    Returns:
        A tensor of the same shape, dtype and device.

    Raises:
        ValueError: If the image is not one.
        TypeError: If it is not a tensor.
    """
    check_image(image)
    return image.mean(dim=(1, 2), keepdim=True).expand_as(image).clone()


def central(image: Tensor, side: int) -> Tensor:
    """The central square of an image, shape (channels, side, side), or less where the image is smaller."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[1:])
    return image[:, top : top + side, left : left + side].contiguous()


def centre(image: Tensor) -> Tensor:
    """Shift an image from [0, 1] to [-0.5, 0.5] (the paper's Appendix I).

    Args:
        image: Tensor (channels, height, width).

    Returns:
        ``image - 0.5``.

    Raises:
        ValueError: If the image is not one.
        TypeError: If it is not a tensor.
    """
    check_image(image)
    return image - 0.5


def uncentre(image: Tensor) -> Tensor:
    """Undo :func:`centre`: shift from [-0.5, 0.5] back to [0, 1].

    Args:
        image: Tensor (channels, height, width).

    Returns:
        ``image + 0.5``.

    Raises:
        ValueError: If the image is not one.
        TypeError: If it is not a tensor.
    """
    check_image(image)
    return image + 0.5


def to_matrix(image: Tensor) -> Tensor:
    """The pixels as rows: (channels, height, width) becomes (height * width, channels), row-major.

    Args:
        image: Tensor (channels, height, width).

    Returns:
        A contiguous tensor (pixels, channels); pixel (row, column) is row ``row * width + column``.

    Raises:
        ValueError: If the image is not one.
        TypeError: If it is not a tensor.
    """
    check_image(image)
    return image.flatten(1).T.contiguous()


def to_image(matrix: Tensor, height: int, width: int) -> Tensor:
    """Undo :func:`to_matrix`.

    Args:
        matrix: Tensor (height * width, channels).
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        A contiguous tensor (channels, height, width).

    Raises:
        ValueError: If the matrix does not have height * width rows.
        TypeError: If it is not a tensor.
    """
    if not isinstance(matrix, Tensor):
        raise TypeError(f"the matrix must be a torch.Tensor, got {type(matrix).__name__}")
    if matrix.ndim != 2 or matrix.shape[0] != height * width:
        raise ValueError(
            f"an image of {height} x {width} needs a matrix with {height * width} rows (pixels, channels), "
            f"got shape {tuple(matrix.shape)}"
        )
    return matrix.T.reshape(matrix.shape[1], height, width).contiguous()


def padded_positions(start: int, stop: int, length: int, padding: str) -> tuple[Tensor, Tensor]:
    """Which sample stands at positions start..stop-1 of a padded axis, and which positions lie outside it."""
    positions = torch.arange(start, stop)
    outside = (positions < 0) | (positions >= length)
    if padding == "circular":
        return positions % length, outside
    if padding == "reflect":
        # Mirror at the centre of the first and last sample, which are not repeated: -1 -> 1, length -> length
        # - 2.
        return (length - 1) - ((length - 1) - positions.abs()).abs(), outside
    return positions.clamp(0, length - 1), outside


def _row_range(rows: slice | tuple[int, int] | None, height: int) -> tuple[int, int]:
    """Turn ``rows`` into (start, stop) with 0 <= start < stop <= height, or say what is wrong."""
    if rows is None:
        return 0, height
    if isinstance(rows, slice):
        if rows.step not in (None, 1):
            raise ValueError(f"rows must be consecutive, got a slice with step {rows.step}")
        start, stop = (0 if rows.start is None else rows.start), (height if rows.stop is None else rows.stop)
    else:
        start, stop = rows
    if not 0 <= start < stop <= height:
        raise ValueError(f"rows must satisfy 0 <= start < stop <= {height}, got start {start} and stop {stop}")
    return int(start), int(stop)


def patches(
    image: Tensor,
    size: int,
    padding: str = "reflect",
    rows: slice | tuple[int, int] | None = None,
) -> Tensor:
    """The square patch centred at each pixel, one per row: the input of a convolution written as a matrix.

    The entries of a row are ordered channel first, then patch row, then patch column, as in
    :func:`torch.nn.functional.unfold` and as in the flattened weight of :class:`torch.nn.Conv2d`.

    Args:
        image: Tensor (channels, height, width).
        size: Side of the patch in pixels; odd, at most the image's smaller side.
        padding: ``"reflect"`` (mirrored about the border pixels, which are not repeated), ``"zeros"`` or
            ``"circular"``.
        rows: Give only the patches of these image rows, as a slice or a pair (start, stop) with
            0 <= start < stop <= height. Only their memory is used, so a large image can be streamed.

    Returns:
        Tensor (pixels, channels * size * size) with pixels = height * width, or (stop - start) * width with
        ``rows``.

    Raises:
        ValueError: If size is even, smaller than 1 or larger than the image, if the padding or rows are not
            as above, or if the image holds NaN or infinity.
        TypeError: If the image is not a tensor or size is not an integer.
    """
    check_image(image)
    height, width = image.shape[1:]
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
        raise TypeError(f"the patch size must be an integer, got {size!r}")
    size = int(size)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"the patch size must be odd and at least 1, so that a patch has a centre; got {size}")
    if size > min(height, width):
        raise ValueError(f"a patch of {size} x {size} does not fit in an image of {height} x {width}")
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}; got {padding!r}")
    start, stop = _row_range(rows, height)

    return extract_patches(image, size, padding, start, stop)


def extract_patches(image: Tensor, size: int, padding: str, start: int, stop: int, stride: int = 1) -> Tensor:
    """:func:`patches` of the rows ``start`` to ``stop``, for callers that stream an image they have checked once.

    With a stride only every so many rows and columns have a patch, the first of each included. The image may have
    further axes in front, (..., channels, height, width); the patches have them too. In memory each entry of all the
    patches lies together: that is several times faster to copy, and products do not mind.
    """
    strip = padded_strip(image, size, padding, start, stop)
    windows = strip.unfold(-2, size, stride).unfold(-2, size, stride)  # (..., channels, rows, columns, size, size)
    entries = windows.movedim((-2, -1), (-4, -3))
    return entries.reshape(*image.shape[:-3], image.shape[-3] * size * size, -1).mT


def padded_strip(image: Tensor, size: int, padding: str, start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` with all that their patches reach: ``size - 1`` rows and columns more; unchecked."""
    height, width = image.shape[-2:]
    half = size // 2
    row_index, row_outside = padded_positions(start - half, stop + half, height, padding)
    column_index, column_outside = padded_positions(-half, width + half, width, padding)
    strip = image.index_select(-2, row_index.to(image.device)).index_select(-1, column_index.to(image.device))
    if padding == "zeros":
        strip = strip.masked_fill((row_outside[:, None] | column_outside).to(image.device), 0)
    return strip


def patches_around(image: Tensor, size: int, padding: str, pixels: Tensor) -> Tensor:
    """:func:`patches` around the named pixels (row-major indices), unchecked: (..., len(pixels), entries)."""
    height, width = image.shape[-2:]
    found = windows_at(padded_strip(image, size, padding, 0, height), size, width, pixels)
    return found.movedim(-3, -4).flatten(-3)


def windows_at(strip: Tensor, size: int, width: int, pixels: Tensor) -> Tensor:
    """Square windows of a padded image around the named pixels (row-major indices), unchecked.

    Args:
        strip: :func:`padded_strip` of all rows, for this size.
        size: side of the windows.
        width: of the image without its padding.
        pixels: row-major indices.

    Returns:
        Tensor (..., channels, len(pixels), size, size).
    """
    pixels, reach = pixels.to(strip.device), torch.arange(size, device=strip.device)
    rows = torch.div(pixels, width, rounding_mode="floor")[:, None] + reach
    columns = (pixels % width)[:, None] + reach
    return strip[..., rows[:, :, None], columns[:, None, :]]
