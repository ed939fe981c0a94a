"""Drawings of a run."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hybridnas.files import write_atomic
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
    """Accuracy against latency of all trained trials, coloured by layout, with the front, the budget and the winner."""
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.subplots()
    trained = run.trials[run.trials.status == "complete"]
    for i, (label, group) in enumerate(_by_layout(trained)):
        axes.scatter(
            group.latency_ms_p50,
            100 * group.accuracy,
            s=42,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            edgecolors="white",
            linewidths=0.6,
            label=label,
            zorder=3,
        )
    front = run.front()
    if len(front):
        axes.plot(
            front.latency_ms_p50,
            100 * front.accuracy,
            color="#444444",
            lw=1.2,
            ls="--",
            drawstyle="steps-post",
            label="front",
            zorder=2,
        )
    if run.config.budget_ms:
        axes.axvline(run.config.budget_ms, color="#222222", lw=1)
        _mark_budget(axes, run.config.budget_ms)
    _name_designs(axes, trained[trained.design != ""])
    if "winner" in run.result and len(trained):
        best = run.best
        axes.scatter(
            [best.latency_ms_p50],
            [100 * best.accuracy],
            s=190,
            facecolors="none",
            edgecolors="black",
            linewidths=1.6,
            label="winner",
            zorder=4,
        )
    target = run.config.target or "the target"
    axes.set_xlabel(f"latency on {target}, batch {run.config.latency_batch_size}, median (ms)")
    axes.set_ylabel("validation accuracy after the short training (%)")
    axes.set_title(f"{len(trained)} trained architectures of {run.config.space} on {Path(run.config.data).stem}")
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="layout", fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


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


def _name_designs(axes: Axes, designs: pd.DataFrame) -> None:
    """Write the names of the known designs in a column at the right, each joined to its point: none hides another."""
    if designs.empty:
        return
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    axes.set_xlim(left, right + 0.22 * (right - left))
    height = math.inf
    for _, row in designs.sort_values("accuracy", ascending=False).iterrows():
        point = (float(row.latency_ms_p50), 100 * float(row.accuracy))
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
