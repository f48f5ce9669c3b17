"""The network on one fixed input is the network: its outputs, its gradients, whatever the layers."""

import copy

import pytest
import torch
from tiny_images import random_image
from torch import Tensor, nn

from ntkbook.forward import FixedInput
from ntkbook.layers import Conv, LeakyRelu, Relu, Serial, Skip, autoencoder, unet, vanilla
from ntkbook.limits import ARCHITECTURES
from ntkbook.networks import PARAMETRISATIONS, build

X = random_image(3, 16, 24)
TARGET = random_image(3, 16, 24, seed=1)
BIASED = Serial(Conv(5, bias=0.3), Relu(), Skip(Conv(3, bias=0.2), LeakyRelu()), Conv(1, bias=0.1))


def network(spec: Serial, parametrisation: str = "standard", dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return build(spec, 4, seed=2, parametrisation=parametrisation, dtype=dtype)


def with_gradients(forward, model: nn.Module, target: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of half of the squared distance to the target."""
    output = forward()
    return output.detach(), list(torch.autograd.grad(0.5 * (output - target).square().sum(), list(model.parameters())))


def assert_the_same(model: nn.Sequential) -> None:
    """Output and gradients are those of a copy that is called as networks are."""
    plain = copy.deepcopy(model)
    expected, slopes = with_gradients(lambda: plain(X[None])[0], plain, TARGET)
    output, found = with_gradients(FixedInput(model, X, torch.float64), model, TARGET)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for gradient, slope in zip(found, slopes, strict=True):
        torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-12 * slope.abs().max().item())


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_every_network_of_the_book(name, parametrisation):
    assert_the_same(network(ARCHITECTURES[name], parametrisation))


@pytest.mark.parametrize("padding", ["reflect", "zeros", "circular"])
@pytest.mark.parametrize("make", [lambda p: vanilla(11, 5, padding=p), lambda p: autoencoder(padding=p),
                                  lambda p: unet(padding=p)], ids=["vanilla", "autoencoder", "unet"])  # fmt: skip
def test_it_is_the_network_for_every_padding(make, padding):
    assert_the_same(network(make(padding)))


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize(
    "spec",
    [BIASED, Serial(Conv(3, bias=0.5)), Serial(Conv(1), Relu(), Conv(3)), Serial(Conv(3), Relu(), Conv(3, stride=2))],
    ids=["biases", "one layer", "first layer of single pixels", "a stride in a later layer"],
)
def test_it_is_the_network_with_other_layers(spec, parametrisation, monkeypatch):
    if spec.layers[-1].stride == 2:
        monkeypatch.setattr(f"{__name__}.TARGET", TARGET[:, ::2, ::2])
    assert_the_same(network(spec, parametrisation))


@pytest.mark.parametrize("shape", [(1, 7, 6), (5, 6, 9)])
def test_other_numbers_of_input_channels(shape):
    model, x = build(vanilla(3), 4, inputs=shape[0], dtype=torch.float64), random_image(*shape)
    torch.testing.assert_close(FixedInput(model, x, torch.float64)(), model(x[None])[0], rtol=1e-12, atol=1e-12)


def test_it_follows_the_weights():
    model = network(BIASED, "ntk")
    forward = FixedInput(model, X, torch.float64)
    before = forward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(forward(), before)
    torch.testing.assert_close(forward(), model(X[None])[0], rtol=1e-12, atol=1e-12)


def test_weights_keep_their_values_and_their_names():
    model = network(unet())
    before = copy.deepcopy(model.state_dict())
    FixedInput(model, X, torch.float64)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(after, before[name]) for name, after in model.state_dict().items())


@pytest.mark.parametrize("spec", [vanilla(11), autoencoder(), BIASED], ids=["vanilla", "autoencoder", "biases"])
def test_short_products_are_close_and_come_back_in_the_weights_dtype(spec):
    model = network(spec, dtype=torch.float32)
    x, target = X.float(), TARGET.float()
    expected, slopes = with_gradients(FixedInput(model, x, torch.float32), model, target)
    output, found = with_gradients(FixedInput(model, x, torch.bfloat16), model, target)
    assert output.dtype == torch.float32
    assert 0 < (output - expected).norm() < 0.02 * expected.norm()
    for gradient, slope, weight in zip(found, slopes, model.parameters(), strict=True):
        assert gradient.dtype == weight.dtype == torch.float32
        assert 0 < (gradient - slope).norm() < 0.25 * slope.norm()  # relus flip


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(),
        nn.Sequential(nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3)),
        network(Serial(Conv(3, stride=2), Relu(), Conv(1))),
    ],
    ids=["nothing", "a relu first", "another convolution", "a stride"],
)
def test_what_does_not_start_with_a_plain_convolution_is_refused(model):
    with pytest.raises(ValueError, match=r"^The network must start with a convolution without a stride\.$"):
        FixedInput(model, X, torch.float64)
