"""Gradient descent on a crop, and what two tangent kernels predict of it: the network's own and the infinite one's.

Three runs belong together: ``descent`` trains a finite network; ``lazy`` iterates its tangent kernel at
initialisation as a filter; ``whole`` iterates the kernel of the limit. All have z = 0 at the start and a largest
eigenvalue of 1, so that iterations compare.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ntkbook import depth
from ntkbook.configuration import Configuration
from ntkbook.images import centre, psnr, to_image, to_matrix, uncentre
from ntkbook.kernels import infinite_width
from ntkbook.lanczos import KrylovFilter, lanczos
from ntkbook.layers import AUTOENCODER, UNET, VANILLA, Serial, autoencoder, unet, vanilla
from ntkbook.networks import build
from ntkbook.problems import LARGEST_ITERATION, Outcome, Problem, network_input
from ntkbook.stopping import iteration_grid
from ntkbook.tangent import EmpiricalKernel
from ntkbook.training import gradient_descent

PLAIN = {"vanilla": VANILLA, "autoencoder": AUTOENCODER, "unet": UNET, "unet-features": unet(features=True)}
OF_FIGURE_6 = {
    f"vanilla-{'-'.join(map(str, sizes))}-{reading}": spec
    for sizes in depth.SPLITS
    for reading, spec in depth.networks(sizes, "reflect").items()
}
ARCHITECTURES: Mapping[str, Serial] = {
    **PLAIN,
    **OF_FIGURE_6,
    "vanilla-zeros": vanilla(11, padding="zeros"),
    "autoencoder-zeros": autoencoder(padding="zeros"),
    "unet-zeros": unet(padding="zeros"),
    "vanilla-third": VANILLA.with_variance(1 / 3),
    "autoencoder-third": AUTOENCODER.with_variance(1 / 3),
    "unet-third": UNET.with_variance(1 / 3),
    "unet-features-third": unet(features=True).with_variance(1 / 3),
    "unet-tenth": UNET.with_variance(0.1),
}
PER_DECADE = 8


def _times(configuration: Configuration) -> tuple[int, ...]:
    return iteration_grid(configuration.settings["largest_iteration"], PER_DECADE)


def filtered(krylov: KrylovFilter, given: Problem, times: Sequence[int], start: Tensor | float = 0.0) -> Outcome:
    """The PSNR of twicing by Lanczos' method, and by how much the last quarter of its steps still changes the best.

    Args:
        krylov: started from the centred noisy image less ``start``, as a matrix (pixels, channels) or one long column.
        given: the problem.
        times: numbers of iterations.
        start: :math:`z^0`, of the image's shape.
    """
    fewer = krylov.truncated(krylov.tridiagonal.shape[-1] * 3 // 4)

    def quality(found: KrylovFilter, t: int) -> float:
        estimate = found.apply(t)
        shape = given.noisy.shape
        image = to_image(estimate, *shape[1:]) if estimate.shape[1] > 1 else estimate.view(shape)
        return psnr(uncentre(image + start), given.clean)

    curve = {t: quality(krylov, t) for t in times}
    best = max(curve, key=curve.get)
    return Outcome(curve, {"change_from_last_quarter_of_steps_db": abs(curve[best] - quality(fewer, best))})


def _with_largest(
    krylov: KrylovFilter, configuration: Configuration, given: Problem, start: Tensor | float = 0.0
) -> Outcome:
    outcome = filtered(krylov, given, _times(configuration), start)
    return replace(outcome, numbers={**outcome.numbers, "largest_eigenvalue": krylov.largest})


def run_whole(configuration: Configuration, given: Problem) -> Outcome:
    """Twicing with the whole kernel of the infinitely wide network."""
    settings, noisy = configuration.settings, centre(given.noisy)
    kernel = infinite_width(
        ARCHITECTURES[configuration.architecture],
        noisy,
        settings["parametrisation"],
        settings.get("channels", float("inf")),
    ).ntk
    krylov = lanczos(lambda vectors: kernel @ vectors, to_matrix(noisy), settings["lanczos_steps"])
    return _with_largest(krylov, configuration, given)


def run_lazy(configuration: Configuration, given: Problem) -> Outcome:
    """Twicing with the tangent kernel of the finite network at initialisation: what gradient descent does if lazy.

    With the image as input it starts at 0, with noise at the network's first output, as training does.
    """
    noisy, x = centre(given.noisy), network_input(configuration, given.noisy)
    kernel = EmpiricalKernel(_network(configuration).to(x), x)
    start = kernel.output if configuration.input == "noise" else torch.zeros_like(noisy)
    krylov = lanczos(lambda v: kernel @ v, (noisy - start).reshape(-1, 1), configuration.settings["lanczos_steps"])
    return _with_largest(krylov, configuration, given, start)


def run_descent(configuration: Configuration, given: Problem) -> Outcome:
    """Gradient descent with the step 1 / largest eigenvalue of the tangent kernel at initialisation."""
    noisy = centre(given.noisy)
    network = _network(configuration).to(noisy)
    largest = EmpiricalKernel(network, noisy).largest_eigenvalue()
    curve = {
        t: psnr(uncentre(output), given.clean)
        for t, output in gradient_descent(network, noisy, noisy, 1 / largest, _times(configuration))
    }
    after = EmpiricalKernel(network, noisy).largest_eigenvalue()
    return Outcome(curve, {"largest_eigenvalue": largest, "largest_eigenvalue_after": after})


def _network(configuration: Configuration) -> nn.Module:
    settings = configuration.settings
    return build(ARCHITECTURES[configuration.architecture], settings["channels"], seed=settings["weights_seed"])


def crop(method: str, image: str, architecture: str, side: int, **settings: object) -> Configuration:
    """The configuration of one run on the central crop of an image; ``method`` is one of the three."""
    chosen: dict[str, object] = {"crop": side, "largest_iteration": LARGEST_ITERATION}
    if method == "whole":
        chosen |= {"parametrisation": "standard", "lanczos_steps": 500}
    else:
        chosen["weights_seed"] = 0
    return Configuration(method, image, 0, 25, architecture, "image", "float32", chosen | settings)


def _plan() -> Iterator[Configuration]:
    for image in ("house", "f16", "baboon"):
        yield from (crop("whole", image, architecture, 64) for architecture in (*PLAIN, *OF_FIGURE_6))
    for channels in (32, 64, 128, 256):
        for seed in range(3):
            settings = {"channels": channels, "weights_seed": seed, "lanczos_steps": 150, "largest_iteration": 3000}
            yield crop("lazy", "house", "unet", 64, **settings)
    for architecture, channels in (("vanilla", 512), ("unet", 64), ("autoencoder", 64)):
        settings = {"channels": channels, "lanczos_steps": 150, "largest_iteration": 3000}
        if architecture != "unet":  # the U-Net's is above
            yield crop("lazy", "house", architecture, 64, **settings)
        del settings["lanczos_steps"]
        yield crop("descent", "house", architecture, 64, **settings)
    yield from (crop("whole", "house", architecture, 128) for architecture in PLAIN)
    yield crop("whole", "house", "unet", 32)
    for channels in (64, 256, 1024):  # a smaller crop, for more channels
        for seed in range(2):
            settings = {"channels": channels, "weights_seed": seed, "lanczos_steps": 100, "largest_iteration": 3000}
            yield crop("lazy", "house", "unet", 32, **settings)


def _finite_width() -> Iterator[Configuration]:
    def pair(side: int, channels: int, seed: int) -> Iterator[Configuration]:
        settings = {"channels": channels, "weights_seed": seed, "largest_iteration": 400}
        yield crop("descent", "house", "vanilla", side, **settings)
        yield crop("lazy", "house", "vanilla", side, lanczos_steps=60, **settings)

    for side in (64, 128):
        yield crop("whole", "house", "vanilla", side)
        for settings in ({"channels": 512}, {"parametrisation": "ntk"}):
            yield crop("whole", "house", "vanilla", side, **settings)
    for seed in range(3):
        for channels in (128, 256, 512, 1024, 2048, 4096):
            yield from pair(64, channels, seed)
    for seed in range(3):
        yield from pair(128, 512, seed)
    yield from pair(128, 2048, 0)
    for seed in range(3):  # the whole image
        yield from pair(256, 512, seed)


PLAN = tuple(_plan())
FINITE_WIDTH = tuple(_finite_width())
