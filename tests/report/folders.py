"""Run folders without a search: as many trials as wanted, whose figures follow from their architectures and a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridnas.architecture import LETTERS, Architecture
from hybridnas.config import SearchConfig
from hybridnas.cost.budget import Cost
from hybridnas.space import SearchSpace
from hybridnas.study.objective import Objective
from hybridnas.study.proposals import Proposals
from hybridnas.study.records import TrialRecord, header, line
from hybridnas.study.storage import Storage

RUNGS = (1, 3)
NUM_CLASSES = 16


def size_of(architecture: Architecture) -> float:
    """What makes a made-up network slow and accurate."""
    return sum(stage.depth * stage.width for stage in architecture.stages) / 100


def accuracy_of(architecture: Architecture, epochs: int, luck: float) -> float:
    """Grows with size and epochs; convolution is better in the first half of the stages, attention in the second."""
    stages = [stage for stage in architecture.stages if stage.depth]
    right = [(LETTERS[stage.block] == "T") == (2 * i >= len(stages)) for i, stage in enumerate(stages)]
    size = size_of(architecture)
    found = 0.2 + 0.35 * size / (size + 2) + 0.2 * sum(right) / max(1, len(right)) + 0.03 * epochs + luck
    return min(0.99, max(0.01, found))


def record_of(
    number: int, architecture: Architecture, generator: random.Random, config: SearchConfig, design: str = ""
) -> TrialRecord:
    """A trial that ended the first rung, or was over the budget."""
    costs = []
    for i, target in enumerate(config.targets):
        true = (1 + i) * (0.8 + 1.1 * size_of(architecture))
        predicted = true * generator.gauss(1, 0.04)
        bound = config.budget_on(i)
        if config.frozen_table or (bound is not None and predicted > 1.1 * bound):
            costs.append(Cost(int(2e6 * true), int(9e4 * true), None, None, predicted, target, 1))
            continue
        p50 = true * generator.gauss(1, 0.02)
        found = Cost(int(2e6 * true), int(9e4 * true), p50, 1.2 * p50, predicted, target, 1, 0.96 * p50, 1.05 * p50, 21)
        costs.append(found)
    shares = [
        cost.milliseconds / (1 if len(costs) == 1 else config.budget_on(i) or 1)
        for i, cost in enumerate(costs)
        if cost.milliseconds
    ]
    over = [
        cost
        for i, cost in enumerate(costs)
        if config.budget_on(i) is not None and (cost.milliseconds or 0) > 0.97 * (config.budget_on(i) or 0)
    ]
    macs_over = config.budget_macs is not None and costs[0].macs > config.budget_macs
    accuracies = () if over or macs_over else (accuracy_of(architecture, 1, generator.gauss(0, 0.02)),)
    return TrialRecord(
        number,
        architecture,
        design,
        "pruned" if accuracies else "infeasible",
        "" if accuracies else "over the budget",
        tuple(replace(cost, machine="abacus") for cost in costs),
        accuracies,
        2.0 if accuracies else 0.0,
        number,
        max(shares),
    )


def write_run(
    folder: Path,
    *,
    trials: int = 30,
    seed: int = 0,
    study: bool = False,
    winner: bool = True,
    result: Mapping[str, Any] | None = None,
    fails: Sequence[int] = (),
    **settings: Any,
) -> Path:
    """A run folder of so many trials, a third of them trained to the end.

    Args:
        folder: Where.
        trials: How many.
        seed: Of everything.
        study: Whether its study.db is written, too.
        winner: Whether the search ended.
        result: Added to result.json.
        fails: Numbers of trials that failed.
        settings: Of the search.
    """
    settings = {"space": "tiny", "target": "cpu", "epochs": 3, "rungs": RUNGS, "budget_ms": 12.0, **settings}
    config = SearchConfig(**settings)
    folder.mkdir(parents=True, exist_ok=True)
    space = SearchSpace.load("tiny")
    generator = random.Random(seed)
    designs = [(name, space.design(families, size=0.5)) for name, families in space.layouts().items() if trials > 10]
    records: list[TrialRecord] = []
    for number in range(trials):
        name, architecture = designs[number] if number < len(designs) else ("", None)
        architecture = architecture or space.sample(lambda _, values: generator.choice(values))
        record = record_of(number, architecture, generator, config, name)
        if number in fails:
            record = TrialRecord(**{**vars(record), "status": "failed", "reason": "diverged", "accuracies": ()})
        records.append(TrialRecord(**{**vars(record), "ended": 10.0 * number + generator.random()}))
    first = list(records)
    begun = [record for record in records if record.accuracies]
    for record in sorted(begun, key=lambda each: -each.accuracies[-1])[: -(-len(begun) // 3)]:
        accuracies = tuple(accuracy_of(record.architecture, n, generator.gauss(0, 0.02)) for n in (1, 2, 3))
        whole = {**vars(record), "status": "complete", "rung": 1, "accuracies": accuracies, "seconds": 6.0}
        records[record.number] = TrialRecord(**{**whole, "ended": record.ended + 4})
    if study:
        _write_study(folder, space, first, records)
    (folder / "trials.csv").write_text("".join([header(records[0]), *map(line, records)]))
    (folder / "space.yaml").write_text(space.text)
    machine = {"target": "cpu", "fingerprint": "abacus", "reference_ms": 8.0}
    about = {"targets": [machine], "data_fingerprint": "0123"}
    (folder / "environment.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(config.model_dump_json())
    done = sorted((r for r in records if r.status == "complete"), key=lambda r: -(r.accuracy or 0))
    if winner and done:
        found = [_confirmed(record, generator) for record in done[:5]]
        best = max(found, key=lambda row: row["accuracy"])
        own = {name: best[name] for name in ("accuracy", "margin", "seeds", "epochs", "test_accuracy")}
        ended = {"winner": best["number"], "num_classes": NUM_CLASSES, **own, "targets": [], "confirmed": found}
        (folder / "result.json").write_text(json.dumps({**ended, **(result or {})}))
    return folder


def _confirmed(record: TrialRecord, generator: random.Random) -> dict[str, Any]:
    return {
        "number": record.number,
        "design": record.design,
        "accuracy_in_search": record.accuracy,
        "accuracy": min(0.99, (record.accuracy or 0) + generator.gauss(0.08, 0.01)),
        "margin": 0.02,
        "seeds": 2,
        "epochs": 6,
        "test_accuracy": 0.8,
        "latency_ms_p50": (record.cost.milliseconds or 0) * 1.01,
    }


def _write_study(folder: Path, space: SearchSpace, first: Sequence[TrialRecord], last: Sequence[TrialRecord]) -> None:
    objective = Objective("front")
    proposals = Proposals(space, objective, len(RUNGS), 0)
    storage = Storage(folder, len(RUNGS), objective.directions)
    for record in first:
        storage.studies[0].add_trial(proposals.frozen(record, 0.0))
    for record in last:
        if record.status == "complete":
            storage.studies[1].add_trial(proposals.frozen(record, 0.0))
    storage.close()


BASELINES = [
    {"name": "timm:mobilenetv3_small_050", "kind": "timm", "layout": "", "macs": 9_000_000, "params": 600_000}
    | {
        "latency_ms": 6.5,
        "targets_ms": [6.5],
        "accuracies": [0.66, 0.69],
        "accuracy": 0.675,
        "test_accuracy": 0.66,
        "pretrained": False,
    },
    {"name": "levit_128s", "kind": "zoo", "layout": "TTT", "macs": 16_000_000, "params": 900_000}
    | {
        "latency_ms": 8.0,
        "targets_ms": [8.0],
        "accuracies": [0.84],
        "accuracy": 0.84,
        "test_accuracy": None,
        "pretrained": True,
    },
    {"name": "C-C-T-T", "kind": "seeded", "layout": "CCTT", "macs": 12_000_000, "params": 300_000}
    | {
        "latency_ms": None,
        "targets_ms": [],
        "accuracies": [0.72, 0.75],
        "accuracy": 0.735,
        "test_accuracy": None,
        "pretrained": False,
    },
]
