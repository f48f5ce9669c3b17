"""Adam by its averages and its metric is PyTorch's Adam, and its step moves the output as the metric's kernel says."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_images import random_image
from torch import Tensor, nn

from ntkbook import checks, printed
from ntkbook.adam import Adam, Averages, metric, output_step, weight_step
from ntkbook.layers import vanilla
from ntkbook.networks import build
from ntkbook.tangent import EmpiricalKernel, jacobian

IMAGE, TARGET = random_image(3, 5, 6), 0.3 * random_image(3, 5, 6, seed=4)
RULE = Adam(3e-3)


def network(seed: int = 0) -> nn.Sequential:
    return build(vanilla(3, 3, output=1), 6, seed=seed, dtype=torch.float64)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def flat(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in named.values()])


def trajectory(rule: Adam, steps: int, model: nn.Module):
    """Weights, gradient and averages before each of PyTorch's steps, with the averages kept by hand."""
    optimiser = torch.optim.Adam(model.parameters(), rule.learning_rate, rule.betas, rule.epsilon)
    memory = Averages.of_nothing(weights_of(model))
    for _ in range(steps):
        before = weights_of(model)
        loss = 0.5 * (model(IMAGE[None])[0] - TARGET).square().sum()
        optimiser.zero_grad()
        loss.backward()
        gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
        memory = memory.after(gradient, rule)
        optimiser.step()
        after = weights_of(model)
        yield before, gradient, memory, {name: after[name] - before[name] for name in after}


@settings(max_examples=25, deadline=None)
@given(
    st.floats(1e-5, 1e-1),
    st.tuples(st.floats(0.0, 0.95), st.floats(0, 0.999)),
    st.sampled_from([0, 1e-8, 1e-3]),
    st.integers(0, 20),
)
def test_the_form_with_a_metric_is_the_optimiser(rate, betas, epsilon, seed):
    rule, last, previous = Adam(rate, betas, epsilon), None, None
    for _, gradient, memory, change in trajectory(rule, 5, network(seed)):
        if any((each == 0).any() for each in memory.second.values()) and epsilon == 0:
            return  # a relu that is off: no metric
        now = metric(memory, rule)
        mine = {name: -rate * now[name] * memory.first[name] for name in now}
        for found in (mine, weight_step(now, gradient, rule, previous, last)):
            torch.testing.assert_close(flat(found), flat(change), rtol=1e-6, atol=1e-9 * rate)
        last, previous = change, now


def test_the_printed_step_lets_the_metric_stand_still():
    steps = list(trajectory(RULE, 4, network()))
    (_, _, earlier, last), (_, gradient, memory, change) = steps[-2:]
    now, previous = metric(memory, RULE), metric(earlier, RULE)
    right = flat(weight_step(now, gradient, RULE, previous, last))
    checks.identity("18", right, flat(change), rtol=1e-8)
    checks.printed_fails("18", flat(printed.equation_18(now, gradient, RULE, last)), right, 0.02)
    still = weight_step(now, gradient, RULE, now, last)
    checks.identity("18", flat(printed.equation_18(now, gradient, RULE, last)), flat(still))


def test_the_kernel_with_a_metric_is_the_product_of_its_matrices():
    *_, (before, _, memory, _) = trajectory(RULE, 3, network())
    model = network()
    model.load_state_dict(before)
    now = metric(memory, RULE)
    kernel = EmpiricalKernel(model, IMAGE, now)
    J = torch.cat(list(jacobian(model, IMAGE).values()), dim=1)
    whole = J @ flat(now).diag() @ J.T
    v = random_image(3, 5, 6, seed=7)
    checks.identity("19", kernel.product(v).flatten(), whole @ v.flatten())
    checks.identity("19", kernel.dense(1), whole[30:60, 30:60])
    largest = torch.linalg.eigvalsh(whole)[-1].item()
    assert kernel.largest_eigenvalue(1e-9) == pytest.approx(largest, rel=1e-5)


