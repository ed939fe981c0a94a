"""Searches on recorded trainings: every architecture of a small closed space was trained and timed once for all.

So a whole search replays in seconds, and samplers are compared on real accuracies (experiments/tabular).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hybridnas.architecture import Architecture
from hybridnas.cost.budget import Budget, Cost
from hybridnas.cost.measure import Costing
from hybridnas.errors import ConfigError, RunError, SpaceError, first_clause
from hybridnas.files import shipped_folder
from hybridnas.model import HybridNet
from hybridnas.pareto import front, hypervolume
from hybridnas.proxy.rungs import rungs_of
from hybridnas.proxy.training import Design, Recipe, Trainer, TrainingResult
from hybridnas.space import SearchSpace
from hybridnas.study.loop import Progress, Search
from hybridnas.study.proposals import Proposal

RUNTIMES = ("torch", "onnxruntime")


def recorded_folder() -> Path:
    """Where the records that come with the package lie."""
    return shipped_folder("recorded", "experiments/tabular/data")


class Recorded:
    """A closed space whose architectures all are on record. Make one with `Recorded.load()`.

    Attributes:
        space: The space.
        networks: A row an architecture, indexed by its key: families, macs, params, latency_ms (of one runtime),
            accuracy (the mean of all seeds at the last epoch, 0..1) and seeds.
        epochs: Of each training.
    """

    def __init__(self, space: SearchSpace, networks: pd.DataFrame, trainings: pd.DataFrame) -> None:
        self.space = space
        columns = [name for name in trainings.columns if name.startswith("epoch_")]
        self.epochs = len(columns)
        by_name = {
            str(name): (rows[columns].to_numpy(np.float64), rows.seconds.to_numpy(np.float64))
            for name, rows in trainings.sort_values("seed").groupby("families")
        }
        self.networks = networks[networks.families.isin(list(by_name))].copy()
        self._trainings = {key: by_name[name] for key, name in self.networks.families.items()}
        self.networks["accuracy"] = [float(found[:, -1].mean()) for found, _ in self._trainings.values()]
        self.networks["seeds"] = [len(found) for found, _ in self._trainings.values()]

    @classmethod
    def load(cls, folder: Path | None = None, *, data: str = "synthetic", runtime: str = "torch") -> Recorded:
        """Read closed.yaml, networks.csv and trainings.csv.

        Args:
            folder: Where they lie; None is what comes with the package.
            data: What was trained on: synthetic or fashion-mnist.
            runtime: What timed: torch or onnxruntime.

        Raises:
            ConfigError: there are no trainings on such data, or timings in such a runtime.
            RunError: a file is missing or damaged.
        """
        folder = folder or recorded_folder()
        try:
            space = SearchSpace.load(folder / "closed.yaml")
            networks = pd.read_csv(folder / "networks.csv", index_col="key")
            trainings = pd.read_csv(folder / "trainings.csv")
            known = sorted(trainings.data.dropna().unique())
            if not known:
                raise ValueError("trainings.csv has no training")
            if data not in known:
                raise ConfigError(f"--data {data} is not on record; {' and '.join(known)} are.")
            if runtime not in RUNTIMES:
                raise ConfigError(f"--runtime {runtime} was not timed; {' and '.join(RUNTIMES)} were.")
            networks["latency_ms"] = networks[f"{runtime}_ms"]
            if networks.latency_ms.isna().any() or trainings.isna().any(axis=None):
                raise ValueError("a figure is missing")
            return cls(space, networks, trainings[trainings.data == data])
        except (OSError, ValueError, KeyError, AttributeError, SpaceError) as error:
            raise RunError(f"{folder} holds no records that can be read: {first_clause(error)}.") from None

    def true_front(self, budget_ms: float | None) -> pd.DataFrame:
        """The networks within the budget that no other beats in accuracy and latency, fastest first."""
        held = self.networks[self.networks.latency_ms <= (budget_ms or np.inf)]
        return held.iloc[front(held.accuracy.tolist(), held.latency_ms.tolist())]

    def trained(self, key: str, seed: int) -> tuple[NDArray[np.float64], float]:
        """Accuracy after each epoch (E,) and the seconds of one of the trainings of an architecture."""
        accuracies, seconds = self._trainings[key]
        return accuracies[seed % len(accuracies)], float(seconds[seed % len(accuracies)])


class RecordedCosting(Costing):
    """Tells costs from the records."""

    def __init__(self, recorded: Recorded) -> None:
        columns = (recorded.networks[name] for name in ("macs", "params", "latency_ms"))
        figures = zip(*columns, strict=True)
        self._by_key = {
            str(key): (int(macs), int(params), float(ms))
            for key, (macs, params, ms) in zip(recorded.networks.index, figures, strict=True)
        }

    @property
    def reference_ms(self) -> list[float]:
        """One target; nothing is compared with its reference."""
        return [1.0]

    def count(self, architecture: Architecture) -> tuple[Cost, ...]:
        """MACs and parameters alone."""
        macs, params, _ = self._figures(architecture)
        return (Cost(macs, params, None, None, None, "recorded", 1),)

    def foresee(self, architecture: Architecture) -> tuple[Cost, ...]:
        """What is on record, as a prediction."""
        macs, params, ms = self._figures(architecture)
        return (Cost(macs, params, None, None, ms, "recorded", 1),)

    def assess(self, architecture: Architecture, budget: Budget) -> tuple[Cost, ...]:
        """What is on record, as a measurement."""
        macs, params, ms = self._figures(architecture)
        return (Cost(macs, params, ms, ms, ms, "recorded", 1),)

    def _figures(self, architecture: Architecture) -> tuple[int, int, float]:
        if architecture.key not in self._by_key:
            raise RunError(f"networks.csv has no {architecture.families} with the key {architecture.key}.")
        return self._by_key[architecture.key]


class RecordedTrainer(Trainer):
    """Trains nothing: gives the accuracies on record."""

    def __init__(self, recorded: Recorded, seed: int) -> None:
        self.recorded = recorded
        self.seed = seed

    def train(
        self,
        design: Design,
        recipe: Recipe,
        *,
        seed: int,
        until: int | None = None,
        checkpoint: Path | None = None,
        seconds_left: float = np.inf,
        on_step: Callable[[float], None] = lambda share: None,
    ) -> TrainingResult:
        """The first `until` epochs."""
        accuracies, seconds = self.recorded.trained(design.key, self.seed)
        network = cast(HybridNet, None)  # a search without storage does not look at it
        return TrainingResult(network, tuple(accuracies[:until].tolist()), seconds)


class Unseeded(Search):
    """A search that is told of no known layouts."""

    def _known_designs(self) -> Iterator[Proposal]:
        return iter(())


@dataclass(frozen=True)
class Replay:
    """One search on records.

    Attributes:
        trainings: Epochs trained, over those of a whole training, after each trial that ended a rung (N,).
        share: Hypervolume of what was trained to the end by then, over that of the true front (N,); what is over the
            budget counts nothing.
        ask_ms: Of one proposal, the mean.
        over_budget: Trials trained that are over the budget.
    """

    trainings: NDArray[np.float64]
    share: NDArray[np.float64]
    ask_ms: float
    over_budget: int

    def share_at(self, trainings: float) -> float:
        """The share when so many trainings' epochs were spent; that of the end where the search ended before."""
        place = int(np.searchsorted(self.trainings, trainings, side="right")) - 1
        return float(self.share[place]) if place >= 0 else 0.0


