"""The nine colour test photographs of the paper (Set9): where to find them, and what stands in for them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ntkbook.downloads import DownloadError, cache_folder, fetch
from ntkbook.image_files import check_dtype, decode, read

_REPOSITORY = "gistvision/DIP-denosing"
_COMMIT = "853faac97a451e6430b47f4d4da54c6d08a7ee50"
_CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class SourceFile:
    """One Set9 file: its name here, its SHA-256, and its path in the repository it was taken from."""

    name: str
    sha256: str
    path: str

    @property
    def filename(self) -> str:
        """The name of the file on disk."""
        return f"{self.name}.png"

    @property
    def url(self) -> str:
        """The address of exactly these bytes, pinned to a commit."""
        return f"https://raw.githubusercontent.com/{_REPOSITORY}/{_COMMIT}/{self.path}"

    @property
    def source(self) -> str:
        """Where it comes from, as repository@commit:path."""
        return f"{_REPOSITORY}@{_COMMIT}:{self.path}"


# In the paper's order.
SET9: dict[str, SourceFile] = {
    name: SourceFile(name, sha256, f"testset/{path}")
    for name, sha256, path in (
        (
            "baboon",
            "3714ba077446c372241027cc672f4c32749f95089ffbc0188398e39246e1a440",
            "CSet9/image_Baboon512rgb.png",
        ),
        (
            "f16",
            "406a056d01b374aa7bf92f5e3de02e9740aabb91c7399b5bf5dbcd5696875659",
            "CSet9/image_F16_512rgb.png",
        ),
        (
            "house",
            "292578e2309791b54652350ca79a06b2c6fa2290121389719b3af69b041dc150",
            "CSet9/image_House256rgb.png",
        ),
        ("kodim01", "a56e27cbf5f843c048b6af1d6e090760e9c92fadba88b7dee0205918a37523bd", "CSet9/kodim01.png"),
        ("kodim02", "4f4b74a79237e311d72cad958237b5f7088d8bce1c82305ebefe1a70e3022dfd", "CSet9/kodim02.png"),
        ("kodim03", "e25ca1ff2f0c0cb5fdfd5f9b0a0bb21ac4c3de3c84a67f35b09a85d3306249db", "CSet9/kodim03.png"),
        ("kodim12", "d78c37c2f04f23761ed2367dd77e2db584ddd4c3950833fecf89f199a8126980", "CSet9/kodim12.png"),
        (
            "lena",
            "ab0642b305fe54290a0db041b2c007e78bb94584e367520b98eec0799f45c975",
            "CSet9/image_Lena512rgb.png",
        ),
        (
            "peppers",
            "d7b926dff30cdbe2760f0f72d0850aac7d9b4bf2ad83a77370cef1e1ded52f9f",
            "CSet9/image_Peppers512rgb.png",
        ),
    )
}

# Photographs inside scikit-image's wheel, none of them in Set9. Astronaut and chelsea were looked at when the
# denoiser's recipes were chosen; coffee and rocket were not.
OTHERS: dict[str, str] = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
}

# Photographs inside scikit-image's wheel: a file and a crop (top, left, height, width), None for all of it.
_STAND_INS: dict[str, tuple[str, tuple[int, int, int, int] | None]] = {
    "baboon": ("chelsea.png", None),
    "f16": ("rocket.jpg", None),
    "house": ("coffee.png", (60, 180, 256, 256)),
    "kodim01": ("motorcycle_left.png", None),
    "kodim02": ("motorcycle_right.png", None),
    "kodim03": ("coffee.png", None),
    "kodim12": ("rocket.jpg", None),
    "lena": ("astronaut.png", None),
    "peppers": ("coffee.png", None),
}


@dataclass(frozen=True)
class Photograph:
    """A photograph for a chapter.

    Attributes:
        name: The Set9 name, or the name of the stand-in.
        pixels: Tensor (channels, height, width) in [0, 1].
        source: Where the file comes from.
        stands_in_for: The Set9 name that was asked for, when this is another photograph; else None.
    """

    name: str
    pixels: Tensor
    source: str
    stands_in_for: str | None = None

    @property
    def notice(self) -> str:
        """A sentence for the page when this is a stand-in; empty when it is the real photograph."""
        if self.stands_in_for is None:
            return ""
        return (
            f"The test image {self.stands_in_for} is not on this machine and could not be downloaded: "
            f"{self.name} ({self.source}) stands in for it, so the numbers differ from those of the paper."
        )


def _folders() -> list[Path]:
    """Where Set9 files are looked for, in order."""
    given = os.environ.get("NTKBOOK_DATA")
    roots = [Path(given).expanduser()] if given else []
    roots += [Path.cwd() / "data", _CHECKOUT / "data"]
    folders = [folder for root in roots for folder in (root, root / "set9")]
    cache = cache_folder()
    return folders if cache is None else [*folders, cache]


def _find(name: str) -> Path | None:
    """The first file of this Set9 image on this machine."""
    return next((path for path in (folder / SET9[name].filename for folder in _folders()) if path.is_file()), None)


def _checked(path: Path, name: str) -> bytes:
    """The bytes of a Set9 file, after its SHA-256 was checked."""
    content = path.read_bytes()
    got, expected = hashlib.sha256(content).hexdigest(), SET9[name].sha256
    if got != expected:
        raise ValueError(f"{path} is not the Set9 image {name}: its SHA-256 is {got}, expected {expected}")
    return content


def available() -> tuple[str, ...]:
    """Which Set9 images are on this machine, with the right bytes; the network is not used.

    Returns:
        Their names, in the paper's order.
    """
    found = []
    for name, file in SET9.items():
        path = _find(name)
        if path is not None and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256:
            found.append(name)
    return tuple(found)


def load(name_or_path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Tensor:
    """Load a Set9 image or one of scikit-image's photographs by its name, or any image file by its path.

    A name is looked up in ``$NTKBOOK_DATA`` (the folder or its ``set9``), in ``data`` and ``data/set9`` of
    the working directory, then of the checkout, in the user's cache, and is at last downloaded into that
    cache. The SHA-256 of a Set9 file is checked wherever it is found. A file with a Set9 image's bare name is
    reached as ``./house``.

    Args:
        name_or_path: A name in ``SET9`` or ``OTHERS``, in any case, or the path of a PNG, JPEG, TIFF or WebP
            file; a :class:`~pathlib.Path` is always a path.
        dtype: Floating-point dtype of the result.

    Returns:
        Tensor (channels, height, width) in [0, 1] with 1 or 3 channels; see :func:`ntkbook.image_files.read`.

    Raises:
        FileNotFoundError: If it is neither a known name nor a file.
        IsADirectoryError: If the path is a directory.
        DownloadError: If a Set9 image is not on this machine and cannot be downloaded.
        ValueError: If the SHA-256 is wrong, the file is unreadable or the dtype is not floating point.
        TypeError: If it is neither a string nor a path.
    """
    check_dtype(dtype)
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"an image is given by a name or a path, got {type(name_or_path).__name__}")
    name = name_or_path.lower() if isinstance(name_or_path, str) else ""
    if name in SET9:
        path = _find(name) or _download(name)
        return decode(_checked(path, name), str(path), dtype)
    if name in OTHERS:
        folder = _packaged()
        if folder is None:
            raise FileNotFoundError(f"the photograph {name} comes with scikit-image, which is not installed")
        return read(folder / OTHERS[name], dtype)
    if not Path(name_or_path).exists():
        known = ", ".join([*SET9, *OTHERS])
        raise FileNotFoundError(f"{str(name_or_path)!r} is neither an image file nor a known name ({known})")
    return read(name_or_path, dtype)


def photograph(name: str, dtype: torch.dtype = torch.float32) -> Photograph:
    """A Set9 image for a chapter, or a photograph from scikit-image when it cannot be had by any route.

    A Set9 file with the wrong bytes is an error all the same: it is not silently replaced.

    Args:
        name: A Set9 name in any case.
        dtype: Floating-point dtype of the pixels.

    Returns:
        The photograph; its ``notice`` is a sentence for the page when it is a stand-in.

    Raises:
        ValueError: If the name is not one of Set9's, or a file was found with the wrong SHA-256.
        DownloadError: If the image cannot be had and scikit-image is not installed either.
    """
    key = str(name).lower()
    if key not in SET9:
        raise ValueError(f"{name!r} is not a Set9 name; known are {', '.join(SET9)}")
    try:
        return Photograph(key, load(key, dtype), SET9[key].source)
    except DownloadError as error:
        folder = _packaged()
        if folder is None:
            raise DownloadError(f"{error}; scikit-image, whose photographs could stand in, is missing too") from error
        filename, crop = _STAND_INS[key]
        pixels = read(folder / filename, dtype)
        if crop is not None:
            top, left, height, width = crop
            pixels = pixels[:, top : top + height, left : left + width].clone()
        stand_in = Path(filename).stem + ("" if crop is None else f", a {crop[2]} x {crop[3]} crop")
        return Photograph(stand_in, pixels, f"scikit-image, skimage/data/{filename}", key)


def _packaged() -> Path | None:
    """Where scikit-image's photographs lie. Read directly: skimage.data would try the network for some of them."""
    specification = importlib.util.find_spec("skimage")
    if specification is None or specification.origin is None:
        return None
    return Path(specification.origin).parent / "data"


def _download(name: str) -> Path:
    """Fetch a Set9 image into the user's cache, or say why it cannot be had."""
    file = SET9[name]
    try:
        return fetch(file.url, file.sha256, file.filename)
    except DownloadError as error:
        raise DownloadError(
            f"the Set9 image {name} is not on this machine and {error}; "
            f"set NTKBOOK_DATA to a folder that holds {file.filename}"
        ) from error
