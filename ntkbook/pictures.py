"""One style for every figure, and figures as pictures that carry alternative text.

A figure stands on an opaque light card in the light and in the dark theme alike, so that nothing that it
shows depends on the theme. Its ``<img>`` carries the class ``dark-light``, which keeps the site's dark theme
from dimming it.
"""

from __future__ import annotations

import base64
import html
import io
import math
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ntkbook.image_files import check_image

try:
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("figures need matplotlib: pip install 'ntkbook[book]'") from error

CARD = "#fbfbfb"
# Okabe and Ito's colours, which stay apart for the colour-blind; the darkest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
STYLE: dict[str, object] = {
    "figure.dpi": 120,
    "savefig.dpi": 120,
    "figure.figsize": (6.4, 4.0),
    "figure.facecolor": CARD,
    "savefig.facecolor": CARD,
    "axes.facecolor": CARD,
    "figure.constrained_layout.use": True,
    "font.size": 12.5,  # a figure of 768 pixels is shown at about half its size on a phone
    "axes.titlesize": 12.5,
    "legend.fontsize": 11,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "lines.linewidth": 2.0,
    "image.interpolation": "nearest",
    "image.cmap": "gray",
    "legend.frameon": False,
}
PAGE_WIDTH = 768  # pixels; about the width of the site's column
_GAP = 12
_LINE = 25  # height of a line of title in pixels


def use_style() -> None:
    """Make the book's style the default for every figure made after this call."""
    matplotlib.rcParams.update(STYLE)


