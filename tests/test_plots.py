"""The figures: one style and grey scale, alternative text that reaches the page, sliders within budget."""

import base64
import html
import io
import math
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from PIL import Image

from ntkbook import plots, sliders
from ntkbook.image_files import encode

matplotlib.use("Agg")


def levels(picture: plots.Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.content)).convert("RGB"))


def noise(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((channels, height, width)))


@pytest.fixture(autouse=True)
def a_new_page(monkeypatch):
    monkeypatch.setattr(sliders, "_weights", {})


def test_the_style_is_applied_and_stays_out_of_other_figures():
    with matplotlib.rc_context():
        plots.use_style()
        figure, axes = plt.subplots()
        (line,) = axes.plot([0, 1])
        assert line.get_color() == plots.COLOURS[0]
        assert figure.dpi == 120 and figure.get_layout_engine() is not None
        plt.close(figure)
    before = dict(matplotlib.rcParams)
    plots.psnr_curve({"a": ([1, 2], [20, 21])})
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("zoom", [1, 3])
def test_images_are_shown_pixel_for_pixel(zoom):
    image = (noise(3, 20, 30) * 255).round() / 255
    shown = levels(plots.picture(plots.show_images({"a": image, "b": image}, zoom=zoom), "two images"))
    expected = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    expected = expected.repeat(zoom, 0).repeat(zoom, 1)
    bottom = shown.shape[0] - 12
    for left in (12, 12 + 30 * zoom + 12):
        part = shown[bottom - 20 * zoom : bottom, left : left + 30 * zoom]
        np.testing.assert_array_equal(part, expected)


def test_one_grey_scale_in_the_whole_grid():
    dark, bright = torch.full((1, 16, 16), 0.25), torch.full((1, 16, 16), 0.75)
    figure = plots.show_images({"dark": dark, "bright": bright})
    assert [axes.get_images()[0].get_array().mean() for axes in figure.axes] == [0.25, 0.75]
    figure = plots.show_images({"dark": dark, "bright": bright}, limits=(0.25, 1.25))
    assert [axes.get_images()[0].get_array().mean() for axes in figure.axes] == [0, 0.5]
    figure = plots.show_images({"beyond": torch.tensor([[[-1.0, 2.0]]])}, zoom=1)
    assert figure.axes[0].get_images()[0].get_array()[0, :, 0].tolist() == [0, 1]


def test_crop_titles_and_small_scale():
    image = noise(1, 64, 64)
    figure = plots.show_images({"a": (image, "28.29 dB")}, crop=(8, 16, 4, 6), zoom=1)
    np.testing.assert_allclose(figure.axes[0].get_images()[0].get_array()[:, :, 0], image[0, 8:12, 16:22])
    assert figure.axes[0].get_title() == "a\n28.29 dB"
    figure = plots.show_images({"a": image}, zoom=0.5)
    expected = image.reshape(32, 2, 32, 2).mean((1, 3))
    np.testing.assert_allclose(figure.axes[0].get_images()[0].get_array()[:, :, 0], expected)
    wide = plots.show_images({"a": noise(3, 512, 768), "b": noise(3, 512, 768)})
    assert wide.get_figwidth() * wide.dpi <= 840


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pictures": {}}, "no image to show"),
        ({"limits": (1, 1)}, "low < high"),
        ({"zoom": 1.5}, r"whole number or one over a whole number, got 1\.5"),
        ({"zoom": 0}, "got 0"),
        ({"columns": -1}, "at least 1, got -1"),
        ({"crop": (0, 0, 9, 3)}, "does not lie inside an image of 8 x 8"),
        ({"crop": (-1, 0, 3, 3)}, "does not lie inside"),
        ({"pictures": {"two": torch.zeros(2, 8, 8)}}, "'two' must have 1 or 3 channels to be shown, got 2"),
        ({"pictures": {"flat": torch.zeros(8, 8)}}, "'flat' must have shape"),
        ({"pictures": {"bad": torch.full((1, 8, 8), math.nan)}}, "'bad' holds 64 values"),
    ],
)
def test_show_images_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.show_images(**({"pictures": {"a": torch.zeros(1, 8, 8)}} | arguments))


