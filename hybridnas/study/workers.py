"""Trainings in processes of this machine, which stay alive.

A worker that dies takes nothing along: another takes its place, and its task is done once more. All workers end with
the process that started them, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from hybridnas.errors import HybridNasError, OutOfTime, TrainingFailed, WorkerError
from hybridnas.proxy.evaluation import Evaluate, Outcome, Result, Task
from hybridnas.study.forking import CONTEXT, begin, interrupts_held

#: How often a task is begun anew after a worker died of it.
RETRIES = 1
#: So many workers in a row may die before they can train.
MOST_STILLBORN = 3
#: Seconds between two words of a worker on how far it is.
TELL_S = 0.2


@dataclass
class Worker:
    """A process, and what it is doing."""

    place: int
    process: BaseProcess
    connection: Connection
    ready: bool = False
    task: Task | None = None
    begun: float = 0.0
    share: float = 0.0
    deaths: int = 0  # of others at the same task


class Workers:
    """Does tasks in processes of their own: an executor (`executors.Executor`). Made when all are ready to train.

    Args:
        count: How many processes.
        setup: Called in each process with its place, 0 to `count` - 1; gives what does a task there. It is pickled.

    Raises:
        WorkerError: no process comes so far that it can train.
    """

    def __init__(self, count: int, setup: Callable[[int], Evaluate]) -> None:
        self.num_places = count
        self._setup = setup
        self._stillborn = 0
        begin()
        self._workers: list[Worker] = []
        try:
            for place in range(count):
                self._workers.append(self._start(place))
            while not all(worker.ready for worker in self._workers):  # loading is work: nothing is timed beside it
                self._listen()
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[int]:
        """The workers' process numbers."""
        return [worker.process.pid or 0 for worker in self._workers]

    def submit(self, task: Task) -> None:
        """Give a task to a worker that has none."""
        self._hand(next(worker for worker in self._workers if worker.task is None), task, deaths=0)

    def wait(self, on_step: Callable[[float], None]) -> tuple[Task, Result]:
        """The next task that ends, and what became of it."""
        while True:
            ended = self._listen()
            if ended:
                return ended
            shares = [worker.share for worker in self._workers if worker.task]
            on_step(sum(shares) / max(1, len(shares)))

    def close(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def _start(self, place: int) -> Worker:
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=work, args=(theirs, self._setup, place), daemon=True)
        with interrupts_held():
            process.start()
        theirs.close()
        return Worker(place, process, ours)

    def _hand(self, worker: Worker, task: Task, deaths: int) -> None:
        worker.task, worker.begun, worker.share, worker.deaths = task, time.monotonic(), 0.0, deaths
        try:
            worker.connection.send(task)
        except OSError:
            worker.deaths -= 1  # it had died before, which `wait` finds, and not of this

    def _listen(self) -> tuple[Task, Result] | None:
        """Until some worker says something; a task that it ended."""
        ready = wait([worker.connection for worker in self._workers])
        return self._hear(next(worker for worker in self._workers if worker.connection in ready))

    def _hear(self, worker: Worker) -> tuple[Task, Result] | None:
        """Take one message of a worker, or its death."""
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            return self._bury(worker)
        if message is None:
            worker.ready, self._stillborn = True, 0
        elif isinstance(message, float):
            worker.share = message
        elif isinstance(message, (Outcome, TrainingFailed, OutOfTime)):
            task, worker.task = worker.task, None
            assert task
            return task, message
        else:
            raise message
        return None

    def _bury(self, worker: Worker) -> tuple[Task, Result] | None:
        """Put another into the place of a worker that died; it gets the task, unless that killed one before."""
        worker.process.join()
        worker.connection.close()
        reason = _why(worker.process.exitcode or 0)
        self._stillborn += not worker.ready
        if self._stillborn > MOST_STILLBORN:
            raise WorkerError(
                f"{self._stillborn} worker processes in a row ended before they could train, the last by {reason}; "
                "give fewer --workers."
            )
        heir = self._workers[self._workers.index(worker)] = self._start(worker.place)
        task = worker.task
        if task is None:
            return None
        deaths = worker.deaths + 1
        if deaths > RETRIES:
            return task, TrainingFailed(f"{deaths} worker processes ended at it, the last by {reason}")
        left = task.seconds_left - (time.monotonic() - worker.begun)
        self._hand(heir, replace(task, seconds_left=left), deaths)
        return None


def work(connection: Connection, setup: Callable[[int], Evaluate], place: int) -> None:
    """What a worker process does: task after task, until it is killed or its parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = 0.0

    def tell(share: float) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            connection.send(float(share))

    try:
        evaluate = setup(place)
        connection.send(None)
        while True:
            connection.send(evaluate(connection.recv(), tell))
    except HybridNasError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError):
        pass  # nobody listens
    except BaseException:
        connection.send(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _why(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"{name}, as where memory runs out" if name == "SIGKILL" else name
