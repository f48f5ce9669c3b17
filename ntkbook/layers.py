"""Architectures as data: layers, and the three networks of the paper (Appendix H).

A specification is a :class:`Serial` of layers, immutable and without weights. It has two readings:
:func:`ntkbook.networks.build` makes the finite network that is trained, and
:func:`ntkbook.kernels.infinite_width` the kernel that the network has in the limit of many channels.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ntkbook.images import PADDINGS

MODES = ("bilinear", "nearest")
INITIALISATIONS = ("he", "printed")  # of the first layer: by its fan-in, or by its r^2 alone


def _whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_resampling(layer: Downsample | Upsample) -> None:
    if not _whole(layer.factor) or layer.factor < 2:
        raise ValueError(f"The factor of resampling must be a whole number of at least 2, not {layer.factor!r}.")
    if layer.mode not in MODES:
        raise ValueError(f"Unknown mode {layer.mode!r} of resampling; accepted are {', '.join(MODES)}.")


def _divided(height: int, width: int, factor: int, what: str) -> tuple[int, int]:
    if height % factor or width % factor:
        raise ValueError(f"{height}x{width} pixels cannot be divided by {factor}, as {what} by {factor} asks.")
    return height // factor, width // factor


@dataclass(frozen=True)
class Conv:
    r"""A convolution, :eq:`eq-layers-conv`. Hidden layers have c channels, the last one as many as the output.

    Args:
        size: side r of the kernel in pixels, odd.
        padding: ``"reflect"`` (the border pixel is not repeated), ``"zeros"`` or ``"circular"`` (the paper's
            circulant matrices).
        stride: only every so many rows and columns are kept, the first of each included.
        bias: None for no biases, as in the paper; else their standard deviation at initialisation, and they are
            trained.
        variance: the variance of the weights times the fan-in, :math:`\sigma_w^2`.

    Raises:
        ValueError: the size is not odd and positive, the stride or the variance not positive, the standard deviation
            of the biases negative, or the padding unknown.
    """

    size: int
    padding: str = "reflect"
    stride: int = 1
    bias: float | None = None
    variance: float = 2.0

    def __post_init__(self) -> None:
        if not _whole(self.size) or self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"The size of a convolution must be odd and at least 1, not {self.size!r}.")
        if not _whole(self.stride) or self.stride < 1:
            raise ValueError(f"The stride of a convolution must be a whole number of at least 1, not {self.stride!r}.")
        if self.padding not in PADDINGS:
            raise ValueError(f"Unknown padding {self.padding!r}; accepted are {', '.join(PADDINGS)}.")
        if self.bias is not None and not 0 <= self.bias < math.inf:
            raise ValueError(f"The standard deviation of biases must be 0 or more, or None for none, not {self.bias}.")
        if not 0 < self.variance < math.inf:
            raise ValueError(f"The variance of weights must be positive, not {self.variance}.")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        reach = self.size // 2
        least = {"reflect": reach + 1, "circular": reach, "zeros": 1}[self.padding]
        if min(height, width) < least:
            raise ValueError(
                f"A {self.size}x{self.size} convolution with padding {self.padding!r} needs at least {least} pixels "
                f"each way; it gets {height}x{width}."
            )
        return _divided(height, width, self.stride, "a stride")


@dataclass(frozen=True)
class Relu:
    r"""The non-linearity :math:`\phi(x) = \max(x, 0)`."""

    @property
    def slope(self) -> float:
        """Slope for negative values."""
        return 0.0

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        return height, width


@dataclass(frozen=True)
class LeakyRelu(Relu):
    r"""The non-linearity :math:`\phi(x) = \max(x, 0) + \alpha\min(x, 0)`.

    Args:
        slope: :math:`\alpha`, at least 0 and at most 1.

    Raises:
        ValueError: the slope is out of range.
    """

    slope: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.slope <= 1:
            raise ValueError(f"The slope of a leaky relu must be between 0 and 1, not {self.slope}.")


@dataclass(frozen=True)
class Downsample:
    """Linear downsampling of each channel, the matrix D of :eq:`eq-layers-resampling`.

    Args:
        factor: whole number of at least 2.
        mode: ``"bilinear"`` (pixel centres aligned, no antialiasing: by 2 it is the mean of 2x2 pixels) or
            ``"nearest"``.

    Raises:
        ValueError: the factor is not a whole number of at least 2, or the mode is unknown.
    """

    factor: int = 2
    mode: str = "bilinear"

    def __post_init__(self) -> None:
        _check_resampling(self)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        return _divided(height, width, self.factor, "downsampling")


@dataclass(frozen=True)
class Upsample:
    """Linear upsampling of each channel, the matrix U of :eq:`eq-layers-resampling`.

    Args:
        factor: whole number of at least 2.
        mode: ``"bilinear"`` (pixel centres aligned, the border continued as constant) or ``"nearest"``.

    Raises:
        ValueError: the factor is not a whole number of at least 2, or the mode is unknown.
    """

    factor: int = 2
    mode: str = "bilinear"

    def __post_init__(self) -> None:
        _check_resampling(self)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        return height * self.factor, width * self.factor


@dataclass(frozen=True, init=False)
class Serial:
    """Layers one after the other; a Serial among them counts as its layers.

    Args:
        layers: in the order of the computation.

    Raises:
        ValueError: there is none, or one is not a layer.
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer | Serial) -> None:
        flat = tuple(part for layer in layers for part in (layer.layers if isinstance(layer, Serial) else (layer,)))
        for layer in flat:
            if not isinstance(layer, Layer):
                accepted = ", ".join(kind.__name__ for kind in Layer.__args__)
                raise ValueError(f"{layer!r} is not a layer; accepted are {accepted} and Serial.")
        if not flat:
            raise ValueError("At least one layer is needed.")
        object.__setattr__(self, "layers", flat)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output.

        Raises:
            ValueError: a layer cannot take what it gets, such as an odd height before downsampling by 2.
        """
        for layer in self.layers:
            height, width = layer.output_size(height, width)
        return height, width

    def convolutions(self) -> Iterator[Conv]:
        """All convolutions in the order of the computation, those of skipped branches too."""
        for layer in self.layers:
            if isinstance(layer, Skip):
                yield from layer.branch.convolutions()
            elif isinstance(layer, Conv):
                yield layer

    def with_variance(self, variance: float) -> Serial:
        """The same layers, all convolutions with this variance of the weights times the fan-in."""
        changed = []
        for layer in self.layers:
            if isinstance(layer, Skip):
                layer = Skip(layer.branch.with_variance(variance))
            elif isinstance(layer, Conv):
                layer = replace(layer, variance=variance)
            changed.append(layer)
        return Serial(*changed)


@dataclass(frozen=True, init=False)
class Skip:
    """An additive skip connection, :eq:`eq-layers-skip`: the input is added to what the layers make of it.

    Args:
        layers: the branch, with at least one convolution, which makes its output independent of its input. A
            convolution beside a further skip connection within the branch does not, for that passes the input on.

    Raises:
        ValueError: there is no convolution among the layers.
    """

    branch: Serial

    def __init__(self, *layers: Layer | Serial) -> None:
        branch = Serial(*layers)
        if not any(isinstance(layer, Conv) for layer in branch):
            raise ValueError(
                "The branch beside a skip connection needs at least one convolution, not counting those beside "
                "further skip connections."
            )
        object.__setattr__(self, "branch", branch)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output, those of the input.

        Raises:
            ValueError: the branch returns another size than it gets.
        """
        found = self.branch.output_size(height, width)
        if found != (height, width):
            raise ValueError(
                f"The branch beside a skip connection gets {height}x{width} and returns {found[0]}x{found[1]}; "
                "the sizes must agree."
            )
        return found


