"""Architectures as data: what is accepted, what is refused, and the paper's three networks."""

import math
import re

import pytest
from torch import nn

from ntkbook.layers import (
    AUTOENCODER,
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
    check_network,
    unet,
    vanilla,
)
from ntkbook.networks import build, weight_count
from ntkbook.paper import TRAINABLE_WEIGHTS

NETWORKS = {"vanilla": (VANILLA, 512), "autoencoder": (AUTOENCODER, 128), "unet": (UNET, 128)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv(4), "The size of a convolution must be odd and at least 1, not 4."),
        (lambda: Conv(0), "The size of a convolution must be odd and at least 1, not 0."),
        (lambda: Conv(-3), "odd and at least 1, not -3."),
        (lambda: Conv(3.0), "odd and at least 1, not 3.0."),
        (lambda: Conv("3"), "odd and at least 1, not '3'."),
        (lambda: Conv(True), "odd and at least 1, not True."),
        (lambda: Conv(3, stride=0), "The stride of a convolution must be a whole number of at least 1, not 0."),
        (lambda: Conv(3, stride=1.5), "a whole number of at least 1, not 1.5."),
        (lambda: Conv(3, "mirror"), "Unknown padding 'mirror'; accepted are reflect, zeros, circular."),
        (lambda: Conv(3, bias=-0.1), "standard deviation of biases must be 0 or more, or None for none, not -0.1."),
        (lambda: Conv(3, bias=math.nan), "0 or more, or None for none, not nan."),
        (lambda: Conv(3, bias=math.inf), "0 or more, or None for none, not inf."),
        (lambda: Conv(3, variance=0), "The variance of weights must be positive, not 0."),
        (lambda: Conv(3, variance=math.inf), "The variance of weights must be positive, not inf."),
        (lambda: LeakyRelu(-0.1), "The slope of a leaky relu must be between 0 and 1, not -0.1."),
        (lambda: LeakyRelu(1.1), "between 0 and 1, not 1.1."),
        (lambda: LeakyRelu(math.nan), "between 0 and 1, not nan."),
        (lambda: Downsample(1), "The factor of resampling must be a whole number of at least 2, not 1."),
        (lambda: Upsample(2.0), "a whole number of at least 2, not 2.0."),
        (lambda: Downsample(2, "bicubic"), "Unknown mode 'bicubic' of resampling; accepted are bilinear, nearest."),
        (lambda: Upsample(2, "area"), "Unknown mode 'area' of resampling; accepted are bilinear, nearest."),
        (lambda: Serial(), "At least one layer is needed."),
        (lambda: Serial(Conv(3), nn.ReLU()), "ReLU() is not a layer; accepted are Conv, Relu, LeakyRelu, Downsample"),
        (lambda: Serial(Conv), "is not a layer; accepted are"),
        (lambda: Skip(), "At least one layer is needed."),
        (lambda: Skip(Relu(), Downsample(), Upsample()), "beside a skip connection needs at least one convolution"),
        (lambda: Skip(Relu(), Skip(Conv(3))), "not counting those beside further skip connections."),
        (lambda: vanilla(), "A vanilla network needs the kernel size of at least one hidden layer."),
        (lambda: vanilla(3, 2), "odd and at least 1, not 2."),
        (lambda: autoencoder(3, "valid"), "Unknown padding 'valid'"),
        (lambda: check_network(Conv(3)), "A specification is a Serial of layers, not a Conv."),
        (lambda: check_network(Serial(Relu(), Conv(3))), "A network must start with a convolution, not with Relu()."),
        (lambda: check_network(Serial(Conv(3), Relu())), "A network must end with a convolution, not with Relu()."),
        (lambda: check_network(Serial(Skip(Conv(3)), Conv(1))), "must start with a convolution, not with Skip("),
    ],
)
def test_what_is_not_a_layer_or_a_network_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("spec", "size", "message"),
    [
        (Serial(Conv(5)), (2, 9), "A 5x5 convolution with padding 'reflect' needs at least 3 pixels each way"),
        (Serial(Conv(5, "circular")), (9, 1), "padding 'circular' needs at least 2 pixels each way; it gets 9x1."),
        (Serial(Conv(3, stride=2)), (5, 4), "5x4 pixels cannot be divided by 2, as a stride by 2 asks."),
        (Serial(Conv(1), Downsample(3)), (6, 8), "6x8 pixels cannot be divided by 3, as downsampling by 3 asks."),
        (AUTOENCODER, (24, 20), "6x5 pixels cannot be divided by 2"),
        (AUTOENCODER, (8, 16), "needs at least 2 pixels each way; it gets 1x2."),
        (
            Serial(Conv(3), Skip(Conv(3, stride=2))),
            (6, 8),
            "The branch beside a skip connection gets 6x8 and returns 3x4; the sizes must agree.",
        ),
    ],
)
def test_a_size_that_does_not_go_through_is_refused(spec, size, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        spec.output_size(*size)


@pytest.mark.parametrize(
    ("spec", "size", "expected"),
    [
        (VANILLA, (6, 9), (6, 9)),
        (AUTOENCODER, (16, 24), (16, 24)),
        (UNET, (16, 24), (16, 24)),
        (unet(features=True), (32, 16), (32, 16)),
        (Serial(Conv(3, stride=2), Relu(), Conv(1)), (6, 8), (3, 4)),
        (Serial(Conv(3), Downsample(3), Upsample(2)), (6, 9), (4, 6)),
        (Serial(Conv(9, "zeros")), (1, 1), (1, 1)),
        (Serial(Conv(5, "circular")), (2, 3), (2, 3)),
        (Serial(Conv(5)), (3, 3), (3, 3)),
    ],
)
def test_output_sizes(spec, size, expected):
    assert spec.output_size(*size) == expected


def test_a_serial_counts_as_its_layers():
    inner = Serial(Relu(), Conv(3))
    assert Serial(Conv(1), inner, Serial(inner)).layers == (Conv(1), Relu(), Conv(3), Relu(), Conv(3))
    assert list(Serial(Conv(1), inner)) == [Conv(1), Relu(), Conv(3)]
    assert Skip(inner).branch == Skip(Relu(), Conv(3)).branch == inner


def test_specifications_are_equal_by_what_they_say_and_can_be_keys():
    assert vanilla(11) == VANILLA == Serial(Conv(11), Relu(), Conv(1))
    assert len({VANILLA, vanilla(11), UNET, unet(), unet(features=True), AUTOENCODER}) == 4
    assert Relu() != LeakyRelu(0.0)
    assert LeakyRelu() == LeakyRelu(0.2) != LeakyRelu(0.1)
    different = [Conv(3), Conv(5), Conv(3, "zeros"), Conv(3, stride=2), Conv(3, bias=0.0), Conv(3, variance=1.0)]
    assert len({*different, Conv(3, bias=0.1)}) == 7
    assert Downsample() != Upsample()
    with pytest.raises(AttributeError):
        Conv(3).size = 5
    with pytest.raises(AttributeError):
        VANILLA.layers = ()


def test_convolutions_come_in_the_order_of_the_computation():
    spec = Serial(Conv(1), Skip(Relu(), Conv(3), Skip(Conv(5)), Conv(7)), Conv(9))
    assert [conv.size for conv in spec.convolutions()] == [1, 3, 5, 7, 9]


def test_the_autoencoder_s_layers_are_table_3_s():
    down, up = [Conv(3), Relu(), Downsample(2)], [Upsample(2), Conv(3), Relu()]
    # Nothing but the upsampling stands between conv4, the fifth convolution, and convu1.
    assert list(AUTOENCODER) == [*down * 3, Conv(3), Relu(), Conv(3), *up * 3, Conv(1)]


def test_the_u_net_skips_three_times():
    def depth(spec: Serial) -> int:
        return max((1 + depth(layer.branch) for layer in spec if isinstance(layer, Skip)), default=0)

    for spec in (UNET, unet(features=True)):
        assert depth(spec) == 3
        assert [conv.size for conv in spec.convolutions()] == [conv.size for conv in AUTOENCODER.convolutions()]


@pytest.mark.parametrize("name", NETWORKS)
def test_as_many_weights_as_the_paper_says(name):
    spec, channels = NETWORKS[name]
    assert weight_count(spec, channels) == TRAINABLE_WEIGHTS[name]
    assert sum(p.numel() for p in build(spec, channels).parameters()) == TRAINABLE_WEIGHTS[name]


def test_a_u_net_of_features_has_as_many_weights():
    assert weight_count(unet(features=True), 128) == TRAINABLE_WEIGHTS["unet"]
