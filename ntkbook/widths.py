r"""What vanishes as a network gets wider: gradient descent for a fixed :math:`t\,\eta\,\lambda_{\max}`.

Each run trains one network on a small crop with the step 1 over the largest eigenvalue of its own tangent kernel, and
measures how far each layer's weights moved, :eq:`eq-ntk-8`, and how far the output is from two kinds of twicing,
:eq:`eq-ntk-9`: with the network's own kernel at initialisation, and with the kernel of the limit.
"""

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from ntkbook.configuration import Configuration
from ntkbook.filters import SpectralFilter
from ntkbook.images import centre, psnr, to_image, to_matrix, uncentre
from ntkbook.kernels import infinite_width
from ntkbook.layers import AUTOENCODER, Serial, vanilla
from ntkbook.networks import build
from ntkbook.problems import Outcome, Problem
from ntkbook.tangent import EmpiricalKernel
from ntkbook.training import gradient_descent

ARCHITECTURES: Mapping[str, Serial] = {"vanilla-4x3": vanilla(3, 3, 3, output=3), "autoencoder": AUTOENCODER}
TIMES = (1, 3, 10, 30)


def weight_changes(before: Iterable[Tensor], after: Iterable[Tensor]) -> list[dict[str, float]]:
    r"""How far the weights of each layer moved, the left side of :eq:`eq-ntk-8`.

    Args:
        before: weights of each layer.
        after: the same shapes.

    Returns:
        For each layer: ``l2``, the Euclidean norm of the change; ``rms``, its root mean square over the single weights;
        and ``max``, the largest absolute change.
    """
    changes = [(new - old).detach().double() for old, new in zip(before, after, strict=True)]
    return [
        {"l2": c.norm().item(), "rms": c.square().mean().sqrt().item(), "max": c.abs().max().item()} for c in changes
    ]


def twicing_by_products(kernel: EmpiricalKernel, noisy: Tensor, step: float, times: Iterable[int]) -> Iterator[Tensor]:
    """Twicing :eq:`eq-ntk-5` from 0 with a network's own kernel times a step, at ascending times."""
    estimate, done = noisy.new_zeros(noisy.shape), 0
    for wanted in times:
        for _ in range(wanted - done):
            estimate = estimate + step * kernel.product(noisy - estimate)
        done = wanted
        yield estimate


def twicing_in_the_limit(spec: Serial, noisy: Tensor, times: Iterable[int]) -> Iterator[Tensor]:
    """The same with the kernel of infinitely many channels, standard parametrisation, over its largest eigenvalue."""
    kernel = infinite_width(spec, noisy.double(), "standard").ntk
    spectral = SpectralFilter.from_matrix(kernel).scaled()
    for t in times:
        yield to_image(spectral.apply(to_matrix(noisy).double(), t), *noisy.shape[1:]).to(noisy)


def distance(estimate: Tensor, reference: Tensor) -> float:
    """Euclidean norm of the difference over that of the reference."""
    return ((estimate - reference).norm() / reference.norm()).item()


def run(configuration: Configuration, given: Problem) -> Outcome:
    """Train one network at one width; the curve is the PSNR of gradient descent."""
    settings, noisy = configuration.settings, centre(given.noisy)
    times = settings["times"]
    spec = ARCHITECTURES[configuration.architecture]
    network = build(spec, settings["channels"], seed=settings["weights_seed"]).to(noisy)
    kernel = EmpiricalKernel(network, noisy)
    largest = kernel.largest_eigenvalue()
    before = [p.detach().clone() for p in network.parameters()]
    trained = dict(gradient_descent(network, noisy, noisy, 1 / largest, times))
    numbers = {"largest_eigenvalue": largest}
    numbers["largest_eigenvalue_after"] = EmpiricalKernel(network, noisy).largest_eigenvalue()
    for layer, change in enumerate(weight_changes(before, network.parameters()), start=1):
        numbers |= {f"{name}_{layer}": value for name, value in change.items()}
    references = {
        "own": twicing_by_products(kernel, noisy, 1 / largest, times),
        "limit": twicing_in_the_limit(spec, noisy, times),
    }
    for name, estimates in references.items():
        for (t, output), estimate in zip(trained.items(), estimates, strict=True):
            numbers[f"{name}_{t}"] = distance(output, estimate)
            numbers[f"{name}_largest_{t}"] = (output - estimate).abs().max().item()
            numbers[f"{name}_psnr_{t}"] = psnr(uncentre(estimate), given.clean)
    return Outcome({t: psnr(uncentre(output), given.clean) for t, output in trained.items()}, numbers)


def planned(architecture: str, side: int, channels: int, seed: int) -> Configuration:
    """One run on the central crop of House; the seed is that of the weights."""
    settings = {"crop": side, "channels": channels, "weights_seed": seed, "times": TIMES}
    return Configuration("width", "house", 0, 25, architecture, "image", "float32", settings)


def _plan() -> Iterator[Configuration]:
    for seed in range(10):
        yield from (planned("vanilla-4x3", 16, channels, seed) for channels in (64, 128, 256, 512, 1024))
    for seed in range(10):
        yield from (planned("autoencoder", 32, channels, seed) for channels in (64, 128, 256, 512))


PLAN = tuple(_plan())
