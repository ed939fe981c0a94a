"""Where trainings run: here and now, or in processes of their own (`workers`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hybridnas.proxy.evaluation import Evaluate, Result, Task


class Executor(Protocol):
    """Does tasks, `num_places` at once."""

    @property
    def num_places(self) -> int:
        """How many tasks may be submitted before one of them ended."""

    def submit(self, task: Task) -> None:
        """Begin a task, or take it to be begun by `wait`."""

    def wait(self, on_step: Callable[[float], None]) -> tuple[Task, Result]:
        """The next task that ends, and what became of it.

        Args:
            on_step: Told the share of the tasks in flight that is done, 0..1.
        """

    def close(self) -> None:
        """Give up what is in flight."""


class Serial:
    """Does one task at a time, in this process."""

    num_places = 1

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self._tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._tasks.append(task)

    def wait(self, on_step: Callable[[float], None]) -> tuple[Task, Result]:
        """Do it."""
        task = self._tasks.pop()
        return task, self._evaluate(task, on_step)

    def close(self) -> None:
        """Nothing is in flight."""
