"""Training runs beside the paper's tables: a small Table 1 for any CPU, precision, what the paper leaves open, depth.

None of them stands in for a cell of the paper's tables.
"""

from collections.abc import Iterator

from ntkbook.configuration import Configuration
from ntkbook.images import SET9
from ntkbook.limits import OF_FIGURE_6
from ntkbook.training_runs import CELLS, Cell, prediction, trained

SMALL_SIDE, SMALL_CHANNELS = 64, 32
SMALL_LARGEST = 2000


def small(image: str, noise_seed: int, cell: Cell, **settings: object) -> Configuration:
    """One cell on the central 64x64 pixels of an image, at most 2000 iterations; the deep networks have 32 channels."""
    chosen = {"crop": SMALL_SIDE, "largest_iteration": SMALL_LARGEST}
    if cell.architecture != "vanilla":
        chosen["channels"] = SMALL_CHANNELS
    return trained(image, noise_seed, cell, **(chosen | settings))


def _small_table() -> Iterator[Configuration]:
    for cell in CELLS:
        for image in SET9:
            run = small(image, 0, cell)
            yield run
            if cell.optimiser == "gd":
                yield prediction(run)


def _precision() -> Iterator[Configuration]:
    """The same run with products in two types: 64x64 pixels, 32 channels, five seeds or twenty; and House whole.

    Two runs of the autoencoder part soonest and differ most, so five pairs of them decide nothing.
    """
    for products in ("float32", "bfloat16"):
        for name in ("autoencoder/adam/image", "autoencoder/adam/noise", "unet/adam/image", "vanilla/adam/image",
                     "vanilla/gd/image"):  # fmt: skip
            longest = 8000 if name.endswith("noise") else SMALL_LARGEST  # long enough for a best before the end
            for seed in range(20 if name.startswith("autoencoder") else 5):
                cell = Cell(*name.split("/"))
                yield small("house", seed, cell, channels=32, products=products, largest_iteration=longest)
        for name in ("vanilla/adam/image", "unet/adam/image", "autoencoder/adam/image"):
            yield trained("house", 0, Cell(*name.split("/")), products=products)


def _open() -> Iterator[Configuration]:
    """What the paper does not print: padding, where the skips add, the scale of the first weights.

    Weights of variance 1/3 over the fan-in, a sixth of He's, are what PyTorch draws when nothing is said; a tenth is
    smaller still.
    """
    rates = {"vanilla": (1e-4, 3e-4), "autoencoder": (1e-3,), "unet": (1e-5, 1e-4), "unet-tenth": (1e-4,)}
    for base, variants in (
        ("unet", ("unet", "unet-features", "unet-zeros", "unet-third", "unet-features-third", "unet-tenth")),
        ("autoencoder", ("autoencoder", "autoencoder-zeros", "autoencoder-third")),
        ("vanilla", ("vanilla", "vanilla-zeros", "vanilla-third")),
    ):
        for variant in variants:
            for rate in rates.get(variant, rates[base]):
                cell = Cell(variant, "adam", "image")
                if base != "vanilla":  # on a crop, two draws of the noise and the weights
                    for seed in range(2):
                        yield small("house", seed, cell, channels=128, learning_rate=rate)
                yield trained("house", 0, cell, learning_rate=rate)


def _predicted() -> Iterator[Configuration]:
    """Every cell of gradient descent on House, and what the kernel at initialisation predicts of it."""
    for cell in CELLS:
        if cell.optimiser == "gd":
            run = trained("house", 0, cell)
            yield run
            yield prediction(run)


def _depths() -> Iterator[Configuration]:
    """Gradient descent at the depths of Figure 6 on the central 64x64 pixels, and what each kernel predicts."""
    for channels in (128, 256):
        for name in OF_FIGURE_6:
            for image in ("house", "f16", "baboon") if channels == 128 else ("house",):
                run = small(image, 0, Cell(name, "gd", "image"), channels=channels)
                yield run
                yield prediction(run)


SMALL = tuple(_small_table())
PRECISION = tuple(_precision())
OPEN = tuple(_open())
PREDICTED = tuple(_predicted())
DEPTHS = tuple(_depths())
