"""Where the kernels of wide networks end: refusals, zero patches, memory; and that finite networks approach them."""

import gc
import math
import re
import weakref

import pytest
import torch
from literal_kernels import jacobian_kernel, literal_network
from tiny_images import posterised_image, random_image

from ntkbook import checks, gram_matrices, kernels
from ntkbook.kernels import infinite_width, infinite_width_columns, memory_needed
from ntkbook.layers import Conv, Downsample, LeakyRelu, Relu, Serial, Skip, Upsample, autoencoder, unet, vanilla
from ntkbook.networks import build

IMAGE = random_image(2, 6, 8)
NO_CLOSED_FORM = "acts on features of another non-linearity, which are not Gaussian, so its kernel has no closed form"


# --- refusals


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"parametrisation": "mup"}, ValueError, "Unknown parametrisation 'mup'; accepted are ntk, standard, paper."),
        ({"initialisation": "zero"}, ValueError, "Unknown initialisation 'zero'; accepted are he, printed."),
        ({"channels": 0}, ValueError, "The number of channels must be at least 1, not 0."),
        ({"channels": math.nan}, ValueError, "The number of channels must be at least 1, not nan."),
        ({"x": IMAGE.half()}, TypeError, "The kernels need an image in float32 or float64, not float16."),
        ({"x": IMAGE.numpy()}, TypeError, "the image must be a torch.Tensor (channels, height, width), got ndarray"),
        ({"x": torch.ones(2, 6, 8, dtype=torch.int64)}, ValueError, "must have a floating-point dtype"),
        ({"x": torch.where(IMAGE > 0.4, math.nan, IMAGE)}, ValueError, "NaN"),
        ({"x": torch.where(IMAGE > 0.4, math.inf, IMAGE)}, ValueError, "infinite"),
        ({"x": IMAGE[0]}, ValueError, "must have shape (channels, height, width), got (6, 8)"),
        ({"x": IMAGE[None]}, ValueError, "must have shape (channels, height, width), got (1, 2, 6, 8)"),
        ({"spec": Conv(3)}, ValueError, "A specification is a Serial of layers, not a Conv."),
        ({"spec": Serial(Conv(3), Relu())}, ValueError, "A network must end with a convolution, not with Relu()."),
        ({"spec": vanilla(13)}, ValueError, "needs at least 7 pixels each way; it gets 6x8."),
        (
            {"spec": Serial(Conv(3, bias=0.1)), "parametrisation": "paper"},
            ValueError,
            "The paper's recursion has no biases; use the parametrisation 'ntk' or 'standard'.",
        ),
        ({"spec": Serial(Conv(3), Relu(), LeakyRelu(), Conv(1))}, ValueError, f"LeakyRelu(slope=0.2) {NO_CLOSED_FORM}"),
    ],
)
def test_whole_kernels_and_columns_refuse_what_they_cannot_take(change, error, message):
    arguments = {"spec": vanilla(3), "x": IMAGE} | change
    with pytest.raises(error, match=re.escape(message)):
        infinite_width(**arguments)
    with pytest.raises(error, match=re.escape(message)):
        infinite_width_columns(pixels=torch.tensor([0]), **arguments)


@pytest.mark.parametrize(
    "spec",
    [
        Serial(Conv(3), Relu(), Skip(Conv(3)), Relu(), Conv(1)),
        Serial(Conv(3), Skip(Conv(3), Relu()), Relu(), Conv(1)),
        Serial(Conv(3), Relu(), Downsample(), Upsample(), Relu(), Conv(1)),
        Serial(Conv(3), Relu(), Skip(Relu(), Conv(1)), Conv(1)),
    ],
)
def test_a_non_linearity_of_features_is_refused(spec):
    with pytest.raises(ValueError, match=re.escape(f"Relu() {NO_CLOSED_FORM}; a convolution must come between.")):
        infinite_width(spec, IMAGE)


# --- zero patches


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", [vanilla(3, 3), unet(3, "zeros"), unet(3, "zeros", True), autoencoder(3, "zeros")])
def test_a_black_image_has_zero_kernels(spec, dtype):
    found = infinite_width(spec, torch.zeros(3, 8, 8, dtype=dtype))
    assert not found.nngp.any()
    assert not found.ntk.any()


