"""Finite networks: their weights as stated, and their layers against plain arithmetic."""

import math

import pytest
import torch
from tiny_images import random_image

from ntkbook import checks
from ntkbook.images import PADDINGS, patches
from ntkbook.layers import (
    MODES,
    UNET,
    VANILLA,
    Conv,
    Downsample,
    LeakyRelu,
    Relu,
    Serial,
    Skip,
    Upsample,
    autoencoder,
    unet,
    vanilla,
)
from ntkbook.networks import Resample, build, shapes, weight_count

DOUBLE = torch.float64
BIASED = Serial(Conv(3, bias=0.5), LeakyRelu(0.1), Skip(Conv(3, bias=0.0, variance=1.0)), Conv(1))


def out(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """The output for one image."""
    with torch.no_grad():
        return network(image[None])[0]


@pytest.mark.parametrize("initialisation", ["he", "printed"])
@pytest.mark.parametrize("spec", [vanilla(11), autoencoder(), BIASED], ids=["vanilla", "autoencoder", "biased"])
def test_weights_have_the_variance_that_the_layer_says(spec, initialisation):
    network = build(spec, 64, initialisation=initialisation)
    modules = [module for module in network.modules() if hasattr(module, "layer")]
    for index, (module, conv) in enumerate(zip(modules, spec.convolutions(), strict=True)):
        weight = module.weight.detach().double()
        fan_in = conv.size**2 * weight.shape[1]
        if index == 0 and initialisation == "printed":
            fan_in = conv.size**2  # Section 3.1: without the input's channels
        ratios = weight.square() * fan_in / conv.variance
        assert abs(ratios.mean() - 1) < 4 * math.sqrt(2 / weight.numel())
        assert abs(weight.mean()) < 4 * math.sqrt(conv.variance / fan_in / weight.numel())
        if conv.bias is None:
            assert module.bias is None
        else:
            assert module.bias.detach().square().mean().sqrt().item() == pytest.approx(conv.bias, rel=0.4)


@pytest.mark.parametrize("initialisation", ["he", "printed"])
@pytest.mark.parametrize("spec", [BIASED, unet(3, "zeros")], ids=["biased", "unet"])
def test_both_parametrisations_are_the_same_function_at_initialisation(spec, initialisation):
    image = random_image(2, 8, 8)
    common = {"inputs": 2, "outputs": 4, "seed": 3, "initialisation": initialisation, "dtype": DOUBLE}
    standard, ntk = (build(spec, 6, parametrisation=each, **common) for each in ("standard", "ntk"))
    checks.identity("initial function", out(ntk, image), out(standard, image))
    pairs = zip(standard.parameters(), ntk.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_parameters_of_the_ntk_parametrisation_are_standard_normal():
    network = build(autoencoder(), 32, parametrisation="ntk")
    for parameter in network.parameters():
        assert abs(parameter.detach().square().mean() - 1) < 4 * math.sqrt(2 / parameter.numel())


def test_weights_depend_on_the_seed_alone():
    def weights(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in build(BIASED, 8, seed=seed, dtype=dtype).parameters()])

    torch.manual_seed(1)
    first = weights(5)
    torch.manual_seed(2)
    assert torch.equal(weights(5), first)
    assert not torch.equal(weights(6), first)
    torch.testing.assert_close(weights(5, DOUBLE).float(), first, rtol=1e-6, atol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_convolution_is_a_product_with_patches(padding, size, stride):
    image = random_image(2, 6, 8)
    network = build(Serial(Conv(size, padding, stride, bias=0.3)), 1, 2, 4, dtype=DOUBLE)
    weight, bias = network[0].weight.detach(), network[0].bias.detach()
    whole = (patches(image, size, padding) @ weight.flatten(1).T + bias).T.unflatten(1, (6, 8))
    checks.identity("1", out(network, image), whole[:, ::stride, ::stride])


@pytest.mark.parametrize("spec", [VANILLA, vanilla(3, 5, output=3, padding="circular")], ids=["vanilla", "deeper"])
def test_a_plain_network_layer_by_layer(spec):
    image = random_image(3, 11, 12)
    network = build(spec, 5, dtype=DOUBLE)
    expected = image
    for layer, module in zip(spec, network, strict=True):
        if isinstance(layer, Conv):
            expected = patches(expected, layer.size, layer.padding) @ module.weight.detach().flatten(1).T
            expected = expected.T.unflatten(1, (11, 12))
        else:
            expected = expected.clamp_min(0)
    checks.identity("2, 3", out(network, image), expected)


def test_a_leaky_relu_keeps_its_share_of_negative_values():
    network = build(Serial(Conv(1), LeakyRelu(0.3), Conv(1)), 4, 2, 1, dtype=DOUBLE)
    image = random_image(2, 3, 4)
    before = torch.einsum("oi,ihw->ohw", network[0].weight.detach()[:, :, 0, 0], image)
    after = before.clamp_min(0) + 0.3 * before.clamp_max(0)
    checks.identity("slope", out(network, image), torch.einsum("oi,ihw->ohw", network[2].weight[:, :, 0, 0], after))


@pytest.mark.parametrize("factor", [2, 3])
def test_resampling_by_hand(factor):
    image = random_image(2, 12, 6)

    def resampled(layer: Downsample | Upsample) -> torch.Tensor:
        return Resample(layer)(image[None])[0]

    def along(values: torch.Tensor) -> torch.Tensor:
        # Samples between the two nearest centres, the border continued; the last axis.
        length = values.shape[-1]
        columns = []
        for k in range(length * factor):
            place = min(max((k + 0.5) / factor - 0.5, 0), length - 1)
            left = min(int(place), length - 2)
            share = place - left
            columns.append((1 - share) * values[..., left] + share * values[..., left + 1])
        return torch.stack(columns, dim=-1)

    assert torch.equal(resampled(Downsample(factor, "nearest")), image[:, ::factor, ::factor])
    blocks = image.unflatten(2, (-1, factor)).unflatten(1, (-1, factor))  # (channels, rows, factor, columns, factor)
    centre = blocks.mean(dim=(2, 4)) if factor == 2 else blocks[:, :, 1, :, 1]
    checks.identity("71", resampled(Downsample(factor)), centre)
    repeated = image.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    assert torch.equal(resampled(Upsample(factor, "nearest")), repeated)
    checks.identity("72", resampled(Upsample(factor)), along(along(image).mT).mT)


def test_a_skip_connection_adds_the_input():
    network = build(Serial(Conv(3), Skip(Relu(), Conv(3), Skip(Conv(1))), Conv(1)), 4, 2, 1, dtype=DOUBLE)
    hidden = out(network[:1], random_image(2, 5, 5))
    relu, conv, inner = network[1].branch
    between = conv(relu(hidden[None]))[0]
    expected = hidden + between + inner.branch[0](between[None])[0]
    checks.identity("skip", out(network[1:2], hidden), expected.detach())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", [UNET, unet(features=True), autoencoder(), VANILLA])
def test_shapes_of_outputs_and_weights(spec, mode):
    network = build(spec, 4, inputs=2, outputs=5)
    assert network(torch.zeros(3, 2, 16, 24)).shape == (3, 5, 16, 24)
    expected = shapes(spec, 4, 2, 5)
    assert [tuple(p.shape) for p in network.parameters()] == expected
    assert expected[0][1] == 2
    assert expected[-1][0] == 5
    assert weight_count(spec, 4, 2, 5) == sum(map(math.prod, expected))


def test_biases_are_counted():
    assert weight_count(BIASED, 4, 2, 5) == 4 * 2 * 9 + 4 + 4 * 4 * 9 + 4 + 5 * 4
    assert sum(p.numel() for p in build(BIASED, 4, 2, 5).parameters()) == weight_count(BIASED, 4, 2, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parametrisation": "paper"}, "Unknown parametrisation 'paper' of a network; accepted are standard, ntk."),
        ({"initialisation": "xavier"}, "Unknown initialisation 'xavier'; accepted are he, printed."),
        ({"channels": 0}, "The number of channels must be at least 1, not 0."),
        ({"inputs": 0}, "The number of inputs must be at least 1, not 0."),
        ({"outputs": -1}, "The number of outputs must be at least 1, not -1."),
        ({"spec": Serial(Conv(3), Relu())}, "A network must end with a convolution"),
        ({"spec": Conv(3)}, "A specification is a Serial of layers, not a Conv."),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build(**({"spec": VANILLA, "channels": 4} | change))
