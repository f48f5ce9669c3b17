"""The empirical tangent kernel by products is the one of the whole Jacobian."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_kernels import jacobian_kernel
from tiny_images import random_image
from torch import Tensor, nn

from ntkbook import checks, tangent
from ntkbook.filters import twicing
from ntkbook.lanczos import lanczos
from ntkbook.layers import Conv, LeakyRelu, Relu, Serial, Skip, unet
from ntkbook.networks import build
from ntkbook.tangent import EmpiricalKernel, jacobian, power_iteration

SPEC = Serial(Conv(3, bias=0.3), Relu(), Skip(Conv(3), LeakyRelu()), Conv(3))
IMAGE = random_image(2, 4, 5)


def network(outputs: int = 2, parametrisation: str = "standard", spec: Serial = SPEC) -> nn.Sequential:
    """A small one in float64."""
    return build(spec, 5, 2, outputs, 3, parametrisation, dtype=torch.float64)


def random_vectors(*shape: int) -> Tensor:
    """Independent numbers."""
    return random_image(1, *shape, seed=8)[0] if len(shape) == 2 else random_image(*shape, seed=8)


@pytest.mark.parametrize("parametrisation", ["standard", "ntk"])
@pytest.mark.parametrize("spec", [SPEC, unet(1, features=True)], ids=["small", "unet"])
def test_products_are_those_with_the_whole_jacobian(spec, parametrisation):
    model, image = network(2, parametrisation, spec), random_image(2, 8, 8)
    whole, kernel = jacobian_kernel(model, image), EmpiricalKernel(model, image)
    assert kernel.size == len(whole) == 128
    assert torch.equal(kernel.output, model(image[None])[0].detach())
    vectors = random_vectors(128, 3)
    checks.identity("57", kernel @ vectors, whole @ vectors)
    one = random_vectors(2, 8, 8)
    checks.identity("57", kernel.product(one).flatten(), whole @ one.flatten())
    for channel in range(2):
        part = slice(64 * channel, 64 * channel + 64)
        checks.identity("57", kernel.dense(channel), whole[part, part])
    largest = torch.linalg.eigvalsh(whole)[-1].item()
    assert kernel.largest_eigenvalue(1e-9) == pytest.approx(largest, rel=1e-6)
    assert kernel.largest_eigenvalue(1e-2, seed=4) <= largest * (1 + 1e-12)


def test_the_whole_kernel_in_pieces(monkeypatch):
    kernel = EmpiricalKernel(network(), IMAGE)
    expected = kernel.dense(1)
    for limit in (1, 20_000):  # one row at a time, and a few
        monkeypatch.setattr(tangent, "CHUNK_BYTES", limit)
        checks.identity("57", kernel.dense(1), expected)


def test_frozen_parameters_add_nothing():
    model = network()
    whole = EmpiricalKernel(model, IMAGE).dense()
    model[0].weight.requires_grad_(False)
    without = EmpiricalKernel(model, IMAGE).dense()
    checks.identity("57", without, jacobian_kernel(model, IMAGE)[:20, :20])
    assert without.trace() < 0.99 * whole.trace()
    checks.positive_semidefinite("57", whole - without)


def test_later_changes_of_the_network_are_not_seen():
    model, vectors = network(), random_vectors(40, 1)
    model[0].weight.requires_grad_(False)
    kernel = EmpiricalKernel(model, IMAGE)
    before = kernel @ vectors
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(kernel @ vectors, before)
    assert not torch.allclose(EmpiricalKernel(model, IMAGE) @ vectors, before)


def test_products_leave_no_gradients_behind():
    model = network()
    assert not (EmpiricalKernel(model, IMAGE) @ random_vectors(40, 1)).requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_small_step_of_gradient_descent_is_a_step_of_twicing():
    """To first order in the learning rate the output moves by the kernel times what is left, (9)."""
    target, errors, rates = random_vectors(2, 4, 5), [], [1e-4, 1e-5, 1e-6]
    for rate in rates:
        model = network()
        kernel = EmpiricalKernel(model, IMAGE)
        residual = target - kernel.output
        (0.5 * (target - model(IMAGE[None])[0]).square().sum()).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
            moved = model(IMAGE[None])[0] - kernel.output
        predicted = rate * (kernel @ residual.reshape(-1, 1)).reshape(2, 4, 5)
        errors.append(((moved - predicted).norm() / predicted.norm()).item())
    assert errors[-1] < 1e-3
    checks.rate("9", torch.tensor(rates), torch.tensor(errors), 1, max_width=0.2)


def test_twicing_and_lanczos_take_the_kernel():
    kernel, noisy = EmpiricalKernel(network(1), IMAGE), random_vectors(20, 1)
    dense, largest = kernel.dense(), kernel.largest_eigenvalue(1e-12, 10_000)

    class Scaled:
        def __matmul__(self, vectors: Tensor) -> Tensor:
            return kernel @ vectors / largest

    expected = twicing(dense / largest, noisy, 7)
    checks.identity("5", twicing(Scaled(), noisy, 7), expected)
    krylov = lanczos(lambda vectors: kernel @ vectors, noisy, 20)
    assert krylov.largest == pytest.approx(largest, rel=1e-8)
    checks.identity("6", krylov.apply(7), expected, rtol=1e-6)


def test_single_precision():
    model = build(SPEC, 5, 2, 2, 3)
    kernel = EmpiricalKernel(model, IMAGE.float())
    assert kernel.dense().dtype == torch.float32
    double = EmpiricalKernel(network(), IMAGE)
    assert kernel.largest_eigenvalue() == pytest.approx(double.largest_eigenvalue(), rel=1e-3)


@pytest.mark.parametrize("values", [[3.0, 2.0, 0.5], [5.0, 5.0, 1.0], [7.0, 0.0, 0.0]])
def test_power_iteration_finds_known_eigenvalues(values):
    matrix = torch.diag(torch.tensor(values).double())
    rotation = torch.linalg.qr(random_vectors(3, 3))[0]
    matrix = rotation @ matrix @ rotation.T
    found, vector = power_iteration(lambda v: matrix @ v, torch.tensor([1.0, -0.3, 0.2]).double(), 1e-14, 500)
    assert found == pytest.approx(values[0], rel=1e-9)
    assert vector.norm().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(matrix @ vector, values[0] * vector, rtol=0, atol=1e-5)


def test_the_zero_operator_has_eigenvalue_zero():
    value, vector = power_iteration(torch.zeros_like, torch.ones(2, 3), 1e-4, 5)
    assert value == 0
    torch.testing.assert_close(vector, torch.ones(2, 3) / 6**0.5)  # there is no image to go on with
    black = build(Serial(Conv(3), Relu(), Conv(1)), 4, 2, 1)
    assert EmpiricalKernel(black, torch.zeros(2, 4, 4)).largest_eigenvalue() == 0


def test_power_iteration_takes_at_least_so_many_products():
    """The first vector lies almost in the space of the lower eigenvalue, where the estimate rests for a while."""
    matrix, taken = torch.diag(torch.tensor([2.0, 1.0]).double()), []

    def product(vector: Tensor) -> Tensor:
        taken.append(vector)
        return matrix @ vector

    start = torch.tensor([1e-4, 1.0]).double()
    assert power_iteration(product, start, 1e-3, 100, least=1)[0] == pytest.approx(1, abs=1e-3)
    assert len(taken) == 2
    assert power_iteration(product, start, 1e-3, 100)[0] == pytest.approx(2, abs=1e-2)
    assert len(taken) > 2 + tangent.LEAST_STEPS


def moved(model: nn.Module, by: float) -> nn.Module:
    """The network with each weight changed by this share of itself and a little noise."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            change = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.mul_(1 + by).add_(change, alpha=by * parameter.std().item())
    return model


