"""Every form of check passes on the truth and fails one per cent away from it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ntkbook import checks
from ntkbook.checks import CheckFailed

SIZES = st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6)
ARRAYS = hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=5), elements=SIZES)


def test_identity_prints_and_returns_the_error(capsys):
    error = checks.identity("6", torch.tensor([1.0, 2.0], dtype=torch.float64), np.array([1.0, 2.0 * (1 + 1e-12)]))
    assert error == pytest.approx(1e-12, rel=1e-3)
    assert capsys.readouterr().out == "(6) holds: relative error 1.0e-12 (allowed 1e-10)\n"


@given(ARRAYS, st.floats(-1e-12, 1e-12))
def test_identity_allows_rounding(expected, rounding):
    assert checks.identity("5", expected * (1 + rounding), expected) <= 2e-12


@given(ARRAYS, st.sampled_from([0.99, 1.01, -1.0]))
def test_identity_fails_at_one_per_cent(expected, factor):
    with pytest.raises(CheckFailed, match=r"\(5\) does not hold: relative error"):
        checks.identity("5", expected * factor, expected, rtol=1e-3)


def test_identity_fails_when_one_entry_of_many_is_off():
    expected = np.ones((50, 50))
    computed = expected.copy()
    computed[3, 7] = 1.01
    with pytest.raises(CheckFailed, match=r"relative error 0\.01 \(allowed 1e-10\)"):
        checks.identity("16", computed, expected)


@pytest.mark.parametrize(
    ("equation", "printed"),
    [("4", "(4)"), ("74 and 75", "(74) and (75)"), ("footnote 2", "footnote 2"), ("sb-dft", "sb-dft")],
)
def test_equations_are_named_as_the_paper_does(equation, printed, capsys):
    checks.identity(equation, 1.0, 1.0)
    assert capsys.readouterr().out.startswith(f"{printed} holds: ")


def test_identity_against_zero_is_absolute(capsys):
    assert checks.identity("27", [1e-14, 0.0], [0.0, 0.0], atol=1e-12) == 1e-14
    assert "absolute error 1.0e-14 (allowed 1e-12)" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="absolute error"):
        checks.identity("27", [1e-11, 0.0], [0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize(
    ("computed", "expected", "options", "message"),
    [
        (torch.ones(2), torch.ones(2), {}, "computed has the type float32"),
        (np.ones(2), np.ones(2, np.float32), {}, "expected has the type float32"),
        (torch.ones(2, dtype=torch.bfloat16), np.ones(2), {}, "computed has the type float32"),
        (np.ones(2), np.ones((2, 1)), {}, r"The shapes \(2,\) and \(2, 1\) differ"),
        ([math.nan], [1.0], {}, "computed has values that are not finite"),
        ([1.0], [math.inf], {}, "expected has values that are not finite"),
        ([], [], {}, "computed is empty"),
        ([True], [True], {}, "computed has the type bool"),
        ([0.0], [0.0], {}, "expected values are all zero and atol is None"),
        ([1.0], [1.0], {"atol": 1e-3}, "atol is 0.001 but the expected values are not all zero"),
        ([1.0], [1.0], {"rtol": 0.02}, "rtol is 0.02; accepted"),
    ],
)
def test_identity_refuses(computed, expected, options, message):
    with pytest.raises(ValueError, match=message):
        checks.identity("6", computed, expected, **options)


def covariance_samples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outer products of correlated Gaussian triples, shape (count, 3, 3), and their expectation."""
    covariance = np.array([[2.0, 1.2, 0.3], [1.2, 1.5, 0.4], [0.3, 0.4, 1.0]])
    draws = np.random.default_rng(seed).multivariate_normal(np.zeros(3), covariance, size=count)
    return draws[:, :, None] * draws[:, None, :], covariance


@pytest.mark.parametrize("seed", range(3))
def test_expectation_passes_on_the_truth_and_fails_at_one_per_cent(seed, capsys):
    samples, covariance = covariance_samples(1_200_000, seed)
    result = checks.expectation("28", samples, covariance)
    assert result.slope == pytest.approx(1, abs=0.005)
    assert result.samples == 1_200_000
    assert "(28) holds in expectation: slope" in capsys.readouterr().out
    for factor in (0.99, 1.01):
        with pytest.raises(CheckFailed, match=r"\(28\) does not hold: slope"):
            checks.expectation("28", samples, factor * covariance)


def test_expectation_that_cannot_see_one_per_cent_does_not_pass():
    samples, covariance = covariance_samples(2000)
    with pytest.raises(CheckFailed, match=r"\(28\) is not decided: .* take about \d+ samples"):
        checks.expectation("28", samples, covariance)


