r"""How far Adam moves the weights of a wide network: :eq:`eq-ntk-21` and Figure 4 of the paper.

Each run trains the autoencoder with noise at the input, the setting of Section 6.2, by one of three rules: gradient
descent, Adam with a learning rate that is the same at all widths, and Adam with one proportional to :math:`1/c`. It
measures how far each layer's weights are from their start at the best iteration, at the last, and after a few fixed
numbers of steps.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from ntkbook.adam import Adam
from ntkbook.checkpoints import Checkpoint
from ntkbook.configuration import Configuration
from ntkbook.problems import Outcome, Problem
from ntkbook.resumable import Resumable
from ntkbook.training_runs import CHANNELS, Cell, cell_of, stopping_of, trained, trainer
from ntkbook.training_studies import small
from ntkbook.widths import weight_changes

RULES = ("gd", "adam", "adam over c")
EARLY = (1, 10, 100)  # steps after which all widths are compared
LOOKED_AT = 10  # iterations between two candidates for the best one
WIDTHS = (16, 32, 64, 128, 256, 512)
CROP_WIDTHS = WIDTHS[:4]
CROP_LARGEST = 1500
CROP_RATE = 1e-3  # of Adam at 128 channels; that of the tables takes longer than so many iterations in narrow networks
SEEDS = 10


def largest_step(rule: Adam, t: int) -> float:
    r"""The largest change of one weight in step t of Adam, whatever the gradients were.

    :math:`\eta\,\frac{1-\beta_1}{1-\beta_1^t}\sqrt{\frac{1-\beta_2^t}{1-\beta_2}\cdot\frac{1-q^t}{1-q}}` with
    :math:`q = \beta_1^2/\beta_2`, by the Cauchy-Schwarz inequality: :eq:`eq-adam-widths-step`. It is :math:`\eta` at
    t = 1, and reached, up to epsilon, by gradients that grow by :math:`\beta_2/\beta_1` at each step.

    Args:
        rule: its betas are above 0, and :math:`\beta_1^2` is below :math:`\beta_2`.
        t: 1 or more.

    Raises:
        ValueError: t or a beta is not so.
    """
    first, second = rule.betas
    if t < 1 or not 0 < first**2 < second:
        raise ValueError(f"The bound needs a step of 1 or more and 0 < beta1^2 < beta2, not {t} and {rule.betas}.")
    q = first**2 / second
    spread = (1 - second**t) / (1 - second) * (1 - q**t) / (1 - q)
    return rule.learning_rate * (1 - first) / (1 - first**t) * math.sqrt(spread)


def reach(rule: Adam, steps: int) -> float:
    r"""How far no weight is from its start after so many steps of Adam: the right form of :eq:`eq-ntk-21`.

    The sum of :func:`largest_step`: proportional to the learning rate, and to nothing else that depends on the width.
    """
    return sum(largest_step(rule, t) for t in range(1, steps + 1))


def over_hidden(changes: Sequence[dict[str, float]]) -> dict[str, float]:
    r"""The averages of Figure 4: each of l2, rms and max, averaged over the layers :math:`1<\ell<L`.

    Args:
        changes: of each layer, from :func:`ntkbook.widths.weight_changes`.

    Raises:
        ValueError: there are fewer than three layers.
    """
    if len(changes) < 3:
        raise ValueError(f"A network of {len(changes)} layers has none between the first and the last.")
    return {name: fmean(each[name] for each in changes[1:-1]) for name in changes[0]}


def _numbers(changes: Sequence[dict[str, float]], suffix: str) -> dict[str, float]:
    """Of each layer, such as ``l2_3``, of the hidden layers' average, ``l2_hidden``, and of all weights, ``l2_all``."""
    named = {f"{name}_{layer}": value for layer, each in enumerate(changes, start=1) for name, value in each.items()}
    named |= {f"{name}_hidden": value for name, value in over_hidden(changes).items()}
    named["l2_all"] = math.hypot(*(each["l2"] for each in changes))
    return {name + suffix: value for name, value in named.items() if math.isfinite(value)}


def _after(t: int) -> int:
    """The next iteration to be looked at."""
    return min(each for each in (*EARLY, t - t % LOOKED_AT + LOOKED_AT) if each > t)


def run(configuration: Configuration, given: Problem, checkpoint: Checkpoint) -> Outcome:
    """Train until the stopping rule ends it, looking at every tenth iteration; the curve is the PSNR.

    The changes without a suffix are those of the best iteration, whose output is the one that counts: the last
    iteration depends on the patience. Those of the last have ``_end``, those after t steps ``_at_t``.
    """
    stopping = stopping_of(configuration)
    training = trainer(configuration, given)
    start = [weight.detach().clone() for weight in training.network.parameters()]
    notes = {"curve": {}, "numbers": {}, "best": (0, -math.inf), "at_best": None}
    resumable = Resumable(training, checkpoint, notes)
    for t in resumable.until(stopping, lambda: notes["best"], cell_of(configuration).name):
        changes = weight_changes(start, training.network.parameters())
        if t in EARLY:
            notes["numbers"].update(_numbers(changes, f"_at_{t}"))
        training.advance(1)  # its output is that of the weights just measured
        psnr = training.psnr
        if math.isfinite(psnr):
            notes["curve"][t] = psnr
        if notes["at_best"] is None or psnr > notes["best"][1]:
            notes.update(best=(t, psnr), at_best=changes)
        training.advance(min(_after(t), stopping.largest + 1) - training.iteration)
    numbers = notes["numbers"] | _numbers(notes["at_best"], "") | _numbers(changes, "_end")
    numbers["iterations"] = training.iteration
    return Outcome(notes["curve"], numbers, earlier_seconds=resumable.earlier_seconds)


def planned(rule: str, channels: int, seed: int, crop: bool = True) -> Configuration:
    """One run on House, or on its central 64x64 pixels; the seed is that of noise, weights and input.

    Args:
        rule: one of ``RULES``; the two of Adam are the same at 128 channels.
        channels: c.
        seed: of the run.
        crop: the pixels in the middle only, with fewer iterations and a larger learning rate.
    """
    cell = Cell("autoencoder", "gd" if rule == "gd" else "adam", "noise")
    chosen: dict[str, object] = {"channels": channels}
    if crop:
        chosen["largest_iteration"] = CROP_LARGEST
        if rule != "gd":
            chosen["learning_rate"] = CROP_RATE
    base = (small if crop else trained)("house", seed, cell, **chosen)
    settings = dict(base.settings)
    if rule == "adam over c":
        settings["learning_rate"] *= CHANNELS["autoencoder"] / channels
    return replace(base, method="adam-width", settings=settings)


def _plan() -> Iterator[Configuration]:
    for seed in range(SEEDS):
        yield from (planned(rule, channels, seed) for channels in CROP_WIDTHS for rule in RULES)
    for seed in range(SEEDS):
        yield from (planned(rule, channels, seed, crop=False) for channels in WIDTHS for rule in RULES)


PLAN = tuple({configuration.key: configuration for configuration in _plan()}.values())
