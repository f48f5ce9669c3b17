"""The closed-form filter beside fast non-local means on one 512x512 photograph, in one run.

Times are medians over repeats taken in turn, so that a machine that slows down slows both; trust the ratios. Peak
memory is that of a process of its own for each method.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from ntkbook.baselines import nlm_fast
from ntkbook.denoise import restore
from ntkbook.images import add_noise, photograph, psnr

SIGMA = 25
REPEATS = 5
METHODS = {
    "filter, t = 400": lambda y: restore(y, SIGMA / 255, 400).image,
    "filter, stopped by SURE": lambda y: restore(y, SIGMA / 255).image,
    "fast non-local means": lambda y: nlm_fast(y, SIGMA / 255),
}


def seconds(method: str, noisy: torch.Tensor) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    METHODS[method](noisy)
    return time.perf_counter() - started


def peak_gigabytes(method: str, name: str) -> float:
    """Peak resident memory of a process that does nothing else, libraries and picture included."""
    command = [sys.executable, __file__, "--memory", method, name]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _report_memory(method: str, name: str) -> None:
    METHODS[method](add_noise(photograph(name).pixels, SIGMA, 0))
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def main() -> None:
    """Print a table for lena and baboon."""
    names = ("lena", "baboon")
    # First, while this process is small: a child's peak starts at its parent's size.
    memory = {(method, name): peak_gigabytes(method, name) for method in METHODS for name in names}
    for name in names:
        picture = photograph(name)
        clean = picture.pixels
        noisy = add_noise(clean, SIGMA, 0)
        print(f"{picture.name}, {clean.shape[2]}x{clean.shape[1]}, {torch.get_num_threads()} threads")
        times = {method: [] for method in METHODS}
        for method in METHODS:
            seconds(method, noisy)
        for _ in range(REPEATS):
            for method, taken in times.items():
                taken.append(seconds(method, noisy))
        reference = np.array(times["fast non-local means"])
        for method, taken in times.items():
            ratio = statistics.median(np.array(taken) / reference)
            print(
                f"  {method:24} {statistics.median(taken):6.2f} s  {ratio:5.1f} x  "
                f"{psnr(METHODS[method](noisy), clean):.2f} dB  {memory[method, name]:.2f} GB peak"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        _report_memory(*sys.argv[2:])
    else:
        main()