def test_the_leading_eigenpair_from_nothing_and_from_near(monkeypatch):
    products, product = [], EmpiricalKernel.product

    def counted(kernel: EmpiricalKernel, vector: Tensor) -> Tensor:
        products.append(vector)
        return product(kernel, vector)

    monkeypatch.setattr(EmpiricalKernel, "product", counted)
    model, near, needed = network(), None, []
    for change in (0, 0.02, 0.02):
        model = moved(model, change)
        values, vectors = torch.linalg.eigh(jacobian_kernel(model, IMAGE))
        products.clear()
        found, near = EmpiricalKernel(model, IMAGE).leading(near)
        needed.append(len(products))
        assert found == pytest.approx(values[-1].item(), rel=5e-3)
        assert near.shape == (2, 4, 5)
        assert near.norm().item() == pytest.approx(1)
        assert abs(near.flatten() @ vectors[:, -1]).item() > 0.95
    assert needed[0] > tangent.LEAST_STEPS > max(needed[1:])
    assert EmpiricalKernel(model, IMAGE).leading(None, 1e-12)[0] == pytest.approx(values[-1].item(), rel=1e-9)


def test_power_iteration_says_that_it_did_not_settle():
    matrix = torch.diag(torch.tensor([1.0, 0.99, 0.98]).double())
    with pytest.raises(ValueError, match=r"did not settle to 1e-14 within 3 steps; the last was 0\.99"):
        power_iteration(lambda v: matrix @ v, torch.ones(3).double(), 1e-14, 3)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_product_that_is_not_finite_is_refused(factor):
    with pytest.raises(ValueError, match="A product with the operator is not finite"):
        power_iteration(lambda v: v * factor, torch.ones(3), 1e-4, 10)


