"""Image files in and out: PNG, JPEG, TIFF and WebP to tensors in [0, 1] and back.

Stored values are divided by the largest value of their type and nothing else: no gamma, no colour profile.
Reading never runs anything that the file contains.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ntkbook.files import replacing

READABLE = ("PNG", "JPEG", "TIFF", "WEBP")
FLOAT_RANGE = (-1, 2)  # floating-point pixels beyond this are on another scale; noise on [0, 1] stays inside
# What Pillow is asked to write for each suffix; WebP is kept lossless.
WRITABLE: dict[str, tuple[str, dict[str, object]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".webp": ("WEBP", {"lossless": True}),
}
_ORIENTATION_TAG = 0x0112  # the same number in EXIF and in TIFF


def check_image(image: Tensor, what: str = "the image") -> Tensor:
    """Refuse anything that is not an image: a finite floating-point tensor (channels, height, width).

    The range is not checked, since a noisy or centred image may leave [0, 1].

    Args:
        image: What was given.
        what: What to call it in the error.

    Returns:
        ``image`` itself.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If its dtype is not floating point, its shape is not (channels, height, width) with every
            size at least 1, or it holds NaN or infinity.
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"{what} must be a torch.Tensor (channels, height, width), got {type(image).__name__}")
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"{what} must have shape (channels, height, width), got {tuple(image.shape)}")
    if not image.is_floating_point():
        raise ValueError(f"{what} must have a floating-point dtype with values in [0, 1], got {image.dtype}")
    finite = torch.isfinite(image)
    if not finite.all():
        bad = image.numel() - int(finite.sum())
        values = "value that is" if bad == 1 else "values that are"
        raise ValueError(f"{what} holds {bad} {values} NaN or infinite")
    return image


def check_dtype(dtype: torch.dtype) -> torch.dtype:
    """Refuse a dtype that is not floating point.

    Args:
        dtype: What was given.

    Returns:
        ``dtype`` itself.

    Raises:
        ValueError: If it is not a floating-point torch dtype.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point torch dtype such as torch.float32, got {dtype!r}")
    return dtype


def read(path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Tensor:
    """Read a PNG, JPEG, TIFF or WebP file.

    8-bit and 16-bit files are divided by 255 and 65535; floating-point TIFF must lie in about [0, 1].
    One-bit and grey files give one channel; palette, CMYK and the like are converted to RGB. An alpha channel
    is dropped, not composited over some background. The EXIF orientation is applied. Of an animation the
    first frame is read.

    Args:
        path: The file.
        dtype: Floating-point dtype of the result.

    Returns:
        Tensor (channels, height, width) in [0, 1] with 1 or 3 channels.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a directory.
        ValueError: If the file cannot be read as one of the four formats, or dtype is not floating point.
        PermissionError: If the file may not be read.
    """
    check_dtype(dtype)
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, not an image file")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image file {path}") from None
    except PermissionError:
        raise PermissionError(f"the image file {path} may not be read (permission denied)") from None
    return decode(content, str(path), dtype)


def decode(content: bytes, what: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Decode the bytes of an image file; see :func:`read` for what is accepted.

    Args:
        content: The bytes of a PNG, JPEG, TIFF or WebP file.
        what: What to call the file in an error.
        dtype: Floating-point dtype of the result.

    Returns:
        Tensor (channels, height, width) in [0, 1] with 1 or 3 channels.

    Raises:
        ValueError: If the bytes are not a complete image in one of the four formats.
    """
    check_dtype(dtype)
    try:
        values = _decode_deep_tiff(content) if _is_deep_rgb_tiff(content) else _decode_with_pillow(content)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ... on broken files
        reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else str(error).rstrip(".")
        raise ValueError(f"{what} cannot be read as a {', '.join(READABLE)} image ({reason})") from error
    if values.ndim == 2:
        values = values[:, :, None]
    if values.dtype == np.bool_ or values.dtype == np.uint8 or values.dtype == np.uint16:
        peak = 1 if values.dtype == np.bool_ else np.iinfo(values.dtype).max
        values = values.astype(np.float64) / peak
    elif np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            count = np.count_nonzero(~np.isfinite(values))
            raise ValueError(f"{what} holds {count} floating-point pixels that are NaN or infinite; none is accepted")
        if values.min() < FLOAT_RANGE[0] or values.max() > FLOAT_RANGE[1]:
            raise ValueError(
                f"{what} holds floating-point pixels from {values.min():.3g} to {values.max():.3g}, "
                "far outside [0, 1], so their scale is not known; divide them by the white level"
            )
    else:
        raise ValueError(f"{what} holds {values.dtype} pixels; accepted are 1, 8 and 16 bits and floats in [0, 1]")
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float64)).to(dtype)


