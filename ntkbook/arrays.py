"""Numbers at the door of a check: what is accepted as an array, and what is refused.

Tensors, arrays and plain numbers become numpy arrays here, in float64 or complex128.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray


def checked_array(value: ArrayLike, what: str, finite: bool = True) -> NDArray:
    """The values as an array of their own type.

    Args:
        value: tensor (any device, with or without a graph), array or nested numbers.
        what: how messages name it.
        finite: whether NaN and infinities are refused.

    Raises:
        ValueError: when there is no value, one is not a number, or one is not finite.
    """
    array = value.detach().cpu().resolve_conj().resolve_neg() if isinstance(value, torch.Tensor) else value
    if isinstance(array, torch.Tensor):
        array = array.float() if array.dtype in (torch.bfloat16, torch.float16) else array
        array = array.numpy()
    array = np.asarray(array)
    if array.dtype.kind not in "iufc":
        raise ValueError(f"{what} has the type {array.dtype}; numbers are needed.")
    if array.size == 0:
        raise ValueError(f"{what} is empty; at least one value is needed.")
    if finite and not np.isfinite(array).all():
        raise ValueError(f"{what} has values that are not finite.")
    return array


def exact_array(value: ArrayLike, what: str, finite: bool = True) -> NDArray:
    """The values in float64 or complex128, integers converted; refuses what was computed in less."""
    array = checked_array(value, what, finite)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype not in (np.float64, np.complex128):
        raise ValueError(f"{what} has the type {array.dtype}; an identity needs float64 or complex128.")
    return array


def real_array(value: ArrayLike, what: str) -> NDArray[np.float64]:
    """The values in float64, from any real type; refuses complex ones."""
    array = checked_array(value, what)
    if array.dtype.kind == "c":
        raise ValueError(f"{what} is complex; real numbers are needed.")
    return array.astype(np.float64)


def same_shape(a: NDArray, b: NDArray) -> None:
    """Refuse two arrays of different shapes: broadcasting would hide a mistake."""
    if a.shape != b.shape:
        raise ValueError(f"The shapes {a.shape} and {b.shape} differ.")


def largest_size(values: NDArray) -> float:
    """The largest absolute value, the max-norm."""
    return float(np.abs(values).max())
