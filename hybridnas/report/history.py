"""A search against time: what was trained, the best so far, the hypervolume of the front, and what was not trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hybridnas.errors import NotDrawn
from hybridnas.pareto import hypervolume
from hybridnas.report.style import COLOURS, GREY, INK, SMALL, WIDTH, Drawn, styled
from hybridnas.study.run import Run

#: Longer than so many seconds a search is told in minutes, and longer than so many in hours.
MINUTES, HOURS = 600.0, 3 * 3600.0


class History(NamedTuple):
    """Of N trials that were trained to the end, in the order in which they ended.

    Attributes:
        seconds: When each ended (N,), in seconds of the search.
        best: The best accuracy (0..1) so far (N,).
        hypervolume: Of the front so far (N,), as a share of the whole box: accuracy from `floor` to 1, latency from 0
            to `worst`.
        floor: Chance, or 0 where the number of classes is not known.
        worst: The budget; where there is none, the largest latency of these trials. In milliseconds, or with several
            targets in budgets, or where these have none in times of the reference network.
    """

    seconds: NDArray[np.float64]
    best: NDArray[np.float64]
    hypervolume: NDArray[np.float64]
    floor: float
    worst: float


def history_of(run: Run) -> History:
    """How much a search had found when.

    Raises:
        NotDrawn: nothing was trained to the end, or the run is of a version that did not say when.
    """
    done = run.trials[run.trials.status == "complete"].dropna(subset=["ended"]).sort_values(["ended", "number"])
    if done.empty:
        raise NotDrawn("no trial that was trained to the end says when")
    classes = run.result.get("num_classes")
    floor = 1 / classes if classes else 0.0
    bound = run.config.budget_on(0) if len(run.config.targets) < 2 else 1.0 if run.config.budget_ms else None
    worst = float(bound if bound is not None else done.worst_latency.max())
    gain = (done.accuracy.to_numpy(np.float64) - floor).clip(0)
    latency = done.worst_latency.to_numpy(np.float64)
    return History(
        done.ended.to_numpy(np.float64),
        np.maximum.accumulate(done.accuracy.to_numpy(np.float64)),
        np.array(_volumes(gain.tolist(), latency.tolist(), worst)) / (worst * (1 - floor)),
        floor,
        worst,
    )


def _volumes(gain: Sequence[float], latency: Sequence[float], worst: float) -> list[float]:
    """The hypervolume of the first, the first two, and so on, of so many points."""
    found: list[float] = []
    front: list[tuple[float, float]] = []
    volume = 0.0
    for new, at in zip(gain, latency, strict=True):
        if not any(height >= new and cost <= at for height, cost in front):  # else the front stays as it is
            front = [*((height, cost) for height, cost in front if height > new or cost < at), (new, at)]
            volume = hypervolume(*zip(*front, strict=True), worst_cost=worst)
        found.append(volume)
    return found


@styled
def history_figure(run: Run) -> Figure:
    """Accuracy of each trial and the best so far; hypervolume; and a strip of what was never trained, all against time.

    Raises:
        NotDrawn: as `history_of`.
    """
    history = history_of(run)
    figure = Drawn(figsize=(WIDTH, 4.6), layout="constrained")
    top, middle, strip = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 0.8])
    last = float(run.trials.ended.max())
    unit, scale = ("s", 1.0) if last <= MINUTES else ("min", 60.0) if last <= HOURS else ("h", 3600.0)
    _draw_accuracy(top, run, scale)
    _draw_so_far(top, history.seconds, history.best, last, scale, label="best so far")
    top.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, borderaxespad=0.2)
    _draw_so_far(middle, history.seconds, history.hypervolume, last, scale)
    middle.set_ylabel("hypervolume (%)")
    middle.set_ylim(bottom=0)
    _draw_strip(strip, run.trials, scale)
    strip.set_xlabel(f"time of the search ({unit})")
    strip.set_xlim(0, 1.02 * last / scale)
    for axes in (top, middle):
        axes.yaxis.set_major_locator(MaxNLocator(5))
    figure.align_ylabels([top, middle])
    floor = f"chance ({100 * history.floor:.3g} %)" if history.floor else "accuracy 0"
    unit_of_worst, gap = "ms", " "
    if len(run.config.targets) > 1:
        unit_of_worst, gap = "budgets" if run.config.budget_ms else "times the reference network", "\n"
    bound = f"{history.worst:.3g} {unit_of_worst}"
    middle.text(
        0.99,
        0.05,
        f"100 % would be all above {floor},{gap}below {bound}",
        transform=middle.transAxes,
        ha="right",
        fontsize=SMALL,
        color=GREY,
    )
    return figure


def _draw_accuracy(axes: Axes, run: Run, scale: float) -> None:
    trials = run.trials
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "pruned": ("stopped at a rung", {"facecolors": "none", "edgecolors": COLOURS[4], "s": 14}),
        "complete": ("trained to the end", {"color": COLOURS[0], "s": 20, "zorder": 3}),
    }
    for status, (name, style) in kinds.items():
        part = trials[trials.status == status]
        if len(part):
            axes.scatter(part.ended / scale, 100 * part.accuracy, label=f"{name} ({len(part)})", **style)
    axes.set_ylabel("accuracy (%)")


def _draw_so_far(
    axes: Axes, seconds: NDArray[np.float64], share: NDArray[np.float64], last: float, scale: float, label: str = ""
) -> None:
    """A step at each change, the last up to the end of the search."""
    x, y = np.append(seconds, last) / scale, 100 * np.append(share, share[-1])
    axes.step(x, y, where="post", color=INK, lw=1.4, label=label)


def _draw_strip(axes: Axes, trials: pd.DataFrame, scale: float) -> None:
    """When trials were found over the budget, and when some failed."""
    names = []
    for row, (status, name) in enumerate({"failed": "failed", "infeasible": "over budget"}.items()):
        part = trials[trials.status == status]
        axes.plot(part.ended / scale, [row] * len(part), ls="", marker="|", ms=8, mew=0.9, color=COLOURS[5])
        names.append(f"{name} ({len(part)})")
    axes.set_yticks([0, 1], names)
    axes.set_ylim(-0.6, 1.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
