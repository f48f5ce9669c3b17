"""The numbered equations (1) to (75) of the paper on the neural tangent link.

An equation that a chapter derives names the chapter, the function that is the equation and the form of its check; one
without a chapter is still pending. What is wrong with some of them as printed is in :mod:`ntkbook.errata`.
"""

from dataclasses import dataclass
from typing import Literal

from ntkbook.errata import ERRATA, Erratum


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
        same_as: number of the equation that it repeats, whose entry is then the only one filled, or None.
    """

    number: int
    kind: Literal["definition", "claim"]
    title: str
    chapter: str | None = None
    function: str | None = None
    check: str | None = None
    same_as: int | None = None

    @property
    def label(self) -> str:
        """The label of its display, ``eq-ntk-N``; a repeat has the label of the equation it repeats."""
        return f"eq-ntk-{self.same_as or self.number}"

    @property
    def erratum(self) -> Erratum | None:
        """What is wrong with it as printed, or None when nothing was found or it is pending."""
        return ERRATA.get(self.number)


def _met(
    number: int, kind: Literal["definition", "claim"], title: str, chapter: str, function: str, check: str
) -> Equation:
    """An equation that a chapter derives; the function's path is within the package."""
    return Equation(number, kind, title, chapter, f"ntkbook.{function}", check)


_DEFINITION, _CLAIM = "definition", "claim"

