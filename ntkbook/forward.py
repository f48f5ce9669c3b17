r"""A network on one fixed input, arranged for many passes.

Three things make a training step of a network on one image faster than the plain loop, and none changes the formula:
the products are taken in a shorter type than the weights are kept in; the pixels' channels lie together in memory; and
since the input never changes, the first convolution is a product with the input's patches, which are laid out once.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ntkbook.images import extract_patches
from ntkbook.networks import Convolution


class FixedInput:
    r"""The output :math:`z(w)` of a network on one input, as a function of the network's present weights.

    Args:
        network: as :func:`ntkbook.networks.build` makes it: a sequence whose first module is a convolution, without a
            stride. Its weights are laid out anew in memory, with the same values.
        x: input, shape (inputs, height, width), of the weights' dtype and device.
        products: the dtype in which the layers are computed. The weights stay as they are, are cast for each pass, and
            get their gradients in their own dtype; the output comes in that one, too.

    Raises:
        ValueError: the network does not start with a convolution, or the convolution has a stride.
    """

    def __init__(self, network: nn.Sequential, x: Tensor, products: torch.dtype) -> None:
        first = next(iter(network.children()), None)
        if not isinstance(first, Convolution) or first.layer.stride != 1:
            raise ValueError("The network must start with a convolution without a stride.")
        network.to(memory_format=torch.channels_last)
        self.network, self.products = network, products
        self._rest = nn.Sequential(*list(network.children())[1:])
        size, self._shape = first.layer.size, x.shape[1:]
        patches = extract_patches(x.to(products), size, first.layer.padding, 0, x.shape[1])
        self._patches = patches.contiguous()  # (pixels, inputs * size**2)

    def __call__(self) -> Tensor:
        """The output, shape (outputs, height, width), with its graph."""
        first = self.network[0]
        weight = (first.weight.flatten(1) * first.scale).to(self.products)
        bias = None if first.bias is None else (first.bias * first.bias_scale).to(self.products)
        hidden = nn.functional.linear(self._patches, weight, bias)
        hidden = hidden.unflatten(0, self._shape).movedim(-1, 0)[None]  # channels last: no copy
        weights = {name: weight.to(self.products) for name, weight in self._rest.named_parameters()}
        return functional_call(self._rest, weights, (hidden,))[0].to(first.weight.dtype)
