"""The whole tangent kernel of the vanilla network on a photograph: ours beside neural-tangents, in one run.

The network is an 11x11 convolution, relu and a 1x1 convolution, both trained, with circular padding; its kernel is
the pixels x pixels Gram matrix. neural-tangents has it in two ways: from its convolutions, and from its dense layers
on the patches, for which the patches are a gift: neither their extraction nor bringing the convolutions' six axes into
a matrix counts in its time. First all must agree, on crops without a symmetry and up to one known factor.

Each method works in a process of its own, on the same cores, and is ready (jax: compiled) before it is timed. Repeats
are taken in turn, so that a machine that slows down slows all; trust the ratios. Memory is how far the process grew
while it computed its first kernel, the kernel included. Linux only.

neural-tangents is optional and needs an old jax, so it lives in an environment of its own: see ``--peers``.
"""

# torch and jax are imported where they are used: an interpreter that has one may not have the other.
import argparse
import contextlib
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

OURS = "ntkbook"
CONV = "neural-tangents, Conv"
DENSE = "neural-tangents, Dense on patches"
PATCH = 11
SIZES = (32, 64)
WARM_UP = 16  # side of the crop on which libraries load what they load at first use
TOLERANCES = {"float64": 1e-8, "float32": 1e-3}  # the precision that the other is compared with comes first
DIAGONAL_TOLERANCES = {"float64": 1e-7, "float32": 1e-3}  # at cosine 1 the angle is the square root of rounding
FACTOR = 2 * 3 * PATCH**2  # neural-tangents averages over a patch's entries, and its relu leaves half
ROUNDS = 5
ROUND_SECONDS = 0.2  # quick methods are called several times in a round
INSTALL = 'pip install neural-tangents==0.6.5 "jax<0.6" "jaxlib<0.6"'


def ours(image: np.ndarray, _: np.ndarray) -> Callable[[], np.ndarray]:
    """The kernel from :class:`ntkbook.kernels.PatchKernel`, as a function to call for it."""
    import torch

    from ntkbook.kernels import PatchKernel, relu_affinity

    affinity = functools.partial(relu_affinity, first_layer=1.0)
    return lambda: PatchKernel(torch.from_numpy(image), PATCH, affinity, padding="circular").dense()


def convolutions(image: np.ndarray, _: np.ndarray) -> Callable[[], np.ndarray]:
    """The kernel from the convolutions of neural-tangents, with all pixels' covariances."""
    from neural_tangents import stax

    first = stax.Conv(1, (PATCH, PATCH), padding="CIRCULAR")
    return _compiled(stax.serial(first, stax.Relu(), stax.Conv(1, (1, 1))), image.transpose(1, 2, 0)[None])


def dense_layers(_: np.ndarray, patches: np.ndarray) -> Callable[[], np.ndarray]:
    """The kernel from the dense layers of neural-tangents, the patches taken as its data."""
    from neural_tangents import stax

    return _compiled(stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)), patches)


METHODS = {OURS: ours, CONV: convolutions, DENSE: dense_layers}


def _compiled(network: tuple, data: np.ndarray) -> Callable[[], np.ndarray]:
    import jax

    data = jax.device_put(data)
    kernel = jax.jit(lambda x: network[2](x, None, "ntk")).lower(data).compile()
    return lambda: kernel(data).block_until_ready()


def as_matrix(kernel: np.ndarray) -> np.ndarray:
    """A kernel of any method as a matrix, pixels x pixels."""
    kernel = np.asarray(kernel)
    if kernel.ndim == 6:  # (1, 1, height, height, width, width)
        kernel = kernel[0, 0].transpose(0, 2, 1, 3)
        kernel = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
    return kernel


