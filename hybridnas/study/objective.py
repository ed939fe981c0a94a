"""What a search is to find: which figures of a trial compete, and which trials are the best in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from moocore import is_nondominated
from numpy.typing import NDArray

from hybridnas.pareto import front
from hybridnas.study.records import TrialRecord

Direction = Literal["maximize", "minimize"]
Aim = Literal["front", "accuracy", "front+macs", "front+params"]

#: How many designs are the best where accuracy alone counts; and how many are beside a front, on it or not: a short
#: training of one seed does not tell which of two good designs of about the same latency is the better.
NUM_BEST, NUM_MOST_ACCURATE = 5, 3


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
        columns = [
            [-record.accuracies[epochs - 1] for record in records],
            [record.worst_latency for record in records],
            [getattr(record.cost, self.third) if self.third else 0 for record in records],
        ]
        return np.array(columns[: len(self.directions)], dtype=np.float64).T

    def kept(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The trials whose networks are kept: the best, and the front of accuracy and latency, which is exported."""
        return [*self.best(records), *(Objective().best(records) if self.aim == "accuracy" else ())]

    def best(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The trials to choose from in the end, the most accurate first: of a front with some that lie behind it."""
        done = [record for record in records if record.status == "complete"]
        done.sort(key=lambda record: (-(record.accuracy or 0.0), record.worst_latency))
        if self.aim == "accuracy":
            return done[:NUM_BEST]
        values = [self.values(record) for record in done]
        if self.third:
            places = np.flatnonzero(is_nondominated(np.array(values).reshape(-1, 3) * (-1, 1, 1))).tolist()
        else:
            places = front([value[0] for value in values], [value[1] for value in values])
        return [done[i] for i in sorted({*places, *range(min(NUM_MOST_ACCURATE, len(done)))})]
