"""The patch kernel is the formula, entry by entry, however it is asked for."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_images import arc_cosine, kernels, literal_kernel, literal_patches, posterised_image, random_image
from torch.nn import functional

from ntkbook import checks
from ntkbook import kernels as module
from ntkbook.images import PADDINGS, patches, patches_around
from ntkbook.kernels import PatchKernel, nlm_affinity, relu_affinity

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=40)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("make", [random_image, posterised_image])
def test_relu_kernel_is_equation_16_by_loops(make, padding):
    image = make(2, 5, 6)
    expected = literal_kernel(literal_patches(image, 3, padding), arc_cosine)
    checks.identity("16", PatchKernel(image, 3, padding=padding).dense(), expected)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("bandwidth", [0.3, 2.0])
def test_nlm_kernel_is_equation_4_by_loops(padding, bandwidth):
    image = random_image(3, 5, 4)
    expected = literal_kernel(
        literal_patches(image, 3, padding), lambda p, q: math.exp(-(((p - q) ** 2).sum()) / bandwidth**2)
    )
    affinity = functools.partial(nlm_affinity, bandwidth=bandwidth)
    checks.identity("4", PatchKernel(image, 3, affinity, padding).dense(), expected)


def test_relu_kernel_is_the_covariance_of_random_networks():
    """Outputs of 20,000 finite networks: conv 3x3, relu, conv 1x1, He weights, no biases."""
    networks, width = 20_000, 4
    image = random_image(2, 4, 4, seed=1).float()
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(networks * width, 2, 3, 3, generator=generator) * math.sqrt(2 / (2 * 9))
    second = torch.randn(networks, width, 1, generator=generator) * math.sqrt(2 / width)
    padded = functional.pad(image[None], (1, 1, 1, 1), mode="reflect")
    hidden = functional.conv2d(padded, first).relu().reshape(networks, width, 16)
    outputs = (second * hidden).sum(dim=1).double()
    products = outputs[:, :, None] * outputs[:, None, :]
    # E z_i z_j = width * (2 / width) * E relu relu, and 2 E relu relu is (16) times the weights' variance 2 / 18.
    expected = PatchKernel(image.double(), 3).dense() * 2 / 18
    error = products.std(dim=0) / math.sqrt(networks)
    deviations = (products.mean(dim=0) - expected) / error
    assert deviations.abs().max() < math.sqrt(4**2 + 2 * math.log(136))  # 4 for one entry, the bound for 136
    slopes = (products * expected).sum(dim=(1, 2)) / expected.square().sum()
    assert abs(slopes.mean() - 1) < 4 * slopes.std() / math.sqrt(networks)


def test_relu_affinity_is_the_mean_over_random_relu_units():
    """The same with 400,000 pairs of hidden units, sharp enough to see one per cent."""
    patches = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-0.5, 1.0], [0.3, -0.9]], dtype=torch.float64)
    units = torch.from_numpy(np.random.default_rng(5).standard_normal((400_000, 2)))
    positive, negative = (units @ patches.T).relu(), (-units @ patches.T).relu()  # w and -w: less spread
    samples = positive[:, :, None] * positive[:, None, :] + negative[:, :, None] * negative[:, None, :]
    norms = patches.norm(dim=1)
    checks.expectation("16", samples, relu_affinity(patches @ patches.T, norms[:, None], norms))


def test_relu_affinity_with_the_first_layer_is_the_mean_tangent_kernel():
    """Two layers, f = sqrt(2) sum_k v_k relu(w_k x): gradients in v and in w, over 400,000 units."""
    patches = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-0.5, 1.0], [0.3, -0.9]], dtype=torch.float64)
    units = torch.from_numpy(np.random.default_rng(6).standard_normal((400_000, 2)))
    samples = 0
    for sign in (1, -1):  # w and -w: less spread
        before = sign * units @ patches.T
        last, first = before.relu(), (before > 0).double()
        samples = samples + last[:, :, None] * last[:, None, :]
        samples = samples + first[:, :, None] * first[:, None, :] * (patches @ patches.T)
    norms = patches.norm(dim=1)
    checks.expectation("16", samples, relu_affinity(patches @ patches.T, norms[:, None], norms, first_layer=1))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_first_layer_s_part_by_loops(share):
    """What is added to (16) is the angle's part alone."""

    def entry(p: np.ndarray, q: np.ndarray) -> float:
        lengths = math.sqrt(np.vdot(p, p)) * math.sqrt(np.vdot(q, q))
        phi = math.acos(max(-1.0, min(1.0, np.vdot(p, q) / lengths))) if lengths else 0.0
        return arc_cosine(p, q) + share * lengths / math.pi * (math.pi - phi) * math.cos(phi)

    image = random_image(2, 5, 6)
    affinity = functools.partial(relu_affinity, first_layer=share)
    expected = literal_kernel(literal_patches(image, 3, "reflect"), entry)
    # This part has a kink at angle 0, where an arc cosine keeps half of the digits.
    checks.identity("16", PatchKernel(image, 3, affinity).dense(), expected, rtol=1e-7)
    diagonal = PatchKernel(image, 3, affinity).diagonal()
    checks.identity("16", diagonal, (1 + share) * PatchKernel(image, 3).diagonal(), rtol=1e-7)


