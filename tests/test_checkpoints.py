"""A state in a file is whole or not there, is data and nothing else, and a run belongs to one process at a time."""

import multiprocessing
import os
import pickle
import re
import signal
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ntkbook import checkpoints
from ntkbook.checkpoints import INTERVAL, Checkpoint, CheckpointError, claim

CPU = torch.device("cpu")
needs_forkserver = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="no forkserver on this system"
)


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "folder" / "run.pt")


@pytest.fixture
def clock(monkeypatch):
    """The time that checkpoints see; a test sets it."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def state(value: float = 1.0) -> dict:
    return {
        "weights": {"0.weight": torch.full((3, 2), value), "none": None},
        "numbers": [1, 2.5, float("inf"), True],
        "pairs": {7: (1.0, 2.0)},
        "name": "adam",
    }


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Saving and loading


def test_a_state_comes_back(checkpoint):
    assert checkpoint.load(CPU) is None
    checkpoint.save(state())
    found = checkpoint.load(CPU)
    assert torch.equal(found["weights"].pop("0.weight"), torch.full((3, 2), 1.0))
    expected = state()
    del expected["weights"]["0.weight"]
    assert found == expected
    assert files(checkpoint.path.parent) == {"run.pt"}


def test_the_last_state_replaces_the_one_before(checkpoint):
    for value in (1.0, 2.0):
        checkpoint.save(state(value))
    assert checkpoint.load(CPU)["weights"]["0.weight"][0, 0] == 2
    assert files(checkpoint.path.parent) == {"run.pt"}


def test_tensors_come_back_on_the_device(checkpoint):
    checkpoint.save(state())
    assert checkpoint.load(torch.device("meta"))["weights"]["0.weight"].device.type == "meta"


@pytest.mark.parametrize("fault", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["save", "replace"])
def test_a_failure_while_saving_leaves_the_state_before(checkpoint, monkeypatch, where, fault):
    checkpoint.save(state(1.0))

    def fails(_, target, *__):
        if where == "save":
            Path(target).write_bytes(b"half a file")
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr(torch if where == "save" else os, where, fails)
        with pytest.raises(type(fault)):
            checkpoint.save(state(2.0))
    assert checkpoint.load(CPU)["weights"]["0.weight"][0, 0] == 1
    assert files(checkpoint.path.parent) == {"run.pt"}


def die_between_writing_and_renaming(path: Path) -> None:
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    Checkpoint(path).save(state(2.0))


@needs_forkserver
def test_a_kill_while_saving_leaves_the_state_before_and_what_is_left_goes_with_it(checkpoint, processes):
    checkpoint.save(state(1.0))
    process = processes.Process(target=die_between_writing_and_renaming, args=(checkpoint.path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    folder = checkpoint.path.parent
    assert len(files(folder)) == 2
    assert checkpoint.load(CPU)["weights"]["0.weight"][0, 0] == 1
    others = {"other-run.pt", ".other-run.pt.0123.tmp", "run.pt.claim"}
    for name in others:
        (folder / name).write_bytes(b"")
    checkpoint.discard()
    assert files(folder) == others
    assert checkpoint.load(CPU) is None
    checkpoint.discard()  # and again, when there is nothing


def test_discarding_where_nothing_was_ever_saved(checkpoint):
    checkpoint.discard()
    Checkpoint().discard()
    assert not checkpoint.path.parent.exists()


# What cannot be read


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def damaged(content: bytes, how: str) -> bytes:
    if how.startswith("cut"):
        return content[: int(float(how[4:]) * len(content))]
    return {
        "empty": b"",
        "text": b"not a state\n",
        "json": b'{"weights": 1}',
        "zeros": bytes(len(content)),
        "without its first byte": content[1:],
        "with a hole": content[:60] + bytes(400) + content[460:],
        "a list's opcode": b"\x80\x02]q\x00.",
        "an opcode without its number": b"\x80",
        "an opcode without its items": b"\x80\x02q",
        "an opcode with nothing to work on": b"a.",
        "a short number": b"J\x01",
        "bytes that are no text": b"\x80\x02X\x01\x00\x00\x00\xff.",
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        *(f"cut {share}" for share in (0.001, 0.1, 0.5, 0.9, 0.999)),
        "empty",
        "text",
        "json",
        "zeros",
        "without its first byte",
        "with a hole",
        "a list's opcode",
        "an opcode without its number",
        "an opcode without its items",
        "an opcode with nothing to work on",
        "a short number",
        "bytes that are no text",
    ],
)
def test_a_damaged_file_is_refused_by_name(checkpoint, how):
    checkpoint.save(state())
    checkpoint.path.write_bytes(damaged(checkpoint.path.read_bytes(), how))
    message = f"The checkpoint {str(checkpoint.path)!r} cannot be read; delete it to start anew."
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        checkpoint.load(CPU)


def test_a_folder_in_its_place_is_refused_by_name(checkpoint):
    checkpoint.path.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=re.escape(str(checkpoint.path))):
        checkpoint.load(CPU)


@pytest.mark.parametrize("form", ["pickle", "torch", "torch's older", "within a state"])
def test_a_file_with_code_is_refused_and_the_code_is_not_run(checkpoint, tmp_path, form):
    mark = tmp_path / "executed"
    checkpoint.path.parent.mkdir()
    if form == "pickle":
        checkpoint.path.write_bytes(pickle.dumps(Evil(mark)))
    elif form == "within a state":
        torch.save(state(), checkpoint.path)
        with zipfile.ZipFile(checkpoint.path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(checkpoint.path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, pickle.dumps({"a": Evil(mark)}, 2) if name.endswith("data.pkl") else content)
    else:
        torch.save({"a": Evil(mark)}, checkpoint.path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(CheckpointError, match="cannot be read; delete it to start anew"):
        checkpoint.load(CPU)
    assert not mark.exists()
    if form == "pickle":
        pickle.loads(checkpoint.path.read_bytes())  # it was loaded
        assert mark.exists()


# When to save, and when to stop


def test_a_state_is_due_after_the_interval(tmp_path, clock):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    for start in (1000.0, 5000.0):
        clock.now = start
        checkpoint.save(state())
        clock.now = start + INTERVAL - 1
        assert not checkpoint.due
        clock.now = start + INTERVAL
        assert checkpoint.due and not checkpoint.expired
    other = Checkpoint(tmp_path / "other.pt", interval=5.0)
    other.save(state())
    clock.now += 4
    assert not other.due
    clock.now += 1
    assert other.due


def test_a_state_is_due_at_the_deadline(tmp_path, clock):
    checkpoint = Checkpoint(tmp_path / "run.pt", deadline=1010.0)
    clock.now = 1009.9
    assert not checkpoint.due and not checkpoint.expired
    clock.now = 1010.0
    assert checkpoint.due and checkpoint.expired
    checkpoint.save(state())
    assert checkpoint.expired


def test_without_a_path_nothing_is_kept(clock):
    checkpoint = Checkpoint(deadline=1010.0)
    clock.now = 1e9
    assert checkpoint.expired and not checkpoint.due
    assert checkpoint.load(CPU) is None


# Claims


def test_a_claim_is_one_process_s_and_one_run_s(tmp_path):
    with claim(tmp_path / "folder" / "a") as first, claim(tmp_path / "folder" / "b") as other:
        assert first and other
        with claim(tmp_path / "folder" / "a") as second:
            assert not second
        with claim(tmp_path / "folder" / "a") as third:  # the refused one gave nothing back
            assert not third
    with claim(tmp_path / "folder" / "a") as again:
        assert again


def test_a_claim_ends_with_an_error(tmp_path):
    with pytest.raises(KeyError), claim(tmp_path / "a") as ours:
        assert ours
        raise KeyError
    with claim(tmp_path / "a") as ours:
        assert ours


def hold(path: Path, channel) -> None:
    with claim(path) as ours:
        channel.send(ours)
        channel.recv()  # until it is told to go on


@pytest.fixture
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ntkbook.runner", "torch._dynamo", "hypothesis", "pytest"])
    return context


@needs_forkserver
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "done"])
def test_a_claim_of_another_process_holds_until_that_one_ends(tmp_path, processes, killed):
    here, there = processes.Pipe()
    process = processes.Process(target=hold, args=(tmp_path / "a", there))
    process.start()
    assert here.recv() is True
    for _ in range(2):
        with claim(tmp_path / "a") as ours:
            assert not ours
    if killed:
        process.kill()
    else:
        here.send("done")
    process.join()
    assert process.exitcode == (-signal.SIGKILL if killed else 0)
    with claim(tmp_path / "a") as ours:
        assert ours
