r"""The output of a wide network at initialisation as a prior on images, and the posterior it gives: Appendix B.1."""

import math

import numpy as np
import torch
from torch import Tensor

from ntkbook.dynamics import Gaussian


def prior_draws(prior: Tensor, count: int, seed: int) -> Tensor:
    r"""Images drawn from :math:`\mathcal N(0, \Sigma_z)`, :eq:`eq-ntk-42`.

    Args:
        prior: :math:`\Sigma_z`, positive semidefinite, shape (pixels, pixels).
        count: how many.
        seed: of NumPy's generator, the same on every device.

    Returns:
        Shape (count, pixels).
    """
    values, vectors = torch.linalg.eigh(prior)
    normal = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, len(prior)))).to(prior)
    return normal * values.clamp_min(0).sqrt() @ vectors.T


def posterior(prior: Tensor, noisy: Tensor, noise_std: float) -> Gaussian:
    r"""Distribution of the clean image given the noisy one, the right form of :eq:`eq-ntk-43`.

    Mean :math:`\Sigma_z(\Sigma_z + \sigma_n^2I)^{-1}y`, covariance
    :math:`\Sigma_z - \Sigma_z(\Sigma_z + \sigma_n^2I)^{-1}\Sigma_z`. Written so, they need no inverse of the prior,
    which may be singular.

    Args:
        prior: :math:`\Sigma_z`, shape (pixels, pixels).
        noisy: y, shape (pixels, channels).
        noise_std: :math:`\sigma_n` on the scale of ``noisy``, above 0.

    Raises:
        ValueError: the noise is not above 0.
    """
    solved = torch.cholesky_solve(torch.cat([noisy, prior], dim=1), _factor(prior, noise_std))
    channels = noisy.shape[1]
    return Gaussian(prior @ solved[:, :channels], prior - prior @ solved[:, channels:])


def log_evidence(prior: Tensor, noisy: Tensor, noise_std: float) -> float:
    r"""Logarithm of the density of the noisy image under :eq:`eq-ntk-41` and :eq:`eq-ntk-42`.

    Each channel is :math:`y \sim \mathcal N(0, \Sigma_z + \sigma_n^2I)`. Arguments and errors as in :func:`posterior`.
    """
    factor = _factor(prior, noise_std)
    whitened = torch.linalg.solve_triangular(factor, noisy, upper=False)
    pixels, channels = noisy.shape
    determinant = 2 * factor.diagonal().log().sum()
    return -0.5 * (whitened.square().sum() + channels * (determinant + pixels * math.log(2 * math.pi))).item()


def _factor(prior: Tensor, noise_std: float) -> Tensor:
    if not 0 < noise_std < math.inf:
        raise ValueError(f"The noise must be above 0, not {noise_std}.")
    return torch.linalg.cholesky(prior + noise_std**2 * torch.eye(len(prior)).to(prior))
