"""The plan of the tables, and runs of it on a small synthetic image."""

import dataclasses
from collections import Counter

import pytest
import torch
from tiny_images import smooth_image

from ntkbook import depth, experiments
from ntkbook.baselines import nlm_fast
from ntkbook.configuration import Configuration
from ntkbook.experiments import METHODS, RESUMABLE, TABLES, nystrom, problem, recipe
from ntkbook.images import OTHERS, SET9, add_noise, constant_image, psnr
from ntkbook.landmarks import Landmarks
from ntkbook.restoration import RECIPES, Recipe, restore
from ntkbook.results import Store
from ntkbook.runner import run
from ntkbook.stopping import PROBE, iteration_grid

CPU = torch.device("cpu")
CLEAN = smooth_image(3, 20, 24)
TINY = Recipe((Landmarks("centres", 16, 5), Landmarks("uniform", 30, 3)), window=12, overlap=4, stages=2)


@pytest.fixture(autouse=True)
def synthetic_image(monkeypatch):
    """Every image is the same small synthetic one."""
    monkeypatch.setattr(experiments, "load", lambda name, dtype: CLEAN.to(dtype))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def tiny(image: str = "house", **changes) -> Configuration:
    """A configuration of the plan with fewer columns, smaller patches and fewer iterations."""
    settings = {"columns": 60, "patch_size": 5, "largest_iteration": 100} | changes
    return nystrom(image, 0, **settings)


def exact(steps: int, precision: str = "float64") -> Configuration:
    settings = {"patch_size": 5, "padding": "reflect", "lanczos_steps": steps, "largest_iteration": 100}
    return Configuration("exact", "house", 0, 25, "vanilla", "image", precision, settings)


def split(*sizes: int) -> Configuration:
    """A run of Figure 6 with a smaller receptive field."""
    return depth.planned("house", sizes, columns=40, largest_iteration=100)


def test_sizes_of_the_plans():
    sizes = {name: len(plan) for name, plan in TABLES.items()}
    assert sizes == {
        "table1": 9 * 3 * 2 + 9 + 9 * 3 * 12,  # images, seeds, inputs; once 2 % of the columns; twelve trained cells
        "table4": 9 * 3 * 2 + 9 * 3 * 2 * 2,  # images, seeds, noise levels; two trained cells
        "table5": 9 * 3 * 2 + 9 + 9 * 3 * 12,
        "baselines": 9 * 3 * 3,
        "columns": 3 * 3 * (2 + 1 + 2),  # images, counts, seeds (a grid has one)
        "exact": 1,
        "recipes": 9 * (3 + 4),  # images; three seeds of one recipe, one of four others
        "held_out": 4 * (1 + 2 + 3),  # the paper's filter, two recipes, the baselines
        "figure6": 9 * 4 + 3 * 4 + 2 * 2,  # images and splits; three further settings of one image, one of two others
        "crops": 3 * (4 + 7) + 4 * 3 + 2 + 3 + 4 + 7,  # limits; widths; other networks, descents, 128x128; 32x32
        "widths": 10 * (5 + 4),  # weights' seeds; widths of the vanilla network and of the autoencoder
        "finite_width": 2 * 3 + 2 * (3 * 6 + 3 + 1 + 3),  # limits; descents and own kernels by side: 64, 128, 256
        "table1_third": 9 * 3 * 6,  # images, seeds, cells trained with Adam
        "learning_rates": 4 + 2 + 5 + 3 + 3 + 3 + 3,  # vanilla, U-Net, autoencoder; image and noise; with small weights
        "predicted": 2 * 6,  # a run and its prediction for each cell of gradient descent
        "small_table1": 9 * (12 + 6),  # images; cells, and predictions of those of gradient descent
        "precision": 2 * (2 * 20 + 3 * 5 + 3),  # types; cells and seeds on a crop; House whole
        "open_choices": 5 * 2 * 3 + 3 + 3 * 3 + 3 * 2,  # variants, rates, two crops and House; vanilla: House alone
        "figure6_descent": 2 * (7 * 3 + 7),  # a run and its prediction; networks and images with 128 channels, with 256
        "figure4": 10 * (3 * 4 - 1) + 10 * (3 * 6 - 1),  # seeds; rules and widths, crop and House; two rules meet once
        "figure5": 4 * (1 + 3),  # two optimisers and two inputs; House whole, and a crop with three draws
        "adaptation": 4 * 3,  # the same, on three crops
        "frozen": 3 * 3 * 6 + 4,  # seeds, crops, cells; and House whole
    }


