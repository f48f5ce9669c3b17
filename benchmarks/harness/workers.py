"""Processes that compute a kernel by one method, whenever they are asked: for time, for memory, or to compare it.

Memory is how far the process grew while it computed its first kernel, the kernel included. Linux only.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROUND_SECONDS = 0.2  # quick methods are called several times in a round
WARM = "warm_"  # inputs of this prefix are a small crop, on which libraries load what they load at first use

Arrays = dict[str, np.ndarray]
Compute = Callable[[], object]


def serve(
    build: Callable[[Arrays], Compute],
    matrix: Callable[[object], np.ndarray],
    precision: str,
    threads: str,
    inputs: str,
) -> None:
    """Compute on command, one a line: ``memory`` (first), ``time``, or ``save`` and a file; answers are JSON lines.

    Args:
        build: makes the function that computes the kernel from the inputs, ready (jax: compiled).
        matrix: turns what that function returns into the kernel to compare, pixels x pixels.
        precision: ``"float32"`` or ``"float64"``.
        threads: how many cores to use.
        inputs: an npz file, each array in it twice: the crop, and a smaller one under ``WARM``.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])  # before jax counts the cores
    os.environ["OMP_NUM_THREADS"] = threads
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(precision == "float64")}
    with np.load(inputs, allow_pickle=False) as arrays:
        names = [name for name in arrays if not name.startswith(WARM)]
        build({name: arrays[WARM + name] for name in names})()
        compute = build({name: arrays[name] for name in names})
    answers = {
        "memory": lambda: _growth(compute),
        "time": lambda: _seconds(compute),
        "save": lambda path: _save(matrix(compute()), path),
    }
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(answers[command](*arguments)), flush=True)


def _growth(compute: Compute) -> float:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = peak_bytes()
    compute()
    return (peak_bytes() - before) / 10**6


def peak_bytes() -> int:
    """Peak resident memory of this process so far; unlike ``ru_maxrss`` without its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _seconds(compute: Compute) -> float:
    compute()  # while others had their turn, caches and the library's memory went cold
    calls, started = 0, time.perf_counter()
    while not calls or time.perf_counter() - started < ROUND_SECONDS:
        compute()
        calls += 1
    return (time.perf_counter() - started) / calls


def _save(kernel: np.ndarray, path: str) -> str:
    np.save(path, kernel)
    return str(kernel.dtype)


class Worker:
    """A process that runs ``script --serve`` and the given names: of the method first, and of what else it needs."""

    def __init__(
        self, python: str, script: str, names: tuple[str, ...], precision: str, threads: int, inputs: Path
    ) -> None:
        self.method, self.precision = names[0], precision
        self.log = inputs.with_name(f"{self.method}.log")
        command = [python, script, "--serve", *names, precision, str(threads), str(inputs)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def ask(self, command: str, *arguments: str) -> float | str:
        """Send one command and wait for its answer."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.method} stopped; its last words were:\n{self.log.read_text()[-2000:]}")
        return json.loads(answer)

    def kernel(self) -> np.ndarray:
        """Its kernel, pixels x pixels, which must have the precision that was asked for."""
        path = self.log.with_suffix(".npy")
        dtype = self.ask("save", str(path))
        assert dtype == self.precision, f"{self.method} computed in {dtype}, not in {self.precision}"
        return np.load(path, allow_pickle=False)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # the end of its commands
        self.process.wait()
        self.process.stdout.close()
