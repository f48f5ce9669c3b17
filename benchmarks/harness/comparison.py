"""Kernels of several methods: checked against each other, timed in turn, and printed.

Each method works in a process of its own, on the same cores, and is ready (jax: compiled) before it is timed. Repeats
are taken in turn, so that a machine that slows down slows all; trust the ratios. A turn begins with a call that is not
timed.

neural-tangents is optional and needs an old jax, so it lives in an environment of its own: see ``--peers``.
"""

# torch and jax are imported where they are used: an interpreter that has one may not have the other.
import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from harness.workers import WARM, Arrays, Worker

OURS = "ntkbook"
PRECISIONS = ("float64", "float32")  # that which the other is compared with comes first
ROUNDS = 3
WARM_UP = 16  # side of the small crop
INSTALL = 'pip install neural-tangents==0.6.5 "jax<0.6" "jaxlib<0.6"'

Tolerances = Mapping[str, tuple[float, float]]  # precision: the largest deviation off and on the diagonal


def crops(size: int, precision: str) -> Arrays:
    """A crop of lena that no reflection leaves alone, as ``image``, and a smaller one."""
    import torch

    from ntkbook.images import centre, photograph

    whole = centre(photograph("lena").pixels).to(getattr(torch, precision))
    sides = {"": size, WARM: WARM_UP}
    return {
        f"{prefix}image": whole[:, 100 : 100 + side, 60 : 60 + side].contiguous().numpy()
        for prefix, side in sides.items()
    }


def as_matrix(kernel: np.ndarray) -> np.ndarray:
    """A kernel as a matrix, pixels x pixels, from (1, 1, height, height, width, width) of neural-tangents."""
    kernel = np.asarray(kernel)
    if kernel.ndim == 6:
        kernel = kernel[0, 0].transpose(0, 2, 1, 3)
        kernel = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
    return kernel


def deviations(kernel: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Largest difference of two kernels off and on the diagonal, relative to the two pixels' entries there."""
    scale = np.sqrt(reference.diagonal())
    relative = np.abs(kernel - reference) / scale / scale[:, None]
    diagonal = float(relative.diagonal().max())
    np.fill_diagonal(relative, 0)
    return float(relative.max()), diagonal


def check(kernel: np.ndarray, reference: np.ndarray, tolerances: tuple[float, float]) -> dict[str, float]:
    """Assert that two kernels agree, and say how well."""
    off, on = deviations(kernel, reference)
    assert off < tolerances[0], f"kernels differ by {off:.1e}"
    assert on < tolerances[1], f"kernels differ by {on:.1e} on the diagonal"
    return {"deviation": off, "deviation_diagonal": on}


def compare(workers: list[Worker], rounds: int) -> list[dict]:
    """Memory and median time of each worker, and the median of its times over those of the first."""
    memory = [worker.ask("memory") for worker in workers]  # also the warm-up at this size
    times = np.array([[worker.ask("time") for worker in workers] for _ in range(rounds)]).T
    return [
        {
            "seconds": statistics.median(taken.tolist()),
            "ratio": statistics.median((taken / times[0]).tolist()),
            "memory_mb": memory_mb,
        }
        for taken, memory_mb in zip(times, memory, strict=True)
    ]


def measure(
    script: str,
    pythons: Mapping[str, str],
    inputs: Callable[[int, str], Arrays],
    tolerances: Tolerances,
    sizes: tuple[int, ...],
    rounds: int,
    named: Mapping[str, str] | None = None,
) -> list[dict]:
    """Check and time each method at each size in both precisions.

    Args:
        script: the file that serves the methods.
        pythons: the interpreter of each method, ours first.
        inputs: what they compute from, for a size and a precision; see :func:`harness.workers.serve`.
        tolerances: by how much the kernels may differ from ours in float64.
        sizes: sides of the square crops.
        rounds: how often each method is timed; one round times all.
        named: what else the script is told, and each row shows.

    Returns:
        One row for each, ready for JSON: the named, method, precision, size, seconds, ratio (to ours of the same
        precision and size), memory_mb (in 10^6 bytes), deviation (from ours in float64, off the diagonal) and
        deviation_diagonal.

    Raises:
        AssertionError: two kernels differ by more than rounding.
    """
    import torch

    named = named or {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inputs.npz")
        for size in sizes:
            reference = None
            for precision in PRECISIONS:
                np.savez(path, **inputs(size, precision))
                with contextlib.ExitStack() as stack:
                    workers = [
                        stack.enter_context(
                            Worker(python, script, (method, *named.values()), precision, torch.get_num_threads(), path)
                        )
                        for method, python in pythons.items()
                    ]
                    for worker, found in zip(workers, compare(workers, rounds), strict=True):
                        kernel = worker.kernel()
                        reference = kernel if reference is None else reference
                        about = {**named, "method": worker.method, "precision": precision, "size": size}
                        rows.append(about | found | check(kernel, reference, tolerances[precision]))
    return rows


def versions(python: str) -> dict[str, str] | None:
    """Versions of neural-tangents and jax in an interpreter, or None where they cannot be imported."""
    code = "import json, jax, neural_tangents as nt; print(json.dumps([nt.__version__, jax.__version__]))"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return dict(zip(("neural-tangents", "jax"), json.loads(answer.stdout.splitlines()[-1]), strict=True))


def machine() -> dict:
    """What the times depend on: processor, cores, threads and torch; and the date."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": importlib.metadata.version("torch"),
        "date": datetime.date.today().isoformat(),
    }


def print_table(rows: list[dict]) -> None:
    """Print one line for each row."""
    print(
        f"{'network':12} {'method':34} {'precision':9} {'size':>5} {'seconds':>9} {'ratio':>8} {'extra MB':>9} "
        f"{'deviation':>10} {'on diagonal':>12}"
    )
    for row in rows:
        print(
            f"{row.get('network', ''):12} {row['method']:34} {row['precision']:9} {row['size']:2d}x{row['size']:2d} "
            f"{row['seconds']:9.4f} {row['ratio']:6.1f} x {row['memory_mb']:9.0f} {row['deviation']:10.1e} "
            f"{row['deviation_diagonal']:12.1e}"
        )


def main(description: str, measured: Callable[[str | None], list[dict]]) -> None:
    """Compare, print the table and, if asked to, write it.

    Args:
        description: of the script.
        measured: makes the rows, from an interpreter that has neural-tangents, or None for our own rows only.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--peers", metavar="PYTHON", default=sys.executable, help=f"an interpreter with: {INSTALL}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the machine and the rows here")
    options = parser.parse_args()
    found = versions(options.peers)
    if found is None:
        print(f"no neural-tangents here, ours alone: {INSTALL} in another environment, then --peers ITS_PYTHON")
    described = machine() | (found or {"neural-tangents": None, "jax": None})
    print(", ".join(f"{name} {value}" for name, value in described.items()))
    rows = measured(options.peers if found else None)
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": described, "rows": rows}, indent=1) + "\n")
