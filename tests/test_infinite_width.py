"""Kernels of infinitely wide networks are what loops over all pairs of pixels give, however they are cut into tiles."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_kernels import literal_network
from tiny_images import posterised_image, random_image
from torch import Tensor

from ntkbook import checks, gram_matrices
from ntkbook.covariances import INITIALISATIONS, PARAMETRISATIONS
from ntkbook.images import PADDINGS
from ntkbook.kernels import Kernels, PatchKernel, infinite_width, relu_affinity
from ntkbook.layers import MODES, Conv, Downsample, LeakyRelu, Relu, Serial, Skip, Upsample, autoencoder, unet, vanilla

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=15)
ONE, RELU = Conv(1), Relu()


def architectures(padding: str) -> dict[str, Serial]:
    """A network for each kind of layer and each way in which layers can be grouped."""
    conv = Conv(3, padding)
    half, twice = Downsample(2, "nearest"), Upsample(2, "nearest")
    return {
        "one layer": Serial(conv),
        "vanilla": vanilla(3, padding=padding),
        "deeper": vanilla(3, 3, output=3, padding=padding),
        "1x1 alone": Serial(ONE, RELU, ONE, LeakyRelu(0.5), ONE),
        "linear": Serial(conv, conv, ONE, conv),
        "stride": Serial(Conv(3, padding, 2), RELU, Conv(1, padding, 2, bias=0.2)),
        "biases": Serial(Conv(3, padding, bias=0.3), LeakyRelu(), Conv(3, padding, bias=0.0), RELU, Conv(1, bias=1)),
        "variances": Serial(Conv(3, padding, variance=0.7), RELU, Conv(3, padding, variance=1.3)),
        "down and up": Serial(conv, RELU, Downsample(), ONE, RELU, twice, conv, RELU, ONE),
        "Gaussians resampled": Serial(conv, half, RELU, ONE, half, Upsample(), Upsample(), LeakyRelu(), conv),
        "by 4": Serial(conv, RELU, Downsample(), Downsample(), Upsample(4), Conv(3, padding, 2)),
        "skip of Gaussians": Serial(conv, Skip(RELU, conv), RELU, ONE),
        "skip of features": Serial(conv, RELU, Skip(conv, LeakyRelu(0.1)), conv),
        "skip in skip": Serial(ONE, RELU, Skip(half, ONE, RELU, Skip(ONE, RELU), Upsample()), conv, RELU, conv),
        "skips in a row": Serial(conv, Skip(conv), Skip(RELU, conv), RELU, Skip(ONE, RELU), Skip(conv, ONE), ONE),
    }


def agree(found: Kernels, expected, rtol: float = 1e-10) -> None:
    """Both kernels against those of the loops; a tangent kernel without any own term is zero."""
    for name, computed, literal in zip(("11", "12"), (found.nngp, found.ntk), expected.matrices(), strict=True):
        checks.identity(name, computed, literal, rtol, None if literal.any() else 1e-300)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", architectures("zeros"))
def test_kernels_by_loops(name, padding):
    spec, image = architectures(padding)[name], random_image(2, 4, 4)
    parametrisation = {"reflect": "ntk", "zeros": "standard", "circular": "paper"}[padding]
    if parametrisation == "paper" and any(conv.bias is not None for conv in spec.convolutions()):
        parametrisation = "standard"  # the paper has no biases
    found = infinite_width(spec, image, parametrisation, channels=5)
    agree(found, literal_network(spec, image.numpy(), parametrisation, 5))


@pytest.mark.parametrize("spec", [autoencoder(3, "zeros"), unet(3, "circular")], ids=["autoencoder", "unet"])
def test_the_paper_s_networks_by_loops(spec):
    image = random_image(3, 8, 8)
    agree(infinite_width(spec, image, "standard"), literal_network(spec, image.numpy(), "standard"))


@st.composite
def specifications(draw) -> Serial:
    """Random networks that keep the size of their input, even on both sides."""
    padding = draw(st.sampled_from(PADDINGS))
    slopes = st.sampled_from([Relu(), LeakyRelu(0.3), LeakyRelu(1.0)])
    resamplings = st.sampled_from(MODES)
    convs = st.builds(
        Conv, st.sampled_from([1, 3]), st.just(padding), bias=st.sampled_from([None, 0.4]), variance=st.floats(0.5, 3)
    )

    def block(depth: int) -> list:
        conv, relu = draw(convs), draw(slopes)
        kind = draw(st.sampled_from(["plain", "linear", "stride", "resample", "gaussian", "features", "across"]))
        inner = block(depth - 1) if depth else [draw(convs), draw(slopes)]
        down, up = Downsample(2, draw(resamplings)), Upsample(2, draw(resamplings))
        return {
            "plain": [conv, relu],
            "linear": [conv],
            "stride": [Conv(3, padding, 2), up, relu],
            "resample": [conv, relu, down, ONE, up],
            "gaussian": [conv, Skip(relu, draw(convs)), draw(slopes)],
            "features": [conv, relu, Skip(*inner)],
            "across": [conv, relu, Skip(down, ONE, relu, up)],
        }[kind]

    return Serial(*block(1), draw(convs))


@REPRODUCIBLE
@given(
    specifications(),
    st.sampled_from([(1, 4, 6), (3, 4, 4), (2, 6, 4)]),
    st.sampled_from(["ntk", "standard"]),
    st.sampled_from(INITIALISATIONS),
    st.sampled_from([1, 100, 700, 2**18]),
)
def test_random_networks_by_loops(spec, shape, parametrisation, initialisation, entries):
    image = random_image(*shape)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gram_matrices, "TILE_ENTRIES", entries)
        found = infinite_width(spec, image, parametrisation, 7, initialisation)
    agree(found, literal_network(spec, image.numpy(), parametrisation, 7, initialisation))


@REPRODUCIBLE
@given(specifications(), st.sampled_from([random_image, posterised_image]), st.sampled_from(PARAMETRISATIONS[:2]))
def test_kernels_are_symmetric_to_the_last_bit_and_positive_semidefinite(spec, make, parametrisation):
    image = make(2, 6, 8)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gram_matrices, "TILE_ENTRIES", 600)
        found = infinite_width(spec, image, parametrisation)
        single = infinite_width(spec, image.float(), parametrisation)
    for name in ("nngp", "ntk"):
        double, less = getattr(found, name), getattr(single, name)
        assert torch.equal(double, double.T)
        assert torch.equal(less, less.T)
        assert less.dtype == torch.float32
        # The kink at angle 0 of the derivative's map keeps half of the digits where patches repeat.
        torch.testing.assert_close(less.double(), double, rtol=0, atol=2e-3 * double.abs().max().item())
        checks.positive_semidefinite(name, double, rtol=1e-7)


def every_kernel(image: Tensor) -> list[Tensor]:
    """Of architectures with all kinds of groups of layers."""
    chosen = ("deeper", "1x1 alone", "stride", "biases", "Gaussians resampled", "by 4", "skip in skip")
    found = [infinite_width(architectures("reflect")[name], image) for name in chosen]
    return [whole for kernels in found for whole in (kernels.nngp, kernels.ntk)]


def test_threads_do_not_change_a_bit(monkeypatch, threads):
    monkeypatch.setattr(gram_matrices, "TILE_ENTRIES", 24**2)
    image, found = random_image(2, 8, 8), []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(every_kernel(image))
        assert torch.get_num_threads() == count
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_threads_are_as_before_after_an_error(monkeypatch, threads):
    def failing(*_):
        raise RuntimeError("no moments")

    monkeypatch.setattr(gram_matrices, "TILE_ENTRIES", 64)
    monkeypatch.setattr(gram_matrices, "relu_moments", failing)
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="no moments"):
        infinite_width(vanilla(3), random_image(1, 6, 6))
    assert torch.get_num_threads() == 2


@pytest.fixture
def threads():
    """Set the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_tiles_of_any_size_give_the_same(monkeypatch):
    image = random_image(2, 4, 8)
    whole = every_kernel(image)
    for entries in (1, 16**2, 24**2):
        monkeypatch.setattr(gram_matrices, "TILE_ENTRIES", entries)
        for found, expected in zip(every_kernel(image), whole, strict=True):
            checks.identity("tiles", found, expected, rtol=1e-12)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_one_hidden_layer_is_the_patch_kernel(padding, channels):
    """The whole of (16), from another route: the NTK parametrisation adds the first layer, the paper does not."""
    image = random_image(channels, 6, 7)
    patch = [
        PatchKernel(image, 3, functools.partial(relu_affinity, first_layer=share), padding).dense() / (channels * 9)
        for share in (0, 1)
    ]
    spec = vanilla(3, padding=padding)
    ntk, paper = infinite_width(spec, image), infinite_width(spec, image, "paper")
    checks.identity("16", ntk.nngp, 2 * patch[0])
    checks.identity("16", ntk.ntk, 2 * patch[1], rtol=1e-7)
    checks.identity("16", paper.nngp, patch[0])
    checks.identity("16", paper.ntk, patch[0])
    checks.identity("16", infinite_width(spec, image, "standard").ntk, patch[0])
    finite = infinite_width(spec, image, "standard", channels=10).ntk  # the first layer is c0 r^2 / c, r = 3
    checks.identity("16", finite, patch[0] + (patch[1] - patch[0]) * 2 * channels * 9 / 20, rtol=1e-7)
    printed = infinite_width(spec, image, initialisation="printed")
    checks.identity("16", printed.nngp, 2 * channels * patch[0])


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("factor", [1e-3, 40.0])
def test_without_biases_kernels_are_homogeneous_of_degree_two(parametrisation, factor):
    image = random_image(2, 4, 6)
    for spec in (vanilla(3, 3), unet_like()):
        found, scaled = (infinite_width(spec, each, parametrisation) for each in (image, image * factor))
        checks.identity("11", scaled.nngp, factor**2 * found.nngp)
        checks.identity("12", scaled.ntk, factor**2 * found.ntk)


