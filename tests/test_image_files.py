"""Image files of every kind, written to a temporary folder and read back; and what is refused."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ntkbook import images
from ntkbook.image_files import encode

HEIGHT, WIDTH = 24, 31
RNG = np.random.default_rng(1)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
DEEP_RGBA = RNG.integers(0, 65536, (HEIGHT, WIDTH, 4), dtype=np.uint16)


def as_tensor(levels: np.ndarray, peak: float) -> torch.Tensor:
    levels = levels[:, :, None] if levels.ndim == 2 else levels
    return torch.from_numpy(levels.astype(np.float64).transpose(2, 0, 1) / peak)


def assert_reads(path, expected: torch.Tensor):
    assert torch.equal(images.load(path, torch.float64), expected)
    assert torch.equal(images.load(str(path)), expected.float())


def deep_png(levels: np.ndarray, colour_type: int) -> bytes:
    """A 16-bit PNG whose rows use each of the five filters in turn (Pillow cannot write one)."""
    rows = [np.frombuffer(row.astype(">u2").tobytes(), np.uint8).astype(int) for row in levels]
    step, above, packed = 2 * levels.shape[2], np.zeros_like(rows[0]), b""
    for index, row in enumerate(rows):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        guess = left + above - corner
        distances = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)])
        paeth = np.choose(distances.argmin(0), [left, above, corner])
        kind = index % 5
        predicted = [0 * row, left, above, (left + above) // 2, paeth][kind]
        packed += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row

    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_rgb_without_loss(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert_reads(path, as_tensor(RGB, 255))


def test_jpeg_is_what_pillow_decodes(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path)
    assert_reads(path, as_tensor(np.asarray(Image.open(path)), 255))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_modes(tmp_path, suffix, mode):
    path = tmp_path / f"a{suffix}"
    if mode == "I;16":
        Image.fromarray(DEEP_RGBA[:, :, 0]).save(path)
        expected = as_tensor(DEEP_RGBA[:, :, 0], 65535)
    elif mode == "1":
        bits = RGB[:, :, 0] > 127
        Image.fromarray(bits).save(path)
        expected = as_tensor(bits, 1)
    elif mode == "P":
        palette_image = Image.fromarray(RGB).quantize(16)
        palette_image.save(path)
        expected = as_tensor(np.asarray(palette_image.convert("RGB")), 255)
    else:
        planes = {"L": [RGB[:, :, 0]], "LA": [RGB[:, :, 0], RGB[:, :, 1]], "RGBA": [RGB, RGB[:, :, 0]]}[mode]
        channels = planes[0] if mode == "L" else np.dstack(planes)
        Image.fromarray(channels).save(path)
        keep = 3 if mode == "RGBA" else 1
        expected = as_tensor(channels[:, :, :keep] if channels.ndim == 3 else channels, 255)
    assert_reads(path, expected)
    assert expected.shape[0] == (3 if mode in ("RGBA", "P") else 1)


def test_palette_with_a_transparent_colour(tmp_path):
    palette_image = Image.fromarray(RGB).quantize(8)
    palette_image.save(tmp_path / "a.png", transparency=3)
    assert_reads(tmp_path / "a.png", as_tensor(np.asarray(palette_image.convert("RGB")), 255))


@pytest.mark.parametrize("colour_type, channels, kept", [(2, 3, 3), (6, 4, 3), (4, 2, 1)])
def test_16_bit_png_keeps_its_16_bits(tmp_path, colour_type, channels, kept):
    levels = DEEP_RGBA[:, :, :channels]
    (tmp_path / "a.png").write_bytes(deep_png(levels, colour_type))
    assert_reads(tmp_path / "a.png", as_tensor(levels[:, :, :kept], 65535))


@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}, {"byteorder": ">"}, {"compression": "zlib"}])
def test_16_bit_tiff_keeps_its_16_bits(tmp_path, options):
    for channels in (3, 4):
        levels = DEEP_RGBA[:, :, :channels]
        stored = levels.transpose(2, 0, 1) if "planarconfig" in options else levels
        extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **extra, **options)
        assert_reads(tmp_path / "a.tif", as_tensor(levels[:, :, :3], 65535))
    tifffile.imwrite(tmp_path / "grey.tif", DEEP_RGBA[:, :, 0], byteorder=options.get("byteorder"))
    assert_reads(tmp_path / "grey.tif", as_tensor(DEEP_RGBA[:, :, 0], 65535))


def test_floating_point_tiff(tmp_path):
    values = RNG.random((HEIGHT, WIDTH, 3), dtype=np.float32)
    tifffile.imwrite(tmp_path / "rgb.tif", values, photometric="rgb")
    tifffile.imwrite(tmp_path / "grey.tif", values[:, :, 0])
    assert_reads(tmp_path / "rgb.tif", as_tensor(values, 1))
    assert_reads(tmp_path / "grey.tif", as_tensor(values[:, :, 0], 1))
    noisy = 1.3 * values - 0.1
    tifffile.imwrite(tmp_path / "noisy.tif", noisy, photometric="rgb")
    assert_reads(tmp_path / "noisy.tif", as_tensor(noisy, 1))
    tifffile.imwrite(tmp_path / "scaled.tif", 255 * values, photometric="rgb")
    with pytest.raises(ValueError, match=r"scaled\.tif holds floating-point pixels from .* far outside \[0, 1\]"):
        images.load(tmp_path / "scaled.tif")


def test_32_bit_integers_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="holds int32 pixels; accepted are 1, 8 and 16 bits"):
        images.load(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_orientation(tmp_path, orientation, suffix):
    # Four flat quarters survive JPEG well enough to be told apart.
    quarters = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 24), np.uint8))
    turned = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda x: np.rot90(x, 1),  # stored so that a quarter turn clockwise makes it upright
        7: lambda x: np.rot90(x, 2).T,
        8: lambda x: np.rot90(x, -1),
    }[orientation](quarters)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.ascontiguousarray(turned)).convert("RGB").save(path, exif=exif)
    got = images.load(path)
    assert got.shape == (3, 32, 48)
    assert (got - as_tensor(np.dstack([quarters] * 3), 255)).abs().max() < 0.1


@pytest.mark.parametrize("orientation", [6, 8])
def test_orientation_of_a_deep_tiff(tmp_path, orientation):
    levels = DEEP_RGBA[:, :, :3]
    stored = np.rot90(levels, 1 if orientation == 6 else -1)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.ascontiguousarray(stored),
        photometric="rgb",
        extratags=[(274, 3, 1, orientation, True)],
    )
    assert_reads(tmp_path / "a.tif", as_tensor(levels, 65535))


def test_what_cannot_be_read(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(RGB).save(whole, "PNG")
    contents = {
        "truncated.png": whole.getvalue()[:-400],
        "truncated_deep.png": deep_png(DEEP_RGBA[:, :, :3], 2)[:-400],
        "header.png": whole.getvalue()[:20],
        "text.jpg": b"this is no picture",
        "empty.tif": b"",
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    whole_tiff = io.BytesIO()
    tifffile.imwrite(whole_tiff, DEEP_RGBA[:, :, :3], photometric="rgb")
    contents["truncated.tif"] = whole_tiff.getvalue()[:-400]
    contents["header.tif"] = whole_tiff.getvalue()[:6]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a PNG, JPEG, TIFF, WEBP image") as caught:
            images.load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_missing_files_folders_and_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png' is neither an image file nor a known name \(baboon, f16"):
        images.load(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match=r"there is no image file .*none\.png"):
        images.read(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError, match="is a directory, not an image file"):
        images.load(tmp_path)
    with pytest.raises(TypeError, match="by a name or a path, got int"):
        images.load(3)
    for dtype in (torch.uint8, torch.complex64, np.float32):
        with pytest.raises(ValueError, match="dtype must be a floating-point torch dtype"):
            images.load("house", dtype)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".webp", ".PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_save_and_load_again(tmp_path, suffix, channels):
    levels = RGB[:, :, :channels]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"an older file")
    images.save(as_tensor(levels, 255) + 0.4 / 255, path)
    got = images.load(path, torch.float64)
    assert torch.equal(got[:channels], as_tensor(levels, 255))  # WebP has no grey: it comes back as RGB
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_save_clips_and_jpeg_is_close(tmp_path):
    image = torch.linspace(-1, 2, 64 * 64).reshape(1, 64, 64)
    images.save(image, tmp_path / "a.jpg")
    assert (images.load(tmp_path / "a.jpg") - image.clamp(0, 1)).abs().max() < 0.05
    images.save(image, tmp_path / "a.png")
    got = images.load(tmp_path / "a.png")
    assert got.min() == 0 and got.max() == 1


def test_save_refuses_before_writing(tmp_path):
    image = torch.zeros(3, 4, 4)
    with pytest.raises(ValueError, match=r"a\.gif: the suffix must be one of \.png, \.jpg"):
        images.save(image, tmp_path / "a.gif")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing"):
        images.save(image, tmp_path / "missing" / "a.png")
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        images.save(torch.zeros(4, 4, 4), tmp_path / "a.png")
    with pytest.raises(ValueError, match="floating-point dtype"):
        images.save(torch.zeros(3, 4, 4, dtype=torch.int32), tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match="it is a directory"):
        images.save(image, tmp_path / "folder.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.png"]
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        encode(torch.zeros(2, 4, 4))


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"an older file")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*a\.png: No space left on device"):
        images.save(torch.zeros(3, 4, 4), path)
    assert path.read_bytes() == b"an older file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=r"cannot write .*a\.png: the folder .* may not be written to"):
            images.save(torch.zeros(3, 4, 4), tmp_path / "a.png")
    finally:
        tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []
