"""The trainer against plain loops: its steps, its best, what it keeps, and that it goes on where it stopped."""

import copy
import io
import itertools
import math

import pytest
import torch
from literal_kernels import jacobian_kernel
from tiny_images import random_image, smooth_image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ntkbook.adam import Adam
from ntkbook.images import add_noise, centre, psnr, uncentre
from ntkbook.layers import AUTOENCODER, Conv, Relu, Serial, vanilla
from ntkbook.networks import build
from ntkbook.tangent import EmpiricalKernel
from ntkbook.training import GradientDescent, Trainer, gradient_descent

CLEAN = smooth_image(3, 10, 12)
NOISY = centre(add_noise(CLEAN, 25, 0))
NOISE = 2 * random_image(3, 10, 12, seed=5)
ADAM = Adam(1e-2)
RULES = pytest.mark.parametrize("rule", [GradientDescent(), ADAM], ids=["descent", "adam"])


def network(*sizes: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A plain one with hidden layers of these sizes."""
    return build(vanilla(*sizes or (5,)), 16, seed=3, dtype=dtype)


def trainer(rule: GradientDescent | Adam, model: nn.Sequential | None = None, x: Tensor = NOISY, **named) -> Trainer:
    """One that denoises the small image, in the input's dtype."""
    model = network(dtype=x.dtype) if model is None else model
    return Trainer(model, x, NOISY.to(x), centre(CLEAN).to(x), rule, **named)


def adam_by_hand(model: nn.Module, x: Tensor, rule: Adam, iterations: int, from_zero: bool) -> list[Tensor]:
    """Outputs of the iterations 0, 1, ... with PyTorch's own optimiser; the network is left after the last step."""
    optimiser = torch.optim.Adam(model.parameters(), rule.learning_rate, rule.betas, rule.epsilon, foreach=False)
    first = model(x[None])[0].detach()
    outputs = []
    for _ in range(iterations):
        output = model(x[None])[0] - (first if from_zero else 0)
        outputs.append(output.detach())
        optimiser.zero_grad()
        (0.5 * (output - NOISY).square().sum()).backward()
        optimiser.step()
    return outputs


def qualities(outputs: list[Tensor]) -> list[float]:
    return [psnr(uncentre(output), CLEAN) for output in outputs]


def assert_the_same_weights(first: nn.Module, second: nn.Module, **tolerance: float) -> None:
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


# The steps


@pytest.mark.parametrize("from_zero", [True, False])
@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_descent_with_one_eigenvalue_is_plain_gradient_descent(monkeypatch, gamma, from_zero):
    monkeypatch.setattr(EmpiricalKernel, "leading", lambda kernel, near: (200.0, kernel.output))
    found, plain = trainer(GradientDescent(gamma), from_zero=from_zero, times=range(41)), network()
    found.advance(41)
    iterates = dict(gradient_descent(plain, NOISY, NOISY, gamma / 200, range(42), from_zero))
    assert_the_same_weights(found.network, plain, rtol=1e-10, atol=1e-12)
    expected = dict(enumerate(qualities([iterates[t] for t in range(41)])))
    assert found.curve == pytest.approx(expected, abs=1e-6)
    best, value = found.best
    assert best == max(expected, key=expected.get)
    assert value == pytest.approx(expected[best], abs=1e-6)
    torch.testing.assert_close(found.best_output, iterates[best], rtol=1e-10, atol=1e-10)
    assert found.travelled == pytest.approx(41 * gamma / 200)


def test_the_eigenvalue_is_measured_when_the_iterations_have_grown_by_half():
    """The steps in between are those of plain gradient descent with the last measured one."""
    found, plain = trainer(GradientDescent(1.5)), network()
    first = plain(NOISY[None])[0].detach()
    exact = {}
    for t in range(60):
        if t in (0, 10, 15, 23, 35, 53):
            exact[t] = torch.linalg.eigvalsh(jacobian_kernel(plain, NOISY))[-1].item()
        found.advance(1)
        step = 1.5 / list(found.eigenvalues.values())[-1]
        list(gradient_descent(plain, NOISY, NOISY + first, step, [1], from_zero=False))
    assert list(found.eigenvalues) == list(exact)
    assert found.eigenvalues == pytest.approx(exact, rel=2e-3)
    assert abs(exact[53] / exact[0] - 1) > 0.01  # it had to be measured again
    assert_the_same_weights(found.network, plain, rtol=1e-9, atol=1e-11)
    lengths = [1.5 / found.eigenvalues[max(m for m in exact if m <= t)] for t in range(60)]
    assert found.travelled == pytest.approx(sum(lengths))


@pytest.mark.parametrize("sizes", [(5,), (3, 3)], ids=["one layer", "two layers"])
@pytest.mark.parametrize("from_zero", [True, False])
@pytest.mark.parametrize("rule", [ADAM, Adam(3e-3, (0.5, 0.9), 1e-3)], ids=["the paper's", "others"])
def test_adam_is_pytorch_s(rule, from_zero, sizes):
    x = NOISY if from_zero else NOISE
    found, plain = trainer(rule, network(*sizes), x, from_zero=from_zero, times=range(60)), network(*sizes)
    found.advance(60)
    expected = qualities(adam_by_hand(plain, x, rule, 60, from_zero))
    assert_the_same_weights(found.network, plain, rtol=1e-8, atol=1e-10)
    assert found.curve == pytest.approx(dict(enumerate(expected)), abs=1e-6)
    assert found.psnr == pytest.approx(expected[-1], abs=1e-6)
    assert (found.eigenvalues, found.travelled) == ({}, 0)


def test_another_network_of_three_scales():
    """The whole way of an autoencoder in single precision, products and all, beside the plain loop in double."""
    clean = smooth_image(3, 16, 24)
    noisy = centre(add_noise(clean, 25, 0))
    model = build(AUTOENCODER, 4, seed=1)
    plain = copy.deepcopy(model).double()
    found = Trainer(model, noisy.float(), noisy.float(), centre(clean).float(), ADAM, times=(0, 1, 5))
    found.advance(6)
    optimiser = torch.optim.Adam(plain.parameters(), 1e-2, (0.9, 0.99))
    first = plain(noisy[None])[0].detach()
    for t in range(6):
        output = plain(noisy[None])[0] - first
        if t in found.curve:
            assert found.curve[t] == pytest.approx(psnr(uncentre(output.detach()), clean), abs=1e-3)
        optimiser.zero_grad()
        (0.5 * (output - noisy).square().sum()).backward()
        optimiser.step()


def test_a_network_that_does_not_start_with_a_convolution_is_refused():
    with pytest.raises(ValueError, match="must start with a convolution without a stride"):
        trainer(ADAM, nn.Sequential(nn.ReLU(), *network().children()))


# The best of the trajectory


@RULES
def test_the_best_is_that_of_all_iterations(rule):
    found, plain = trainer(rule), network()
    found.advance(120)
    if rule is ADAM:
        outputs = adam_by_hand(plain, NOISY, ADAM, 120, True)
    else:
        step = trainer(rule, times=range(120))
        outputs = []
        for _ in range(120):
            outputs.append(step.network(NOISY[None])[0].detach() - plain(NOISY[None])[0].detach())
            step.advance(1)
    expected = qualities(outputs)
    best, value = found.best
    assert best == max(range(120), key=expected.__getitem__)
    assert 0 < best < 119  # a peak within, not an end
    assert value == pytest.approx(max(expected), abs=1e-6)
    assert psnr(uncentre(found.best_output), CLEAN) == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(found.best_output, outputs[best], rtol=1e-8, atol=1e-10)


def test_of_equal_iterations_the_first_is_the_best():
    found = trainer(Adam(1e-30))  # the weights do not move
    found.advance(5)
    assert found.best[0] == 0


def test_the_clean_image_does_not_influence_the_weights():
    one = trainer(ADAM)
    other = Trainer(network(), NOISY, NOISY, torch.zeros_like(NOISY), ADAM)
    for each in (one, other):
        each.advance(10)
    assert_the_same_weights(one.network, other.network, rtol=0, atol=0)
    assert one.best != other.best


def test_the_output_is_clipped_for_the_comparison_alone():
    white = torch.full_like(NOISY, 0.5)
    found = Trainer(network(), NOISE, 3 * white, white, ADAM, from_zero=False)
    found.advance(200)
    assert found.psnr > 25
    assert found.best_output.max() > 0.7


# Outputs that are not finite


@pytest.mark.parametrize("rule", [Adam(1e200), GradientDescent(1e200)], ids=["adam", "descent"])
def test_what_is_not_finite_is_not_the_best_and_not_an_error(rule):
    found = trainer(rule, times=range(30))
    found.advance(30)
    assert found.iteration == 30
    assert not all(weight.isfinite().all() for weight in found.network.parameters())
    best, value = found.best
    assert math.isfinite(value)
    assert value == max(found.curve.values()) == found.curve[best]
    assert found.curve[29] == found.psnr == -math.inf
    assert found.best_output.isfinite().all()
    assert psnr(uncentre(found.best_output), CLEAN) == pytest.approx(value, abs=1e-6)


def test_an_infinite_output_is_not_a_white_image():
    """Clipped it would be one."""
    positive, white = torch.ones(1, 2, 2), torch.full((1, 2, 2), 0.5)
    found = Trainer(build(Serial(Conv(1)), 1, 1, 1), 1e10 * positive, 1e3 * white, white, Adam(1e30), times=(0, 1))
    found.advance(1)
    assert found.network(1e10 * positive[None]).isposinf().all()
    found.advance(1)
    assert found.best[0] == 0
    assert found.curve[1] == -math.inf


# What is kept


def test_the_curve_has_the_times_that_have_passed():
    found = trainer(ADAM, times=(0, 2, 5, 30))
    assert (found.iteration, found.curve) == (0, {})
    seen = {}
    for t in range(6):
        found.advance(1)
        seen[t] = found.psnr
    assert found.iteration == 6
    assert found.curve == {t: seen[t] for t in (0, 2, 5)}


@RULES
def test_changes_of_the_weights_are_those_of_each_layer(rule):
    found = trainer(rule, network(3, 3), times=(0, 3, 7), follow=True)
    start = [weight.detach().clone() for weight in found.network.parameters()]
    expected = {}
    for t in range(8):
        if t in (0, 3, 7):
            changes = [(new - old).detach() for new, old in zip(found.network.parameters(), start, strict=True)]
            expected[t] = [(math.sqrt(c.square().sum()), c.abs().max().item()) for c in changes]
        found.advance(1)
    assert list(found.weight_changes) == [0, 3, 7]
    assert expected[0] == [(0, 0)] * 3 and min(length for length, _ in expected[7]) > 0
    for t, changes in found.weight_changes.items():
        for found_pair, pair in zip(changes, expected[t], strict=True):
            assert found_pair == pytest.approx(pair, rel=1e-12)


def test_changes_are_not_kept_unless_asked_for():
    found = trainer(ADAM, times=(0, 3))
    found.advance(5)
    assert found.weight_changes == {}


class NoReading(TorchDispatchMode):
    """Reading a number off a tensor is an error; Adam's own counts of its steps lie on the CPU anyway."""

    def __init__(self, allowed: list[Tensor]) -> None:
        super().__init__()
        self.allowed = allowed

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        reads = function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        if reads and not any(arguments[0] is each for each in self.allowed):
            raise AssertionError(f"{function} read {arguments[0]}")
        return function(*arguments, **named or {})


def test_reading_is_noticed():
    one = torch.ones(())
    for read in (one.item, lambda: bool(one), lambda: float(one), lambda: torch.ones(2)[one > 0]):
        with NoReading([]), pytest.raises(AssertionError, match="read"):
            read()
    with NoReading([one]):
        assert one.item() == 1


@RULES
def test_nothing_is_read_back_between_iterations(rule, monkeypatch):
    found = trainer(rule, times=range(60), follow=True)
    found.advance(36)  # the eigenvalue, which is read, is measured at 35 and next at 53
    counts = [state["step"] for state in found._optimiser.state.values() if "step" in state]

    def forbidden(*_, **__):
        raise AssertionError("a tensor was read")

    for name in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(Tensor, name, forbidden)
    with NoReading(counts):
        found.advance(17)
    assert found.iteration == 53


# Going on


def through_a_file(state: dict) -> dict:
    """What comes back from a file that may hold data alone."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def everything(found: Trainer) -> dict:
    return {
        "weights": [weight.detach() for weight in found.network.parameters()],
        "best_output": found.best_output,
        "numbers": (found.iteration, found.best, found.psnr, found.curve, found.weight_changes),
        "eigenvalues": (found.eigenvalues, found.travelled),
    }


def assert_identical(first: Trainer, second: Trainer) -> None:
    """To the last bit."""
    one, other = everything(first), everything(second)
    assert all(map(torch.equal, one["weights"], other["weights"]))
    assert torch.equal(one["best_output"], other["best_output"])
    assert one["numbers"] == other["numbers"]
    assert one["eigenvalues"] == other["eigenvalues"]


@pytest.mark.parametrize("stop", [0, 1, 17, 36])
@pytest.mark.parametrize("products", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@RULES
def test_a_restored_trainer_goes_on_bit_for_bit(rule, products, stop):
    def fresh() -> Trainer:
        model = build(Serial(Conv(3, bias=0.1), Relu(), Conv(3)), 16, seed=3)
        return trainer(rule, model, NOISY.float(), products=products, times=range(0, 60, 4), follow=True)

    whole, before, after = fresh(), fresh(), fresh()
    whole.advance(55)
    before.advance(stop)
    state = through_a_file(before.state())
    after.advance(3)  # it shall not matter where the other one was
    after.restore(state)
    assert after.iteration == stop
    after.advance(55 - stop)
    assert_identical(whole, after)


def test_many_stops_are_as_good_as_none():
    whole = trainer(GradientDescent(), times=range(50), follow=True)
    whole.advance(50)
    state = None
    for _ in range(10):
        part = trainer(GradientDescent(), times=range(50), follow=True)
        if state is not None:
            part.restore(state)
        part.advance(5)
        state = through_a_file(part.state())
    assert_identical(whole, part)


def test_a_network_with_randomness_goes_on_with_the_same_numbers():
    def fresh(seed: int) -> Trainer:
        first, *rest = network(3, 3).children()
        torch.manual_seed(seed)
        return trainer(ADAM, nn.Sequential(first, nn.Dropout(0.3), *rest), times=range(30))

    with torch.random.fork_rng():
        whole, before = fresh(1), fresh(1)
        torch.manual_seed(7)
        whole.advance(30)
        torch.manual_seed(7)
        before.advance(11)
        state = through_a_file(before.state())
        after = fresh(2)
        torch.rand(100)
        after.restore(state)
        after.advance(19)
        other = fresh(3)
        torch.manual_seed(8)
        other.advance(30)
    assert after.curve == whole.curve != other.curve
    assert all(map(torch.equal, after.network.parameters(), whole.network.parameters()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@RULES
def test_a_restored_trainer_goes_on_on_its_own_device(rule, tmp_path):
    from ntkbook.checkpoints import Checkpoint

    device = torch.device("cuda")
    whole, before, after = (
        trainer(rule, network(dtype=torch.float32).to(device), NOISY.float().to(device), times=range(30))
        for _ in range(3)
    )
    whole.advance(30)
    before.advance(12)
    checkpoint = Checkpoint(tmp_path / "state.pt")
    checkpoint.save(before.state())
    after.restore(checkpoint.load(device))
    after.advance(18)
    assert after.curve == pytest.approx(whole.curve, abs=1e-3)
    assert all(not state["step"].is_cuda for state in after._optimiser.state.values() if "step" in state)


def test_iterations_are_counted_and_not_taken_twice():
    found = trainer(ADAM)
    assert found.iteration == 0
    for done, more in itertools.pairwise(itertools.accumulate((0, 3, 0, 4))):
        found.advance(more - done)
        assert found.iteration == more


def test_the_averages_are_those_of_the_gradients():
    run = trainer(ADAM)
    memory, start = run.averages, run.network(NOISY[None])[0].detach()
    assert memory.seen == 0
    assert not any(each.any() for each in memory.second.values())
    for _ in range(4):
        residual = run.network(NOISY[None])[0] - start - NOISY
        gradients = torch.autograd.grad(residual.square().sum() / 2, run.network.parameters())
        named = dict(zip(dict(run.network.named_parameters()), gradients, strict=True))
        memory = memory.after(named, ADAM)
        run.advance(1)
    assert run.averages.seen == memory.seen == 4
    for mine, theirs in ((run.averages.first, memory.first), (run.averages.second, memory.second)):
        for name, each in theirs.items():
            torch.testing.assert_close(mine[name], each)


def test_descent_has_no_averages():
    with pytest.raises(ValueError, match="keeps no averages"):
        _ = trainer(GradientDescent()).averages


def test_descent_on_a_network_that_no_weight_can_move_is_refused():
    model = network()
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    with pytest.raises(ValueError, match="The tangent kernel is zero"):
        trainer(GradientDescent(), model).advance(1)
