r"""How a tangent kernel changes in training, measured by products alone: the paper's Sections 5.2 and 6.2.

A kernel here is anything with ``kernel @ vectors`` for vectors of shape (n, k), symmetric and positive semidefinite:
an :class:`~ntkbook.tangent.EmpiricalKernel`, with or without a metric, or a matrix. An image enters as one long vector,
channel after channel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ntkbook.filters import twicing_response
from ntkbook.lanczos import lanczos
from ntkbook.tangent import EmpiricalKernel

Kernel = EmpiricalKernel | Tensor


class Eigenpairs(NamedTuple):
    """Eigenvalues, descending, shape (k,), float64 on the CPU; and orthonormal eigenvectors, shape (n, k)."""

    values: Tensor
    vectors: Tensor


def leading_eigenpairs(kernel: Kernel, size: int, count: int, steps: int, like: Tensor, seed: int = 0) -> Eigenpairs:
    """The leading eigenpairs of a kernel by Lanczos' method from a random vector.

    Args:
        kernel: symmetric, positive semidefinite.
        size: n.
        count: how many pairs.
        steps: products, at least ``count``; a few times as many, for pairs to a percent.
        like: a tensor of the dtype and on the device of the vectors.
        seed: of the first vector.

    Raises:
        ValueError: there are fewer steps than pairs, or more than n; or a product is not finite.
    """
    if not 1 <= count <= steps:
        raise ValueError(f"{steps} products give up to {steps} eigenpairs, not {count}.")
    start = torch.from_numpy(np.random.default_rng(seed).standard_normal((size, 1))).to(like)
    krylov = lanczos(lambda v: kernel @ v, start, steps)
    if not krylov.tridiagonal.isfinite().all():
        raise ValueError("A product with the kernel is not finite.")
    values, weights = torch.linalg.eigh(krylov.tridiagonal[0])
    chosen = weights[:, -count:].flip(1)
    return Eigenpairs(values[-count:].flip(0), krylov.bases[0] @ chosen.to(start))


def energy(vectors: Tensor, image: Tensor) -> Tensor:
    r"""Share of an image's energy in the leading eigenvectors, :math:`\sum_{j\le k}(v_j^Tx)^2/\|x\|^2` for each k.

    Args:
        vectors: orthonormal, shape (n, k).
        image: x, shape (n,) or any that flattens to it; less its mean, if the grey level should not count.

    Returns:
        Shape (k,), from 0 to 1, not falling.

    Raises:
        ValueError: the image is zero.
    """
    x = image.flatten().to(vectors)
    if not x.any():
        raise ValueError("The image is zero, so it has no energy to share out.")
    return ((vectors.T @ x).square() / x.square().sum()).cumsum(0)


def centred(kernel: Kernel, vectors: Tensor, channels: int) -> Tensor:
    """Products with a kernel that does not see the mean of a channel, from both sides; (n, k) to the same."""
    return _less_means(kernel @ _less_means(vectors, channels), channels)


def inner_products(
    kernels: Sequence[Kernel], bases: Sequence[Tensor], channels: int, probes: int = 8, seed: int = 0
) -> Tensor:
    r"""The Frobenius inner products of centred kernels with one another, by Hutchinson's estimate off a subspace.

    :math:`\langle A, B\rangle = \sum_j(Aq_j)^TBq_j + \mathbb E\,(Ag)^TBg` for an orthonormal basis :math:`q_j` and
    Gaussian g orthogonal to it. The basis takes the large eigenvectors out of the estimate, whose variance they make.
    All kernels meet the same probes, so that of equal kernels the difference is exactly 0.

    Args:
        kernels: of one size n.
        bases: leading eigenvectors of some of them, each (n, k).
        channels: of the images; the mean of each is taken out.
        probes: Gaussian vectors.
        seed: of the probes.

    Returns:
        Shape (kernels, kernels), float64 on the CPU, symmetric and positive semidefinite.

    Raises:
        ValueError: a product is not finite.
    """
    basis = torch.linalg.qr(_less_means(torch.cat(list(bases), dim=1), channels)).Q
    drawn = torch.from_numpy(np.random.default_rng(seed).standard_normal((len(basis), probes))).to(basis)
    drawn = _less_means(drawn, channels)
    drawn = (drawn - basis @ (basis.T @ drawn)) / probes**0.5
    images = torch.stack([centred(kernel, torch.cat([basis, drawn], dim=1), channels) for kernel in kernels])
    if not images.isfinite().all():
        raise ValueError("A product with a kernel is not finite.")
    flat = images.flatten(1).double().cpu()
    return flat @ flat.T


class Comparison(NamedTuple):
    """How far a kernel is from another.

    Args:
        change: relative change :math:`\\|A-B\\|_F/\\|B\\|_F`, 0 or more.
        alignment: centred kernel alignment, from 0 to 1: the cosine of the angle between both.
    """

    change: float
    alignment: float


def compare(products: Tensor, one: int, other: int) -> Comparison:
    """The relative change from kernel ``other`` to kernel ``one``, and their alignment, by :func:`inner_products`.

    Raises:
        ValueError: one of the two is zero.
    """
    a, b, both = products[one, one].item(), products[other, other].item(), products[one, other].item()
    if not min(a, b) > 0:
        raise ValueError("A centred kernel is zero, so nothing can be compared with it.")
    return Comparison((max(a - 2 * both + b, 0) / b) ** 0.5, both / (a * b) ** 0.5)


def degrees_of_freedom(
    kernel: Kernel, size: int, times: Sequence[float], steps: int, like: Tensor, probes: int = 2, seed: int = 0
) -> dict[float, float]:
    r"""Effective degrees of freedom of twicing, :math:`\operatorname{tr}\bigl(I-(I-\Theta/\lambda_{\max})^t\bigr)`.

    By Lanczos' quadrature on random vectors.

    Args:
        kernel: symmetric, positive semidefinite.
        size: n.
        times: numbers of iterations t.
        steps: products for each probe.
        like: a tensor of the dtype and on the device of the vectors.
        probes: vectors of random signs.
        seed: of the signs.

    Returns:
        By time, between 0 and n.
    """
    signs = np.random.default_rng(seed).integers(0, 2, (probes, size, 1)) * 2.0 - 1
    runs = [lanczos(lambda v: kernel @ v, torch.from_numpy(each).to(like), steps) for each in signs]
    largest = max(run.largest for run in runs)
    found = dict.fromkeys(times, 0.0)
    for run in runs:
        ritz, weights = torch.linalg.eigh(run.tridiagonal[0])
        for t in times:
            passed = twicing_response((ritz / largest).clamp(0, 1), t)
            found[t] += size * (passed * weights[0].square()).sum().item() / probes
    return found


def last_preactivations(network: nn.Sequential, x: Tensor) -> Tensor:
    r""":math:`a^{L-1}`, what the last non-linearity of a network is given.

    Args:
        network: as :func:`ntkbook.networks.build` makes it, with a non-linearity before its last layer.
        x: input, shape (inputs, height, width).

    Returns:
        Shape (channels, height, width), without a graph.
    """
    with torch.no_grad():
        return network[:-2](x[None])[0]


def covariance_eigenpairs(preactivations: Tensor, count: int) -> Eigenpairs:
    r"""Leading eigenpairs of :math:`\Sigma_a = \frac1c\sum_ia_ia_i^T`, the covariance that Figure 5 shows.

    Args:
        preactivations: :math:`a_i`, shape (c, height, width). No mean is taken off: over the weights it is 0.
        count: how many, at most c.

    Returns:
        The vectors have shape (pixels, count).
    """
    rows = preactivations.flatten(1).double()
    values, weights = torch.linalg.eigh(rows @ rows.T / len(rows))
    values, weights = values[-count:].flip(0), weights[:, -count:].flip(1)
    vectors = rows.T @ weights
    return Eigenpairs(values.cpu(), vectors / vectors.norm(dim=0))


def as_colours(vectors: Tensor, picture: Tensor) -> Tensor:
    """Three eigenvectors as the colours of a picture, to be looked at one by one.

    Each has the sign that goes with the picture's brightness and is stretched from its 1st to its 99th percentile.

    Args:
        vectors: shape (pixels, 3 or more); the first three are taken.
        picture: shape (channels, height, width).

    Returns:
        Shape (3, height, width), from 0 to 1, in single precision on the CPU.
    """
    grey = picture.mean(dim=0).flatten().to(vectors)
    three = vectors[:, :3] * torch.where((grey - grey.mean()) @ vectors[:, :3] < 0, -1, 1)
    low, high = torch.quantile(three, torch.tensor([0.01, 0.99]).to(three), dim=0)
    return ((three - low) / (high - low)).clamp(0, 1).T.unflatten(1, picture.shape[1:]).float().cpu()


def _less_means(vectors: Tensor, channels: int) -> Tensor:
    split = vectors.unflatten(0, (channels, -1))
    return (split - split.mean(dim=1, keepdim=True)).flatten(0, 1)
