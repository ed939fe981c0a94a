"""Trainings an hour with 1 to 64 workers that sleep as long as recorded trainings took: where does one driver saturate?

    python experiments/scaling/simulated.py sqlite|postgresql|ray SAMPLER WORKERS [WORKERS ...] [--url URL]

All else is a search's own; costs follow from the architecture and take no time. On SQLite and PostgreSQL the sleepers
are in the driver's process, on Ray they are its actors. Rows are appended to simulated.csv.
"""

import argparse
import csv
import heapq
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from many import Costs, accuracies

from hybridnas import SearchConfig, SearchSpace
from hybridnas.cost.budget import Budget
from hybridnas.files import write_atomic
from hybridnas.proxy.evaluation import Evaluate, Outcome, Task
from hybridnas.proxy.training import Recipe
from hybridnas.study.executors import Executor
from hybridnas.study.loop import Search
from hybridnas.study.objective import Objective
from hybridnas.study.on_ray import OnRay
from hybridnas.study.storage import Storage

HERE = Path(__file__).parent
FILE = HERE / "simulated.csv"
RUNGS = (1, 3)
#: Of one search.
SECONDS = 45.0


def recorded() -> np.ndarray:
    """Seconds an epoch of the default run's trainings."""
    trials = pd.read_csv(HERE.parent / "default_run" / "trials.csv")
    return (trials.seconds / 3)[trials.status == "complete"].to_numpy()


EPOCH_S = recorded()


def outcome(task: Task) -> Outcome:
    epochs = task.until if task.until == RUNGS[0] else task.until - RUNGS[0]
    return Outcome(accuracies(task), float(EPOCH_S[task.seed % len(EPOCH_S)]) * epochs)


class Sleepers:
    """Places whose trainings take time and nothing else."""

    def __init__(self, count: int) -> None:
        self.num_places = count
        self._asleep: list[tuple[float, int, Task, Outcome]] = []

    def submit(self, task: Task) -> None:
        found = outcome(task)
        heapq.heappush(self._asleep, (time.monotonic() + found.seconds, task.number, task, found))

    def wait(self, on_step: Callable[[float], None]) -> tuple[Task, Outcome]:
        wakes, _, task, found = heapq.heappop(self._asleep)
        time.sleep(max(0.0, wakes - time.monotonic()))
        return task, found

    def close(self) -> None: ...


def make_sleeper(cpus: int, place: int) -> Evaluate:
    def sleep(task: Task, on_step: Callable[[float], None]) -> Outcome:
        found = outcome(task)
        time.sleep(found.seconds)
        return found

    return sleep


@contextmanager
def places(kind: str, count: int) -> Iterator[Executor]:
    """On Ray actors of a cluster on this machine that is said to have a core for each."""
    if kind != "ray":
        yield Sleepers(count)
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": count})
    try:
        with closing(OnRay(count, make_sleeper, address=cluster.address, cpus=1, gpus=0)) as executor:
            yield executor
    finally:
        cluster.shutdown()


def run(kind: str, sampler: str, count: int, url: str | None) -> None:
    with tempfile.TemporaryDirectory() as temporary, places(kind, count) as executor:
        folder = Path(temporary)
        config = SearchConfig(space="tiny", time=SECONDS, epochs=RUNGS[-1], rungs=RUNGS, target="cpu", device="cpu")
        write_atomic(folder / "config.json", config.model_dump_json())
        storage = Storage(folder, len(RUNGS), Objective().directions, url=url, name=f"{sampler} {count} {time.time()}")
        search = Search(
            storage,
            SearchSpace.load("tiny"),
            Budget(10.0),
            Costs(),
            None,
            Recipe(RUNGS[-1]),
            RUNGS,
            0,
            lambda progress: None,
            sampler=sampler,
            executor=executor,
        )
        end = time.monotonic() + SECONDS
        with closing(storage):
            search.run(trials=None, seconds_left=lambda: end - time.monotonic())
        slept = sum(record.seconds for record in search.records)
        trials = len(search.records)
        each = [1e3 * search.spent[name] / trials for name in ("proposing", "keeping")]
        row = [kind, sampler, count, trials, 3600 * trials / SECONDS, slept / (count * SECONDS), *each]
        row = [round(value, 3) if isinstance(value, float) else value for value in row]
        print(row, flush=True)
        if not FILE.exists():
            FILE.write_text("kind,sampler,workers,trials,trials_an_hour,busy,asking_ms,keeping_ms\n")
        with FILE.open("a", newline="") as out:
            csv.writer(out).writerow(row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["sqlite", "postgresql", "ray"])
    parser.add_argument("sampler")
    parser.add_argument("workers", type=int, nargs="+")
    parser.add_argument("--url")
    arguments = parser.parse_args()
    for count in arguments.workers:
        run(arguments.kind, arguments.sampler, count, arguments.url)
