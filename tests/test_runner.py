"""Making records: once each, whatever stops it. A run that was stopped or killed ends as if it never had been."""

import dataclasses
import functools
import math
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from slow_clock import slow_clock
from tiny_images import smooth_image

from ntkbook import checkpoints, experiments, runner, training_runs
from ntkbook.checkpoints import Checkpoint, CheckpointError, claim
from ntkbook.configuration import Configuration
from ntkbook.experiments import METHODS, RESUMABLE, TABLES, nystrom
from ntkbook.image_files import decode
from ntkbook.images import psnr
from ntkbook.problems import PER_DECADE
from ntkbook.records import Record, RecordError
from ntkbook.results import Store
from ntkbook.resumable import BETWEEN_STOPS
from ntkbook.runner import Finished, coverage, keep, perform, run, run_missing
from ntkbook.stopping import iteration_grid
from ntkbook.training_runs import Cell, trained

CPU = torch.device("cpu")
CLEAN = smooth_image(3, 20, 24)
needs_forkserver = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no forkserver on this system"
)


def tiny(image: str = "house") -> Configuration:
    """A run of a fraction of a second that cannot be stopped."""
    return nystrom(image, 0, columns=20, patch_size=5, largest_iteration=100)


def training(cell: str = "vanilla/adam/image", image: str = "house", seed: int = 0, **settings) -> Configuration:
    """A small run that can: 130 iterations, the last block of which is not full."""
    chosen = {"crop": 12, "channels": 6, "largest_iteration": 129, "patience": 1000, "products": "float32"}
    return trained(image, seed, Cell(*cell.split("/")), **(chosen | settings))


def use_the_synthetic_image() -> None:
    experiments.load = lambda name, dtype: CLEAN.to(dtype)


@pytest.fixture(autouse=True)
def synthetic_image(monkeypatch):
    """Every image is the same small synthetic one."""
    monkeypatch.setattr(experiments, "load", experiments.load)  # to be put back
    use_the_synthetic_image()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def clock(monkeypatch):
    return slow_clock(monkeypatch)


def left_behind(store: Store) -> list[str]:
    """What lies in the folder of the checkpoints but for claims, which may stay."""
    folder = runner.checkpoints(store)
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".claim") if folder.exists() else []


def assert_equal_runs(first: Record, second: Record) -> None:
    """All that is not time and place."""
    assert first.disagreement(second) is None
    for name in ("configuration", "best_psnr", "best_iteration", "curve", "levels", "outcome"):
        assert getattr(first, name) == getattr(second, name)


# One after the other


def test_an_unknown_method_is_refused():
    accepted = ", ".join((*METHODS, *RESUMABLE))
    with pytest.raises(ValueError, match=f"^Unknown method 'magic'; accepted are {accepted}.$"):
        run(Configuration("magic", "house", 0, 25, None, None, "float32"), CPU)


@pytest.mark.parametrize("make", [tiny, training])
def test_what_is_there_is_not_run_again(store, make):
    plan = [make(image=name) for name in ("house", "f16", "lena")]
    store.add(run(plan[1], CPU))
    done = list(run_missing(plan, store, CPU))
    assert [configuration.image for configuration, _ in done] == ["house", "lena"]
    assert all(store.get(configuration) == record for configuration, record in done)
    assert list(run_missing(plan, store, CPU)) == []


def test_each_record_is_stored_as_soon_as_it_is_made(store):
    plan = [tiny("house"), training(image="f16"), tiny("lena")]
    running = run_missing(plan, store, CPU)
    for count in (1, 2):
        next(running)
        assert {record.configuration.image for record in store} == {c.image for c in plan[:count]}


def test_nothing_is_started_after_the_budget(store, monkeypatch):
    plan = [tiny(name) for name in ("house", "f16", "lena")]
    assert list(run_missing(plan, store, CPU, budget=0)) == []
    ticks = iter([0.0, 5.0, 9.0, 13.0])
    time = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=lambda: 0.0)
    monkeypatch.setattr(runner, "time", time)
    done = [configuration.image for configuration, _ in run_missing(plan, store, CPU, budget=10)]
    assert done == ["house", "f16"]


def test_what_another_process_is_at_is_left_to_it(store):
    plan = [tiny("house"), tiny("f16")]
    with claim(runner.checkpoints(store) / f"{plan[0].key}.claim") as ours:
        assert ours
        assert [configuration.image for configuration, _ in run_missing(plan, store, CPU)] == ["f16"]
    assert [configuration.image for configuration, _ in run_missing(plan, store, CPU)] == ["house"]


