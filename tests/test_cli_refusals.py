"""What `ntkbook denoise` refuses: one sentence each, and nothing half-written."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from command_line import ON_CPU, call, picture, refused
from PIL import Image

from ntkbook import image_files, restoration
from ntkbook.images import add_noise, save


@pytest.fixture
def noisy_file(tmp_path) -> Path:
    path = tmp_path / "noisy.png"
    save(add_noise(picture(), 25, 0), path)
    return path


# --- denoise: what it refuses


@pytest.mark.parametrize(
    ("options", "says", "code"),
    [
        (("--sigma", -1), "--sigma is -1; a finite number of 0 or more", 1),
        (("--sigma", "nan"), "--sigma is nan; a finite number", 1),
        (("--sigma", "inf"), "--sigma is inf; a finite number", 1),
        (("--sigma", "much"), "'--sigma': 'much' is not a number", 2),
        (("--iterations", -3), "0 or more, not -3", 1),
        (("--iterations", "2.5"), "'--iterations': '2.5' is not a whole number", 2),
        (("--iterations", 30, "--recipe", "best"), "and 2 stages SURE has to choose", 1),
        (("--recipe", "slow"), f"Unknown recipe 'slow'; accepted are {', '.join(restoration.RECIPES)}", 1),
        (("--columns", 60), "No such option: --columns", 2),
        (("--seed", -1), "--seed is -1; a whole number of 0 or more", 1),
        (("--device", "abacus"), "'abacus'; accepted are auto, cpu, cuda and cuda:N", 1),
        (("--device", "cuda:99"), "'cuda:99' is not on this machine; cpu always is", 1),
        (("--device", "meta"), "'meta'; accepted are", 1),
        (("--fast",), "No such option: --fast", 2),
    ],
)
def test_bad_options_of_denoise(tmp_path, noisy_file, options, says, code):
    assert says in refused(tmp_path, "denoise", noisy_file, tmp_path / "out.png", *options, code=code)


def write_bad_files(folder: Path) -> None:
    colour = (picture() * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(colour).save(folder / "whole.png")
    content = (folder / "whole.png").read_bytes()
    (folder / "truncated.png").write_bytes(content[: len(content) // 2])
    (folder / "damaged.png").write_bytes(content[:60] + bytes(40) + content[100:])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    Image.fromarray(colour).save(folder / "moving.gif")
    for name, value in (("nan", np.nan), ("inf", np.inf), ("bright", 255.0)):
        values = np.full((32, 32), 0.5, np.float32)
        values[3, 4] = value
        tifffile.imwrite(folder / f"{name}.tif", values)
    Image.fromarray(colour[:6, :6]).save(folder / "small.png")
    (folder / "folder.png").mkdir()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.png", "there is no image file"),
        ("folder.png", "is a directory, not an image file"),
        ("truncated.png", "cannot be read as a PNG, JPEG, TIFF, WEBP image"),
        ("damaged.png", "cannot be read as a PNG, JPEG, TIFF, WEBP image"),
        ("empty.png", "cannot be read as a PNG, JPEG, TIFF, WEBP image"),
        ("text.png", "cannot be read as a PNG, JPEG, TIFF, WEBP image (unknown format)"),
        ("moving.gif", "cannot be read as a PNG, JPEG, TIFF, WEBP image"),
        ("nan.tif", "NaN or infinite"),
        ("inf.tif", "NaN or infinite"),
        ("bright.tif", "outside [0, 1]"),
        ("small.png", "a patch of 7 x 7 does not fit in an image of 6 x 6"),
    ],
)
@pytest.mark.parametrize("sigma", [("--sigma", 25), ()], ids=["given", "estimated"])
def test_bad_pictures(tmp_path, name, says, sigma):
    write_bad_files(tmp_path)
    sentence = refused(tmp_path, "denoise", tmp_path / name, tmp_path / "out.png", *sigma, "--device", "cpu")
    assert says in sentence
    assert name in sentence or name == "small.png"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("there/is/none/out.png", "there is no folder"),
        ("out.bmp", "the suffix must be one of .png"),
        ("out", "the suffix must be one of .png"),
        ("folder", "it is a directory"),
        ("folder.png", "it is a directory"),
        ("noisy.png/out.png", "there is no folder"),
    ],
)
def test_bad_targets_are_refused_before_any_work(tmp_path, noisy_file, monkeypatch, name, says):
    monkeypatch.setattr(restoration, "restore", lambda *_, **__: pytest.fail("work was done"))
    for folder in ("folder", "folder.png"):
        (tmp_path / folder).mkdir()
    sentence = refused(tmp_path, "denoise", noisy_file, tmp_path / name, "--sigma", 25)
    assert says in sentence
    assert str(tmp_path / name) in sentence


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path, noisy_file):
    (tmp_path / "closed").mkdir(mode=0o555)
    sentence = refused(tmp_path, "denoise", noisy_file, tmp_path / "closed" / "out.png")
    assert "may not be written to" in sentence


def test_arguments_that_are_missing(tmp_path, noisy_file):
    assert "Missing argument 'OUT'" in refused(tmp_path, "denoise", noisy_file, code=2)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (MemoryError(), 1, "needs more memory than there is"),
        (torch.OutOfMemoryError("CUDA out of memory"), 1, "needs more memory than there is"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "needs more memory than there is"),
        (OSError(errno.EIO, "Input/output error", "disk"), 1, "disk: Input/output error"),
        (ModuleNotFoundError("No module named 'pywt'"), 1, "No module named 'pywt'"),
        (ValueError("two\nlines"), 1, "two lines"),
    ],
)
def test_errors_on_the_way_leave_nothing(tmp_path, noisy_file, monkeypatch, error, code, says):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(restoration, "restore", fail)
    assert says in refused(tmp_path, "denoise", noisy_file, tmp_path / "out.png", "--sigma", 25, code=code)


def test_the_advice_on_memory_can_be_followed(tmp_path, noisy_file, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(restoration, "restore", fail)
    sentence = refused(tmp_path, "denoise", noisy_file, tmp_path / "out.png", "--sigma", 25)
    assert "columns" not in sentence  # there is no such choice


def test_a_bug_shows_its_traceback(tmp_path, noisy_file, monkeypatch):
    monkeypatch.setattr(restoration, "restore", lambda *_, **__: {}["absent"])
    with pytest.raises(KeyError, match="absent"):
        call("denoise", noisy_file, tmp_path / "out.png", "--sigma", 25)


def test_a_full_disk_leaves_the_old_file(tmp_path, noisy_file, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "out.png").write_bytes(b"an older file")
    monkeypatch.setattr(image_files.os, "replace", full)
    sentence = refused(tmp_path, "denoise", noisy_file, tmp_path / "out.png", "--iterations", 5, *ON_CPU)
    assert "out.png: No space left on device" in sentence
