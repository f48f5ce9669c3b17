"""The closed-form denoiser: a recipe, and one path that follows it window by window.

Each window is filtered as an image of its own, by the filter of an infinitely wide network for that window. SURE, with
one probe through everything, chooses for each window among the recipe's landmarks and the number of iterations.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ntkbook.images import centre, check_image, uncentre
from ntkbook.kernels import PatchKernel, tile_entries
from ntkbook.landmarks import Landmarks
from ntkbook.nystrom import COLUMN_MEMORY, nystrom_filter
from ntkbook.stopping import PROBE, Analysis, iteration_grid, stein_estimates, sure_probe
from ntkbook.windows import Blend, Windows

LARGEST_ITERATION = 100_000  # beyond, the answer hangs on eigenvalues that are rounding in float32
PER_DECADE = 12  # numbers of iterations that SURE compares
RETAINED = 31 * 2**20  # bytes; with a block of 32 MB or more glibc does not change its ways


@dataclass(frozen=True)
class Recipe:
    """What the denoiser is made of.

    Args:
        landmarks: one or more; with more than one SURE chooses for each window.
        window: side of the windows in pixels; None filters the whole image at once, as the paper does.
        overlap: pixels that neighbouring windows share, less than the side.
        stages: 1, or more to compute the kernels again, from the estimate of the stage before, and filter the noisy
            image with them; each window keeps the stage that SURE prefers.

    Raises:
        ValueError: there are no landmarks, no stages, or a patch is larger than a window.
    """

    landmarks: tuple[Landmarks, ...]
    window: int | None = 48
    overlap: int = 12
    stages: int = 1

    def __post_init__(self) -> None:
        if not self.landmarks:
            raise ValueError("A recipe needs at least one kind of landmarks.")
        if self.stages < 1:
            raise ValueError(f"A recipe needs at least 1 stage, not {self.stages}.")
        largest = max(each.patch_size for each in self.landmarks)
        if self.window is not None and self.window < largest:
            raise ValueError(f"Windows of side {self.window} are smaller than the patches, {largest} x {largest}.")


RECIPES: Mapping[str, Recipe] = {
    "fastest": Recipe((Landmarks("centres", 40, 5),), window=40, overlap=8),
    "fast": Recipe((Landmarks("centres", 64, 7),)),
    "best": Recipe((Landmarks("centres", 64, 11), Landmarks("centres", 128, 5)), overlap=16, stages=2),
    "paper": Recipe((Landmarks("uniform", 1000, 11),), window=None),
}


@dataclass(frozen=True)
class Restoration:
    """A restored picture and how it was made.

    Args:
        image: shape (channels, height, width), float32, not clipped.
        windows: the layout of the windows.
        iterations: t of twicing in each window, shape of ``windows.grid``; 0 where the picture was left as it came.
        landmarks: which of the recipe's landmarks each window used, same shape, counted on through the stages (with
            two landmarks the second stage has numbers 2 and 3); -1 where it was left as it came.
        expected_psnr: SURE's estimate for the whole picture in dB, or None when the number of iterations was given. It
            is too high by some tenths of a dB, and by more in small windows or with a second stage: centres are held
            fixed in SURE's probe, and each window takes what looks best.
    """

    image: Tensor
    windows: Windows
    iterations: Tensor
    landmarks: Tensor
    expected_psnr: float | None


def restore(
    noisy: Tensor,
    noise_std: float | None,
    iterations: float | None = None,
    recipe: Recipe = RECIPES["fast"],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Restoration:
    """Denoise with the filter of the infinitely wide network with one hidden layer (Section 4.1, Appendix G).

    Args:
        noisy: shape (channels, height, width), float32, about [0, 1]; on the device where the work is to be done.
        noise_std: standard deviation of the noise on the same scale, 0 or more; used only by SURE.
        iterations: t of twicing in every window; None chooses it, for each window, by Monte Carlo SURE, which builds
            each filter twice.
        recipe: landmarks, windows and stages.
        seed: of the landmarks' draw and of SURE's probe.
        progress: called with (pixels done, pixels in all) as the columns are computed.

    Returns:
        :class:`Restoration`. Without noise, or in windows where SURE finds every filter worse than none, the picture
        as it came.

    Raises:
        ValueError: an argument is out of range, or the number of iterations is given to a recipe with several
            landmarks or stages; the message names it and what is accepted.
    """
    check_image(noisy)
    _check_numbers(noise_std, iterations, recipe)
    windows = Windows(*noisy.shape[-2:], recipe.window, recipe.overlap)
    none = torch.zeros(len(windows.origins), dtype=torch.float64), torch.full((len(windows.origins),), -1)
    if iterations is None and noise_std == 0:
        return Restoration(noisy, windows, *(each.reshape(windows.grid) for each in none), math.inf)
    centred = centre(noisy)
    images = centred[None]
    if iterations is None:
        images = torch.stack([centred, centred + noise_std * PROBE * sure_probe(centred, seed)])
    work = _Work(images, noise_std, iterations, windows, recipe, seed)
    if progress is not None:
        work = replace(work, report=_counter(progress, work.total))
    estimate, chosen = images, none
    for stage in range(recipe.stages):
        estimate, chosen = work.stage(stage, estimate, chosen)
    times, landmarks = (each.reshape(windows.grid) for each in chosen)
    expected = None
    if iterations is None:
        error = _stein(images, estimate, noise_std).item()
        expected = -10 * math.log10(error) if error > 0 else math.inf
    return Restoration(uncentre(estimate[0]), windows, times, landmarks, expected)


@dataclass(frozen=True)
class _Work:
    """One restoration; the first axis of every tensor is y alone, or y and y moved along SURE's probe."""

    images: Tensor
    noise_std: float | None
    iterations: float | None
    windows: Windows
    recipe: Recipe
    seed: int
    report: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        # glibc gives freed memory back to the system at once unless a block of this size was freed before, and
        # fetching it again for each batch of windows took longer than the arithmetic. The block is never touched.
        torch.empty(RETAINED, dtype=torch.uint8)

    @property
    def total(self) -> int:
        """Pixels of all the columns that will be computed: of a filter too large to be kept, three times."""
        pixels = math.prod(self.windows.shape)
        size = pixels * self.images.element_size()
        kept = [min(each.count, pixels) * size <= self._memory for each in self.recipe.landmarks]
        passes = sum(1 if each else 3 for each in kept)
        return len(self.images) * len(self.windows.origins) * pixels * passes * self.recipe.stages

    @property
    def _memory(self) -> int:
        return COLUMN_MEMORY // len(self.images)

    def stage(self, number: int, source: Tensor, chosen: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Filter the images with kernels of ``source``; a window keeps the source where SURE prefers that."""
        blend = Blend(self.windows, self.images)
        all_times, all_landmarks = (each.clone() for each in chosen)
        for where, origins in self.windows.chunks(self._together()):
            noisy, best = (self.windows.cut(each, origins) for each in (self.images, source))
            around, times, landmarks = best, all_times[where], all_landmarks[where]
            score = torch.full((len(origins),), math.inf)
            if self.iterations is None:
                score = _stein(noisy, best, self.noise_std)
            for index, each in enumerate(self.recipe.landmarks, start=number * len(self.recipe.landmarks)):
                restored, t, estimate = self._filtered(noisy, around, each)
                better = estimate < score
                best = torch.where(better[:, None, None, None].to(best.device), restored, best)
                times, landmarks = torch.where(better, t, times), torch.where(better, index, landmarks)
                score = torch.minimum(score, estimate)
            blend.add(best, origins)
            all_times[where], all_landmarks[where] = times, landmarks
        return blend.result(), (all_times, all_landmarks)

    def _together(self) -> int:
        entries = math.prod(self.windows.shape) * max(each.count for each in self.recipe.landmarks)
        return max(1, tile_entries(self.images.device) // entries)

    def _filtered(self, noisy: Tensor, source: Tensor, landmarks: Landmarks) -> tuple[Tensor, Tensor, Tensor]:
        """The windows filtered, (images, windows, ...), with the t of each window and SURE's estimate for it."""
        kernels = [PatchKernel(image, landmarks.patch_size, progress=self._count(len(image))) for image in source]
        patches = landmarks.choose(kernels[0], self.seed)
        filters = [nystrom_filter(kernel, patches(kernel), self._memory).scaled() for kernel in kernels]
        pixels = noisy.flatten(-2).mT  # (images, windows, pixels, channels)
        if self.iterations is None:
            probe = (pixels[1] - pixels[0]) / (self.noise_std * PROBE)
            analyses = [Analysis.of(one, image, probe) for one, image in zip(filters, pixels, strict=True)]
            grid = iteration_grid(LARGEST_ITERATION, PER_DECADE)
            estimates, _ = stein_estimates(*analyses, pixels[0, 0].numel(), self.noise_std, grid)
            estimate, best = (each.cpu() for each in estimates.min(dim=0))
            times = torch.tensor(grid, dtype=torch.float64)[best]
            energies = [each.energy.to(pixels.dtype) for each in analyses]
        else:
            times = torch.full((len(pixels[0]),), float(self.iterations), dtype=torch.float64)
            estimate = torch.zeros(len(times), dtype=torch.float64)
            energies = [filters[0].basis.mT @ pixels[0]]
        each_time = times[:, None].to(noisy.device)
        restored = [one.synthesis(energy, each_time) for one, energy in zip(filters, energies, strict=True)]
        return torch.stack(restored).mT.reshape(noisy.shape), times, estimate

    def _count(self, windows: int) -> Callable[[int], None] | None:
        return None if self.report is None else lambda pixels: self.report(windows * pixels)


def _stein(images: Tensor, estimates: Tensor, noise_std: float) -> Tensor:
    """SURE of finished estimates: (2, ..., channels, height, width) each; mean squared error, (...), on the CPU."""
    (image, moved), (estimate, follows) = images, estimates
    mean = {"dim": (-3, -2, -1), "dtype": torch.float64}
    divergence = (moved - image).mul_(follows - estimate).mean(**mean) / (noise_std * PROBE) ** 2
    return ((estimate - image).square_().mean(**mean) + 2 * noise_std**2 * divergence - noise_std**2).cpu()


def _check_numbers(noise_std: float | None, iterations: float | None, recipe: Recipe) -> None:
    if (iterations is None or noise_std is not None) and not (noise_std is not None and 0 <= noise_std < math.inf):
        raise ValueError(f"The noise's standard deviation must be a finite number of 0 or more, not {noise_std}.")
    if iterations is not None and not 0 <= iterations < math.inf:
        raise ValueError(f"The number of iterations must be a finite number of 0 or more, not {iterations}.")
    if iterations is not None and (len(recipe.landmarks) > 1 or recipe.stages > 1):
        raise ValueError(
            f"With {len(recipe.landmarks)} kinds of landmarks and {recipe.stages} stages SURE has to choose, so the "
            "number of iterations cannot be given; give sigma alone, or a recipe with one of each."
        )


def _counter(progress: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    done = 0

    def count(pixels: int) -> None:
        nonlocal done
        done += pixels
        progress(done, total)

    return count
