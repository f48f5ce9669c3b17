"""Columns from pairs of aligned patches are those of the whole kernel."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_images import posterised_image, random_image

from ntkbook import aligned_columns, checks
from ntkbook.aligned_columns import AlignedColumns
from ntkbook.covariances import INITIALISATIONS, PARAMETRISATIONS
from ntkbook.kernels import Kernels, infinite_width, infinite_width_columns
from ntkbook.layers import Conv, Downsample, LeakyRelu, Relu, Serial, Skip, vanilla

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=30)
PIXELS = torch.tensor([41, 0, 7, 7, 20])  # corners, a repeat, no order


def plain_networks(padding: str) -> dict[str, Serial]:
    """Everything that columns are made for, with convolutions of one padding."""
    conv = Conv(3, padding)
    return {
        "vanilla": vanilla(3, padding=padding),
        "deeper": vanilla(3, 3, output=3, padding=padding),
        "leaky": Serial(conv, LeakyRelu(0.3), Conv(1), Relu(), conv),
        "biases": Serial(Conv(3, padding, bias=0.4), Relu(), Conv(3, padding, bias=0.0), LeakyRelu(), Conv(1, bias=1)),
        "linear": Serial(conv, conv, Conv(1), conv),
        "1x1 first": Serial(Conv(1), Relu(), Conv(5, padding, variance=0.7), Relu(), conv),
        "one layer": Serial(Conv(5, padding)),
        "1x1 alone": Serial(Conv(1, "reflect"), Relu(), Conv(1, padding)),
    }


def agree(found: Kernels, whole: Kernels, pixels: torch.Tensor, rtol: float = 1e-10) -> None:
    """Both kernels; a tangent kernel without any own term is zero."""
    for name in ("nngp", "ntk"):
        computed, expected = getattr(found, name), getattr(whole, name)[:, pixels]
        checks.identity(name, computed, expected, rtol, None if expected.any() else 1e-300)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("padding", ["circular", "zeros"])
@pytest.mark.parametrize("name", plain_networks("zeros"))
def test_columns_of_the_whole_kernel(name, padding, parametrisation):
    spec, image = plain_networks(padding)[name], random_image(2, 6, 7)
    if parametrisation == "paper" and name == "biases":
        parametrisation = "ntk"
    found = infinite_width_columns(spec, image, PIXELS, parametrisation, 9)
    agree(found, infinite_width(spec, image, parametrisation, 9), PIXELS)


@pytest.mark.parametrize(
    "spec",
    [
        vanilla(5),
        Serial(Conv(1), Relu(), Conv(3), LeakyRelu(), Conv(1, bias=0.3)),
        Serial(Conv(1, "circular"), Relu(), Conv(1, "zeros"), Relu(), Conv(5)),
    ],
)
def test_a_single_convolution_may_reflect(spec):
    image = random_image(3, 6, 7)
    agree(infinite_width_columns(spec, image, PIXELS), infinite_width(spec, image), PIXELS)


@REPRODUCIBLE
@given(
    st.lists(st.sampled_from([1, 3, 5]), min_size=2, max_size=4),
    st.lists(st.sampled_from([None, Relu(), LeakyRelu(0.4)]), min_size=3, max_size=3),
    st.sampled_from(["circular", "zeros"]),
    st.sampled_from([None, 0.3]),
    st.sampled_from(PARAMETRISATIONS[:2]),
    st.sampled_from(INITIALISATIONS),
    st.sampled_from([(1, 4, 5), (3, 5, 4)]),
)
def test_random_networks(sizes, activations, padding, bias, parametrisation, initialisation, shape):
    """Also where the receptive field is larger than the image."""
    layers = [Conv(sizes[0], padding, bias=bias)]
    for size, activation in zip(sizes[1:], activations, strict=False):
        layers += [*([activation] if activation else []), Conv(size, padding)]
    image, pixels = random_image(*shape), torch.arange(0, 20, 3)
    found = infinite_width_columns(Serial(*layers), image, pixels, parametrisation, 6, initialisation)
    # Pixels of one channel are parallel, and an arc cosine near 1 keeps half of the digits.
    agree(found, infinite_width(Serial(*layers), image, parametrisation, 6, initialisation), pixels, rtol=1e-7)


@pytest.mark.parametrize(("block", "entries"), [(1, 1), (5, 100), (7, 10**4), (64, 2**18)])
@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_blocks_of_any_size_give_the_same(monkeypatch, padding, block, entries):
    spec, image = plain_networks(padding)["deeper"], random_image(2, 6, 7)
    expected = infinite_width_columns(spec, image, PIXELS)
    monkeypatch.setattr(aligned_columns, "BLOCK", block)
    monkeypatch.setattr(aligned_columns, "TILE_ENTRIES", entries)
    blocks = list(AlignedColumns(spec, image).blocks(PIXELS))
    assert [i for where, _, _ in blocks for i in range(42)[where]] == list(range(42))
    assert all(len(covariances) == len(tangents) <= block for _, covariances, tangents in blocks)
    checks.identity("nngp", torch.cat([each for _, each, _ in blocks]), expected.nngp, rtol=1e-12)
    checks.identity("ntk", torch.cat([each for _, _, each in blocks]), expected.ntk, rtol=1e-12)


@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_the_squared_deviations_of_the_output_are_the_covariance_s_diagonal(padding):
    image = random_image(2, 6, 7)
    for spec in plain_networks(padding).values():
        found = AlignedColumns(spec, image, "standard").output_deviations.square()
        checks.identity("11", found, infinite_width(spec, image, "standard").nngp.diagonal())


@pytest.mark.parametrize("padding", ["circular", "zeros"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_patches_give_exact_zeros(padding, dtype):
    spec, pixels = vanilla(3, 3, padding=padding), torch.arange(72)
    black = infinite_width_columns(spec, torch.zeros(2, 9, 8, dtype=dtype), pixels)
    assert not black.nngp.any()
    assert not black.ntk.any()
    image = random_image(1, 9, 8, dtype=dtype)
    image[:, 2:7] = 0  # the receptive fields around row 4, 5x5 pixels, are zero
    found = infinite_width_columns(spec, image, pixels)
    for whole in (found.nngp, found.ntk):
        zero = whole.diagonal() == 0
        assert zero.nonzero().flatten().tolist() == list(range(32, 40))
        assert not whole[zero].any()
        assert not whole[:, zero].any()
        assert whole.isfinite().all()


def test_single_precision_follows_double():
    spec, image = vanilla(3, 3, padding="zeros"), posterised_image(2, 6, 7)
    double, single = (infinite_width_columns(spec, each, PIXELS) for each in (image, image.float()))
    for name in ("nngp", "ntk"):
        less = getattr(single, name)
        assert less.dtype == torch.float32
        scale = getattr(double, name).abs().max().item()
        torch.testing.assert_close(less.double(), getattr(double, name), rtol=0, atol=2e-3 * scale)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            vanilla(3, 3),
            "Patches are not aligned at a mirror: columns of more than one convolution need circular padding or zeros.",
        ),
        (
            Serial(Conv(3, "zeros"), Relu(), Conv(3, "circular")),
            "Columns need one padding in all convolutions, not circular, zeros.",
        ),
        (
            Serial(Conv(3, "zeros"), Downsample(), Conv(1)),
            "Columns are computed for convolutions without stride and non-linearities only, not for Downsample(",
        ),
        (Serial(Conv(3, "zeros", 2), Relu(), Conv(1)), "use the whole kernel of a small image."),
        (Serial(Conv(3, "zeros"), Skip(Conv(1)), Conv(1)), "non-linearities only, not for Skip("),
        (Serial(Conv(3, "zeros"), Relu(), Relu(), Conv(1)), "a convolution must come between"),
        (Conv(3), "A specification is a Serial of layers, not a Conv."),
        (vanilla(13), "needs at least 7 pixels each way; it gets 6x8."),
    ],
)
def test_other_networks_are_refused(spec, message):
    image = random_image(1, 6, 8)
    with pytest.raises(ValueError, match=re.escape(message)):
        infinite_width_columns(spec, image, torch.tensor([0]))
    with pytest.raises(ValueError, match=re.escape(message)):
        AlignedColumns(spec, image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parametrisation": "mup"}, "Unknown parametrisation 'mup'; accepted are ntk, standard, paper."),
        ({"initialisation": "zero"}, "Unknown initialisation 'zero'"),
        ({"channels": 0.5}, "The number of channels must be at least 1, not 0.5."),
        ({"image": torch.full((1, 6, 7), math.nan)}, "NaN"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AlignedColumns(**({"spec": vanilla(3), "image": random_image(1, 6, 7)} | change))


@pytest.mark.parametrize("pixels", [[42], [0, -1], [], [[0, 1]], 3])
def test_columns_outside_the_image_are_refused(pixels):
    with pytest.raises(ValueError, match="Columns are named by indices between 0 and 41, at least one"):
        infinite_width_columns(vanilla(3), random_image(1, 6, 7), torch.tensor(pixels))
