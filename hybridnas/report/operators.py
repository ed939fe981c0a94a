"""Which block family wins in which stage: the question behind CoAtNet's C-C-T-T."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from moocore import pareto_rank
from numpy.typing import NDArray

from hybridnas.architecture import LETTERS
from hybridnas.errors import NotDrawn
from hybridnas.palette import FAMILY_COLOURS
from hybridnas.report.style import GREY, INK, SMALL, WIDTH, Drawn, styled, text_on
from hybridnas.study.run import Run

#: What was tried less often, or is not so many times as good as the next, wins no stage.
LEAST, LEAD = 3, 1.1
#: A family as good as all others stands in the middle of the colours, which end at this many times better and worse.
ENDS = 3.0
KINDS = {"C": "convolution", "T": "attention"}


class Wins(NamedTuple):
    """Of F rows, the families and below them convolution and attention as a whole, and S stages.

    Attributes:
        rows: Names of the rows (F).
        gain: (F, S): see `wins_of`; NaN where it was never tried.
        tried: (F, S): how many designs have the family in the stage.
    """

    rows: list[str]
    gain: NDArray[np.float64]
    tried: NDArray[np.int64]


def ranks(trials: pd.DataFrame) -> NDArray[np.int64]:
    """Of trained trials (N,): 1 on the front of accuracy and latency, 2 on the front of the rest, and so on.

    Accuracies after unlike numbers of epochs cannot be compared: what was stopped at a lower rung ranks behind all that
    went on.
    """
    found = np.zeros(len(trials), np.int64)
    behind = 0
    for rung in sorted(trials.rung.unique(), reverse=True):
        rows = np.flatnonzero(trials.rung == rung)
        part = trials.iloc[rows]
        scores = np.column_stack([-part.accuracy.to_numpy(np.float64), part.worst_latency.to_numpy(np.float64)])
        found[rows] = pareto_rank(scores) + behind + 1
        behind = int(found[rows].max())
    return found


def wins_of(run: Run) -> Wins:
    """How much better than the average of its stage each family does.

    A design on the n-th front weighs 1/n (`ranks`). The gain of a family in a stage is the mean weight of the designs
    that have it there over the mean weight of all that have such a stage: 1 is as good as any, whether it was tried
    once or a hundred times, and 2 says that its designs weigh twice as much. Counted are stages with blocks.

    Raises:
        NotDrawn: nothing was trained.
    """
    trained = run.trials[run.trials.status.isin(["complete", "pruned"])].dropna(subset=["rung", "worst_latency"])
    trained = trained[trained.families != ""]
    if trained.empty:
        raise NotDrawn("no trial was trained")
    weights = 1 / ranks(trained)
    names = [families.split("-") for families in trained.families]
    stages = np.array([*zip_longest(*names, fillvalue="")], object).T  # (N, S)
    seen = [family for family in FAMILY_COLOURS if (stages == family).any()]
    letters = np.vectorize(lambda name: LETTERS.get(name, ""), otypes=[object])(stages)
    kinds = [kind for kind in KINDS if (letters == kind).any()]
    masks = [stages == family for family in seen] + [letters == kind for kind in kinds]
    gain = np.full((len(masks), stages.shape[1]), np.nan)
    tried = np.zeros(gain.shape, np.int64)
    for s in range(stages.shape[1]):
        mean = weights[stages[:, s] != ""].mean()
        for row, mask in enumerate(masks):
            tried[row, s] = mask[:, s].sum()
            if tried[row, s]:
                gain[row, s] = weights[mask[:, s]].mean() / mean
    return Wins([*seen, *(KINDS[kind] for kind in kinds)], gain, tried)


@styled
def operators_figure(run: Run) -> Figure:
    """The gain of each family in each stage as a heat map, and below it that of convolution and attention as a whole.

    The figure in a cell is the gain, and below it stands of how many designs. Framed is what wins a stage: the best of
    what was tried three times or more, if it is a tenth better than the next.

    Raises:
        NotDrawn: as `wins_of`.
    """
    wins = wins_of(run)
    num_rows, num_stages = wins.gain.shape
    num_kinds = sum(row in KINDS.values() for row in wins.rows)
    figure = Drawn(figsize=(WIDTH, 1.35 + 0.42 * num_rows), layout="constrained")
    axes = figure.subplots()
    map_ = matplotlib.colormaps["Blues"]
    y = [row + (0.35 if row >= num_rows - num_kinds else 0.0) for row in range(num_rows)]
    for s in range(num_stages):
        for part in (slice(0, num_rows - num_kinds), slice(num_rows - num_kinds, num_rows)):
            best = _best(wins.gain[part, s], wins.tried[part, s])
            for row in range(num_rows)[part]:
                _draw_cell(axes, s, y[row], wins.gain[row, s], int(wins.tried[row, s]), map_, best == row - part.start)
    axes.set_xlim(-0.5, num_stages - 0.5)
    axes.set_ylim(y[-1] + 0.5, -0.5)
    axes.set_xticks(range(num_stages), [str(s + 1) for s in range(num_stages)])
    axes.set_yticks(y, wins.rows)
    axes.set_xlabel("stage")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, name in enumerate(wins.rows):
        if colour := FAMILY_COLOURS.get(name):
            axes.add_patch(Rectangle((-0.5, y[row] - 0.46), 0.05, 0.92, color=colour, lw=0))
    figure.suptitle("Which family wins in which stage\n(1: as good as the stage's average; n: designs that have it)")
    return figure


def _best(gain: NDArray[np.float64], tried: NDArray[np.int64]) -> int | None:
    """The row that wins a stage, None if there is none."""
    enough = np.flatnonzero(tried >= LEAST)
    if len(enough) < 2:
        return None
    *_, next_, first = enough[np.argsort(gain[enough], kind="stable")]
    return int(first) if gain[first] >= LEAD * gain[next_] else None


def _draw_cell(
    axes: matplotlib.axes.Axes,
    x: float,
    y: float,
    gain: float,
    tried: int,
    map_: matplotlib.colors.Colormap,
    is_best: bool,
) -> None:
    if not tried:
        axes.text(x, y, "–", ha="center", va="center", color=GREY)
        return
    shade = 0.5 + 0.5 * float(np.clip(np.log(max(gain, 1e-9)) / np.log(ENDS), -1, 1))
    edge: dict[str, Any] = {"edgecolor": INK, "lw": 1.8, "zorder": 3} if is_best else {"edgecolor": "white", "lw": 1.5}
    inset = 0.03 if is_best else 0.0
    side = 1 - 2 * inset
    face = map_(0.05 + 0.8 * shade)
    axes.add_patch(Rectangle((x - 0.5 + inset, y - 0.5 + inset), side, side, facecolor=face, **edge))
    colour = text_on(face)
    weight = "bold" if is_best else "normal"
    axes.text(x, y - 0.13, f"{gain:.2f}", ha="center", va="center", color=colour, weight=weight, zorder=4)
    axes.text(x, y + 0.27, f"n = {tried}", ha="center", va="center", color=colour, fontsize=SMALL, zorder=4)