@pytest.mark.parametrize("parametrisation", ["ntk", "standard", "paper"])
def test_rows_of_zero_patches_give_exact_zeros_and_no_nan(parametrisation):
    image = random_image(2, 7, 4)
    image[:, 2:5] = 0  # the patches around row 3 are zero
    for dtype in (torch.float32, torch.float64):
        found = infinite_width(vanilla(3), image.to(dtype), parametrisation)
        for whole in (found.nngp, found.ntk):
            zero = whole.diagonal() == 0
            assert zero.nonzero().flatten().tolist() == list(range(12, 16))
            assert not whole[zero].any()
            assert whole.isfinite().all()


def test_a_black_image_stays_black_when_biases_are_trained_from_zero():
    """The derivative of a relu at 0 is 0, in the kernel as in PyTorch, so nothing of the biases passes."""
    spec, black = Serial(Conv(3, bias=0.0), Relu(), Conv(3)), torch.zeros(1, 4, 4, dtype=torch.float64)
    assert infinite_width(Serial(Conv(3, bias=0.0)), black, "standard", 4).ntk.all()
    assert not infinite_width(spec, black, "standard", 4).ntk.any()
    assert not jacobian_kernel(build(spec, 4, 1, 1, dtype=torch.float64), black).any()


@pytest.mark.parametrize(
    "image",
    [posterised_image(1, 4, 6), torch.full((2, 4, 4), 0.25, dtype=torch.float64), random_image(1, 4, 4) * 1e-6],
    ids=["posterised", "constant", "faint"],
)
def test_repeated_patches_by_loops(image):
    spec = Serial(Conv(3), Relu(), Skip(Conv(3), Relu()), Conv(3), Relu(), Conv(1))
    found, expected = infinite_width(spec, image), literal_network(spec, image.numpy()).matrices()
    checks.identity("11", found.nngp, expected[0])
    checks.identity("12", found.ntk, expected[1], rtol=1e-7)  # an arc cosine near 1 keeps half of the digits


# --- memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "spec",
    [
        vanilla(11),
        vanilla(3, 7, 3),
        autoencoder(3, "zeros"),
        unet(3, "circular"),
        unet(3, "zeros", features=True),
        Serial(Conv(1), Relu(), Skip(Conv(3), Downsample(), Conv(5), Skip(Conv(1)), Upsample()), Conv(3)),
    ],
)
def test_memory_needed_is_what_is_held_at_once(monkeypatch, spec, dtype):
    """Every large matrix counts from when it is made until nothing refers to it."""
    held, peak, make = {}, [0], gram_matrices._large

    def counted(shape, like):
        made = make(shape, like)
        held[id(made)] = made.numel() * made.itemsize
        weakref.finalize(made, held.pop, id(made))
        peak[0] = max(peak[0], sum(held.values()))
        return made

    monkeypatch.setattr(gram_matrices, "_large", counted)
    found = infinite_width(spec, random_image(1, 8, 16, dtype=dtype))
    assert peak[0] == memory_needed(spec, 8, 16, dtype) >= 2 * found.ntk.numel() * dtype.itemsize
    del found
    gc.collect()
    assert not held


def test_too_much_memory_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(kernels, "through", lambda *_: pytest.fail("it was computed"))
    image = torch.zeros(3, 256, 256)
    message = "The kernels of 256x256 pixels in float32 take 32.0 GiB with this network, and 8.0 GiB may be used"
    with pytest.raises(ValueError, match=re.escape(message)):
        infinite_width(vanilla(11), image)
    with pytest.raises(ValueError, match=r"in float64 take 64.0 GiB with this network, and 32.0 GiB may be used"):
        infinite_width(vanilla(11), image.double(), memory=2**35)


