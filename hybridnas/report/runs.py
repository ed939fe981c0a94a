"""Several runs on one front, where they can be compared at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from hybridnas.errors import RunError
from hybridnas.pareto import front, hypervolume
from hybridnas.report.style import COLOURS, DASHES, MARKERS, PALE, WIDTH, Drawn, label, mark_bound, said, styled
from hybridnas.study.run import Run

#: Settings of the training that accuracies depend on.
TRAINING = ("epochs", "train_images", "image_size", "batch_size", "flip", "seed")


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: By the name that each is called here.
        by_latency: Whether their milliseconds can be compared; else multiply-adds are.
        notes: What a reader should know, a sentence each.
        trials: All that was trained to the end, with the columns `run`, `cost` (milliseconds on the first target, or
            multiply-adds) and `on_joint_front`.
    """

    runs: dict[str, Run]
    by_latency: bool
    notes: tuple[str, ...]
    trials: pd.DataFrame

    @property
    def joint_front(self) -> pd.DataFrame:
        """What no design of any run beats, cheapest first."""
        return self.trials[self.trials.on_joint_front].sort_values("cost")


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Put runs on one front.

    Raises:
        RunError: they were trained on different data, or one has no trained trial.
    """
    names = _names(runs)
    for run in runs:
        check_trained(run)
    first, *others = runs
    for other in others:
        if other.config.data != first.config.data and _data(other) != _data(first):
            raise RunError(
                f"{first.folder} and {other.folder} cannot be compared: one was trained on {first.config.data}, the "
                f"other on {other.config.data}."
            )
    notes = _unlike(dict(zip(names, runs, strict=True)))
    by_latency = len({_timing(run) for run in runs}) == 1
    if not by_latency:
        notes.insert(
            0,
            "Milliseconds of different devices, runtimes or settings cannot be compared, so multiply-adds are: "
            + "; ".join(f"{name}: {_about_timing(run)}" for name, run in zip(names, runs, strict=True))
            + ".",
        )
    parts = []
    for name, run in zip(names, runs, strict=True):
        done = run.trials[run.trials.status == "complete"]
        column = run.latency_column(run.config.targets[0]) if run.config.targets else "latency_ms_p50"
        cost = done[column if by_latency else "macs"].astype("float64")
        parts.append(done.assign(run=name, cost=cost))
    trials = pd.concat(parts, ignore_index=True)
    joint = front(trials.accuracy.tolist(), trials.cost.tolist())
    trials = trials.assign(on_joint_front=trials.index.isin(joint))
    return Comparison(dict(zip(names, runs, strict=True)), by_latency, tuple(notes), trials)


def check_trained(run: Run) -> None:
    """Refuse a run that has nothing to show.

    Raises:
        RunError: no trial was trained to the end.
    """
    if not (run.trials.status == "complete").any():
        counts = run.trials.status.value_counts()
        words = {"pruned": "stopped at a rung", "infeasible": "over the budget", "failed": "failed"}
        found = ", ".join(f"{counts[name]} {word}" for name, word in words.items() if counts.get(name))
        raise RunError(f"{run.folder} has no trial that was trained to the end{f' ({found})' if found else ''}.")


def _names(runs: Sequence[Run]) -> list[str]:
    """Of the folders, or where two are called alike their whole paths."""
    short = [run.folder.resolve().name for run in runs]
    whole = [str(run.folder.resolve()) for run in runs]
    if twice := next((path for path in whole if whole.count(path) > 1), None):
        raise RunError(f"{twice} is named twice; name different runs.")
    return short if len(set(short)) == len(short) else whole


def _environment(run: Run) -> dict[str, Any]:
    try:
        found = json.loads((run.folder / "environment.json").read_bytes())
    except (OSError, ValueError):
        return {}  # what it would say of the data, config.json says, too
    return found if isinstance(found, dict) else {}


def _data(run: Run) -> object:
    """The digest of the images; of its own kind where it is not known."""
    return _environment(run).get("data_fingerprint") or object()


def _timing(run: Run) -> tuple[object, ...]:
    """What milliseconds depend on; a machine that an older version did not name is like no other."""
    config = run.config
    machines = (frozenset(run.trials.machine) - {""}) or object()
    return config.targets, config.runtime, config.precision, config.latency_batch_size, config.frozen_table, machines


def _about_timing(run: Run) -> str:
    config = run.config
    machines = "/".join(sorted(set(run.trials.machine) - {""})) or "unknown machine"
    table = ", from the table" if config.frozen_table else ""
    targets = " and ".join(map(said, config.targets))
    return f"{targets} ({machines}), {config.runtime} {config.precision}, batch {config.latency_batch_size}{table}"


def _unlike(runs: dict[str, Run]) -> list[str]:
    """What in the trainings differs, in one sentence."""
    settings = {name: {run_name: getattr(run.config, name) for run_name, run in runs.items()} for name in TRAINING}
    differ = [
        f"--{name.replace('_', '-')} {', '.join(str(value) for value in values.values())}"
        for name, values in settings.items()
        if len(set(values.values())) > 1
    ]
    return [f"Accuracies are of unlike trainings: {'; '.join(differ)}."] if differ else []


@styled
def runs_figure(comparison: Comparison) -> Figure:
    """Each run's trained designs and front in its own colour, and the front of all behind them."""
    figure = Drawn(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    unit = 1.0 if comparison.by_latency else 1e6
    joint = comparison.joint_front
    style: dict[str, Any] = {
        "color": "#CFCFCF",
        "lw": 5,
        "drawstyle": "steps-post",
        "solid_capstyle": "round",
        "zorder": 1,
    }
    axes.plot(joint.cost / unit, 100 * joint.accuracy, **style, label="joint front")
    for i, name in enumerate(comparison.runs):
        own = comparison.trials[comparison.trials.run == name]
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        axes.scatter(own.cost / unit, 100 * own.accuracy, s=14, color=colour, marker=marker, alpha=0.45, lw=0, zorder=2)
        best = own.iloc[front(own.accuracy.tolist(), own.cost.tolist())]
        axes.plot(
            best.cost / unit,
            100 * best.accuracy,
            color=colour,
            marker=marker,
            ms=5.5,
            mec="white",
            mew=0.5,
            ls=DASHES[i % len(DASHES)],
            lw=1.4,
            drawstyle="steps-post",
            label=label(name),
            zorder=3,
        )
    config = next(iter(comparison.runs.values())).config
    budgets = set(_budgets(comparison))
    if len(budgets) == 1 and (budget := budgets.pop()) is not None:
        mark_bound(axes, budget / unit, f"budget {budget / unit:.4g} {'ms' if comparison.by_latency else 'M'}")
    where = f"{said(config.targets[0], 22) if config.targets else 'the target'}, {config.runtime} {config.precision}"
    axes.set_xlabel(
        f"latency on {where}, batch {config.latency_batch_size} (ms)"
        if comparison.by_latency
        else "multiply-adds of one image (millions)"
    )
    axes.set_ylabel("validation accuracy, short training (%)")
    axes.grid(color=PALE)
    longest = max(map(len, comparison.runs), default=0)
    figure.legend(loc="outside lower center", ncols=3 if longest < 18 else 2)
    return figure


def _budgets(comparison: Comparison) -> list[float | None]:
    """Of each run, for what is compared."""
    configs = [run.config for run in comparison.runs.values()]
    return [config.budget_on(0) if comparison.by_latency else config.budget_macs for config in configs]


def runs_table(comparison: Comparison) -> Table:
    """A run a line: what it found, and its share in the joint front."""
    table = Table(title="Runs on one front", title_justify="left")
    table.add_column("run", overflow="fold")
    for name in ("trained", "best", "winner confirmed", "on its front", "on the joint front", "hypervolume"):
        table.add_column(name, justify="right")
    worst = _worst(comparison)
    for name, run in comparison.runs.items():
        own = comparison.trials[comparison.trials.run == name]
        volume = hypervolume(own.accuracy.tolist(), own.cost.tolist(), worst_cost=worst) / worst
        table.add_row(
            Text(said(name)),
            str(len(own)),
            f"{100 * own.accuracy.max():.1f} %",
            _winner(run),
            str(len(front(own.accuracy.tolist(), own.cost.tolist()))),
            str(int(own.on_joint_front.sum())),
            f"{100 * volume:.1f} %",
        )
    cost = f"{worst:.4g} ms" if comparison.by_latency else f"{worst / 1e6:.4g} M multiply-adds"
    table.caption = f"hypervolume of short trainings: 100 % would be accuracy 1 at no cost; up to {cost}"
    return table


def _worst(comparison: Comparison) -> float:
    """The largest budget, where all have one; else the largest cost of all."""
    budgets = _budgets(comparison)
    known = [budget for budget in budgets if budget is not None]
    return float(max(known) if len(known) == len(budgets) else comparison.trials.cost.max())


def _winner(run: Run) -> str:
    if "accuracy" not in run.result:
        return "-"
    margin = f" +- {100 * run.result['margin']:.1f}" if "margin" in run.result else ""
    return f"{100 * run.result['accuracy']:.1f}{margin} %"
