"""A training step of the paper's three networks at 256x256: the plain loop beside the trainer, in one run.

The plain loop takes Adam's steps in float32 and PyTorch's default layout, and looks at nothing on the way. The trainer
takes the same steps with products in float32 or in bfloat16, and finds the best. Each is timed as it comes, and once
after :func:`ntkbook.devices.keep_freed_memory`, which helps the plain loop, too. Repeats are taken in turn, so that a
machine that slows down slows all; trust the ratios. A share of the matrix rate is that of the step's floating-point
operations in a second over those of a product of two 4096x4096 matrices of the same type. First the trajectories must
agree.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from harness.comparison import machine
from torch.utils.flop_counter import FlopCounterMode

from ntkbook.adam import Adam
from ntkbook.devices import keep_freed_memory, resolve_device
from ntkbook.images import add_noise, centre, load, psnr, uncentre
from ntkbook.layers import AUTOENCODER, UNET, VANILLA, Serial
from ntkbook.networks import build
from ntkbook.training import Trainer

NETWORKS: Mapping[str, tuple[Serial, int]] = {
    "vanilla": (VANILLA, 512),
    "autoencoder": (AUTOENCODER, 128),
    "unet": (UNET, 128),
}
PLAIN = "plain loop"
METHODS = {PLAIN: None, "trainer, float32": torch.float32, "trainer, bfloat16": torch.bfloat16}
SIDE = 4096  # of the matrices whose product measures the machine
RATE = 1e-5
STEPS, ROUNDS = 3, 5  # steps timed at once, and how often
AGREED_DB = 0.1  # by how much the PSNR may differ after these steps


def stepper(network: str, method: str, device: torch.device) -> Callable[[int], float]:
    """A function that takes so many steps of one method and returns the PSNR it has reached."""
    spec, channels = NETWORKS[network]
    clean = load("house").to(device)
    noisy = centre(add_noise(clean, 25, 0))
    model = build(spec, channels).to(device)
    if METHODS[method] is not None:
        training = Trainer(model, noisy, noisy, centre(clean), Adam(RATE), products=METHODS[method])

        def fast(count: int) -> float:
            training.advance(count)
            return training.psnr

        return fast

    optimiser = torch.optim.Adam(model.parameters(), RATE, (0.9, 0.99))
    with torch.no_grad():
        offset = model(noisy[None])[0]

    def plain(count: int) -> float:
        for _ in range(count):
            output = model(noisy[None])[0] - offset
            optimiser.zero_grad()
            (0.5 * (output - noisy).square().sum()).backward()
            optimiser.step()
        return psnr(uncentre(output), clean)

    return plain


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations in a second of a product of two large matrices."""
    matrix = torch.randn(SIDE, SIDE, device=device).to(dtype)
    taken = []
    for _ in range(4):
        started = time.perf_counter()
        (matrix @ matrix).sum().item()
        taken.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(taken)


def operations(network: str) -> int:
    """Floating-point operations of the products in one step, from a pass over 64x64 pixels."""
    spec, channels = NETWORKS[network]
    model, x = build(spec, channels), torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops() * (256 // 64) ** 2


def measure(network: str, device: torch.device) -> list[dict]:
    """Seconds of a step of each method, the plain loop's over them, and the share of the matrix rate."""
    steppers = {method: stepper(network, method, device) for method in METHODS}
    reached = {method: step(2) for method, step in steppers.items()}  # the first steps are slower
    taken: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(ROUNDS):
        for method, step in steppers.items():
            started = time.perf_counter()
            reached[method] = step(STEPS)
            taken[method].append((time.perf_counter() - started) / STEPS)
    for method, found in reached.items():
        assert abs(found - reached[PLAIN]) < AGREED_DB, f"{method} is at {found:.2f} dB, not {reached[PLAIN]:.2f}"
    work, rows = operations(network), []
    for method, times in taken.items():
        rate = matrix_rate(METHODS[method] or torch.float32, device)
        ratios = [plain / own for plain, own in zip(taken[PLAIN], times, strict=True)]
        seconds = statistics.median(times)
        rows.append(
            {
                "network": network,
                "method": method,
                "seconds": seconds,
                "times_faster": statistics.median(ratios),
                "gigaflops": work / seconds / 1e9,
                "share_of_matrix_rate": work / seconds / rate,
                "psnr": reached[method],
            }
        )
    return rows


def main() -> None:
    """Print the tables, and write them as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)  # a process of its own
    chosen = parser.parse_args()
    device = resolve_device(chosen.device)
    if chosen.kept:
        keep_freed_memory()
        print(json.dumps([row for network in NETWORKS for row in measure(network, device)]))
        return
    rows = [row | {"memory": "as it comes"} for network in NETWORKS for row in measure(network, device)]
    if device.type == "cpu":
        command = [sys.executable, __file__, "--kept", "--device", str(device)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        rows += [row | {"memory": "kept"} for row in json.loads(answer.stdout)]
    for row in rows:
        print(
            f"{row['network']:12} {row['method']:18} {row['memory']:12} {row['seconds']:7.3f} s, "
            f"{row['times_faster']:5.2f} times faster, {row['gigaflops']:7.0f} GFLOP/s, "
            f"{100 * row['share_of_matrix_rate']:3.0f} % of the matrix rate, {row['psnr']:.2f} dB"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
