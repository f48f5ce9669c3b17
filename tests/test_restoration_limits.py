"""What `restore` and its recipes refuse, and the progress it tells."""

import math

import pytest
import torch
from tiny_images import smooth_image
from torch import Tensor

from ntkbook import restoration
from ntkbook.images import add_noise
from ntkbook.landmarks import Landmarks
from ntkbook.restoration import RECIPES, Recipe, restore

STD = 25 / 255
CENTRES, PIXELS = Landmarks("centres", 16, 3), Landmarks("uniform", 64, 7)


def small_noisy(height: int = 40, width: int = 52) -> Tensor:
    return add_noise(smooth_image(2, height, width).float(), 25, 0)


# --- progress


def followed(**arguments: object) -> list[tuple[int, int]]:
    seen = []
    restore(small_noisy(), progress=lambda done, total: seen.append((done, total)), **arguments)
    return seen


@pytest.mark.parametrize(
    "arguments",
    [
        {"noise_std": STD},
        {"noise_std": None, "iterations": 20},
        {"noise_std": STD, "recipe": Recipe((CENTRES,), 20, 5)},
        {"noise_std": STD, "recipe": Recipe((CENTRES, PIXELS), 20, 5, 2)},
        {"noise_std": None, "iterations": 5, "recipe": Recipe((PIXELS,), None)},
        {"noise_std": STD, "recipe": Recipe((Landmarks("residual", 120, 5),), None)},
    ],
    ids=["fast", "given", "windows", "two stages", "whole", "residual"],
)
@pytest.mark.parametrize("memory", [None, 0], ids=["columns kept", "columns computed again"])
def test_progress_grows_to_its_total(arguments, memory, monkeypatch):
    if memory is not None:
        monkeypatch.setattr(restoration, "COLUMN_MEMORY", memory)
    monkeypatch.setattr("ntkbook.kernels.TILE_ENTRIES", 2**14)  # several blocks for each window
    seen = followed(**arguments)
    done, total = (list(each) for each in zip(*seen, strict=True))
    assert len(set(total)) == 1
    assert len(done) > 2
    assert done == sorted(set(done))
    assert 0 < done[0] < done[-1] == total[0]


# --- refusals


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"landmarks": ()}, "at least one kind of landmarks"),
        ({"stages": 0}, "at least 1 stage, not 0"),
        ({"landmarks": (CENTRES, PIXELS), "window": 5, "overlap": 0}, "side 5 are smaller than the patches, 7 x 7"),
    ],
)
def test_recipes_refuse(fields, says):
    with pytest.raises(ValueError, match=says):
        Recipe(**{"landmarks": (CENTRES,)} | fields)


def test_a_window_may_be_one_patch():
    assert restore(small_noisy(12, 15), STD, recipe=Recipe((PIXELS,), 7, 2)).windows.grid == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"noise_std": -0.1}, "0 or more, not -0.1"),
        ({"noise_std": math.nan}, "not nan"),
        ({"noise_std": math.inf}, "not inf"),
        ({"noise_std": None}, "not None"),
        ({"iterations": -1}, "0 or more, not -1"),
        ({"iterations": math.inf}, "not inf"),
        ({"iterations": math.nan}, "not nan"),
        ({"iterations": 9, "recipe": Recipe((CENTRES, PIXELS))}, "2 kinds of landmarks and 1 stages"),
        ({"iterations": 9, "recipe": Recipe((CENTRES,), stages=2)}, "1 kinds of landmarks and 2 stages"),
        ({"recipe": Recipe((Landmarks("centres", 9, 4),))}, "must be odd and at least 1.* got 4"),
        ({"recipe": Recipe((Landmarks("centres", 9, 41),))}, "patch of 41 x 41 does not fit in an image of 40 x 48"),
        ({"recipe": Recipe((Landmarks("centres", 9, 41),), None)}, "patch of 41 x 41 does not fit .* 40 x 52"),
        ({"recipe": Recipe((CENTRES,), 24, 24)}, "overlap by 0 to 23 pixels, not 24"),
        ({"recipe": Recipe((CENTRES,), 24, -1)}, "overlap by 0 to 23 pixels, not -1"),
        ({"recipe": Recipe((Landmarks("residual", 9, 3),), 24, 4)}, "one whole image, not window by window"),
        ({"noisy": torch.full((1, 20, 20), math.nan)}, "NaN"),
        ({"noisy": torch.zeros(20, 20)}, r"\(20, 20\)"),
    ],
)
def test_restore_refuses(arguments, says):
    with pytest.raises(ValueError, match=says):
        restore(**{"noisy": small_noisy(), "noise_std": STD} | arguments)


def test_the_recipes_of_the_package():
    assert (RECIPES["paper"].window, RECIPES["paper"].landmarks) == (None, (Landmarks("uniform", 1000, 11),))
    for recipe in RECIPES.values():
        found = restore(small_noisy(), STD, recipe=recipe)
        assert (found.landmarks >= 0).all()
        assert found.landmarks.max() < len(recipe.landmarks) * recipe.stages
