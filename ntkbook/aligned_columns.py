"""Columns of a deep network's kernel, from pairs of aligned patches.

Without resampling, an entry of the kernel depends on the receptive fields of its two pixels only, and only on products
of what stands at the same place in both. A pair of receptive fields is one window of such products; each convolution
sums over part of it and leaves a smaller one, until a single number is left. So an entry costs as much as the
receptive field has pixels, once for each layer, and a column needs none of the rest of the matrix.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkbook.covariances import relu_moments, second_moment, terms, window_sums
from ntkbook.images import check_image, padded_strip, windows_at
from ntkbook.layers import Conv, Relu, Serial, check_network
from ntkbook.tile_groups import check_gaussian

BLOCK = 256  # pixels whose windows are prepared together
TILE_ENTRIES = 2**18  # entries of one window tensor: 1 MB in float32


@dataclass(frozen=True)
class Windows:
    """What the receptive fields of some pixels hold, the pixels on the last axis.

    Args:
        patches: those of the first convolution all over the receptive field, shape (side**2, entries, n).
        inside: 1 where the place lies in the image and 0 beyond it, shape (side, side, n); None where the image
            has no end.
        deviations: standard deviations of the input of each non-linearity in order, each of shape (its side, its
            side, n).
    """

    patches: Tensor
    inside: Tensor | None
    deviations: list[Tensor]


class AlignedColumns:
    """Columns of a plain network's kernels, block by block.

    Args:
        spec: convolutions without stride and non-linearities, nothing else. All convolutions larger than 1x1 have
            circular padding, or all have zeros; a single one may also reflect.
        image: shape (channels, height, width).
        parametrisation: see :func:`ntkbook.kernels.infinite_width`.
        channels: likewise.
        initialisation: likewise.

    The square roots of the output covariance's diagonal are ``output_deviations``, shape (pixels,).

    Raises:
        ValueError: the specification has other layers or paddings, a non-linearity follows another, or an argument is
            not accepted.
    """

    def __init__(
        self,
        spec: Serial,
        image: Tensor,
        parametrisation: str = "ntk",
        channels: float = math.inf,
        initialisation: str = "he",
    ) -> None:
        check_network(spec)
        check_gaussian(spec)
        check_image(image)
        self.height, self.width = spec.output_size(*image.shape[-2:])
        self.padding = _aligned_padding(spec)
        found = iter(terms(spec, image.shape[0], parametrisation, channels, initialisation))
        self.layers = [(layer, next(found) if isinstance(layer, Conv) else None) for layer in spec]
        self.side = 1 + sum(conv.size - 1 for conv in spec.convolutions())
        self.image = self._padded(image, self.side)
        self._follow_variances(image.square().mean(dim=0, keepdim=True))

    def _padded(self, image: Tensor, side: int) -> Tensor:
        return padded_strip(image, side, self.padding, 0, self.height)

    def _follow_variances(self, variances: Tensor) -> None:
        # The diagonal goes through the network by itself: windows of it are averaged as those of the covariance are.
        self.deviations, side = [], self.side
        for layer, term in self.layers:
            if term is None:
                self.deviations.append((self._padded(variances.sqrt(), side), side))
                variances = second_moment(variances, layer.slope)
            else:
                side -= layer.size - 1
                strip = padded_strip(variances, layer.size, layer.padding, 0, self.height)
                sums = window_sums(window_sums(strip, (1,), layer.size), (2,), layer.size)
                variances = sums * (term.scale / layer.size**2) + term.bias
        self.output_deviations = variances.sqrt().flatten()

    def windows(self, pixels: Tensor) -> Windows:
        """What the receptive fields of the named pixels (row-major indices) hold."""
        size = self.layers[0][0].size
        fields = windows_at(self.image, self.side, self.width, pixels)  # (channels, n, side, side)
        fields = fields.unfold(-2, size, 1).unfold(-2, size, 1)  # (channels, n, rows, columns, size, size)
        patches = fields.permute(2, 3, 0, 4, 5, 1).flatten(2, 4).flatten(0, 1)
        inside, side = None, self.side - size + 1
        if self.padding == "zeros" and side > 1:
            ones = torch.ones_like(self.image[:1, : self.height, : self.width])
            inside = self._gathered(self._padded(ones, side), side, pixels)
        deviations = [self._gathered(padded, side, pixels) for padded, side in self.deviations]
        return Windows(patches.contiguous(), inside, deviations)

    def _gathered(self, padded: Tensor, side: int, pixels: Tensor) -> Tensor:
        return windows_at(padded, side, self.width, pixels)[0].movedim(0, -1).contiguous()

    def entries(self, near: Windows, far: Windows) -> tuple[Tensor, Tensor]:
        """Covariance and tangent kernel of all pairs, both of shape (far pixels, near pixels)."""
        pairs = far.patches.shape[-1], near.patches.shape[-1]
        side = math.isqrt(len(near.patches))
        covariance = (far.patches.mT @ near.patches).view(side, side, *pairs)
        tangent = torch.zeros_like(covariance)
        deviations = zip(near.deviations, far.deviations, strict=True)
        for index, (layer, term) in enumerate(self.layers):
            if term is None:
                scale = torch.mul(*_paired(*next(deviations)))
                covariance, share = relu_moments(covariance, scale, layer.slope)
                tangent.mul_(share)
                continue
            if index == 0:
                count = len(near.patches[0])
            else:
                covariance, tangent = (_summed(each, layer.size) for each in (covariance, tangent))
                count = layer.size**2
            term.apply(covariance, tangent, count)
            if near.inside is not None and len(covariance) > 1:
                trim = (len(near.inside) - len(covariance)) // 2
                for inside in _paired(_trimmed(near.inside, trim), _trimmed(far.inside, trim)):
                    covariance.mul_(inside)
                    tangent.mul_(inside)
        return covariance[0, 0], tangent[0, 0]

    def blocks(self, pixels: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The columns of the named pixels (row-major indices), by blocks of rows of the matrices.

        Yields:
            (slice of pixels, covariances, tangent kernels), the latter two of shape (pixels in the slice, columns).
        """
        widest = self.side - self.layers[0][0].size + 1
        group = max(1, TILE_ENTRIES // (widest**2 * BLOCK))
        columns = [self.windows(some) for some in pixels.split(group)]
        for block in torch.arange(self.height * self.width).split(BLOCK):
            near = self.windows(block)
            found = [self.entries(near, far) for far in columns]
            covariances, tangents = (torch.cat(each).T for each in zip(*found, strict=True))
            yield slice(block[0].item(), block[-1].item() + 1), covariances, tangents


def _paired(near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    # Broadcast against each other, the pairs of pixels are the last two axes: far, near.
    return near[:, :, None, :], far[:, :, :, None]


def _summed(windows: Tensor, size: int) -> Tensor:
    return window_sums(window_sums(windows, (0,), size), (1,), size)


def _trimmed(windows: Tensor, trim: int) -> Tensor:
    return windows[trim : len(windows) - trim, trim : len(windows) - trim]


def _aligned_padding(spec: Serial) -> str:
    # Of all convolutions that reach beyond their pixel; where none does, it does not matter.
    for layer in spec:
        if not isinstance(layer, Conv | Relu) or (isinstance(layer, Conv) and layer.stride > 1):
            raise ValueError(
                f"Columns are computed for convolutions without stride and non-linearities only, not for {layer!r}; "
                "use the whole kernel of a small image."
            )
    reaching = [conv.padding for conv in spec.convolutions() if conv.size > 1]
    if len(set(reaching)) > 1:
        raise ValueError(f"Columns need one padding in all convolutions, not {', '.join(sorted(set(reaching)))}.")
    if reaching.count("reflect") > 1:
        raise ValueError(
            "Patches are not aligned at a mirror: columns of more than one convolution need circular padding or zeros."
        )
    return reaching[0] if reaching else "zeros"
