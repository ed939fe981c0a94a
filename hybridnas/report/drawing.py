"""An architecture as a picture: its stages as blocks coloured by family."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from hybridnas.architecture import Architecture, Value
from hybridnas.errors import NotDrawn
from hybridnas.palette import FAMILY_COLOURS
from hybridnas.report.style import GREY, INK, PALE, SMALL, WIDTH, Drawn, styled, text_on
from hybridnas.study.run import Run

#: In inches: a box, the joint above it, and what is left above and below all.
ROW, GAP, TOP, BOTTOM = 0.68, 0.2, 0.55, 0.2
#: Where the boxes begin and how wide the widest is, as shares of the figure's width; and the least share of that.
LEFT, MOST, LEAST = 0.15, 0.60, 0.55
#: Of the options in a box: how many lines, and how wide a letter is in inches.
NUM_LINES, LETTER = 2, 0.066


class Part(NamedTuple):
    """One row of the picture.

    Attributes:
        name: What it is.
        depth: Number of blocks; 0 for a stem, a head, or a transition alone.
        resolution: Of its map, None where there is none any more.
        width: Channels.
        details: Its options in words.
        joint: The transition before it, in words; empty for a stem and a head.
        family: Of its blocks, or empty.
    """

    name: str
    depth: int
    resolution: int | None
    width: int | None
    details: str
    joint: str
    family: str


def parts_of(architecture: Architecture) -> list[Part]:
    """Stem, stages and head, in the order in which an image passes them."""
    stem, (resolution, *others) = architecture.stem, architecture.resolutions
    found = [Part(f"stem {stem.type}", 0, resolution, stem.width, _said(stem.options), "", "")]
    for stage, resolution in zip(architecture.stages, others, strict=True):
        joint = "" if stage.transition.type == "none" else stage.transition.type
        if stage.transition.stride > 1:
            joint = f"{joint} /{stage.transition.stride}".strip()
        name, family = (stage.block, stage.block) if stage.depth else ("no blocks", "")
        details = _said(stage.options) if stage.depth else ""
        found.append(Part(name, stage.depth, resolution, stage.width, details, joint, family))
    head = architecture.head
    return [*found, Part(f"head {head.type}", 0, None, None, _said(head.options), "", "")]


def _said(options: Mapping[str, Value]) -> str:
    """'kernel 3, expand 4, se'; what is switched off is left out."""
    words = [
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
        for name, value in options.items()
        if value is not False
    ]
    return ", ".join(words)


@styled
def draw_architecture(architecture: Architecture, stage_ms: Sequence[float] | None = None, title: str = "") -> Figure:
    """Stem, stages and head from top to bottom, each with its resolution, width, depth and options.

    A stage is as wide as its blocks are many, and split into them; its colour is its family's.

    Args:
        architecture: Any.
        stage_ms: Milliseconds of the stem, each stage and the head, whose shares are drawn beside them, or None.
        title: Above it; else the layout and the image size.

    Raises:
        ValueError: there are not as many milliseconds as parts.
    """
    parts = parts_of(architecture)
    if stage_ms is not None and len(stage_ms) != len(parts):
        raise ValueError(f"stage_ms must have {len(parts)} values, of the stem, all stages and the head: {stage_ms}")
    shown = bool(stage_ms) and sum(stage_ms or ()) > 0
    height = TOP + (BOTTOM if shown else 0.0) + (ROW + GAP) * len(parts)
    figure = Drawn(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    size = architecture.image_size
    layout = "-".join(architecture.layout) or "no blocks"
    axes.text(WIDTH / 2, 0.2, title or f"{layout}, {size} x {size} px", ha="center", va="center", fontsize=10)
    deepest = max(1, *(part.depth for part in parts))
    for i, part in enumerate(parts):
        y = TOP + i * (ROW + GAP)
        _draw_part(axes, part, y, deepest)
        if stage_ms and shown:
            _draw_share(axes, y, stage_ms[i], sum(stage_ms), max(stage_ms))
    if stage_ms and shown:
        style: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "va": "center"}
        axes.text((LEFT + MOST + 0.03) * WIDTH, TOP - 0.15, "share of latency", **style)
        axes.text(LEFT * WIDTH, height - BOTTOM, f"{sum(stage_ms):.3g} ms in all", **style)
    return figure


def _draw_part(axes: Axes, part: Part, y: float, deepest: int) -> None:
    """The box in the middle, resolution and width at its left, and the joint above it."""
    left = LEFT * WIDTH
    share = LEAST + (1 - LEAST) * (part.depth / deepest if part.depth else 0.0)
    width = MOST * WIDTH * share
    face = FAMILY_COLOURS.get(part.family, PALE)
    colour = text_on(face)
    axes.add_patch(
        FancyBboxPatch((left, y), width, ROW, boxstyle="round,pad=0,rounding_size=0.06", facecolor=face, lw=0)
    )
    for block in range(1, part.depth):  # the blocks of a stage
        x = left + width * block / part.depth
        axes.plot([x, x], [y + ROW - 0.07, y + ROW], color=colour, lw=0.8, alpha=0.8)
    count = f"{part.depth} × " if part.depth else ""
    details = textwrap.wrap(part.details, int((width - 0.18) / LETTER), max_lines=NUM_LINES, placeholder=" …")
    middle = y + ROW / 2 - 0.085 * len(details)
    axes.text(left + 0.09, middle, f"{count}{part.name}", color=colour, va="center", weight="bold")
    for i, line in enumerate(details):
        axes.text(left + 0.09, middle + 0.185 + 0.135 * i, line, color=colour, va="center", fontsize=SMALL)
    if part.resolution is not None:
        axes.text(left - 0.08, y + 0.24, f"{part.resolution} x {part.resolution}", ha="right", va="center")
        axes.text(left - 0.08, y + 0.45, f"{part.width} ch", ha="right", va="center", fontsize=SMALL, color=GREY)
    if y > TOP:
        x = left + 0.16
        axes.annotate(
            "", (x, y - 0.01), (x, y - GAP + 0.01), arrowprops={"arrowstyle": "-|>", "color": GREY, "lw": 0.9}
        )
        axes.text(x + 0.1, y - GAP / 2, part.joint, va="center", fontsize=SMALL, color=INK)


def _draw_share(axes: Axes, y: float, ms: float, total: float, most: float) -> None:
    """A bar at the right: this part's share of the latency."""
    left, room = (LEFT + MOST + 0.03) * WIDTH, (1 - LEFT - MOST - 0.13) * WIDTH
    length = room * max(0.0, ms) / most
    axes.barh(y + ROW / 2, length, left=left, height=0.2, color=GREY)
    axes.text(left + length + 0.05, y + ROW / 2, f"{100 * ms / total:.0f} %", va="center", fontsize=SMALL)


