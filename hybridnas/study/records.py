"""What is kept of a trial, and the table of all trials (trials.csv)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from pydantic import ConfigDict, TypeAdapter, ValidationError

from hybridnas.architecture import Architecture
from hybridnas.cost.budget import Cost
from hybridnas.errors import first_invalid
from hybridnas.pareto import front

Status = Literal["complete", "pruned", "infeasible", "failed"]

COLUMNS = (
    "number key design rung status reason layout families image_size macs params latency_ms_p50 latency_ms_p95 "
    "latency_ms_low latency_ms_high num_samples predicted_ms stage_ms worst_latency accuracy seconds ended seed target "
    "runtime precision batch_size machine architecture"
).split()

#: Those without which a table says nothing; what an older version did not write of the others is missing.
NEEDED = ("number", "key", "status", "layout", "macs", "params", "latency_ms_p50", "accuracy", "architecture")

#: Columns of whole numbers.
WHOLE = ("number", "rung", "image_size", "macs", "params", "seed", "batch_size", "num_samples")

#: What a run with several targets says of each but the first, in columns called 'latency_ms_p50 TARGET' and so on.
OF_EACH = ("latency_ms_p50", "latency_ms_p95", "latency_ms_low", "latency_ms_high", "num_samples", "predicted_ms")


@dataclass(frozen=True)
class TrialRecord:
    """One proposed architecture and all that was learnt of it.

    `design` names the known layout that it is, or is empty. `costs` has one cost a target, in the run's order;
    `worst_latency` is the one figure of them all that the search minimises (`Budget.worst_latency`). `accuracies`
    holds the validation accuracy after each epoch; it is empty unless the trial was trained. An infeasible trial has
    some, too, if only being timed for the next rung showed it over the budget. `rung` is the one that was tried last,
    counted from 0; after all but the last `status` is pruned until the trial goes on. `ended` says when, in seconds of
    the search, its pauses left out. `reason` says why a trial is infeasible or failed.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    number: int
    architecture: Architecture
    design: str
    status: Status
    reason: str
    costs: tuple[Cost, ...]
    accuracies: tuple[float, ...]
    seconds: float
    seed: int
    worst_latency: float | None = None
    rung: int = 0
    ended: float = 0.0

    @property
    def cost(self) -> Cost:
        """On the first target."""
        return self.costs[0]

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy at the last rung that it ended, 0..1."""
        return self.accuracies[-1] if self.accuracies else None

    @property
    def was_begun(self) -> bool:
        """Whether its training began, however that ended."""
        return bool(self.accuracies) or (self.status == "failed" and self.cost.milliseconds is not None)

    def to_json(self) -> str:
        """One line of JSON."""
        fields = asdict(self)
        fields["architecture"] = json.loads(self.architecture.to_json())
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> TrialRecord:
        """Read what `to_json` wrote.

        Raises:
            ValueError: something else did.
        """
        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            raise ValueError(first_invalid(error)) from None

    def row(self) -> dict[str, Any]:
        """The trial as a row of trials.csv."""
        others = {f"{name} {cost.target}": getattr(cost, name) for cost in self.costs[1:] for name in OF_EACH}
        return {
            **asdict(self.cost),
            **others,
            "stage_ms": " ".join(map(str, self.cost.stage_ms)),
            "number": self.number,
            "key": self.architecture.key,
            "design": self.design,
            "rung": self.rung if self.accuracies else None,
            "status": self.status,
            "reason": self.reason,
            "layout": self.architecture.layout,
            "families": self.architecture.families,
            "image_size": self.architecture.image_size,
            "worst_latency": self.worst_latency,
            "accuracy": self.accuracy,
            "seconds": round(self.seconds, 3),
            "ended": round(self.ended, 1),
            "seed": self.seed,
            "architecture": self.architecture.to_json(indent=None),
        }


@cache  # takes 10 ms to make
def _adapter() -> TypeAdapter[TrialRecord]:
    return TypeAdapter(TrialRecord)


def header(record: TrialRecord) -> str:
    """The first line of trials.csv."""
    return _line([*COLUMNS, *(name for name in record.row() if name not in COLUMNS)])


def line(record: TrialRecord) -> str:
    """A trial's line of trials.csv."""
    row = record.row()
    return _line([*(row[name] for name in COLUMNS), *(value for name, value in row.items() if name not in COLUMNS)])


def _line(values: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def read_table(path: Path) -> pd.DataFrame:
    """The trials of a trials.csv, in today's columns; none where there is no such file.

    Raises:
        ValueError: it is not whole.
    """
    if not path.is_file():
        return typed(pd.DataFrame(columns=COLUMNS))
    # As text, or a key of digits alone would be a number, and a reason that reads 'None' would be none.
    found = pd.read_csv(path, dtype="string", keep_default_na=False, na_values=[""])
    if lacking := [name for name in NEEDED if name not in found]:
        raise ValueError(f"it lacks the column {lacking[0]}")
    if "worst_latency" not in found:  # which versions did not write that had one target
        found["worst_latency"] = found["latency_ms_p50"]
    for name in set(found.columns) & set(WHOLE):  # some versions wrote whole numbers as 1.0
        found[name] = pd.to_numeric(found[name])
    others = [name for name in found.columns if name not in COLUMNS]
    trials = typed(found.reindex(columns=[*COLUMNS, *others]))
    complete = trials.status == "complete"
    whole = trials.number.notna() & trials.status.isin(get_args(Status)) & trials.architecture.str.endswith("}")
    whole &= ~complete | (trials.accuracy.notna() & trials.worst_latency.notna())
    if not whole.all():
        raise ValueError(f"line {2 + int(whole.argmin())} is not whole")
    if trials.number.duplicated().any():
        raise ValueError(f"trial {trials.number[trials.number.duplicated()].iloc[0]} stands in it twice")
    return trials


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table with whole numbers, texts and missing values in their own types, also when it has no rows."""
    kinds: dict[str, Any] = {name: "Int64" for name in WHOLE}
    others = [name for name in frame.columns if name not in COLUMNS]
    kinds |= {
        name: "float64"
        for name in (*OF_EACH, "worst_latency", "accuracy", "seconds", "ended", *others)
        if name not in WHOLE
    }
    words = [name for name in COLUMNS if name not in kinds]
    frame = frame.astype(kinds | {name: "string" for name in words})
    frame[words] = frame[words].fillna("")  # an empty cell of the file
    return frame


def front_of(trials: pd.DataFrame, latency: str = "worst_latency") -> pd.DataFrame:
    """The trials trained to the end that no other beats in both accuracy and a latency, fastest first.

    A trial is trained only within the budget, so all of them hold it.
    """
    done = trials[trials.status == "complete"]
    return done.iloc[front(done.accuracy.tolist(), done[latency].tolist())]
