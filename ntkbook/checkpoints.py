"""Where a long run keeps its state, so that it can be killed at any moment and go on."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ntkbook.files import replacing

INTERVAL = 60.0  # seconds between two checkpoints of a run


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""


@dataclass
class Checkpoint:
    """The state of one run in a file, written by atomic rename: a kill leaves the one before or the new one.

    Args:
        path: of the file; its folder is made when the first state is saved. None keeps nothing.
        deadline: on the clock of ``time.monotonic``; the run saves its state and stops soon after.
        interval: seconds between two states.
    """

    path: Path | None = None
    deadline: float = math.inf
    interval: float = INTERVAL
    _saved: float = field(default_factory=time.monotonic, init=False)

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return self.path is not None and (self.expired or time.monotonic() - self._saved >= self.interval)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state: tensors, numbers, strings, lists, tuples and dicts of them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            torch.save(state, temporary)
        self._saved = time.monotonic()

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The state that was saved last, with its tensors on the device; None when there is none. Executes nothing.

        Raises:
            CheckpointError: the file is not a state.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            return torch.load(self.path, map_location=device, weights_only=True)
        except Exception as error:  # whatever the bytes make of the unpickler
            raise CheckpointError(
                f"The checkpoint {str(self.path)!r} cannot be read; delete it to start anew."
            ) from error

    def discard(self) -> None:
        """Remove the state, and what a kill left of one that was being written."""
        if self.path is not None:
            for left in (self.path, *self.path.parent.glob(f".{self.path.name}.*.tmp")):
                left.unlink(missing_ok=True)


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Whether a run is ours to make; another process that holds the same claim has it until it ends or is killed.

    Args:
        path: of the file that stands for the run. It goes when the run ends; one that a kill left behind does no harm.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            path.unlink()
        lock.release()
