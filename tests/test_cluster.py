"""Several runs at a time by dask.distributed: a real cluster of processes, and a worker that is killed."""

import os
import signal
import threading
import time

import psutil
import pytest
from command_line import call

distributed = pytest.importorskip("distributed")

from ntkbook import experiments  # noqa: E402
from ntkbook.cluster import run_distributed  # noqa: E402
from ntkbook.results import Store  # noqa: E402
from ntkbook.runner import run_missing  # noqa: E402
from ntkbook.training_runs import Cell, trained  # noqa: E402

CELL = Cell("vanilla", "adam", "image")
PLAN = tuple(
    trained("house", seed, CELL, crop=16, channels=8, largest_iteration=600, patience=600) for seed in range(6)
)


@pytest.fixture(autouse=True)
def photograph(monkeypatch):
    """Workers are other processes: they need the photograph itself."""
    if "NTKBOOK_DATA" not in os.environ:
        pytest.skip("the photographs are not here")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        yield started


def unbroken(tmp_path):
    """The same records, made in this process one after the other."""
    import torch

    store = Store(tmp_path / "unbroken" / "results")
    return dict(run_missing(PLAN, store, torch.device("cpu")))


def test_a_killed_worker_loses_no_record_and_repeats_none(cluster, tmp_path):
    store = Store(tmp_path / "results")
    killed, kept = [], []

    def kill_one():
        worker = next(iter(cluster.workers.values())).pid
        psutil.Process(worker).send_signal(signal.SIGKILL)
        killed.append(worker)

    made = run_distributed(PLAN, store, "cpu", 600, scheduler=cluster.scheduler_address)
    for configuration, record in made:
        kept.append(configuration)
        assert store.get(configuration) == record  # kept before it is told
        if len(kept) == 1:
            threading.Thread(target=kill_one).start()
    assert len(killed) == 1
    assert len(kept) == len(set(kept)) == len(PLAN)
    assert set(kept) == set(PLAN)
    for configuration, record in unbroken(tmp_path).items():
        other = store.get(configuration)
        assert other.curve == record.curve
        assert (other.best_psnr, other.best_iteration) == (record.best_psnr, record.best_iteration)


def test_the_command_uses_a_scheduler_and_repeats_nothing(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "TABLES", {"six": PLAN})
    folder = tmp_path / "results"
    options = ("--scheduler", cluster.scheduler_address, "--results", folder, "--device", "cpu")
    first = call("run", "six", *options, "--seeds", 2)
    assert first.out[-1] == "2 of 2 missing records of six made"
    second = call("run", "six", *options, "--only", "vanilla/adam")
    assert second.out[-1] == "4 of 4 missing records of six made"
    assert call("run", "six", *options).out[-1].startswith("nothing to do: all 6")


def test_a_budget_that_is_spent_leaves_checkpoints(cluster, tmp_path):
    store = Store(tmp_path / "results")
    long = tuple(
        trained("house", seed, CELL, crop=64, channels=64, largest_iteration=100_000, patience=100_000)
        for seed in range(2)
    )
    started = time.monotonic()
    assert list(run_distributed(long, store, "cpu", 3, scheduler=cluster.scheduler_address)) == []
    assert time.monotonic() - started < 60
    assert {path.stem for path in (tmp_path / ".checkpoints").glob("*.pt")} == {c.key for c in long}


def test_no_scheduler_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "TABLES", {"six": PLAN})
    distributed.config = __import__("dask").config
    with distributed.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = call("run", "six", "--scheduler", "tcp://127.0.0.1:9", "--results", tmp_path / "results")
    assert result.code == 1
    assert "127.0.0.1:9" in result.err[-1]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_workers_and_a_scheduler_exclude_each_other(tmp_path, workers, monkeypatch):
    monkeypatch.setattr(experiments, "TABLES", {"six": PLAN})
    scheduler = () if workers == "0" else ("--scheduler", "tcp://127.0.0.1:9")
    result = call("run", "six", "--workers", workers, *scheduler, "--results", tmp_path / "results")
    assert result.code == 1
    assert result.err == [f"ntkbook: --workers is {workers}; accepted is 1 or more, and not together with --scheduler."]
