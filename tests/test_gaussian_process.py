"""Prior, posterior and evidence: against the joint Gaussian, other routes of linear algebra, SciPy, and draws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from tiny_images import random_image

from ntkbook.checks import expectation
from ntkbook.gaussian_process import log_evidence, posterior, prior_draws
from ntkbook.images import to_matrix
from ntkbook.kernels import infinite_width
from ntkbook.layers import vanilla

NOISE = 0.1
REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=40)


def random_prior(pixels: int, rank: int, seed: int) -> torch.Tensor:
    """Positive semidefinite, of the given rank."""
    factor = torch.from_numpy(np.random.default_rng(seed).standard_normal((pixels, rank)))
    return factor @ factor.T / rank


def random_noisy(pixels: int, channels: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1000 + seed).standard_normal((pixels, channels)))


def conditioned_pixel_by_pixel(prior: torch.Tensor, noisy: torch.Tensor, noise_std: float) -> tuple:
    """Bayes' rule one observation at a time, in scalars: no inverse of any matrix."""
    mean, covariance = np.zeros(tuple(noisy.shape)), prior.numpy().copy()
    for pixel, values in enumerate(noisy.numpy()):
        gain = covariance[:, pixel] / (covariance[pixel, pixel] + noise_std**2)
        mean = mean + np.outer(gain, values - mean[pixel])
        covariance = covariance - np.outer(gain, covariance[pixel])
    return mean, covariance


sizes = st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
levels = st.floats(0.05, 5)


@REPRODUCIBLE
@given(sizes, levels)
def test_posterior_is_bayes_rule_one_pixel_at_a_time(size, noise_std):
    pixels, rank, channels, seed = size
    prior, noisy = random_prior(pixels, rank, seed), random_noisy(pixels, channels, seed)
    found = posterior(prior, noisy, noise_std)
    mean, covariance = conditioned_pixel_by_pixel(prior, noisy, noise_std)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-8, atol=1e-9)


def test_posterior_has_the_form_with_precisions_where_there_is_an_inverse():
    prior, noisy = random_prior(6, 12, 3), random_noisy(6, 2, 3)
    found, precision = posterior(prior, noisy, NOISE), np.linalg.inv(prior.numpy())
    mean = np.linalg.solve(np.eye(6) + NOISE**2 * precision, noisy.numpy())
    np.testing.assert_allclose(found.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(np.eye(6) / NOISE**2 + precision), rtol=1e-8, atol=1e-12)


def test_posterior_of_a_singular_prior_stays_in_its_range():
    prior, noisy = random_prior(8, 2, 5), random_noisy(8, 3, 5)
    found = posterior(prior, noisy, NOISE)
    outside = torch.linalg.eigh(prior).eigenvectors[:, :6]  # eigenvalue 0
    assert (outside.T @ found.mean).abs().max() < 1e-12
    assert (outside.T @ found.covariance).abs().max() < 1e-12
    assert torch.linalg.matrix_rank(found.covariance, atol=1e-9) == 2


def test_zero_prior_knows_the_answer():
    found = posterior(torch.zeros(4, 4, dtype=torch.float64), random_noisy(4, 1, 0), NOISE)
    assert found.mean.abs().max() == 0
    assert found.covariance.abs().max() == 0


def test_posterior_shrinks_each_eigenvector():
    prior, noisy = random_prior(7, 20, 8), random_noisy(7, 2, 8)
    values, vectors = torch.linalg.eigh(prior)
    share = values / (values + NOISE**2)
    found = posterior(prior, noisy, NOISE)
    torch.testing.assert_close(vectors.T @ found.mean, share[:, None] * (vectors.T @ noisy))
    torch.testing.assert_close(vectors.T @ found.covariance @ vectors, torch.diag(share * NOISE**2))