def test_alternative_text_is_in_what_a_notebook_is_given():
    alt = 'House, clean & "noisy" <20 dB>'
    picture = plots.picture(plots.show_images({"a": torch.zeros(1, 8, 8)}), f"  {alt}\n")
    data, metadata = DisplayFormatter().format(picture)
    (tag,) = re.findall(r"<img [^<]*>", data["text/html"])
    assert html.unescape(re.search(r'alt="([^"]*)"', tag)[1]) == alt
    assert "dark-light" in tag  # the site's dark theme leaves such images as they are
    assert metadata["image/png"]["alt"] == alt and data["text/plain"] == alt
    source = re.search(r'src="data:image/png;base64,([^"]*)"', tag)[1]
    assert base64.b64decode(source) == picture.content == base64.b64decode(data["image/png"])
    for blank in ("", "  ", None):
        with pytest.raises(ValueError, match="needs alternative text"):
            plots.picture(Figure(), blank)


def test_a_figure_is_displayed_once_and_closed(monkeypatch):
    displayed = []
    monkeypatch.setattr("IPython.display.display", displayed.append)
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    assert plots.show(figure, alt="a line") is None
    assert len(displayed) == 1 and displayed[0].alt == "a line"
    assert not plt.fignum_exists(figure.number)


def test_the_same_figure_gives_the_same_bytes():
    curves = {"a": ([1, 10], [20.0, 21.0])}
    first, second = (plots.picture(plots.psnr_curve(curves), "a curve").content for _ in range(2))
    assert first == second
    assert (levels(plots.Picture(first, "a"))[0, 0] == 0xFB).all()  # an opaque, light card


def test_heat_has_one_scale_that_is_symmetric_when_signed():
    maps = {"a": torch.tensor([[0.0, -4.0]]), "b": torch.tensor([[1.0, 2.0]])}
    figure = plots.heat(maps, "entry")
    pictures = [image for axes in figure.axes for image in axes.get_images()]
    assert [image.get_clim() for image in pictures] == [(-4, 4), (-4, 4)]
    assert "entry" in [axes.get_xlabel() for axes in figure.axes]
    figure = plots.heat({"b": maps["b"]}, "weight", signed=False, over=torch.ones(3, 1, 2))
    under, image = figure.axes[0].get_images()
    assert image.get_clim() == (0, 2) and under.get_array().min() == 1
    np.testing.assert_allclose(image.get_alpha(), [[math.sqrt(0.5), 1]])
    plots.picture(plots.heat({"zero": torch.zeros(2, 2)}, "nothing"), "a map of zeros")


@pytest.mark.parametrize(
    "maps, options, message",
    [
        ({}, {}, "no map"),
        ({"a": torch.zeros(1, 2, 2)}, {}, r"'a' must be a tensor \(height, width\), got \(1, 2, 2\)"),
        ({"a": [[1.0]]}, {}, "got list"),
        ({"a": torch.tensor([[-1.0]])}, {"signed": False}, "negative values down to -1: use signed=True"),
        (
            {"a": torch.zeros(2, 2)},
            {"over": torch.zeros(3, 2, 3)},
            r"shape \(2, 2\), the image under it \(2, 3\)",
        ),
    ],
)
def test_heat_refuses(maps, options, message):
    with pytest.raises(ValueError, match=message):
        plots.heat(maps, "value", **options)


def test_psnr_curve_marks_the_best_point_and_the_references():
    curve = (torch.tensor([1, 10, 100]), torch.tensor([20.0, 28.29, 25.0]))
    figure = plots.psnr_curve({"GD": curve}, {"noisy image": 20.28})
    (axes,) = figure.axes
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["GD: 28.29 dB at 10", "noisy image: 20.28 dB"]
    marker = next(line for line in axes.lines if line.get_marker() == "o")
    assert (marker.get_xdata()[0], marker.get_ydata()[0]) == (10, pytest.approx(28.29))
    assert axes.get_xscale() == "log"
    with_zero = plots.psnr_curve({"GD": ([0, 1, 10], [20, 21, 22])}).axes[0]
    assert with_zero.get_xscale() == "symlog" and with_zero.get_xlim()[0] == 0


@pytest.mark.parametrize("curve", [([1, 2], [20.0]), ([], []), ([1], [math.nan]), ([-1], [20.0]), ([[1]], [[20.0]])])
def test_psnr_curve_refuses(curve):
    with pytest.raises(ValueError, match="the curve 'a'"):
        plots.psnr_curve({"a": curve})


