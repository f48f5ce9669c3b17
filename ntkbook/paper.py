"""What the papers print: the numbered equations, and the numbers of their tables.

The list of the equations is kept in :mod:`ntkbook.equations`, what is wrong with some of them in
:mod:`ntkbook.errata`. The numbers are quoted, never measured here, and nothing published is filled in from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from ntkbook.equations import EQUATIONS, Equation, derived, equation, pending

__all__ = [
    "BASELINES",
    "EQUATIONS",
    "IMAGES",
    "NTK_LINK",
    "POSTER",
    "POSTER_UNASSIGNED",
    "SECONDS",
    "SIGMA",
    "SPECTRAL_BIAS",
    "SPECTRAL_BIAS_1D",
    "SPECTRAL_BIAS_DOWNSAMPLING",
    "SPECTRAL_BIAS_MODELS",
    "SPECTRAL_BIAS_RUNS",
    "SPECTRAL_BIAS_TABLE1",
    "SPECTRAL_BIAS_TABLE2",
    "TABLE1",
    "TABLE4",
    "TABLE5",
    "TRAINABLE_WEIGHTS",
    "Equation",
    "MoreThan",
    "Paper",
    "PrintedMean",
    "derived",
    "equation",
    "pending",
]


@dataclass(frozen=True)
class Paper:
    """A paper: title, arXiv identifier, and venue where there is one."""

    title: str
    arxiv: str
    venue: str | None = None


NTK_LINK = Paper("The Neural Tangent Link Between CNN Denoisers and Non-Local Filters", "2006.02379", "CVPR 2021")
SPECTRAL_BIAS = Paper("The Spectral Bias of the Deep Image Prior", "1912.08905")


class MoreThan(NamedTuple):
    """A number printed as a lower bound, such as > 1000000."""

    bound: int


class PrintedMean(NamedTuple):
    """A mean with its standard deviation over runs, as printed."""

    mean: float
    deviation: float


def _table(rows: Mapping) -> Mapping:
    return MappingProxyType(dict(rows))


def _by_input(rows: Mapping[tuple[str, str], tuple]) -> Mapping:
    """Rows of (noise, image) by (architecture, method), as a table of single cells."""
    return _table({(*row, name): cell[i] for row, cell in rows.items() for i, name in enumerate(("noise", "image"))})


IMAGES = ("baboon", "f16", "house", "kodim01", "kodim02", "kodim03", "kodim12", "lena", "peppers")
SIGMA = 25  # of 255, where nothing else is said

# Keys below are (architecture, method, input). Table 1: PSNR in dB, mean over the nine images.
TABLE1: Mapping[tuple[str, str, str], float] = _by_input(
    {
        ("vanilla", "adam"): (19.6, 27.4),
        ("vanilla", "gd"): (15.2, 27.5),
        ("vanilla", "nystrom"): (15.2, 28.3),
        ("unet", "adam"): (28.3, 28.1),
        ("unet", "gd"): (16.5, 27.1),
        ("autoencoder", "adam"): (29.2, 29.3),
        ("autoencoder", "gd"): (15.0, 26.8),
    }
)
BASELINES: Mapping[str, float] = _table({"color_nlm": 30.26, "cbm3d": 31.42})  # dB, Section 6.1

# Table 4: PSNR in dB at other noise levels, keys (sigma, architecture, method, input).
TABLE4: Mapping[tuple[int, str, str, str], float] = _table(
    {
        (5, "autoencoder", "adam", "noise"): 33.5,
        (5, "autoencoder", "adam", "image"): 35.3,
        (5, "vanilla", "nystrom", "image"): 34.5,
        (100, "autoencoder", "adam", "noise"): 24.4,
        (100, "autoencoder", "adam", "image"): 24.1,
        (100, "vanilla", "nystrom", "image"): 22.3,
    }
)

# Table 5: iterations, mean over the nine images.
TABLE5: Mapping[tuple[str, str, str], int | MoreThan] = _by_input(
    {
        ("vanilla", "adam"): (145340, 64),
        ("vanilla", "gd"): (MoreThan(1_000_000), 69526),
        ("vanilla", "nystrom"): (368, 504),
        ("unet", "adam"): (7692, 74),
        ("unet", "gd"): (50054, 5506),
        ("autoencoder", "adam"): (10248, 5088),
        ("autoencoder", "gd"): (50355, 286042),
    }
)
TRAINABLE_WEIGHTS: Mapping[str, int] = _table({"vanilla": 187_392, "autoencoder": 1_036_032, "unet": 1_036_032})

# Seconds per image on an NVIDIA GTX 1080 Ti, keys (architecture, method), Section 6.1.
SECONDS: Mapping[tuple[str, str], int] = _table({("vanilla", "nystrom"): 3, ("autoencoder", "adam"): 806})

# PSNR in dB of one image on the poster. Its layout is lost in the text: which panel has which number is a
# reading, not a quotation.
POSTER: Mapping[tuple[str, str, str], float] = _table(
    {
        ("vanilla", "nystrom", "image"): 28.9,
        ("vanilla", "adam", "image"): 28.3,
        ("vanilla", "gd", "noise"): 15.3,
        ("autoencoder", "adam", "image"): 31.1,
        ("autoencoder", "adam", "noise"): 31.0,
    }
)
POSTER_UNASSIGNED = (24.7, 28.0, 16.4, 21.6, 21.6)  # further numbers there, in dB

# The spectral-bias paper. Table 2: PSNR in dB over 5 runs, columns as in SPECTRAL_BIAS_MODELS.
SPECTRAL_BIAS_MODELS = ("dip", "dip_linear_128", "dip_linear_2048", "relunet")
SPECTRAL_BIAS_RUNS = 5
SPECTRAL_BIAS_DOWNSAMPLING = 4  # factor by which each side of an image is reduced

# Table 1: PSNR in dB, mean over the nine images.
SPECTRAL_BIAS_TABLE1: Mapping[str, float] = _table(
    {"dip": 27.47, "dip_linear_128": 20.54, "dip_linear_2048": 19.17, "relunet": 27.58}
)
# Table 2, keys (image, model).
SPECTRAL_BIAS_TABLE2: Mapping[tuple[str, str], PrintedMean] = _table(
    {
        (image, model): PrintedMean(*cell)
        for image, row in {
            "baboon": ((24.73, 0.04), (20.48, 0.06), (20.35, 0.43), (24.56, 0.02)),
            "f16": ((27.00, 0.15), (20.72, 0.12), (18.60, 1.85), (26.67, 0.14)),
            "house": ((26.89, 0.10), (20.69, 0.04), (18.89, 1.45), (27.21, 0.22)),
            "kodim01": ((25.90, 0.08), (20.35, 0.07), (20.54, 0.07), (25.95, 0.07)),
            "kodim02": ((29.20, 0.13), (20.74, 0.01), (20.59, 0.19), (29.99, 0.09)),
            "kodim03": ((29.26, 0.13), (20.47, 0.04), (18.13, 0.13), (29.62, 0.16)),
            "kodim12": ((29.61, 0.06), (20.36, 0.03), (17.74, 0.04), (29.63, 0.16)),
            "lena": ((27.49, 0.06), (20.48, 0.01), (18.67, 0.72), (27.78, 0.16)),
            "peppers": ((27.12, 0.11), (20.60, 0.01), (18.98, 1.31), (26.82, 0.16)),
        }.items()
        for model, cell in zip(SPECTRAL_BIAS_MODELS, row, strict=True)
    }
)

# Section 3.1: a network with 1D convolutions fits sines of the frequencies k1 and k2. A frequency has
# converged when the squared error of its amplitude is at most delta; iterations are those after which k1 and
# k2 had.
SPECTRAL_BIAS_1D: Mapping[str, float | tuple[int, int]] = _table(
    {"frequencies": (5, 50), "delta": 0.01, "depth": 10, "channels": 256, "iterations": (45, 151)}
)