@dataclass(frozen=True)
class Picture:
    """A finished picture with its alternative text; a notebook and the built page show it as an ``<img>``.

    Attributes:
        content: The bytes of the file.
        alt: What the picture shows, in words.
        mime_type: ``image/png`` or ``image/jpeg``.
    """

    content: bytes
    alt: str
    mime_type: str = "image/png"

    @property
    def html(self) -> str:
        """The picture as one ``<img>`` element with its bytes inside."""
        data = base64.b64encode(self.content).decode("ascii")
        return (
            f'<img class="ntkbook-figure dark-light" alt="{html.escape(self.alt)}" '
            f'src="data:{self.mime_type};base64,{data}" style="max-width:100%;height:auto;border-radius:6px">'
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> tuple[dict, dict]:
        # HTML comes first in notebooks and in MyST-NB, which would not pass the alternative text of an
        # image/png on. The bare image is for viewers that show no HTML.
        bundle = {
            "text/html": self.html,
            self.mime_type: base64.b64encode(self.content).decode("ascii"),
            "text/plain": self.alt,
        }
        return bundle, {self.mime_type: {"alt": self.alt}}


def check_alt(alt: str) -> str:
    """Refuse alternative text that says nothing.

    Args:
        alt: What a picture shows, in words.

    Returns:
        ``alt`` on one line, without outer spaces.

    Raises:
        ValueError: If it is not text, or blank.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"a picture needs alternative text that says what it shows, got {alt!r}")
    return " ".join(alt.split())


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG, at its own resolution.

    Args:
        figure: The figure.

    Returns:
        The file's content.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=figure.dpi, facecolor=CARD)
    packed = io.BytesIO()
    # The card is opaque, so an alpha channel is weight for nothing; matplotlib's version goes too.
    Image.open(drawn).convert("RGB").save(packed, "PNG", optimize=True)
    return packed.getvalue()


def picture(figure: Figure, alt: str) -> Picture:
    """Finish a figure: draw it, close it and give it alternative text.

    Args:
        figure: A figure, of this module or made with pyplot. It is closed, so that no notebook draws it
            twice.
        alt: What the figure shows, in words.

    Returns:
        The picture; as the last line of a cell it is displayed.

    Raises:
        ValueError: If the alternative text is blank.
    """
    finished = Picture(png(figure), check_alt(alt))
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    return finished


def show(figure: Figure, alt: str) -> None:
    """Display a figure once, with alternative text; see :func:`picture`.

    Args:
        figure: The figure; it is closed.
        alt: What the figure shows, in words.

    Raises:
        ValueError: If the alternative text is blank.
    """
    from IPython.display import display

    display(picture(figure, alt))


def _scaled(image: Tensor, zoom: float) -> Tensor:
    """Repeat each pixel, or average blocks of pixels: no other resampling."""
    if zoom >= 1:
        return image.repeat_interleave(int(zoom), 1).repeat_interleave(int(zoom), 2)
    return avg_pool2d(image[None], round(1 / zoom), ceil_mode=True)[0]


def _zoom_for(zoom: float | None, width: int, columns: int) -> float:
    """The given zoom once it is checked, or the largest at which a row of the grid fits the page."""
    if zoom is None:
        room = (PAGE_WIDTH - _GAP * (columns + 1)) / (columns * width)
        return math.floor(room) if room >= 1 else 1 / math.ceil(1 / room - 0.1)
    if not zoom > 0 or abs((zoom if zoom >= 1 else 1 / zoom) - round(zoom if zoom >= 1 else 1 / zoom)) > 1e-9:
        raise ValueError(f"zoom must be a whole number or one over a whole number, got {zoom}")
    return zoom


def cropped(image: Tensor, crop: tuple[int, int, int, int] | None) -> Tensor:
    """The part of an image that a crop names.

    Args:
        image: Tensor (channels, height, width).
        crop: (top, left, height, width) in pixels, or None for the whole.

    Returns:
        Tensor (channels, height, width).

    Raises:
        ValueError: If the crop does not lie inside the image.
    """
    if crop is None:
        return image
    top, left, height, width = crop
    bottom, right = top + height, left + width
    if min(top, left) < 0 or min(height, width) < 1 or bottom > image.shape[1] or right > image.shape[2]:
        raise ValueError(
            f"the crop (top, left, height, width) = {tuple(crop)} does not lie inside an image of "
            f"{image.shape[1]} x {image.shape[2]}"
        )
    return image[:, top : top + height, left : left + width]


def show_images(
    pictures: Mapping[str, Tensor | tuple[Tensor, str]],
    columns: int | None = None,
    crop: tuple[int, int, int, int] | None = None,
    zoom: float | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """A grid of images on one grey scale, each pixel of them a whole number of screen pixels.

    Args:
        pictures: From a title to an image (channels, height, width) with 1 or 3 channels, or to a pair of the
            image and a second line for the title, such as ``"28.29 dB"``.
        columns: Images in a row; by default all up to three, or two when there are four.
        crop: Show only this part of each: (top, left, height, width).
        zoom: Screen pixels per image pixel: a whole number repeats pixels, one over a whole number averages
            blocks. By default the largest at which a row fits the page.
        limits: The values that become black and white, the same in the whole grid; what lies outside is
            clipped.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no image, one has not 1 or 3 channels, or columns, crop, zoom or limits make
            no sense.
    """
    if not pictures:
        raise ValueError("there is no image to show")
    low, high = limits
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"limits must be (low, high) with low < high, got {limits}")
    columns = columns or (2 if len(pictures) == 4 else min(3, len(pictures)))
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")

    shown: list[tuple[str, np.ndarray]] = []
    pairs = [(title, *(given if isinstance(given, tuple) else (given, ""))) for title, given in pictures.items()]
    for title, image, _ in pairs:
        check_image(image, f"the image {title!r}")
        if image.shape[0] not in (1, 3):
            raise ValueError(f"the image {title!r} must have 1 or 3 channels to be shown, got {image.shape[0]}")
    images = [cropped(image, crop) for _, image, _ in pairs]
    factor = _zoom_for(zoom, max(image.shape[2] for image in images), columns)
    for (title, _, caption), image in zip(pairs, images, strict=True):
        levels = _scaled((image.detach().cpu().double() - low) / (high - low), factor).clamp(0, 1)
        per_line = max(8, int(levels.shape[2] / 11))
        lines = textwrap.wrap(title, per_line) + textwrap.wrap(caption, per_line)
        shown.append(("\n".join(lines), levels.expand(3, -1, -1).permute(1, 2, 0).numpy()))
    return _grid(shown, min(columns, len(shown)))


def _grid(shown: list[tuple[str, np.ndarray]], columns: int) -> Figure:
    """Place arrays (height, width, 3) under their titles, pixel for pixel."""
    rows = math.ceil(len(shown) / columns)
    width = max(levels.shape[1] for _, levels in shown)
    height = max(levels.shape[0] for _, levels in shown)
    top = _GAP + _LINE * max(title.count("\n") + 1 if title else 0 for title, _ in shown)
    total_width = columns * (width + _GAP) + _GAP
    total_height = rows * (height + top) + _GAP
    with matplotlib.rc_context({**STYLE, "figure.constrained_layout.use": False}):
        dpi = float(STYLE["figure.dpi"])
        figure = Figure(figsize=(total_width / dpi, total_height / dpi))
        for index, (title, levels) in enumerate(shown):
            row, column = divmod(index, columns)
            left = _GAP + column * (width + _GAP) + (width - levels.shape[1]) // 2
            bottom = total_height - row * (height + top) - top - levels.shape[0]
            axes = figure.add_axes(
                (
                    left / total_width,
                    bottom / total_height,
                    levels.shape[1] / total_width,
                    levels.shape[0] / total_height,
                )
            )
            axes.imshow(levels, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            axes.set_title(title, pad=5, linespacing=1.15)
    return figure