def test_slider_links_the_position_to_the_stack(monkeypatch):
    links = []
    monkeypatch.setattr("ipywidgets.jslink", lambda source, target: links.append((source, target)))
    frames = [torch.full((3, 16, 16), value) for value in (0.0, 0.5, 1.0)]
    box = plots.slider(frames, [1, 10, "<100>"], "t & s", "House after t = {value}")
    position, stack = box.children
    assert (position.min, position.max, stack.selected_index, len(stack.children)) == (0, 2, 0, 3)
    assert links == [((position, "value"), (stack, "selected_index"))]
    panel = stack.children[2].value
    assert "t &amp; s = &lt;100&gt;" in panel and 'alt="House after t = &lt;100&gt;"' in panel
    content = base64.b64decode(re.search(r"base64,([^\"]*)", panel)[1])
    assert np.asarray(Image.open(io.BytesIO(content))).min() == 255  # small frames stay lossless


def test_slider_takes_figures_and_files_and_packs_what_is_heavy():
    heavy = encode(noise(3, 200, 200))
    assert len(heavy) > sliders.MAX_FRAME_BYTES
    box = plots.slider([plots.psnr_curve({"a": ([1, 2], [3, 4])}), heavy], [0, 1], "t", "a frame")
    kinds = [re.search(r"data:(image/\w+);base64,([^\"]*)", panel.value) for panel in box.children[1].children]
    assert kinds[1][1] == "image/jpeg"
    assert all(len(base64.b64decode(kind[2])) <= sliders.MAX_FRAME_BYTES for kind in kinds)


def test_slider_refuses():
    frame = torch.zeros(1, 8, 8)
    with pytest.raises(ValueError, match="2 to 25 frames, got 26"):
        plots.slider([frame] * 26, range(26), "t", "a frame")
    with pytest.raises(ValueError, match="2 frames and 3 values"):
        plots.slider([frame] * 2, [1, 2, 3], "t", "a frame")
    with pytest.raises(ValueError, match="needs a label"):
        plots.slider([frame] * 2, [1, 2], " ", "a frame")
    with pytest.raises(ValueError, match="alternative text"):
        plots.slider([frame] * 2, [1, 2], "t", "")
    with pytest.raises(TypeError, match="got ndarray"):
        plots.slider([frame, np.zeros((8, 8))], [1, 2], "t", "a frame")
    with pytest.raises(ValueError, match=r"frame 1 \(t = 2\) is neither a PNG nor a JPEG"):
        plots.slider([frame, b"text"], [1, 2], "t", "a frame")
    with pytest.raises(ValueError, match=r"frame 0 \(t = 1\) of 600 x 600 pixels takes .* may take 40,000"):
        plots.slider([noise(3, 600, 600)] * 2, [1, 2], "t", "a frame")


def test_the_sliders_of_a_page_share_a_budget(monkeypatch):
    monkeypatch.setattr(sliders, "MAX_PAGE_BYTES", 2500)
    frames = [torch.zeros(1, 8, 8)] * 3
    for _ in range(5):  # a cell that runs again replaces its own slider
        plots.slider(frames, [1, 2, 3], "t", "a frame")
    with pytest.raises(ValueError, match=r"would take .* a page may take 2,500"):
        plots.slider(frames, [1, 2, 3], "s", "another frame")


def test_static_twin_takes_the_first_and_the_last():
    frames = [torch.full((1, 32, 32), value / 9) for value in range(10)]
    twin = plots.static_twin(frames, range(10), "t", "ten greys", count=4, columns=4)
    shown = levels(twin)
    width = (shown.shape[1] - 5 * 12) // 4
    middle = [int(shown[-20, 12 + index * (width + 12) + width // 2, 0]) for index in range(4)]
    assert middle == [0, 85, 170, 255] and twin.alt == "ten greys"
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        plots.static_twin(frames, range(10), "t", "greys", count=1)


def test_tables_and_numbers_with_spread():
    assert plots.with_spread(28.291, 0.0211) == "28.29 ± 0.02"
    assert plots.with_spread(28.291, math.nan) == "28.29"
    assert plots.with_spread(math.nan, 0.1) == "missing"
    with pytest.raises(ValueError, match="at least 0, got -1"):
        plots.with_spread(1, -1)
    frame = pd.DataFrame({"method": ["noisy <image>", "filter"], "PSNR": [20.2812, math.nan]})
    table = plots.table(frame, caption="House & co")
    data = DisplayFormatter().format(table)[0]
    assert "<td>20.28</td>" in data["text/html"] and "<td>missing</td>" in data["text/html"]
    assert "noisy &lt;image&gt;" in data["text/html"] and "House &amp; co</caption>" in data["text/html"]
    assert "20.28" in data["text/plain"]
    with pytest.raises(TypeError, match="got dict"):
        plots.table({})