@pytest.mark.parametrize("name", TABLES)
def test_plans_do_not_repeat_and_can_be_run(name):
    plan = TABLES[name]
    assert len({configuration.key for configuration in plan}) == len(plan)
    for configuration in plan:
        assert configuration.method in {*METHODS, *RESUMABLE}
        assert configuration.image in (OTHERS if name == "held_out" else SET9)
        if configuration.method == "baseline":
            assert configuration.settings["denoiser"] in experiments.BASELINES


def test_plan_of_table_1():
    assert Counter(c.method for c in TABLES["table1"]) == {"nystrom": 63, "training": 12 * 9 * 3}
    plan = [c for c in TABLES["table1"] if c.method == "nystrom"]
    assert Counter((c.input, c.settings["columns"]) for c in plan) == {
        ("image", 1000): 27,
        ("noise", 1000): 27,
        ("image", 0.02): 9,
    }
    for configuration in plan:
        assert (configuration.sigma, configuration.settings["patch_size"]) == (25, 11)
        assert ("input_seed" in configuration.settings) == (configuration.input == "noise")
        stopped = configuration.input == "image" and configuration.settings["columns"] == 1000
        assert configuration.settings.get("sure_probe") == (PROBE if stopped else None)
    assert len({c.settings["input_seed"] for c in TABLES["table1"] if c.input == "noise"}) == 3
    assert {c.sigma for c in TABLES["table1"]} == {25}
    assert {c.sigma for c in TABLES["table4"]} == {5, 100}


def test_plan_of_the_recipes():
    for chosen, seeds in ((RECIPES["fast"], range(3)), (RECIPES["fastest"], (0,)), (RECIPES["best"], (0,))):
        assert {recipe(image, seed, chosen) for image in SET9 for seed in seeds} <= set(TABLES["recipes"])
    assert Counter(c.settings["window"] is None for c in TABLES["recipes"]) == {False: 54, True: 9}
    assert Counter(c.settings["stages"] for c in TABLES["recipes"]) == {1: 54, 2: 9}
    assert {c.sigma for c in TABLES["recipes"]} == {25}
    assert not set(OTHERS) & set(SET9)
    methods = {image: Counter(c.method for c in TABLES["held_out"] if c.image == image) for image in OTHERS}
    assert methods == {image: {"nystrom": 1, "recipe": 2, "baseline": 3} for image in OTHERS}


@pytest.mark.parametrize(
    "other",
    [
        Recipe((Landmarks("uniform", 16, 5),), 12, 4),
        Recipe((Landmarks("centres", 17, 5),), 12, 4),
        Recipe((Landmarks("centres", 16, 3),), 12, 4),
        Recipe((Landmarks("centres", 16, 5),), None, 4),
        Recipe((Landmarks("centres", 16, 5),), 12, 5),
        Recipe((Landmarks("centres", 16, 5),), 12, 4, 2),
        Recipe((Landmarks("centres", 16, 5),) * 2, 12, 4),
    ],
)
def test_whatever_a_recipe_says_is_in_its_configuration(other):
    first = recipe("house", 0, Recipe((Landmarks("centres", 16, 5),), 12, 4))
    assert recipe("house", 0, other).key != first.key


def test_a_recipe_s_run_is_its_restoration():
    given = problem(recipe("house", 0, TINY), CPU)
    found = restore(given.noisy, 25 / 255, recipe=TINY)
    record = run(recipe("house", 0, TINY), CPU)
    assert record.curve == {0: psnr(found.image, CLEAN.float())}
    assert record.best_psnr > record.levels.noisy_psnr + 3
    assert record.outcome["expected_psnr"] == found.expected_psnr
    assert record.outcome["median_iterations"] == found.iterations.median().item()
    shares = [record.outcome[f"windows_{index}"] for index in range(-1, 4)]
    assert shares == [(found.landmarks == index).double().mean().item() for index in range(-1, 4)]
    assert sum(shares) == pytest.approx(1)


def test_the_problem_is_the_image_with_its_noise():
    given = problem(tiny(), CPU)
    assert given.clean.dtype == torch.float32
    assert torch.equal(given.noisy, add_noise(CLEAN.float(), 25, 0))
    assert given.levels.noisy_psnr == psnr(given.noisy, given.clean)
    assert given.levels.constant_psnr == psnr(constant_image(given.clean), given.clean)


