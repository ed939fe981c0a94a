"""What is kept of a trial, and the table of all trials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from hybridnas.architecture import Architecture
from hybridnas.cost.measure import Cost
from hybridnas.pareto import front

Status = Literal["complete", "pruned", "infeasible", "failed"]

COLUMNS = (
    "number key design rung status reason layout families image_size macs params latency_ms_p50 latency_ms_p95 "
    "predicted_ms accuracy seconds seed target batch_size architecture"
).split()


@dataclass(frozen=True)
class TrialRecord:
    """One proposed architecture and all that was learnt of it.

    `design` names the known layout that it is, or is empty. `accuracies` holds the validation accuracy after each
    epoch; it is empty unless the trial was trained. `reason` says why a trial is infeasible or failed.
    """

    number: int
    architecture: Architecture
    design: str
    status: Status
    reason: str
    cost: Cost | None
    accuracies: tuple[float, ...]
    seconds: float
    seed: int

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy at the end of training, 0..1."""
        return self.accuracies[-1] if self.accuracies else None

    def to_json(self) -> str:
        """One line of JSON."""
        fields = asdict(self)
        fields["architecture"] = json.loads(self.architecture.to_json())
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> TrialRecord:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        fields["architecture"] = Architecture.from_json(json.dumps(fields["architecture"]))
        fields["cost"] = Cost(**fields["cost"]) if fields["cost"] else None
        fields["accuracies"] = tuple(fields["accuracies"])
        return cls(**fields)

    def row(self) -> dict[str, Any]:
        """The trial as a row of trials.csv."""
        cost = asdict(self.cost) if self.cost else {}
        return {
            **cost,
            "number": self.number,
            "key": self.architecture.key,
            "design": self.design,
            "rung": 0 if self.accuracies else None,
            "status": self.status,
            "reason": self.reason,
            "layout": self.architecture.layout,
            "families": self.architecture.families,
            "image_size": self.architecture.image_size,
            "accuracy": self.accuracy,
            "seconds": round(self.seconds, 3),
            "seed": self.seed,
            "architecture": self.architecture.to_json(indent=None),
        }


def table(records: Sequence[TrialRecord]) -> pd.DataFrame:
    """All trials, one a row, in the columns of trials.csv."""
    return typed(pd.DataFrame([record.row() for record in records], columns=COLUMNS))


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table with whole numbers, texts and missing values in their own types, also when it has no rows."""
    whole = {name: "Int64" for name in ("number", "rung", "image_size", "macs", "params", "seed", "batch_size")}
    real = ("latency_ms_p50", "latency_ms_p95", "predicted_ms", "accuracy", "seconds")
    kinds = whole | {name: "float64" for name in real}
    words = [name for name in COLUMNS if name not in kinds]
    frame = frame.astype(kinds | {name: "string" for name in words})
    frame[words] = frame[words].fillna("")  # an empty cell of the file
    return frame


def front_of(trials: pd.DataFrame) -> pd.DataFrame:
    """The trained trials that no other beats in both accuracy and latency, fastest first.

    A trial is trained only within the budget, so all of them hold it.
    """
    done = trials[trials.status == "complete"]
    return done.iloc[front(done.accuracy.tolist(), done.latency_ms_p50.tolist())]