def replay(
    recorded: Recorded,
    sampler: str,
    *,
    seed: int,
    trainings: int,
    budget_ms: float | None = None,
    rungs: Sequence[int] | None = None,
    gate: bool = True,
    seeding: bool = True,
) -> Replay:
    """Search the closed space until so many trainings' epochs are spent.

    Args:
        recorded: The records.
        sampler: A name that the search knows.
        seed: Of the search; which of an architecture's trainings is seen follows from it.
        trainings: Whole trainings allowed; those stopped at a rung count by their epochs.
        budget_ms: What a network may take.
        rungs: Epochs after which trials are compared, the last being all; None are those of a search.
        gate: Whether what is over the budget is left untrained.
        seeding: Whether the known layouts come first.
    """
    covered = Coverage(recorded, budget_ms)
    spent: list[float] = []
    share: list[float] = []

    def note(progress: Progress) -> None:
        if progress.ended and progress.ended.accuracies:
            spent.append(sum(len(record.accuracies) for record in progress.records) / recorded.epochs)
            share.append(covered([r.architecture.key for r in progress.records if r.status == "complete"]))

    search = (Search if seeding else Unseeded)(
        None,
        recorded.space,
        Budget(budget_ms if gate else None),
        RecordedCosting(recorded),
        RecordedTrainer(recorded, seed),
        Recipe(recorded.epochs),
        rungs_of(rungs, recorded.epochs),
        seed,
        note,
        sampler=sampler,
    )
    search.run(trials=None, seconds_left=lambda: 0.0 if spent and spent[-1] >= trainings else np.inf)
    over = sum((record.worst_latency or 0.0) > covered.worst_ms for record in search.records)
    ask_ms = 1e3 * search.spent["proposing"] / max(1, len(search.records))
    return Replay(np.array(spent), np.array(share), ask_ms, over)


class Coverage:
    """Hypervolume of some networks, over that of the true front, above the least accuracy on record.

    Args:
        recorded: The records.
        budget_ms: Slower networks count nothing, and neither does what is beyond the slowest.
    """

    def __init__(self, recorded: Recorded, budget_ms: float | None) -> None:
        self.networks = recorded.networks
        self.worst_ms = budget_ms or float(self.networks.latency_ms.max())
        self.floor = float(self.networks.accuracy.min())
        self.whole = self._area(list(self.networks.index))
        if not self.whole:
            raise ConfigError(f"No network on record within {self.worst_ms:g} ms is better than the least accurate.")

    def __call__(self, keys: Sequence[str]) -> float:
        """The share (0..1) that architectures with these keys have."""
        return self._area(keys) / self.whole

    def _area(self, keys: Sequence[str]) -> float:
        rows = self.networks.loc[list(keys)]
        return hypervolume((rows.accuracy - self.floor).tolist(), rows.latency_ms.tolist(), worst_cost=self.worst_ms)
