"""Whether what was said beforehand held: predicted against measured latency, short training against long."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray
from scipy import stats

from hybridnas.errors import NotDrawn
from hybridnas.report.style import COLOURS, GREY, INK, MANY, SMALL, WIDTH, Drawn, name_points, said, styled
from hybridnas.study.run import Run

#: What counts as foreseen.
NEAR = 0.1
LEVEL = 0.95


class Foreseen(NamedTuple):
    """Latencies of N designs on one target, in milliseconds.

    Attributes:
        predicted: (N,), before the design was timed.
        measured: (N,) medians, `low` to `high` their 95 % intervals.
        error: Median of |predicted / measured - 1|.
        near: Share of the designs whose prediction is at most 10 % off.
    """

    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    error: float
    near: float


def foreseen(run: Run, target: str | None = None) -> Foreseen:
    """What the table of parts said of the designs that were then timed on a target; None is the first.

    Raises:
        NotDrawn: none was predicted and timed.
    """
    first = run.config.targets[0] if run.config.targets else ""
    suffix = "" if target in (None, first) else f" {target}"
    names = [f"{name}{suffix}" for name in ("predicted_ms", "latency_ms_p50", "latency_ms_low", "latency_ms_high")]
    found = run.trials.reindex(columns=names).dropna(subset=names[:2])
    if found.empty:
        raise NotDrawn("no design was both predicted and timed")
    predicted, measured, low, high = found.to_numpy(np.float64).T
    off = np.abs(predicted / measured - 1)
    return Foreseen(predicted, measured, low, high, float(np.median(off)), float((off <= NEAR).mean()))


@styled
def latency_figure(run: Run) -> Figure:
    """Predicted against measured milliseconds, with 10 % about the diagonal shaded: a panel for each target.

    Raises:
        NotDrawn: no design was predicted and timed on all targets.
    """
    targets = run.config.targets or ("the target",)
    every = [foreseen(run, target) for target in targets]
    figure = Drawn(figsize=(WIDTH, 0.4 + 3.6 * len(targets)), layout="constrained")
    for target, found, axes in zip(targets, every, figure.subplots(len(targets), 1, squeeze=False)[:, 0], strict=True):
        both = np.concatenate([found.predicted, found.measured])
        ends = np.array([0.93 * both.min(), 1.07 * both.max()])
        axes.fill_between(ends, (1 - NEAR) * ends, (1 + NEAR) * ends, color="#EEEEEE", lw=0, zorder=0)
        axes.plot(ends, ends, color=GREY, lw=1, zorder=1)
        many = len(found.measured) > MANY
        axes.hlines(found.predicted, found.low, found.high, color="#AAAAAA", lw=0.9, zorder=2, rasterized=many)
        points: dict[str, Any] = {"s": 22, "color": COLOURS[0], "edgecolors": "white", "lw": 0.5, "rasterized": many}
        axes.scatter(found.measured, found.predicted, **points, zorder=3)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"measured on {said(target, 26)} (ms)")
        axes.set_ylabel("predicted (ms)")
        _say(
            axes,
            f"{len(found.measured)} designs\nmedian error {100 * found.error:.1f} %\n"
            f"{100 * found.near:.0f} % are within 10 % (shaded)",
        )
    return figure


class Longer(NamedTuple):
    """Designs (N) that were trained again for longer.

    Attributes:
        name: What they are called together.
        numbers: Of the trials.
        short: Accuracy (0..1) in the search (N,).
        long: Mean accuracy over the seeds of the longer training (N,).
        margin: Half its 95 % interval (N,); NaN where nothing says.
    """

    name: str
    numbers: list[int]
    short: NDArray[np.float64]
    long: NDArray[np.float64]
    margin: NDArray[np.float64]

    @property
    def tau(self) -> float:
        """Kendall's tau-b of the two orders; NaN for a single design."""
        return float(stats.kendalltau(self.short, self.long).statistic) if len(self.short) > 1 else float("nan")


def confirmed_of(run: Run) -> Longer | None:
    """The designs that the search confirmed."""
    rows = [row for row in run.trained_longer() if row.get("accuracy_in_search") is not None]
    if not rows:
        return None
    most = max(row.get("seeds", 1) for row in rows)
    return Longer(
        f"confirmed: {rows[0]['epochs']} epochs, {most} {'seed' if most == 1 else 'seeds'}",
        [row["number"] for row in rows],
        np.array([row["accuracy_in_search"] for row in rows], np.float64),
        np.array([row["accuracy"] for row in rows], np.float64),
        np.array([row.get("margin", np.nan) for row in rows], np.float64),
    )


