"""The command `ntkbook`: `denoise` writes the right pictures, and the command starts fast and stops well."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from command_line import ON_CPU, call, picture, refused
from PIL import Image

from ntkbook import cli
from ntkbook.denoise import estimated_sigma
from ntkbook.images import add_noise, psnr, read, save
from ntkbook.restoration import RECIPES, restore


@pytest.fixture
def noisy_file(tmp_path) -> Path:
    path = tmp_path / "noisy.png"
    save(add_noise(picture(), 25, 0), path)
    return path


# --- denoise: what it writes


def files(folder: Path) -> dict[str, Path]:
    """One noisy picture in every kind of file."""
    colour = (add_noise(picture(), 20, 1).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    grey = colour[:, :, 0]
    alpha = np.full_like(grey, 128)
    deep = grey.astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(np.dstack([grey, alpha])).save(folder / "grey-alpha.png")
    Image.fromarray(colour).save(folder / "rgb.png")
    Image.fromarray(np.dstack([colour, alpha])).save(folder / "rgba.png")
    Image.fromarray(colour).quantize(256).save(folder / "palette.png")
    Image.fromarray(grey > 127).save(folder / "one-bit.png")
    Image.fromarray(deep).save(folder / "deep-grey.png")
    tifffile.imwrite(folder / "deep-colour.tif", colour.astype(np.uint16) * 257, photometric="rgb")
    tifffile.imwrite(folder / "float.tif", (grey / 255).astype(np.float32))
    Image.fromarray(colour).save(folder / "photo.jpg", quality=98)
    Image.fromarray(colour).save(folder / "photo.webp", lossless=True)
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("grey.png", "L"),
        ("grey-alpha.png", "L"),
        ("one-bit.png", "L"),
        ("deep-grey.png", "L"),
        ("float.tif", "L"),
        ("rgb.png", "RGB"),
        ("rgba.png", "RGB"),
        ("palette.png", "RGB"),
        ("deep-colour.tif", "RGB"),
        ("photo.jpg", "RGB"),
        ("photo.webp", "RGB"),
    ],
)
def test_every_kind_of_picture_is_denoised(tmp_path, name, mode):
    source, target = files(tmp_path)[name], tmp_path / "restored.png"
    result = call("denoise", source, target, "--sigma", 20, *ON_CPU)
    assert result.code == 0, result
    with Image.open(target) as written:
        assert written.mode == mode
        assert written.size == (32, 32)
    clean = picture()[: 1 if mode == "L" else 3]
    if name != "one-bit.png":  # its noise is another one
        assert psnr(read(target), clean) > psnr(read(source), clean) + 2


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.jpeg", "out.tif", "out.tiff", "out.webp", "OUT.PNG"])
def test_every_format_is_written(tmp_path, noisy_file, name):
    assert call("denoise", noisy_file, tmp_path / name, "--iterations", 30, *ON_CPU).code == 0
    with Image.open(tmp_path / name) as written:
        assert written.size == (32, 32)


@pytest.mark.parametrize("recipe", ["fastest", "best"])
def test_the_file_is_what_the_function_gives(tmp_path, noisy_file, recipe):
    options = ("--sigma", 25, "--recipe", recipe, "--seed", 3)
    result = call("denoise", noisy_file, tmp_path / "out.png", *options, *ON_CPU)
    expected = restore(read(noisy_file), 25 / 255, None, RECIPES[recipe], 3)
    save(expected.image, tmp_path / "expected.png")
    assert torch.equal(read(tmp_path / "out.png"), read(tmp_path / "expected.png"))
    assert (read(tmp_path / "out.png") - expected.image.clamp(0, 1)).abs().max() <= 0.501 / 255
    (line,) = result.out
    assert "32 x 32 colour, sigma 25.0 (given)" in line
    t = round(expected.iterations.item())
    assert f"{t} iterations (chosen by SURE, which expects {expected.expected_psnr:.1f} dB)" in line
    assert re.search(r"\d+\.\d s on cpu$", line)
    assert result.err == []


def test_the_range_over_the_windows_is_said(tmp_path):
    save(add_noise(picture(height=80, width=50), 25, 0), tmp_path / "in.png")
    (line,) = call("denoise", tmp_path / "in.png", tmp_path / "out.png", "--sigma", 25, *ON_CPU).out
    found = restore(read(tmp_path / "in.png"), 25 / 255)
    low, high = round(found.iterations.min().item()), round(found.iterations.max().item())
    assert found.windows.grid == (2, 2)
    assert low < high
    assert f", {low} to {high} iterations in 4 windows (chosen by SURE" in line


def test_an_estimated_noise_level_is_said(tmp_path, noisy_file):
    (line,) = call("denoise", noisy_file, tmp_path / "out.png", *ON_CPU).out
    estimate = 255 * estimated_sigma(read(noisy_file).numpy())
    assert f"sigma {estimate:.1f} (estimated)" in line
    assert 20 < estimate < 30


def test_given_iterations_are_used_and_said(tmp_path, noisy_file):
    (line,) = call("denoise", noisy_file, tmp_path / "out.png", "--iterations", 40, *ON_CPU).out
    assert "sigma not needed, 40 iterations (given)" in line
    expected = restore(read(noisy_file), None, 40).image.clamp(0, 1)
    assert (read(tmp_path / "out.png") - expected).abs().max() <= 0.51 / 255


def test_quiet_says_nothing(tmp_path, noisy_file):
    result = call("denoise", noisy_file, tmp_path / "out.png", "--iterations", 40, "--quiet", *ON_CPU)
    assert (result.code, result.out, result.err) == (0, [], [])
    assert (tmp_path / "out.png").is_file()


def test_sizes_are_width_by_height(tmp_path):
    save(picture(1, 21, 40), tmp_path / "in.png")
    (line,) = call("denoise", tmp_path / "in.png", tmp_path / "out.png", "--sigma", 5, *ON_CPU).out
    assert "40 x 21 grey" in line
    assert read(tmp_path / "out.png").shape == (1, 21, 40)


@pytest.mark.parametrize("options", [("--sigma", 0), ("--sigma", 25), (), ("--iterations", 50)])
@pytest.mark.parametrize("value", [0, 90, 255])
def test_constant_pictures_are_written(tmp_path, value, options):
    for mode, pixel in (("L", value), ("RGB", (value, value, value))):
        Image.new(mode, (24, 24), pixel).save(tmp_path / "in.png")
        result = call("denoise", tmp_path / "in.png", tmp_path / "out.png", *options, *ON_CPU)
        assert result.code == 0, result
        assert (read(tmp_path / "out.png") - value / 255).abs().max() <= 0.02


def test_without_noise_the_picture_comes_back(tmp_path, noisy_file):
    (line,) = call("denoise", noisy_file, tmp_path / "out.png", "--sigma", 0, *ON_CPU).out
    assert torch.equal(read(tmp_path / "out.png"), read(noisy_file))
    assert "left as it was, since there is no noise" in line


def test_a_file_may_replace_itself(noisy_file):
    before = read(noisy_file)
    assert call("denoise", noisy_file, noisy_file, "--sigma", 25, *ON_CPU).code == 0
    assert psnr(read(noisy_file), picture()) > psnr(before, picture()) + 2


# --- the command itself


def test_help_names_every_choice():
    shown = " ".join(" ".join(call("denoise", "--help").out).split())
    assert all(recipe in shown for recipe in RECIPES)
    for option in ("--sigma", "--iterations", "--recipe", "--seed", "--device"):
        assert option in shown
    assert all(name in " ".join(call("--help").out) for name in ("denoise", "run", "status"))


def test_unknown_commands_and_none(tmp_path):
    says = "there is no command 'denois'; accepted are denoise, run, status"
    assert says in refused(tmp_path, "denois")
    assert "No such option: --loud" in refused(tmp_path, "--loud", code=2)
    alone = call()
    assert alone.code == 2
    assert alone.out == call("--help").out


def test_the_project_declares_the_command():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["ntkbook"] == f"{cli.main.__module__}:{cli.main.__name__}"


def test_help_does_not_wait_for_torch():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ntkbook", "denoise", "--help"], capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ntkbook denoise")
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "numpy", "scipy", "skimage", "PIL", "tqdm"}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_the_command_in_a_process_of_its_own(tmp_path, noisy_file):
    command = [sys.executable, "-m", "ntkbook", "denoise", "noisy.png", "out.png", "--recipe", "slow"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"ntkbook: Unknown recipe 'slow'; accepted are [^\n]*\.\n", done.stderr)
    assert os.listdir(tmp_path) == ["noisy.png"]


def test_ctrl_c_on_a_terminal_with_a_progress_bar(tmp_path):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    save(add_noise(picture(3, 256, 256), 25, 0), tmp_path / "noisy.png")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "ntkbook", "denoise", "noisy.png", "out.png", "--recipe", "best"]
    # Whoever runs these tests in the background has Ctrl-C ignored, and a child would inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs, preexec_fn=heed)
    os.close(theirs)
    shown = b""
    try:
        while shown.count(b"columns:") < 3:  # past the bar's own start, where Python may swallow an interrupt
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
        while b"interrupted" not in shown:
            shown += os.read(ours, 4096)
    finally:
        process.kill()
        os.close(ours)
    assert process.returncode == 130
    assert output == b""
    assert shown.rstrip().endswith(b"ntkbook: interrupted; nothing was written.")
    assert b"Traceback" not in shown
    assert os.listdir(tmp_path) == ["noisy.png"]