Layer = Conv | Relu | LeakyRelu | Downsample | Upsample | Skip


def check_network(spec: Serial) -> None:
    """Refuse what is not a network: it starts with a convolution, of the input, and ends with one, to the output.

    Raises:
        ValueError: the specification is not a Serial, or does not start and end with a convolution.
    """
    if not isinstance(spec, Serial):
        raise ValueError(f"A specification is a Serial of layers, not a {type(spec).__name__}.")
    for layer, place in ((spec.layers[0], "start"), (spec.layers[-1], "end")):
        if not isinstance(layer, Conv):
            raise ValueError(f"A network must {place} with a convolution, not with {layer!r}.")


def vanilla(*sizes: int, output: int = 1, padding: str = "reflect") -> Serial:
    """A plain network: convolutions of the given sizes, a relu after each, and a last convolution.

    Args:
        sizes: kernel sizes of the hidden layers, one or more; the receptive field is the sum of all sizes, each less
            one, plus one.
        output: kernel size of the last layer.
        padding: of all convolutions.

    Raises:
        ValueError: no size is given, or a convolution is not accepted.
    """
    if not sizes:
        raise ValueError("A vanilla network needs the kernel size of at least one hidden layer.")
    hidden = [layer for size in sizes for layer in (Conv(size, padding), Relu())]
    return Serial(*hidden, Conv(output, padding))


def autoencoder(size: int = 3, padding: str = "reflect") -> Serial:
    """The paper's Table 3: three times down and up, nothing between conv4 and convu1 but the upsampling.

    Args:
        size: kernel size of all convolutions but the last, which is 1x1.
        padding: of all convolutions; the paper does not name its own.
    """
    conv = Conv(size, padding)
    down = (conv, Relu(), Downsample())
    up = (Upsample(), conv, Relu())
    return Serial(*down, *down, *down, conv, Relu(), conv, *up, *up, *up, Conv(1, padding))


def unet(size: int = 3, padding: str = "reflect", features: bool = False) -> Serial:
    """The paper's U-Net: the autoencoder with a skip connection at each of its three upper levels.

    With as many weights as the autoencoder the connections must add; where they do the paper does not say.

    Args:
        size: kernel size of all convolutions but the last, which is 1x1.
        padding: of all convolutions.
        features: False adds pre-activations, of the convolutions before and after a level; True adds the relu's
            features to the upsampled features from below.
    """
    conv = Conv(size, padding)
    inner: tuple[Layer | Serial, ...] = (conv, Relu(), conv)
    for _ in range(3):
        if features:
            inner = (conv, Relu(), Skip(Downsample(), *inner, Upsample()), conv, Relu())
        else:
            inner = (conv, Skip(Relu(), Downsample(), *inner, Upsample(), conv), Relu())
    return Serial(*inner, Conv(1, padding))


VANILLA = vanilla(11)
AUTOENCODER = autoencoder()
UNET = unet()