@styled
def architecture_figure(run: Run, number: int | None = None) -> Figure:
    """The architecture of a trial: None is the winner, or while there is none the most accurate design of the front.

    Raises:
        NotDrawn: no trial was trained to the end.
        RunError: no trial has that number.
    """
    if number is None:
        front = run.front()
        if front.empty:
            raise NotDrawn("no trial was trained to the end")
        number = int(run.result.get("winner", front.number.iloc[-1]))
    architecture = run.architecture(number)
    row = run.trials[run.trials.number == number].iloc[0]
    won = number == run.result.get("winner")
    share = run.result["accuracy"] if won else row.accuracy
    accuracy = "" if pd.isna(share) else f", {100 * share:.1f} %"
    ms = row.predicted_ms if pd.isna(row.latency_ms_p50) else row.latency_ms_p50
    latency = "" if pd.isna(ms) else f" at {ms:.3g} ms"
    name = "winner, trial" if won else "trial"
    return draw_architecture(architecture, stage_ms_of(row), f"{name} {number}{accuracy}{latency}")


def stage_ms_of(row: pd.Series[Any]) -> list[float] | None:
    """The milliseconds of stem, stages and head of a trial's row; None where they are not known."""
    text = row.get("stage_ms")
    if not isinstance(text, str) or not re.fullmatch(r"[\d.e+-]+( [\d.e+-]+)*", text.strip()):
        return None
    found = [float(part) for part in text.split()]
    stages = len(Architecture.from_json(str(row.architecture)).stages)
    return found if len(found) == stages + 2 else None