def test_truth_is_covered_when_it_comes_from_the_prior():
    """Draw image and noise together: the error has the posterior's covariance and knows nothing of the noisy image."""
    prior = random_prior(4, 9, 2)
    clean = prior_draws(prior, 600_000, seed=1).T
    noisy = clean + NOISE * torch.from_numpy(np.random.default_rng(2).standard_normal(tuple(clean.shape)))
    found = posterior(prior, noisy, NOISE)
    error = (clean - found.mean).T.unflatten(0, (1500, 400))
    expectation("covariance of the error", error.mT @ error / 400, found.covariance)
    together = error.mT @ noisy.T.unflatten(0, (1500, 400)) / 400
    scale = math.sqrt(found.covariance.trace().item() * prior.trace().item()) / 4
    expectation("error and noisy image", together, torch.zeros(4, 4), scale=scale)


def test_draws_have_the_covariance_of_a_network():
    """The prior of a small network on an image, with a little white noise so that no direction dominates."""
    x = random_image(3, 3, 3, seed=4)
    prior = infinite_width(vanilla(3, padding="circular"), x).nngp + 0.05 * torch.eye(9, dtype=torch.float64)
    drawn = prior_draws(prior, 600_000, seed=7).unflatten(0, (2000, 300))
    expectation("covariance", drawn.mT @ drawn / 300, prior)
    expectation("mean", drawn.mean(1), torch.zeros(9), scale=prior.diagonal().mean().sqrt().item())


def test_draws_of_a_singular_prior_stay_in_its_range():
    constant = torch.full((9, 9), 4.0, dtype=torch.float64)
    drawn = prior_draws(constant, 50, seed=0)
    assert drawn.shape == (50, 9)
    torch.testing.assert_close(drawn, drawn[:, :1].expand(50, 9), atol=1e-6, rtol=0)
    assert drawn[:, 0].std() > 1


def test_draws_depend_on_the_seed_alone():
    prior = random_prior(5, 5, 1)
    assert torch.equal(prior_draws(prior, 3, seed=2), prior_draws(prior, 3, seed=2))
    assert not torch.equal(prior_draws(prior, 3, seed=2), prior_draws(prior, 3, seed=3))
    assert prior_draws(prior.float(), 2, seed=0).dtype == torch.float32


@REPRODUCIBLE
@given(sizes, levels)
def test_evidence_is_the_density_of_the_noisy_image(size, noise_std):
    pixels, rank, channels, seed = size
    prior, noisy = random_prior(pixels, rank, seed), random_noisy(pixels, channels, seed)
    covariance = prior.numpy() + noise_std**2 * np.eye(pixels)
    expected = np.sum(multivariate_normal(np.zeros(pixels), covariance).logpdf(noisy.numpy().T))
    assert log_evidence(prior, noisy, noise_std) == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_evidence_is_largest_at_the_scale_that_made_the_image():
    """On average over images, by Gibbs' inequality; here one large image is average enough."""
    prior = random_prior(200, 400, 6)
    noisy = 3 * prior_draws(prior, 20, seed=3).T
    noisy = noisy + NOISE * torch.from_numpy(np.random.default_rng(4).standard_normal((200, 20)))
    scales = (1.0, 4.0, 9.0, 20.0, 80.0)
    found = [log_evidence(scale * prior, noisy, NOISE) for scale in scales]
    assert scales[int(np.argmax(found))] == 9.0


def test_a_network_that_saw_noise_gives_a_flatter_picture():
    """Two numbers, so a constant part and a rest, with the shares that the eigenvalues say."""
    matrix = torch.full((16, 16), 0.3, dtype=torch.float64).fill_diagonal_(1)
    noisy = to_matrix(random_image(3, 4, 4, seed=1))
    mean = noisy.mean(0, keepdim=True)
    constant, rest = (value / (value + 0.5**2) for value in (0.7 + 0.3 * 16, 0.7))
    torch.testing.assert_close(posterior(matrix, noisy, 0.5).mean, constant * mean + rest * (noisy - mean))


@pytest.mark.parametrize("noise_std", [0.0, -0.1, math.inf, math.nan])
@pytest.mark.parametrize("function", [posterior, log_evidence])
def test_noise_that_is_not_positive_is_refused(function, noise_std):
    with pytest.raises(ValueError, match="The noise must be above 0, not"):
        function(random_prior(3, 3, 0), random_noisy(3, 1, 0), noise_std)