EQUATIONS: tuple[Equation, ...] = (
    _met(
        1,
        _DEFINITION,
        "first layer of a convolutional network",
        "conv-networks",
        "matrix_form.convolution_matrix",
        "identity",
    ),
    _met(2, _DEFINITION, "hidden layers", "conv-networks", "matrix_form.preactivations", "identity"),
    _met(3, _DEFINITION, "output layer", "conv-networks", "matrix_form.preactivations", "identity"),
    _met(4, _DEFINITION, "affinity of non-local means", "twicing", "kernels.nlm_affinity", "identity"),
    _met(5, _DEFINITION, "twicing", "twicing", "filters.twicing", "identity"),
    _met(6, _CLAIM, "twicing in closed form", "twicing", "filters.SpectralFilter.apply", "identity"),
    _met(
        7,
        _CLAIM,
        "mean squared error of twicing: squared bias and variance",
        "twicing",
        "filters.SpectralFilter.mean_squared_error",
        "expectation",
    ),
    _met(8, _CLAIM, "change of single weights under gradient descent", "width-laws", "dynamics.weight_change", "rate"),
    _met(9, _CLAIM, "gradient descent on wide networks is twicing", "dynamics", "filters.twicing", "rate"),
    _met(
        10,
        _DEFINITION,
        "Gram matrix of the neural tangent kernel at initialisation",
        "tangent-kernel",
        "tangent.EmpiricalKernel.dense",
        "identity",
    ),
    _met(
        11,
        _CLAIM,
        "recursion over the layers for covariance and tangent kernel",
        "tangent-kernel",
        "propagation.layer_tangent",
        "identity",
    ),
    _met(
        12,
        _CLAIM,
        "base case of the recursion: one hidden layer",
        "tangent-kernel",
        "propagation.layer_tangent",
        "identity",
    ),
    _met(
        13,
        _DEFINITION,
        "convolution map A on covariances",
        "signal-propagation",
        "propagation.convolution_map",
        "identity",
    ),
    _met(
        14, _DEFINITION, "map V of a non-linearity", "signal-propagation", "propagation.nonlinearity_map", "expectation"
    ),
    _met(
        15,
        _DEFINITION,
        "map V' of a non-linearity's derivative",
        "backpropagation",
        "propagation.nonlinearity_map",
        "expectation",
    ),
    _met(
        16,
        _CLAIM,
        "affinity of a relu network with one hidden layer",
        "cnn-filter",
        "kernels.relu_affinity",
        "expectation",
    ),
    _met(
        17, _CLAIM, "expected filter when the input is noise", "noise-input", "noise_input.noise_filter", "expectation"
    ),
    _met(18, _DEFINITION, "update of Adam", "adam-kernel", "adam.weight_step", "identity"),
    _met(
        19,
        _DEFINITION,
        "tangent kernel as Adam preconditions it",
        "adam-kernel",
        "tangent.EmpiricalKernel.product",
        "identity",
    ),
    _met(20, _CLAIM, "dynamics of the output under Adam", "adam-kernel", "adam.output_step", "rate"),
    _met(21, _CLAIM, "change of single weights under Adam", "adam-widths", "adam_widths.reach", "rate"),
    _met(
        22,
        _CLAIM,
        "first-order dynamics of the pre-activations under Adam",
        "error-signals",
        "tangent.EmpiricalKernel.product",
        "rate",
    ),
    _met(
        23,
        _CLAIM,
        "dynamics of the pre-activations by their preconditioned kernel",
        "error-signals",
        "tangent.EmpiricalKernel.product",
        "identity",
    ),
    _met(
        24,
        _CLAIM,
        "backward recursion for the covariance of the error gradients",
        "backpropagation",
        "propagation.error_covariance",
        "expectation",
    ),
    _met(
        25,
        _CLAIM,
        "its start at the last hidden layer, for the squared loss",
        "error-signals",
        "propagation.error_covariance",
        "expectation",
    ),
    _met(
        26,
        _DEFINITION,
        "mean of the first layer's pre-activations",
        "signal-propagation",
        "networks.Convolution.forward",
        "expectation",
    ),
    _met(
        27,
        _CLAIM,
        "mean of the first layer's pre-activations is zero",
        "signal-propagation",
        "networks.Convolution.forward",
        "expectation",
    ),
    _met(
        28,
        _DEFINITION,
        "covariance of the first layer's pre-activations",
        "signal-propagation",
        "propagation.preactivation_covariance",
        "expectation",
    ),
    _met(
        29,
        _CLAIM,
        "its entries: sums of products over two patches",
        "signal-propagation",
        "propagation.preactivation_covariance",
        "expectation",
    ),
    _met(
        30,
        _CLAIM,
        "covariance of the first layer's pre-activations by the map A",
        "signal-propagation",
        "propagation.preactivation_covariance",
        "identity",
    ),
    Equation(31, _DEFINITION, "convolution map A on covariances", same_as=13),
    _met(
        32,
        _DEFINITION,
        "mean of a later layer's pre-activations",
        "signal-propagation",
        "networks.Convolution.forward",
        "expectation",
    ),
    _met(
        33,
        _CLAIM,
        "mean of a later layer's pre-activations is zero",
        "signal-propagation",
        "networks.Convolution.forward",
        "expectation",
    ),
    _met(
        34,
        _CLAIM,
        "covariance of a later layer's pre-activations as a sum over channels",
        "signal-propagation",
        "propagation.preactivation_covariance",
        "expectation",
    ),
    _met(
        35,
        _CLAIM,
        "its entries: sums of feature covariances over two patches",
        "signal-propagation",
        "propagation.preactivation_covariance",
        "expectation",
    ),
    _met(
        36,
        _CLAIM,
        "recursion for the covariance of the pre-activations",
        "signal-propagation",
        "propagation.layer_covariance",
        "expectation",
    ),
    Equation(37, _DEFINITION, "map V of a non-linearity", same_as=14),
    _met(38, _CLAIM, "map V of the relu in closed form", "signal-propagation", "propagation.relu_map", "identity"),
    _met(
        39,
        _CLAIM,
        "limit of many relu layers: one off-diagonal value",
        "noise-input",
        "noise_input.off_diagonals",
        "rate",
    ),
    _met(40, _CLAIM, "covariance of the output", "signal-propagation", "propagation.layer_covariance", "expectation"),
    _met(
        41, _DEFINITION, "Gaussian likelihood of the noisy image", "gaussian-process", "images.add_noise", "expectation"
    ),
    _met(
        42,
        _DEFINITION,
        "Gaussian process prior of an infinitely wide network",
        "gaussian-process",
        "gaussian_process.prior_draws",
        "expectation",
    ),
    _met(43, _CLAIM, "posterior of the Gaussian process", "gaussian-process", "gaussian_process.posterior", "identity"),
    _met(
        44,
        _CLAIM,
        "gradient of the loss by the chain rule through the layers",
        "backpropagation",
        "matrix_form.weight_gradient",
        "identity",
    ),
    _met(45, _DEFINITION, "error gradient of a layer", "backpropagation", "matrix_form.error_gradients", "identity"),
    _met(
        46,
        _CLAIM,
        "error gradient at the output, for the squared loss",
        "backpropagation",
        "matrix_form.error_gradients",
        "identity",
    ),
    _met(
        47,
        _CLAIM,
        "error gradient at the last hidden layer",
        "backpropagation",
        "matrix_form.error_gradients",
        "identity",
    ),
    _met(
        48,
        _CLAIM,
        "covariance of the error gradient at the last hidden layer",
        "backpropagation",
        "propagation.error_covariance",
        "expectation",
    ),
    Equation(49, _DEFINITION, "map V' of a non-linearity's derivative", same_as=15),
    _met(
        50,
        _CLAIM,
        "backward recursion for the error gradients",
        "backpropagation",
        "matrix_form.error_gradients",
        "identity",
    ),
    Equation(51, _CLAIM, "backward recursion for the covariance of the error gradients", same_as=24),
    _met(
        52,
        _CLAIM,
        "map V' of the relu in closed form",
        "backpropagation",
        "propagation.relu_derivative_map",
        "identity",
    ),
    _met(53, _DEFINITION, "gradient descent", "tangent-kernel", "tangent.EmpiricalKernel.pull", "identity"),
    _met(
        54,
        _CLAIM,
        "first-order expansion of the output in the weights",
        "tangent-kernel",
        "tangent.EmpiricalKernel.push",
        "rate",
    ),
    _met(
        55,
        _CLAIM,
        "the expansion along a step of gradient descent",
        "tangent-kernel",
        "tangent.EmpiricalKernel.push",
        "identity",
    ),
    _met(
        56,
        _CLAIM,
        "the same by the chain rule: the kernel times the error gradient",
        "tangent-kernel",
        "tangent.EmpiricalKernel.product",
        "identity",
    ),
    _met(57, _DEFINITION, "neural tangent kernel", "tangent-kernel", "tangent.EmpiricalKernel.product", "identity"),
    _met(
        58,
        _CLAIM,
        "neural tangent kernel as a sum over single weights",
        "tangent-kernel",
        "tangent.jacobian",
        "identity",
    ),
    _met(
        59,
        _CLAIM,
        "base case of the recursion for c channels",
        "tangent-kernel",
        "propagation.layer_tangent",
        "identity",
    ),
    _met(
        60,
        _CLAIM,
        "recursion for the tangent kernel by Jacobians of a layer",
        "tangent-kernel",
        "tangent.jacobian",
        "identity",
    ),
    _met(
        61,
        _CLAIM,
        "the same with features and weights written out",
        "tangent-kernel",
        "propagation.convolution_map",
        "identity",
    ),
    _met(
        62,
        _CLAIM,
        "recursion for the tangent kernel in the limit of many channels",
        "tangent-kernel",
        "propagation.layer_tangent",
        "identity",
    ),
    _met(63, _CLAIM, "dynamics of the output for the squared loss", "dynamics", "dynamics.descent_step", "identity"),
    _met(64, _CLAIM, "output after t steps as a sum of powers", "dynamics", "dynamics.descent_sum", "identity"),
    _met(65, _CLAIM, "output after t steps by the geometric series", "dynamics", "dynamics.descent", "identity"),
    _met(
        66,
        _CLAIM,
        "Gaussian distribution of the output after t steps",
        "dynamics",
        "dynamics.descent_distribution",
        "expectation",
    ),
    _met(
        67,
        _CLAIM,
        "covariance of the first layer with several input channels",
        "channels-resampling",
        "propagation.preactivation_covariance",
        "expectation",
    ),
    _met(
        68, _CLAIM, "the same by the map A", "channels-resampling", "propagation.preactivation_covariance", "identity"
    ),
    _met(
        69,
        _DEFINITION,
        "domain of the affinity for patches with several channels",
        "channels-resampling",
        "kernels.relu_affinity",
        "identity",
    ),
    _met(
        70,
        _CLAIM,
        "output channels are filtered one by one with the same matrix",
        "channels-resampling",
        "filters.twicing",
        "rate",
    ),
    _met(
        71, _CLAIM, "covariance after downsampling", "channels-resampling", "covariances.resampling_matrix", "identity"
    ),
    _met(72, _CLAIM, "covariance after upsampling", "channels-resampling", "covariances.resampling_matrix", "identity"),
    _met(73, _DEFINITION, "columns used by Nystrom's method", "nystrom", "nystrom.nystrom_blocks", "identity"),
    _met(74, _CLAIM, "Nystrom's approximate eigenvectors", "nystrom", "nystrom.literal_eigenpairs", "printed_fails"),
    _met(75, _CLAIM, "Nystrom's approximate eigenvalues", "nystrom", "nystrom.literal_eigenpairs", "identity"),
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
