"""For people with a picture: the closed-form filter as a denoiser, in scikit-image's conventions."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ntkbook.devices import resolve_device
from ntkbook.image_files import FLOAT_RANGE
from ntkbook.restoration import RECIPES, Recipe, restore


def denoise_ntk(
    image: np.ndarray,
    sigma: float | None = None,
    iterations: float | None = None,
    *,
    recipe: str | Recipe = "fast",
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
        iterations: t of twicing; None chooses it for each window by Monte Carlo SURE, without a clean image.
        recipe: ``"fast"`` (windows with cluster centres), ``"fastest"`` (fewer of them and smaller patches: half the
            time), ``"best"`` (SURE chooses among several kinds of landmarks and a second stage: better and slower),
            ``"paper"`` (the whole image at once with 1000 random columns), or a
            :class:`~ntkbook.restoration.Recipe`.
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
        >>> restored = denoise_ntk(data.camera()[:64, :64], sigma=0.05)
        >>> restored.shape, restored.dtype
        ((64, 64), dtype('float64'))
    """
    picture = as_picture(image, channel_axis)
    followed = as_recipe(recipe)
    target = resolve_device(device)
    if sigma is None and iterations is None:
        sigma = estimated_sigma(picture)
    noisy = torch.from_numpy(picture.astype(np.float32)).to(target)
    with progress_bar(progress) as report:
        restored = restore(noisy, sigma, iterations, followed, seed, report).image
    result = restored.cpu().numpy().astype(picture.dtype)
    return result[0] if channel_axis is None else np.moveaxis(result, 0, channel_axis)


class NTKDenoiser(nn.Module):
    """:func:`denoise_ntk` as a module called with ``(y, sigma)``, deepinv's convention for denoisers.

    It has no parameters and its output carries no gradient, so it serves in plug-and-play iterations.

    Args:
        recipe: as for :func:`denoise_ntk`.
        iterations: t of twicing for every call; None chooses it by SURE.
        seed: of everything drawn at random; each call draws the same.

    Raises:
        ValueError: the recipe is not known.
    """

    def __init__(self, recipe: str | Recipe = "fast", iterations: float | None = None, seed: int = 0) -> None:
        super().__init__()
        self.recipe = as_recipe(recipe)
        self.iterations = iterations
        self.seed = seed

    @torch.no_grad()
    def forward(self, y: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Denoise a batch.

        Args:
            y: shape (batch, channels, height, width), floating point, about [0, 1]; each image is filtered alone.
            sigma: standard deviation of the noise on that scale: one number, or a tensor with one for each image;
                None estimates it, or is right when the iterations are given.

        Returns:
            Same shape, dtype and device.

        Raises:
            ValueError: the batch has another shape, sigma has neither one nor ``batch`` entries, or is out of range.
            TypeError: y is not a floating-point tensor.
        """
        if not isinstance(y, Tensor) or not y.is_floating_point():
            raise TypeError(f"The batch must be a floating-point tensor, not {getattr(y, 'dtype', type(y).__name__)}.")
        if y.ndim != 4:
            raise ValueError(f"The batch must have the shape (batch, channels, height, width), not {tuple(y.shape)}.")
        if sigma is None:
            levels = [
                None if self.iterations is not None else estimated_sigma(image.float().cpu().numpy()) for image in y
            ]
        else:
            levels = torch.as_tensor(sigma).double().flatten().tolist()
            if len(levels) not in (1, len(y)):
                raise ValueError(f"sigma must be one number or one for each of {len(y)} images, not {len(levels)}.")
            levels = levels * len(y) if len(levels) == 1 else levels
        restored = [
            restore(image.float(), level, self.iterations, self.recipe, self.seed).image
            for image, level in zip(y, levels, strict=True)
        ]
        return torch.stack(restored).to(y.dtype) if restored else torch.empty_like(y)


def as_recipe(recipe: str | Recipe) -> Recipe:
    """The recipe of that name, or the recipe itself.

    Raises:
        ValueError: there is no recipe of that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(f"Unknown recipe {recipe!r}; accepted are {', '.join(RECIPES)}, or a Recipe.")
    return RECIPES[recipe]


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


@contextmanager
def progress_bar(wanted: bool, **options: Any) -> Iterator[Callable[[int, int], None] | None]:
    """A bar over the computed columns.

    Args:
        wanted: whether there is to be one.
        options: for ``tqdm``.

    Yields:
        What is to be called with the number of columns done and their total, and shows the bar from its first call on;
        None when it is not wanted.
    """
    if not wanted:
        yield None
        return
    from tqdm.auto import tqdm

    with ExitStack() as opened:
        bar: tqdm | None = None

        def report(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = opened.enter_context(tqdm(total=total, unit="pixel", unit_scale=True, desc="columns", **options))
            bar.update(done - bar.n)

        yield report
