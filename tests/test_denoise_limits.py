"""What `denoise_ntk` refuses, and how much memory it takes."""

import subprocess
import sys

import numpy as np
import pytest

from ntkbook.denoise import denoise_ntk
from ntkbook.landmarks import Landmarks
from ntkbook.restoration import RECIPES, Recipe

# --- refusals


GREY = np.full((20, 20), 0.4)


@pytest.mark.parametrize(
    ("image", "options", "says"),
    [
        (GREY, {"sigma": -0.1}, "-0.1"),
        (GREY, {"sigma": float("nan")}, "nan"),
        (GREY, {"sigma": float("inf")}, "inf"),
        (GREY, {"iterations": -1}, "-1"),
        (GREY, {"iterations": float("nan")}, "nan"),
        (GREY, {"recipe": Recipe((Landmarks("centres", 8, 8),))}, "odd.* 8"),
        (GREY, {"recipe": Recipe((Landmarks("centres", 8, 21),))}, "21 x 21"),
        (GREY, {"recipe": "slow"}, f"'slow'; accepted are {', '.join(RECIPES)}"),
        (GREY, {"recipe": "best", "iterations": 20}, "kinds of landmarks and 2 stages SURE has to choose"),
        (GREY, {"device": "abacus"}, "'abacus'.*cpu"),
        (GREY, {"channel_axis": -1}, r"\(20, 20\)"),
        (np.full((20, 20, 3), 0.4), {}, r"\(20, 20, 3\).*channel_axis=-1"),
        (np.full((20, 20, 3), 0.4), {"channel_axis": 3}, "between -3 and 2, not 3"),
        (GREY * 255, {}, "102"),
        (np.where(np.eye(20) > 0, np.nan, GREY), {}, "20 NaN"),
        (np.where(np.eye(20) > 0, np.inf, GREY), {}, "infinite"),
        (np.zeros((0, 20)), {}, r"\(1, 0, 20\)"),
    ],
)
def test_bad_input_is_refused(image, options, says):
    with pytest.raises(ValueError, match=says):
        denoise_ntk(image, **({"sigma": 0.1} | options))


@pytest.mark.parametrize("image", [np.full((20, 20), "a"), np.full((20, 20), 1j), np.full((20, 20), None)])
def test_what_is_not_an_array_of_numbers_is_refused(image):
    with pytest.raises(TypeError, match="array of numbers"):
        denoise_ntk(image, 0.1)


# --- memory

PEAK = """
import resource, sys, numpy as np
from ntkbook.denoise import denoise_ntk
from ntkbook.restoration import RECIPES, Landmarks, Recipe
recipe = {"whole": Recipe((Landmarks("uniform", 16),), window=None), "windows": RECIPES["fast"]}[sys.argv[1]]
denoise_ntk(np.full((64, 64), 0.4), iterations=5, recipe=recipe, device="cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
side = int(sys.argv[2])
image = np.random.default_rng(0).random((side, side), dtype=np.float32)
assert np.isfinite(denoise_ntk(image, iterations=5, recipe=recipe, device="cpu")).all()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""


def peak_growth(recipe: str, side: int) -> int:
    """Bytes by which the peak memory of a process of its own grows with a grey picture."""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", PEAK, recipe, str(side)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)


def test_all_patches_are_never_held_at_once():
    side, columns = 2048, 16
    kept, every_patch = side**2 * columns * 4, side**2 * 121 * 4
    allowed = kept + 2**29  # a tile of patches and its temporaries, whatever the size of the picture
    assert peak_growth("whole", side) < allowed < every_patch / 2


def test_columns_of_all_windows_are_never_held_at_once():
    side = 1024
    picture, every_column = side**2 * 4, side**2 * RECIPES["fast"].landmarks[0].count * 4
    allowed = 12 * picture + 2**26  # copies of the picture, and the windows that are worked on together
    assert peak_growth("windows", side) < allowed < every_column / 2
