"""Searches as curves: how much was found against what was spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from numpy.typing import NDArray

from hybridnas.report.style import COLOURS, DASHES, INK, WIDTH, Drawn, label, styled


class Curve(NamedTuple):
    """A mean over searches, and half its interval: arrays of one length (N,)."""

    name: str
    x: NDArray[Any]
    mean: NDArray[Any]
    margin: NDArray[Any]


@styled
def curves_figure(curves: Sequence[Curve], *, x: str, y: str, all_of_it: float | None = None) -> Figure:
    """All in one panel, each with its band, and a line at what can be found at most."""
    figure = Drawn(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(curve.x, curve.mean, color=colour, ls=DASHES[i % len(DASHES)], lw=1.8, label=label(curve.name))
        axes.fill_between(curve.x, curve.mean - curve.margin, curve.mean + curve.margin, color=colour, alpha=0.15, lw=0)
    if all_of_it is not None:
        axes.axhline(all_of_it, color=INK, lw=0.8, ls=":")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")
    return figure
