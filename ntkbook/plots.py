"""The figures of the book: grids of images, maps, PSNR along the iterations, tables, sliders.

Each function returns a figure; a chapter ends a cell with ``plots.show(figure, alt="...")``. The style and
the grid of images live in :mod:`ntkbook.pictures`, the slider in :mod:`ntkbook.sliders`; both can be used
from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ntkbook.image_files import check_image
from ntkbook.pictures import COLOURS, STYLE, Picture, picture, show, show_images, use_style
from ntkbook.sliders import slider, static_twin

__all__ = [
    "COLOURS",
    "STYLE",
    "Picture",
    "heat",
    "picture",
    "psnr_curve",
    "show",
    "show_images",
    "slider",
    "static_twin",
    "table",
    "use_style",
    "with_spread",
]

_DASHES = ("-", "--", "-.", ":")


def heat(
    maps: Mapping[str, Tensor],
    label: str,
    signed: bool = True,
    over: Tensor | None = None,
    columns: int | None = None,
) -> Figure:
    """Maps such as filter weights or eigenimages, on one colour scale with one colour bar.

    Args:
        maps: From a title to a map (height, width).
        label: What the colours mean, with the unit; it stands at the colour bar.
        signed: True for a diverging scale that is symmetric about 0 (white), False for one that starts at 0.
        over: An image (channels, height, width) in [0, 1] to lay the maps over: it shows in grey where a map
            is small.
        columns: Maps in a row; by default all up to three, or two when there are four.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no map, one is not (height, width) and finite, an unsigned one is negative, or
            ``over`` has another size.
    """
    if not maps:
        raise ValueError("there is no map to show")
    arrays = {}
    for title, values in maps.items():
        if not isinstance(values, Tensor) or values.ndim != 2:
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"the map {title!r} must be a tensor (height, width), got {shape}")
        check_image(values[None], f"the map {title!r}")
        if not signed and values.min() < 0:
            lowest = values.min().item()
            raise ValueError(f"the map {title!r} has negative values down to {lowest:.3g}: use signed=True")
        if over is not None and values.shape != check_image(over, "the image under the maps").shape[1:]:
            size = tuple(over.shape[1:])
            raise ValueError(f"the map {title!r} has shape {tuple(values.shape)}, the image under it {size}")
        arrays[title] = values.detach().cpu().double().numpy()
    limit = max(float(np.abs(array).max()) for array in arrays.values()) or 1.0
    columns = columns or (2 if len(arrays) == 4 else min(3, len(arrays)))
    rows = math.ceil(len(arrays) / columns)
    height, width = next(iter(arrays.values())).shape
    panel = 5.6 / columns
    with matplotlib.rc_context(STYLE):
        size = (6.4, max(1.8, rows * (panel * height / width + 0.5) + 1.1))
        figure = Figure(figsize=size, layout="compressed")
        grid = figure.subplots(rows, columns, squeeze=False)
        scale = matplotlib.colors.Normalize(-limit if signed else 0, limit)
        colours = matplotlib.colormaps["RdBu_r" if signed else "viridis"]
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
            axes.spines[:].set_color("#bbbbbb")
            axes.grid(False)
        for axes in grid.flat[len(arrays) :]:
            axes.set_axis_off()
        for axes, (title, array) in zip(grid.flat, arrays.items(), strict=False):
            if over is None:
                axes.imshow(array, cmap=colours, norm=scale)
            else:
                grey = over.detach().cpu().double().mean(0).clamp(0, 1).numpy()
                axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
                axes.imshow(array, cmap=colours, norm=scale, alpha=np.sqrt(np.abs(array) / limit))
            axes.set_title(title)
        bar = matplotlib.cm.ScalarMappable(scale, colours)
        figure.colorbar(bar, ax=list(grid.flat), label=label, location="bottom", fraction=0.06, aspect=30)
    return figure


def psnr_curve(
    curves: Mapping[str, tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]],
    references: Mapping[str, float] | None = None,
    xlabel: str = "iteration",
) -> Figure:
    """PSNR along the iterations on a logarithmic axis, the best point of each curve marked.

    Args:
        curves: From a name to (iterations, PSNR in dB), each of one length; iterations are at least 0.
        references: Horizontal lines: from a name, such as the noisy image's, to a PSNR in dB.
        xlabel: What the horizontal axis counts.

    Returns:
        The figure; the legend gives each best PSNR and where it is reached.

    Raises:
        ValueError: If there is no curve, lengths differ, iterations are negative, or a PSNR is not finite.
    """
    if not curves:
        raise ValueError("there is no curve to draw")
    lines = {}
    for name, (iterations, values) in curves.items():
        x, y = (torch.as_tensor(part).detach().cpu().double().numpy() for part in (iterations, values))
        if x.ndim != 1 or x.shape != y.shape or x.size == 0:
            raise ValueError(f"the curve {name!r} has iterations of shape {x.shape} and PSNR of shape {y.shape}")
        if not np.isfinite(y).all() or not np.isfinite(x).all() or x.min() < 0:
            raise ValueError(f"the curve {name!r} needs finite PSNR values and iterations of at least 0")
        lines[name] = (x, y)
    with matplotlib.rc_context(STYLE):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        for index, (name, (x, y)) in enumerate(lines.items()):
            best = int(y.argmax())
            described = f"{name}: {y[best]:.2f} dB at {x[best]:.6g}"
            (line,) = axes.plot(x, y, linestyle=_DASHES[index % len(_DASHES)], label=described)
            axes.plot(x[best], y[best], "o", color=line.get_color(), markersize=8)
        for index, (name, level) in enumerate((references or {}).items()):
            style = ((0, (1, 2)), (0, (6, 3)), (0, (3, 2, 1, 2)))[index % 3]
            described = f"{name}: {level:.2f} dB"
            axes.axhline(level, color="#777777", linewidth=1.5, linestyle=style, label=described)
        if any(x.min() < 1 for x, _ in lines.values()):
            axes.set_xscale("symlog", linthresh=1)  # a logarithm has no room for iteration 0
            axes.set_xlim(left=0)
        else:
            axes.set_xscale("log")
        axes.set(xlabel=xlabel, ylabel="PSNR (dB)")
        figure.legend(loc="outside lower center", ncols=1 if len(axes.lines) < 6 else 2)
    return figure


def with_spread(mean: float, spread: float, digits: int = 2) -> str:
    """A number with its spread, such as ``28.29 ± 0.02``.

    Args:
        mean: The number.
        spread: Its standard error or deviation; say in the text which. At least 0.
        digits: Digits after the point.

    Returns:
        The text; a value that is not finite is written as ``missing``.

    Raises:
        ValueError: If the spread is negative.
    """
    if spread < 0:
        raise ValueError(f"a spread must be at least 0, got {spread}")
    if not math.isfinite(mean):
        return "missing"
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if math.isfinite(spread) else "")


@dataclass(frozen=True)
class Table:
    """A table ready for the page; see :func:`table`."""

    html: str
    text: str

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}


def table(frame: pd.DataFrame, digits: int = 2, index: bool = False, caption: str = "") -> Table:
    """A data frame as a plain table that scrolls sideways on a narrow screen.

    Args:
        frame: The data; what is not there is written as ``missing``.
        digits: Digits after the point of floating-point numbers.
        index: Whether to show the index.
        caption: A line above the table.

    Returns:
        The table; as the last line of a cell it is displayed.

    Raises:
        TypeError: If it is not a data frame.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"a table is made from a pandas.DataFrame, got {type(frame).__name__}")

    def number(value: float) -> str:
        return f"{value:.{digits}f}"

    kind = "dataframe ntkbook-table"
    body = frame.to_html(index=index, border=0, na_rep="missing", float_format=number, classes=kind, justify="left")
    if caption:
        head, tail = body.split("\n", 1)
        escaped = caption.replace("&", "&amp;").replace("<", "&lt;")
        body = f'{head}\n  <caption style="caption-side:top">{escaped}</caption>\n{tail}'
    text = frame.to_string(index=index, na_rep="missing", float_format=number)
    return Table(f'<div style="overflow-x:auto">{body}</div>', f"{caption}\n{text}" if caption else text)
