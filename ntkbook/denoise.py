"""For people with a picture: the closed-form filter as a denoiser, in scikit-image's conventions."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ntkbook.devices import resolve_device
from ntkbook.image_files import FLOAT_RANGE
from ntkbook.images import centre, to_image, to_matrix, uncentre
from ntkbook.kernels import PatchKernel
from ntkbook.nystrom import COLUMN_MEMORY, nystrom_filter, select_columns
from ntkbook.stopping import iteration_grid, monte_carlo_sure

DEFAULT_COLUMNS = 700
LARGEST_ITERATION = 100_000  # beyond, the answer hangs on eigenvalues that are rounding in float32


@dataclass(frozen=True)
class Restoration:
    """A restored picture and how it was made.

    Args:
        image: shape (channels, height, width), float32, not clipped.
        iterations: twicing iterations t; None when the picture was returned as it came.
        expected_psnr: SURE's estimate in dB, or None when the number of iterations was given.
    """

    image: Tensor
    iterations: float | None
    expected_psnr: float | None


def restore(
    noisy: Tensor,
    noise_std: float | None,
    iterations: float | None = None,
    columns: int | None = None,
    patch_size: int = 11,
    selection: str = "uniform",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Restoration:
    """Denoise with the filter of the infinitely wide network with one hidden layer (Section 4.1, Appendix G).

    Args:
        noisy: shape (channels, height, width), float32, about [0, 1]; on the device where the work is to be done.
        noise_std: standard deviation of the noise on the same scale, 0 or more; used only to choose the iterations.
        iterations: t of twicing; None chooses it by Monte Carlo SURE, which builds the filter twice.
        columns: Nystrom's m; None takes 700, or every pixel of a smaller image.
        patch_size: side of the patches, odd.
        selection: of the columns, ``"uniform"``, ``"grid"`` or ``"residual"``.
        seed: of the columns' draw and of SURE's probe.
        progress: called with (pixels done, pixels in all) as the columns are computed.

    Returns:
        :class:`Restoration`. Without noise, or where SURE finds the filter worse than none, the picture as it came.

    Raises:
        ValueError: an argument is out of range; the message names it and what is accepted.
    """
    _check_numbers(noise_std, iterations, needed=iterations is None)
    pixels = noisy.shape[1] * noisy.shape[2]
    columns = min(DEFAULT_COLUMNS, pixels) if columns is None else columns
    kept = pixels * columns * noisy.element_size() <= COLUMN_MEMORY
    builds = 2 if iterations is None else 1
    report = _counter(progress, pixels * (builds if kept else 2 * builds + 1))
    centred = centre(noisy)
    chosen = select_columns(PatchKernel(centred, patch_size), columns, selection, seed)

    def build(image: Tensor):
        kernel = PatchKernel(image, patch_size, progress=report)
        return nystrom_filter(kernel, kernel.patches_at(chosen)).scaled()

    expected = None
    if iterations is not None:
        filter_ = build(centred)
    elif noise_std == 0:
        return Restoration(noisy, None, math.inf)
    else:
        curve, filter_ = monte_carlo_sure(build, centred, noise_std, iteration_grid(LARGEST_ITERATION), seed)
        iterations, error = curve.best, min(curve.estimates)
        if error >= noise_std**2:
            return Restoration(noisy, None, -20 * math.log10(noise_std))
        expected = -10 * math.log10(error) if error > 0 else math.inf
    restored = to_image(filter_.apply(to_matrix(centred), iterations), *noisy.shape[1:])
    return Restoration(uncentre(restored), iterations, expected)


def denoise_ntk(
    image: np.ndarray,
    sigma: float | None = None,
    iterations: float | None = None,
    *,
    columns: int | None = None,
    patch_size: int = 11,
    selection: str = "uniform",
    channel_axis: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
) -> np.ndarray:
    """Denoise a picture with the filter of an infinitely wide convolutional network; nothing is trained.

    The filter's affinities compare patches (:eq:`eq-ntk-16`), Nystrom's method makes it small (:eq:`eq-ntk-73`), and
    twicing applies it t times in closed form (:eq:`eq-ntk-6`).

    Args:
        image: shape (height, width), or with channels along ``channel_axis``. Floating-point images lie in about
            [0, 1] (noise may leave it); integer images are scaled to [0, 1] by the range of their type.
        sigma: standard deviation of the noise, on the scale [0, 1]; None estimates it
            (``skimage.restoration.estimate_sigma``).
        iterations: t of twicing; None chooses it by Monte Carlo SURE, without a clean image.
        columns: columns of the kernel that are computed; None takes 700, or every pixel of a smaller image.
        patch_size: side of the patches in pixels, odd.
        selection: which columns, ``"uniform"``, ``"grid"`` or ``"residual"``.
        channel_axis: axis of the channels; None for a grey image without one.
        seed: of everything drawn at random.
        device: ``"auto"`` (cuda where there is one, then cpu) or a device's name.
        progress: show a progress bar.

    Returns:
        The restored picture, same shape, not clipped; float32 for float16 and float32 images, else float64.

    Raises:
        ValueError: an argument is out of range; the message names it and what is accepted.
        TypeError: the image is not a numeric array.

    Example:
        >>> from skimage import data
        >>> restored = denoise_ntk(data.camera()[:64, :64], sigma=0.05, columns=100)
        >>> restored.shape, restored.dtype
        ((64, 64), dtype('float64'))
    """
    picture = as_picture(image, channel_axis)
    target = resolve_device(device)
    if sigma is None and iterations is None:
        sigma = estimated_sigma(picture)
    noisy = torch.from_numpy(picture.astype(np.float32)).to(target)
    with _bar(progress) as report:
        restored = restore(noisy, sigma, iterations, columns, patch_size, selection, seed, report).image
    result = restored.cpu().numpy().astype(picture.dtype)
    return result[0] if channel_axis is None else np.moveaxis(result, 0, channel_axis)


def as_picture(image: np.ndarray, channel_axis: int | None) -> np.ndarray:
    """The image as floating point on the scale [0, 1], shape (channels, height, width), after every check.

    Raises:
        ValueError: wrong number of axes, non-finite pixels, or values far outside [0, 1].
        TypeError: the image is not a numeric array.
    """
    from skimage.util import img_as_float

    image = np.asarray(image)
    if image.dtype.kind not in "buif":
        raise TypeError(f"The image must be an array of numbers or booleans, not of {image.dtype}.")
    axes = 2 if channel_axis is None else 3
    if image.ndim != axes:
        wanted = "(height, width)" if channel_axis is None else "three axes, one of them the channels"
        raise ValueError(
            f"With channel_axis={channel_axis} the image must have {wanted}, not the shape {image.shape}; "
            "a colour image of shape (height, width, 3) has channel_axis=-1."
        )
    if channel_axis is not None and not -3 <= channel_axis < 3:
        raise ValueError(f"channel_axis must be between -3 and 2, not {channel_axis}.")
    if not np.isfinite(image).all():
        raise ValueError(
            f"The image has {np.count_nonzero(~np.isfinite(image))} NaN or infinite pixels; none is accepted."
        )
    if image.dtype.kind == "f":
        if image.size and (image.min() < FLOAT_RANGE[0] or image.max() > FLOAT_RANGE[1]):
            raise ValueError(
                f"Floating-point images lie in about [0, 1], and this one goes from {image.min():.3g} to "
                f"{image.max():.3g}; divide it by its white level."
            )
        image = image.astype(np.float32) if image.dtype.itemsize <= 4 else image.astype(np.float64)
    else:
        image = img_as_float(image)
    return image[None] if channel_axis is None else np.moveaxis(image, channel_axis, 0)


def estimated_sigma(picture: np.ndarray) -> float:
    """Standard deviation of the noise, averaged over channels, by scikit-image's wavelet estimate.

    Args:
        picture: shape (channels, height, width).

    Returns:
        The estimate, on the picture's scale; a channel without any detail, such as a black one, counts as 0.
    """
    from skimage.restoration import estimate_sigma

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a channel without any detail: the median of nothing
        return float(np.nan_to_num(estimate_sigma(picture, channel_axis=0)).mean())


def _check_numbers(noise_std: float | None, iterations: float | None, needed: bool) -> None:
    if (needed or noise_std is not None) and not (noise_std is not None and 0 <= noise_std < math.inf):
        raise ValueError(f"The noise's standard deviation must be a finite number of 0 or more, not {noise_std}.")
    if iterations is not None and not 0 <= iterations < math.inf:
        raise ValueError(f"The number of iterations must be a finite number of 0 or more, not {iterations}.")


def _counter(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    done = 0

    def count(pixels: int) -> None:
        nonlocal done
        done += pixels
        progress(done, total)

    return count


@contextmanager
def _bar(wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A tqdm bar as a progress function, or None when it is not wanted."""
    if not wanted:
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(unit="pixel", unit_scale=True, desc="columns") as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update