def test_the_memory_that_may_be_used_counts_bytes():
    needed = memory_needed(vanilla(3), 6, 8, torch.float64)
    assert needed == 2 * 48**2 * 8
    assert infinite_width(vanilla(3), IMAGE, memory=needed).ntk.shape == (48, 48)
    with pytest.raises(ValueError, match="GiB may be used; take a smaller image, or columns"):
        infinite_width(vanilla(3), IMAGE, memory=needed - 1)


@pytest.mark.parametrize("size", [(12, 16), (16, 4)])
def test_memory_is_not_counted_for_a_size_that_does_not_go_through(size):
    with pytest.raises(ValueError, match=r"cannot be divided|needs at least"):
        memory_needed(autoencoder(), *size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_on_a_gpu():
    for spec in (unet(3, "zeros", features=True), unet(3, "circular")):
        image = random_image(3, 16, 24)
        found, expected = infinite_width(spec, image.cuda()), infinite_width(spec, image)
        checks.identity("11", found.nngp.cpu(), expected.nngp)
        checks.identity("12", found.ntk.cpu(), expected.ntk, rtol=1e-7)


# --- finite networks

# Hidden convolutions are 1x1 where they can be: then many channels are cheap.
APPROACHED = {
    "skip of Gaussians": Serial(Conv(3), Skip(Relu(), Conv(1)), Relu(), Conv(3, bias=0.2)),
    "skip of features": Serial(Conv(3), Relu(), Skip(Conv(1), Relu()), Conv(3, bias=0.3)),
    "autoencoder": Serial(Conv(3), Relu(), Downsample(), Conv(1), LeakyRelu(), Upsample(), Conv(1), Relu(), Conv(3)),
    "plain": vanilla(3, 3, output=3),
}
WIDTHS = (8, 24, 72, 216)


def errors(spec: Serial, seeds: int = 8) -> list[float]:
    """The relative error of finite networks' tangent kernels, its geometric mean over seeds, by width."""
    image, found = random_image(2, 4, 4).float(), []
    for channels in WIDTHS:
        limit = infinite_width(spec, image.double(), "standard", channels).ntk
        logarithms = []
        for seed in range(seeds):
            network = build(spec, channels, inputs=2, outputs=1, seed=100 * channels + seed)
            finite = jacobian_kernel(network, image).double() / channels
            logarithms.append(((finite - limit).norm() / limit.norm()).log())
        found.append(torch.stack(logarithms).mean().exp().item())
    return found


@pytest.mark.parametrize("name", APPROACHED)
def test_tangent_kernels_of_finite_networks_approach_the_limit(name):
    checks.rate(name, torch.tensor(WIDTHS).double(), torch.tensor(errors(APPROACHED[name])), -0.5, 0.9, 0.7)


def test_without_the_means_of_features_the_limit_would_be_missed(monkeypatch):
    """Features are not centred: where two of them are added, the product of their means counts."""
    right = errors(APPROACHED["skip of features"], seeds=4)
    monkeypatch.setattr(gram_matrices, "mean_feature", lambda variance, slope: torch.zeros_like(variance))
    wrong = errors(APPROACHED["skip of features"], seeds=4)
    assert right[-1] < 0.1
    assert min(wrong) > 0.35
    assert wrong[-1] > 0.4


@pytest.mark.parametrize("spec", [APPROACHED["autoencoder"], APPROACHED["skip of features"]], ids=["down", "skip"])
def test_outputs_of_random_networks_have_the_covariance(spec):
    """Many networks, and many outputs of each, which are independent given the hidden layers."""
    image, networks, outputs = random_image(2, 4, 4), 80, 100
    expected, samples = infinite_width(spec, image).nngp, []
    for seed in range(networks):
        with torch.no_grad():
            flat = build(spec, 256, 2, outputs, seed, dtype=torch.float64)(image[None])[0].flatten(1)
        samples.append(flat.T @ flat / outputs)
    samples = torch.stack(samples)
    slopes = (samples * expected).sum(dim=(1, 2)) / expected.square().sum()
    error = slopes.std() / math.sqrt(networks)
    assert error < 0.03
    assert abs(slopes.mean() - 1) < 4 * error
    assert (samples.mean(dim=0) - expected).norm() < 0.05 * expected.norm()
