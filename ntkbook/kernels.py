"""Patch kernels: one affinity between two patches, read as a pixels x pixels Gram matrix.

The filter of an infinitely wide network with one hidden layer, and the filter of non-local means, share one
form: entry ``(i, j)`` depends on the patches around pixels ``i`` and ``j`` only through their inner product and
their norms. An *affinity* is that function; :class:`PatchKernel` applies it to an image by columns, by tiles, or
as a whole, and never holds more than it was asked for.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ntkbook.aligned_columns import AlignedColumns
from ntkbook.covariances import terms, window_sums
from ntkbook.gram_matrices import through
from ntkbook.images import check_image, extract_patches, padded_strip, patches, patches_around
from ntkbook.layers import Serial, check_network
from ntkbook.tile_groups import Border, check_gaussian, groups, peak_entries

Affinity = Callable[[Tensor, Tensor, Tensor], Tensor]

TILE_ENTRIES = 2**20  # kernel entries worked on at a time: 4 MB in float32, small enough to stay near the cores
GPU_TILE_ENTRIES = 2**26  # 256 MB in float32: a GPU wants much to do in one call
MEMORY = 8 * 2**30  # bytes for whole kernels of deep networks
DENSE_LIMIT = 4 * 2**30  # bytes; a 128x128 image takes 1 GiB in float32 and 2 GiB in float64


def relu_affinity(gram: Tensor, norms_i: Tensor, norms_j: Tensor, first_layer: float = 0.0) -> Tensor:
    r"""Affinity of the relu network with one hidden layer, in the limit of many channels.

    :eq:`eq-ntk-16`: :math:`\frac{\|x_i\|\|x_j\|}{\pi}(\sin\varphi + (\pi - \varphi)\cos\varphi)`, the arc-cosine
    kernel of order one. It is the covariance of the network's output at initialisation and the part of the
    tangent kernel that belongs to the last layer. The first layer adds a multiple of
    :math:`\frac{\|x_i\|\|x_j\|}{\pi}(\pi - \varphi)\cos\varphi`.

    Args:
        gram: inner products of patches, any shape, such as (n, m).
        norms_i: Euclidean norms of the first patches, broadcasting against ``gram``, such as (n, 1).
        norms_j: Euclidean norms of the second patches, likewise, such as (m,).
        first_layer: how much of the first layer's part is added; 0 is (16), 1 the tangent kernel of both layers
            in the NTK parametrisation.

    Returns:
        Affinities, the shape of ``gram``, at most ``(1 + first_layer) * norms_i * norms_j`` up to rounding, exactly 0
        where a patch is zero. (16) itself is never negative; with the first layer's part patches that point away from
        each other can have a negative affinity, against what :eq:`eq-ntk-69` says.
    """
    # One pass over memory for each call, nearly all in place: the passes are what takes the time. The cosine's
    # sign is turned, for acos(-c) = pi - acos(c).
    tiny = math.sqrt(torch.finfo(gram.dtype).tiny)  # for zero patches: 0 / tiny**2 is 0
    negative = (gram / (norms_i.clamp_min(tiny) * -norms_j.clamp_min(tiny))).clamp_(-1, 1)
    sine = torch.rsub(negative.square(), 1).sqrt_()
    mixed = torch.acos(negative).mul_(negative)
    return sine.sub_(mixed, alpha=1 + first_layer).mul_(norms_i / math.pi).mul_(norms_j)


def tile_entries(device: torch.device) -> int:
    """How many kernel entries to work on at a time."""
    return TILE_ENTRIES if device.type == "cpu" else GPU_TILE_ENTRIES


def nlm_affinity(gram: Tensor, norms_i: Tensor, norms_j: Tensor, bandwidth: float) -> Tensor:
    r"""Affinity of non-local means, :eq:`eq-ntk-4`: :math:`\exp(-\|y_i - y_j\|^2 / \sigma^2)`.

    Args:
        gram: inner products of patches, any shape, such as (n, m).
        norms_i: Euclidean norms of the first patches, broadcasting against ``gram``, such as (n, 1).
        norms_j: Euclidean norms of the second patches, likewise, such as (m,).
        bandwidth: the parameter :math:`\sigma` of (4), in the units of a patch's norm; positive.

    Returns:
        Affinities in [0, 1], the shape of ``gram``.

    Raises:
        ValueError: the bandwidth is not a positive number.
    """
    if not bandwidth > 0:
        raise ValueError(f"The bandwidth of non-local means must be a positive number, not {bandwidth}.")
    squared = norms_i**2 + norms_j**2 - 2 * gram
    return squared.clamp_min_(0).div_(-(bandwidth**2)).exp_()


@dataclass(frozen=True)
class PatchKernel:
    """The Gram matrix of an affinity on all patches of one image, computed on demand.

    Of one image, or of a batch of images of one size, each with a Gram matrix of its own: every shape below then has
    the batch's axes in front.

    Args:
        image: shape (..., channels, height, width); for the paper's kernel it is centred, in [-0.5, 0.5] (Appendix I).
        size: side of the square patch, odd: the network's receptive field.
        affinity: function of (inner products, norms, norms), such as :func:`relu_affinity`.
        padding: ``"reflect"``, ``"zeros"`` or ``"circular"``, how patches go on past the border.
        progress: called with the number of pixels of each block of columns that was computed.

    Raises:
        ValueError: the image has non-finite pixels or is smaller than a patch, or the patch size is even.
    """

    image: Tensor
    size: int = 11
    affinity: Affinity = relu_affinity
    padding: str = "reflect"
    progress: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        together = self.image.flatten(0, -3) if self.image.ndim > 3 else self.image
        patches(together, self.size, self.padding, rows=(0, 1))  # refuses a bad image, size or padding at the door

    @property
    def pixels(self) -> int:
        """Number of pixels, the side of the Gram matrix."""
        return self.image.shape[-2] * self.image.shape[-1]

    def norms(self) -> Tensor:
        """Euclidean norms of all patches, shape (pixels,)."""
        squares = self.image.square().sum(dim=-3, keepdim=True)
        strip = padded_strip(squares, self.size, self.padding, 0, self.image.shape[-2])
        return window_sums(window_sums(strip, (-2,), self.size), (-1,), self.size).sqrt().flatten(-3)

    def patches_at(self, pixels: Tensor) -> Tensor:
        """Patches around the named pixels (row-major indices), shape (len(pixels), channels * size**2)."""
        return patches_around(self.image, self.size, self.padding, pixels)

    def blocks(self, pixels_per_block: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """All patches in order, by whole image rows: (slice of pixels, patches, their norms of shape (pixels,))."""
        height, width = self.image.shape[-2:]
        norms = self.norms()
        step = max(1, pixels_per_block // width)
        for top in range(0, height, step):
            bottom = min(top + step, height)
            where = slice(top * width, bottom * width)
            yield where, extract_patches(self.image, self.size, self.padding, top, bottom), norms[..., where]

    def against(self, landmarks: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The columns that belong to landmark patches, block of rows by block of rows.

        Args:
            landmarks: patches, shape (m, channels * size**2); pixels of the image or any other patches.

        Yields:
            Pairs of (slice of pixels, affinities of shape (pixels in the slice, m)).
        """
        far = landmarks.square().sum(dim=-1).sqrt()
        for where, block, near in self.blocks(max(1, tile_entries(far.device) // far.numel())):
            gram = (landmarks @ block.mT).mT  # the patches' own order in memory
            yield where, self.affinity(gram, near[..., :, None], far[..., None, :])
            if self.progress is not None:
                self.progress(where.stop - where.start)

    def columns(self, pixels: Tensor) -> Tensor:
        """The columns of the named pixels, shape (pixels, len(pixels))."""
        return torch.cat([block for _, block in self.against(self.patches_at(pixels))], dim=-2)

    def diagonal(self) -> Tensor:
        """The diagonal of the Gram matrix, shape (pixels,)."""
        norms = self.norms()
        return self.affinity(norms.square(), norms, norms)

    def bands(self) -> Iterator[tuple[int, int, Tensor]]:
        """The Gram matrix of one image, upper half, by pairs of image rows a fixed distance apart.

        The inner product of two patches is a sum, over the patch, of inner products of two pixels; those of all the
        pixels in a pair of rows are one small matrix product, and sums over windows are running sums. Far less work
        than products of whole patches.

        Yields:
            (distance, top, entries of shape (n, width, width)): entry (i, j, k) belongs to pixel j of row top + i and
            pixel k of row top + i + distance.
        """
        height, width = self.image.shape[-2:]
        strip = padded_strip(self.image, self.size, self.padding, 0, height).movedim(0, 1).contiguous()
        step = max(1, tile_entries(strip.device) // width**2)
        norms = self.norms().unflatten(0, (height, width))
        for distance in range(height):
            for top in range(0, height - distance, step):
                count = min(step, height - distance - top)
                reach = count + self.size - 1
                pixels = strip[top : top + reach].mT @ strip[top + distance : top + distance + reach]
                rows = window_sums(pixels, (0,), self.size).flatten(1)
                # One step along both axes of a (padded width)^2 matrix is padded width + 1 entries further.
                sums = window_sums(rows, (1,), self.size, pixels.shape[2] + 1)
                gram = sums.as_strided((count, width, width), (sums.shape[1], pixels.shape[2], 1))
                near, far = norms[top : top + count], norms[top + distance : top + distance + count]
                yield distance, top, self.affinity(gram, near[:, :, None], far[:, None, :])

    def dense(self) -> Tensor:
        """The whole Gram matrix of one image, shape (pixels, pixels).

        Raises:
            ValueError: it would take more than 4 GiB; the message says how much.
        """
        size = self.pixels**2 * self.image.element_size()
        if size > DENSE_LIMIT:
            raise ValueError(
                f"The whole kernel of {self.pixels} pixels would take {size / 2**30:.1f} GiB, more than the "
                f"{DENSE_LIMIT / 2**30:.0f} GiB accepted; use columns (Nystrom) or the product `kernel @ v`."
            )
        height, width = self.image.shape[-2:]
        whole = self.image.new_empty(height, width, height, width)
        for distance, top, entries in self.bands():
            if distance == 0:
                entries = entries.triu() + entries.triu(1).mT  # symmetric to the last bit
            for offset, each in ((distance, entries), (-distance, entries.mT)):
                whole.diagonal(offset, 0, 2)[..., top : top + len(entries)].movedim(-1, 0).copy_(each)
        return whole.reshape(self.pixels, self.pixels)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """The product with ``vectors`` (pixels, k), band by band: d x d entries are never held."""
        height, width = self.image.shape[-2:]
        rows = vectors.unflatten(0, (height, width))
        product = torch.zeros_like(rows)
        for distance, top, entries in self.bands():
            near, far = slice(top, top + len(entries)), slice(top + distance, top + distance + len(entries))
            product[near] += entries @ rows[far]
            if distance > 0:
                product[far] += entries.mT @ rows[near]
        return product.flatten(0, 1)


@dataclass(frozen=True)
class Kernels:
    """The two kernels of an infinitely wide network on one image: the whole of them, or some columns.

    Args:
        nngp: covariance of the output at initialisation, shape (pixels, pixels) or (pixels, columns).
        ntk: neural tangent kernel, the same shape.
    """

    nngp: Tensor
    ntk: Tensor


def infinite_width(
    spec: Serial,
    x: Tensor,
    parametrisation: str = "ntk",
    channels: float = math.inf,
    initialisation: str = "he",
    memory: int = MEMORY,
) -> Kernels:
    r"""The kernels of a network in the limit of many channels, on the pixels of one image.

    The parametrisation decides how much each convolution's own weights add to the tangent kernel.

    - ``"ntk"``: parameters are standard normal and multiplied by their standard deviation (Jacot et al., 2018). Each
      layer's own term is its covariance.
    - ``"standard"``: parameters are the weights themselves, as PyTorch trains them, and the kernel is divided by c.
      The own term of a hidden layer or the output is its covariance times :math:`r_\ell^2/\sigma_w^2`, that of the
      first layer :math:`c_0 r_1^2/(c\,\sigma_w^2)`, which vanishes in the limit.
    - ``"paper"``: the recursion (11) as printed, with (68) for the first layer. Own terms as in ``"ntk"``, but the
      first layer has none, and its covariance is not multiplied by :math:`\sigma_w^2`. The second layer is (12) with
      the map of its convolution, which the print leaves out.

    Args:
        spec: the network; it starts and ends with a convolution.
        x: the image, shape (channels, height, width), float32 or float64; for the paper's kernels it is centred, in
            [-0.5, 0.5] (Appendix I).
        parametrisation: ``"ntk"``, ``"standard"`` or ``"paper"``.
        channels: c in the first layer's own term of the standard parametrisation, where it is of the order 1/c, and
            in the term of biases; infinite by default.
        initialisation: ``"he"``, weights have the variance :math:`\sigma_w^2/\text{fan-in}` in all layers; or
            ``"printed"``, that of the first layer is divided by :math:`r^2` only, as in Section 3.1.
        memory: bytes that may be used; see :func:`memory_needed`.

    Returns:
        The whole kernels.

    Raises:
        ValueError: the image is not finite, its size does not go through the network, it would take more memory than
            may be used (the message says how much), the network has a non-linearity of what is not Gaussian, or an
            argument is not one of the accepted.
        TypeError: the image is not a tensor, or in half precision.
    """
    _check_kernel_image(x)
    check_network(spec)
    check_gaussian(spec)
    found = terms(spec, len(x), parametrisation, channels, initialisation)
    needed = memory_needed(spec, *x.shape[1:], x.dtype)
    if needed > memory:
        raise ValueError(
            f"The kernels of {x.shape[1]}x{x.shape[2]} pixels in {str(x.dtype).removeprefix('torch.')} take "
            f"{needed / 2**30:.1f} GiB with this network, and {memory / 2**30:.1f} GiB may be used; take a smaller "
            "image, or columns (infinite_width_columns)."
        )
    state = through(groups(spec, iter(found)), x, Border(0, "zeros"))
    return Kernels(*(whole.flatten(2).flatten(0, 1) for whole in (state.covariance, state.tangent)))


def memory_needed(spec: Serial, height: int, width: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes that :func:`infinite_width` holds at most, up to some tens of megabytes: the result and what precedes it.

    Args:
        spec: the network.
        height: of the image.
        width: of the image.
        dtype: of the image.

    Raises:
        ValueError: the size does not go through the network, or the specification is not one.
    """
    check_network(spec)
    spec.output_size(height, width)
    entries = peak_entries(groups(spec, iter(terms(spec, 1))), height, width, Border(0, "zeros"))
    return 2 * entries * dtype.itemsize


def infinite_width_columns(
    spec: Serial,
    x: Tensor,
    pixels: Tensor,
    parametrisation: str = "ntk",
    channels: float = math.inf,
    initialisation: str = "he",
) -> Kernels:
    """Columns of the kernels of :func:`infinite_width`, for networks without resampling and skip connections.

    An entry costs as much as the receptive field has pixels, once for each layer. For more columns than memory holds
    see :meth:`ntkbook.aligned_columns.AlignedColumns.blocks`.

    Args:
        spec: convolutions without stride and non-linearities. All convolutions larger than 1x1 have circular padding,
            or all have zeros; a single one may also reflect.
        x: see :func:`infinite_width`; other arguments too.
        pixels: row-major indices of the columns, shape (m,).

    Returns:
        Kernels of shape (pixels, m).

    Raises:
        ValueError: as :func:`infinite_width`; also for other layers or paddings, and for a pixel outside the image.
        TypeError: the image is not a tensor, or in half precision.
    """
    _check_kernel_image(x)
    aligned = AlignedColumns(spec, x, parametrisation, channels, initialisation)
    count = x.shape[1] * x.shape[2]
    if pixels.ndim != 1 or not len(pixels) or pixels.min() < 0 or pixels.max() >= count:
        raise ValueError(f"Columns are named by indices between 0 and {count - 1}, at least one.")
    _, covariances, tangents = zip(*aligned.blocks(pixels), strict=True)
    return Kernels(torch.cat(covariances), torch.cat(tangents))


def _check_kernel_image(x: Tensor) -> None:
    check_image(x)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"The kernels need an image in float32 or float64, not {str(x.dtype).removeprefix('torch.')}.")
