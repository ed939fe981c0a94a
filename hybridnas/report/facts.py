"""What the explorer shows of a run, in the types of JSON."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from hybridnas.architecture import Architecture
from hybridnas.errors import RunError, first_clause
from hybridnas.palette import FAMILY_COLOURS
from hybridnas.report.differences import differences
from hybridnas.report.style import COLOURS, layout_groups
from hybridnas.study.records import front_of
from hybridnas.study.run import Run, kept_weights

#: Columns of `Run.trials` that are shown as they are.
SHOWN = "number key status reason layout families design image_size accuracy rung seconds stage_ms".split()
#: What is shown of each target, and the beginning of the column's name.
LATENCIES = {
    "p50": "latency_ms_p50",
    "p95": "latency_ms_p95",
    "low": "latency_ms_low",
    "high": "latency_ms_high",
    "predicted": "predicted_ms",
}
#: Of `proxy.trust.Trust`.
ESTIMATES = ("accuracy", "more_macs", "more_params", "ceiling", "tau", "bias")

#: Stands for the number of a trial in a command: no path holds it.
NUMBER = "\0"

#: What `report.style.MARKERS` are called in plotly.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")


@dataclass(frozen=True)
class Axis:
    """A cost that accuracy is drawn against.

    Attributes:
        name: In a word or two.
        title: In full: two axes with one title and unit show figures that compare, on the same machine.
        unit: 'ms', '×' (times a bound), 'MACs' or 'parameters'.
        column: Of `Run.trials`.
        budget: The upper bound, if there is one.
    """

    name: str
    title: str
    unit: str
    column: str
    budget: float | None


def facts(run: Run, others: Sequence[Run] = ()) -> dict[str, Any]:
    """All that the page shows, in the types of JSON. A trial is named by its place in `trials`."""
    axes = axes_of(run)
    trials, fronts = _trials(run, run.trials, axes, 0), [_front(run, axis) for axis in axes]
    of_others: list[list[list[int]]] = []
    for i, other in enumerate(others, 1):
        same = [_same(axis, run, other) for axis in axes]
        theirs = [_front(other, axis) if axis else [] for axis in same]
        kept = sorted({place for front in theirs for place in front})
        of_others.append([[len(trials) + kept.index(place) for place in front] for front in theirs])
        trials += _trials(other, other.trials.iloc[kept], same, i)
    return {
        "runs": [{"name": each.folder.name, "export": _export(each), "train": _train(each)} for each in (run, *others)],
        "space": Path(run.config.space).stem if run.config.space else f"the neighbours of {run.config.around}",
        "data": Path(run.config.data).stem,
        "accuracy": "balanced accuracy" if run.result.get("balanced") else "accuracy",
        "axes": [
            {
                "name": axis.name,
                "title": axis.title,
                "unit": axis.unit,
                "budget": axis.budget,
                "fronts": [front, *(fronts[i] for fronts in of_others)],
                "changes": _changes(run, front),
            }
            for i, (axis, front) in enumerate(zip(axes, fronts, strict=True))
        ],
        "trials": trials,
        "layouts": _layouts(run.trials),
        "families": FAMILY_COLOURS,
        "winner": _winner(run),
        "baselines": [_baseline(row, axes) for row in run.result.get("baselines") or []],
        "trust": _trust(run.folder),
        "ask_trust": f"hybridnas trust {shlex.quote(str(run.folder))}",
    }


def axes_of(run: Run) -> list[Axis]:
    """Latency on each target, with several the worst of them, multiply-adds, parameters."""
    config, targets = run.config, run.config.targets or ("the target",)
    threads = f"{config.threads} thread{'s' if config.threads != 1 else ''}, " if config.threads else ""
    how = f"{config.runtime} {config.precision}, {threads}batch {config.latency_batch_size}"
    kind = "predicted" if config.frozen_table else "median"
    axes = [
        Axis(
            "latency" if len(targets) == 1 else f"latency on {target}",
            f"{kind} latency on {target}, {how}",
            "ms",
            run.latency_column(target) if config.targets else "latency_ms_p50",
            config.budget_on(i),
        )
        for i, target in enumerate(targets)
    ]
    if len(targets) > 1:
        bound = "its budget" if config.budget_ms else "that of the reference network"
        worst = f"worst latency over {bound}"
        axes.append(Axis("worst latency", worst, "×", "worst_latency", 1.0 if config.budget_ms else None))
    axes.append(Axis("multiply-adds", "multiply-adds", "MACs", "macs", config.budget_macs))
    axes.append(Axis("parameters", "parameters", "parameters", "params", config.budget_params))
    return axes


def _same(axis: Axis, run: Run, other: Run) -> Axis | None:
    """Another run's axis whose figures compare with this one's: milliseconds only if they are of one known machine."""
    ours, theirs = (set(each.trials.machine) - {""} for each in (run, other))
    if axis.unit == "×" or (axis.unit == "ms" and (not ours or ours != theirs)):
        return None
    return next((each for each in axes_of(other) if (each.title, each.unit) == (axis.title, axis.unit)), None)


def _front(run: Run, axis: Axis) -> list[int]:
    """The places in `run.trials` of the front against one cost, cheapest first."""
    place = {number: i for i, number in enumerate(run.trials.number.tolist())}
    return [place[number] for number in front_of(run.trials, axis.column).number.tolist()]


def _changes(run: Run, front: Sequence[int]) -> list[list[list[Any]]]:
    """What each design of a front chose otherwise than the one before it; nothing for the first."""
    designs = [Architecture.from_json(text) for text in run.trials.architecture.iloc[list(front)].tolist()]
    return [[], *([list(found) for found in differences(*pair)] for pair in pairwise(designs))][: len(front)]


def _trials(run: Run, rows: pd.DataFrame, axes: Sequence[Axis | None], index: int) -> list[dict[str, Any]]:
    """Trials as the page has them, `index` being their run's; of an axis that is None nothing is said."""
    columns = {name: _plain(rows, name) for name in SHOWN}
    costs = [_plain(rows, axis.column) if axis else [None] * len(rows) for axis in axes]
    latencies = [_latencies(rows, axis) for axis in axes]
    confirmed = {row["number"]: row for row in run.result.get("confirmed") or []}
    found = []
    for i, text in enumerate(rows.architecture.tolist()):
        trial = {name: values[i] for name, values in columns.items()}
        architecture, rung = Architecture.from_json(text), trial.pop("rung")
        found.append(
            trial
            | {
                "run": index,
                "epochs": _epochs(run, trial["status"], rung),
                "costs": [values[i] for values in costs],
                "latency": [each[i] for each in latencies],
                "confirmed": confirmed.get(trial["number"]),
                "architecture": json.loads(text),
                "resolutions": list(architecture.resolutions),
                "kept": kept_weights(run, trial["number"]) is not None,
                "stage_ms": _milliseconds(run, trial, len(architecture.stages) + 2),
            }
        )
    return found


