"""The plan of every table and figure that needs paper-scale runs, and which function makes which run.

A table is a tuple of configurations; :mod:`ntkbook.runner` makes their records.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ntkbook import adam_widths, adaptation_runs, depth, limits, training_runs, training_studies, widths
from ntkbook.baselines import BASELINES
from ntkbook.checkpoints import Checkpoint
from ntkbook.configuration import Configuration
from ntkbook.images import OTHERS, SET9, add_noise, central, centre, constant_image, load, psnr, to_matrix
from ntkbook.kernels import PatchKernel
from ntkbook.lanczos import lanczos
from ntkbook.landmarks import Landmarks
from ntkbook.nystrom import nystrom_filter, select_columns
from ntkbook.problems import LARGEST_ITERATION, PER_DECADE, Outcome, Problem, network_input
from ntkbook.records import Levels
from ntkbook.restoration import RECIPES, Recipe, restore
from ntkbook.stopping import PROBE, iteration_grid, monte_carlo_sure, psnr_curve

RUN_MEMORY = 6 * 2**30  # bytes of columns a run may keep; more are computed again
# The whole image at once, and SURE chooses among pixels and cluster centres: landmarks and nothing else.
WHOLE = Recipe(
    (Landmarks("uniform", 1000), Landmarks("centres", 600), Landmarks("centres", 300)), window=None, overlap=0
)
PATCH = {"patch_size": 11, "padding": "reflect"}


def nystrom(image: str, noise_seed: int, sigma: float = 25, input: str = "image", **settings: object) -> Configuration:
    """The configuration of one Nystrom run of the vanilla network's filter; ``columns`` may be a share such as 0.02."""
    chosen = {"columns": 1000, "selection": "uniform", "column_seed": 0, "largest_iteration": LARGEST_ITERATION}
    if input == "noise":
        chosen["input_seed"] = 1000 + noise_seed
    return Configuration("nystrom", image, noise_seed, sigma, "vanilla", input, "float32", PATCH | chosen | settings)


def _with_sure(configuration: Configuration) -> Configuration:
    return replace(configuration, settings=dict(configuration.settings) | {"sure_probe": PROBE, "sure_seed": 0})


def _table1() -> Iterator[Configuration]:
    for seed in range(3):
        yield from (_with_sure(nystrom(image, seed)) for image in SET9)
        yield from (nystrom(image, seed, input="noise") for image in SET9)
    yield from (nystrom(image, 0, columns=0.02) for image in SET9)


def _table4() -> Iterator[Configuration]:
    yield from (nystrom(image, seed, sigma) for seed in range(3) for sigma in (5, 100) for image in SET9)


def _baselines() -> Iterator[Configuration]:
    for name in BASELINES:
        for seed in range(3):
            for image in SET9:
                yield Configuration("baseline", image, seed, 25, None, None, "float64", {"denoiser": name})


def _columns() -> Iterator[Configuration]:
    for selection in ("uniform", "grid", "residual"):
        for count in (150, 300, 1000):
            for seed in range(1 if selection == "grid" else 2):
                for image in ("house", "f16", "baboon"):
                    yield nystrom(image, 0, columns=count, selection=selection, column_seed=seed)


def recipe(image: str, noise_seed: int, chosen: Recipe) -> Configuration:
    """The configuration of one run of the denoiser by a recipe, stopped by SURE."""
    landmarks = [[each.kind, each.count, each.patch_size] for each in chosen.landmarks]
    settings = {"landmarks": landmarks, "window": chosen.window, "overlap": chosen.overlap, "stages": chosen.stages}
    settings |= {"seed": 0, "sure_probe": PROBE}
    return Configuration("recipe", image, noise_seed, 25, "vanilla", "image", "float32", settings)


def _recipes() -> Iterator[Configuration]:
    one_stage = replace(RECIPES["best"], stages=1)
    for seed in range(3):
        yield from (recipe(image, seed, RECIPES["fast"]) for image in SET9)
    for chosen in (WHOLE, RECIPES["fastest"], one_stage, RECIPES["best"]):
        yield from (recipe(image, 0, chosen) for image in SET9)


def _held_out() -> Iterator[Configuration]:
    for image in OTHERS:
        yield _with_sure(nystrom(image, 0))
        yield from (recipe(image, 0, chosen) for chosen in (RECIPES["fast"], RECIPES["best"]))
        for name in BASELINES:
            yield Configuration("baseline", image, 0, 25, None, None, "float64", {"denoiser": name})


def _exact() -> Iterator[Configuration]:
    settings = PATCH | {"lanczos_steps": 32, "largest_iteration": 2000}
    yield Configuration("exact", "house", 0, 25, "vanilla", "image", "float32", settings)


