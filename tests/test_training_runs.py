"""The trained cells: what their configurations say, and that a run is what its configuration says."""

import dataclasses
import math
from collections import Counter

import pytest
import torch
from tiny_images import smooth_image
from torch import Tensor

from ntkbook import experiments, paper, training_studies
from ntkbook.adam import Adam
from ntkbook.checkpoints import Checkpoint
from ntkbook.configuration import Configuration
from ntkbook.experiments import problem
from ntkbook.image_files import encode
from ntkbook.images import SET9, centre, psnr, uncentre
from ntkbook.limits import ARCHITECTURES
from ntkbook.networks import build
from ntkbook.problems import LARGEST_ITERATION, PER_DECADE, network_input
from ntkbook.resumable import BETWEEN_STOPS
from ntkbook.runner import perform, run
from ntkbook.stopping import iteration_grid
from ntkbook.tangent import EmpiricalKernel
from ntkbook.training import GradientDescent, Stopping
from ntkbook.training_runs import (
    CELLS,
    GRID,
    LEARNING_RATE_GRID,
    LEARNING_RATES,
    LONG_PATIENCE,
    PICTURED,
    TABLE1,
    TABLE4,
    Cell,
    cell_of,
    prediction,
    trained,
    trainer,
)

CPU = torch.device("cpu")
CLEAN = smooth_image(3, 20, 24)
BY_NAME = {cell.name: cell for cell in CELLS}
ADAM, DESCENT = BY_NAME["vanilla/adam/image"], BY_NAME["vanilla/gd/image"]


@pytest.fixture(autouse=True)
def synthetic_image(monkeypatch):
    """Every image is the same small synthetic one."""
    monkeypatch.setattr(experiments, "load", lambda name, dtype: CLEAN.to(dtype))


def small(cell: str, precision: str = "float32", **settings) -> Configuration:
    chosen = {"crop": 16, "channels": 4, "largest_iteration": 60, "products": precision, "patience": 1000}
    found = trained("house", 0, BY_NAME[cell], **chosen | settings)
    return dataclasses.replace(found, precision=precision)


def start_of(configuration: Configuration) -> tuple[Tensor, Tensor, torch.nn.Sequential]:
    """Input, target and network, put together here."""
    given, settings = problem(configuration, CPU), configuration.settings
    network = build(ARCHITECTURES[configuration.architecture], settings["channels"], seed=settings["weights_seed"])
    return network_input(configuration, given.noisy), centre(given.noisy), network.to(given.noisy)


# Configurations


def test_the_cells_are_the_trained_ones_of_table_1():
    assert len(set(CELLS)) == len(CELLS)
    assert set(CELLS) == {key for key in paper.TABLE1 if key[1] != "nystrom"}
    assert all(name == f"{c.architecture}/{c.optimiser}/{c.input}" for name, c in BY_NAME.items())


def test_tables_1_and_4_have_every_image_with_three_seeds():
    keys = [(cell_of(c), c.image, c.noise_seed, c.sigma) for c in TABLE1]
    assert Counter(keys) == {(cell, image, seed, 25): 1 for cell in CELLS for image in SET9 for seed in range(3)}
    keys = [(cell_of(c), c.image, c.noise_seed, c.sigma) for c in TABLE4]
    cells = {key[1:] for key in paper.TABLE4 if key[2] != "nystrom"}
    assert Counter(keys) == {
        (cell, image, seed, sigma): 1 for cell in cells for image in SET9 for seed in range(3) for sigma in (5, 100)
    }
    for plan in (TABLE1, TABLE4):
        assert [c.noise_seed for c in plan] == sorted(c.noise_seed for c in plan)  # whole tables first
        assert all("crop" not in c.settings for c in plan)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_configuration_is_the_paper_s_network_with_seeds_of_its_own(cell):
    found = trained("lena", 2, cell, 5)
    assert (found.method, found.image, found.noise_seed, found.sigma) == ("training", "lena", 2, 5)
    assert cell_of(found) == cell
    settings = found.settings
    assert settings["weights_seed"] == 2
    assert settings.get("input_seed") == (1002 if cell.input == "noise" else None)
    assert ("learning_rate" in settings, "gamma" in settings) == ((cell.optimiser == "adam"), (cell.optimiser == "gd"))
    stopping = Stopping(settings["patience"], settings["patience_share"], settings["largest_iteration"])
    assert stopping.last(2000) >= 3000 and stopping.largest >= 10**6  # Section 6
    assert stopping.last(0) >= (LONG_PATIENCE if cell.input == "noise" else 100)


@pytest.mark.parametrize("cell", [c for c in CELLS if c.optimiser == "adam"], ids=lambda cell: cell.name)
def test_the_rate_was_chosen_from_the_grid(cell):
    assert trained("house", 0, cell).settings["learning_rate"] == LEARNING_RATES[cell.architecture, cell.input]
    rates = [c.settings["learning_rate"] for c in LEARNING_RATE_GRID if cell_of(c) == cell]
    assert tuple(rates) == GRID[cell.architecture, cell.input]
    assert rates == sorted(set(rates))
    assert LEARNING_RATES[cell.architecture, cell.input] in rates
    assert trained("house", 0, cell) in LEARNING_RATE_GRID


