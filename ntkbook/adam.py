r"""Adam as gradient descent with a kernel that moves: the paper's Section 5.2.

Weights, their changes, gradients and metrics are mappings from the names of a network's weights to tensors of the
weights' shapes. With :math:`g_t` the gradient of the loss, Adam keeps two averages,

.. math::

    m_t = \beta_1m_{t-1} + (1-\beta_1)g_t,\qquad v_t = \beta_2v_{t-1} + (1-\beta_2)g_t^2 ,

and moves the weights by :math:`-\eta H_tm_t`, with a diagonal matrix :math:`H_t`, the :func:`metric`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ntkbook.tangent import EmpiricalKernel

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Adam:
    """Adam as the paper sets it (Section 6).

    Args:
        learning_rate: the paper does not print its own.
        betas: decay of the averages of the gradient and of its square.
        epsilon: added to the root of the average of the squares.

    Raises:
        ValueError: the learning rate is not positive, or a decay not in [0, 1).
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"The learning rate of Adam must be positive, not {self.learning_rate}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"Adam's betas must be at least 0 and below 1, not {self.betas}.")


class Averages(NamedTuple):
    """Adam's memory: the averages m and v, and how many gradients they have seen."""

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    seen: int

    @classmethod
    def of_nothing(cls, weights: Weights) -> "Averages":
        """The memory before the first step: zeros of the weights' shapes."""
        return cls(_zeros(weights), _zeros(weights), 0)

    def after(self, gradient: Weights, rule: Adam) -> "Averages":
        r"""The memory with one gradient more.

        Args:
            gradient: :math:`g_t`, by the names of the weights.
            rule: its betas are used.
        """
        first, second = rule.betas
        return Averages(
            {k: first * self.first[k] + (1 - first) * g for k, g in gradient.items()},
            {k: second * self.second[k] + (1 - second) * g.square() for k, g in gradient.items()},
            self.seen + 1,
        )


def metric(averages: Averages, rule: Adam) -> dict[str, Tensor]:
    r"""The diagonal of :math:`H_t`, :eq:`eq-adam-metric`: the weights move by :math:`-\eta H_tm_t`.

    :math:`h = \frac1{1-\beta_1^t}\Bigl(\sqrt{v/(1-\beta_2^t)} + \varepsilon\Bigr)^{-1}`, with both corrections of the
    bias.

    Args:
        averages: after the step's gradient.
        rule: its betas and epsilon are used.

    Raises:
        ValueError: the averages have seen no gradient; or one is not finite; or h would be infinite, since a squared
            gradient and epsilon are both 0.
    """
    if averages.seen < 1:
        raise ValueError("Adam's averages have seen no gradient yet, so they give no metric.")
    first, second = (1 - beta**averages.seen for beta in rule.betas)
    found = {k: 1 / (first * ((v / second).sqrt() + rule.epsilon)) for k, v in averages.second.items()}
    for name, each in found.items():
        if not each.isfinite().all():
            raise ValueError(
                f"Adam's metric is not finite for {name!r}: a gradient is not, or one is 0 and so is epsilon."
            )
    return found


def weight_step(
    now: Weights, gradient: Weights, rule: Adam, before: Weights | None = None, last: Weights | None = None
) -> dict[str, Tensor]:
    r"""Adam's change of the weights, the right form of :eq:`eq-ntk-18`.

    :math:`w^{t+1}-w^t = -\eta(1-\beta_1)H_tg_t + \beta_1H_tH_{t-1}^{-1}(w^t-w^{t-1})`.

    Args:
        now: :math:`H_t`.
        gradient: :math:`g_t`.
        rule: its learning rate and first beta are used.
        before: :math:`H_{t-1}`; None at the first step.
        last: the change before, :math:`w^t-w^{t-1}`; None at the first step.
    """
    rate, beta = rule.learning_rate * (1 - rule.betas[0]), rule.betas[0]
    if before is None or last is None:
        return {k: -rate * now[k] * g for k, g in gradient.items()}
    return {k: -rate * now[k] * g + beta * now[k] / before[k] * last[k] for k, g in gradient.items()}


def output_step(kernel: EmpiricalKernel, residual: Tensor, rule: Adam, carried: Weights | None = None) -> Tensor:
    r"""The output's change by one step of Adam, to first order: the right form of :eq:`eq-ntk-20`.

    :math:`\eta(1-\beta_1)\tilde\Theta_t(y-z^t) + \beta_1J_tH_tH_{t-1}^{-1}(w^t-w^{t-1})`.

    Args:
        kernel: :math:`\tilde\Theta_t` of :eq:`eq-ntk-19`: the tangent kernel with the metric :math:`H_t`.
        residual: :math:`y-z^t`, shape (outputs, height, width).
        rule: its learning rate and first beta are used.
        carried: :math:`H_tH_{t-1}^{-1}(w^t-w^{t-1})`; None at the first step.

    Returns:
        Shape (outputs, height, width).
    """
    step = rule.learning_rate * (1 - rule.betas[0]) * kernel.product(residual)
    return step if carried is None else step + rule.betas[0] * kernel.push(dict(carried))


def _zeros(weights: Weights) -> dict[str, Tensor]:
    return {k: torch.zeros_like(w) for k, w in weights.items()}