def test_what_another_process_has_just_finished_is_not_run_again(store, monkeypatch):
    """It adds its record between our look into the store and our claim."""
    configuration = tiny()
    record = run(configuration, CPU)

    def late(path: Path):
        store.add(record)
        return claim(path)

    monkeypatch.setattr(runner, "claim", late)
    assert list(run_missing([configuration], store, CPU)) == []


def test_checkpoints_lie_beside_the_store(tmp_path):
    assert runner.checkpoints(Store(tmp_path / "results")) == tmp_path / ".checkpoints"


def test_coverage_counts_what_each_table_has(store):
    assert coverage(store) == {name: (0, len(plan)) for name, plan in TABLES.items()}
    record = run(tiny(), CPU)
    chosen = [*TABLES["table1"][:4], *TABLES["table4"][:1], *TABLES["predicted"][:1]]
    for configuration in (*chosen, tiny()):
        store.add(dataclasses.replace(record, configuration=configuration))
    counts = {name: have for name, (have, _) in coverage(store).items()}
    # Tables 1 and 5 show different numbers of the same runs, the predicted run is one of theirs, and a run of no plan
    # counts nowhere.
    assert counts == {name: sum(c in plan for c in chosen) for name, plan in TABLES.items()}
    assert [counts[name] for name in ("table1", "table5", "table4", "predicted", "baselines")] == [5, 5, 1, 1, 0]


# Records and pictures


def test_a_picture_lies_beside_its_record(store, monkeypatch):
    configuration, plain = training(), training(image="f16")
    monkeypatch.setattr(training_runs, "PICTURED", frozenset([configuration]))
    monkeypatch.setattr(training_runs, "PICTURE_SIDE", 8)
    ((_, record), _) = run_missing([configuration, plain], store, CPU)
    assert store.picture(configuration).parent == store.path(configuration).parent
    content = store.picture(configuration).read_bytes()
    assert content == perform(configuration, CPU, Checkpoint()).picture
    picture = decode(content, "picture", torch.float64)
    assert picture.shape == (3, 8, 8)
    error = (picture - CLEAN[:, 6:14, 8:16]).square().mean()
    assert error.log10().item() * -10 == pytest.approx(record.best_psnr, abs=3)  # the middle of the best output
    assert not store.picture(plain).exists() and perform(plain, CPU, Checkpoint()).picture is None


def test_the_picture_comes_before_the_record(store, monkeypatch):
    finished = Finished(run(tiny(), CPU), b"picture")

    def full_disk(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "add_picture", full_disk)
        with pytest.raises(OSError, match="disk full"):
            keep(finished, store)
        assert list(store) == []
    keep(finished, store)
    assert store.get(tiny()) == finished.record
    assert store.picture(tiny()).read_bytes() == b"picture"


def test_a_run_that_cannot_be_stopped_is_finished_after_the_budget(store, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: clock.now, perf_counter=lambda: clock.now))

    def problem(*arguments):
        clock.now += 100
        return experiments.problem(*arguments)

    monkeypatch.setattr(runner, "problem", problem)
    done = [configuration.image for configuration, _ in run_missing([tiny(), tiny("f16")], store, CPU, budget=10)]
    assert done == ["house"]


# Stopped by the budget


@pytest.mark.parametrize("cell", ["vanilla/adam/image", "vanilla/gd/noise", "unet/adam/noise"])
def test_a_run_stopped_by_the_budget_goes_on_and_ends_as_if_it_had_not_been(store, clock, cell):
    size = {"crop": 16, "channels": 4} if cell.startswith("unet") else {}
    plan = [training(cell, **size), tiny("f16")]
    unbroken = run(plan[0], CPU)
    blocks = clock.blocks.copy()
    assert blocks == [(0, 20), (20, 20), (40, 20), (60, 20), (80, 20), (100, 20), (120, 10)]
    clock.blocks.clear()
    assert list(run_missing(plan, store, CPU, budget=3.5)) == []
    assert clock.blocks == blocks[:4]
    assert left_behind(store) == [f"{plan[0].key}.pt"]
    assert list(store) == []
    ((first, record), (second, _)) = run_missing(plan, store, CPU)
    assert (first, second) == tuple(plan)
    assert clock.blocks == blocks  # nothing twice
    assert_equal_runs(record, unbroken)
    assert record.seconds == unbroken.seconds == len(blocks)
    assert left_behind(store) == []