@pytest.mark.parametrize("variant", ["unet-zeros", "unet-features", "autoencoder-zeros", "vanilla-zeros"])
def test_a_variant_is_trained_as_its_architecture(variant):
    base = Cell(variant.split("-")[0], "adam", "image")
    one, other = trained("house", 0, base), trained("house", 0, base._replace(architecture=variant))
    assert other == dataclasses.replace(one, architecture=variant)
    assert one.key != other.key


def test_settings_can_be_changed():
    found = trained("house", 0, ADAM, crop=64, learning_rate=1.0)
    assert dict(found.settings) == dict(trained("house", 0, ADAM).settings) | {"crop": 64, "learning_rate": 1}


def test_pictures_are_of_runs_of_table_1():
    assert frozenset(TABLE1) >= PICTURED
    assert {cell_of(c) for c in PICTURED} == set(CELLS)
    assert {c.noise_seed for c in PICTURED} == {0}


@pytest.mark.parametrize("name", ["vanilla/gd/image", "autoencoder/gd/noise"])
def test_a_prediction_has_the_network_and_the_input_of_its_run(name):
    one = trained("f16", 1, BY_NAME[name], 5, crop=32, channels=7)
    found = prediction(one, 50)
    assert found.method == "lazy"
    kept = {"crop": 32, "channels": 7, "weights_seed": 1} | ({"input_seed": 1001} if "noise" in name else {})
    assert dict(found.settings) == kept | {"lanczos_steps": 50, "largest_iteration": LARGEST_ITERATION}
    assert dataclasses.replace(found, method="training", settings=one.settings) == one


@pytest.mark.parametrize("plan", ["SMALL", "PREDICTED", "DEPTHS"])
def test_each_run_of_descent_in_the_studies_has_its_prediction(plan):
    runs = getattr(training_studies, plan)
    descents = [c for c in runs if c.method == "training" and cell_of(c).optimiser == "gd"]
    assert descents
    assert {c.key for c in map(prediction, descents)} == {c.key for c in runs if c.method == "lazy"}


# What is trained


@pytest.mark.parametrize("name", ["vanilla/adam/image", "autoencoder/gd/noise", "unet/adam/noise"])
def test_the_trainer_has_the_paper_s_network_and_what_its_cell_says(name):
    configuration = dataclasses.replace(trained("house", 1, BY_NAME[name]), settings=trained(
        "house", 1, BY_NAME[name], crop=16).settings)  # fmt: skip
    found = trainer(configuration, problem(configuration, CPU))
    x, target, network = start_of(configuration)
    weights = list(found.network.parameters())
    assert sum(weight.numel() for weight in weights) == paper.TRAINABLE_WEIGHTS[configuration.architecture]
    assert all(map(torch.equal, weights, network.parameters()))
    assert {weight.dtype for weight in weights} == {torch.float32}
    rate = configuration.settings.get("learning_rate")
    assert found.rule == (GradientDescent(1) if rate is None else Adam(rate, (0.9, 0.99)))
    assert torch.equal(found.target, target)
    found.advance(1)
    with torch.no_grad():
        first = network(x[None])[0]
    expected = torch.zeros_like(first) if configuration.input == "image" else first  # Section 6
    assert (found.best_output - expected).norm() <= 0.02 * first.norm()  # products are short
    assert found.best_output.any() == (configuration.input == "noise")


# Runs


@pytest.mark.parametrize("name", ["vanilla/adam/image", "unet/adam/noise"])
def test_a_run_with_adam_is_the_plain_loop(name):
    configuration = small(name, "float64")
    record, clean = run(configuration, CPU), problem(configuration, CPU).clean
    x, target, network = start_of(configuration)
    optimiser = torch.optim.Adam(network.parameters(), configuration.settings["learning_rate"], (0.9, 0.99))
    first = network(x[None])[0].detach() if configuration.input == "image" else 0
    expected = []
    for _ in range(61):
        output = network(x[None])[0] - first
        expected.append(psnr(uncentre(output.detach()), clean))
        optimiser.zero_grad()
        (0.5 * (output - target).square().sum()).backward()
        optimiser.step()
    assert record.curve == pytest.approx({t: expected[t] for t in iteration_grid(60, PER_DECADE)}, abs=1e-5)
    assert record.best_iteration == max(range(61), key=expected.__getitem__)
    assert record.best_psnr == pytest.approx(max(expected), abs=1e-5)
    assert record.outcome["iterations"] == 61
    assert record.outcome["iterations_not_finite"] == 0


