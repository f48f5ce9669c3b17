"""Runs at many widths: the numbers of a record against a computation of their own."""

import copy
from collections import Counter
from itertools import pairwise

import pytest
import torch
from tiny_images import random_image, smooth_image
from torch import Tensor, nn

from ntkbook import experiments, widths
from ntkbook.experiments import problem
from ntkbook.filters import twicing
from ntkbook.images import centre, psnr, to_image, to_matrix, uncentre
from ntkbook.kernels import infinite_width
from ntkbook.layers import vanilla
from ntkbook.networks import build
from ntkbook.runner import run
from ntkbook.tangent import EmpiricalKernel
from ntkbook.widths import PLAN, TIMES, distance, planned, twicing_by_products, twicing_in_the_limit, weight_changes

CPU = torch.device("cpu")
SPEC = vanilla(3, 3)


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Every image is one small synthetic image, and the network has two hidden layers."""
    monkeypatch.setattr(experiments, "load", lambda name, dtype: smooth_image(3, 12, 14).to(dtype))
    monkeypatch.setattr(widths, "ARCHITECTURES", {"vanilla-4x3": SPEC})


def own_matrix(network: nn.Module, x: Tensor) -> Tensor:
    """The whole tangent kernel of all outputs, from the gradients of single outputs."""
    flat = network(x[None])[0].flatten()
    rows = []
    for value in flat:
        gradients = torch.autograd.grad(value, list(network.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def trained_by_hand(network: nn.Module, x: Tensor, step: float, iterations: int) -> tuple[Tensor, list[Tensor]]:
    """Output less the first one, and the weights, after plain steps by autograd."""
    network = copy.deepcopy(network)
    first = network(x[None])[0].detach()
    for _ in range(iterations):
        network.zero_grad()
        (0.5 * (network(x[None])[0] - first - x).square().sum()).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= step * parameter.grad
    return (network(x[None])[0] - first).detach(), [p.detach() for p in network.parameters()]


def test_numbers_of_a_run_are_what_they_say():
    configuration = planned("vanilla-4x3", 6, 12, 3)
    given = problem(configuration, CPU)
    record = run(configuration, CPU)
    numbers, noisy = record.outcome, centre(given.noisy).double()
    network = build(SPEC, 12, seed=3, dtype=torch.float64)
    kernel = own_matrix(network, noisy)
    largest = torch.linalg.eigvalsh(kernel)[-1].item()
    assert numbers["largest_eigenvalue"] == pytest.approx(largest, rel=1e-2)
    step = 1 / numbers["largest_eigenvalue"]  # what the run took
    limit = infinite_width(SPEC, noisy, "standard").ntk
    limit = limit / torch.linalg.eigvalsh(limit)[-1]
    for t in TIMES:
        output, weights = trained_by_hand(network, noisy, step, t)
        assert record.curve[t] == pytest.approx(psnr(uncentre(output), given.clean.double()), abs=1e-2)
        own = twicing(step * kernel, noisy.reshape(-1, 1), t).reshape(noisy.shape)
        of_limit = to_image(twicing(limit, to_matrix(noisy), t), 6, 6)
        for name, estimate in (("own", own), ("limit", of_limit)):
            apart = (output - estimate).norm() / estimate.norm()
            assert numbers[f"{name}_{t}"] == pytest.approx(apart.item(), rel=1e-2)
            assert numbers[f"{name}_largest_{t}"] == pytest.approx((output - estimate).abs().max().item(), rel=1e-2)
            quality = psnr(uncentre(estimate), given.clean.double())
            assert numbers[f"{name}_psnr_{t}"] == pytest.approx(quality, abs=1e-2)
    for layer, (old, new) in enumerate(zip(network.parameters(), weights, strict=True), start=1):
        change = (new - old).detach().flatten()
        assert numbers[f"l2_{layer}"] == pytest.approx(change.square().sum().sqrt().item(), rel=1e-3)
        assert numbers[f"rms_{layer}"] == pytest.approx((change.square().sum() / len(change)).sqrt().item(), rel=1e-3)
        assert numbers[f"max_{layer}"] == pytest.approx(change.abs().max().item(), rel=1e-3)


def test_the_kernel_after_training_is_another():
    numbers = run(planned("vanilla-4x3", 6, 12, 3), CPU).outcome
    assert numbers["largest_eigenvalue_after"] != numbers["largest_eigenvalue"]


def test_wider_is_closer_and_moves_less():
    narrow, wide = (run(planned("vanilla-4x3", 6, c, 1), CPU).outcome for c in (8, 256))
    names = ["own_30", "limit_30", "rms_1", "rms_2", "rms_3", "max_2", "l2_1", "l2_2", "l2_3"]
    for name in names:
        assert wide[name] < narrow[name] / 2


def test_changes_of_weights():
    before = [torch.zeros(2, 2), torch.ones(3)]
    after = [torch.tensor([[3.0, 0.0], [0.0, -4.0]]), torch.ones(3)]
    first, second = weight_changes(before, after)
    assert first == pytest.approx({"l2": 5.0, "rms": 2.5, "max": 4.0})
    assert second == {"l2": 0.0, "rms": 0.0, "max": 0.0}


def test_changes_need_as_many_layers():
    with pytest.raises(ValueError, match="shorter"):
        list(weight_changes([torch.zeros(2)], []))


def test_twicing_by_products_is_twicing():
    x = random_image(3, 5, 6)
    network = build(SPEC, 6, dtype=torch.float64)
    kernel = EmpiricalKernel(network, x)
    matrix = own_matrix(network, x)
    step = 1.5 / torch.linalg.eigvalsh(matrix)[-1].item()
    for t, estimate in zip((0, 1, 4), twicing_by_products(kernel, x, step, (0, 1, 4)), strict=True):
        expected = twicing(step * matrix, x.reshape(-1, 1), t).reshape(x.shape)
        torch.testing.assert_close(estimate, expected, rtol=1e-9, atol=1e-12)


def test_twicing_in_the_limit_has_a_largest_eigenvalue_of_one():
    x = random_image(3, 5, 6)
    matrix = infinite_width(SPEC, x, "standard").ntk
    lead = torch.linalg.eigh(matrix)[1][:, -1]
    (estimate,) = twicing_in_the_limit(SPEC, x, [1])
    torch.testing.assert_close(lead @ to_matrix(estimate), lead @ to_matrix(x))
    single = next(iter(twicing_in_the_limit(SPEC, x.float(), [1])))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), estimate, rtol=1e-5, atol=1e-6)


def test_distance_is_relative_to_the_reference():
    reference = torch.tensor([3.0, 4.0])
    assert distance(reference, reference) == 0
    assert distance(torch.tensor([3.0, 5.0]), reference) == pytest.approx(0.2)


def test_the_plan_has_ten_draws_at_each_width():
    counted = Counter((c.architecture, c.settings["channels"]) for c in PLAN)
    assert set(counted.values()) == {10}
    assert len({c.key for c in PLAN}) == len(PLAN)
    for name in ("vanilla-4x3", "autoencoder"):
        channels = sorted(width for network, width in counted if network == name)
        assert len(channels) >= 4
        assert all(double == 2 * single for single, double in pairwise(channels))
    for configuration in PLAN:
        assert (configuration.method, configuration.image, configuration.noise_seed) == ("width", "house", 0)
        assert tuple(configuration.settings["times"]) == TIMES
