"""A slider over precomputed pictures that works on a page without a kernel, and its twin for print."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ntkbook.image_files import decode, encode
from ntkbook.pictures import CARD, Picture, check_alt, picture, png, show_images

try:
    import ipywidgets
except ImportError as error:
    raise ImportError("the slider needs ipywidgets: pip install 'ntkbook[book]'") from error

MAX_FRAMES = 25
MAX_FRAME_BYTES = 40_000
MAX_PAGE_BYTES = 1_500_000

Frame = Figure | bytes | Tensor
# The dark theme would write the caption in grey on grey.
_CARD = f"margin:0;padding:8px;width:fit-content;background:{CARD};border-radius:6px"
_CAPTION = "color:#222;font-size:1rem;line-height:1.6;text-align:left;margin:0"
# What each slider of this page weighs. A cell that runs again replaces its own entry.
_weights: dict[tuple[str, str], int] = {}


def _file(frame: Frame) -> bytes:
    """A frame as the bytes of an image file."""
    if isinstance(frame, Figure):
        return png(frame)
    if isinstance(frame, Tensor):
        return encode(frame, "PNG", optimize=True)
    if isinstance(frame, bytes):
        return frame
    kind = type(frame).__name__
    raise TypeError(f"a frame must be a figure, the bytes of a PNG or JPEG file, or a tensor, got {kind}")


def _within_budget(content: bytes, what: str) -> tuple[bytes, str]:
    """A frame and its MIME type, at most MAX_FRAME_BYTES: as it is, else as a JPEG of falling quality."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            kind, pixels = str(image.format), image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{what} is neither a PNG nor a JPEG file") from error
    if len(content) <= MAX_FRAME_BYTES:
        return content, f"image/{kind.lower()}"
    for quality in (90, 80, 70):
        buffer = io.BytesIO()
        pixels.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_FRAME_BYTES:
            return buffer.getvalue(), "image/jpeg"
    raise ValueError(
        f"{what} of {pixels.width} x {pixels.height} pixels takes {buffer.tell():,} bytes as a JPEG "
        f"of quality 70; a frame may take {MAX_FRAME_BYTES:,}, so crop or shrink it"
    )


def _check(frames: Sequence[Frame], values: Sequence[object], label: str) -> None:
    if not 2 <= len(frames) <= MAX_FRAMES:
        raise ValueError(f"a slider takes 2 to {MAX_FRAMES} frames, got {len(frames)}")
    if len(values) != len(frames):
        raise ValueError(f"each frame needs its value: got {len(frames)} frames and {len(values)} values")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"a slider needs a label that names what changes, got {label!r}")


def slider(frames: Sequence[Frame], values: Sequence[object], label: str, alt: str) -> ipywidgets.VBox:
    """A slider that steps through precomputed frames, in a live notebook and on a built page alike.

    No Python runs when the slider moves: a browser-side link ties its position to a stack of pictures. The
    chosen value stands under each frame. A frame above 40 KB is turned into a JPEG, so its grey values are
    then only nearly those of the data; :func:`static_twin` shows them exactly.

    Args:
        frames: 2 to 25 figures, PNG or JPEG files as bytes, or images (channels, height, width) in [0, 1].
        values: The value that belongs to each frame, as it should be printed.
        label: What the values are, for example ``"t"``.
        alt: What a frame shows, in words; ``{value}`` in it stands for the frame's value.

    Returns:
        The widget; as the last line of a cell it is displayed.

    Raises:
        ValueError: If the counts do not agree, a text is blank, a frame cannot be brought under 40 KB, or the
            sliders of this page take more than 1.5 MB together.
        TypeError: If a frame is none of the above.
    """
    _check(frames, values, label)
    check_alt(alt)
    panels, weight = [], 0
    for index, (frame, value) in enumerate(zip(frames, values, strict=True)):
        content, mime_type = _within_budget(_file(frame), f"frame {index} ({label} = {value})")
        image = Picture(content, check_alt(alt.replace("{value}", str(value))), mime_type)
        caption = f"{html.escape(label)} = {html.escape(str(value))}"
        caption = f'<figcaption style="{_CAPTION}">{caption}</figcaption>'
        panel = f'<figure style="{_CARD}">{image.html}{caption}</figure>'
        panels.append(ipywidgets.HTML(panel))
        weight += len(panel)
    others = sum(size for key, size in _weights.items() if key != (label, alt))
    if weight + others > MAX_PAGE_BYTES:
        raise ValueError(
            f"the sliders of this page would take {weight + others:,} bytes, {weight:,} of them this one; "
            f"a page may take {MAX_PAGE_BYTES:,}"
        )
    _weights[label, alt] = weight

    position = ipywidgets.IntSlider(
        value=0,
        min=0,
        max=len(panels) - 1,
        description=label,
        readout=False,  # it would print the frame's number, not its value
        style={"description_width": "initial"},
        layout=ipywidgets.Layout(width="100%", max_width="480px"),
    )
    stack = ipywidgets.Stack(panels, selected_index=0)
    ipywidgets.jslink((position, "value"), (stack, "selected_index"))
    box = ipywidgets.VBox([position, stack])
    box.add_class("ntkbook-slider")
    return box


def static_twin(
    frames: Sequence[Frame], values: Sequence[object], label: str, alt: str, count: int = 4, columns: int = 2
) -> Picture:
    """Some of a slider's frames side by side, for print and for readers who do not move it.

    Args:
        frames: The slider's frames.
        values: Their values.
        label: What the values are.
        alt: What the picture shows, in words.
        count: How many frames, evenly spaced in order, the first and the last included; all of them if there
            are fewer.
        columns: Frames in a row.

    Returns:
        The picture; as the last line of a cell it is displayed.

    Raises:
        ValueError: If the counts do not agree or a text is blank.
        TypeError: If a frame is not one that :func:`slider` takes.
    """
    _check(frames, values, label)
    if not isinstance(count, int) or count < 2:
        raise ValueError(f"a static twin shows at least 2 frames, got {count!r}")
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    panels = {
        f"{label} = {values[index]}": decode(_file(frames[index]), f"frame {index}", torch.float64) for index in chosen
    }
    return picture(show_images(panels, columns=columns), alt)
