"""What is measured of a kernel by products is what its whole matrix says."""

import numpy as np
import pytest
import torch
from tiny_images import random_image
from torch import Tensor

from ntkbook import checks
from ntkbook.adaptation import (
    compare,
    covariance_eigenpairs,
    degrees_of_freedom,
    energy,
    inner_products,
    last_preactivations,
    leading_eigenpairs,
)
from ntkbook.layers import AUTOENCODER, vanilla
from ntkbook.networks import build
from ntkbook.tangent import EmpiricalKernel, jacobian

CHANNELS, PIXELS = 3, 16
SIZE = CHANNELS * PIXELS
LIKE = torch.zeros(1, dtype=torch.float64)


def kernel_matrix(seed: int, decay: float = 0.7) -> Tensor:
    """A positive definite one with eigenvalues that decay."""
    factor = torch.from_numpy(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))
    vectors = torch.linalg.qr(factor).Q
    return vectors * decay ** torch.arange(SIZE) @ vectors.T


def centring() -> Tensor:
    return torch.block_diag(*[torch.eye(PIXELS) - 1 / PIXELS] * CHANNELS).double()


def test_leading_eigenpairs_are_those_of_the_matrix():
    matrix = kernel_matrix(0)
    values, vectors = torch.linalg.eigh(matrix)
    found = leading_eigenpairs(matrix, SIZE, 4, 40, LIKE)
    checks.identity("eigenvalues", found.values, values[-4:].flip(0), rtol=1e-8)
    overlap = (found.vectors * vectors[:, -4:].flip(1)).sum(0).abs()
    checks.identity("eigenvectors", overlap, torch.ones(4).double(), rtol=1e-8)


def test_leading_eigenpairs_of_a_network_are_those_of_its_jacobian():
    network, x = build(vanilla(3), 5, dtype=torch.float64), random_image(3, 4, 4)
    J = torch.cat(list(jacobian(network, x).values()), dim=1)
    found = leading_eigenpairs(EmpiricalKernel(network, x), SIZE, 3, SIZE, LIKE)
    checks.identity("eigenvalues", found.values, torch.linalg.eigvalsh(J @ J.T)[-3:].flip(0), rtol=1e-8)


@pytest.mark.parametrize(("count", "steps"), [(5, 4), (0, 4), (1, SIZE + 1)])
def test_impossible_numbers_of_eigenpairs_are_refused(count, steps):
    with pytest.raises(ValueError, match=r"products give up to|Lanczos takes between"):
        leading_eigenpairs(kernel_matrix(0), SIZE, count, steps, LIKE)


def test_kernels_that_are_not_finite_are_refused():
    lost = torch.full((SIZE, SIZE), float("nan")).double()
    with pytest.raises(ValueError, match="product with the kernel is not finite"):
        leading_eigenpairs(lost, SIZE, 2, 4, LIKE)
    with pytest.raises(ValueError, match="product with a kernel is not finite"):
        inner_products((lost,), (torch.eye(SIZE)[:, :2].double(),), CHANNELS)


def test_energy_is_the_share_of_the_projection():
    vectors = torch.linalg.qr(random_image(1, SIZE, 5)[0]).Q
    image = random_image(CHANNELS, 4, 4, seed=2)
    literal = [
        (vectors[:, :k] @ vectors[:, :k].T @ image.flatten()).square().sum() / image.square().sum() for k in range(1, 6)
    ]
    checks.identity("energy", energy(vectors, image), torch.stack(literal))
    assert energy(torch.eye(SIZE).double(), image)[-1].item() == pytest.approx(1)
    with pytest.raises(ValueError, match="The image is zero"):
        energy(vectors, torch.zeros(SIZE))


def test_inner_products_are_exact_on_the_basis_and_right_on_average_off_it():
    a, b, cut = kernel_matrix(0), kernel_matrix(1), centring()
    whole = [cut @ each @ cut for each in (a, b)]
    literal = torch.stack([torch.stack([(one * other).sum() for other in whole]) for one in whole])
    checks.identity("all in the basis", inner_products((a, b), (torch.eye(SIZE).double(),), CHANNELS, 1), literal)
    bases = [leading_eigenpairs(each, SIZE, 6, 40, LIKE).vectors for each in whole]
    samples = np.stack([inner_products((a, b), bases, CHANNELS, 2, seed).numpy() for seed in range(200)])
    error = samples.std(axis=0, ddof=1) / 200**0.5
    assert (error < 0.01 * literal.numpy()).all()
    assert (abs(samples.mean(axis=0) - literal.numpy()) < 4 * error).all()


def test_comparisons():
    a, b, cut = kernel_matrix(0), kernel_matrix(1), centring()
    ca, cb = (cut @ each @ cut for each in (a, b))
    found = compare(inner_products((a, b, 3 * b), (torch.eye(SIZE).double(),), CHANNELS), 0, 1)
    checks.identity("change", found.change, ((ca - cb).norm() / cb.norm()).item())
    checks.identity("alignment", found.alignment, ((ca * cb).sum() / ca.norm() / cb.norm()).item())
    same = compare(inner_products((b, b), (torch.eye(SIZE)[:, :2].double(),), CHANNELS), 0, 1)
    assert same.change == 0
    assert same.alignment == pytest.approx(1)
    scaled = compare(inner_products((3 * b, b), (torch.eye(SIZE)[:, :2].double(),), CHANNELS), 0, 1)
    assert scaled == pytest.approx((2, 1))
    constant = torch.block_diag(*[torch.ones(PIXELS, PIXELS)] * CHANNELS).double()
    with pytest.raises(ValueError, match="centred kernel is zero"):
        compare(inner_products((b, 0 * constant), (torch.eye(SIZE)[:, :2].double(),), CHANNELS), 0, 1)


def test_degrees_of_freedom_are_the_trace_of_the_response():
    matrix = kernel_matrix(3, 0.9)
    values = torch.linalg.eigvalsh(matrix)
    response = {t: (1 - (1 - values / values[-1]).clamp(0, 1) ** t).sum().item() for t in (1, 10, 1000)}
    found = degrees_of_freedom(matrix, SIZE, (1, 10, 1000), SIZE, LIKE, probes=400)
    assert found == pytest.approx(response, rel=0.03)
    signs = degrees_of_freedom(torch.eye(SIZE).double(), SIZE, (1,), 2, LIKE, probes=1)
    assert signs == pytest.approx({1: SIZE})


@pytest.mark.parametrize("spec", [vanilla(3, 3), AUTOENCODER], ids=["vanilla", "autoencoder"])
def test_the_last_preactivations_give_the_output(spec):
    network, x = build(spec, 6, dtype=torch.float64), random_image(3, 16, 16)
    found = last_preactivations(network, x)
    assert found.shape == (6, 16, 16)
    with torch.no_grad():
        checks.identity("3", network[-1](found.clamp_min(0)[None]), network(x[None]))


def test_eigenpairs_of_the_covariance_are_those_of_the_matrix():
    rows = random_image(7, 5, 6)
    covariance = rows.flatten(1).T @ rows.flatten(1) / 7
    values, vectors = torch.linalg.eigh(covariance)
    found = covariance_eigenpairs(rows, 3)
    checks.identity("eigenvalues", found.values, values[-3:].flip(0))
    checks.identity("eigenvectors", (found.vectors * vectors[:, -3:].flip(1)).sum(0).abs(), torch.ones(3).double())