def _epochs(run: Run, status: str, rung: int | None) -> int | None:
    """For how many a trial was trained; before there were rungs, all that was trained was trained to the end."""
    if run.config.rungs:
        return None if rung is None else run.config.rungs[rung]
    return run.config.epochs if status == "complete" else None


def _latencies(rows: pd.DataFrame, axis: Axis | None) -> Sequence[dict[str, float | None] | None]:
    """Of each trial all that is known on a target; None where the axis is not milliseconds."""
    if axis is None or axis.unit != "ms":
        return [None] * len(rows)
    _, space, target = axis.column.partition(" ")  # the first target's columns have no name behind
    columns = {name: _plain(rows, f"{column}{space}{target}") for name, column in LATENCIES.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(rows: pd.DataFrame, column: str) -> list[Any]:
    """A column's values, in six digits; None where there is none, also where the run is older than the column."""
    if column not in rows:
        return [None] * len(rows)
    values = rows[column].astype(object).tolist()
    return [None if pd.isna(value) else float(f"{value:.6g}") if type(value) is float else value for value in values]


def _milliseconds(run: Run, trial: dict[str, Any], num_parts: int) -> list[float] | None:
    """Of stem, stages and head, where they are known."""
    if not trial["stage_ms"]:
        return None
    try:
        found = [float(text) for text in trial["stage_ms"].split()]
    except ValueError as error:
        raise _damaged(run.folder / "trials.csv", error) from None
    if len(found) != num_parts:
        raise _damaged(run.folder / "trials.csv", f"trial {trial['number']} has {len(found)} stage_ms, not {num_parts}")
    return found


def _layouts(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """The colours and markers of layouts, as in `report.fronts`."""
    groups = layout_groups(trials[trials.status == "complete"].layout)
    return [
        {"layouts": layouts, "name": name, "colour": colour, "symbol": symbol}
        for (name, layouts), colour, symbol in zip(groups, COLOURS, SYMBOLS, strict=False)
    ]


def _winner(run: Run) -> dict[str, Any] | None:
    """What was promised of the exported network."""
    if "winner" not in run.result:
        return None
    return {"trial": run.trials.number.tolist().index(run.result["winner"])} | {
        name: run.result.get(name) for name in ("accuracy", "margin", "seeds", "epochs", "test_accuracy", "targets")
    }


def _baseline(row: dict[str, Any], axes: Sequence[Axis]) -> dict[str, Any]:
    """A known network that was trained as the winner was. The first versions said less."""
    latencies = zip((axis.column for axis in axes if axis.unit == "ms"), row["targets_ms"], strict=False)
    costs = {name: row.get(name) for name in ("macs", "params", "worst_latency")} | dict(latencies)
    return {
        "name": row["name"],
        "kind": row["kind"],
        "layout": row.get("layout", ""),
        "pretrained": row.get("pretrained", False),
        "accuracy": row["accuracy"],
        "seeds": len(row.get("accuracies", [0.0])),
        "test_accuracy": row.get("test_accuracy"),
        "costs": [costs.get(axis.column) for axis in axes],
    }


def _trust(folder: Path) -> dict[str, Any] | None:
    """How far the order of the accuracies may be believed, where that was asked."""
    path = folder / "trust.json"
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_bytes())
        if "trust" not in stored:
            return None  # its trainings have not ended
        trust = stored["trust"]
        estimates = {name: {k: _finite(trust[name][k]) for k in ("value", "low", "high")} for name in ESTIMATES}
        return {
            "verdict": str(stored["verdict"]),
            "epochs": int(stored["epochs"]),
            "networks": int(trust["num_networks"]),
            "pairs": int(trust["num_pairs"]),
            "estimates": estimates,
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _export(run: Run) -> str:
    """The command that exports a trial, with NUMBER for its number."""
    return f"hybridnas export {shlex.quote(str(run.folder))} --trial {NUMBER} --out exported/trial-{NUMBER}"


def _train(run: Run) -> str:
    """The commands that train a trial whose weights are not kept, with NUMBER for its number."""
    written = f"from hybridnas import Run; print(Run.load({str(run.folder)!r}).architecture({NUMBER}).to_json())"
    data = shlex.quote(run.config.data)
    return (
        f"python -c {shlex.quote(written)} > trial-{NUMBER}.json && hybridnas train trial-{NUMBER}.json --data {data}"
    )


def _damaged(path: Path, error: object) -> RunError:
    return RunError(f"{path} is damaged: {first_clause(error) if isinstance(error, Exception) else error}.")
