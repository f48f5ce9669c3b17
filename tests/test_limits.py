"""Runs on crops: training follows the network's own kernel, and the kernel of the limit is what it says."""

from types import SimpleNamespace

import pytest
import torch
from literal_kernels import jacobian_kernel
from tiny_images import smooth_image

from ntkbook import experiments, limits
from ntkbook.configuration import Configuration
from ntkbook.experiments import problem
from ntkbook.filters import twicing
from ntkbook.images import centre, psnr, to_image, to_matrix, uncentre
from ntkbook.kernels import infinite_width
from ntkbook.layers import vanilla
from ntkbook.limits import PLAN, crop
from ntkbook.networks import build
from ntkbook.problems import network_input
from ntkbook.runner import run
from ntkbook.training import gradient_descent

CPU = torch.device("cpu")
SHORT = {"largest_iteration": 20}


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Every image is one small synthetic image, and the vanilla network has 3x3 kernels."""
    monkeypatch.setattr(experiments, "load", lambda name, dtype: smooth_image(3, 20, 24).to(dtype))
    monkeypatch.setattr(limits, "ARCHITECTURES", {"vanilla": vanilla(3)})


def in_double(method: str, input: str = "image", **settings: object) -> Configuration:
    chosen = dict(crop(method, "house", "vanilla", 12, **SHORT | settings).settings)
    return Configuration(method, "house", 0, 25, "vanilla", input, "float64", chosen)


def test_the_crop_is_central_and_has_noise_and_levels_of_its_own():
    given = problem(in_double("descent", channels=4), CPU)
    assert torch.equal(given.clean, smooth_image(3, 20, 24)[:, 4:16, 6:18].double())
    assert given.noisy.shape == (3, 12, 12)
    assert given.levels.noisy_psnr == psnr(given.noisy, given.clean)


def test_whole_is_twicing_step_by_step():
    configuration = in_double("whole", lanczos_steps=60)
    given = problem(configuration, CPU)
    record = run(configuration, CPU)
    kernel = infinite_width(vanilla(3), centre(given.noisy), "standard").ntk
    weights = kernel / torch.linalg.eigvalsh(kernel)[-1]
    last = max(record.curve)
    estimate = to_image(twicing(weights, to_matrix(centre(given.noisy)), last), 12, 12)
    assert record.curve[last] == pytest.approx(psnr(uncentre(estimate), given.clean), abs=1e-6)
    assert record.outcome["change_from_last_quarter_of_steps_db"] < 1e-6


def test_training_follows_the_own_kernel_the_closer_the_wider():
    apart = []
    for channels in (16, 1024):
        trained = run(in_double("descent", channels=channels), CPU)
        lazy = run(in_double("lazy", channels=channels, lanczos_steps=40), CPU)
        assert trained.outcome["largest_eigenvalue"] == pytest.approx(lazy.outcome["largest_eigenvalue"], rel=1e-2)
        apart.append(max(abs(trained.curve[t] - lazy.curve[t]) for t in lazy.curve))
    assert apart[1] < 0.05 < apart[0]


@pytest.mark.parametrize("input", ["image", "noise"])
def test_lazy_is_twicing_with_the_whole_own_kernel_from_where_training_starts(input):
    settings = {"input_seed": 7} if input == "noise" else {}
    configuration = in_double("lazy", input, channels=8, lanczos_steps=200, weights_seed=2, **settings)
    given = problem(configuration, CPU)
    record = run(configuration, CPU)
    noisy, x = centre(given.noisy), network_input(configuration, given.noisy)
    network = build(vanilla(3), 8, seed=2).double()
    kernel = jacobian_kernel(network, x)
    largest = torch.linalg.eigvalsh(kernel)[-1].item()
    start = network(x[None])[0].detach() if input == "noise" else torch.zeros_like(noisy)
    assert record.outcome["largest_eigenvalue"] == pytest.approx(largest, rel=1e-9)
    for t, value in record.curve.items():
        passed = twicing(kernel / largest, (noisy - start).reshape(-1, 1), t).reshape(noisy.shape)
        assert value == pytest.approx(psnr(uncentre(start + passed), given.clean), abs=1e-6)
    assert record.outcome["change_from_last_quarter_of_steps_db"] < 1e-6


def test_training_with_noise_as_input_follows_the_own_kernel_of_many_channels():
    configuration = in_double("lazy", "noise", channels=1024, lanczos_steps=60, input_seed=7)
    given, lazy = problem(configuration, CPU), run(configuration, CPU)
    x, target = network_input(configuration, given.noisy), centre(given.noisy)
    step = 1 / lazy.outcome["largest_eigenvalue"]
    network = build(vanilla(3), 1024, seed=0).double()
    for t, output in gradient_descent(network, x, target, step, lazy.curve, from_zero=False):
        assert psnr(uncentre(output), given.clean) == pytest.approx(lazy.curve[t], abs=0.05)
    assert max(lazy.curve.values()) > lazy.curve[1] + 1


def test_the_own_kernel_approaches_the_limit():
    apart, ratios = [], []
    for channels in (64, 4096):
        limit = run(in_double("whole", lanczos_steps=60, channels=channels), CPU)
        lazy = run(in_double("lazy", channels=channels, lanczos_steps=60), CPU)
        apart.append(max(abs(limit.curve[t] - lazy.curve[t]) for t in lazy.curve))
        ratios.append(lazy.outcome["largest_eigenvalue"] / channels / limit.outcome["largest_eigenvalue"])
    assert apart[1] < 0.3
    assert apart[1] < apart[0] / 2
    assert ratios[1] == pytest.approx(1, rel=0.05)


def test_the_plan_has_what_the_chapter_compares():
    methods = {method: [c for c in PLAN if c.method == method] for method in ("whole", "lazy", "descent")}
    assert sum(map(len, methods.values())) == len(PLAN)
    lazy = {(c.architecture, c.settings["channels"], c.settings["weights_seed"]) for c in methods["lazy"]}
    for configuration in methods["descent"]:
        settings = SimpleNamespace(**configuration.settings)
        assert (configuration.architecture, settings.channels, settings.weights_seed) in lazy
