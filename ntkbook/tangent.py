r"""The empirical tangent kernel of a finite network on one image, :math:`\Theta = J J^T`, by products.

The Jacobian J of all outputs by all weights is never formed: a product with :math:`J^T` is one backward pass, a product
with J one forward pass with tangents. Two of them are a product with the kernel.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap

DENSE_SIDE = 64
CHUNK_BYTES = 2**28  # of weights and features that are held at once by several products
LEAST_STEPS = 20  # a start that is nearly orthogonal to the leading eigenvector rests at a lower one first


class EmpiricalKernel:
    r"""The tangent kernel of a network on one input, at its present weights.

    As an operator it acts on outputs as one long vector, channel after channel, each row after row: ``kernel @ v`` for
    v of shape (outputs * pixels, k), the same for :func:`ntkbook.filters.twicing` and :func:`ntkbook.lanczos.lanczos`.

    Args:
        network: maps (1, inputs, height, width) to (1, outputs, height, width). Its trained parameters are those
            with ``requires_grad``; they are used as they are now, and later changes are not seen.
        x: the input, shape (inputs, height, width), of the network's dtype and device.
        metric: the diagonal of a matrix H for :math:`JHJ^T`, :eq:`eq-ntk-19`, by the names of the trained parameters:
            tensors of their shapes, positive or 0. None is the identity.

    Raises:
        ValueError: the input or the output is not finite, or the network has no trained parameters; or the metric does
            not fit them, or is negative or not finite somewhere.
    """

    def __init__(self, network: nn.Module, x: Tensor, metric: Mapping[str, Tensor] | None = None) -> None:
        parameters = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
        frozen = {name: p.detach().clone() for name, p in network.named_parameters() if not p.requires_grad}
        if not parameters:
            raise ValueError("The network has no trained parameters, so it has no tangent kernel.")
        _check_metric(metric, parameters)

        def forward(weights: dict[str, Tensor]) -> Tensor:
            return functional_call(network, frozen | weights, (x[None],))[0]

        self._forward, self._parameters, self._metric = forward, parameters, metric
        #: output of the network, shape (outputs, height, width)
        self.output, self._pull = vjp(forward, parameters)
        if not (x.isfinite().all() and self.output.isfinite().all()):
            raise ValueError("The input and the output of the network must be finite; one of them is not.")

    @property
    def size(self) -> int:
        """Outputs times pixels, the side of the kernel."""
        return self.output.numel()

    def pull(self, v: Tensor) -> dict[str, Tensor]:
        r""":math:`J^Tv` for v of the output's shape: an image back to the weights, by their names.

        For :math:`v = z - y` it is the gradient in :eq:`eq-ntk-53`.
        """
        (gradient,) = self._pull(v)
        return gradient

    def push(self, change: dict[str, Tensor]) -> Tensor:
        r""":math:`Ju`, a change u of the weights to the output's first-order change: :eq:`eq-ntk-54`, :eq:`eq-ntk-55`.

        Args:
            change: by the names of the weights, each of its weight's shape.

        Returns:
            Shape (outputs, height, width).
        """
        return jvp(self._forward, (self._parameters,), (change,))[1]

    def product(self, v: Tensor) -> Tensor:
        r""":math:`\Theta v` of :eq:`eq-ntk-56` and :eq:`eq-ntk-57`, for v of shape (outputs, height, width).

        With a metric :math:`JHJ^Tv`, :eq:`eq-ntk-19`. Of a network that is cut off after a layer it is the step of the
        pre-activations, the right form of :eq:`eq-ntk-22` and :eq:`eq-ntk-23`.
        """
        gradient = self.pull(v)
        if self._metric is not None:
            gradient = {name: self._metric[name] * each for name, each in gradient.items()}
        return self.push(gradient)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """The product with each column, (outputs * pixels, k)."""
        if vectors.ndim != 2 or len(vectors) != self.size:
            raise ValueError(f"The kernel takes vectors of shape ({self.size}, k), not {tuple(vectors.shape)}.")
        images = vectors.T.unflatten(1, self.output.shape)
        several = vmap(self.product, chunk_size=self._at_once())(images)
        return several.flatten(1).T

    def largest_eigenvalue(self, tolerance: float = 1e-4, steps: int = 1000, seed: int = 0) -> float:
        """The largest eigenvalue, by power iteration from a random vector.

        Args:
            tolerance: stop when an iteration changes the estimate by less than this share of it.
            steps: at most so many products.
            seed: of the start.

        Returns:
            The Rayleigh quotient of the last vector: never above the largest eigenvalue but for rounding.

        Raises:
            ValueError: it did not settle within the steps.
        """
        return power_iteration(self.product, self._random(seed), tolerance, steps)[0]

    def leading(self, near: Tensor | None, tolerance: float = 1e-3) -> tuple[float, Tensor]:
        """The largest eigenvalue, and its eigenvector as a start for the kernel of weights a little further on.

        Args:
            near: an estimate of the eigenvector, of the output's shape; None for a random start.
            tolerance: as above.

        Returns:
            The Rayleigh quotient of the vector before the last, and the last vector, of length 1.

        Raises:
            ValueError: it did not settle within 1000 products.
        """
        if near is None:
            return power_iteration(self.product, self._random(0), tolerance, 1000)
        return power_iteration(self.product, near, tolerance, 1000, least=1)

    def _at_once(self) -> int:
        """How many products together hold about as many bytes of weights and features as are allowed."""
        pixels = self.output.shape[1] * self.output.shape[2]
        widest = max(len(p) for p in self._parameters.values())
        held = sum(p.numel() for p in self._parameters.values()) + len(self._parameters) * widest * pixels
        return max(1, CHUNK_BYTES // (held * self.output.element_size()))

    def _random(self, seed: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(self.output.shape))).to(self.output)

    def dense(self, output: int = 0) -> Tensor:
        """The Gram matrix of one output channel, :eq:`eq-ntk-10`, (pixels, pixels), for images up to 64x64 pixels.

        Args:
            output: the channel.

        Raises:
            ValueError: the image is larger; the message says how large the matrix would be.
        """
        outputs, height, width = self.output.shape
        pixels = height * width
        if pixels > DENSE_SIDE**2:
            size = pixels**2 * self.output.element_size() / 2**30
            raise ValueError(
                f"The tangent kernel of {height}x{width} pixels would take {size:.1f} GiB and {pixels} products; it is "
                f"formed up to {DENSE_SIDE}x{DENSE_SIDE} pixels. Use products, `kernel @ v`."
            )
        units = torch.zeros(pixels, outputs, pixels, dtype=self.output.dtype, device=self.output.device)
        units[:, output] = torch.eye(pixels, dtype=units.dtype, device=units.device)
        of_one = vmap(lambda v: self.product(v)[output], chunk_size=self._at_once())
        return of_one(units.unflatten(2, (height, width))).flatten(1)


def _check_metric(metric: Mapping[str, Tensor] | None, parameters: Mapping[str, Tensor]) -> None:
    if metric is None:
        return
    if {name: m.shape for name, m in metric.items()} != {name: p.shape for name, p in parameters.items()}:
        raise ValueError(
            f"The metric is for {', '.join(metric) or 'nothing'}; it must have the shapes of the trained parameters, "
            f"{', '.join(parameters)}, and nothing else."
        )
    for name, each in metric.items():
        if not (each.isfinite().all() and (each >= 0).all()):
            raise ValueError(f"The metric must be finite and not negative; for {name!r} it is not.")


def jacobian(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    r"""The Jacobian of all outputs by the weights of a small network.

    :math:`\Theta = JJ^T` is a sum over single weights, :eq:`eq-ntk-58`, and so a sum over layers, :eq:`eq-ntk-60`.

    Args:
        network: as for :class:`EmpiricalKernel`.
        x: the input, shape (inputs, height, width).

    Returns:
        For each trained parameter, by its name, shape (outputs * pixels, weights in it).
    """
    kernel = EmpiricalKernel(network, x)
    units = torch.eye(kernel.size).to(kernel.output).unflatten(1, kernel.output.shape)
    return {name: rows.flatten(1) for name, rows in vmap(kernel.pull)(units).items()}


def power_iteration(
    product: Callable[[Tensor], Tensor], start: Tensor, tolerance: float, steps: int, least: int = LEAST_STEPS
) -> tuple[float, Tensor]:
    """The largest eigenvalue of a positive semidefinite operator, and its eigenvector.

    Args:
        product: the operator, from and to tensors of one shape.
        start: of that shape, not zero.
        tolerance: stop when an iteration changes the estimate by less than this share of it.
        steps: at most so many products.
        least: but after at least so many.

    Returns:
        The Rayleigh quotient of the last vector that was multiplied, 0 for the zero operator; and its image, of
        length 1, or that vector where the image is 0.

    Raises:
        ValueError: a product is not finite, or the estimate did not settle within the steps.
    """
    vector, before = start / start.norm(), math.inf
    for done in range(steps):
        image = product(vector)
        estimate, length = (vector * image).sum().item(), image.norm()
        if not math.isfinite(estimate):
            raise ValueError("A product with the operator is not finite.")
        if length == 0:
            return estimate, vector
        vector = image / length
        if done >= least and abs(estimate - before) <= tolerance * abs(estimate):
            return estimate, vector
        before = estimate
    raise ValueError(f"Power iteration did not settle to {tolerance:g} within {steps} steps; the last was {before:g}.")