@given(st.integers(0, 2**32 - 1), st.sampled_from([30, 300, 3000, 30000]))
def test_expectation_never_passes_one_per_cent_off(seed, count):
    samples = 1 + 0.3 * np.random.default_rng(seed).standard_normal((count, 4))
    with pytest.raises(CheckFailed):
        checks.expectation("14", 1.01 * samples, np.ones(4), errors=5)


def test_expectation_sees_an_error_that_keeps_the_slope():
    draws = 1 + 0.1 * np.random.default_rng(0).standard_normal((20000, 2))
    checks.expectation("14", draws, np.ones(2))
    with pytest.raises(CheckFailed, match="standard errors in root mean square"):
        checks.expectation("14", draws, np.array([1.01, 0.99]))


def test_expectation_sees_one_wrong_entry_among_many():
    draws = 1 + 0.1 * np.random.default_rng(0).standard_normal((2000, 400))
    expected = np.ones(400)
    result = checks.expectation("14", draws, expected)
    assert 0.8 < result.rms_deviation < 1.2
    assert result.largest_deviation < result.largest_allowed == pytest.approx(math.sqrt(16 + 2 * math.log(400)))
    expected[17] = 1.03
    with pytest.raises(CheckFailed, match=r"at most \(allowed 5\.\d\d\)"):
        checks.expectation("14", draws, expected)


def test_expectation_sees_many_small_errors():
    draws = np.random.default_rng(0).standard_normal((2000, 400))
    draws = 1 + 0.1 * (draws - draws.mean(axis=0)) / draws.std(axis=0, ddof=1)
    # 4.5 standard errors are allowed for the largest of 400 entries, but not for all of them at once.
    expected = 1 + 4.5 * 0.1 / math.sqrt(2000) * np.resize([1, -1], 400)
    with pytest.raises(CheckFailed, match=r"4.50 standard errors in root mean square .* and 4.50 at most"):
        checks.expectation("14", draws, expected)


def test_expectation_of_entries_that_do_not_vary():
    draws = np.column_stack([np.full(20000, 2.0), 1 + 0.1 * np.random.default_rng(1).standard_normal(20000)])
    checks.expectation("48", draws, np.array([2.0, 1.0]))
    with pytest.raises(CheckFailed):
        checks.expectation("48", draws, np.array([2.0 + 1e-6, 1.0]))


def test_expectation_of_zero_needs_a_scale(capsys):
    draws = np.random.default_rng(2).standard_normal((400_000, 3))
    assert math.isnan(checks.expectation("27", draws, np.zeros(3), scale=1.0).slope)
    assert "(27) holds in expectation" in capsys.readouterr().out
    with pytest.raises(CheckFailed, match="does not hold"):
        checks.expectation("27", draws + 0.01, np.zeros(3), scale=1.0)
    with pytest.raises(CheckFailed, match="is not decided"):
        checks.expectation("27", draws[:1000], np.zeros(3), scale=1.0)
    with pytest.raises(ValueError, match="scale is None; a positive number is needed"):
        checks.expectation("27", draws, np.zeros(3))


@pytest.mark.parametrize(
    ("samples", "expected", "options", "message"),
    [
        (np.ones((40, 2)), np.ones(3), {}, r"samples have shape \(40, 2\) and expected \(3,\)"),
        (np.ones((29, 2)), np.ones(2), {}, "There are 29 samples; at least 30"),
        (np.full((40, 1), np.nan), np.ones(1), {}, "samples has values that are not finite"),
        (np.ones((40, 1), complex), np.ones(1), {}, "samples is complex"),
        (np.ones((40, 1)), np.ones(1), {"errors": 0}, "errors is 0"),
        (np.ones((40, 1)), np.ones(1), {"scale": 1.0}, "scale is 1.0"),
    ],
)
def test_expectation_refuses(samples, expected, options, message):
    with pytest.raises(ValueError, match=message):
        checks.expectation("28", samples, expected, **options)


@given(st.floats(-3, 3).filter(lambda s: abs(s) > 0.1), st.floats(1e-3, 1e3))
def test_rate_passes_on_an_exact_power_and_fails_at_one_per_cent(slope, factor):
    x = np.array([8.0, 16.0, 32.0, 64.0, 128.0])
    result = checks.rate("8", x, factor * x**slope, slope)
    assert result.slope == pytest.approx(slope, abs=1e-9)
    for off in (0.99, 1.01):
        with pytest.raises(CheckFailed, match="misses"):
            checks.rate("8", x, factor * x ** (off * slope), slope)