def unet_like() -> Serial:
    """Both kinds of skip connections and resampling."""
    return Serial(Conv(3), Skip(RELU, Downsample(), Conv(1), RELU, Upsample(), Conv(3)), RELU, Skip(Conv(3), RELU), ONE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deep_networks_stay_finite_and_keep_their_scale(dtype):
    """Weights of variance 2 keep the size of features from layer to layer."""
    image = random_image(3, 8, 8, dtype=dtype)
    deep = infinite_width(vanilla(*[3] * 10, padding="circular"), image)
    first = infinite_width(Serial(Conv(3, "circular")), image)
    for whole in (deep.nngp, deep.ntk):
        assert whole.isfinite().all()
    assert deep.nngp.diagonal().mean().item() == pytest.approx(first.nngp.diagonal().mean().item(), rel=1e-4)
    assert deep.ntk.diagonal().mean().item() == pytest.approx(11 * deep.nngp.diagonal().mean().item(), rel=1e-2)
    least = (deep.nngp / deep.nngp.diagonal().sqrt() / deep.nngp.diagonal().sqrt()[:, None]).min()
    assert 0.8 < least < 1 - 1e-3  # cosines go to 1 with depth, (39)


def test_infinitely_many_channels_is_the_limit_of_many():
    image, spec = random_image(2, 5, 5), vanilla(3, 3)
    limit = infinite_width(spec, image, "standard", math.inf).ntk
    gaps = [(infinite_width(spec, image, "standard", c).ntk - limit).norm().item() for c in (10, 100, 1000)]
    checks.rate("first layer", torch.tensor([10.0, 100, 1000]), torch.tensor(gaps), -1)
