"""The Pareto front of a run: accuracy against latency, and against multiply-adds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hybridnas.report.style import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    WIDTH,
    Drawn,
    label,
    layout_groups,
    mark_bound,
    name_points,
    said,
    styled,
)
from hybridnas.study.records import front_of
from hybridnas.study.run import Run

#: Of baselines: what was taken from timm or the zoo, and known layouts of the space itself.
BASELINE_MARKERS = {"seeded": "P", "zoo": "X", "timm": "*"}
CONFIRMED, BASELINE, ROBUST = "#000000", "#222222", "#AA3377"


@styled
def pareto_figure(run: Run) -> Figure:
    """Accuracy against latency of all that was trained to the end, by layout; a panel for each target.

    Each has the target's own front and budget. Thin bars are 95 % intervals: of latency, and of the accuracy of what
    was confirmed, which is joined to its short training. With several targets the robust front is ringed.
    """
    targets = run.config.targets or ("the target",)
    figure, panels = _panels(len(targets))
    for i, (target, axes) in enumerate(zip(targets, panels, strict=True)):
        column = run.latency_column(target) if run.config.targets else "latency_ms_p50"
        suffix = f" {target}" if i else ""
        intervals = (f"latency_ms_low{suffix}", f"latency_ms_high{suffix}")
        budget = run.config.budget_on(i)
        _draw(axes, run, column, intervals, budget, f"budget {budget:g} ms" if budget else "", target=i)
        how = "latency from the table" if run.config.frozen_table else "median latency"
        where = (
            f"{said(target, 22)}, {run.config.runtime} {run.config.precision}, batch {run.config.latency_batch_size}"
        )
        axes.set_xlabel(f"{how} on {where} (ms)")
    _finish(figure, panels, run)
    return figure


@styled
def macs_figure(run: Run) -> Figure:
    """Accuracy against the multiply-adds of one image, as `pareto_figure`."""
    figure, (axes,) = _panels(1)
    trained = run.trials[run.trials.status == "complete"]
    large = bool(len(trained)) and trained.macs.max() >= 1e9
    unit = 1e9 if large else 1e6
    name = "G" if large else "M"
    budget = run.config.budget_macs
    _draw(axes, run, "macs", (), budget, f"budget {(budget or 0) / unit:.3g} {name}", target=0, unit=unit)
    axes.set_xlabel(f"multiply-adds of one image ({'billions' if large else 'millions'})")
    _finish(figure, [axes], run)
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Drawn(figsize=(WIDTH, 1.3 + 3.1 * count), layout="constrained")
    return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])


def _draw(
    axes: Axes,
    run: Run,
    column: str,
    intervals: tuple[str, ...],
    budget: float | None,
    budget_text: str,
    *,
    target: int,
    unit: float = 1.0,
) -> None:
    """One panel; `target` is the place of the run's target; of the first the confirmed have latencies, too."""
    trained = run.trials[run.trials.status == "complete"]
    trained = trained.assign(x=trained[column].astype("float64") / unit, y=100 * trained.accuracy)
    for i, (name, group) in enumerate(_by_layout(trained)):
        axes.scatter(
            group.x,
            group.y,
            s=34,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            edgecolors="white",
            linewidths=0.6,
            label=label(name),
            zorder=3,
        )
    front = front_of(trained, "x")
    if len(front):
        style: dict[str, Any] = {"color": "#444444", "lw": 1.2, "ls": "--", "drawstyle": "steps-post"}
        axes.plot(front.x, front.y, **style, label=f"front after {_epochs(run.config.epochs)}", zorder=2)
    if len(intervals) == 2 and trained.reindex(columns=[*intervals]).notna().any(axis=None):
        thin: dict[str, Any] = {"color": "#8C8C8C", "lw": 0.9, "label": "95 % interval", "zorder": 1}
        axes.hlines(trained.y, trained[intervals[0]], trained[intervals[1]], **thin)
    if len(run.config.targets) > 1:
        robust = trained[trained.number.isin(run.front().number)]
        _ring(axes, robust.x, robust.y, "robust front", size=80, colour=ROBUST)
    confirmed = _draw_confirmed(axes, run, trained, latency=not target and column != "macs")
    if "winner" in run.result:
        number = run.result["winner"]
        won = trained[trained.number == number]
        where = confirmed.get(number) or (won.x.iloc[0], won.y.iloc[0]) if len(won) or number in confirmed else None
        if where:
            _ring(axes, [where[0]], [where[1]], "winner", size=150, colour=INK)
    names = _draw_baselines(axes, run, None if column == "macs" else target, unit)
    if budget is not None:
        mark_bound(axes, budget / unit, budget_text)
    taken = {name for name, _, _ in names}
    known = trained[(trained.design != "") & ~trained.design.isin(taken)]
    names += [(str(row.design), float(row.x), float(row.y)) for _, row in known.iterrows()]
    name_points(axes, [each for each in names if math.isfinite(each[1]) and math.isfinite(each[2])])


