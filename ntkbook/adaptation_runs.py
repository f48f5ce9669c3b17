r"""How the filter moves while a network trains, and what it is worth when it is frozen: Section 5.2 and Figure 5.

Three kinds of run train as :mod:`ntkbook.training_runs` does and look at the tangent kernel on the way.
``adaptation`` compares it with the first one; ``features`` keeps the eigenvectors of Figure 5; ``frozen`` takes the
kernel of the best iteration as a fixed filter.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from ntkbook.adam import Adam, metric
from ntkbook.adaptation import (
    as_colours,
    compare,
    covariance_eigenpairs,
    degrees_of_freedom,
    energy,
    inner_products,
    last_preactivations,
    leading_eigenpairs,
)
from ntkbook.checkpoints import Checkpoint
from ntkbook.configuration import Configuration
from ntkbook.images import add_noise, central, centre
from ntkbook.lanczos import lanczos
from ntkbook.limits import filtered
from ntkbook.problems import Outcome, Problem, network_input
from ntkbook.resumable import Resumable
from ntkbook.stopping import iteration_grid
from ntkbook.tangent import EmpiricalKernel
from ntkbook.training import Trainer
from ntkbook.training_runs import PICTURE_SIDE, Cell, cell_of, stopping_of, trained, trainer
from ntkbook.training_studies import small

LOOKED_AT = 10  # iterations between two candidates for the kernel to freeze
FRESH = 1000  # added to the seed of the noise for another draw of it
TIMES = iteration_grid(1_000_000, 8)  # of a filter; the paper's largest number of iterations, too
SHARES = (3, 10, 30)  # leading eigenvectors whose energy is kept
SPARED = 10  # leading eigenvectors of each kernel that Hutchinson's estimate is spared
DEGREES_AT = (10, 100, 1000)


def kernels_of(training: Trainer, x: Tensor) -> dict[str, EmpiricalKernel]:
    r"""The tangent kernels at a trainer's present weights: ``plain``, :math:`JJ^T`; and for Adam ``metric``, (19)'s.

    Args:
        training: at an iteration above 0 where its rule is Adam.
        x: the network's input, shape (inputs, height, width); its dtype is that of the kernels.
    """
    network = copy.deepcopy(training.network).to(x.dtype)
    found = {"plain": EmpiricalKernel(network, x)}
    if isinstance(training.rule, Adam):
        diagonal = {name: each.to(x.dtype) for name, each in metric(training.averages, training.rule).items()}
        found["metric"] = EmpiricalKernel(network, x, diagonal)
    return found


def run_frozen(configuration: Configuration, given: Problem, checkpoint: Checkpoint) -> Outcome:
    """Train to the best iteration of every tenth; then twice from 0 with the kernels of then and of the start.

    The curve is the network's own PSNR. Each filter meets the noisy image and another draw of the noise, in double
    precision: many iterations bring out small eigenvalues.
    """
    settings = configuration.settings
    x = network_input(configuration, given.noisy).double()
    training = trainer(configuration, given)
    kernels = {"start": EmpiricalKernel(copy.deepcopy(training.network).double(), x)}
    notes = {"curve": {}, "best": (0, -math.inf), "state": None}
    resumable = Resumable(training, checkpoint, notes)
    for _ in resumable.until(stopping_of(configuration), lambda: notes["best"], cell_of(configuration).name):
        training.advance(LOOKED_AT)
        t, psnr = training.iteration - 1, training.psnr
        notes["curve"][t] = psnr
        if notes["state"] is None or psnr > notes["best"][1]:
            notes.update(best=(t, psnr), state=copy.deepcopy(training.state()))  # a step later than the output
    last = training.iteration
    training.restore(notes["state"])
    kernels |= kernels_of(training, x)
    again = add_noise(given.clean, configuration.sigma, configuration.noise_seed + FRESH)
    numbers: dict[str, float] = {"iterations": last}
    for draw, noisy in {"same": given.noisy, "fresh": again}.items():
        problem = replace(given, clean=given.clean.double(), noisy=noisy.double())
        for name, kernel in kernels.items():
            start = centre(problem.noisy).reshape(-1, 1)
            krylov = lanczos(lambda v, k=kernel: k @ v, start, settings["lanczos_steps"])
            found = filtered(krylov, problem, TIMES)
            t = max(found.curve, key=found.curve.get)
            numbers |= {f"{name}_{draw}_psnr": found.curve[t], f"{name}_{draw}_t": t}
            (unsettled,) = found.numbers.values()
            numbers |= {f"{name}_{draw}_unsettled": unsettled, f"{name}_largest": krylov.largest}
    return Outcome(notes["curve"], numbers, earlier_seconds=resumable.earlier_seconds)


def run_adaptation(configuration: Configuration, given: Problem, checkpoint: Checkpoint) -> Outcome:
    """Train up to the last of ``settings["times"]`` and measure the kernel at each of them, by products alone."""
    settings, clean = configuration.settings, centre(given.clean)
    x = network_input(configuration, given.noisy)
    training = trainer(configuration, given)
    size, channels = clean.numel(), len(clean)
    count, steps = max(SHARES), settings["lanczos_steps"]
    first = EmpiricalKernel(training.network, x)
    target = EmpiricalKernel(training.network, clean)  # what the first weights would make of the clean image
    bases = [leading_eigenpairs(kernel, size, SPARED, steps, x).vectors for kernel in (first, target)]
    texture = clean - clean.mean(dim=(1, 2), keepdim=True)
    notes = {"curve": {}, "numbers": {}, "measured": 0}
    resumable = Resumable(training, checkpoint, notes)
    numbers = notes["numbers"]
    for t in settings["times"][notes["measured"] :]:
        resumable.advance_to(t)
        if t:
            notes["curve"][t] = training.psnr
        for name, kernel in (kernels_of(training, x) if t else {"plain": first}).items():
            values, vectors = leading_eigenpairs(kernel, size, count, steps, x)
            products = inner_products((kernel, first, target), (vectors[:, :SPARED], *bases), channels)
            change, alignment = compare(products, 0, 1)
            key = f"{name}_{t}"
            numbers |= {f"change_{key}": change, f"alignment_start_{key}": alignment}
            numbers[f"alignment_clean_{key}"] = compare(products, 0, 2).alignment
            numbers[f"largest_{key}"] = values[0].item()
            shares = energy(vectors, texture)
            numbers |= {f"energy_{k}_{key}": shares[k - 1].item() for k in SHARES}
            degrees = degrees_of_freedom(kernel, size, DEGREES_AT, steps, x)
            numbers |= {f"degrees_{at}_{key}": each for at, each in degrees.items()}
        notes["measured"] += 1
    return Outcome(notes["curve"], numbers, earlier_seconds=resumable.earlier_seconds)


def run_features(configuration: Configuration, given: Problem, checkpoint: Checkpoint) -> Outcome:
    """Train so long and keep the leading three eigenvectors of the last pre-activations' covariance: Figure 5.

    They are the three colours of the picture.
    """
    x, wanted = network_input(configuration, given.noisy), configuration.settings["largest_iteration"]
    training = trainer(configuration, given)
    resumable = Resumable(training, checkpoint)
    resumable.advance_to(wanted)
    preactivations = last_preactivations(training.network, x)
    values, vectors = covariance_eigenpairs(preactivations, max(SHARES))
    grey = given.clean.mean(dim=0).flatten().to(vectors)
    grey = grey - grey.mean()
    shares = energy(vectors, grey)
    numbers = {f"energy_{k}": shares[k - 1].item() for k in SHARES}
    total = preactivations.double().square().sum().item() / len(preactivations)
    numbers |= {f"variance_{k}": value / total for k, value in enumerate(values[:3].tolist(), start=1)}
    picture = as_colours(vectors, given.clean)
    picture = central(picture, min(PICTURE_SIDE, *x.shape[1:]))
    return Outcome({wanted: training.psnr}, numbers, picture=picture, earlier_seconds=resumable.earlier_seconds)


def _studied(method: str, run: Configuration, **settings: object) -> Configuration:
    """A training run's configuration for one of the methods here; without a stopping rule where it has none."""
    kept = dict(run.settings)
    if method != "frozen":
        for name in ("patience", "patience_share", "largest_iteration"):
            del kept[name]
    return replace(run, method=method, settings=kept | settings)


