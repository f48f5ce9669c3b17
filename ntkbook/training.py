r"""Training one network on one image: gradient descent in a dozen lines, and the trainer that the tables are made with.

:func:`gradient_descent` is the formula. :class:`Trainer` takes the same steps, or Adam's, several times faster
(:mod:`ntkbook.forward`), keeps the best output of the trajectory, and can be stopped and taken up again at any
iteration (:mod:`ntkbook.training_runs`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ntkbook.adam import Adam, Averages
from ntkbook.forward import FixedInput
from ntkbook.tangent import EmpiricalKernel

REMEASURED = 1.5  # the largest eigenvalue is measured again each time the iterations have grown by this factor


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


@dataclass(frozen=True)
class GradientDescent:
    r"""Gradient descent with the step :math:`\eta = \gamma/\lambda_{\max}(\Theta)`, without momentum.

    The eigenvalue is that of the network's tangent kernel at the present weights. It is measured before the first step
    and again each time the iterations have grown by half.

    Args:
        gamma: below 2 for a fixed kernel.

    Raises:
        ValueError: gamma is not positive.
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"The gamma of gradient descent must be positive, not {self.gamma}.")


@dataclass(frozen=True)
class Stopping:
    """When training ends: no better PSNR for so many iterations, or a largest number of them (Section 6).

    Args:
        patience: iterations without improvement, at least.
        share: of the iterations that the best one took, at least. A half: a best one at 2000 is waited for until 3000.
        largest: iterations at most.

    Raises:
        ValueError: a number is negative, or the largest below 1.
    """

    patience: int = 100
    share: float = 0.5
    largest: int = 1_000_000

    def __post_init__(self) -> None:
        if min(self.patience, self.share) < 0 or self.largest < 1:
            raise ValueError(f"Patience and share must be 0 or more and the largest number 1 or more, not {self}.")

    def ends(self, iteration: int, best: int) -> bool:
        """Whether training ends before this iteration, given the best one so far."""
        return iteration > self.last(best)

    def last(self, best: int) -> int:
        """The last iteration, if none is better than the best one so far."""
        return min(self.largest, best + math.floor(max(self.patience, self.share * best)))


