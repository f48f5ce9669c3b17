"""The finite network of a specification, as a :class:`torch.nn.Module` with stated initial weights."""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ntkbook.layers import INITIALISATIONS, Conv, Downsample, Layer, Relu, Serial, Skip, Upsample, check_network

TORCH_PADDING = {"reflect": "reflect", "circular": "circular", "zeros": "constant"}
PARAMETRISATIONS = ("standard", "ntk")


def shapes(spec: Serial, channels: int, inputs: int = 3, outputs: int = 3) -> list[tuple[int, int, int, int]]:
    """Shapes of the weights of all convolutions in order, each (output channels, input channels, r, r).

    Args:
        spec: the network.
        channels: c, channels of the hidden layers.
        inputs: channels of the input.
        outputs: channels of the output.

    Raises:
        ValueError: the specification is not a network, or a number of channels is below 1.
    """
    check_network(spec)
    for name, value in (("channels", channels), ("inputs", inputs), ("outputs", outputs)):
        if value < 1:
            raise ValueError(f"The number of {name} must be at least 1, not {value}.")
    sizes = [conv.size for conv in spec.convolutions()]
    widths = [inputs] + [channels] * (len(sizes) - 1) + [outputs]
    return [(after, before, size, size) for size, (before, after) in zip(sizes, pairwise(widths), strict=True)]


def weight_count(spec: Serial, channels: int, inputs: int = 3, outputs: int = 3) -> int:
    """Number of trained weights and biases; arguments and errors as in :func:`shapes`."""
    found = zip(spec.convolutions(), shapes(spec, channels, inputs, outputs), strict=True)
    return sum(math.prod(shape) + (shape[0] if conv.bias is not None else 0) for conv, shape in found)


class Convolution(nn.Module):
    r"""One convolution of a network, :eq:`eq-layers-conv`.

    In the standard parametrisation the parameters are the weights, drawn from
    :math:`\mathcal N(0, \sigma_w^2/\text{fan-in})`. In the NTK parametrisation they are standard normal, and the
    layer multiplies them by their standard deviation.

    Args:
        layer: its specification.
        weight: standard normal numbers, shape (outputs, inputs, r, r).
        bias: standard normal numbers, shape (outputs,), or None.
        fan_in: what the variance of the weights is divided by.
        parametrisation: ``"standard"`` or ``"ntk"``.
    """

    def __init__(self, layer: Conv, weight: Tensor, bias: Tensor | None, fan_in: int, parametrisation: str) -> None:
        super().__init__()
        deviation = math.sqrt(layer.variance / fan_in)
        bias_deviation = layer.bias or 0.0
        standard = parametrisation == "standard"
        self.layer = layer
        self.scale, self.bias_scale = (1.0, 1.0) if standard else (deviation, bias_deviation)
        self.weight = nn.Parameter(weight * deviation if standard else weight)
        self.bias = None
        if bias is not None:
            self.bias = nn.Parameter(bias * bias_deviation if standard else bias)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activations of a batch, (batch, inputs, height, width) to (batch, outputs, height, width).

        Over random weights their mean is zero: :eq:`eq-ntk-26` and :eq:`eq-ntk-27` for the first layer,
        :eq:`eq-ntk-32` and :eq:`eq-ntk-33` for the others.
        """
        reach = self.layer.size // 2
        if reach:
            x = functional.pad(x, (reach,) * 4, mode=TORCH_PADDING[self.layer.padding])
        bias = None if self.bias is None else self.bias * self.bias_scale
        return functional.conv2d(x, self.weight * self.scale, bias, stride=self.layer.stride)


class Activation(nn.Module):
    """A non-linearity, entry by entry; the layer's slope for negative values."""

    def __init__(self, layer: Relu) -> None:
        super().__init__()
        self.slope = layer.slope

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        return functional.leaky_relu(x, self.slope) if self.slope else functional.relu(x)


class Resample(nn.Module):
    """Down- or upsampling of each channel."""

    def __init__(self, layer: Downsample | Upsample) -> None:
        super().__init__()
        self.factor = layer.factor if isinstance(layer, Upsample) else 1 / layer.factor
        self.mode = layer.mode

    def forward(self, x: Tensor) -> Tensor:
        """The resampled batch."""
        return functional.interpolate(x, scale_factor=self.factor, mode=self.mode)


class SkipConnection(nn.Module):
    """The input plus what the branch makes of it, :eq:`eq-layers-skip`."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.branch(x)


def build(
    spec: Serial,
    channels: int,
    inputs: int = 3,
    outputs: int = 3,
    seed: int = 0,
    parametrisation: str = "standard",
    initialisation: str = "he",
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    r"""The finite network of a specification, for batches (batch, inputs, height, width).

    Args:
        spec: the network; its first and last layer are convolutions.
        channels: c, channels of the hidden layers.
        inputs: channels of the input.
        outputs: channels of the output.
        seed: of the weights, drawn in the order of the computation by NumPy in float64, the same on every device.
        parametrisation: ``"standard"``, the parameters are the weights; or ``"ntk"``, they are standard normal and
            multiplied by their standard deviation in each layer (Jacot et al., 2018). The function at
            initialisation is the same; the gradients are not.
        initialisation: ``"he"`` divides the variance of all weights by the fan-in, :math:`r^2` times input channels;
            ``"printed"`` divides the first layer's by :math:`r^2` only, as Section 3.1 of the paper does.
        dtype: of the parameters.

    Returns:
        The network.

    Raises:
        ValueError: the specification is not a network, or an argument is not one of the accepted.
    """
    if parametrisation not in PARAMETRISATIONS:
        raise ValueError(
            f"Unknown parametrisation {parametrisation!r} of a network; accepted are {', '.join(PARAMETRISATIONS)}."
        )
    if initialisation not in INITIALISATIONS:
        raise ValueError(f"Unknown initialisation {initialisation!r}; accepted are {', '.join(INITIALISATIONS)}.")
    generator = np.random.default_rng(seed)
    drawn = shapes(spec, channels, inputs, outputs)
    fan_ins = [math.prod(shape[1:]) for shape in drawn]
    if initialisation == "printed":
        fan_ins[0] //= inputs
    pending = iter(zip(drawn, fan_ins, strict=True))

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal(shape)).to(dtype)

    def module(layer: Layer) -> nn.Module:
        if isinstance(layer, Skip):
            return SkipConnection(nn.Sequential(*map(module, layer.branch)))
        if isinstance(layer, Relu):
            return Activation(layer)
        if not isinstance(layer, Conv):
            return Resample(layer)
        shape, fan_in = next(pending)
        weight = normal(*shape)
        bias = None if layer.bias is None else normal(shape[0])
        return Convolution(layer, weight, bias, fan_in, parametrisation)

    return nn.Sequential(*map(module, spec))