def _draw_confirmed(axes: Axes, run: Run, trained: pd.DataFrame, *, latency: bool) -> dict[int, tuple[float, float]]:
    """What was trained longer: its mean accuracy with the interval, joined to its short training. Where each stands."""
    found: dict[int, tuple[float, float]] = {}
    for row in run.result.get("confirmed", []):
        own = trained[trained.number == row["number"]]
        short = None if own.empty else (float(own.x.iloc[0]), float(own.y.iloc[0]))
        measured = row.get("latency_ms_p50") if latency and not run.config.frozen_table else None
        x = measured if measured is not None else short[0] if short else None
        if x is None:
            continue
        y = 100 * row["accuracy"]
        found[row["number"]] = (x, y)
        if short:
            axes.plot([short[0], x], [short[1], y], color=GREY, lw=0.7, ls=":", zorder=1)
        style: dict[str, Any] = {
            "fmt": "d",
            "ms": 5,
            "mfc": "white",
            "mec": CONFIRMED,
            "ecolor": CONFIRMED,
            "elinewidth": 0.9,
        }
        axes.errorbar(x, y, 100 * row.get("margin", 0.0), **style, capsize=2, zorder=4, label=_confirmed_label(row))
    return found


def _confirmed_label(row: dict[str, Any]) -> str:
    seeds = row.get("seeds", 1)
    return f"confirmed, {_epochs(row.get('epochs'))}" + (f", {seeds} seeds" if seeds > 1 else "")


def _epochs(count: int | None) -> str:
    return f"{count or '?'} {'epoch' if count == 1 else 'epochs'}"


def _draw_baselines(axes: Axes, run: Run, target: int | None, unit: float) -> list[tuple[str, float, float]]:
    """Known designs that were trained beside the confirmed, with the range of their seeds; their names and places.

    Against the milliseconds on a target, or where that is None against multiply-adds.
    """
    found = []
    confirmed = {row.get("design") for row in run.result.get("confirmed", [])}
    for row in run.result.get("baselines") or []:
        if row.get("kind") == "seeded" and row["name"] in confirmed:  # drawn already
            continue
        x = row.get("macs") if target is None else dict(enumerate(row["targets_ms"])).get(target)
        accuracies = row.get("accuracies") or [row.get("accuracy")]
        if x is None or row.get("accuracy") is None:
            continue
        x, y = x / unit, 100 * row["accuracy"]
        marker = BASELINE_MARKERS.get(row.get("kind", ""), "X")
        axes.vlines(x, 100 * min(accuracies), 100 * max(accuracies), color=BASELINE, lw=0.9, zorder=3)
        which = {"seeded": "known layout", "zoo": "zoo", "timm": "timm"}.get(row.get("kind", ""), "baseline")
        name = f"{which}, from its weights" if row.get("pretrained") else f"{which}, same training"
        face = "white" if row.get("pretrained") else BASELINE
        axes.scatter(
            x, y, s=70 if marker == "*" else 42, marker=marker, color=face, edgecolors=BASELINE, label=name, zorder=4
        )
        found.append((str(row["name"]), x, y))
    return found


def _finish(figure: Figure, panels: list[Axes], run: Run) -> None:
    """Title, axis and one legend below for all panels, each entry once."""
    for axes in panels:
        axes.set_ylabel("validation accuracy (%)")
    entries = dict(reversed([(text, handle) for axes in panels for handle, text in zip(*_legend(axes), strict=True)]))
    columns = 4 if max(map(len, entries), default=0) <= 14 else 3
    figure.legend(
        [*reversed(entries.values())], [*reversed(entries)], loc="outside lower center", ncols=columns, markerscale=0.9
    )
    figure.suptitle(title_of(run))


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(handles), list(labels)


def title_of(run: Run) -> str:
    """What was searched on what, and below how many were only begun."""
    space = Path(run.config.space).stem if run.config.space else f"the neighbours of {run.config.around}"
    counts = run.trials.status.value_counts()
    words = {"pruned": "stopped at a rung", "infeasible": "over the budget", "failed": "failed"}
    others = [f"{counts[name]} {word}" for name, word in words.items() if counts.get(name)]
    count = counts.get("complete", 0)
    trained = f"{count} architecture{'' if count == 1 else 's'} of {said(space, 24)} trained on"
    name = said(Path(run.config.data).stem, 24)
    return f"{trained} {name}" + (f"\n(and {', '.join(others)})" if others else "")


def _ring(axes: Axes, x: Any, y: Any, name: str, *, size: int, colour: str) -> None:
    axes.scatter(x, y, s=size, facecolors="none", edgecolors=colour, linewidths=1.4, label=name, zorder=5)


def _by_layout(trained: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The trials of each group of layouts."""
    return [(name, trained[trained.layout.isin(layouts)]) for name, layouts in layout_groups(trained.layout)]