def deviations(kernel: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Largest difference of two kernels off and on the diagonal, relative to the two patches' entries there."""
    scale = np.sqrt(reference.diagonal())
    relative = np.abs(kernel - reference) / scale / scale[:, None]
    diagonal = float(relative.diagonal().max())
    np.fill_diagonal(relative, 0)
    return float(relative.max()), diagonal


def check(kernel: np.ndarray, reference: np.ndarray, precision: str) -> dict[str, float]:
    """Assert that two kernels agree, and say how well."""
    off, on = deviations(kernel, reference)
    assert off < TOLERANCES[precision], f"kernels differ by {off:.1e} in {precision}"
    assert on < DIAGONAL_TOLERANCES[precision], f"kernels differ by {on:.1e} on the diagonal in {precision}"
    return {"deviation": off, "deviation_diagonal": on}


def serve(method: str, precision: str, threads: int, inputs: str) -> None:
    """Compute on command, one a line: ``memory`` (first), ``time``, or ``save`` and a file; answers are JSON lines."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before jax counts the cores
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(precision == "float64")}
    with np.load(inputs, allow_pickle=False) as arrays:
        METHODS[method](arrays["warm_image"], arrays["warm_patches"])()
        compute = METHODS[method](arrays["image"], arrays["patches"])
    answers = {"memory": _growth, "time": _seconds, "save": _save}
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(answers[command](compute, *arguments)), flush=True)


def _growth(compute: Callable[[], np.ndarray]) -> float:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = peak_bytes()
    compute()
    return (peak_bytes() - before) / 10**6


def peak_bytes() -> int:
    """Peak resident memory of this process so far; unlike ``ru_maxrss`` without its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _seconds(compute: Callable[[], np.ndarray]) -> float:
    calls, started = 0, time.perf_counter()
    while not calls or time.perf_counter() - started < ROUND_SECONDS:
        compute()
        calls += 1
    return (time.perf_counter() - started) / calls


def _save(compute: Callable[[], np.ndarray], path: str) -> str:
    kernel = as_matrix(compute())
    np.save(path, kernel)
    return str(kernel.dtype)


class Worker:
    """A process that computes one kernel by one method, whenever it is asked."""

    def __init__(self, python: str, method: str, precision: str, threads: int, inputs: Path) -> None:
        self.method = method
        self.log = inputs.with_name(f"{method}.log")
        command = [python, __file__, "--serve", method, precision, str(threads), str(inputs)]
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

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # the end of its commands
        self.process.wait()
        self.process.stdout.close()


def write_inputs(path: Path, size: int, precision: str) -> None:
    """Store a crop of lena that no reflection leaves alone, its patches, and a smaller crop of both."""
    import torch

    from ntkbook.images import centre, patches, photograph

    whole = centre(photograph("lena").pixels).to(getattr(torch, precision))
    arrays = {}
    for prefix, side in (("", size), ("warm_", WARM_UP)):
        crop = whole[:, 100 : 100 + side, 60 : 60 + side].contiguous()
        arrays[f"{prefix}image"] = crop.numpy()
        arrays[f"{prefix}patches"] = patches(crop, PATCH, "circular").contiguous().numpy()
    np.savez(path, **arrays)


def kernel_of(worker: Worker, precision: str) -> np.ndarray:
    """The worker's kernel, in units of ours."""
    path = worker.log.with_suffix(".npy")
    dtype = worker.ask("save", str(path))
    assert dtype == precision, f"{worker.method} computed in {dtype}, not in {precision}"
    kernel = np.load(path, allow_pickle=False)
    return kernel if worker.method == OURS else kernel * FACTOR


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


def measure(peers: str | None, sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS) -> list[dict]:
    """Check and time each method at each size in both precisions.

    Args:
        peers: an interpreter that has neural-tangents, or None for our own rows only.
        sizes: sides of the square crops.
        rounds: how often each method is timed; one round times all.

    Returns:
        One row for each, ready for JSON: method, precision, size, seconds, ratio (to ours of the same precision and
        size), memory_mb (in 10^6 bytes), deviation (from ours in float64, off the diagonal) and deviation_diagonal.

    Raises:
        AssertionError: two kernels differ by more than rounding.
    """
    import torch

    pythons = {OURS: sys.executable} | ({CONV: peers, DENSE: peers} if peers else {})
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "inputs.npz")
        for size in sizes:
            reference = None
            for precision in TOLERANCES:
                write_inputs(inputs, size, precision)
                with contextlib.ExitStack() as stack:
                    workers = [
                        stack.enter_context(Worker(python, method, precision, torch.get_num_threads(), inputs))
                        for method, python in pythons.items()
                    ]
                    for worker, found in zip(workers, compare(workers, rounds), strict=True):
                        kernel = kernel_of(worker, precision)
                        reference = kernel if reference is None else reference
                        named = {"method": worker.method, "precision": precision, "size": size}
                        rows.append(named | found | check(kernel, reference, precision))
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
        f"{'method':34} {'precision':9} {'size':>5} {'seconds':>9} {'ratio':>8} {'extra MB':>9} "
        f"{'deviation':>10} {'on diagonal':>12}"
    )
    for row in rows:
        print(
            f"{row['method']:34} {row['precision']:9} {row['size']:2d}x{row['size']:2d} {row['seconds']:9.4f} "
            f"{row['ratio']:6.1f} x {row['memory_mb']:9.0f} {row['deviation']:10.1e} {row['deviation_diagonal']:12.1e}"
        )


def main() -> None:
    """Compare, print the table and, if asked to, write it."""
    parser = argparse.ArgumentParser(description="The whole tangent kernel, ours beside neural-tangents.")
    parser.add_argument("--peers", metavar="PYTHON", default=sys.executable, help=f"an interpreter with: {INSTALL}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the machine and the rows here")
    options = parser.parse_args()
    found = versions(options.peers)
    if found is None:
        print(f"no neural-tangents here, ours alone: {INSTALL} in another environment, then --peers ITS_PYTHON")
    described = machine() | (found or {"neural-tangents": None, "jax": None})
    print(", ".join(f"{name} {value}" for name, value in described.items()))
    rows = measure(options.peers if found else None)
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": described, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        main()