def test_a_run_of_descent_says_its_eigenvalues_and_how_far_it_went():
    configuration = small("vanilla/gd/noise", "float64", gamma=0.5, largest_iteration=9)
    outcome = run(configuration, CPU).outcome
    x, target, network = start_of(configuration)
    kernel = EmpiricalKernel(network, x)
    assert outcome["largest_eigenvalue"] == outcome["largest_eigenvalue_last"]
    assert outcome["largest_eigenvalue"] == pytest.approx(kernel.largest_eigenvalue(1e-8), rel=3e-2)
    assert outcome["travelled"] == pytest.approx(10 * 0.5 / outcome["largest_eigenvalue"])
    start = [weight.detach().clone() for weight in network.parameters()]
    for _ in range(outcome["weights_at"]):
        network.zero_grad()
        (0.5 * (network(x[None])[0] - target).square().sum()).backward()
        with torch.no_grad():
            for weight in network.parameters():
                weight -= 0.5 / outcome["largest_eigenvalue"] * weight.grad
    assert outcome["weights_at"] == 9
    for layer, (new, old) in enumerate(zip(network.parameters(), start, strict=True), start=1):
        assert outcome[f"l2_{layer}"] == pytest.approx((new - old).norm().item(), rel=1e-6)
        assert outcome[f"max_{layer}"] == pytest.approx((new - old).abs().max().item(), rel=1e-6)
    later = run(small("vanilla/gd/noise", "float64", largest_iteration=30), CPU).outcome
    assert later["largest_eigenvalue"] == outcome["largest_eigenvalue"] != later["largest_eigenvalue_last"]


@pytest.mark.parametrize("changes", [{"patience": 15, "patience_share": 0}, {"patience": 0}])
def test_a_run_ends_when_its_rule_says_so(changes):
    """At the next look at the rule."""
    record = run(small("vanilla/adam/image", largest_iteration=400, learning_rate=3e-2, **changes), CPU)
    settings = record.configuration.settings
    last = Stopping(settings["patience"], settings["patience_share"], 400).last(record.best_iteration)
    assert last < record.outcome["iterations"] <= last + BETWEEN_STOPS
    assert record.outcome["iterations"] % BETWEEN_STOPS == 0
    assert max(record.curve) < record.outcome["iterations"] < 400
    assert record.best_psnr >= max(record.curve.values())


@pytest.mark.parametrize("largest", [1, 19, 20, 41])
def test_the_largest_iteration_is_the_last(largest):
    record = run(small("vanilla/adam/image", largest_iteration=largest), CPU)
    assert record.outcome["iterations"] == largest + 1
    assert tuple(record.curve) == iteration_grid(largest, PER_DECADE)


def test_short_products_change_little():
    one, other = (run(small("vanilla/adam/image", products=products), CPU) for products in ("float32", "bfloat16"))
    assert one.curve != other.curve
    assert other.curve == pytest.approx(one.curve, abs=0.1)


def test_each_seed_changes_the_run():
    configuration = small("vanilla/adam/noise", largest_iteration=5)
    curves = [run(configuration, CPU).curve]
    for changes in ({"weights_seed": 9}, {"input_seed": 9}):
        curves.append(run(small("vanilla/adam/noise", largest_iteration=5, **changes), CPU).curve)
    curves.append(run(dataclasses.replace(configuration, noise_seed=9), CPU).curve)
    assert len({tuple(curve.items()) for curve in curves}) == 4
    assert run(configuration, CPU).curve == curves[0]


@pytest.mark.parametrize("name", ["vanilla/adam/image", "vanilla/adam/noise"])
def test_the_picture_is_the_best_output(monkeypatch, name):
    configuration = small(name, learning_rate=1e-2)
    assert perform(configuration, CPU, Checkpoint()).picture is None
    monkeypatch.setattr("ntkbook.training_runs.PICTURED", frozenset([configuration]))
    monkeypatch.setattr("ntkbook.training_runs.PICTURE_SIDE", 10)
    record, picture = perform(configuration, CPU, Checkpoint())
    found = trainer(configuration, problem(configuration, CPU))
    found.advance(61)
    assert found.best == (record.best_iteration, record.best_psnr)
    assert picture == encode(uncentre(found.best_output)[:, 3:13, 3:13])


# What the network is given


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_input_is_the_centred_image_or_noise_of_its_shape(dtype):
    noisy = smooth_image(3, 40, 50).to(dtype)
    assert torch.equal(network_input(trained("house", 0, ADAM), noisy), noisy - 0.5)
    configuration = trained("house", 3, BY_NAME["vanilla/adam/noise"])
    noise = network_input(configuration, noisy)
    assert (noise.shape, noise.dtype) == (noisy.shape, dtype)
    assert torch.equal(noise, network_input(configuration, 1 - noisy))  # nothing of the image is in it
    assert abs(noise.mean()) < 4 / math.sqrt(noise.numel())
    assert noise.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / noise.numel()))
    assert not torch.equal(noise, network_input(trained("house", 4, BY_NAME["vanilla/adam/noise"]), noisy))
