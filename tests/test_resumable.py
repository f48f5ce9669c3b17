"""Every kind of run that takes a checkpoint ends, however often it is stopped, as if it had not been."""

import dataclasses

import pytest
import torch
from slow_clock import slow_clock
from tiny_images import smooth_image

from ntkbook import experiments
from ntkbook.adam_widths import planned
from ntkbook.adaptation_runs import ADAPTED, FIGURE_5, FROZEN
from ntkbook.checkpoints import Checkpoint, CheckpointError
from ntkbook.configuration import Configuration
from ntkbook.experiments import RESUMABLE
from ntkbook.runner import perform
from ntkbook.training_runs import Cell, trained

CPU = torch.device("cpu")
SMALL = {"crop": 16, "channels": 8, "products": "float32"}


def of(plan: tuple[Configuration, ...], **changes: object) -> Configuration:
    """The first autoencoder of a plan with Adam and noise at the input, much smaller."""
    first = next(c for c in plan if c.settings["optimiser"] == "adam" and c.input == "noise")
    return dataclasses.replace(first, settings=dict(first.settings) | SMALL | changes)


RUNS = {
    "training": trained("house", 0, Cell("autoencoder", "gd", "noise"), **SMALL, largest_iteration=90),
    "adam-width": of((planned("adam", 8, 0),), largest_iteration=45),
    "adaptation": of(ADAPTED, channels=4, times=(0, 45), lanczos_steps=32),
    "features": of(FIGURE_5, channels=32, largest_iteration=90),
    "frozen": of(FROZEN, largest_iteration=60, lanczos_steps=20),
}


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(experiments, "load", lambda name, dtype: smooth_image(3, 20, 24).to(dtype))
    return slow_clock(monkeypatch)


def test_every_kind_of_run_with_a_checkpoint_is_tried():
    assert RUNS.keys() == RESUMABLE.keys()
    assert all(configuration.method == name for name, configuration in RUNS.items())


@pytest.mark.parametrize("configuration", RUNS.values(), ids=RUNS)
def test_a_run_stopped_after_every_stretch_ends_as_if_it_had_not_been(configuration, clock, tmp_path):
    unbroken = perform(configuration, CPU, Checkpoint())
    blocks = clock.blocks.copy()
    clock.blocks.clear()
    calls, finished = 0, None
    while finished is None:
        finished = perform(configuration, CPU, Checkpoint(tmp_path / "state.pt", clock.now + 0.5))
        calls += 1
    assert calls >= 3
    assert clock.blocks == blocks  # nothing twice
    assert finished.picture == unbroken.picture
    assert finished.record.disagreement(unbroken.record) is None
    for name in ("best_psnr", "best_iteration", "curve", "outcome", "seconds"):
        assert getattr(finished.record, name) == getattr(unbroken.record, name)


@pytest.mark.parametrize("configuration", RUNS.values(), ids=RUNS)
def test_without_time_nothing_is_computed_and_nothing_is_lost(configuration, clock, tmp_path):
    path = tmp_path / "state.pt"
    for _ in range(2):
        assert perform(configuration, CPU, Checkpoint(path, clock.now - 1)) is None
        assert path.exists()
    assert clock.now <= 1  # the time 0 of the kernel in training, which takes no iteration


def test_a_state_of_another_version_is_told_and_kept(clock, tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt", clock.now - 1)
    assert perform(RUNS["frozen"], CPU, checkpoint) is None
    state = checkpoint.load(CPU)
    del state["notes"]
    checkpoint.save(state)
    with pytest.raises(CheckpointError, match="is of another version; delete it"):
        perform(RUNS["frozen"], CPU, Checkpoint(checkpoint.path))
    assert checkpoint.path.exists()
