"""Training one network on one image, by plain gradient descent."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


def gradient_descent(
    network: nn.Module, x: Tensor, target: Tensor, step: float, iterations: Iterable[int], from_zero: bool = True
) -> Iterator[tuple[int, Tensor]]:
    r"""Full-batch gradient descent on :math:`\tfrac12\|z - y\|^2`, without momentum.

    Args:
        network: maps (1, inputs, height, width) to (1, outputs, height, width); its parameters are changed.
        x: input, shape (inputs, height, width).
        target: y, shape (outputs, height, width).
        step: :math:`\eta`; below 2 over the largest eigenvalue of the tangent kernel
            (:meth:`ntkbook.tangent.EmpiricalKernel.largest_eigenvalue`).
        iterations: at which to yield, 0 or more, ascending.
        from_zero: subtract the first output, so that training starts at 0 (Section 6).

    Yields:
        (iteration, output of the shape of the target, without a graph).

    Raises:
        ValueError: the output is not finite any more; the message names the iteration and the step.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    with torch.no_grad():
        offset = network(x[None])[0] if from_zero else torch.zeros_like(target)
    done = 0
    for wanted in iterations:
        while True:
            output = network(x[None])[0] - offset
            loss = 0.5 * (output - target).square().sum()
            if not math.isfinite(loss.item()):
                raise ValueError(
                    f"Gradient descent diverged at iteration {done} with the step {step:g}; take a smaller."
                )
            if done == wanted:
                break
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=step)
            done += 1
        yield done, output.detach()
