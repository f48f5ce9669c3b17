"""What the runs of Section 5.2 measure is what the whole kernels of the same training say."""

import copy
import dataclasses

import pytest
import torch

from ntkbook import adaptation_runs
from ntkbook.adam import metric
from ntkbook.adaptation import last_preactivations
from ntkbook.adaptation_runs import (
    ADAPTED,
    FIGURE_5,
    FRESH,
    FROZEN,
    TIMES,
    kernels_of,
    run_adaptation,
    run_features,
    run_frozen,
)
from ntkbook.checkpoints import Checkpoint
from ntkbook.configuration import Configuration
from ntkbook.experiments import problem
from ntkbook.filters import SpectralFilter
from ntkbook.images import add_noise, centre, psnr, uncentre
from ntkbook.problems import network_input
from ntkbook.tangent import EmpiricalKernel, jacobian
from ntkbook.training_runs import cell_of, trainer

CPU = torch.device("cpu")
SIDE = 16


def tiny(plan: tuple[Configuration, ...], optimiser: str, given: str, **changes: object) -> Configuration:
    """The first autoencoder of a plan with this optimiser and input, much smaller and with exact products."""
    found = next(c for c in plan if cell_of(c) == ("autoencoder", optimiser, given) and "crop" in c.settings)
    settings = dict(found.settings) | {"crop": SIDE, "channels": 32, "products": "float32"} | changes
    return dataclasses.replace(found, settings=settings)


@pytest.mark.parametrize(("optimiser", "given"), [("adam", "noise"), ("gd", "image")])
def test_frozen_filters_are_those_of_the_whole_kernels(optimiser, given):
    configuration = tiny(FROZEN, optimiser, given, channels=8, largest_iteration=30, lanczos_steps=100)
    task = problem(configuration, CPU)
    found = run_frozen(configuration, task, Checkpoint())
    assert list(found.curve) == [9, 19, 29, 39]  # candidates are every tenth
    x = network_input(configuration, task.noisy).double()
    training = trainer(configuration, task)
    jacobians = {"start": jacobian(training.network.double(), x)}
    training = trainer(configuration, task)
    training.advance(max(found.curve, key=found.curve.get) + 1)
    jacobians["plain"] = jacobian(copy.deepcopy(training.network).double(), x)
    kernels = {name: sum(J @ J.T for J in each.values()) for name, each in jacobians.items()}
    if optimiser == "adam":
        weighed = {name: each.double().flatten() for name, each in metric(training.averages, training.rule).items()}
        kernels["metric"] = sum((J * weighed[name]) @ J.T for name, J in jacobians["plain"].items())
    again = add_noise(task.clean, configuration.sigma, configuration.noise_seed + FRESH)
    for name, kernel in kernels.items():
        exact = SpectralFilter.from_matrix(kernel).scaled()
        for draw, noisy in {"same": task.noisy, "fresh": again}.items():
            t = found.numbers[f"{name}_{draw}_t"]
            assert t in TIMES
            estimate = exact.apply(centre(noisy).double().reshape(-1, 1), t).view_as(noisy)
            expected = psnr(uncentre(estimate), task.clean.double())
            assert found.numbers[f"{name}_{draw}_psnr"] == pytest.approx(expected, abs=0.05)
    assert found.numbers["iterations"] == 40
    assert any(name.startswith("metric") for name in found.numbers) == (optimiser == "adam")


def test_the_metric_of_a_trainer_is_in_its_kernel():
    configuration = tiny(FROZEN, "adam", "noise")
    task = problem(configuration, CPU)
    training, x = trainer(configuration, task), network_input(configuration, task.noisy)
    training.advance(3)
    by_hand = EmpiricalKernel(training.network, x, metric(training.averages, training.rule))
    v = centre(task.noisy)
    torch.testing.assert_close(kernels_of(training, x)["metric"].product(v), by_hand.product(v))
    assert kernels_of(training, x.double())["plain"].output.dtype == torch.float64
    assert training.network[0].weight.dtype == torch.float32  # the trainer's own stay as they are


def test_the_kernel_has_not_moved_before_training_and_has_after():
    configuration = tiny(ADAPTED, "adam", "noise", channels=4, times=(0, 3), lanczos_steps=40)
    found = run_adaptation(configuration, problem(configuration, CPU), Checkpoint())
    assert found.numbers["change_plain_0"] == 0
    assert found.numbers["alignment_start_plain_0"] == pytest.approx(1)
    assert found.numbers["change_plain_3"] > 0.01
    assert found.numbers["alignment_start_metric_3"] < 1
    assert not any(name.endswith("metric_0") for name in found.numbers)
    for name, value in found.numbers.items():
        if name.startswith(("energy", "alignment")):
            assert 0 <= value <= 1 + 1e-6, name
    assert found.numbers["energy_3_plain_3"] <= found.numbers["energy_30_plain_3"]
    assert found.numbers["degrees_10_plain_3"] <= found.numbers["degrees_1000_plain_3"] <= 3 * SIDE**2


@pytest.mark.parametrize("optimiser", ["adam", "gd"])
def test_the_picture_has_the_eigenvectors_of_the_last_preactivations(optimiser):
    configuration = tiny(FIGURE_5, optimiser, "noise", largest_iteration=5)
    task = problem(configuration, CPU)
    found = run_features(configuration, task, Checkpoint())
    training = trainer(configuration, task)
    training.advance(5)
    assert found.curve == {5: training.psnr}
    rows = last_preactivations(training.network, network_input(configuration, task.noisy)).flatten(1).double()
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    shares = values.flip(0)[:3] / values.sum()
    assert [found.numbers[f"variance_{k}"] for k in (1, 2, 3)] == pytest.approx(shares.tolist(), rel=1e-6)
    assert found.picture.shape == (3, SIDE, SIDE)
    assert (found.picture.min().item(), found.picture.max().item()) == (0, 1)
    for shown, vector in zip(found.picture.flatten(1), vectors.flip(1).T, strict=False):
        both = torch.stack([shown.double(), vector])
        assert abs(torch.corrcoef(both)[0, 1].item()) > 0.98  # but for the percentiles
        assert torch.corrcoef(torch.stack([shown, task.clean.mean(0).flatten()]))[0, 1] > 0


def test_plans_have_no_settings_that_decide_nothing():
    for plan in (adaptation_runs.ADAPTED, adaptation_runs.FIGURE_5):
        assert not any("patience" in c.settings for c in plan)
    assert {c.settings["largest_iteration"] for c in FIGURE_5} == {500}  # the paper's
    assert all(c.method == "frozen" and "patience" in c.settings for c in FROZEN)
