"""Trainings on a Ray cluster. What they need and leave travels with them: machines need not share a file system.

A trainer whose machine is lost takes nothing along: another takes its place, and its task is done once more.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybridnas.errors import HybridNasError, TrainingFailed, WorkerError, first_clause
from hybridnas.files import write_atomic
from hybridnas.proxy.evaluation import Evaluate, Outcome, Result, Task
from hybridnas.study.workers import MOST_STILLBORN, RETRIES
from hybridnas.zoo.of_timm import TimmModel

#: Seconds between two looks at what ended.
LOOK_S = 1.0


@dataclass
class Order:
    """A task, when it was submitted, and how many trainers were lost at it."""

    task: Task
    submitted: float
    deaths: int = 0


@dataclass
class Trainer:
    """An actor of Ray's, and what it is doing."""

    place: int
    actor: Any
    order: Order | None = None


class OnRay:
    """Does tasks in actors of a Ray cluster: an executor (`executors.Executor`). Made when all are ready to train.

    Args:
        count: How many actors.
        setup: Called in each with its place, 0 to `count` - 1; gives what does a task there.
        address: Of the cluster, 'auto' for that of this machine; None starts one here.
        cpus: CPU cores of each actor.
        gpus: GPUs of each.

    Raises:
        WorkerError: the cluster cannot be reached, or is too small.
    """

    def __init__(
        self, count: int, setup: Callable[[int], Evaluate], *, address: str | None, cpus: int, gpus: int
    ) -> None:
        import ray  # an extra, which `beginning.open_run` looks for

        self._ray = ray
        self.num_places = count
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (OSError, ValueError, RuntimeError) as error:
            what = f"--ray-address {address} cannot be reached" if address else "Ray cannot be started here"
            raise WorkerError(f"{what}: {first_clause(error)}.") from None
        there = ray.cluster_resources()
        for name, each in (("CPU", cpus), ("GPU", gpus)):
            if count * each > there.get(name, 0):
                ray.shutdown()
                raise WorkerError(
                    f"--workers {count}: they need {count * each} {name}s and the Ray cluster has "
                    f"{there.get(name, 0):.0f}."
                )
        self._make = ray.remote(num_cpus=cpus, num_gpus=gpus)(Remote)
        self._setup = setup
        self._unmade = 0
        self._orders: list[Order] = []
        self._idle: list[Trainer] = []
        self._pending: dict[Any, Trainer] = {}  # by what Ray is to give: that it is made, or a task's outcome
        try:
            for place in range(count):
                self._make_trainer(place)
            while len(self._idle) < count:  # loading is work: nothing is to be timed beside it
                self._look()
        except BaseException:
            self.close()
            raise

    def submit(self, task: Task) -> None:
        """Give a task to an actor that has none."""
        self._orders.append(Order(task, time.monotonic()))
        self._hand_out()

    def wait(self, on_step: Callable[[float], None]) -> tuple[Task, Result]:
        """The next task that ends, and what became of it."""
        while True:
            ended = self._look()
            on_step(0.0)
            if ended:
                return ended

    def close(self) -> None:
        """End all actors at once."""
        self._ray.shutdown()

    def _make_trainer(self, place: int) -> None:
        """On a cluster that has no room for it, it is made as soon as there is; others do its work until then."""
        trainer = Trainer(place, self._make.remote(self._setup, place))
        self._pending[trainer.actor.ready.remote()] = trainer

    def _hand_out(self) -> None:
        while self._orders and self._idle:
            trainer, order = self._idle.pop(), self._orders.pop(0)
            task = replace(order.task, seconds_left=order.task.seconds_left - (time.monotonic() - order.submitted))
            stopped = task.checkpoint.read_bytes() if task.checkpoint and task.checkpoint.is_file() else None
            design = task.architecture
            begun = design.weights.read_bytes() if isinstance(design, TimmModel) and design.weights else None
            trainer.order = order
            self._pending[trainer.actor.do.remote(task, stopped, begun)] = trainer

    def _look(self) -> tuple[Task, Result] | None:
        """For a while, until Ray gives something; a task that ended."""
        given, _ = self._ray.wait([*self._pending], timeout=LOOK_S)  # one at most
        found = self._take(given[0]) if given else None
        self._hand_out()
        return found

    def _take(self, reference: Any) -> tuple[Task, Result] | None:
        trainer = self._pending.pop(reference)
        order, trainer.order = trainer.order, None
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, HybridNasError) else error from None
        except self._ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):  # of our own code, such as data that are not there
                raise WorkerError(f"A trainer on Ray could not begin: {str(error).strip().splitlines()[-1]}") from None
            return self._lost(trainer, order, first_clause(error))
        self._idle.append(trainer)
        if order is None:
            self._unmade = 0
            return None
        result, files = answer
        for name, content in files.items():
            path: Path = getattr(order.task, name)
            write_atomic(path, content)
        return order.task, result

    def _lost(self, trainer: Trainer, order: Order | None, reason: str) -> tuple[Task, Result] | None:
        """Put another into the place of a trainer that was lost; its task is done again, unless it lost one before."""
        if order is None:
            self._unmade += 1
            if self._unmade > MOST_STILLBORN:
                raise WorkerError(f"{self._unmade} trainers on Ray could not begin, the last: {reason}.")
        self._make_trainer(trainer.place)
        if order is None:
            return None
        order.deaths += 1
        if order.deaths > RETRIES:
            return order.task, TrainingFailed(f"{order.deaths} trainers on Ray were lost at it, the last: {reason}")
        self._orders.insert(0, order)
        return None


class Remote:
    """What an actor does: a task at a time, whose files lie in a folder of its own meanwhile."""

    def __init__(self, setup: Callable[[int], Evaluate], place: int) -> None:
        self._evaluate = setup(place)

    def ready(self) -> None:
        """Answers when it is made."""

    def do(self, task: Task, checkpoint: bytes | None, begun: bytes | None) -> tuple[Result, dict[str, bytes]]:
        """Do a task; what became of it, and the files that it left.

        Args:
            task: Its paths are those of the search's machine.
            checkpoint: Its stopped training.
            begun: The weights that one of timm's models begins with.
        """
        with tempfile.TemporaryDirectory() as folder:
            stopped, weights = Path(folder) / "stopped.pt", Path(folder) / "weights.safetensors"
            if checkpoint is not None:
                stopped.write_bytes(checkpoint)
            here = replace(task, checkpoint=task.checkpoint and stopped, weights=task.weights and weights)
            if begun is not None:
                assert isinstance(task.architecture, TimmModel) and task.architecture.weights
                given = Path(folder) / f"given{task.architecture.weights.suffix}"
                given.write_bytes(begun)
                here = replace(here, architecture=replace(task.architecture, weights=given))
            result = self._evaluate(here, lambda share: None)
            ended = task.until == task.recipe.epochs
            name, path = ("weights", weights) if ended else ("checkpoint", stopped)
            return result, {name: path.read_bytes()} if isinstance(result, Outcome) and path.is_file() else {}
