"""The whole tangent kernel of the vanilla network on a photograph: ours beside neural-tangents, in one run.

The network is an 11x11 convolution, relu and a 1x1 convolution, both trained, with circular padding; its kernel is
the pixels x pixels Gram matrix. neural-tangents has it in two ways: from its convolutions, and from its dense layers
on the patches, for which the patches are a gift: neither their extraction nor bringing the convolutions' six axes into
a matrix counts in its time. First all must agree, on crops without a symmetry and up to one known factor.

How time and memory are measured is told in the folder ``harness``.
"""

# torch and jax are imported where they are used: an interpreter that has one may not have the other.
import functools
import sys

import numpy as np
from harness.comparison import OURS, ROUNDS, as_matrix, crops, main
from harness.comparison import measure as measure_methods
from harness.workers import WARM, Arrays, Compute, serve

CONV = "neural-tangents, Conv"
DENSE = "neural-tangents, Dense on patches"
PATCH = 11
SIZES = (32, 64)
TOLERANCES = {"float64": (1e-8, 1e-7), "float32": (1e-3, 1e-3)}  # at cosine 1 the angle is the square root of rounding
FACTOR = 2 * 3 * PATCH**2  # neural-tangents averages over a patch's entries, and its relu leaves half


def ours(arrays: Arrays) -> Compute:
    """The kernel from :class:`ntkbook.kernels.PatchKernel`, as a function to call for it."""
    import torch

    from ntkbook.kernels import PatchKernel, relu_affinity

    affinity = functools.partial(relu_affinity, first_layer=1.0)
    image = torch.from_numpy(arrays["image"])
    return lambda: PatchKernel(image, PATCH, affinity, padding="circular").dense()


def convolutions(arrays: Arrays) -> Compute:
    """The kernel from the convolutions of neural-tangents, with all pixels' covariances."""
    from neural_tangents import stax

    first = stax.Conv(1, (PATCH, PATCH), padding="CIRCULAR")
    network = stax.serial(first, stax.Relu(), stax.Conv(1, (1, 1)))
    return _compiled(network, arrays["image"].transpose(1, 2, 0)[None])


def dense_layers(arrays: Arrays) -> Compute:
    """The kernel from the dense layers of neural-tangents, the patches taken as its data."""
    from neural_tangents import stax

    return _compiled(stax.serial(stax.Dense(1), stax.Relu(), stax.Dense(1)), arrays["patches"])


METHODS = {OURS: ours, CONV: convolutions, DENSE: dense_layers}


def _compiled(network: tuple, data: np.ndarray) -> Compute:
    import jax

    data = jax.device_put(data)
    kernel = jax.jit(lambda x: network[2](x, None, "ntk")).lower(data).compile()
    return lambda: kernel(data).block_until_ready()


def in_our_units(method: str, kernel: object) -> np.ndarray:
    """The kernel of a method as a matrix, in units of ours."""
    matrix = as_matrix(kernel)
    return matrix if method == OURS else matrix * FACTOR


def inputs(size: int, precision: str) -> Arrays:
    """A crop and a smaller one, and the patches of both."""
    import torch

    from ntkbook.images import patches

    images = crops(size, precision)
    return images | {
        f"{prefix}patches": patches(torch.from_numpy(images[f"{prefix}image"]), PATCH, "circular").contiguous().numpy()
        for prefix in ("", WARM)
    }


def measure(peers: str | None, sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS) -> list[dict]:
    """Check and time each method; see :func:`harness.comparison.measure`.

    Args:
        peers: an interpreter that has neural-tangents, or None for our own rows only.
        sizes: sides of the square crops.
        rounds: how often each method is timed.
    """
    pythons = {OURS: sys.executable} | ({CONV: peers, DENSE: peers} if peers else {})
    return measure_methods(__file__, pythons, inputs, TOLERANCES, sizes, rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        method, *rest = sys.argv[2:]
        serve(METHODS[method], functools.partial(in_our_units, method), *rest)
    else:
        main("The whole tangent kernel, ours beside neural-tangents.", measure)
