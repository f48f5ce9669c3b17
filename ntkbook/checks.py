"""Checks: one function per form of claim. A check raises when the claim does not hold, and prints by how much
it does.

Every check is built to fail when its formula is off by one per cent: an identity allows rounding only, an
expectation is refused when its samples are too few to see one per cent, and a rate is refused when its
interval is too wide. The first argument names the equation: ``"6"`` is printed as (6), ``"74 and 75"`` as
(74) and (75), anything else, such as ``"footnote 2"`` or ``"sb-dft"``, as it is.

Two kinds of error are kept apart. :class:`CheckFailed` says that the claim does not hold, or was not seen to.
ValueError says that the question was not well put: shapes that differ, values that are not finite, single
precision.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student_t

from ntkbook.arrays import exact_array, largest_size, real_array, same_shape

ONE_PER_CENT = 0.01
LEAST_SAMPLES = 30  # below this the standard error is itself too uncertain for a normal tail


class CheckFailed(AssertionError):  # noqa: N818, it reads as a sentence
    """A claim that does not hold for the numbers given, or that they cannot decide."""


@dataclass(frozen=True)
class ExpectationResult:
    """What :func:`expectation` measured.

    Args:
        slope: the mean projected onto the expectation; 1 when the claim holds. NaN when the expectation is
            zero.
        slope_error: standard error of the slope.
        rms_deviation: root mean square over the entries of (mean - expectation) / standard error.
        largest_deviation: the largest of their absolute values.
        largest_allowed: what :func:`expectation` allows for it.
        samples: number of samples.
    """

    slope: float
    slope_error: float
    rms_deviation: float
    largest_deviation: float
    largest_allowed: float
    samples: int


@dataclass(frozen=True)
class RateResult:
    """What :func:`rate` measured: the slope, and the interval that holds it at the confidence asked for."""

    slope: float
    low: float
    high: float


def identity(
    equation: str, computed: ArrayLike, expected: ArrayLike, rtol: float = 1e-10, atol: float | None = None
) -> float:
    r"""Check that two results are equal up to rounding.

    The error is :math:`\max|a - b| / \max|b|`, a the computed and b the expected values.

    Args:
        equation: number or name of the equation.
        computed: tensor, array or number, float64, complex128 or integer.
        expected: the same shape.
        rtol: relative error allowed, above 0 and below 0.01.
        atol: absolute error allowed. Needed when ``expected`` is zero everywhere, and accepted only then.

    Returns:
        The measured error: relative, or absolute when ``expected`` is zero.

    Raises:
        CheckFailed: when the error is larger than allowed.
        ValueError: when shapes differ, a value is not finite, or precision is below float64, and for bad
            tolerances.
    """
    a, b = exact_array(computed, "computed"), exact_array(expected, "expected")
    same_shape(a, b)
    if not 0 < rtol < ONE_PER_CENT:
        raise ValueError(f"rtol is {rtol}; accepted are numbers above 0 and below 0.01.")
    error, scale = largest_size(a - b), largest_size(b)
    if scale == 0 and (atol is None or not 0 < atol < math.inf):
        raise ValueError(f"The expected values are all zero and atol is {atol}; a positive atol is needed.")
    if scale > 0 and atol is not None:
        raise ValueError(f"atol is {atol} but the expected values are not all zero; use rtol.")
    kind, allowed = ("relative", rtol) if scale > 0 else ("absolute", atol)
    error = error / scale if scale > 0 else error
    if not error <= allowed:
        raise CheckFailed(f"{_name(equation)} does not hold: {kind} error {error:.2g} (allowed {allowed:.2g}).")
    print(f"{_name(equation)} holds: {kind} error {error:.1e} (allowed {allowed:.0e})")
    return error


def expectation(
    equation: str, samples: ArrayLike, expected: ArrayLike, errors: float = 4.0, scale: float | None = None
) -> ExpectationResult:
    r"""Check that the mean of independent samples is what a formula says.

    Three things must hold, with k entries, n samples and E = ``errors``:

    1. The slope :math:`\langle m, e\rangle / \langle e, e\rangle` of the mean m on the expectation e is 1
       within E of its standard errors, and that whole interval lies within 0.99 and 1.01. So a formula that
       is off by one per cent fails, except with the probability of an error of E standard errors. The
       standard error is measured on the projected samples, so entries may depend on one another.
    2. The root mean square of the entries' deviations, each in its own standard errors, is at most E. This
       bound holds under any dependence between the entries; for independent ones the value is near 1.
    3. The largest deviation is at most :math:`\sqrt{E^2 + 2\log k}`, the Gaussian bound for the largest of k
       values.

    An entry that does not vary must equal its expectation to :math:`10^{-12}` of the largest.

    Args:
        equation: number or name of the equation.
        samples: shape (n, ...), independent along the first axis, real, n at least 30.
        expected: shape (...).
        errors: standard errors allowed, E, at least 1.
        scale: for an expectation that is zero everywhere, and only then: the size against which it is zero.
            The slope has no meaning there; instead E times the root mean square standard error must be below
            one per cent of the scale.

    Returns:
        The measured slope and deviations.

    Raises:
        CheckFailed: when the mean differs by more than the rule allows, or the samples cannot show one per
            cent.
        ValueError: when shapes differ, there are too few samples, or a value is not finite.
    """
    x, e = real_array(samples, "samples"), real_array(expected, "expected")
    if x.ndim == 0 or x.shape[1:] != e.shape:
        raise ValueError(f"samples have shape {x.shape} and expected {e.shape}; needed are (n, ...) and (...).")
    if len(x) < LEAST_SAMPLES:
        raise ValueError(f"There are {len(x)} samples; at least {LEAST_SAMPLES} are needed.")
    if not 1 <= errors < math.inf:
        raise ValueError(f"errors is {errors}; a number of at least 1 is needed.")
    x, e = x.reshape(len(x), -1), e.reshape(-1)
    size = float(np.abs(e).max())
    if (size == 0) != (scale is not None) or (scale is not None and not 0 < scale < math.inf):
        raise ValueError(
            f"scale is {scale}; a positive number is needed when expected is all zero, and None otherwise."
        )
    root_n = math.sqrt(len(x))
    standard = x.std(axis=0, ddof=1) / root_n
    difference = x.mean(axis=0) - e
    # What does not vary has no standard error: rounding of the largest entry stands in for it.
    rounding = 1e-12 * (size or scale)
    z = difference / np.maximum(standard, rounding / errors)
    rms, largest = float(np.sqrt(np.mean(z**2))), float(np.abs(z).max())
    allowed = math.sqrt(errors**2 + 2 * math.log(e.size))
    name = _name(equation)
    if size > 0:
        projected = x @ e / (e @ e)
        slope, slope_error = float(projected.mean()), float(projected.std(ddof=1) / root_n)
        half, seen = max(errors * slope_error, 1e-12), f"slope {slope:.5f}"
        if abs(slope - 1) > half:
            raise CheckFailed(f"{name} does not hold: {seen} on the expectation, allowed is 1 +/- {half:.2g}.")
        reach = abs(slope - 1) + half
    else:
        slope = slope_error = math.nan
        half = errors * float(np.sqrt(np.mean(standard**2))) / scale
        mean = float(np.sqrt(np.mean(difference**2))) / scale
        reach, seen = mean + half, f"root-mean-square mean {mean:.1e} of the scale"
    if rms > errors or largest > allowed:
        raise CheckFailed(
            f"{name} does not hold: deviations of {rms:.2f} standard errors in root mean square "
            f"(allowed {errors:g}) and {largest:.2f} at most (allowed {allowed:.2f})."
        )
    if reach >= ONE_PER_CENT:
        raise CheckFailed(
            f"{name} is not decided: {seen} +/- {half:.2g} with {len(x)} samples does not exclude an error "
            f"of one per cent; take about {math.ceil(len(x) * (2 * half / ONE_PER_CENT) ** 2)} samples."
        )
    print(
        f"{name} holds in expectation: {seen} +/- {half:.1e} ({errors:g} standard errors, {len(x)} samples), "
        f"largest deviation {largest:.2f} standard errors (allowed {allowed:.2f})"
    )
    return ExpectationResult(slope, slope_error, rms, largest, allowed, len(x))


def rate(
    equation: str,
    x: ArrayLike,
    y: ArrayLike,
    slope: float,
    confidence: float = 0.95,
    max_width: float | None = None,
) -> RateResult:
    r"""Check a power law :math:`y \propto x^{s}` by a straight line fitted to logarithms.

    The least-squares slope has Student's t-interval with n - 2 degrees of freedom, which takes the residuals
    of log y as independent and equally spread. The check passes when the interval holds the exponent and is
    narrow. It says nothing about the constant factor.

    Args:
        equation: number or name of the equation.
        x: shape (n,), positive, at least 3 different values.
        y: shape (n,), positive.
        slope: the exponent s claimed.
        confidence: of the interval, between 0.5 and 1.
        max_width: largest width of the interval. By default 2 % of the exponent, so that an exponent off by
            one per cent fails; give a larger one only where the data cannot do better, and say so.

    Returns:
        The fitted slope and its interval.

    Raises:
        CheckFailed: when the interval misses the exponent or is too wide.
        ValueError: when values are not positive and finite, shapes differ, or there are too few of them.
    """
    across, up = real_array(x, "x"), real_array(y, "y")
    same_shape(across, up)
    if across.ndim != 1 or len(np.unique(across)) < 3:
        raise ValueError(
            f"x has shape {across.shape} and {len(np.unique(across))} different values; 3 along one axis are needed."
        )
    if across.min() <= 0 or up.min() <= 0:
        raise ValueError(f"The smallest x is {across.min():g} and y {up.min():g}; a power law needs positive numbers.")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence is {confidence}; accepted are numbers from 0.5 to below 1.")
    width = ONE_PER_CENT * 2 * abs(slope) if max_width is None else max_width
    if not (math.isfinite(slope) and 0 < width < math.inf):
        raise ValueError(
            f"slope is {slope} and max_width {max_width}; with slope 0 a positive max_width must be given."
        )
    u, v = np.log(across), np.log(up)
    u, v = u - u.mean(), v - v.mean()
    fitted = float(u @ v / (u @ u))
    error = math.sqrt(float(np.sum((v - fitted * u) ** 2)) / (len(u) - 2) / float(u @ u))
    # Points exactly on a line leave a residual of zero or of rounding; the interval cannot be narrower than
    # that.
    half = max(float(student_t.ppf((1 + confidence) / 2, len(u) - 2)) * error, 1e-12 * max(1.0, abs(fitted)))
    result = RateResult(fitted, fitted - half, fitted + half)
    interval = f"slope {fitted:.4f}, {100 * confidence:g} % interval [{result.low:.4f}, {result.high:.4f}]"
    if not result.low <= slope <= result.high:
        raise CheckFailed(f"{_name(equation)} does not hold: {interval} misses {slope:g}.")
    if 2 * half > width:
        raise CheckFailed(f"{_name(equation)} is not decided: {interval} is wider than {width:.2g}.")
    print(f"{_name(equation)} holds: {interval} has {slope:g} (widest allowed {width:.2g})")
    return result


def printed_fails(equation: str, printed: ArrayLike, right: ArrayLike, at_least: float) -> float:
    """Check that an equation as printed is wrong, by a stated amount at least.

    Args:
        equation: number or name of the equation.
        printed: what the printed form gives; values that are not finite count as an infinite error.
        right: what the right form gives, the same shape; float64, complex128 or integer, not all zero.
        at_least: smallest relative error, in the sense of :func:`identity`, that counts; above 1e-6, which is
            beyond rounding.

    Returns:
        The relative error of the printed form.

    Raises:
        CheckFailed: when the printed form is closer to the right one than that.
        ValueError: when shapes differ, the right values are zero or not finite, or precision is below
            float64.
    """
    a, b = exact_array(printed, "printed", finite=False), exact_array(right, "right")
    same_shape(a, b)
    if not 1e-6 <= at_least < math.inf:
        raise ValueError(f"at_least is {at_least}; a number of at least 1e-6 is needed.")
    if largest_size(b) == 0:
        raise ValueError("The right values are all zero; a relative error needs one that is not.")
    error = largest_size(a - b) / largest_size(b) if np.isfinite(a).all() else math.inf
    if error < at_least:
        raise CheckFailed(
            f"{_name(equation)} as printed does not fail: relative error {error:.2g}, claimed {at_least:.2g}."
        )
    amount = f"relative error {error:.2g}" if error < math.inf else "its values are not finite"
    print(f"{_name(equation)} as printed fails: {amount} (claimed at least {at_least:.2g})")
    return error


def positive_semidefinite(equation: str, matrix: ArrayLike, rtol: float = 1e-10) -> float:
    """Check that a matrix is symmetric with no eigenvalue below zero, up to rounding.

    Args:
        equation: number or name of the equation.
        matrix: shape (n, n), float64, complex128 (Hermitian) or integer, not all zero.
        rtol: asymmetry and negative eigenvalues allowed, relative to the largest entry and the largest
            eigenvalue.

    Returns:
        The smallest eigenvalue over the largest.

    Raises:
        CheckFailed: when the matrix is not symmetric or has a negative eigenvalue.
        ValueError: when it is not square, all zero, not finite or below float64.
    """
    a = exact_array(matrix, "matrix")
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"The matrix has shape {a.shape}; a square one is needed.")
    if largest_size(a) == 0:
        raise ValueError("The matrix is all zero; that says nothing.")
    if not 0 < rtol < ONE_PER_CENT:
        raise ValueError(f"rtol is {rtol}; accepted are numbers above 0 and below 0.01.")
    asymmetry = largest_size(a - a.conj().T) / largest_size(a)
    if asymmetry > rtol:
        raise CheckFailed(f"{_name(equation)} does not hold: relative asymmetry {asymmetry:.2g} (allowed {rtol:.2g}).")
    values = np.linalg.eigvalsh(a)
    smallest = float(values[0] / np.abs(values).max())
    if smallest < -rtol:
        raise CheckFailed(
            f"{_name(equation)} does not hold: smallest eigenvalue {smallest:.2g} of the largest (allowed -{rtol:.2g})."
        )
    print(f"{_name(equation)} is positive semidefinite: smallest eigenvalue {smallest:.1e} of the largest")
    return smallest


def _name(equation: str) -> str:
    numbered = re.fullmatch(r"\d+((, | and )\d+)*", equation)
    return re.sub(r"\d+", r"(\g<0>)", equation) if numbered else equation
