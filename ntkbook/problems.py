"""What a run is given and what it measures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkbook.configuration import Configuration
from ntkbook.images import centre
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
    """What a run measured.

    Args:
        curve: PSNR in dB by iteration.
        numbers: further numbers by name.
        best: the best iteration and its PSNR, where more iterations were looked at than the curve has.
        picture: the best estimate in [0, 1], shape (channels, height, width), where a figure needs it.
        earlier_seconds: of the same run before it was stopped and taken up again.
    """

    curve: Mapping[float, float]
    numbers: Mapping[str, float]
    best: tuple[int, float] | None = None
    picture: Tensor | None = None
    earlier_seconds: float = 0.0


def network_input(configuration: Configuration, noisy: Tensor) -> Tensor:
    """What the network of a configuration is given (Section 3.1): the centred noisy image, or noise of its shape.

    The noise is of independent N(0, 1) pixels, drawn on the CPU with the seed ``settings["input_seed"]``.
    """
    if configuration.input == "image":
        return centre(noisy)
    generator = np.random.default_rng(configuration.settings["input_seed"])
    return torch.from_numpy(generator.standard_normal(tuple(noisy.shape))).to(noisy)
