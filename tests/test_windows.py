"""Windows: a large image as many small ones, and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_images import random_image

from ntkbook import checks
from ntkbook.windows import Blend, Windows, window_starts

REPRODUCIBLE = settings(derandomize=True, deadline=None, max_examples=100)


@st.composite
def layouts(draw, largest: int = 40) -> Windows:
    """Windows of images of many sizes, some smaller than a window."""
    side = draw(st.integers(1, 15))
    sizes = st.integers(1, largest)
    return Windows(draw(sizes), draw(sizes), side, draw(st.integers(0, side - 1)))


@REPRODUCIBLE
@given(st.integers(1, 200), st.integers(1, 60), st.data())
def test_starts_cover_the_axis_evenly_with_the_overlap_asked_for(length, side, data):
    overlap = data.draw(st.integers(0, side - 1))
    starts = window_starts(length, side, overlap)
    assert starts[0] == 0
    if length <= side:
        assert starts == [0]
        return
    assert starts[-1] + side == length
    gaps = np.diff(starts)
    assert gaps.min() >= 1
    assert gaps.max() <= side - overlap
    assert gaps.max() - gaps.min() <= 1  # even, up to whole pixels
    fewer = len(starts) - 1
    assert side + (fewer - 1) * (side - overlap) < length  # one window less would not reach


@REPRODUCIBLE
@given(layouts())
def test_windows_cover_every_pixel_and_stay_inside(windows):
    rows, columns = windows.shape
    covered = np.zeros((windows.height, windows.width), int)
    for top, left in windows.origins:
        assert 0 <= top <= windows.height - rows
        assert 0 <= left <= windows.width - columns
        covered[top : top + rows, left : left + columns] += 1
    assert covered.min() >= 1
    assert windows.shape == (min(windows.side, windows.height), min(windows.side, windows.width))
    assert len(windows.origins) == len(set(windows.origins)) == windows.grid[0] * windows.grid[1]
    assert windows.origins == sorted(windows.origins)  # row after row, as `grid` is read


def test_windows_of_a_known_image():
    windows = Windows(10, 14, side=6, overlap=2)
    assert windows.shape == (6, 6)
    assert windows.grid == (2, 3)
    assert windows.origins == [(0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8)]


@pytest.mark.parametrize(
    ("windows", "shape"),
    [
        (Windows(7, 9), (7, 9)),  # no side: the whole image, whatever its shape
        (Windows(9, 7, None, overlap=12), (9, 7)),
        (Windows(7, 9, 48, 12), (7, 9)),
        (Windows(7, 9, 9, 8), (7, 9)),
    ],
)
def test_one_window_is_the_whole_image(windows, shape):
    assert windows.shape == shape
    assert windows.grid == (1, 1)
    assert windows.origins == [(0, 0)]


def test_an_image_smaller_than_a_window_along_one_axis():
    windows = Windows(5, 30, side=12, overlap=8)
    assert windows.shape == (5, 12)
    assert windows.grid == (1, 6)


@pytest.mark.parametrize(("side", "overlap"), [(6, 6), (6, 7), (6, -1), (0, 0)])
def test_an_overlap_out_of_range_is_refused(side, overlap):
    with pytest.raises(ValueError, match=f"Windows of side {side} overlap by 0 to {side - 1} pixels, not {overlap}"):
        Windows(20, 20, side, overlap)


@REPRODUCIBLE
@given(layouts(), st.integers(1, 9))
def test_chunks_partition_the_windows(windows, count):
    chunks = list(windows.chunks(count))
    assert [origin for _, origins in chunks for origin in origins] == windows.origins
    assert all(1 <= len(origins) <= count for _, origins in chunks)
    assert all(windows.origins[where] == origins for where, origins in chunks)
    assert [where.start for where, _ in chunks] == [0, *(where.stop for where, _ in chunks)][:-1]
    assert chunks[-1][0].stop == len(windows.origins)


def test_cut_takes_the_pixels_of_each_window():
    windows, image = Windows(9, 11, side=5, overlap=1), random_image(2, 9, 11)
    batch = torch.stack([image, -image])
    crops = windows.cut(batch, windows.origins)
    assert crops.shape == (2, len(windows.origins), 2, 5, 5)
    for index, (top, left) in enumerate(windows.origins):
        assert torch.equal(crops[0, index], image[:, top : top + 5, left : left + 5])
        assert torch.equal(crops[1, index], -crops[0, index])
    assert torch.equal(windows.cut(image, windows.origins[1:3]), crops[0, 1:3])


@REPRODUCIBLE
@given(layouts(), st.integers(1, 9))
def test_cut_and_blend_give_the_image_back(windows, count):
    image = random_image(2, windows.height, windows.width)
    blend = Blend(windows, image)
    for _, origins in windows.chunks(count):
        blend.add(windows.cut(image, origins), origins)
    checks.identity("the average of equal pixels", blend.result(), image, rtol=1e-12)


def test_blend_is_the_weighted_average_by_loops():
    """Different windows: at each pixel their average, weighted by the distances to the borders of each."""
    windows = Windows(7, 8, side=5, overlap=2)
    crops = random_image(len(windows.origins) * 2, 5, 5, seed=1).reshape(-1, 2, 5, 5)
    blend = Blend(windows, torch.zeros(2, 7, 8, dtype=torch.float64))
    blend.add(crops, windows.origins)
    expected = np.zeros((2, 7, 8))
    for row, column in np.ndindex(7, 8):
        total = 0.0
        for crop, (top, left) in zip(crops.numpy(), windows.origins, strict=True):
            i, j = row - top, column - left
            if 0 <= i < 5 and 0 <= j < 5:
                weight = min(i + 1, 5 - i) * min(j + 1, 5 - j)
                expected[:, row, column] += weight * crop[:, i, j]
                total += weight
        expected[:, row, column] /= total
    checks.identity("the blend", blend.result(), expected)


def test_a_blend_of_a_batch_is_that_of_each():
    windows = Windows(7, 8, side=5, overlap=2)
    crops = random_image(3 * len(windows.origins), 5, 5).reshape(3, len(windows.origins), 1, 5, 5)
    together = Blend(windows, torch.zeros(3, 1, 7, 8, dtype=torch.float64))
    together.add(crops, windows.origins)
    for index in range(3):
        alone = Blend(windows, torch.zeros(1, 7, 8, dtype=torch.float64))
        alone.add(crops[index], windows.origins)
        assert torch.equal(together.result()[index], alone.result())
