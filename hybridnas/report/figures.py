"""Drawings of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hybridnas.files import write_atomic
from hybridnas.study.records import front_of
from hybridnas.study.run import Run

#: Paul Tol's bright scheme: told apart by colour-blind readers; the markers tell them apart in grey.
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
MARKERS = "osD^vPX"


def draw_pareto(run: Run, path: Path) -> None:
    """Write the Pareto front of a run as a picture; the file's ending says which kind."""
    matplotlib.use("Agg")
    figure = pareto_figure(run)
    write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=150))


def pareto_figure(run: Run) -> Figure:
    """Accuracy against latency of all trained trials, coloured by layout: a panel for each target.

    Each has the target's own front and budget; with several, the designs of the robust front are ringed.
    """
    targets = run.config.targets or ("the target",)
    figure = Figure(figsize=(1.5 + 7 * len(targets), 5.5), layout="constrained")
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    trained = run.trials[run.trials.status == "complete"]
    for i, (target, axes) in enumerate(zip(targets, panels, strict=True)):
        last = i + 1 == len(targets)
        column = run.latency_column(target) if run.config.targets else "latency_ms_p50"
        _draw_target(axes, run, trained, column)
        if (budget_ms := run.config.budget_on(i)) is not None:
            axes.axvline(budget_ms, color="#222222", lw=1)
            _mark_budget(axes, budget_ms)
        if last:  # once the axes have their limits
            _name_designs(axes, trained[trained.design != ""], column)
        where = f"{target}, {run.config.runtime} {run.config.precision}, batch {run.config.latency_batch_size}"
        axes.set_xlabel(f"latency on {where}, median (ms)")
        axes.grid(alpha=0.25, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("validation accuracy after the short training (%)")
    space = Path(run.config.space).stem if run.config.space else f"the neighbours of {run.config.around}"
    stopped = int((run.trials.status == "pruned").sum())
    figure.suptitle(
        f"{len(trained)} architectures of {space} trained on {Path(run.config.data).stem}"
        + (f", {stopped} more stopped early" if stopped else "")
    )
    panels[-1].legend(title="layout", fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def _draw_target(axes: Axes, run: Run, trained: pd.DataFrame, column: str) -> None:
    for i, (label, group) in enumerate(_by_layout(trained)):
        axes.scatter(
            group[column],
            100 * group.accuracy,
            s=42,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            edgecolors="white",
            linewidths=0.6,
            label=label,
            zorder=3,
        )
    front = front_of(trained, column)
    if len(front):
        axes.plot(
            front[column],
            100 * front.accuracy,
            color="#444444",
            lw=1.2,
            ls="--",
            drawstyle="steps-post",
            label="front",
            zorder=2,
        )
    robust = run.front()
    if len(run.config.targets) > 1 and len(robust):
        _ring(axes, robust[column], robust.accuracy, "robust front", size=95, colour="#AA3377")
    if "winner" in run.result and len(trained):
        _ring(axes, [run.best[column]], [run.best.accuracy], "winner", size=190, colour="black")


def _ring(axes: Axes, latency: Any, accuracy: Any, label: str, *, size: int, colour: str) -> None:
    axes.scatter(
        latency,
        [100 * float(value) for value in accuracy],
        s=size,
        facecolors="none",
        edgecolors=colour,
        linewidths=1.6,
        label=label,
        zorder=4,
    )


def _by_layout(trained: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The most frequent layouts by name, and the rest together: at most as many groups as colours."""
    names = trained.layout.value_counts(sort=True).index.tolist()
    keep = names if len(names) <= len(COLOURS) else names[: len(COLOURS) - 1]
    groups = [("-".join(name) or "no blocks", trained[trained.layout == name]) for name in keep]
    rest = trained[~trained.layout.isin(keep)]
    return [*groups, ("other", rest)] if len(rest) else groups


def _mark_budget(axes: Axes, budget_ms: float) -> None:
    axes.annotate(
        f"budget {budget_ms:g} ms",
        (budget_ms, 0.01),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 2),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="bottom",
        fontsize=8,
    )


def _name_designs(axes: Axes, designs: pd.DataFrame, column: str) -> None:
    """Write the names of the known designs in a column at the right, each joined to its point: none hides another."""
    if designs.empty:
        return
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    axes.set_xlim(left, right + 0.22 * (right - left))
    height = math.inf
    for _, row in designs.sort_values("accuracy", ascending=False).iterrows():
        point = (float(row[column]), 100 * float(row.accuracy))
        height = min(point[1], height - 0.05 * (high - low))
        axes.annotate(
            str(row.design),
            point,
            xytext=(right + 0.04 * (right - left), height),
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.6, "shrinkB": 4},
            zorder=1,
        )
    axes.set_ylim(min(low, height - 0.03 * (high - low)), high)