@pytest.mark.parametrize(
    ("configuration", "numbers"),
    [
        (tiny(), {"columns_used", "degrees_of_freedom", "trace_left_out"}),
        (tiny(columns=0.1, selection="residual"), {"columns_used", "degrees_of_freedom", "trace_left_out"}),
        (tiny(input="noise"), {"columns_used", "degrees_of_freedom", "trace_left_out"}),
        (
            tiny(sure_probe=PROBE, sure_seed=0),
            {"columns_used", "degrees_of_freedom", "sure_iteration", "sure_psnr"},
        ),
        (exact(12, "float32"), {"change_from_last_quarter_of_steps_db"}),
        (
            recipe("house", 0, TINY),
            {"expected_psnr", "median_iterations", *(f"windows_{index}" for index in range(-1, 4))},
        ),
        (split(5), set()),
        (split(3, 3), {"linear_output_psnr", "linear_output_iteration"}),
        (Configuration("baseline", "house", 0, 25, None, None, "float64", {"denoiser": "nlm_fast"}), set()),
    ],
    ids=["nystrom", "residual", "noise input", "SURE", "exact", "recipe", "one layer", "two layers", "baseline"],
)
def test_a_run_makes_a_record_that_comes_back_from_the_store(store, configuration, numbers):
    record = run(configuration, CPU)
    store.add(record)
    assert store.get(configuration) == record
    assert list(store) == [record]
    assert record.configuration == configuration
    assert set(record.outcome) == numbers
    assert record.best_psnr == max(record.curve.values()) == record.curve[record.best_iteration]
    assert record.levels == problem(configuration, CPU).levels
    assert record.provenance.device == "cpu"
    assert record.seconds > 0
    expected = (0,) if configuration.method in ("baseline", "recipe") else iteration_grid(100, experiments.PER_DECADE)
    assert tuple(record.curve) == expected


def test_a_run_denoises_and_a_noise_input_does_not():
    record, noise = run(tiny(), CPU), run(tiny(input="noise"), CPU)
    assert record.best_psnr > record.levels.noisy_psnr + 4
    assert noise.best_psnr < record.best_psnr - 4
    assert noise.levels == record.levels


def test_a_run_is_repeatable_and_depends_on_its_seeds():
    first, again = run(tiny(), CPU), run(tiny(), CPU)
    assert first.curve == again.curve
    assert first.disagreement(again) is None
    assert run(tiny(column_seed=1), CPU).curve != first.curve
    assert run(dataclasses.replace(tiny(), noise_seed=1), CPU).levels != first.levels


def test_columns_used_are_counted():
    assert run(tiny(), CPU).outcome["columns_used"] == 60
    assert run(tiny(columns=0.1), CPU).outcome["columns_used"] == 48
    assert 20 <= run(tiny(columns=40, selection="grid"), CPU).outcome["columns_used"] <= 40


def test_more_columns_leave_less_of_the_trace_out():
    shares = [run(tiny(columns=columns), CPU).outcome["trace_left_out"] for columns in (20, 60, 240, 480)]
    assert shares == sorted(shares, reverse=True)
    assert 0.01 < shares[0] < 0.9
    assert abs(shares[-1]) < 1e-4


def test_exact_and_all_columns_agree():
    """Two routes to the same filter: Lanczos on all entries, Nystrom with every column."""
    every = dataclasses.replace(tiny(columns=480), precision="float64")
    by_columns, by_products = run(every, CPU), run(exact(60), CPU)
    assert by_products.best_iteration == by_columns.best_iteration
    for t, value in by_columns.curve.items():
        assert by_products.curve[t] == pytest.approx(value, abs=1e-6)
    assert by_products.outcome["change_from_last_quarter_of_steps_db"] < 1e-6
    assert run(exact(4), CPU).outcome["change_from_last_quarter_of_steps_db"] > 1e-3


def test_sure_s_stop_is_a_point_of_the_curve_close_to_the_best():
    record = run(tiny(sure_probe=PROBE, sure_seed=0), CPU)
    assert record.outcome["sure_psnr"] == record.curve[record.outcome["sure_iteration"]]
    assert record.best_psnr - 1 < record.outcome["sure_psnr"] <= record.best_psnr


def test_a_baseline_is_its_denoiser():
    configuration = Configuration("baseline", "house", 0, 25, None, None, "float64", {"denoiser": "nlm_fast"})
    given = problem(configuration, CPU)
    assert run(configuration, CPU).curve == {0: psnr(nlm_fast(given.noisy, 25 / 255), CLEAN)}
