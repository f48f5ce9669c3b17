"""What the papers print: the numbered equations, and the numbers of their tables.

``EQUATIONS`` lists the equations (1) to (75) of the paper on the neural tangent link. An equation that a
chapter derives names the chapter, the function that is the equation and the form of its check; one without a
chapter is still pending. The numbers are quoted, never measured here, and nothing published is filled in from
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Paper:
    """A paper: title, arXiv identifier, and venue where there is one."""

    title: str
    arxiv: str
    venue: str | None = None


NTK_LINK = Paper("The Neural Tangent Link Between CNN Denoisers and Non-Local Filters", "2006.02379", "CVPR 2021")
SPECTRAL_BIAS = Paper("The Spectral Bias of the Deep Image Prior", "1912.08905")


@dataclass(frozen=True)
class Equation:
    """A numbered equation of the paper on the neural tangent link.

    Args:
        number: its number in the paper, 1 to 75.
        kind: a definition, whose code is the definition, or a claim, which a check shows.
        title: what it says, in a few words.
        chapter: slug of the chapter that derives it, or None while that is pending (and for a repeat).
        function: dotted path of the function that is the equation, or None.
        check: name of the function in :mod:`ntkbook.checks` that the chapter calls, or None.
        erratum: what is wrong with it as printed, in a sentence, or None when nothing was found or it is
            pending.
        same_as: number of the equation that it repeats, whose entry is then the only one filled, or None.
    """

    number: int
    kind: Literal["definition", "claim"]
    title: str
    chapter: str | None = None
    function: str | None = None
    check: str | None = None
    erratum: str | None = None
    same_as: int | None = None

    @property
    def label(self) -> str:
        """The label of its display, ``eq-ntk-N``; a repeat has the label of the equation it repeats."""
        return f"eq-ntk-{self.same_as or self.number}"


_DEFINITION, _CLAIM = "definition", "claim"
_NOT_ORTHONORMAL = (
    "The vectors are not orthonormal, so the closed form (6) does not hold with them; the low-rank factor "
    "has to be orthonormalised first."
)

EQUATIONS: tuple[Equation, ...] = (
    Equation(1, _DEFINITION, "first layer of a convolutional network"),
    Equation(2, _DEFINITION, "hidden layers"),
    Equation(3, _DEFINITION, "output layer"),
    Equation(4, _DEFINITION, "affinity of non-local means", "twicing", "ntkbook.kernels.nlm_affinity", "identity"),
    Equation(5, _DEFINITION, "twicing", "twicing", "ntkbook.filters.twicing", "identity"),
    Equation(6, _CLAIM, "twicing in closed form", "twicing", "ntkbook.filters.SpectralFilter.apply", "identity"),
    Equation(
        7,
        _CLAIM,
        "mean squared error of twicing: squared bias and variance",
        "twicing",
        "ntkbook.filters.SpectralFilter.mean_squared_error",
        "expectation",
    ),
    Equation(8, _CLAIM, "change of single weights under gradient descent"),
    Equation(9, _CLAIM, "gradient descent on wide networks is twicing"),
    Equation(10, _DEFINITION, "Gram matrix of the neural tangent kernel at initialisation"),
    Equation(11, _CLAIM, "recursion over the layers for covariance and tangent kernel"),
    Equation(12, _CLAIM, "base case of the recursion: one hidden layer"),
    Equation(13, _DEFINITION, "convolution map A on covariances"),
    Equation(14, _DEFINITION, "map V of a non-linearity"),
    Equation(15, _DEFINITION, "map V' of a non-linearity's derivative"),
    Equation(
        16,
        _CLAIM,
        "affinity of a relu network with one hidden layer",
        "cnn-filter",
        "ntkbook.kernels.relu_affinity",
        "expectation",
    ),
    Equation(17, _CLAIM, "expected filter when the input is noise"),
    Equation(18, _DEFINITION, "update of Adam"),
    Equation(19, _DEFINITION, "tangent kernel as Adam preconditions it"),
    Equation(20, _CLAIM, "dynamics of the output under Adam"),
    Equation(21, _CLAIM, "change of single weights under Adam"),
    Equation(22, _CLAIM, "first-order dynamics of the pre-activations under Adam"),
    Equation(23, _CLAIM, "dynamics of the pre-activations by their preconditioned kernel"),
    Equation(24, _CLAIM, "backward recursion for the covariance of the error gradients"),
    Equation(25, _CLAIM, "its start at the last hidden layer, for the squared loss"),
    Equation(26, _DEFINITION, "mean of the first layer's pre-activations"),
    Equation(27, _CLAIM, "mean of the first layer's pre-activations is zero"),
    Equation(28, _DEFINITION, "covariance of the first layer's pre-activations"),
    Equation(29, _CLAIM, "its entries: sums of products over two patches"),
    Equation(30, _CLAIM, "covariance of the first layer's pre-activations by the map A"),
    Equation(31, _DEFINITION, "convolution map A on covariances", same_as=13),
    Equation(32, _DEFINITION, "mean of a later layer's pre-activations"),
    Equation(33, _CLAIM, "mean of a later layer's pre-activations is zero"),
    Equation(34, _CLAIM, "covariance of a later layer's pre-activations as a sum over channels"),
    Equation(35, _CLAIM, "its entries: sums of feature covariances over two patches"),
    Equation(36, _CLAIM, "recursion for the covariance of the pre-activations"),
    Equation(37, _DEFINITION, "map V of a non-linearity", same_as=14),
    Equation(38, _CLAIM, "map V of the relu in closed form"),
    Equation(39, _CLAIM, "limit of many relu layers: one off-diagonal value"),
    Equation(40, _CLAIM, "covariance of the output"),
    Equation(41, _DEFINITION, "Gaussian likelihood of the noisy image"),
    Equation(42, _DEFINITION, "Gaussian process prior of an infinitely wide network"),
    Equation(43, _CLAIM, "posterior of the Gaussian process"),
    Equation(44, _CLAIM, "gradient of the loss by the chain rule through the layers"),
    Equation(45, _DEFINITION, "error gradient of a layer"),
    Equation(46, _CLAIM, "error gradient at the output, for the squared loss"),
    Equation(47, _CLAIM, "error gradient at the last hidden layer"),
    Equation(48, _CLAIM, "covariance of the error gradient at the last hidden layer"),
    Equation(49, _DEFINITION, "map V' of a non-linearity's derivative", same_as=15),
    Equation(50, _CLAIM, "backward recursion for the error gradients"),
    Equation(51, _CLAIM, "backward recursion for the covariance of the error gradients", same_as=24),
    Equation(52, _CLAIM, "map V' of the relu in closed form"),
    Equation(53, _DEFINITION, "gradient descent"),
    Equation(54, _CLAIM, "first-order expansion of the output in the weights"),
    Equation(55, _CLAIM, "the expansion along a step of gradient descent"),
    Equation(56, _CLAIM, "the same by the chain rule: the kernel times the error gradient"),
    Equation(57, _DEFINITION, "neural tangent kernel"),
    Equation(58, _CLAIM, "neural tangent kernel as a sum over single weights"),
    Equation(59, _CLAIM, "base case of the recursion for c channels"),
    Equation(60, _CLAIM, "recursion for the tangent kernel by Jacobians of a layer"),
    Equation(61, _CLAIM, "the same with features and weights written out"),
    Equation(62, _CLAIM, "recursion for the tangent kernel in the limit of many channels"),
    Equation(63, _CLAIM, "dynamics of the output for the squared loss"),
    Equation(64, _CLAIM, "output after t steps as a sum of powers"),
    Equation(65, _CLAIM, "output after t steps by the geometric series"),
    Equation(66, _CLAIM, "Gaussian distribution of the output after t steps"),
    Equation(67, _CLAIM, "covariance of the first layer with several input channels"),
    Equation(68, _CLAIM, "the same by the map A"),
    Equation(69, _DEFINITION, "domain of the affinity for patches with several channels"),
    Equation(70, _CLAIM, "output channels are filtered one by one with the same matrix"),
    Equation(71, _CLAIM, "covariance after downsampling"),
    Equation(72, _CLAIM, "covariance after upsampling"),
    Equation(
        73,
        _DEFINITION,
        "columns used by Nystrom's method",
        "nystrom",
        "ntkbook.nystrom.nystrom_blocks",
        "identity",
    ),
    Equation(
        74,
        _CLAIM,
        "Nystrom's approximate eigenvectors",
        "nystrom",
        "ntkbook.nystrom.literal_eigenpairs",
        "printed_fails",
        _NOT_ORTHONORMAL,
    ),
    Equation(
        75,
        _CLAIM,
        "Nystrom's approximate eigenvalues",
        "nystrom",
        "ntkbook.nystrom.literal_eigenpairs",
        "identity",
    ),
)


def equation(number: int) -> Equation:
    """The equation of a number; a repeat gives the entry of the equation that it repeats.

    Args:
        number: 1 to 75.

    Raises:
        ValueError: when the paper has no equation of that number.
    """
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(EQUATIONS):
        raise ValueError(
            f"The paper has no equation {number!r}; accepted are whole numbers from 1 to {len(EQUATIONS)}."
        )
    entry = EQUATIONS[number - 1]
    return EQUATIONS[entry.same_as - 1] if entry.same_as else entry


def derived() -> tuple[Equation, ...]:
    """The equations that a chapter derives, in order, without repeats."""
    return tuple(entry for entry in EQUATIONS if entry.chapter is not None)


def pending() -> tuple[Equation, ...]:
    """The equations that no chapter derives yet, in order, without repeats."""
    return tuple(entry for entry in EQUATIONS if entry.chapter is None and entry.same_as is None)


class MoreThan(NamedTuple):
    """A number printed as a lower bound, such as > 1000000."""

    bound: int


class PrintedMean(NamedTuple):
    """A mean with its standard deviation over runs, as printed."""

    mean: float
    deviation: float


def _table(rows: Mapping) -> Mapping:
    return MappingProxyType(dict(rows))


def _by_input(rows: Mapping[tuple[str, str], tuple]) -> Mapping:
    """Rows of (noise, image) by (architecture, method), as a table of single cells."""
    return _table({(*row, name): cell[i] for row, cell in rows.items() for i, name in enumerate(("noise", "image"))})


IMAGES = ("baboon", "f16", "house", "kodim01", "kodim02", "kodim03", "kodim12", "lena", "peppers")
SIGMA = 25  # of 255, where nothing else is said

# Keys below are (architecture, method, input). Table 1: PSNR in dB, mean over the nine images.
TABLE1: Mapping[tuple[str, str, str], float] = _by_input(
    {
        ("vanilla", "adam"): (19.6, 27.4),
        ("vanilla", "gd"): (15.2, 27.5),
        ("vanilla", "nystrom"): (15.2, 28.3),
        ("unet", "adam"): (28.3, 28.1),
        ("unet", "gd"): (16.5, 27.1),
        ("autoencoder", "adam"): (29.2, 29.3),
        ("autoencoder", "gd"): (15.0, 26.8),
    }
)
BASELINES: Mapping[str, float] = _table({"color_nlm": 30.26, "cbm3d": 31.42})  # dB, Section 6.1

# Table 4: PSNR in dB at other noise levels, keys (sigma, architecture, method, input).
TABLE4: Mapping[tuple[int, str, str, str], float] = _table(
    {
        (5, "autoencoder", "adam", "noise"): 33.5,
        (5, "autoencoder", "adam", "image"): 35.3,
        (5, "vanilla", "nystrom", "image"): 34.5,
        (100, "autoencoder", "adam", "noise"): 24.4,
        (100, "autoencoder", "adam", "image"): 24.1,
        (100, "vanilla", "nystrom", "image"): 22.3,
    }
)

# Table 5: iterations, mean over the nine images.
TABLE5: Mapping[tuple[str, str, str], int | MoreThan] = _by_input(
    {
        ("vanilla", "adam"): (145340, 64),
        ("vanilla", "gd"): (MoreThan(1_000_000), 69526),
        ("vanilla", "nystrom"): (368, 504),
        ("unet", "adam"): (7692, 74),
        ("unet", "gd"): (50054, 5506),
        ("autoencoder", "adam"): (10248, 5088),
        ("autoencoder", "gd"): (50355, 286042),
    }
)
TRAINABLE_WEIGHTS: Mapping[str, int] = _table({"vanilla": 187_392, "autoencoder": 1_036_032, "unet": 1_036_032})

# Seconds per image on an NVIDIA GTX 1080 Ti, keys (architecture, method), Section 6.1.
SECONDS: Mapping[tuple[str, str], int] = _table({("vanilla", "nystrom"): 3, ("autoencoder", "adam"): 806})

# PSNR in dB of one image on the poster. Its layout is lost in the text: which panel has which number is a
# reading, not a quotation.
POSTER: Mapping[tuple[str, str, str], float] = _table(
    {
        ("vanilla", "nystrom", "image"): 28.9,
        ("vanilla", "adam", "image"): 28.3,
        ("vanilla", "gd", "noise"): 15.3,
        ("autoencoder", "adam", "image"): 31.1,
        ("autoencoder", "adam", "noise"): 31.0,
    }
)
POSTER_UNASSIGNED = (24.7, 28.0, 16.4, 21.6, 21.6)  # further numbers there, in dB

# The spectral-bias paper. Table 2: PSNR in dB over 5 runs, columns as in SPECTRAL_BIAS_MODELS.
SPECTRAL_BIAS_MODELS = ("dip", "dip_linear_128", "dip_linear_2048", "relunet")
SPECTRAL_BIAS_RUNS = 5
SPECTRAL_BIAS_DOWNSAMPLING = 4  # factor by which each side of an image is reduced

# Table 1: PSNR in dB, mean over the nine images.
SPECTRAL_BIAS_TABLE1: Mapping[str, float] = _table(
    {"dip": 27.47, "dip_linear_128": 20.54, "dip_linear_2048": 19.17, "relunet": 27.58}
)
# Table 2, keys (image, model).
SPECTRAL_BIAS_TABLE2: Mapping[tuple[str, str], PrintedMean] = _table(
    {
        (image, model): PrintedMean(*cell)
        for image, row in {
            "baboon": ((24.73, 0.04), (20.48, 0.06), (20.35, 0.43), (24.56, 0.02)),
            "f16": ((27.00, 0.15), (20.72, 0.12), (18.60, 1.85), (26.67, 0.14)),
            "house": ((26.89, 0.10), (20.69, 0.04), (18.89, 1.45), (27.21, 0.22)),
            "kodim01": ((25.90, 0.08), (20.35, 0.07), (20.54, 0.07), (25.95, 0.07)),
            "kodim02": ((29.20, 0.13), (20.74, 0.01), (20.59, 0.19), (29.99, 0.09)),
            "kodim03": ((29.26, 0.13), (20.47, 0.04), (18.13, 0.13), (29.62, 0.16)),
            "kodim12": ((29.61, 0.06), (20.36, 0.03), (17.74, 0.04), (29.63, 0.16)),
            "lena": ((27.49, 0.06), (20.48, 0.01), (18.67, 0.72), (27.78, 0.16)),
            "peppers": ((27.12, 0.11), (20.60, 0.01), (18.98, 1.31), (26.82, 0.16)),
        }.items()
        for model, cell in zip(SPECTRAL_BIAS_MODELS, row, strict=True)
    }
)

# Section 3.1: a network with 1D convolutions fits sines of the frequencies k1 and k2. A frequency has
# converged when the squared error of its amplitude is at most delta; iterations are those after which k1 and
# k2 had.
SPECTRAL_BIAS_1D: Mapping[str, float | tuple[int, int]] = _table(
    {"frequencies": (5, 50), "delta": 0.01, "depth": 10, "channels": 256, "iterations": (45, 151)}
)