def test_rate_prints_slope_and_interval(capsys):
    x = np.geomspace(8, 512, 7)
    noise = np.exp(0.001 * np.random.default_rng(3).standard_normal(7))
    result = checks.rate("8", x, noise / x, -1)
    assert result.low < -1 < result.high
    assert result.high - result.low < 0.02
    out = capsys.readouterr().out
    assert out.startswith("(8) holds: slope -1.00") or out.startswith("(8) holds: slope -0.99")
    assert "95 % interval [-1.00" in out


def test_rate_interval_has_the_coverage_it_states():
    generator = np.random.default_rng(4)
    x, missed = np.geomspace(1, 100, 6), 0
    for _ in range(400):
        try:
            checks.rate("8", x, x**-0.5 * np.exp(0.1 * generator.standard_normal(6)), -0.5, max_width=10)
        except CheckFailed:
            missed += 1
    assert 7 <= missed <= 36  # 20 are expected; the bounds are 3 standard deviations and more


def test_rate_with_a_wide_interval_is_not_decided():
    x = np.geomspace(1, 100, 6)
    noisy = x**-0.5 * np.exp(0.3 * np.random.default_rng(5).standard_normal(6))
    with pytest.raises(CheckFailed, match=r"is not decided: .* is wider than 0.01"):
        checks.rate("8", x, noisy, -0.5)


@pytest.mark.parametrize(
    ("x", "y", "slope", "message"),
    [
        ([1, 2], [1, 2], 1, "3 along one axis are needed"),
        ([2, 2, 2], [1, 2, 3], 1, "1 different values; 3 along one axis"),
        ([1, 2, 3], [1, 2, 0], 1, "a power law needs positive numbers"),
        ([1, 2, 3], [1, 2], 1, "The shapes"),
        ([1, 2, 3], [1, 2, 3], 0, "with slope 0 a positive max_width must be given"),
    ],
)
def test_rate_refuses(x, y, slope, message):
    with pytest.raises(ValueError, match=message):
        checks.rate("8", x, y, slope)


@given(ARRAYS)
def test_printed_fails_needs_the_error_it_claims(right):
    assert checks.printed_fails("62", 1.05 * right, right, at_least=0.04) == pytest.approx(0.05)
    with pytest.raises(CheckFailed, match=r"\(62\) as printed does not fail: relative error 0\.01"):
        checks.printed_fails("62", 1.01 * right, right, at_least=0.04)
    with pytest.raises(CheckFailed, match="does not fail"):
        checks.printed_fails("62", right, right, at_least=1e-6)


def test_printed_fails_prints_by_how_much(capsys):
    checks.printed_fails("64", [3.0], [2.0], at_least=0.3)
    assert checks.printed_fails("65", [math.inf], [2.0], at_least=0.3) == math.inf
    assert capsys.readouterr().out == (
        "(64) as printed fails: relative error 0.5 (claimed at least 0.3)\n"
        "(65) as printed fails: its values are not finite (claimed at least 0.3)\n"
    )


@pytest.mark.parametrize(
    ("printed", "right", "at_least", "message"),
    [
        ([1.0], [2.0], 0.0, "at_least is 0.0"),
        ([1.0], [0.0], 0.1, "right values are all zero"),
        ([1.0], [math.nan], 0.1, "right has values that are not finite"),
        ([1.0], [1.0, 2.0], 0.1, "The shapes"),
        (np.ones(1, np.float32), np.ones(1), 0.1, "printed has the type float32"),
    ],
)
def test_printed_fails_refuses(printed, right, at_least, message):
    with pytest.raises(ValueError, match=message):
        checks.printed_fails("64", printed, right, at_least)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_positive_semidefinite_passes_on_a_gram_matrix_and_fails_one_per_cent_below(seed, rank):
    factor = np.random.default_rng(seed).standard_normal((8, rank))
    gram = factor @ factor.T
    assert checks.positive_semidefinite("16", gram) >= -1e-10
    largest = np.linalg.eigvalsh(gram)[-1]
    with pytest.raises(CheckFailed, match=r"smallest eigenvalue -0.01"):
        checks.positive_semidefinite("16", gram - 0.01 * largest * np.eye(8))


def test_positive_semidefinite_sees_asymmetry_and_refuses(capsys):
    checks.positive_semidefinite("16", torch.eye(3, dtype=torch.float64))
    assert capsys.readouterr().out == "(16) is positive semidefinite: smallest eigenvalue 1.0e+00 of the largest\n"
    with pytest.raises(CheckFailed, match=r"relative asymmetry 0.01"):
        checks.positive_semidefinite("16", [[1.0, 0.51], [0.5, 1.0]])
    for matrix, message in (
        (np.ones((2, 3)), "a square one is needed"),
        (np.zeros((2, 2)), "all zero"),
        (np.eye(2, dtype=np.float32), "float32"),
    ):
        with pytest.raises(ValueError, match=message):
            checks.positive_semidefinite("16", matrix)
