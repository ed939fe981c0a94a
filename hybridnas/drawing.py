"""A network as a drawing for notebooks: HTML that stands alone, without scripts, on light and on dark pages.

Every block is a slab, as high as its feature map has pixels (on a scale of octaves) and as thick as it has channels;
between the groups stands what joins them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hybridnas.palette import text_on

#: In pixels of the drawing: how high a map of 1 px is and each doubling adds; the thinnest and the thickest slab.
LOWEST, OCTAVE = 12, 11
THIN, THICK = 4.0, 12.0
MOST = 60
GAP, MARGIN, JOINT = 2, 6, 22
#: Of a letter of the labels, about, which are set in 11 px; of a joint's name, in 10.
LETTER, SMALL = 6.4, 5.6
GREY = "#888888"


@dataclass(frozen=True)
class Group:
    """Some blocks of one kind.

    Attributes:
        kind: Their name; empty where there are no blocks.
        count: How many.
        channels: Of the feature map, which has `resolution` pixels a side; None is not known.
        resolution: See `channels`.
        colour: As '#RRGGBB'; None is a part that is no block, in grey.
        joint: What the map before it goes through; empty if nothing.
        stride: Of the joint.
        about: What a reader sees who points at it.
    """

    kind: str
    count: int
    channels: int | None
    resolution: int | None
    colour: str | None = None
    joint: str = ""
    stride: int = 1
    about: str = ""

    @property
    def height(self) -> float:
        """Of its slabs."""
        return LOWEST + OCTAVE * math.log2(self.resolution or 1)

    @property
    def thickness(self) -> float:
        """Of one slab."""
        return min(THICK, max(THIN, 2 * math.log2(self.channels or 1) - 7))

    @property
    def labels(self) -> list[str]:
        """The lines under it, below its name."""
        return [f"{self.channels} ch" if self.channels else "", f"{self.resolution} px" if self.resolution else ""]

    @property
    def name(self) -> str:
        """Its kind, and how often."""
        return f"{self.kind} × {self.count}" if self.colour and self.count else self.kind

    @property
    def body(self) -> float:
        """The breadth of all its slabs; 0 where there are none."""
        return max(0.0, self.drawn * (self.thickness + GAP) - GAP)

    @property
    def drawn(self) -> int:
        """So many slabs, though its name may say more."""
        return min(self.count, MOST)

    @property
    def breadth(self) -> float:
        """Of its slabs, or of its labels where these are wider."""
        return max(self.body, LETTER * max(map(len, self.labels)), LETTER * len(self.name) + 12 * bool(self.colour))


def draw(title: str, subtitle: str, groups: Sequence[Group]) -> str:
    """The groups in a row, under a title; all texts are escaped."""
    middle = 22 + max(group.height for group in groups) / 2
    foot = 2 * middle - 22 + 20
    x, parts = float(MARGIN), []
    end, before = x, groups[0].height
    for group in groups:
        if group is not groups[0]:
            x += max(JOINT, SMALL * len(_joint_name(group)) + 4)
        centre = x + group.breadth / 2
        begin = centre - group.body / 2
        if group is not groups[0]:
            parts.append(_joint(group, (end, begin), middle, before))
        parts.append(_slabs(group, centre, middle, foot))
        x += group.breadth
        end, before = begin + group.body, group.height
    width, height = x + MARGIN, foot + 40
    return (
        '<div style="font-family:system-ui,sans-serif;line-height:1.4;overflow-x:auto">'
        f'<div style="margin:2px 6px"><b>{escape(title)}</b>'
        f'<span style="opacity:.65;font-size:12px;margin-left:10px">{escape(subtitle)}</span></div>'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        'style="max-width:100%;height:auto" role="img" '
        f'aria-label="{escape(title)}" font-size="11" text-anchor="middle" fill="currentColor">{"".join(parts)}</svg>'
        "</div>"
    )


def _slabs(group: Group, x: float, middle: float, foot: float) -> str:
    """A group whose centre is at x, with its labels."""
    step = group.thickness + GAP
    slabs = "".join(
        f'<rect x="{x - group.body / 2 + i * step:.1f}" y="{middle - group.height / 2:.1f}" rx="1.5" '
        f'width="{group.thickness:.1f}" height="{group.height:.1f}" fill="{group.colour or GREY}" '
        'stroke="currentColor" stroke-opacity=".3" stroke-width=".5"/>'
        for i in range(group.drawn)
    )
    if group.colour and group.count:
        breadth = LETTER * len(group.name) + 10
        pill = f'<rect x="{x - breadth / 2:.1f}" y="{foot - 13:.1f}" width="{breadth:.1f}" height="17" rx="8.5"'
        name = f'{pill} fill="{group.colour}"/>{_text(x, foot, group.name, fill=text_on(group.colour))}'
    else:
        name = _text(x, foot, group.name)
    lines = "".join(_text(x, foot + 18 + 14 * i, label, opacity=0.7) for i, label in enumerate(group.labels) if label)
    return f"<g>{f'<title>{escape(group.about)}</title>' if group.about else ''}{slabs}{name}{lines}</g>"


def _joint(group: Group, between: tuple[float, float], middle: float, before: float) -> str:
    """A funnel from the height of the map before to that of this one, under its name."""
    left, right = between[0] + GAP, between[1] - GAP * bool(group.count)
    corners = ((left, -before), (right, -group.height), (right, group.height), (left, before))
    points = " ".join(f"{px:.1f},{middle + py / 2:.1f}" for px, py in corners)
    return (
        f'<polygon points="{points}" opacity="{0.13 if group.joint else 0.05}"/>'
        f"{_text((left + right) / 2, 13, _joint_name(group), opacity=0.7, size=10)}"
    )


def _joint_name(group: Group) -> str:
    return f"{group.joint} ↓{group.stride}" if group.stride > 1 else group.joint


def _text(x: float, y: float, text: str, *, opacity: float = 1, fill: str = "", size: int = 11) -> str:
    style = (f' fill="{fill}"' if fill else "") + (f' opacity="{opacity}"' if opacity < 1 else "")
    style += f' font-size="{size}"' if size != 11 else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}>{escape(text)}</text>' if text else ""
