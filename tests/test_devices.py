"""Devices by name, and the scale of a chapter."""

import re

import pytest
import torch

from ntkbook.devices import Chapter, resolve_device


@pytest.fixture(autouse=True)
def without_scale(monkeypatch):
    monkeypatch.delenv("NTKBOOK_SCALE", raising=False)


def machine(monkeypatch, cuda: int = 0) -> None:
    """Pretend that this many CUDA devices are here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)


@pytest.mark.parametrize(("cuda", "expected"), [(0, "cpu"), (2, "cuda")])
def test_auto_takes_the_best_there_is(monkeypatch, cuda, expected):
    machine(monkeypatch, cuda)
    assert resolve_device() == resolve_device("auto") == torch.device(expected)


def test_present_devices_by_name(monkeypatch):
    machine(monkeypatch, cuda=2)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "xpu", "CPU"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=f"^Unknown device {name!r}; accepted are auto, cpu, cuda and cuda:N"):
        resolve_device(name)


def test_a_device_without_double_precision_is_refused():
    with pytest.raises(ValueError, match="'mps' has no double precision, which the filters need; accepted are auto"):
        resolve_device("mps")


@pytest.mark.parametrize(("name", "cuda"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_absent_devices_are_refused(monkeypatch, name, cuda):
    machine(monkeypatch, cuda)
    with pytest.raises(ValueError, match=re.escape(f"The device {name!r} is not on this machine; cpu always is")):
        resolve_device(name)


@pytest.mark.parametrize(("cuda", "expected"), [(0, "quick"), (1, "paper")])
def test_scale_follows_the_device(monkeypatch, cuda, expected):
    machine(monkeypatch, cuda)
    assert Chapter().scale == expected


@pytest.mark.parametrize("cuda", [0, 1])
@pytest.mark.parametrize(("scale", "expected"), [("quick", 300), ("paper", 1000)])
def test_scale_can_be_chosen(monkeypatch, cuda, scale, expected):
    machine(monkeypatch, cuda)
    monkeypatch.setenv("NTKBOOK_SCALE", scale)
    chapter = Chapter()
    assert chapter.scale == scale
    assert chapter.pick(300, 1000) == expected


def test_an_unknown_scale_is_refused(monkeypatch):
    monkeypatch.setenv("NTKBOOK_SCALE", "huge")
    with pytest.raises(ValueError, match="NTKBOOK_SCALE is 'huge'; accepted are quick and paper"):
        Chapter()


def test_a_chapter_says_how_long_it_took(monkeypatch, capsys):
    machine(monkeypatch)
    clock = iter([100.0, 131.6])
    monkeypatch.setattr("ntkbook.devices.time.perf_counter", lambda: next(clock))
    Chapter().finish()
    assert capsys.readouterr().out == "This chapter took 32 s on cpu, at quick scale.\n"