_FOUR = tuple(Cell("autoencoder", rule, given) for rule in ("adam", "gd") for given in ("noise", "image"))
_SHALLOW = tuple(Cell("vanilla", rule, "image") for rule in ("adam", "gd"))


def _figure_5() -> Iterator[Configuration]:
    """House whole, as the paper has it; and three draws on the central 64x64 pixels with 64 channels."""
    for cell in _FOUR:
        yield _studied("features", trained("house", 0, cell), largest_iteration=500)
        for seed in range(3):
            yield _studied("features", small("house", seed, cell, channels=64), largest_iteration=500)


def _adapted() -> Iterator[Configuration]:
    for cell in _FOUR:
        for image in ("house", "baboon", "f16"):
            run = small(image, 0, cell, channels=64)
            yield _studied("adaptation", run, times=(0, 10, 30, 100, 300, 1000), lanczos_steps=60)


def _frozen() -> Iterator[Configuration]:
    """Three crops with three draws each, and House whole."""
    for seed in range(3):
        for image in ("house", "baboon", "f16"):
            for cell in (*_FOUR, *_SHALLOW):
                longest = 6000 if cell.optimiser == "adam" else 2000
                channels = 512 if cell in _SHALLOW else 64
                run = small(image, seed, cell, channels=channels, largest_iteration=longest)
                yield _studied("frozen", run, lanczos_steps=150)
    for cell in (*_FOUR[:2], *_SHALLOW):
        yield _studied("frozen", trained("house", 0, cell), lanczos_steps=150)


FIGURE_5 = tuple(_figure_5())
ADAPTED = tuple(_adapted())
FROZEN = tuple(_frozen())
