"""How all figures look: small enough that their letters are still read where a figure is half a page wide."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from hybridnas.files import write_atomic
from hybridnas.palette import luminance

#: Paul Tol's bright scheme: told apart by colour-blind readers; markers and dashes tell them apart in grey.
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
MARKERS = "osD^vPX"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
INK, GREY, PALE = "#222222", "#777777", "#E4E4E4"

#: Inches: printed 8.5 cm wide, letters of 9 points are 5.8, and the smallest 5.1; journals take none below 5.
WIDTH = 5.2
SMALL = 8.0
DPI = 200

#: More points than that are one picture within an SVG.
MANY = 2000

STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "figure.titlesize": 10.0,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # a name with $ in it is a name
    "svg.fonttype": "path",  # looks alike where the font is not installed
    "svg.hashsalt": "hybridnas",  # one run gives one file, byte by byte
}

#: A decorator: what a function draws, it draws so, whatever the reader's own settings are.
styled = matplotlib.rc_context(cast(Any, STYLE))


def said(text: object, limit: int = 40) -> str:
    """A name that somebody gave, on one line and no longer than `limit`; the middle of a longer one is left out.

    >>> said("command:/opt/very/long/path/to/on_phone.sh {model} --loud", 24)
    'command:/opt…odel} --loud'
    """
    words = " ".join(str(text).split())
    half = limit // 2
    return words if len(words) <= limit else f"{words[:half]}…{words[-half:]}"


def label(text: object) -> str:
    """`said`, for a legend: matplotlib leaves out what begins with an underscore."""
    words = said(text)
    return f" {words}" if words.startswith("_") else words


def text_on(face: Any) -> str:
    """The colour of letters on a colour: whichever has more contrast (WCAG 2.2, relative luminance)."""
    light = luminance(to_hex(face)) + 0.05
    return "white" if 1.05 / light > light / (luminance(INK) + 0.05) else INK


class Drawn(Figure):
    """A figure that a notebook shows, whether or not it was told `%matplotlib inline`."""

    @styled
    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The file, and the pixels that it takes on a page."""
        found = io.BytesIO()
        self.savefig(found, format="png", dpi=DPI)
        width, height = (int(DPI / 2 * inches) for inches in self.get_size_inches())
        return found.getvalue(), {"width": width, "height": height}


@styled
def save(figure: Figure, *paths: Path) -> None:
    """Write a figure to files, whose endings say which kind each is.

    Raises:
        DiskFullError: there is no room for one; the old file is as it was.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that the font lacks is shown as boxes
        if layout := figure.get_layout_engine():
            layout.execute(figure)  # once for all files
            figure.set_layout_engine("none")
        for path in paths:
            figure.dpi = DPI  # an SVG leaves another behind
            write_atomic(path, partial(WRITERS[path.suffix], figure))


def _write_png(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(path)  # `savefig` goes through all texts once more, which takes as long


def _write_svg(figure: Figure, path: Path) -> None:
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


WRITERS = {".png": _write_png, ".svg": _write_svg}


def mark_bound(axes: Axes, at: float, text: str) -> None:
    """A vertical line at a bound, with its name along it."""
    axes.axvline(at, color=INK, lw=1)
    axes.annotate(
        text,
        (at, 0.01),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 2),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="bottom",
        fontsize=SMALL,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        zorder=5,
    )


def name_points(axes: Axes, names: Sequence[tuple[str, float, float]]) -> None:
    """Write names (name, x, y) in a column right of the axes, each joined to its point: none hides another."""
    low, high = axes.get_ylim()
    figure = cast(Figure, axes.figure)
    inches = 0.65 * figure.get_size_inches()[1] / len(figure.axes)  # of the axes' height, as it will be
    line = (high - low) * (SMALL + 1.5) / 72 / inches
    ordered = sorted(names, key=lambda each: -each[2])
    heights: list[float] = []
    for _, _, y in ordered:
        heights.append(min(y, (heights[-1] if heights else high + line / 2) - line))
    floor = low  # a column that runs out below is pushed up from there
    for i in reversed(range(len(heights))):
        heights[i] = max(heights[i], floor)
        floor = heights[i] + line
    for (name, x, y), height in zip(ordered, heights, strict=True):
        axes.annotate(
            said(name, 24),
            (x, y),
            xytext=(1.025, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=SMALL,
            arrowprops={"arrowstyle": "-", "color": "#BBBBBB", "lw": 0.5, "shrinkA": 1, "shrinkB": 4},
            zorder=1,
        )


def layout_groups(layouts: pd.Series[str]) -> list[tuple[str, list[str]]]:
    """The most frequent layouts by name, and the rest together: at most as many groups as colours."""
    names = layouts.value_counts().index.tolist()
    keep = names if len(names) <= len(COLOURS) else names[: len(COLOURS) - 1]
    groups = [("-".join(name) or "no blocks", [name]) for name in keep]
    return groups if len(keep) == len(names) else [*groups, ("other", names[len(keep) :])]
