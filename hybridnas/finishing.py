"""The end of a search: confirm the best, export one, time what was exported, and write what is promised of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hybridnas.comparing import trained_before
from hybridnas.cost.budget import Budget, Cost
from hybridnas.cost.latency import Latency, Timer
from hybridnas.cost.measure import timed
from hybridnas.cost.targets import Model
from hybridnas.errors import BudgetError, CannotRun, RunError
from hybridnas.export.bundle import export_bundle
from hybridnas.export.card import write_card
from hybridnas.export.describing import trial_card
from hybridnas.export.onnx import FILE, export_onnx
from hybridnas.export.preprocessing import Preprocessing
from hybridnas.files import write_atomic
from hybridnas.study.confirm import LONGER, Confirmed, confirm, margins
from hybridnas.study.loop import Search, over_budget
from hybridnas.study.records import read_table
from hybridnas.study.run import Run, best_weights, load_network, read_settings

#: How often and how long an exported file is timed, and the seconds between.
SITTINGS, SITTING_S, PAUSE_S = 3, 2.0, 3.0


def finish_run(
    folder: Path, search: Search, seconds_left: Callable[[], float], say: Callable[[str], None], more_s: float = 0.0
) -> None:
    """Export the most accurate design whose exported file, timed on every target, holds the budget.

    Confirming may take `more_s` over what is left, for first trainings alone.

    Raises:
        BudgetError: none does.
        RunError: some cannot be exported, and no other holds the budget.
    """
    passed_over: set[int] = set()
    not_exported: list[CannotRun] = []
    new = folder / ".best"  # until it is seen to hold the budget
    shutil.rmtree(new, ignore_errors=True)
    while True:
        try:
            with search.clock("confirming"):
                confirmed = confirm(search, seconds_left, say, passed_over, more_s)
        except BudgetError:
            shutil.rmtree(new, ignore_errors=True)
            if not not_exported:
                raise
            raise RunError(
                f"{len(not_exported)} of the best designs cannot be exported, and no other holds the budget when timed "
                f"again; the last: {not_exported[-1]}."
            ) from None
        for candidate in confirmed:
            number = candidate.record.number
            try:
                with search.clock("exporting"):
                    latencies = _export(new, candidate, search)
            except CannotRun as problem:
                say(f"trial {number} cannot be exported: {problem}; trying the next")
                passed_over.add(number)
                not_exported.append(problem)
                continue
            costs = tuple(
                timed(cost, latency, cost.predicted_ms)
                for cost, latency in zip(candidate.record.costs, latencies, strict=True)
            )
            if search.budget.surely_held(costs):
                kept = [each for each in confirmed if each.record.number not in passed_over]
                result = _result(folder, candidate, kept, latencies, search)
                _write_card(new, Run(folder, read_settings(folder), read_table(folder / "trials.csv"), result))
                result["files"] = digests(new)
                shutil.rmtree(folder / "best", ignore_errors=True)
                new.rename(folder / "best")
                write_atomic(folder / "result.json", json.dumps(result, indent=2))  # last: it says that all is there
                return
            reason = over_budget(costs, search.budget) or _slow_sitting(costs, search.budget)
            say(f"trial {number}, exported, is over the budget: {reason}; trying the next")
            passed_over.add(number)


def _slow_sitting(costs: Sequence[Cost], budget: Budget) -> str:
    """Where only the slowest sitting is over the budget: which, on the first such target."""
    for i, cost in enumerate(costs):
        bound, high = budget.ms_on(i), cost.latency_ms_high
        if bound and high is not None and high > bound:
            return f"{high:.3g} ms in one of {SITTINGS} sittings on {cost.target}"
    raise AssertionError("all are within")


def is_finished(result: dict[str, Any], folder: Path, search: Search) -> bool:
    """Whether a result is of all that was searched, and its files are what they were; it was killed at the end if not.

    Older runs say neither.
    """
    whole = result.get("files", {}).items() <= digests(folder / "best").items()
    return bool(result) and whole and result.get("covers", covers(search)) == covers(search)


def covers(search: Search) -> list[int]:
    """Tells whether a result is of all that was searched: how many trials there are, and for how long they trained."""
    return [len(search.records), sum(len(record.accuracies) for record in search.records)]


def note_seconds(folder: Path, search: Search, doing: str) -> None:
    """Keep how long something took that was done when the result was written."""
    result = json.loads((folder / "result.json").read_bytes())
    result.setdefault("seconds", {})[doing] = round(search.spent[doing], 1)
    write_atomic(folder / "result.json", json.dumps(result, indent=2))


def digests(bundle: Path) -> dict[str, str]:
    """SHA-256 of the files of a bundle, by name."""
    files = [path for path in sorted(bundle.glob("*")) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _export(best: Path, candidate: Confirmed, search: Search) -> list[Latency]:
    """Write the files and time them, read back from disk, on every target."""
    trainer, timers = search.trainer, search.costing.timers
    assert candidate.model
    model = candidate.model.cpu()
    setting, size = timers[0].setting, model.architecture.image_size
    names = trainer.dataset.class_names
    export_bundle(model, best, Preprocessing.of(size, trainer.mean.tolist(), trainer.std.tolist(), names))
    if setting.takes_file:
        export_onnx(model, best, setting)
        return [_time_file(timer, best / FILE, size) for timer in timers]
    (best / FILE).unlink(missing_ok=True)  # of a design that was passed over
    deployed = load_network(best, trainer.dataset.num_classes).deploy()
    return [_time_file(timer, deployed, size) for timer in timers]


def _time_file(timer: Timer, model: Model, image_size: int) -> Latency:
    return timer.measure_apart(model, image_size, sittings=SITTINGS, seconds=SITTING_S, pause=PAUSE_S)


def _result(
    folder: Path, winner: Confirmed, confirmed: list[Confirmed], latencies: list[Latency], search: Search
) -> dict[str, Any]:
    dataset = search.trainer.dataset
    targets = [
        {
            "target": cost.target,
            "runtime": cost.runtime,
            "precision": cost.precision,
            "budget_ms": search.budget.ms_on(i),
            "predicted_ms": cost.predicted_ms,
            "latency_ms_p50": latency.p50,
            "latency_ms_low": latency.low,
            "latency_ms_high": latency.high,
            "latency_ms_p95": latency.p95,
            "latency_ms_raw_p50": latency.raw_p50,
            "num_samples": latency.num_samples,
            "reference_ms": timer.reference_ms,
        }
        for i, (cost, latency, timer) in enumerate(
            zip(winner.record.costs, latencies, search.costing.timers, strict=True)
        )
    ]
    found = _confirmed(winner, confirmed, search)
    own = next(row for row in found if row["number"] == winner.record.number)
    return {
        "winner": winner.record.number,
        "covers": covers(search),
        "num_classes": dataset.num_classes,
        "targets": targets,
        "balanced": not dataset.is_balanced,
        **{name: own[name] for name in ("accuracy", "margin", "seeds", "epochs", "test_accuracy")},
        "confirmed": found,
        "baselines": trained_before(folder),
        "seconds": {doing: round(seconds, 1) for doing, seconds in search.spent.items()},
    }


def _write_card(bundle: Path, run: Run) -> None:
    number = run.result["winner"]
    card = trial_card(run, number, best_weights(run.folder))
    write_card(card, bundle, run.architecture(number), Preprocessing.read(bundle))


def _confirmed(winner: Confirmed, confirmed: list[Confirmed], search: Search) -> list[dict[str, Any]]:
    """What is known of each that was confirmed; the test images are shown to the winner and the known designs alone."""
    trainer = search.trainer
    rows = []
    for each, margin in zip(confirmed, margins(confirmed, trainer.dataset.num_weighed), strict=True):
        row: dict[str, Any] = {
            "number": each.record.number,
            "design": each.record.design,
            "accuracy_in_search": each.record.accuracy if each.record.status == "complete" else None,
            "accuracy": each.accuracy,
            "accuracies": each.accuracies,  # of the longer trainings, by seed
            "margin": margin,
            "seeds": max(1, len(each.accuracies)),
            "epochs": search.recipe.epochs * (LONGER if each.longer else 1),
            "latency_ms_p50": each.costs[0].latency_ms_p50,
            "targets_ms": [cost.latency_ms_p50 for cost in each.costs],
            "worst_latency": search.budget.worst_latency(each.costs, search.costing.reference_ms),
        }
        if each is winner or each.record.design:
            assert each.model
            size = each.record.architecture.image_size
            with search.clock("confirming"):
                row["test_accuracy"] = trainer.evaluate(each.model.to(trainer.device), "test", image_size=size)
        rows.append(row)
    return rows
