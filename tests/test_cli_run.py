"""`ntkbook run` and `ntkbook status`: the missing records of a small plan, and what is refused."""

import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import call, listing, picture, refused

from ntkbook import cli_plan, experiments, runner
from ntkbook.configuration import Configuration
from ntkbook.images import SET9, add_noise, save
from ntkbook.restoration import RECIPES
from ntkbook.results import Store


@pytest.fixture
def noisy_file(tmp_path) -> Path:
    path = tmp_path / "noisy.png"
    save(add_noise(picture(), 25, 0), path)
    return path


# --- run and status


def planned(**changes: object) -> Configuration:
    """A small run of the filter, with changes of its fields or, for other names, of its settings."""
    settings = {"patch_size": 5, "padding": "reflect", "columns": 40, "selection": "uniform", "column_seed": 0}
    settings |= {"largest_iteration": 100}
    fields = {"method": "nystrom", "image": "house", "noise_seed": 0, "sigma": 25, "architecture": "vanilla"}
    fields |= {"input": "image", "precision": "float32"}
    own = {name: value for name, value in changes.items() if name in fields}
    return Configuration(**fields | own, settings=settings | {k: v for k, v in changes.items() if k not in own})


PLAN = {
    "small": (
        *(planned(image=image, noise_seed=seed) for image in ("house", "f16") for seed in range(2)),
        planned(input="noise", input_seed=1000),
        planned(sigma=5),
    ),
    "compared": (Configuration("baseline", "house", 0, 25, None, None, "float64", {"denoiser": "nlm_fast"}),),
}


@pytest.fixture
def small_plan(monkeypatch, tmp_path) -> Path:
    """A plan of seven small runs on one synthetic picture; gives the folder of the records."""
    monkeypatch.setattr(experiments, "TABLES", PLAN)
    monkeypatch.setattr(experiments, "load", lambda name, dtype: picture(height=20, width=24).to(dtype))
    return tmp_path / "records"


def test_run_makes_what_is_missing(small_plan):
    first = call("run", "small", "--images", "f16", "--results", small_plan, "--device", "cpu")
    assert first.code == 0, first
    assert len(first.out) == 3
    assert re.fullmatch(
        r"f16, nystrom of image with 40 uniform columns, sigma 25, seed 0: [\d.]+ dB at \d+ iterations, [\d.]+ s",
        first.out[0],
    )
    assert first.out[-1] == "2 of 2 missing records of small made"
    second = call("run", "small", "--results", small_plan, "--device", "cpu")
    assert len(second.out) == 5
    assert second.out[-1] == "4 of 4 missing records of small made"
    assert {record.configuration for record in Store(small_plan)} == set(PLAN["small"])
    before = listing(small_plan)
    third = call("run", "small", "--results", small_plan)
    assert third.out == [f"nothing to do: all 6 records asked for are in {small_plan}"]
    assert (third.code, listing(small_plan)) == (0, before)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--images", "house,F16"), 6),
        (("--images", "f16"), 2),
        (("--seeds", 1), 4),
        (("--sigma", "5"), 1),
        (("--sigma", "5,25.0"), 6),
        (("--input", "noise"), 1),
        (("--only", "nystrom"), 6),
        (("--images", "house", "--sigma", 25, "--input", "image", "--seeds", 2), 2),
    ],
)
def test_run_narrows_the_plan(small_plan, monkeypatch, options, count):
    asked = []
    monkeypatch.setattr(runner, "run_missing", lambda plan, *_: iter(asked.extend(plan) or ()))
    assert call("run", "small", *options, "--results", small_plan).code == 0
    assert len(asked) == count


def test_run_takes_a_baseline_by_its_name(small_plan):
    for only in ("nlm_fast", "baseline"):
        result = call("run", "compared", "--only", only, "--results", small_plan, "--device", "cpu")
        assert result.code == 0, result
    (record,) = Store(small_plan)
    assert record.configuration == PLAN["compared"][0]


def test_the_budget_stops_the_next_run(small_plan, monkeypatch):
    minutes = iter(range(0, 600, 60))
    clock = SimpleNamespace(monotonic=lambda: next(minutes), perf_counter=time.perf_counter)
    monkeypatch.setattr(runner, "time", clock)
    result = call("run", "small", "--budget", "3m", "--results", small_plan, "--device", "cpu")
    assert result.code == 0
    assert result.out[-1] == "2 of 6 missing records of small made, stopped by the budget of 3m"
    assert len(list(Store(small_plan))) == 2


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("8m", 480), ("1h", 3600), ("1.5h", 5400)])
def test_budgets(text, seconds):
    assert cli_plan.parse_budget(text) == seconds