def test_relu_affinity_at_known_angles():
    norms_i, norms_j = torch.tensor([[2.0]]).double(), torch.tensor([3.0]).double()
    angles = {0.0: 6.0, math.pi / 2: 6 / math.pi, math.pi: 0.0}
    for angle, expected in angles.items():
        got = relu_affinity(torch.tensor([[6 * math.cos(angle)]]).double(), norms_i, norms_j)
        assert got.item() == pytest.approx(expected, abs=1e-12)


@REPRODUCIBLE
@given(kernels(), st.sampled_from(["relu", "nlm"]))
def test_kernels_are_symmetric_and_positive_semidefinite(kernel, name):
    affinity = relu_affinity if name == "relu" else functools.partial(nlm_affinity, bandwidth=0.7)
    matrix = PatchKernel(kernel.image, kernel.size, affinity, kernel.padding).dense()
    assert matrix.min() >= -1e-15 * matrix.max()
    if matrix.any():
        checks.positive_semidefinite("16", matrix)
    else:
        assert not kernel.image.any()


@REPRODUCIBLE
@given(kernels(), st.floats(0.01, 100))
def test_relu_kernel_is_homogeneous_of_degree_two(kernel, factor):
    scaled = PatchKernel(kernel.image * factor, kernel.size, padding=kernel.padding)
    torch.testing.assert_close(scaled.dense(), factor**2 * kernel.dense(), rtol=1e-10, atol=1e-12 * factor**2)


@REPRODUCIBLE
@given(kernels())
def test_diagonal_columns_blocks_and_product_are_those_of_the_dense_kernel(kernel):
    dense = kernel.dense()
    close = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
    close(kernel.diagonal(), dense.diagonal())
    chosen = torch.tensor([kernel.pixels - 1, 0, 1, 0])
    close(kernel.columns(chosen), dense[:, chosen])
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((kernel.pixels, 2)))
    close(kernel @ vectors, dense @ vectors)


@pytest.mark.parametrize("entries", [1, 50, 400, 2**22])
def test_tiles_of_any_size_give_the_same(monkeypatch, entries):
    kernel = PatchKernel(random_image(3, 7, 9), 3)
    vectors = random_image(2, 7, 9, seed=1).flatten(1).T
    dense = kernel.dense()
    monkeypatch.setattr(module, "TILE_ENTRIES", entries)
    torch.testing.assert_close(kernel @ vectors, dense @ vectors, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kernel.columns(torch.arange(20)), dense[:, :20], rtol=1e-12, atol=1e-14)
    slices = [where for where, _ in kernel.against(kernel.patches_at(torch.arange(20)))]
    assert [i for where in slices for i in range(63)[where]] == list(range(63))


def test_patches_at_pixels_in_any_order_and_repeated():
    image = random_image(2, 5, 6)
    expected = literal_patches(image, 3, "reflect").reshape(30, -1)
    pixels = torch.tensor([29, 0, 7, 7, 12])
    assert np.array_equal(PatchKernel(image, 3).patches_at(pixels).numpy(), expected[pixels])


