"""What a search is to find: which figures of a trial compete, and which trials are the best in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybridnas.study.records import TrialRecord, front_of, table

Direction = Literal["maximize", "minimize"]
Aim = Literal["front", "accuracy", "front+macs", "front+params"]

#: How many designs are the best where accuracy alone counts.
NUM_BEST = 5


@dataclass(frozen=True)
class Objective:
    """`front`: accuracy against latency, or with a third; `accuracy`: the most accurate design within the budget."""

    aim: Aim = "front"

    @property
    def third(self) -> Literal["macs", "params"] | None:
        """What else is minimised."""
        return "macs" if self.aim == "front+macs" else "params" if self.aim == "front+params" else None

    @property
    def directions(self) -> list[Direction]:
        """Of the values, in Optuna's words."""
        every: list[Direction] = ["maximize", "minimize", "minimize"]
        return every[: 1 if self.aim == "accuracy" else 3 if self.third else 2]

    def values(self, record: TrialRecord) -> list[float]:
        """A trained trial's figures."""
        assert record.accuracy is not None and record.worst_latency is not None
        found = [record.accuracy, record.worst_latency]
        if self.third:
            found.append(float(getattr(record.cost, self.third)))
        return found[: len(self.directions)]

    def scores(self, records: Sequence[TrialRecord], epochs: int) -> NDArray[np.float64]:
        """The figures of trials (N, M), all to be minimised, as they were after some epochs."""
        found = np.array([self.values(record) for record in records])
        found[:, 0] = [-record.accuracies[epochs - 1] for record in records]
        return found

    def best(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The trials to choose from in the end, the most accurate first: the front, or the few most accurate."""
        if self.aim == "accuracy":
            done = [record for record in records if record.status == "complete"]
            return sorted(done, key=lambda record: -(record.accuracy or 0.0))[:NUM_BEST]
        by_number = {record.number: record for record in records}
        front = [by_number[int(number)] for number in front_of(table(records), third=self.third).number]
        return sorted(front, key=lambda record: -(record.accuracy or 0.0))
