"""Depth at a fixed receptive field, the paper's Figure 6: one receptive field of 13x13 pixels, split among layers."""

from collections.abc import Iterator

from torch import Tensor

from ntkbook.aligned_columns import AlignedColumns
from ntkbook.configuration import Configuration
from ntkbook.covariances import relu_moments, terms
from ntkbook.filters import SpectralFilter
from ntkbook.images import SET9, centre, to_matrix
from ntkbook.kernels import infinite_width_columns
from ntkbook.layers import Serial, vanilla
from ntkbook.nystrom import orthonormal_eigenpairs, uniform_columns
from ntkbook.problems import LARGEST_ITERATION, PER_DECADE, Outcome, Problem
from ntkbook.stopping import iteration_grid, psnr_curve

SPLITS = ((13,), (7, 7), (5, 5, 5), (3, 3, 3, 3, 3, 3))
NAMES = {(13,): "13", (7, 7): "7 + 7", (5, 5, 5): "5 + 5 + 5", (3, 3, 3, 3, 3, 3): "6 x 3"}


def networks(sizes: tuple[int, ...], padding: str) -> dict[str, Serial]:
    """The two networks that a list of kernel sizes can mean.

    Args:
        sizes: kernel sizes.
        padding: of all convolutions.

    Returns:
        ``"relu"``: a relu after each convolution, then a 1x1 convolution. ``"linear"``, for two sizes or more: the last
        of the convolutions is the output layer.
    """
    found = {"relu": vanilla(*sizes, padding=padding)}
    if len(sizes) > 1:
        found["linear"] = vanilla(*sizes[:-1], output=sizes[-1], padding=padding)
    return found


def columns(
    image: Tensor, sizes: tuple[int, ...], padding: str, parametrisation: str, pixels: Tensor
) -> dict[str, Tensor]:
    """Columns of the tangent kernels of both :func:`networks`, the deeper continued from the other.

    Args:
        image: shape (channels, height, width), centred.
        sizes: kernel sizes.
        padding: of all convolutions, ``"circular"`` or ``"zeros"``.
        parametrisation: see :func:`ntkbook.kernels.infinite_width`.
        pixels: row-major indices of the columns.

    Returns:
        A matrix (pixels, columns) by the name of the network.
    """
    found = networks(sizes, padding)
    if len(sizes) == 1:
        return {"relu": infinite_width_columns(found["relu"], image, pixels, parametrisation).ntk}
    aligned = AlignedColumns(found["linear"], image, parametrisation)
    term = terms(found["relu"], len(image), parametrisation)[-1]
    deviations = aligned.output_deviations
    tall = {name: image.new_empty(len(deviations), len(pixels)) for name in found}
    for where, covariances, tangents in aligned.blocks(pixels):
        tall["linear"][where] = tangents
        scale = deviations[where, None] * deviations[pixels]
        features, share = relu_moments(covariances, scale)
        tangents = share.mul_(tangents)
        term.apply(features, tangents, 1)
        tall["relu"][where] = tangents
    return tall


def filters(
    image: Tensor, sizes: tuple[int, ...], padding: str, parametrisation: str, pixels: Tensor
) -> dict[str, SpectralFilter]:
    """Nystrom's filters of the tangent kernels of both :func:`networks`, the largest eigenvalue 1."""
    tall = columns(image, sizes, padding, parametrisation, pixels)
    return {name: SpectralFilter(*orthonormal_eigenpairs(each, each[pixels])).scaled() for name, each in tall.items()}


def planned(image: str, sizes: tuple[int, ...], **settings: object) -> Configuration:
    """One run of the closed-form filters of one list of kernel sizes."""
    chosen = {"sizes": sizes, "columns": 300, "selection": "uniform", "column_seed": 0, "padding": "circular"}
    chosen |= {"parametrisation": "paper", "largest_iteration": LARGEST_ITERATION}
    return Configuration("depth", image, 0, 25, "vanilla", "image", "float32", chosen | settings)


def _plan() -> Iterator[Configuration]:
    yield from (planned(image, sizes) for image in SET9 for sizes in SPLITS)
    for settings in ({"parametrisation": "ntk"}, {"padding": "zeros"}, {"columns": 1000}):
        yield from (planned("house", sizes, **settings) for sizes in SPLITS)
    yield from (planned(image, sizes, columns=1000) for image in ("f16", "baboon") for sizes in SPLITS[:2])


def run(configuration: Configuration, given: Problem) -> Outcome:
    """Best PSNR of the filters of both networks: the curve is the deeper one's, the numbers are the other's."""
    settings = configuration.settings
    noisy = centre(given.noisy)
    pixels = uniform_columns(noisy.shape[1] * noisy.shape[2], settings["columns"], settings["column_seed"])
    found = filters(noisy, settings["sizes"], settings["padding"], settings["parametrisation"], pixels)
    times = iteration_grid(settings["largest_iteration"], PER_DECADE)
    curves = {name: psnr_curve(each, to_matrix(noisy), given.clean, times) for name, each in found.items()}
    numbers = {}
    if "linear" in curves:
        best = max(curves["linear"], key=curves["linear"].get)
        numbers = {"linear_output_psnr": curves["linear"][best], "linear_output_iteration": best}
    return Outcome(curves["relu"], numbers)


PLAN = tuple(_plan())
