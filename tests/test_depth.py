"""Figure 6's networks have one receptive field, and their columns are those of the two specifications."""

import pytest
import torch
from tiny_images import random_image

from ntkbook import checks
from ntkbook.depth import NAMES, SPLITS, columns, filters, networks
from ntkbook.kernels import infinite_width_columns
from ntkbook.layers import Conv, Relu, Serial
from ntkbook.networks import build
from ntkbook.nystrom import orthonormal_eigenpairs

PIXELS = torch.tensor([0, 50, 51, 99, 120])


def reached(spec: Serial) -> tuple[int, int]:
    """Rows and columns of an image that one output pixel depends on, seen by its gradient."""
    network = build(spec, 2, inputs=1, outputs=1, parametrisation="ntk", dtype=torch.float64)
    for parameter in network.parameters():
        torch.nn.init.ones_(parameter)
    image = torch.ones(1, 1, 31, 31, dtype=torch.float64, requires_grad=True)
    network(image)[0, 0, 15, 15].backward()
    used = image.grad[0, 0] != 0
    return used.any(dim=1).sum().item(), used.any(dim=0).sum().item()


@pytest.mark.parametrize("padding", ["circular", "zeros"])
@pytest.mark.parametrize("sizes", SPLITS)
def test_every_network_sees_13x13_pixels(sizes, padding):
    found = networks(sizes, padding)
    assert set(found) == ({"relu"} if len(sizes) == 1 else {"relu", "linear"})
    for spec in found.values():
        assert 1 + sum(conv.size - 1 for conv in spec.convolutions()) == 13
        assert reached(spec) == (13, 13)
        assert {conv.padding for conv in spec.convolutions()} == {padding}


def test_the_two_readings_differ_by_the_output_layer():
    found = networks((5, 5, 5), "zeros")
    conv = Conv(5, "zeros")
    assert found["linear"] == Serial(conv, Relu(), conv, Relu(), conv)
    assert found["relu"] == Serial(conv, Relu(), conv, Relu(), conv, Relu(), Conv(1, "zeros"))
    assert set(NAMES) == set(SPLITS)


@pytest.mark.parametrize(("padding", "parametrisation"), [("circular", "paper"), ("circular", "ntk"), ("zeros", "paper")])
@pytest.mark.parametrize("sizes", [(5,), (3, 3), (3, 5, 3), (7, 7)])
def test_columns_are_those_of_both_specifications(sizes, padding, parametrisation):
    image = random_image(3, 11, 12)
    found = columns(image, sizes, padding, parametrisation, PIXELS)
    for name, spec in networks(sizes, padding).items():
        expected = infinite_width_columns(spec, image, PIXELS, parametrisation).ntk
        checks.identity(name, found.pop(name), expected, rtol=1e-7)  # an arc cosine near 1 keeps half of the digits
    assert not found


def test_filters_are_nystrom_s_of_these_columns():
    image = random_image(3, 11, 12)
    found = filters(image, (3, 3), "circular", "paper", PIXELS)
    for name, tall in columns(image, (3, 3), "circular", "paper", PIXELS).items():
        eigenvalues = orthonormal_eigenpairs(tall, tall[PIXELS])[0]
        assert found[name].eigenvalues.max().item() == pytest.approx(1, abs=1e-12)
        scaled = eigenvalues / eigenvalues.max()
        checks.identity("75", found[name].eigenvalues.double(), scaled.double())
