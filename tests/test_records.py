"""A record goes to JSON and back bit for bit, and refuses what is not a result."""

import math
import os
import platform
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import SETTINGS, record

from ntkbook.records import Record, provenance

FINITE = st.floats(-1e6, 1e6)


@given(
    st.dictionaries(st.integers(0, 10**6) | st.floats(0, 1e6), FINITE, max_size=5),
    FINITE,
    st.dictionaries(st.text(min_size=1), st.integers() | FINITE, max_size=4),
    SETTINGS,
)
def test_round_trip_is_bit_exact(curve, best, outcome, settings):
    best = max([best, *curve.values()])
    first = record(best_psnr=best, curve=curve, outcome=outcome, settings=settings)
    text = first.to_json()
    again = Record.from_json(text)
    assert again == first
    assert again.to_json() == text
    assert again.best_psnr.hex() == float(best).hex()
    assert list(again.curve) == sorted(again.curve)
    assert [type(value) for value in again.outcome.values()] == [type(value) for value in first.outcome.values()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best_psnr": math.nan}, "best_psnr is nan; a finite number is needed"),
        ({"best_psnr": "28"}, "best_psnr is '28'"),
        ({"best_psnr": 28.0}, "best_psnr is 28.0 dB, but the curve reaches 28.7 dB"),
        ({"best_iteration": -1}, "best_iteration is -1; it must be at least 0"),
        ({"curve": {1: math.inf}}, "curve[1] is inf"),
        ({"curve": {"1": 2.0}}, "an iteration of curve is '1'"),
        ({"curve": [1, 2]}, "curve is a list; a mapping is needed"),
        ({"outcome": {"change": math.nan}}, "outcome.change is nan"),
        ({"outcome": {"done": True}}, "outcome.done is True"),
        ({"seconds": -1}, "seconds is -1"),
        ({"levels": (20.0, 13.0)}, "levels is a tuple; a Levels is needed"),
    ],
)
def test_record_refuses(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        record(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"platform": "/home/someone"}, "platform is '/home/someone'; provenance holds no paths"),
        ({"device": "C:\\gpu"}, "provenance holds no paths"),
        ({"threads": 0}, "threads is 0"),
        ({"commit": "main"}, "commit is 'main'"),
        ({"date": "31.1.2025"}, "date is '31.1.2025'"),
        ({"libraries": ["torch"]}, "libraries is a list"),
    ],
)
def test_provenance_refuses(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(record().provenance, **change)


def test_provenance_of_this_process():
    here = provenance("cpu")
    assert here.device == "cpu"
    assert here.threads >= 1
    assert set(here.libraries) == {"torch", "numpy", "python"}
    assert here.libraries["numpy"] == np.__version__
    assert provenance("cpu", threads=7).threads == 7
    assert record(provenance=here).to_json().count(os.sep) == 0
    assert here.platform == f"{platform.system()} {platform.machine()}"
