"""A configuration is immutable, and its key depends on what it says and on nothing else."""

import copy
import json
import math
import pickle
import re
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_records import SETTINGS, configuration

from ntkbook.configuration import Configuration, canonical_json


def test_key_is_stable():
    # The literal value guards every record already written: a change of the canonical text would orphan them.
    assert configuration().key == "b74fd5670dfb91f0"
    assert configuration(sigma=25.0, settings={"b": [1.0, 0.1], "a": True}).as_dict()["settings"] == {
        "a": True,
        "b": [1, 0.1],
    }


def test_canonical_text():
    value = {"b": [25.0, 0.1, -0.0, 1e22, 2.5e-8], "a": None, "ü": "é", "c": {"z": True, "y": 1}}
    text = '{"a":null,"b":[25,0.1,0,10000000000000000000000,2.5e-08],"c":{"y":1,"z":true},"\\u00fc":"\\u00e9"}'
    assert canonical_json(value) == text
    assert canonical_json([np.float64(0.5), np.int32(3), np.float32(0.5)]) == "[0.5,3,0.5]"


@given(SETTINGS, st.randoms())
def test_key_does_not_depend_on_order(settings, random):
    shuffled = list(settings.items())
    random.shuffle(shuffled)
    assert configuration(settings=dict(shuffled)).key == configuration(settings=settings).key


@given(SETTINGS)
def test_key_survives_the_way_through_json(settings):
    first = configuration(settings=settings)
    again = Configuration(**json.loads(json.dumps(first.as_dict())))
    assert again == first
    assert again.key == first.key
    assert re.fullmatch("[0-9a-f]{16}", first.key)


@given(SETTINGS, SETTINGS)
def test_different_configurations_have_different_keys(one, other):
    a, b = configuration(settings=one), configuration(settings=other)
    assert (a.key == b.key) == (canonical_json(one) == canonical_json(other)) == (a == b)


@given(st.integers(-(2**60), 2**60))
def test_equal_numbers_have_equal_keys(number):
    as_float = float(number)
    assert configuration(settings={"n": as_float}).key == configuration(settings={"n": int(as_float)}).key


@pytest.mark.parametrize(
    "change",
    [
        {"method": "exact"},
        {"image": "lena"},
        {"noise_seed": 1},
        {"sigma": 25.5},
        {"architecture": "unet"},
        {"architecture": None},
        {"input": "noise"},
        {"precision": "float64"},
        {"settings": {}},
        {"settings": {"columns": True}},
    ],
)
def test_every_field_enters_the_key(change):
    assert configuration(**change).key != configuration().key
    assert configuration(**change) != configuration()


def test_truth_and_one_are_different_settings():
    assert configuration(settings={"a": True}) != configuration(settings={"a": 1})


def test_configuration_is_immutable_and_can_be_copied():
    first = configuration(settings={"grid": [1, {"deep": [2]}]})
    with pytest.raises(TypeError):
        first.settings["grid"] = 3
    with pytest.raises(TypeError):
        first.settings["grid"][1]["deep"] = 3
    with pytest.raises(FrozenInstanceError):
        first.sigma = 5
    assert copy.deepcopy(first) == pickle.loads(pickle.dumps(first)) == replace(first) == first
    assert len({first, copy.deepcopy(first)}) == 1
    mine = {"columns": 3}
    kept = configuration(settings=mine)
    mine["columns"] = 4
    assert kept.settings["columns"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "../lena"}, "image is '../lena'; accepted are letters"),
        ({"method": ""}, "method is ''"),
        ({"sigma": -1}, "sigma is -1; it must be at least 0"),
        ({"sigma": math.nan}, "sigma is nan; a finite number"),
        ({"sigma": True}, "sigma is True"),
        ({"noise_seed": 0.5}, "noise_seed is 0.5; a whole number"),
        ({"input": "zeros"}, "input is 'zeros'; accepted are 'image', 'noise' and None"),
        ({"precision": None}, "precision is None"),
        ({"settings": [1]}, "settings is a list; a mapping is needed"),
        ({"settings": {"rate": math.inf}}, "settings.rate is inf"),
        ({"settings": {"a": {"b": object()}}}, "settings.a.b is a object; accepted are"),
        ({"settings": {1: 2}}, "settings has the key 1; keys must be strings"),
    ],
)
def test_configuration_refuses(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        configuration(**change)