def trusted_of(run: Run) -> tuple[Longer | None, str]:
    """The designs that `hybridnas trust` trained (trust.json), and what it found in one line.

    Raises:
        NotDrawn: the file is damaged.
    """
    path = run.folder / "trust.json"
    if not path.is_file():
        return None, ""
    try:
        stored = json.loads(path.read_bytes())
        seeds = {int(number): [float(a) for a in found.values()] for number, found in stored["accuracies"].items()}
        epochs, trust = int(stored["epochs"]), stored.get("trust")
        line = _verdict(trust) if trust else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotDrawn(f"{path} is damaged: {error}") from None
    known = run.trials[run.trials.status == "complete"].set_index("number").accuracy
    seeds = {number: found for number, found in seeds.items() if found and number in known.index}
    if not seeds:
        return None, line
    most = max(map(len, seeds.values()))
    several = [found for found in seeds.values() if len(found) > 1]
    freedom = sum(len(found) - 1 for found in several)
    # Two or three seeds of one design say little: their spread is pooled over all.
    spread = np.sqrt(sum((len(f) - 1) * np.var(f, ddof=1) for f in several) / freedom) if freedom else np.nan
    quantile = stats.t.ppf((1 + LEVEL) / 2, freedom) if freedom else np.nan
    longer = Longer(
        f"trust: {epochs} epochs, {most} {'seed' if most == 1 else 'seeds'}",
        list(seeds),
        known.loc[list(seeds)].to_numpy(np.float64),
        np.array([np.mean(found) for found in seeds.values()]),
        np.array([quantile * spread / np.sqrt(len(found)) for found in seeds.values()]),
    )
    return longer, line


def _verdict(trust: dict[str, Any]) -> str:
    """Pairs of equal latency that the short training put in the right order, beside what counting would have said."""
    share, macs, params = (float(trust[name]["value"]) for name in ("accuracy", "more_macs", "more_params"))
    low, high = float(trust["accuracy"]["low"]), float(trust["accuracy"]["high"])
    return (
        f"pairs of equal latency in order: {share:.2f} ({low:.2f} to {high:.2f})\n"
        f"by multiply-adds alone {macs:.2f}, by parameters {params:.2f}"
    )


@styled
def proxy_figure(run: Run) -> Figure:
    """Accuracy after the short training against that of longer ones: of the confirmed, and of `hybridnas trust`.

    Raises:
        NotDrawn: nothing was trained longer, or trust.json is damaged.
    """
    trusted, line = trusted_of(run)
    every = [found for found in (confirmed_of(run), trusted) if found]
    if not every:
        raise NotDrawn("no design of the search was trained longer")
    figure = Drawn(figsize=(WIDTH, 3.7), layout="constrained")
    axes = figure.subplots()
    looks = [(COLOURS[0], "o"), (COLOURS[1], "s")] if len(every) > 1 or not trusted else [(COLOURS[1], "s")]
    lines = []
    for found, (colour, marker) in zip(every, looks, strict=False):
        style: dict[str, Any] = {
            "fmt": marker,
            "ms": 5.5,
            "color": colour,
            "mec": "white",
            "mew": 0.5,
            "elinewidth": 0.9,
        }
        margin = 100 * np.nan_to_num(found.margin)
        axes.errorbar(100 * found.short, 100 * found.long, margin, **style, capsize=2, label=found.name, zorder=3)
        count = len(found.short)
        order = f"Kendall's tau {found.tau:.2f}, {count} designs" if count > 1 else "one design, which has no order"
        lines.append(f"{found.name.partition(':')[0]}: {order}")
    axes.set_xlabel(f"accuracy in the search, {run.config.epochs or '?'} epochs (%)")
    axes.set_ylabel("trained longer (%)")
    figure.suptitle("\n".join([*lines, *line.splitlines()]), fontsize=SMALL)
    names = _names(run, every[0])
    name_points(axes, names)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _names(run: Run, found: Longer) -> list[tuple[str, float, float]]:
    designs: pd.Series[Any] = run.trials.set_index("number").design
    return [
        (str(designs.get(number, "")) or f"trial {number}", 100 * float(x), 100 * float(y))
        for number, x, y in zip(found.numbers, found.short, found.long, strict=True)
    ]


def _say(axes: Axes, text: str) -> None:
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=SMALL, color=INK, linespacing=1.4)
