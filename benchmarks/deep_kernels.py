"""The whole tangent kernels of deep networks on a photograph: ours beside neural-tangents, in one run.

Three networks with circular padding: three 3x3 convolutions with relus between, the autoencoder, and the U-Net whose
skip connections add pre-activations; all in the NTK parametrisation. Ours returns the covariance of the output too.
neural-tangents is asked for the tangent kernel only, which is quicker, and may keep its six axes in the order in which
it leaves them. First the tangent kernels must agree, on crops without a symmetry.

How time and memory are measured is told in the folder ``harness``.
"""

# torch and jax are imported where they are used: an interpreter that has one may not have the other.
import functools
import math
import sys

import numpy as np
from harness.comparison import OURS, ROUNDS, as_matrix, crops, main
from harness.comparison import measure as measure_methods
from harness.workers import Arrays, Compute, serve

PEER = "neural-tangents"
DEPTH3, AUTOENCODER, UNET = NETWORKS = ("depth 3", "autoencoder", "U-Net")
SIZES = (32, 64)
TOLERANCES = {"float64": (1e-8, 1e-8), "float32": (1e-3, 1e-3)}
LEVELS = 3  # how often the autoencoder and the U-Net halve the sides


def ours(network: str, arrays: Arrays) -> Compute:
    """The kernels from :func:`ntkbook.kernels.infinite_width`, as a function to call for them."""
    import torch

    from ntkbook.kernels import infinite_width
    from ntkbook.layers import autoencoder, unet, vanilla

    specs = {
        DEPTH3: vanilla(3, 3, output=3, padding="circular"),
        AUTOENCODER: autoencoder(padding="circular"),
        UNET: unet(padding="circular"),
    }
    image = torch.from_numpy(arrays["image"])
    return lambda: infinite_width(specs[network], image)


def peer(network: str, arrays: Arrays) -> Compute:
    """The tangent kernel from the convolutions of neural-tangents, compiled."""
    import jax
    from neural_tangents import stax

    data = jax.device_put(arrays["image"].transpose(1, 2, 0)[None])
    kernels_of = stax.serial(*_layers(network, data.shape[1]))[2]
    compiled = jax.jit(lambda x: kernels_of(x, None, ("ntk", "is_reversed"))).lower(data).compile()
    return lambda: jax.block_until_ready(compiled(data))


METHODS = {OURS: ours, PEER: peer}


def _layers(network: str, side: int) -> tuple:
    # The network in the words of neural-tangents, for square images.
    from neural_tangents import stax

    def conv(size: int) -> tuple:
        return stax.Conv(1, (size, size), padding="CIRCULAR", W_std=math.sqrt(2))

    def resize(level: int) -> tuple:
        return stax.ImageResize((-1, side >> level, side >> level, -1), "linear", antialias=False)

    relu = stax.Relu()
    inner = (conv(3), relu, conv(3))
    if network == DEPTH3:
        return *inner, relu, conv(3)
    for level in reversed(range(LEVELS)):
        if network == AUTOENCODER:
            inner = (conv(3), relu, resize(level + 1), *inner, resize(level), conv(3), relu)
        else:
            branch = stax.serial(relu, resize(level + 1), *inner, resize(level), conv(3))
            sum_of_both = (stax.FanOut(2), stax.parallel(stax.Identity(), branch), stax.FanInSum())
            inner = (conv(3), *sum_of_both, relu)
    return *inner, conv(1)


def tangent_matrix(kernels: object) -> np.ndarray:
    """The tangent kernel of a method as a matrix; neural-tangents may leave it with the pixels' axes exchanged."""
    tangent = np.asarray(kernels.ntk)
    if getattr(kernels, "is_reversed", False):
        tangent = tangent.transpose(0, 1, 4, 5, 2, 3)
    return as_matrix(tangent)


def measure(
    peers: str | None,
    sizes: tuple[int, ...] = SIZES,
    rounds: int = ROUNDS,
    networks: tuple[str, ...] = NETWORKS,
) -> list[dict]:
    """Check and time both methods for each network; see :func:`harness.comparison.measure`.

    Args:
        peers: an interpreter that has neural-tangents, or None for our own rows only.
        sizes: sides of the square crops, multiples of 8.
        rounds: how often each method is timed.
        networks: names of the networks.
    """
    pythons = {OURS: sys.executable} | ({PEER: peers} if peers else {})
    rows = []
    for network in networks:
        rows += measure_methods(__file__, pythons, crops, TOLERANCES, sizes, rounds, {"network": network})
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        method, network, *rest = sys.argv[2:]
        serve(functools.partial(METHODS[method], network), tangent_matrix, *rest)
    else:
        main("The whole tangent kernels of deep networks, ours beside neural-tangents.", measure)