def test_single_precision_follows_double():
    image = random_image(3, 8, 8)
    single = PatchKernel(image.float(), 3).dense()
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), PatchKernel(image, 3).dense(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_patches_give_zeros_and_no_nan(dtype, first_layer):
    image = torch.zeros(1, 6, 6, dtype=dtype)
    image[0, 0, 0] = 1
    kernel = PatchKernel(image, 3, functools.partial(relu_affinity, first_layer=first_layer), padding="zeros")
    dense = kernel.dense()
    zero = kernel.patches_at(torch.arange(36)).norm(dim=1) == 0
    assert zero.sum() == 32
    assert dense.isfinite().all()
    assert not dense[zero].any()
    assert (kernel.diagonal()[~zero] > 0).all()


def test_dense_refuses_by_size_before_it_computes(monkeypatch):
    kernel = PatchKernel(torch.zeros(1, 300, 300), 3)
    monkeypatch.setattr(PatchKernel, "columns", lambda *_: pytest.fail("columns were computed"))
    with pytest.raises(ValueError, match=r"of 90000 pixels would take 30\.2 GiB, more than the 4 GiB"):
        kernel.dense()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_limit_counts_bytes(monkeypatch, dtype):
    kernel = PatchKernel(torch.zeros(1, 4, 4, dtype=dtype), 3)
    size = 16 * 16 * dtype.itemsize
    monkeypatch.setattr(module, "DENSE_LIMIT", size)
    assert kernel.dense().shape == (16, 16)
    monkeypatch.setattr(module, "DENSE_LIMIT", size - 1)
    with pytest.raises(ValueError, match="of 16 pixels would take"):
        kernel.dense()


@pytest.mark.parametrize("bandwidth", [0, -1.0, math.nan])
def test_nlm_refuses_a_bandwidth_that_is_not_positive(bandwidth):
    one = torch.ones(1)
    with pytest.raises(ValueError, match=f"must be a positive number, not {bandwidth}"):
        nlm_affinity(one, one, one, bandwidth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 4}, "must be odd"),
        ({"size": 7}, "does not fit in an image of 5 x 6"),
        ({"padding": "mirror"}, "padding must be one of"),
        ({"image": torch.full((1, 5, 6), math.nan)}, "NaN"),
    ],
)
def test_a_kernel_refuses_bad_input_at_the_door(change, message):
    with pytest.raises(ValueError, match=message):
        PatchKernel(**({"image": random_image(1, 5, 6), "size": 3} | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_is_symmetric_to_the_last_bit(dtype, monkeypatch):
    kernel = PatchKernel(random_image(3, 9, 11, dtype=dtype), 3)
    for entries in (2**20, 400):  # one tile, and many
        monkeypatch.setattr(module, "TILE_ENTRIES", entries)
        dense = kernel.dense()
        assert torch.equal(dense, dense.T)


# --- batches


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("axes", [(3,), (2, 2)])
@pytest.mark.parametrize("entries", [50, 2**20])
def test_a_batch_of_images_is_each_of_them(padding, axes, entries, monkeypatch):
    monkeypatch.setattr(module, "TILE_ENTRIES", entries)
    images = torch.stack([random_image(2, 6, 7, seed) for seed in range(math.prod(axes))]).unflatten(0, axes)
    kernel = PatchKernel(images, 3, padding=padding)
    pixels = torch.tensor([41, 0, 7, 7, 12])
    landmarks = random_image(5, 18, math.prod(axes), seed=9).permute(2, 0, 1).unflatten(0, axes)
    assert kernel.pixels == 42
    against = list(kernel.against(landmarks))
    assert [i for where, _ in against for i in range(42)[where]] == list(range(42))
    together = {
        "patches": kernel.patches_at(pixels),
        "columns": kernel.columns(pixels),
        "diagonal": kernel.diagonal(),
        "against": torch.cat([block for _, block in against], dim=-2),
    }
    for place in np.ndindex(axes):
        alone = PatchKernel(images[place], 3, padding=padding)
        each = {
            "patches": alone.patches_at(pixels),
            "columns": alone.columns(pixels),
            "diagonal": alone.diagonal(),
            "against": torch.cat([block for _, block in alone.against(landmarks[place])]),
        }
        for name, expected in each.items():
            checks.identity("16", together[name][place], expected)


def test_a_batch_with_one_black_image():
    images = torch.stack([random_image(1, 6, 6), torch.zeros(1, 6, 6).double()])
    columns = PatchKernel(images, 3).columns(torch.tensor([3, 4]))
    assert columns.isfinite().all()
    assert columns[0].any()
    assert not columns[1].any()


def test_a_batch_is_checked_image_by_image():
    images = torch.zeros(2, 1, 6, 6)
    images[1, 0, 2, 2] = math.inf
    with pytest.raises(ValueError, match="infinite"):
        PatchKernel(images, 3)
    with pytest.raises(ValueError, match="does not fit in an image of 6 x 6"):
        PatchKernel(torch.zeros(2, 1, 6, 6), 7)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_patches_around_are_the_rows_of_all_patches(padding, size):
    images = torch.stack([random_image(2, 5, 7, seed) for seed in range(3)])
    pixels = torch.tensor([34, 0, 6, 6, 28, 17, 0])  # corners, repeats, no order
    for image, found in zip(images, patches_around(images, size, padding, pixels), strict=True):
        assert torch.equal(found, patches(image, size, padding)[pixels])
        assert torch.equal(found, patches_around(image, size, padding, pixels))
