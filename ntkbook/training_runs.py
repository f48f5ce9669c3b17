"""The trained cells of the paper's tables: which networks, on what, how long; and what runs one of them.

The cells of Table 1 are named as in ``paper_numbers``: architecture, optimiser and input, such as
``autoencoder/adam/noise``.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from ntkbook.adam import Adam
from ntkbook.checkpoints import Checkpoint
from ntkbook.configuration import Configuration
from ntkbook.images import SET9, central, centre, uncentre
from ntkbook.limits import ARCHITECTURES
from ntkbook.networks import build
from ntkbook.problems import LARGEST_ITERATION, PER_DECADE, Outcome, Problem, network_input
from ntkbook.resumable import BETWEEN_STOPS, Resumable
from ntkbook.stopping import iteration_grid
from ntkbook.training import GradientDescent, Stopping, Trainer

CHANNELS: Mapping[str, int] = {"vanilla": 512, "autoencoder": 128, "unet": 128}  # Appendix H
PICTURE_SIDE = 256


class Cell(NamedTuple):
    """One trained cell of Table 1."""

    architecture: str
    optimiser: str
    input: str

    @property
    def name(self) -> str:
        """Such as ``autoencoder/adam/noise``."""
        return "/".join(self)


CELLS = tuple(  # in order of value for a run that may be cut short
    Cell(*name.split("/"))
    for name in (
        "autoencoder/adam/noise",
        "autoencoder/adam/image",
        "unet/adam/noise",
        "unet/adam/image",
        "vanilla/adam/image",
        "vanilla/gd/image",
        "unet/gd/image",
        "unet/gd/noise",
        "autoencoder/gd/noise",
        "vanilla/adam/noise",
        "autoencoder/gd/image",
        "vanilla/gd/noise",
    )
)
# With noise as input the PSNR rests for hundreds of iterations at that of a constant image before it rises.
LONG_PATIENCE = 1000
PATIENCE: Mapping[tuple[str, str], int] = {
    ("vanilla", "image"): 100,
    ("unet", "image"): 100,
    ("autoencoder", "image"): 500,
}
LEARNING_RATES: Mapping[tuple[str, str], float] = {
    ("vanilla", "image"): 1e-4,
    ("vanilla", "noise"): 1e-3,
    ("unet", "image"): 1e-5,
    ("unet", "noise"): 3e-4,
    ("autoencoder", "image"): 1e-3,
    ("autoencoder", "noise"): 3e-4,
    ("unet-third", "image"): 1e-4,
    ("unet-third", "noise"): 1e-3,
    ("autoencoder-third", "noise"): 3e-4,
}
GRID: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("vanilla", "image"): (3e-5, 1e-4, 3e-4, 1e-3),
    ("vanilla", "noise"): (1e-3, 1e-2),
    ("unet", "image"): (3e-6, 1e-5, 3e-5, 1e-4, 1e-3),
    ("unet", "noise"): (1e-4, 3e-4, 1e-3),
    ("autoencoder", "image"): (3e-4, 1e-3, 3e-3),
    ("autoencoder", "noise"): (1e-4, 3e-4, 1e-3),
    ("autoencoder-third", "noise"): (1e-4, 3e-4, 1e-3),
}


def trained(image: str, noise_seed: int, cell: Cell, sigma: float = 25, **settings: object) -> Configuration:
    """The configuration of one training run; the noise, the weights and the input have seeds of their own.

    A variant of an architecture, such as ``unet-zeros``, has its channels and its learning rates.
    """
    base = cell.architecture.split("-")[0]
    chosen: dict[str, object] = {
        "optimiser": cell.optimiser,
        "channels": CHANNELS[base],
        "weights_seed": noise_seed,
        "products": "bfloat16",
        "patience": PATIENCE.get((base, cell.input), LONG_PATIENCE),
        "patience_share": 0.5,
        "largest_iteration": 1_000_000,
    }
    if cell.optimiser == "adam":
        chosen["learning_rate"] = LEARNING_RATES.get((cell.architecture, cell.input), LEARNING_RATES[base, cell.input])
    else:
        chosen["gamma"] = 1
    if cell.input == "noise":
        chosen["input_seed"] = 1000 + noise_seed
    return Configuration(
        "training", image, noise_seed, sigma, cell.architecture, cell.input, "float32", chosen | settings
    )


def prediction(configuration: Configuration, lanczos_steps: int = 100) -> Configuration:
    """What the tangent kernel at initialisation predicts of a run of gradient descent, as a configuration to run."""
    kept = {name: configuration.settings[name] for name in ("crop", "channels", "weights_seed", "input_seed")
            if name in configuration.settings}  # fmt: skip
    return replace(
        configuration,
        method="lazy",
        settings=kept | {"lanczos_steps": lanczos_steps, "largest_iteration": LARGEST_ITERATION},
    )


def cell_of(configuration: Configuration) -> Cell:
    """The cell of a training run."""
    return Cell(configuration.architecture, configuration.settings["optimiser"], configuration.input)


def stopping_of(configuration: Configuration) -> Stopping:
    """When a training run ends, by its settings."""
    settings = configuration.settings
    return Stopping(settings["patience"], settings["patience_share"], settings["largest_iteration"])


def trainer(configuration: Configuration, given: Problem) -> Trainer:
    """The trainer of a configuration, before its first iteration."""
    settings = configuration.settings
    x = network_input(configuration, given.noisy)
    network = build(ARCHITECTURES[configuration.architecture], settings["channels"], seed=settings["weights_seed"])
    rule = Adam(settings["learning_rate"]) if settings["optimiser"] == "adam" else GradientDescent(settings["gamma"])
    return Trainer(
        network.to(x),
        x,
        centre(given.noisy),
        centre(given.clean),
        rule,
        from_zero=configuration.input == "image",
        products=getattr(torch, settings["products"]),
        times=iteration_grid(settings.get("largest_iteration", 1), PER_DECADE),
        follow=True,
    )


def run(configuration: Configuration, given: Problem, checkpoint: Checkpoint) -> Outcome:
    """Train one network until its stopping rule says so.

    Raises:
        Expired: the checkpoint's deadline came first; so for all runs that take one.
    """
    stopping = stopping_of(configuration)
    training = trainer(configuration, given)
    resumable = Resumable(training, checkpoint)
    for t in resumable.until(stopping, lambda: training.best, cell_of(configuration).name):
        training.advance(min(BETWEEN_STOPS, stopping.largest + 1 - t))
    return _outcome(training, configuration, given, resumable.earlier_seconds)


def _outcome(training: Trainer, configuration: Configuration, given: Problem, earlier: float) -> Outcome:
    numbers: dict[str, float] = {"iterations": training.iteration, "travelled": training.travelled}
    curve = {t: psnr for t, psnr in training.curve.items() if math.isfinite(psnr)}
    numbers["iterations_not_finite"] = len(training.curve) - len(curve)
    measured = training.eigenvalues
    for name, t in (("", min(measured, default=None)), ("_last", max(measured, default=None))):
        if t is not None:
            numbers[f"largest_eigenvalue{name}"] = measured[t]
    for t, changes in list(training.weight_changes.items())[-1:]:
        for layer, (length, largest) in enumerate(changes, start=1):
            numbers |= {f"l2_{layer}": length, f"max_{layer}": largest}
        numbers["weights_at"] = t
    numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
    picture = None
    if configuration in PICTURED:
        picture = central(uncentre(training.best_output), PICTURE_SIDE)
    return Outcome(curve, numbers, training.best, picture, earlier)


def _table1() -> Iterator[Configuration]:
    for seed in range(3):
        for cell in CELLS:
            yield from (trained(image, seed, cell) for image in SET9)


def _third() -> Iterator[Configuration]:
    """Table 1's cells of Adam with the weights that PyTorch draws when nothing is said: variance 1/3, not 2."""
    for seed in range(3):
        for cell in CELLS:
            if cell.optimiser == "adam":
                variant = cell._replace(architecture=f"{cell.architecture}-third")
                yield from (trained(image, seed, variant) for image in SET9)


def _table4() -> Iterator[Configuration]:
    cells = (Cell("autoencoder", "adam", "noise"), Cell("autoencoder", "adam", "image"))
    for seed in range(3):
        for sigma in (5, 100):
            yield from (trained(image, seed, cell, sigma) for cell in cells for image in SET9)


def _learning_rate_grid() -> Iterator[Configuration]:
    for (architecture, x), rates in GRID.items():
        for rate in rates:
            yield trained("house", 0, Cell(architecture, "adam", x), learning_rate=rate)


PICTURED = frozenset(
    trained(image, 0, cell) for image in ("house", "baboon", "f16") for cell in CELLS
)  # Figures 3, 8, 9
TABLE1 = tuple(_table1())
THIRD = tuple(_third())
TABLE4 = tuple(_table4())
LEARNING_RATE_GRID = tuple(_learning_rate_grid())