def test_an_interrupted_run_keeps_what_is_done(small_plan, monkeypatch):
    real, calls = runner.perform, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(runner, "perform", interrupted)
    result = call("run", "small", "--results", small_plan, "--device", "cpu")
    assert result.code == 130
    assert result.err == [f"ntkbook: interrupted; 1 of 6 runs are done and kept in {small_plan}."]
    assert len(list(Store(small_plan))) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tabel1",), "there is no table 'tabel1' in the plan; accepted are small, compared"),
        (("small", "--images", "house,moon"), "--images is 'moon'; the plan has f16, house"),
        (("small", "--images", ""), "--images is ''; the plan has f16, house"),
        (("small", "--sigma", "30"), "--sigma is 30; the plan has 5, 25"),
        (("small", "--sigma", "nan"), "--sigma is nan; the plan has 5, 25"),
        (("small", "--seeds", "0"), "--seeds is 0, which leaves no run; the plan has 0, 1"),
        (("small", "--seeds", "-1"), "--seeds is -1, which leaves no run; the plan has 0, 1"),
        (("small", "--input", "sound"), "--input is 'sound'; the plan has image, noise"),
        (("compared", "--input", "image"), "--input is 'image'; the plan has none"),
        (("small", "--only", "magic"), "--only is 'magic'; the plan has nystrom"),
        (("compared", "--only", "magic"), "--only is 'magic'; the plan has baseline, nlm_fast"),
        (("small", "--device", "abacus"), "'abacus'; accepted are auto"),
        (("small", "--budget", "8"), "--budget is '8'; accepted is a positive number with s, m or h"),
        (("small", "--budget", "0m"), "--budget is '0m'; accepted is"),
        (("small", "--budget", "-5m"), "--budget is '-5m'; accepted is"),
    ],
)
def test_bad_options_of_run(tmp_path, small_plan, arguments, says):
    assert says in refused(tmp_path, "run", *arguments, "--results", small_plan)


@pytest.mark.parametrize(("arguments", "says"), [(("--sigma", "a"), "'--sigma': 'a'"), (("--seeds", "x"), "'x'")])
def test_options_of_run_that_are_no_numbers(tmp_path, small_plan, arguments, says):
    assert says in refused(tmp_path, "run", "small", *arguments, "--results", small_plan, code=2)


def test_an_image_with_the_wrong_bytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKBOOK_DATA", str(tmp_path))
    save(picture(), tmp_path / "house.png")
    sentence = refused(
        tmp_path, "run", "table1", "--images", "house", "--device", "cpu", "--results", tmp_path / "records"
    )
    assert f"{tmp_path / 'house.png'} is not the Set9 image house" in sentence
    assert f"expected {SET9['house'].sha256}" in sentence


def test_a_baseline_that_is_not_installed(tmp_path, small_plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    monkeypatch.setattr(experiments, "TABLES", {"compared": (planned(method="baseline", input=None, denoiser="bm3d"),)})
    sentence = refused(tmp_path, "run", "compared", "--device", "cpu", "--results", small_plan)
    assert "needs the package bm3d" in sentence


def test_results_that_are_a_file(tmp_path, small_plan, noisy_file):
    for arguments in (("run", "small"), ("status",)):
        assert "is a file; a folder is needed" in refused(tmp_path, *arguments, "--results", noisy_file)


def test_status_counts_and_names_what_is_missing(small_plan):
    call("run", "small", "--images", "house", "--seeds", 1, "--sigma", 25, "--results", small_plan, "--device", "cpu")
    result = call("status", "--results", small_plan)
    assert result.code == 0
    assert result.out == [
        "small: 2 of 6",
        "  nystrom of image with 40 uniform columns: 1 of 5, 1 on cpu; missing: house 2, f16 2",
        "  nystrom of noise with 40 uniform columns: 1 of 1, 1 on cpu",
        "compared: 0 of 1",
        "  nlm_fast: 0 of 1",
        f"2 records in {small_plan}",
    ]


def test_status_tells_recipes_apart(tmp_path, monkeypatch):
    plan = tuple(experiments.recipe("house", 0, RECIPES[name]) for name in RECIPES)
    monkeypatch.setattr(experiments, "TABLES", {"recipes": plan})
    _, *lines, _ = call("status", "--results", tmp_path).out
    assert len(set(lines)) == len(plan)


def test_status_of_the_real_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("NTKBOOK_RESULTS", str(tmp_path / "none"))
    out = call("status").out
    for table, plan in experiments.TABLES.items():
        assert f"{table}: 0 of {len(plan)}" in out
    assert out[-1] == f"0 records in {tmp_path / 'none'}"
    assert "there is no folder" in refused(tmp_path, "status", "--results", tmp_path / "typo")


def test_status_names_an_altered_record(tmp_path, small_plan):
    call("run", "small", "--images", "house", "--sigma", 5, "--results", small_plan, "--device", "cpu")
    (path,) = small_plan.rglob("*.json")
    content = json.loads(path.read_text())
    content["best_psnr"] += 1
    path.write_text(json.dumps(content))
    assert str(path) in refused(tmp_path, "status", "--results", small_plan)
