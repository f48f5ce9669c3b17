"""The closed-form filter beside other denoisers, in one run: seconds, PSNR, peak memory, and how time grows.

On lena and baboon, 512x512, noise of sigma 25. Repeats are taken in turn, so that a machine that slows down slows all;
trust the ratios more than the seconds. The literal recipe and BM3D are slow and are repeated less. Peak memory is that
of a process of its own for each method, libraries and picture included. BM3D runs where the package bm3d is installed.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from harness.comparison import machine
from harness.workers import peak_bytes

from ntkbook.baselines import bm3d, nlm_fast
from ntkbook.images import add_noise, load, psnr
from ntkbook.landmarks import Landmarks
from ntkbook.restoration import RECIPES, Recipe, restore

SIGMA = 25
STD = SIGMA / 255
GIVEN = {"fastest": 100, "fast": 250, "literal": 400}  # iterations where they are given
IMAGES = ("lena", "baboon")
SIDES = (128, 256, 512, 1024, 2048)
NLM = "fast non-local means"
OURS = "recipe fast, t given"
STOPPED = "recipe fast, SURE"


def literal(noisy: torch.Tensor) -> torch.Tensor:
    """The paper's recipe: two per cent of the columns, drawn at random, of the whole image's kernel."""
    count = round(0.02 * noisy.shape[1] * noisy.shape[2])
    recipe = Recipe((Landmarks("uniform", count),), window=None, overlap=0)
    return restore(noisy, None, GIVEN["literal"], recipe).image


# Name: (how often it is repeated, what it does).
METHODS: Mapping[str, tuple[int, Callable[[torch.Tensor], torch.Tensor]]] = {
    NLM: (9, lambda y: nlm_fast(y, STD)),
    "recipe fastest, t given": (9, lambda y: restore(y, None, GIVEN["fastest"], RECIPES["fastest"]).image),
    "recipe fastest, SURE": (9, lambda y: restore(y, STD, None, RECIPES["fastest"]).image),
    OURS: (9, lambda y: restore(y, None, GIVEN["fast"]).image),
    STOPPED: (9, lambda y: restore(y, STD).image),
    "recipe best": (1, lambda y: restore(y, STD, recipe=RECIPES["best"]).image),
    "literal recipe, t given": (1, literal),
    "BM3D": (1, lambda y: bm3d(y, STD)),
}


def picture(name: str, side: int = 512) -> torch.Tensor:
    """The noisy photograph, a crop of it, or mirrored copies of it side by side."""
    clean = load(name)
    while clean.shape[1] < side:
        clean = torch.cat([clean, clean.flip(2)], dim=2)
        clean = torch.cat([clean, clean.flip(1)], dim=1)
    return add_noise(clean[:, :side, :side].contiguous(), SIGMA, 0)


def timed(method: str, noisy: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Wall-clock seconds of one call, and what it restored."""
    started = time.perf_counter()
    restored = METHODS[method][1](noisy)
    return time.perf_counter() - started, restored


def peak_gigabytes(method: str, name: str, side: int) -> float:
    """Peak resident memory of a process that does nothing else."""
    command = [sys.executable, __file__, "--memory", method, name, str(side)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _report_memory(method: str, name: str, side: str) -> None:
    METHODS[method][1](picture(name, int(side)))
    print(json.dumps(peak_bytes() / 2**30))


def compared(methods: list[str]) -> list[dict[str, object]]:
    """One row for each image and method: median seconds, ratio to fast non-local means, PSNR in dB."""
    rows = []
    for name in IMAGES:
        clean, noisy = load(name), picture(name)
        restored, times = {}, {}
        for method in methods:  # the first call counts only where there is no other
            taken, restored[method] = timed(method, noisy)
            times[method] = [taken] if METHODS[method][0] == 1 else []
        for _ in range(max(METHODS[method][0] for method in methods)):
            for method in methods:
                if len(times[method]) < METHODS[method][0]:
                    times[method].append(timed(method, noisy)[0])
        for method in methods:
            ratio = statistics.median(np.divide(times[method], times[NLM][: len(times[method])]))
            row = {"image": name, "method": method, "seconds": statistics.median(times[method]), "ratio": ratio}
            rows.append(row | {"repeats": len(times[method]), "psnr": psnr(restored[method], clean)})
            line = "{image:7} {method:24} {seconds:7.2f} s {ratio:6.1f} x {psnr:6.2f} dB"
            print(line.format(**rows[-1]), flush=True)
    return rows


def growth(repeats: int = 3) -> dict[str, object]:
    """Median seconds with t given for squares of several sizes, and the exponent of the number of pixels."""
    times = []
    for side in SIDES:
        noisy = picture(IMAGES[0], side)
        timed(OURS, noisy)
        times.append(statistics.median(timed(OURS, noisy)[0] for _ in range(repeats)))
    exponent = float(np.polyfit(np.log(np.square(SIDES)), np.log(times), 1)[0])
    print("side, seconds:", dict(zip(SIDES, np.round(times, 2).tolist(), strict=True)), f"exponent {exponent:.2f}")
    return {"sides": list(SIDES), "seconds": times, "exponent": exponent}


def with_memory(tables: dict, methods: list[str]) -> None:
    """Add peak memory: to each row, and of the largest picture."""
    peaks = {method: peak_gigabytes(method, IMAGES[0], 512) for method in methods}
    for row in tables["rows"]:
        row["memory_gb"] = peaks[row["method"]]
    print("peak memory in GB:", {method: round(peak, 2) for method, peak in peaks.items()}, flush=True)
    if "growth" in tables:
        large = {method: peak_gigabytes(method, IMAGES[0], SIDES[-1]) for method in (OURS, STOPPED)}
        tables["growth"]["memory_gb"] = large
        print(f"at {SIDES[-1]}x{SIDES[-1]}:", {method: round(peak, 2) for method, peak in large.items()})


def main() -> None:
    """Print the tables; with ``--json`` write them too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--quick", action="store_true", help="only what takes less than a minute")
    arguments = parser.parse_args()
    methods = [method for method, (repeats, _) in METHODS.items() if repeats > 1 or not arguments.quick]
    if "BM3D" in methods and importlib.util.find_spec("bm3d") is None:
        methods.remove("BM3D")
        print("BM3D is left out: the package bm3d is not installed")
    tables = {"machine": machine(), "rows": compared(methods)}
    if not arguments.quick:
        tables["growth"] = growth()
    with_memory(tables, methods)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        _report_memory(*sys.argv[2:])
    else:
        main()
