"""What a run is given and what it measures."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ntkbook.records import Levels

LARGEST_ITERATION = 100_000
PER_DECADE = 16  # iterations at which the PSNR is measured


@dataclass(frozen=True)
class Problem:
    """One denoising problem: clean and noisy image, shape (channels, height, width), and the two reference rows."""

    clean: Tensor
    noisy: Tensor
    levels: Levels


@dataclass(frozen=True)
class Outcome:
    """What a run measured: PSNR in dB by iteration, and further numbers by name."""

    curve: Mapping[float, float]
    numbers: Mapping[str, float]