class Trainer:
    r"""A network in training on one image, at some iteration.

    Iteration t is the output :math:`z^t`, whether it is the best so far, and the step to the weights of t + 1. Nothing
    is read back from the device between iterations.

    Args:
        network: as for :class:`ntkbook.forward.FixedInput`; its weights are trained.
        x: input, shape (inputs, height, width), of the weights' dtype and device.
        target: y, shape (outputs, height, width).
        clean: what the output is compared with, of the target's shape; values from -0.5 to 0.5, to which the output is
            clipped for the comparison. It does not influence the weights.
        rule: how the weights change.
        from_zero: subtract the first output (Section 6).
        products: the dtype of the layers' products; by default that of the weights.
        times: iterations at which the PSNR is kept.
        follow: keep how far each layer's weights have moved at these times, too.

    Raises:
        ValueError: as :class:`ntkbook.forward.FixedInput`.
    """

    def __init__(
        self,
        network: nn.Sequential,
        x: Tensor,
        target: Tensor,
        clean: Tensor,
        rule: GradientDescent | Adam,
        *,
        from_zero: bool = True,
        products: torch.dtype | None = None,
        times: Iterable[int] = (),
        follow: bool = False,
    ) -> None:
        self.network, self.rule, self.target, self.clean = network, rule, target, clean
        self._x, self._times = x, frozenset(times)
        self._forward = FixedInput(network, x, products or x.dtype)
        self._weights = list(network.parameters())
        self._start = [weight.detach().clone() for weight in self._weights] if follow else None
        self._descends = isinstance(rule, GradientDescent)
        if self._descends:
            self._optimiser: torch.optim.Optimizer = torch.optim.SGD(self._weights, lr=1.0)
        else:
            self._optimiser = torch.optim.Adam(
                self._weights, rule.learning_rate, tuple(map(float, rule.betas)), rule.epsilon, foreach=True
            )
        with torch.no_grad():
            self._offset = self._forward() if from_zero else torch.zeros_like(target)
        scalar = torch.zeros((), device=x.device)
        self._kept: dict[str, Any] = {
            "iteration": 0,
            "best_error": scalar + math.inf,
            "best_iteration": scalar.long(),
            "best_output": torch.zeros_like(target),
            "error": scalar,
            "errors": {},
            "moved": {},
            "eigenvalues": {},
            "travelled": 0.0,
            "leading": None,
        }

    @property
    def iteration(self) -> int:
        """The next iteration t."""
        return self._kept["iteration"]

    @property
    def best(self) -> tuple[int, float]:
        """The best iteration so far and its PSNR in dB; waits for the device."""
        return self._kept["best_iteration"].item(), _psnr(self._kept["best_error"].item())

    @property
    def best_output(self) -> Tensor:
        """Output of the best iteration, shape (outputs, height, width)."""
        return self._kept["best_output"]

    @property
    def psnr(self) -> float:
        """PSNR in dB of the last iteration; waits for the device."""
        return _psnr(self._kept["error"].item())

    @property
    def curve(self) -> dict[int, float]:
        """PSNR in dB at those of the given times that have passed."""
        return {t: _psnr(error.item()) for t, error in self._kept["errors"].items()}

    @property
    def weight_changes(self) -> dict[int, list[tuple[float, float]]]:
        """By those times, Euclidean norm and largest absolute value of the change of each layer's weights."""
        return {t: [tuple(pair) for pair in moved.tolist()] for t, moved in self._kept["moved"].items()}

    @property
    def eigenvalues(self) -> dict[int, float]:
        r"""Largest eigenvalue of the tangent kernel, by the iteration at which it was measured."""
        return dict(self._kept["eigenvalues"])

    @property
    def travelled(self) -> float:
        r"""Sum of the steps :math:`\eta` so far; times an eigenvalue it is the time t of that kernel's twicing."""
        return self._kept["travelled"]

    @property
    def averages(self) -> Averages:
        """Adam's memory at the present weights, by their names.

        Raises:
            ValueError: the rule is not Adam.
        """
        if self._descends:
            raise ValueError("Gradient descent keeps no averages; only Adam does.")
        names = dict(self.network.named_parameters())
        if self.iteration == 0:
            return Averages.of_nothing(names)
        kept = {name: self._optimiser.state[weight] for name, weight in names.items()}
        first, second = ({n: each[part] for n, each in kept.items()} for part in ("exp_avg", "exp_avg_sq"))
        return Averages(first, second, self.iteration)

    def advance(self, iterations: int) -> None:
        """Take so many iterations. Outputs that are not finite count as bad, not as errors.

        Raises:
            ValueError: gradient descent cannot go on, since the tangent kernel is zero or, before the first step, not
                finite.
        """
        for _ in range(iterations):
            t = self.iteration
            output = self._forward() - self._offset
            loss = 0.5 * (output - self.target).square().sum()
            self._watch(t, output.detach())
            if self._descends:
                self._set_step(t)
            for weight, gradient in zip(self._weights, torch.autograd.grad(loss, self._weights), strict=True):
                weight.grad = gradient
            self._optimiser.step()
            self._kept["iteration"] = t + 1

    def _watch(self, t: int, output: Tensor) -> None:
        kept = self._kept
        error = (output.clamp(-0.5, 0.5) - self.clean).square().mean(dtype=torch.float64).float()
        kept["error"] = error = torch.where(output.isfinite().all(), error, math.inf)  # an infinite one is clipped, too
        better = error < kept["best_error"]
        kept["best_error"] = torch.where(better, error, kept["best_error"])
        kept["best_iteration"] = torch.where(better, t, kept["best_iteration"])
        kept["best_output"] = torch.where(better, output, kept["best_output"])
        if t in self._times:
            kept["errors"][t] = error
            if self._start is not None:
                changes = [(new - old).detach() for new, old in zip(self._weights, self._start, strict=True)]
                kept["moved"][t] = torch.stack([torch.stack((c.norm(), c.abs().max())) for c in changes])

    def _set_step(self, t: int) -> None:
        measured = self._kept["eigenvalues"]
        if not measured or t >= max(max(measured) * REMEASURED, 10):
            try:
                kernel = EmpiricalKernel(self.network, self._x)
                measured[t], self._kept["leading"] = kernel.leading(self._kept["leading"])
            except ValueError:  # the weights are lost: the last step will do
                if not measured:
                    raise
        largest = measured[max(measured)]
        if largest == 0:
            raise ValueError("The tangent kernel is zero: no weight moves the output, perhaps for want of channels.")
        step = self.rule.gamma / largest
        self._optimiser.param_groups[0]["lr"] = step
        self._kept["travelled"] += step

    def state(self) -> dict[str, Any]:
        """All that the next iterations depend on and all that was kept: tensors, numbers, lists and dicts.

        The tensors are the trainer's own: save them before the next iteration.
        """
        return {
            "weights": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "offset": self._offset,
            "start": self._start,
            "kept": dict(self._kept),
            "random": torch.get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state` of a trainer that was made with the same arguments."""
        self.network.load_state_dict(state["weights"])
        self._optimiser.load_state_dict(state["optimiser"])
        for each in self._optimiser.state.values():
            if "step" in each:
                each["step"] = each["step"].cpu()  # where Adam reads it
        self._offset, self._start, self._kept = state["offset"], state["start"], dict(state["kept"])
        torch.set_rng_state(state["random"].cpu())


def _psnr(error: float) -> float:
    if error == 0:
        return math.inf
    return -10 * math.log10(error) if error < math.inf else -math.inf  # NaN is as bad as can be
