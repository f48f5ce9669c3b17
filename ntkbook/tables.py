"""Tables of the paper from the records: which cells are covered, by how many images and seeds, and what is missing.

A cell is named as in :class:`ntkbook.training_runs.Cell`, ``autoencoder/adam/noise``; ``vanilla/nystrom/image`` and
``vanilla/nystrom/noise`` are the closed-form filter's.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from ntkbook.configuration import Configuration
from ntkbook.experiments import TABLES
from ntkbook.images import SET9
from ntkbook.paper import TABLE1, TABLE5, MoreThan
from ntkbook.records import Record
from ntkbook.results import MeanSpread, mean_and_spread
from ntkbook.training_runs import cell_of

Cells = Mapping[tuple[str, int], Record]
PIXELS: Mapping[str, int] = {
    name: 256**2 if name == "house" else 768 * 512 if name.startswith("kodim") else 512**2 for name in SET9
}
NAMES = tuple("/".join(key) for key in TABLE1)  # the fourteen cells of Table 1, in the paper's order


class Difference(NamedTuple):
    """Paired differences: mean and standard error (NaN for a single pair) in the unit of the numbers, and pairs."""

    mean: float
    error: float
    count: int


class Seconds(NamedTuple):
    """How long a run is expected to take: seconds, iterations, and whose the iterations are, ours or the paper's."""

    seconds: float
    iterations: int
    source: str


def planned(name: str, sigma: float = 25) -> dict[tuple[str, int], Configuration]:
    """The runs of a cell that the plan has, by image and seed.

    Args:
        name: of the cell, one of ``NAMES``; or of a variant of one that Adam trains, such as
            ``unet-third/adam/image``.
        sigma: 25 for Table 1, 5 or 100 for Table 4, which has three of the cells.

    Raises:
        ValueError: the plan has no such cell.
    """
    table = (*TABLES["table1"], *TABLES["table1_third"]) if sigma == 25 else TABLES["table4"]
    found = {
        (c.image, c.noise_seed): c
        for c in table
        if c.sigma == sigma and _name(c) == name and c.settings.get("columns", 1000) == 1000
    }
    if not found:
        raise ValueError(f"The plan has no cell {name!r} at sigma {sigma:g}; the cells are {', '.join(NAMES)}.")
    return found


def _name(configuration: Configuration) -> str:
    if configuration.method == "training":
        return cell_of(configuration).name
    return f"{configuration.architecture}/{configuration.method}/{configuration.input}"


def cell(records: Iterable[Record], name: str, sigma: float = 25) -> dict[tuple[str, int], Record]:
    """The records of a cell, by image and seed; arguments and errors as in :func:`planned`."""
    keys = {configuration.key: where for where, configuration in planned(name, sigma).items()}
    return {keys[r.configuration.key]: r for r in records if r.configuration.key in keys}


def images_of(found: Cells) -> tuple[str, ...]:
    """The images that a cell covers, in the order of the set."""
    return tuple(image for image in SET9 if any(image == where[0] for where in found))


def summary(found: Cells, images: Iterable[str] = SET9, iterations: bool = False) -> MeanSpread | None:
    """Mean over images of the mean over seeds, its spread over seeds, and the number of seeds.

    Args:
        found: a cell's records.
        images: those to average over.
        iterations: of the best iterations, in place of the best PSNR in dB.

    Returns:
        The mean over images and seeds, the standard deviation of the seeds' means over those seeds that have all the
        images (NaN where there is one), and the number of these; None where an image has no record.
    """
    images = tuple(images)

    def value(record: Record) -> float:
        return record.best_iteration if iterations else record.best_psnr

    seeds = sorted({seed for _, seed in found})
    whole = [s for s in seeds if all((image, s) in found for image in images)]
    if not images or not whole:
        return None
    return mean_and_spread(statistics.fmean(value(found[image, seed]) for image in images) for seed in whole)


def paired(first: Cells, second: Cells) -> Difference | None:
    """How much better the first cell is than the second, in dB, over the images that both have, seeds averaged.

    Returns:
        The mean difference with its standard error over images; None when no image and seed is in both.
    """
    differences: dict[str, list[float]] = {}
    for where in sorted(first.keys() & second.keys()):
        differences.setdefault(where[0], []).append(first[where].best_psnr - second[where].best_psnr)
    if not differences:
        return None
    mean, spread, count = mean_and_spread(map(statistics.fmean, differences.values()))
    return Difference(mean, spread / math.sqrt(count), count)


def expected(configuration: Configuration, records: Iterable[Record]) -> Seconds | None:
    """How long a missing training run would take on the machine of the records.

    The time of an iteration is that of the fastest record of the architecture, per pixel. The number of iterations is
    the median of the records that differ in image and seeds only; where there is none, the paper's mean (Table 5).

    Returns:
        None when the architecture has no record.
    """
    trained = [r for r in records if r.configuration.method == "training" and "crop" not in r.configuration.settings]
    rates = [
        r.seconds / r.outcome["iterations"] / PIXELS[r.configuration.image]
        for r in trained
        if r.configuration.architecture.split("-")[0] == configuration.architecture.split("-")[0]
    ]
    if not rates:
        return None
    ours = [r.outcome["iterations"] for r in trained if _alike(r.configuration, configuration)]
    wanted = cell_of(configuration)
    printed = TABLE5[wanted._replace(architecture=wanted.architecture.split("-")[0])]
    paper = printed.bound if isinstance(printed, MoreThan) else printed
    iterations = round(statistics.median(ours)) if ours else paper
    rate = min(rates) * PIXELS[configuration.image]
    return Seconds(rate * iterations, iterations, "ours" if ours else "the paper's")


def _alike(one: Configuration, other: Configuration) -> bool:
    """Whether two runs differ in image and seeds only."""

    def rest(configuration: Configuration) -> Configuration:
        settings = {name: value for name, value in configuration.settings.items() if not name.endswith("_seed")}
        return replace(configuration, image="any", noise_seed=0, settings=settings)

    return rest(one) == rest(other)