def test_a_metric_of_ones_changes_nothing_to_the_last_bit():
    model = network()
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    v = random_image(3, 5, 6, seed=7)
    assert torch.equal(EmpiricalKernel(model, IMAGE, ones).product(v), EmpiricalKernel(model, IMAGE).product(v))


def test_the_output_moves_as_the_kernel_says_to_first_order():
    *_, (_, _, earlier, last), (before, _, memory, _) = trajectory(RULE, 4, network())
    now, previous = metric(memory, RULE), metric(earlier, RULE)
    rates, right, as_printed = [], [], []
    for scale in (1e-2, 1e-3, 1e-4):  # steps that are small beside the distance to a relu's kink
        rule = dataclasses.replace(RULE, learning_rate=RULE.learning_rate * scale)
        small = {name: scale * each for name, each in last.items()}
        model = network()
        model.load_state_dict(before)
        kernel = EmpiricalKernel(model, IMAGE, now)
        carried = {name: now[name] / previous[name] * small[name] for name in now}
        expected = output_step(kernel, TARGET - kernel.output, rule, carried)
        plain = printed.equation_20(kernel, TARGET - kernel.output, rule, kernel.push(small))
        change = {name: -rule.learning_rate * now[name] * memory.first[name] for name in now}
        model.load_state_dict({name: before[name] + change[name] for name in before})
        with torch.no_grad():
            moved = model(IMAGE[None])[0] - kernel.output
        rates.append(scale)
        right.append((moved - expected).norm().item())
        as_printed.append((moved - plain).norm().item())
    checks.rate("20", rates, right, 2, max_width=0.1)
    checks.rate("20 as printed", rates, as_printed, 1, max_width=0.1)


def test_without_memory_it_is_descent_by_signs():
    rule = Adam(1e-3, (0.0, 0.0), 1e-30)
    for _, gradient, memory, change in trajectory(rule, 2, network(2)):
        torch.testing.assert_close(flat(change), -1e-3 * flat(gradient).sign())
        on = flat(gradient) != 0  # a relu may be off everywhere
        assert on.double().mean() > 0.5
        torch.testing.assert_close(flat(metric(memory, rule))[on], 1 / flat(gradient).abs()[on])


def test_metrics_that_cannot_be_are_refused():
    model = network()
    memory = Averages.of_nothing(weights_of(model))
    with pytest.raises(ValueError, match="have seen no gradient yet"):
        metric(memory, RULE)
    nothing = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match="a gradient is not, or one is 0 and so is epsilon"):
        metric(memory.after(nothing, RULE), Adam(1e-3, epsilon=0))
    assert flat(metric(memory.after(nothing, RULE), RULE)).max() < math.inf
    lost = nothing | {"0.weight": torch.full_like(model[0].weight, math.nan)}
    with pytest.raises(ValueError, match=r"not finite for '0\.weight'"):
        metric(memory.after(lost, RULE), RULE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"extra": torch.ones(3)}, "shapes of the trained parameters"),
        (lambda m: {k: v for k, v in m.items() if k != "0.weight"}, "shapes of the trained parameters"),
        (lambda m: m | {"0.weight": torch.ones(2)}, "shapes of the trained parameters"),
        (lambda m: m | {"0.weight": -m["0.weight"]}, "not negative; for '0.weight' it is not"),
        (lambda m: m | {"0.weight": m["0.weight"] / 0}, "must be finite"),
    ],
)
def test_kernels_refuse_a_metric_that_does_not_fit(change, message):
    model = network()
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        EmpiricalKernel(model, IMAGE, change(ones))


def test_a_frozen_parameter_has_no_place_in_the_metric():
    model = network()
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="shapes of the trained parameters"):
        EmpiricalKernel(model, IMAGE, ones)
    del ones["0.weight"]
    EmpiricalKernel(model, IMAGE, ones)
