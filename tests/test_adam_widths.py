"""Adam at many widths: the bounds against Adam, and the numbers of a record against a computation of their own."""

import math

import numpy as np
import pytest
import torch
from tiny_images import smooth_image

from ntkbook import adam_widths, checks, experiments
from ntkbook.adam import Adam, Averages, metric
from ntkbook.adam_widths import (
    CROP_WIDTHS,
    EARLY,
    LOOKED_AT,
    PLAN,
    RULES,
    SEEDS,
    WIDTHS,
    largest_step,
    over_hidden,
    planned,
    reach,
    run,
)
from ntkbook.checkpoints import Checkpoint
from ntkbook.configuration import Configuration
from ntkbook.experiments import problem
from ntkbook.images import centre, psnr, uncentre
from ntkbook.layers import AUTOENCODER
from ntkbook.networks import build
from ntkbook.problems import network_input
from ntkbook.training_runs import trained, trainer
from ntkbook.training_studies import small

CPU = torch.device("cpu")


def walk(gradients: np.ndarray, rule: Adam) -> np.ndarray:
    """Where Adam takes one weight that starts at 0 and meets these gradients, after each step."""
    memory, at, path = Averages.of_nothing({"w": torch.zeros(1).double()}), 0.0, []
    for gradient in gradients:
        memory = memory.after({"w": torch.tensor([gradient]).double()}, rule)
        at -= rule.learning_rate * (metric(memory, rule)["w"] * memory.first["w"]).item()
        path.append(at)
    return np.array(path)


