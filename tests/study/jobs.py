"""What worker processes of tests do: a module of its own, so that these can import it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from hybridnas.errors import DataError, TrainingFailed
from hybridnas.proxy.evaluation import Evaluate, Outcome, Result, Task


def make_worker(place: int) -> Evaluate:
    return lambda task, on_step: do(task, on_step, place)


def do(task: Task, on_step, place: int) -> Result:
    """By the trial's number."""
    left = task.seconds_left
    if task.number == 90:
        return TrainingFailed("diverged")
    if task.number == 91:
        raise ZeroDivisionError("a defect")
    if task.number in (92, 93):  # a worker ends; of 92 the first one only
        assert task.checkpoint
        if task.number == 93 or not task.checkpoint.exists():
            task.checkpoint.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    begun = time.time()
    for step in range(4):
        time.sleep(0.1)
        on_step((step + 1) / 4)
    return Outcome((float(place), float(os.getpid()), begun, time.time(), left), 0.4)


def make_nothing(place: int) -> Evaluate:
    os._exit(3)


def make_complaint(place: int) -> Evaluate:
    raise DataError("the data is gone")


def main() -> None:
    """A process with workers, to be killed."""
    from hybridnas.study.workers import Workers

    workers = Workers(2, make_worker)
    Path(sys.argv[1]).write_text(" ".join(map(str, workers.processes)))
    time.sleep(600)


if __name__ == "__main__":
    main()
