"""Trainings on a Ray cluster. What they need and leave travels with them: machines need not share a file system.

A trainer whose machine is lost takes nothing along: another takes its place, and its task is done once more.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hybridnas.errors import HybridNasError, TrainingFailed, WorkerError, first_clause
from hybridnas.files import write_atomic
from hybridnas.proxy.evaluation import Evaluate, Outcome, Result, Task
from hybridnas.study.workers import MOST_STILLBORN, RETRIES
from hybridnas.zoo.of_timm import TimmModel

#: Seconds between two looks at what ended.
LOOK_S = 1.0
#: Seconds that a search waits for a trainer where none is at work: loading a large data set may take long.
PATIENCE_S = 900.0


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
        setup: Called in each with its CPU cores and its place, 0 to `count` - 1; gives what does a task there.
        address: Of the cluster, 'auto' for that of this machine; None starts one here.
        cpus: CPU cores of each actor; fewer where the cluster's machines have no room for so many.
        gpus: GPUs of each.

    Raises:
        WorkerError: the cluster cannot be reached, is too small, or has no room for a trainer in a quarter of an hour.
    """

    def __init__(
        self, count: int, setup: Callable[[int, int], Evaluate], *, address: str | None, cpus: int, gpus: int
    ) -> None:
        import ray  # an extra, which `beginning.open_run` looks for

        self._ray = ray
        self.num_places = count
        try:
            with _own_answer_to_sigterm():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (OSError, ValueError, RuntimeError) as error:
            what = f"--ray-address {address} cannot be reached" if address else "Ray cannot be started here"
            raise WorkerError(f"{what}: {first_clause(error)}.") from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = next((each for each in range(cpus, 0, -1) if room(nodes, each, gpus) >= count), 0)
        if not cpus:
            ray.shutdown()
            needs = "a CPU core and a GPU of one machine" if gpus else "a CPU core"
            raise WorkerError(
                f"--workers {count}: each needs {needs}, and the Ray cluster has room for {room(nodes, 1, gpus)}."
            )
        self._make = ray.remote(num_cpus=cpus, num_gpus=gpus)(Remote)
        self._setup = partial(setup, cpus)
        self._unmade = 0
        self._orders: list[Order] = []
        self._idle: list[Trainer] = []
        self._pending: dict[Any, Trainer] = {}  # by what Ray is to give: that it is made, or a task's outcome
        self._heard = time.monotonic()  # when Ray gave something
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
        at_work = any(trainer.order for trainer in self._pending.values())
        if not (given or at_work) and time.monotonic() - self._heard > PATIENCE_S:
            raise WorkerError(
                f"{len(self._pending)} of {self.num_places} trainers on Ray could not begin within "
                f"{PATIENCE_S / 60:.0f} minutes: others may hold the cluster's machines, or these are lost."
            )
        return found

    def _take(self, reference: Any) -> tuple[Task, Result] | None:
        self._heard = time.monotonic()
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


def room(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: int) -> int:
    """How many actors find room on machines with such resources; none is spread over two of them."""
    needed = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return sum(min(int(node.get(name, 0) // each) for name, each in needed.items()) for node in nodes)


@contextmanager
def _own_answer_to_sigterm() -> Iterator[None]:
    """`ray.init` has SIGTERM end the process on the spot, where `cli.run` has it stop a search cleanly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
