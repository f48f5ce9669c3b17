"""Where to compute, and how much of it a chapter does."""

import ctypes
import os
import sys
import time

import torch

SCALES = ("quick", "paper")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
ACCEPTED = "auto, cpu, cuda and cuda:N"


def resolve_device(name: str = "auto") -> torch.device:
    """The device of that name; ``"auto"`` takes cuda where there is one, then cpu.

    Raises:
        ValueError: the name is not a device, the device is not on this machine, or it has no double precision.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"Unknown device {name!r}; accepted are {ACCEPTED}.") from None
    if device.type == "mps":
        raise ValueError(
            f"The device {name!r} has no double precision, which the filters need; accepted are {ACCEPTED}."
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"Unknown device {name!r}; accepted are {ACCEPTED}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"The device {name!r} is not on this machine; cpu always is, auto takes the best.")
    return device


def keep_freed_memory() -> None:
    """Let this process keep the memory that its tensors free, for the next ones; only where the C library is glibc's.

    Otherwise each tensor of 32 MB or more is given back to the system and taken again, page by page: training on the
    CPU is then up to twice as slow.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


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