TABLE1 = (*_table1(), *training_runs.TABLE1)
TABLES: Mapping[str, tuple[Configuration, ...]] = {
    "table1": TABLE1,
    "table4": (*_table4(), *training_runs.TABLE4),
    "table5": TABLE1,
    "baselines": tuple(_baselines()),
    "columns": tuple(_columns()),
    "exact": tuple(_exact()),
    "recipes": tuple(_recipes()),
    "held_out": tuple(_held_out()),
    "figure6": depth.PLAN,
    "crops": limits.PLAN,
    "widths": widths.PLAN,
    "finite_width": limits.FINITE_WIDTH,
    "table1_third": training_runs.THIRD,
    "learning_rates": training_runs.LEARNING_RATE_GRID,
    "predicted": training_studies.PREDICTED,
    "small_table1": training_studies.SMALL,
    "precision": training_studies.PRECISION,
    "open_choices": training_studies.OPEN,
    "figure6_descent": training_studies.DEPTHS,
    "figure4": adam_widths.PLAN,
    "figure5": adaptation_runs.FIGURE_5,
    "adaptation": adaptation_runs.ADAPTED,
    "frozen": adaptation_runs.FROZEN,
}


def problem(configuration: Configuration, device: torch.device) -> Problem:
    """The clean and noisy image of a configuration, or the crop that it names, in its precision, on the device."""
    clean = load(configuration.image, getattr(torch, configuration.precision)).to(device)
    if "crop" in configuration.settings:
        clean = central(clean, configuration.settings["crop"])
    noisy = add_noise(clean, configuration.sigma, configuration.noise_seed)
    levels = Levels(noisy_psnr=psnr(noisy, clean), constant_psnr=psnr(constant_image(clean), clean))
    return Problem(clean, noisy, levels)


def _run_nystrom(configuration: Configuration, given: Problem) -> Outcome:
    settings = configuration.settings
    noisy = centre(given.noisy)
    pixels = noisy.shape[1] * noisy.shape[2]
    count = settings["columns"] if settings["columns"] >= 1 else round(settings["columns"] * pixels)
    times = iteration_grid(settings["largest_iteration"], PER_DECADE)
    source = network_input(configuration, given.noisy)
    kernel = PatchKernel(source, settings["patch_size"], padding=settings["padding"])
    chosen = select_columns(kernel, count, settings["selection"], settings["column_seed"])

    def build(image: Tensor):
        kernel = PatchKernel(image, settings["patch_size"], padding=settings["padding"])
        return nystrom_filter(kernel, kernel.patches_at(chosen), RUN_MEMORY)

    numbers: dict[str, float] = {"columns_used": len(chosen)}
    if "sure_seed" in settings:
        std = configuration.sigma / 255
        sure, filter_ = monte_carlo_sure(lambda x: build(x).scaled(), noisy, std, times, settings["sure_seed"])
        curve = psnr_curve(filter_, to_matrix(noisy), given.clean, times)
        numbers |= {"sure_iteration": sure.best, "sure_psnr": curve[sure.best]}
    else:
        unscaled = build(source)
        numbers["trace_left_out"] = 1 - (unscaled.eigenvalues.sum() / kernel.diagonal().double().sum()).item()
        filter_ = unscaled.scaled()
        curve = psnr_curve(filter_, to_matrix(noisy), given.clean, times)
    numbers["degrees_of_freedom"] = filter_.degrees_of_freedom(max(curve, key=curve.get))
    return Outcome(curve, numbers)


def _run_exact(configuration: Configuration, given: Problem) -> Outcome:
    settings = configuration.settings
    noisy = centre(given.noisy)
    kernel = PatchKernel(noisy, settings["patch_size"], padding=settings["padding"])
    started = time.monotonic()

    def report(steps: int) -> None:
        print(f"  product {steps} of {settings['lanczos_steps']}, {time.monotonic() - started:.0f} s", flush=True)

    krylov = lanczos(lambda vectors: kernel @ vectors, to_matrix(noisy), settings["lanczos_steps"], report)
    return limits.filtered(krylov, given, iteration_grid(settings["largest_iteration"], PER_DECADE))


def _run_recipe(configuration: Configuration, given: Problem) -> Outcome:
    settings = configuration.settings
    landmarks = tuple(Landmarks(*each) for each in settings["landmarks"])
    chosen = Recipe(landmarks, settings["window"], settings["overlap"], settings["stages"])
    found = restore(given.noisy, configuration.sigma / 255, None, chosen, settings["seed"])
    numbers = {"expected_psnr": found.expected_psnr, "median_iterations": found.iterations.median().item()}
    for index in range(-1, len(landmarks) * settings["stages"]):
        numbers[f"windows_{index}"] = (found.landmarks == index).double().mean().item()
    return Outcome({0: psnr(found.image, given.clean)}, numbers)


def _run_baseline(configuration: Configuration, given: Problem) -> Outcome:
    estimate = BASELINES[configuration.settings["denoiser"]](given.noisy, configuration.sigma / 255)
    return Outcome({0: psnr(estimate, given.clean)}, {})


METHODS: Mapping[str, Callable[[Configuration, Problem], Outcome]] = {
    "nystrom": _run_nystrom,
    "exact": _run_exact,
    "recipe": _run_recipe,
    "depth": depth.run,
    "whole": limits.run_whole,
    "lazy": limits.run_lazy,
    "descent": limits.run_descent,
    "width": widths.run,
    "baseline": _run_baseline,
}
RESUMABLE: Mapping[str, Callable[[Configuration, Problem, Checkpoint], Outcome]] = {
    "training": training_runs.run,
    "adam-width": adam_widths.run,
    "adaptation": adaptation_runs.run_adaptation,
    "features": adaptation_runs.run_features,
    "frozen": adaptation_runs.run_frozen,
}
