"""Figure 6's networks have one receptive field, and their columns are those of the two specifications."""

from collections import Counter

import pytest
import torch
from tiny_images import random_image, smooth_image

from ntkbook import checks, experiments
from ntkbook.depth import NAMES, PLAN, SPLITS, columns, filters, networks, planned
from ntkbook.experiments import problem
from ntkbook.images import SET9, centre, to_matrix
from ntkbook.kernels import infinite_width_columns
from ntkbook.layers import Conv, Relu, Serial
from ntkbook.networks import build
from ntkbook.nystrom import orthonormal_eigenpairs, uniform_columns
from ntkbook.problems import PER_DECADE
from ntkbook.runner import run
from ntkbook.stopping import iteration_grid, psnr_curve

CPU = torch.device("cpu")
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


@pytest.mark.parametrize(
    ("padding", "parametrisation"), [("circular", "paper"), ("circular", "ntk"), ("zeros", "paper")]
)
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


def test_the_plan_has_the_paper_s_filters_of_all_images_and_further_settings_of_some():
    paper = {"columns": 300, "padding": "circular", "parametrisation": "paper"}
    as_paper = [c for c in PLAN if paper.items() <= dict(c.settings).items()]
    found = Counter((c.image, tuple(c.settings["sizes"])) for c in as_paper)
    assert found == {(image, sizes): 1 for image in SET9 for sizes in SPLITS}
    others = [c for c in PLAN if c not in as_paper]
    assert Counter(c.image for c in others) == {"house": 3 * len(SPLITS), "f16": 2, "baboon": 2}
    changed = Counter((key, c.settings[key]) for c in others for key in paper if c.settings[key] != paper[key])
    assert changed == {("columns", 1000): 8, ("padding", "zeros"): 4, ("parametrisation", "ntk"): 4}


@pytest.mark.parametrize(("padding", "parametrisation"), [("circular", "paper"), ("zeros", "ntk")])
def test_a_run_has_both_readings(monkeypatch, padding, parametrisation):
    """The deeper network's curve, and the best of the network whose last convolution is the output layer."""
    monkeypatch.setattr(experiments, "load", lambda name, dtype: smooth_image(3, 20, 24).to(dtype))
    settings = {"padding": padding, "parametrisation": parametrisation, "columns": 40, "largest_iteration": 100}
    configuration = planned("house", (3, 3), **settings)
    record, given = run(configuration, CPU), problem(configuration, CPU)
    noisy, times = centre(given.noisy), iteration_grid(100, PER_DECADE)
    found = filters(noisy, (3, 3), padding, parametrisation, uniform_columns(480, 40, 0))
    curves = {name: psnr_curve(each, to_matrix(noisy), given.clean, times) for name, each in found.items()}
    best = record.outcome["linear_output_iteration"]
    assert record.curve == curves["relu"]
    assert record.outcome["linear_output_psnr"] == max(curves["linear"].values()) == curves["linear"][best]
    assert record.best_psnr > record.levels.noisy_psnr + 2
