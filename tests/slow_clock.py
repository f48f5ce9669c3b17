"""A clock for tests, on which only training takes time."""

from types import SimpleNamespace

import pytest

from ntkbook import checkpoints, resumable, runner
from ntkbook.training import Trainer


def slow_clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that runs, their checkpoints and the runner see: ``now``, in seconds.

    Each call of the trainer takes one second, all else none. ``blocks`` has the first iteration and the number of
    iterations of each call.
    """
    clock, advance = SimpleNamespace(now=0.0, blocks=[]), Trainer.advance

    def slow(trainer: Trainer, iterations: int) -> None:
        clock.now += 1
        clock.blocks.append((trainer.iteration, iterations))
        advance(trainer, iterations)

    time = SimpleNamespace(monotonic=lambda: clock.now, perf_counter=lambda: clock.now)
    for module in (runner, checkpoints, resumable):
        monkeypatch.setattr(module, "time", time)
    monkeypatch.setattr(Trainer, "advance", slow)
    return clock
