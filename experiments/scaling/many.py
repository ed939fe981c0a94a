"""A search of 10,000 trials: what asking and keeping take as it grows, and what it takes to load, resume and report it.

    python experiments/scaling/many.py grow FOLDER SAMPLER TRIALS    # goes on; rows appended to many.csv
    python experiments/scaling/many.py load FOLDER

Nothing is trained: accuracies and costs follow from the architecture. All else is a search's own, files included.
"""

import csv
import math
import resource
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from hybridnas import Architecture, Run, SearchConfig, SearchSpace
from hybridnas.cost.budget import Budget, Cost
from hybridnas.files import write_atomic
from hybridnas.proxy.evaluation import Outcome, Task
from hybridnas.proxy.training import Recipe
from hybridnas.report.figures import draw_all
from hybridnas.seeds import derive_seed
from hybridnas.study.loop import Progress, Search
from hybridnas.study.objective import Objective
from hybridnas.study.storage import Storage

FILE = Path(__file__).parent / "many.csv"
RUNGS = (1, 3)
EVERY = {"random": 250, "cost-aware": 10, "tpe": 10}


class Costs:
    """Milliseconds and multiply-adds by widths and depths."""

    reference_ms = [1.0]

    def assess(self, network: Architecture, budget: object = None) -> tuple[Cost, ...]:
        work = sum(stage.depth * stage.width**1.5 for stage in network.stages)
        slow = 1 + (derive_seed(0, network.families) % 100) / 200
        ms = 0.5 + 1e-3 * work * slow
        return (Cost(int(1e3 * work), int(1e2 * work), ms, ms, ms, "cpu", 1),)

    foresee = count = assess

    def measure(self, network: Architecture, costs: tuple[Cost, ...]) -> tuple[Cost, ...]:
        return costs


def accuracies(task: Task) -> tuple[float, ...]:
    """After each epoch of a training."""
    work = sum(stage.depth * stage.width for stage in task.architecture.stages)
    noise = np.random.default_rng(task.seed).normal(0, 0.02)
    best = 0.95 - 0.6 * math.exp(-work / 400) + noise
    return tuple(best * (1 - 0.5**epoch) for epoch in range(1, task.until + 1))


class Places:
    """One place, whose trainings end at once."""

    num_places = 1

    def submit(self, task):
        self.task = task

    def wait(self, on_step):
        return self.task, Outcome(accuracies(self.task), 5.0)

    def close(self): ...


def search_in(folder: Path, sampler: str, report=lambda progress: None) -> tuple[Search, Storage]:
    config = SearchConfig(space="tiny", trials=10_000, epochs=RUNGS[-1], rungs=RUNGS, target="cpu", device="cpu")
    space = SearchSpace.load("tiny")
    folder.mkdir(exist_ok=True, parents=True)
    write_atomic(folder / "config.json", config.model_dump_json())
    storage = Storage(folder, len(RUNGS), Objective().directions)
    search = Search(
        storage,
        space,
        Budget(10.0),
        Costs(),
        None,
        Recipe(RUNGS[-1]),
        RUNGS,
        0,
        report,
        sampler=sampler,
        executor=Places(),
    )
    return search, storage


def grow(folder: Path, sampler: str, trials: int) -> None:
    if not FILE.exists():
        FILE.write_text("sampler,trials,asking_ms,keeping_ms,all_ms,resident_mb\n")
    last = {"trials": 0, "time": 0.0, "proposing": 0.0, "keeping": 0.0}

    def report(progress: Progress) -> None:
        count = len(progress.records)
        if progress.ended and count >= last["trials"] + EVERY[sampler]:
            now = time.perf_counter()
            each = count - last["trials"]
            row = [1e3 * (search.spent[name] - last[name]) / each for name in ("proposing", "keeping")]
            row += [1e3 * (now - last["time"]) / each, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
            with FILE.open("a", newline="") as out:
                csv.writer(out).writerow([sampler, count, *(round(value, 1) for value in row)])
            print(sampler, count, [round(value, 1) for value in row], flush=True)
            last.update(trials=count, time=now, proposing=search.spent["proposing"], keeping=search.spent["keeping"])

    search, storage = search_in(folder, sampler, report)
    last.update(trials=len(search.records), time=time.perf_counter())
    with closing(storage):
        search.run(trials=trials, seconds_left=lambda: math.inf)


def load(folder: Path) -> None:
    start = time.perf_counter()
    search, storage = search_in(folder, "random")
    print(f"resume: {len(search.records)} trials in {time.perf_counter() - start:.1f} s")
    storage.close()
    start = time.perf_counter()
    run = Run.load(folder)
    draw_all(run, folder / "figures")
    print(f"report: {time.perf_counter() - start:.1f} s")
    print(f"resident: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1] == "grow":
        grow(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        load(Path(sys.argv[2]))