def _decode_with_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=READABLE) as image:
        if image.format == "PNG" and content[24] == 16 and content[25] in (2, 4, 6):
            values = _decode_deep_png(content, colour_type=content[25])
        elif image.mode in ("1", "L", "RGB", "F", "I") or image.mode.startswith("I;16"):
            values = np.asarray(image)
        elif image.mode in ("LA", "La"):
            values = np.asarray(image)[:, :, 0]
        else:
            values = np.asarray(image.convert("RGB"))
        if values.dtype == np.int32 and image.format == "PNG":  # how Pillow reads some 16-bit grey PNG files
            values = values.astype(np.uint16)
        if values.dtype.kind == "u":
            values = values.astype(values.dtype.newbyteorder("="))
        # Pillow turns TIFF itself while loading, and then forgets the tag.
        return _upright(values, image.getexif().get(_ORIENTATION_TAG, 1))


def _decode_deep_png(content: bytes, colour_type: int) -> np.ndarray:
    """16-bit RGB, RGBA or grey with alpha: Pillow would cut it to 8 bits, so ask it for the bytes twice."""

    def eight_bits(raw_mode: str) -> np.ndarray:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            codec, extents, offset, _ = image.tile[0]
            image.tile = [type(image.tile[0])(codec, extents, offset, raw_mode)]
            return np.asarray(image).astype(np.uint16)

    if colour_type == 4:  # (grey high, grey low, alpha high, alpha low) read as if it were RGBA
        pair = eight_bits("RGBA")
        return pair[:, :, 0] * np.uint16(256) + pair[:, :, 1]
    mode = "RGB" if colour_type == 2 else "RGBA"
    # ";16B" keeps the first byte of each sample and ";16L" the second; PNG stores the high byte first.
    return (eight_bits(f"{mode};16B") * np.uint16(256) + eight_bits(f"{mode};16L"))[:, :, :3]


def _is_deep_rgb_tiff(content: bytes) -> bool:
    """Whether this is a TIFF of several channels of more than 8 bits, which Pillow cannot read whole."""
    if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return False
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages[0]
        return page.samplesperpixel > 1 and page.dtype is not None and page.dtype.itemsize > 1


def _decode_deep_tiff(content: bytes) -> np.ndarray:
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages[0]
        if page.photometric.name not in ("MINISBLACK", "RGB"):
            raise ValueError(f"photometric interpretation {page.photometric.name} with more than 8 bits")
        values = page.asarray()
        if page.planarconfig.name == "SEPARATE":
            values = values.transpose(1, 2, 0)
        tag = page.tags.get(_ORIENTATION_TAG)
        keep = 3 if page.photometric.name == "RGB" else 1
        return _upright(values[:, :, :keep], 1 if tag is None else int(tag.value))


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8, to an array (height, width, ...)."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def save(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Write an image as an 8-bit file, all of it or nothing.

    Values are clipped to [0, 1] and rounded to 8 bits. PNG, TIFF and WebP are lossless; JPEG has quality 95.
    The file appears under its name only once it is complete; an existing file is replaced.

    Args:
        image: Tensor (channels, height, width) with 1 or 3 channels.
        path: Where to write; the suffix is one of .png, .jpg, .jpeg, .tif, .tiff and .webp.

    Raises:
        ValueError: If the suffix is none of these, or the image is not one of 1 or 3 channels.
        FileNotFoundError: If the folder does not exist.
        IsADirectoryError: If the path is a directory.
        PermissionError: If the folder may not be written to.
        OSError: If the file cannot be written.
    """
    check_image(image)
    path = Path(path)
    check_writable(path)
    if image.shape[0] not in (1, 3):
        raise ValueError(f"cannot write {path}: an image file needs 1 or 3 channels, got {image.shape[0]}")
    kind, options = WRITABLE[path.suffix.lower()]
    _write_atomically(path, encode(image, kind, **options))


def check_writable(path: Path) -> None:
    """Refuse a path that :func:`save` could not write to, before there is anything to write.

    Raises:
        ValueError: If the suffix is not that of a known format.
        FileNotFoundError: If the folder does not exist.
        IsADirectoryError: If the path is a directory.
        PermissionError: If the folder may not be written to.
    """
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a directory")
    if path.suffix.lower() not in WRITABLE:
        raise ValueError(f"cannot write {path}: the suffix must be one of {', '.join(WRITABLE)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"cannot write {path}: the folder {path.parent} may not be written to")


def encode(image: Tensor, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an 8-bit image file.

    Args:
        image: Tensor (channels, height, width) with 1 or 3 channels; clipped to [0, 1] and rounded.
        kind: Pillow's name of the format, one of PNG, JPEG, TIFF and WEBP.
        **options: Passed on to Pillow, for example ``quality=85``.

    Returns:
        The file's content.

    Raises:
        ValueError: If the image does not have 1 or 3 channels.
    """
    check_image(image)
    if image.shape[0] not in (1, 3):
        raise ValueError(f"an image file needs 1 or 3 channels, got {image.shape[0]}")
    levels = (image.detach().cpu().double().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels.squeeze(2) if levels.shape[2] == 1 else levels).save(buffer, kind, **options)
    return buffer.getvalue()


def _write_atomically(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror or error}") from error
