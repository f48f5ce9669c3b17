"""The command in the tests' own process, and a picture to give it."""

import re
from pathlib import Path
from types import SimpleNamespace

import torch
from typer.testing import CliRunner

from ntkbook import cli

ON_CPU = ("--device", "cpu")


def picture(channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    """Two smooth waves and an edge, in [0.1, 0.9]."""
    y = torch.arange(height)[:, None] / 16
    x = torch.arange(width) / 16
    planes = [0.5 + 0.2 * torch.sin(3 * x + c) * torch.cos(2 * y) + 0.2 * (x > y) for c in range(channels)]
    return torch.stack(planes).clamp(0.1, 0.9).float()


def call(*arguments: object) -> SimpleNamespace:
    """The command in this process: its exit code, and the lines of its two streams."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a traceback
    return SimpleNamespace(code=result.exit_code, out=result.stdout.splitlines(), err=result.stderr.splitlines())


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, *arguments: object, code: int = 1) -> str:
    """The one sentence with which the command refuses; nothing in the folder may have changed."""
    before = listing(folder)
    result = call(*arguments)
    assert result.code == code, result
    assert result.out == []
    (sentence,) = result.err
    assert re.fullmatch(r"ntkbook: .+[^.]\.", sentence)
    assert listing(folder) == before
    return sentence