def test_tiny_budgets_add_up(store, clock):
    configuration = training("vanilla/gd/image", weights_seed=3)
    unbroken = run(configuration, CPU)
    clock.blocks.clear()
    calls = 0
    while store.get(configuration) is None:
        done = list(run_missing([configuration], store, CPU, budget=0.5))
        calls += 1
        assert len(clock.blocks) == calls
    assert len(done) == 1
    assert_equal_runs(done[0][1], unbroken)
    assert done[0][1].seconds == calls == 7
    assert left_behind(store) == []


def test_whenever_the_budget_ends_the_state_is_kept(store, monkeypatch):
    """Each look at the clock takes a second, so that the budget ends between any two of them."""
    configuration = training(largest_iteration=1000)
    for budget in range(1, 13):
        clock = iter(range(10_000))
        monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda clock=clock: float(next(clock))))
        monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: 0.0, perf_counter=lambda: 0.0))
        assert list(run_missing([configuration], store, CPU, budget=budget)) == []
        assert left_behind(store) == [f"{configuration.key}.pt"]
        (runner.checkpoints(store) / f"{configuration.key}.pt").unlink()


def test_states_are_saved_at_intervals_too(store, clock, monkeypatch):
    configuration, saved = training(), []
    monkeypatch.setattr(runner, "Checkpoint", functools.partial(Checkpoint, interval=2.0))
    save = Checkpoint.save

    def noted(checkpoint: Checkpoint, state: dict) -> None:
        saved.append(state["training"]["kept"]["iteration"])
        save(checkpoint, state)
        if len(saved) == 2:
            raise KeyboardInterrupt

    clock.now = 1e9  # later than the checkpoint was made
    monkeypatch.setattr(Checkpoint, "save", noted)
    with pytest.raises(KeyboardInterrupt):
        list(run_missing([configuration], store, CPU))
    assert saved == [0, 2 * BETWEEN_STOPS]
    list(run_missing([configuration], store, CPU))
    assert clock.blocks[2] == (2 * BETWEEN_STOPS, BETWEEN_STOPS)
    assert_equal_runs(store.get(configuration), run(configuration, CPU))


def test_a_damaged_checkpoint_is_told_and_kept(store, clock):
    configuration = training()
    list(run_missing([configuration], store, CPU, budget=1.5))
    path = runner.checkpoints(store) / f"{configuration.key}.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{configuration.key}.pt"):
        list(run_missing([configuration], store, CPU))
    assert path.stat().st_size == 1000
    path.unlink()
    assert len(list(run_missing([configuration], store, CPU))) == 1


def test_a_record_that_disagrees_keeps_the_checkpoint_away_from_the_store(store, monkeypatch):
    """Two processes without a common lock: the first record stays, and the second is told."""
    configuration = tiny()
    other = dataclasses.replace(run(configuration, CPU), best_psnr=40.0, configuration=configuration)
    make = experiments.METHODS["nystrom"]

    def meanwhile(*arguments):
        store.add(other)
        return make(*arguments)

    monkeypatch.setattr(runner, "METHODS", dict(METHODS) | {"nystrom": meanwhile})
    with pytest.raises(RecordError, match="is kept: a second run of its configuration differs"):
        list(run_missing([configuration], store, CPU))
    assert store.get(configuration) == other


def test_a_kill_between_the_record_and_the_end_of_its_checkpoint_leaves_nothing_for_good(store, clock, monkeypatch):
    configuration = training()
    list(run_missing([configuration], store, CPU, budget=1.5))

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            list(run_missing([configuration], store, CPU))
    assert store.get(configuration) is not None
    assert list(run_missing([configuration], store, CPU)) == []
    assert left_behind(store) == []


def test_a_run_whose_weights_are_lost_still_has_a_record(store):
    """Adam with a rate that no float can bear: the start is the best there is."""
    configuration = training(learning_rate=1e30)
    ((_, record),) = run_missing([configuration], store, CPU)
    assert (record.best_iteration, dict(record.curve)) == (0, {})
    assert record.best_psnr == pytest.approx(psnr(torch.full((3, 12, 12), 0.5), CLEAN[:, 4:16, 6:18].float()), abs=1e-4)
    assert record.outcome["iterations_not_finite"] == len(iteration_grid(129, PER_DECADE))
    assert store.get(configuration) == record


# Killed


def longer(cell: str, image: str = "house", **settings) -> Configuration:
    return training(cell, image, **{"crop": 16, "largest_iteration": 500} | settings)


