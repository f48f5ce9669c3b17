"""Where to compute, and how much of it a chapter does."""

import os
import time

import torch

SCALES = ("quick", "paper")


def resolve_device(name: str = "auto") -> torch.device:
    """The device of that name; ``"auto"`` takes cuda, then mps, then cpu.

    Raises:
        ValueError: the name is not a device, or the device is not on this machine.
    """
    if name == "auto":
        present = [kind for kind in ("cuda", "mps") if _present(kind)]
        return torch.device(present[0] if present else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"Unknown device {name!r}; accepted are auto, cpu, cuda, cuda:N and mps.") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"Unknown device {name!r}; accepted are auto, cpu, cuda, cuda:N and mps.")
    if not _present(device.type) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(
            f"The device {name!r} is not on this machine; cpu always is, and auto takes the best one there."
        )
    return device


def _present(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available()
    return kind == "cpu" or torch.backends.mps.is_available()


class Chapter:
    """The set-up of a chapter: its device, its scale, and a clock.

    ``$NTKBOOK_SCALE`` is ``quick`` (about 30 seconds on two cores) or ``paper``; without it a chapter is quick on a
    CPU and at paper scale on a GPU.

    Raises:
        ValueError: ``$NTKBOOK_SCALE`` is neither.
    """

    def __init__(self) -> None:
        self.device = resolve_device()
        self.scale = os.environ.get("NTKBOOK_SCALE") or ("quick" if self.device.type == "cpu" else "paper")
        if self.scale not in SCALES:
            raise ValueError(f"NTKBOOK_SCALE is {self.scale!r}; accepted are {' and '.join(SCALES)}.")
        self._started = time.perf_counter()

    def pick(self, quick: object, paper: object) -> object:
        """The first at quick scale, the second at paper scale."""
        return quick if self.scale == "quick" else paper

    def finish(self) -> None:
        """Print how long the chapter took, where, and at which scale."""
        seconds = time.perf_counter() - self._started
        print(f"This chapter took {seconds:.0f} s on {self.device.type}, at {self.scale} scale.")