def tiny(rule: str = "adam", channels: int = 8, largest: int = 25, **settings: object) -> Configuration:
    """A run on 16x16 pixels, short, with products as exact as the weights."""
    planned_run = planned(rule, channels, 3)
    chosen = {"crop": 16, "largest_iteration": largest, "products": "float32"} | settings
    return Configuration(
        "adam-width", "house", 3, 25, "autoencoder", "noise", "float32", {**planned_run.settings, **chosen}
    )


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Every image is one small synthetic image."""
    monkeypatch.setattr(experiments, "load", lambda name, dtype: smooth_image(3, 18, 20).to(dtype))


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.9)])
@pytest.mark.parametrize("t", [1, 2, 7, 40])
def test_growing_gradients_reach_the_largest_step(betas, t):
    rule = Adam(0.1, betas, epsilon=1e-300)
    path = walk((betas[1] / betas[0]) ** np.arange(t), rule)
    last = abs(path[-1] - (path[-2] if t > 1 else 0))
    checks.identity("largest step", largest_step(rule, t), last)


def test_no_gradients_go_beyond_the_reach():
    rule = Adam(0.01)
    bound = np.array([reach(rule, t) for t in range(1, 41)])
    for seed in range(30):
        gradients = np.random.default_rng(seed).standard_normal(40) * np.random.default_rng(seed).exponential(1, 40)
        assert (abs(walk(gradients, rule)) <= bound * (1 + 1e-12)).all()
    constant = abs(walk(np.ones(40), rule))
    checks.identity("constant gradients", constant, 0.01 * np.arange(1, 41), rtol=1e-6)


def test_the_reach_is_the_sum_of_steps_and_proportional_to_the_rate():
    rule = Adam(0.01)
    assert reach(rule, 0) == 0
    assert reach(rule, 1) == pytest.approx(0.01)
    assert reach(rule, 5) == pytest.approx(sum(largest_step(rule, t) for t in (1, 2, 3, 4, 5)))
    assert reach(Adam(0.02), 9) == pytest.approx(2 * reach(rule, 9))


@pytest.mark.parametrize(("t", "betas"), [(0, (0.9, 0.99)), (3, (0.9, 0.8)), (3, (0.0, 0.9))])
def test_bounds_that_do_not_exist_are_refused(t, betas):
    with pytest.raises(ValueError, match="bound needs a step"):
        largest_step(Adam(0.01, betas), t)


def test_the_average_leaves_out_the_first_and_the_last_layer():
    layers = [{"l2": value, "max": 10 * value} for value in (100.0, 1.0, 2.0, 6.0, 100.0)]
    assert over_hidden(layers) == {"l2": 3.0, "max": 30.0}
    with pytest.raises(ValueError, match="none between"):
        over_hidden(layers[:2])


def by_hand(configuration: Configuration, iterations: int):
    """Output and weights before each step, by PyTorch alone."""
    settings, given = configuration.settings, problem(configuration, CPU)
    x, y = network_input(configuration, given.noisy), centre(given.noisy)
    network = build(AUTOENCODER, settings["channels"], seed=settings["weights_seed"])
    optimiser = torch.optim.Adam(network.parameters(), settings["learning_rate"], (0.9, 0.99))
    for _ in range(iterations):
        output = network(x[None])[0]
        weights = [p.detach().clone() for p in network.parameters()]
        yield psnr(uncentre(output.detach()), given.clean), weights
        optimiser.zero_grad()
        ((output - y).square().sum() / 2).backward()
        optimiser.step()


def test_numbers_of_a_run_are_what_they_say():
    configuration = tiny(learning_rate=3e-3, largest_iteration=12)
    found = run(configuration, problem(configuration, CPU), Checkpoint())
    path = list(by_hand(configuration, 13))
    assert set(found.curve) == {0, 1, 10}
    for t, value in found.curve.items():
        assert value == pytest.approx(path[t][0], abs=1e-2)
    best = max(found.curve, key=found.curve.get)
    for t, suffix in ((best, ""), (10, "_end"), (1, "_at_1"), (10, "_at_10")):
        changes = [(new - old).double() for new, old in zip(path[t][1], path[0][1], strict=True)]
        for layer, change in enumerate(changes, start=1):
            assert found.numbers[f"l2_{layer}{suffix}"] == pytest.approx(change.norm().item(), rel=2e-2)
            rms = change.square().mean().sqrt().item()
            assert found.numbers[f"rms_{layer}{suffix}"] == pytest.approx(rms, rel=2e-2)
            assert found.numbers[f"max_{layer}{suffix}"] == pytest.approx(change.abs().max().item(), rel=2e-2)
        hidden = np.mean([change.norm().item() for change in changes[1:8]])
        assert found.numbers[f"l2_hidden{suffix}"] == pytest.approx(hidden, rel=2e-2)
        whole = math.sqrt(sum(change.square().sum().item() for change in changes))
        assert found.numbers[f"l2_all{suffix}"] == pytest.approx(whole, rel=2e-2)
    assert "max_hidden_at_100" not in found.numbers
    assert found.numbers["iterations"] == 13


def test_the_first_step_of_adam_is_the_rate_and_of_descent_its_gradient():
    for channels in (8, 16):
        configuration = tiny("adam over c", channels, largest=1)
        numbers = run(configuration, problem(configuration, CPU), Checkpoint()).numbers
        assert numbers["max_hidden_at_1"] == pytest.approx(adam_widths.CROP_RATE * 128 / channels, rel=1e-3)
    configuration = tiny("gd", largest=1)
    given = problem(configuration, CPU)
    numbers, training = run(configuration, given, Checkpoint()).numbers, trainer(configuration, given)
    training.advance(1)
    gradient = list(training.network.parameters())[1].grad
    assert numbers["l2_2_at_1"] == pytest.approx(training.travelled * gradient.norm().item(), rel=1e-2)


def test_a_run_ends_by_its_stopping_rule_and_looks_at_early_steps():
    configuration = tiny(largest=400, patience=20, patience_share=0, learning_rate=0.03)
    found = run(configuration, problem(configuration, CPU), Checkpoint())
    best = max(found.curve, key=found.curve.get)
    assert found.numbers["iterations"] > best + 20
    assert found.numbers["iterations"] <= best + 20 + 1 + LOOKED_AT
    assert set(found.curve) == {1, *range(0, int(found.numbers["iterations"]), LOOKED_AT)}


def test_a_run_that_is_lost_has_finite_numbers_only():
    configuration = tiny(learning_rate=1e30, largest=15)
    found = run(configuration, problem(configuration, CPU), Checkpoint())
    assert all(math.isfinite(value) for value in found.numbers.values())
    assert all(math.isfinite(value) for value in found.curve.values())


@pytest.mark.parametrize("crop", [True, False])
def test_the_rules_differ_in_the_learning_rate_alone(crop):
    for channels in WIDTHS:
        gd, constant, scaled = (planned(rule, channels, 2, crop).settings for rule in RULES)
        assert gd["gamma"] == 1
        assert scaled["learning_rate"] * channels == constant["learning_rate"] * 128
        assert {**constant, "learning_rate": scaled["learning_rate"]} == scaled
        assert constant["learning_rate"] == planned("adam", 128, 2, crop).settings["learning_rate"]
        assert {**gd, "optimiser": "adam", "learning_rate": constant["learning_rate"]} == {**constant, "gamma": 1}
    assert planned("adam", 128, 0, crop) == planned("adam over c", 128, 0, crop)
    base = (small if crop else trained)("house", 2, adam_widths.Cell("autoencoder", "adam", "noise"))
    unlike = {"channels", "largest_iteration", "learning_rate"} if crop else {"channels"}
    kept = {name: value for name, value in base.settings.items() if name not in unlike}
    assert kept.items() <= planned("adam", 64, 2, crop).settings.items()


def test_the_plan_has_three_rules_and_ten_seeds_at_each_width():
    wanted = {planned(rule, c, seed) for rule in RULES for c in CROP_WIDTHS for seed in range(SEEDS)}
    wanted |= {planned(rule, c, seed, crop=False) for rule in RULES for c in WIDTHS for seed in range(SEEDS)}
    assert {each.key for each in wanted} == {each.key for each in PLAN}
    assert len(PLAN) == SEEDS * (3 * len(CROP_WIDTHS) - 1 + 3 * len(WIDTHS) - 1)
    assert all(each.settings["largest_iteration"] <= 1500 for each in PLAN if "crop" in each.settings)
    assert max(EARLY) <= adam_widths.CROP_LARGEST