SWEEP = (
    longer("vanilla/adam/image"),
    tiny("f16"),
    longer("vanilla/gd/noise", products="bfloat16"),
    longer("unet/adam/image", channels=4, largest_iteration=250),
    longer("vanilla/adam/noise", "baboon", weights_seed=1, patience=150, patience_share=0),
)
PICTURED = frozenset([SWEEP[0], SWEEP[4]])


def die(at: float) -> None:
    """Kill this process at once when it has computed for so long, whatever it is at."""
    while time.process_time() < at:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def sweep(folder: Path, channel, start=None, seconds: float = math.inf) -> None:
    """In a process of its own, for at most so many seconds: say at the end which records it made."""
    torch.set_num_threads(1)
    use_the_synthetic_image()
    training_runs.PICTURED = PICTURED
    runner.Checkpoint = functools.partial(Checkpoint, interval=0.01)
    if start is not None:
        start.wait()
    threading.Thread(target=die, args=(time.process_time() + seconds,), daemon=True).start()
    channel.send([configuration.key for configuration, _ in run_missing(SWEEP, Store(folder), CPU)])


class Unbroken(NamedTuple):
    """Records and pictures by key, each made at once, and the seconds that they took to compute."""

    finished: dict[str, Finished]
    seconds: float


@pytest.fixture(scope="module")
def unbroken() -> Unbroken:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "load", lambda name, dtype: CLEAN.to(dtype))
        patch.setattr(training_runs, "PICTURED", PICTURED)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the processes below: the last digits of a sum depend on it
        run(SWEEP[0], CPU)  # what is slow only once
        started = time.process_time()
        finished = {configuration.key: perform(configuration, CPU, Checkpoint()) for configuration in SWEEP}
        taken = time.process_time() - started
        torch.set_num_threads(threads)
        return Unbroken(finished, taken)


@pytest.fixture(scope="module")
def processes():
    """They start in a tenth of a second, for all is imported in the process that they are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ntkbook.runner", "torch._dynamo", "hypothesis", "pytest"])
    return context


def records(store: Store) -> dict[Path, tuple[int, bytes]]:
    """Inode and content of each record; a torn one is refused here."""
    return {path: (path.stat().st_ino, path.read_bytes()) for path in (store.path(r.configuration) for r in store)}


def assert_complete(store: Store, unbroken: Unbroken) -> None:
    """Every record and picture is that of the unbroken run, and nothing else lies there."""
    assert {record.configuration.key for record in store} == set(unbroken.finished)
    for record in store:
        expected = unbroken.finished[record.configuration.key]
        assert_equal_runs(record, expected.record)
        picture = store.picture(record.configuration)
        assert (picture.read_bytes() if picture.exists() else None) == expected.picture
    visible = [path for path in store.folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert len(visible) == len(SWEEP) + len(PICTURED)
    assert left_behind(store) == []


@needs_forkserver
def test_a_sweep_that_is_killed_twenty_times_ends_as_if_it_had_not_been(tmp_path, processes, unbroken):
    chance = random.Random(0)
    kills, resumed, finished = 0, 0, 0
    while kills < 20 or not finished:  # the next sweep, if one was done before the last kill
        store, ended = Store(tmp_path / str(finished) / "results"), False
        before: dict[Path, tuple[int, bytes]] = {}
        while not ended:
            _, there = processes.Pipe()
            seconds = chance.uniform(0, unbroken.seconds / 8) if kills < 20 else math.inf
            process = processes.Process(target=sweep, args=(store.folder, there, None, seconds))
            resumed += bool(left_behind(store))
            process.start()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            ended = process.exitcode == 0
            assert ended or process.exitcode == -signal.SIGKILL
            now = records(store)
            assert before.items() <= now.items()  # none was made or written again
            before = now
        assert_complete(store, unbroken)
        finished += 1
    assert resumed >= 5


@needs_forkserver
def test_two_processes_never_make_a_record_twice(tmp_path, processes, unbroken):
    store, start = Store(tmp_path / "results"), processes.Barrier(2)
    channels, both = [], []
    for _ in range(2):
        here, there = processes.Pipe()
        both.append(processes.Process(target=sweep, args=(store.folder, there, start)))
        channels.append(here)
    for process in both:
        process.start()
    made = [channel.recv() for channel in channels]
    for process in both:
        process.join()
    assert sorted(made[0] + made[1]) == sorted(unbroken.finished)
    assert all(made)
    assert_complete(store, unbroken)