def test_the_whole_kernel_of_a_large_image_is_refused_by_its_size():
    kernel = EmpiricalKernel(build(Serial(Conv(1)), 1, 1, 1), torch.zeros(1, 65, 64))
    message = "The tangent kernel of 65x64 pixels would take 0.1 GiB and 4160 products; it is formed up to 64x64 pixels"
    with pytest.raises(ValueError, match=re.escape(message)):
        kernel.dense()


def test_bad_input_is_refused():
    model, message = network(), "The input and the output of the network must be finite; one of them is not."
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=message):
            EmpiricalKernel(model, torch.full_like(IMAGE, value))
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = math.inf
    with pytest.raises(ValueError, match=message):
        EmpiricalKernel(model, IMAGE)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="The network has no trained parameters, so it has no tangent kernel"):
        EmpiricalKernel(model, IMAGE)


@pytest.mark.parametrize("shape", [(40,), (20, 2), (2, 4, 5)])
def test_vectors_of_another_shape_are_refused(shape):
    message = f"The kernel takes vectors of shape (40, k), not {shape}."
    with pytest.raises(ValueError, match=re.escape(message)):
        EmpiricalKernel(network(), IMAGE) @ torch.zeros(shape).double()


def by_hand(model: nn.Sequential, image: Tensor) -> Tensor:
    """The Jacobian by difference quotients of the output, exact where no relu flips; one column for each weight."""
    h, columns = 1e-4, []
    with torch.no_grad():
        for parameter in model.parameters():
            for entry in parameter.view(-1).split(1):
                ends = []
                for change in (h, -2 * h, h):
                    entry += change
                    ends.append(model(image[None])[0].flatten())
                columns.append((ends[0] - ends[1]) / (2 * h))
    return torch.stack(columns, dim=1)


def parts(model: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """One long vector as weights by their names."""
    named = dict(model.named_parameters())
    pieces = vector.split([parameter.numel() for parameter in named.values()])
    return {name: piece.view(p.shape) for (name, p), piece in zip(named.items(), pieces, strict=True)}


@pytest.mark.parametrize("parametrisation", ["standard", "ntk"])
def test_pull_push_and_jacobian_are_difference_quotients(parametrisation):
    model = network(2, parametrisation)
    whole, kernel = by_hand(model, IMAGE), EmpiricalKernel(model, IMAGE)
    found = jacobian(model, IMAGE)
    assert list(found) == [name for name, _ in model.named_parameters()]
    checks.identity("58", torch.cat(list(found.values()), dim=1), whole, rtol=1e-8)
    v = random_vectors(2, 4, 5)
    pulled = kernel.pull(v)
    assert {name: each.shape for name, each in pulled.items()} == {n: p.shape for n, p in model.named_parameters()}
    checks.identity("53", torch.cat([each.flatten() for each in pulled.values()]), whole.T @ v.flatten(), rtol=1e-8)
    u = random_vectors(whole.shape[1], 1)[:, 0]
    pushed = kernel.push(parts(model, u))
    assert pushed.shape == kernel.output.shape
    checks.identity("54", pushed.flatten(), whole @ u, rtol=1e-8)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), factor=st.floats(-3, 3))
def test_pull_is_the_transpose_of_push_and_both_are_linear(seed, factor):
    model = network()
    kernel = EmpiricalKernel(model, IMAGE)
    u = parts(model, random_image(1, 1, sum(p.numel() for p in model.parameters()), seed=seed).flatten())
    v, w = (random_image(2, 4, 5, seed=seed + k) for k in (1, 2))
    inner = sum((u[name] * each).sum() for name, each in kernel.pull(v).items())
    assert (kernel.push(u) * v).sum().item() == pytest.approx(inner.item(), rel=1e-10, abs=1e-12)
    together = kernel.product(factor * v + w)
    checks.identity("56", together, factor * kernel.product(v) + kernel.product(w), rtol=1e-9)


def test_the_gradient_of_the_loss_is_pulled_back():
    model, target = network(), random_vectors(2, 4, 5)
    (0.5 * (model(IMAGE[None])[0] - target).square().sum()).backward()
    kernel = EmpiricalKernel(model, IMAGE)
    pulled = kernel.pull(kernel.output - target)
    for name, parameter in model.named_parameters():
        checks.identity("53", pulled[name], parameter.grad)


def test_the_jacobian_of_the_trained_weights_only():
    model = network(1)
    model[0].weight.requires_grad_(False)
    found = jacobian(model, IMAGE)
    assert "0.weight" not in found and "0.bias" in found
    whole = sum(block @ block.T for block in found.values())
    checks.identity("60", whole, EmpiricalKernel(model, IMAGE).dense())
