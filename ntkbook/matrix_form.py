r"""A network of convolutions and relus written with matrices, forwards and backwards, as the paper writes it.

For small images: a convolution is a matrix over all pixels of all channels. ``weights`` is a list of the layers'
weights, each of shape (outputs, inputs, r, r); pre-activations and error gradients are (channels, height, width).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ntkbook.propagation import window_positions


def convolution_matrix(weight: Tensor, shape: tuple[int, int], padding: str = "circular") -> Tensor:
    r"""The matrices :math:`W_{i,j}` of :eq:`eq-ntk-1`, all of a layer in one.

    Args:
        weight: shape (outputs, inputs, r, r).
        shape: (height, width) of the image.
        padding: see :func:`ntkbook.propagation.window_positions`; with ``"circular"`` each block is circulant along
            both axes of the image.

    Returns:
        Shape (outputs * pixels, inputs * pixels); block (i, j) is :math:`W_{i,j}`.
    """
    outputs, inputs, size, _ = weight.shape
    pixels = shape[0] * shape[1]
    blocks = weight.new_zeros(outputs, pixels, inputs, pixels + 1)
    for entries, at in zip(weight.flatten(2).movedim(2, 0), window_positions(shape, size, padding), strict=True):
        blocks[:, torch.arange(pixels), :, at] += entries
    return blocks[..., :pixels].flatten(2).flatten(0, 1)


def preactivations(weights: Sequence[Tensor], x: Tensor, padding: str = "circular") -> list[Tensor]:
    r"""Pre-activations of all layers by matrices, :eq:`eq-ntk-1`, :eq:`eq-ntk-2` and :eq:`eq-ntk-3`.

    Args:
        weights: of the layers.
        x: input, shape (channels, height, width).
        padding: of the convolutions.

    Returns:
        :math:`a^1, \dots, a^{L-1}` and the output z.
    """
    shape, found, features = tuple(x.shape[1:]), [], x
    for weight in weights:
        found.append((convolution_matrix(weight, shape, padding) @ features.flatten()).view(len(weight), *shape))
        features = found[-1].clamp_min(0)
    return found


def error_gradients(
    weights: Sequence[Tensor], found: Sequence[Tensor], target: Tensor, padding: str = "circular"
) -> list[Tensor]:
    r"""Gradients of the loss by the pre-activations, :eq:`eq-ntk-46` and :eq:`eq-ntk-47`; the right forms of
    :eq:`eq-ntk-45` and :eq:`eq-ntk-50`.

    :math:`\delta^L = z - y`, and :math:`\delta^\ell = \phi'(a^\ell)\circ (W^{\ell+1})^T\delta^{\ell+1}` below.

    Args:
        weights: of the layers.
        found: their :func:`preactivations`.
        target: y, of the output's shape.
        padding: of the convolutions.

    Returns:
        :math:`\delta^1, \dots, \delta^L`, each of the shape of its pre-activations.
    """
    errors = [found[-1] - target]
    for weight, below in zip(reversed(weights), reversed(found[:-1]), strict=False):
        matrix = convolution_matrix(weight, tuple(below.shape[1:]), padding)
        errors.insert(0, (below > 0) * (matrix.T @ errors[0].flatten()).view(below.shape))
    return errors


def weight_gradient(error: Tensor, features: Tensor, size: int, padding: str = "circular") -> Tensor:
    r"""Gradient of the loss by a layer's weights, the last factor of :eq:`eq-ntk-44`.

    The chain rule ends with the layer's input: entry (i, j, k) is the inner product over the pixels of
    :math:`\delta_i` with input j shifted by offset k.

    Args:
        error: :math:`\delta^\ell`, shape (outputs, height, width).
        features: input of the layer, shape (inputs, height, width).
        size: r.
        padding: of the convolution.

    Returns:
        Shape (outputs, inputs, r, r).
    """
    padded = torch.nn.functional.pad(features.flatten(1), (0, 1))
    shifted = padded[:, window_positions(tuple(features.shape[1:]), size, padding)]
    return torch.einsum("ip,jkp->ijk", error.flatten(1), shifted).unflatten(2, (size, size))
