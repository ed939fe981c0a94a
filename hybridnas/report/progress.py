"""What a person sees while a search runs: a bar with the best so far and the time left, and a line a trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hybridnas.config import SearchConfig
from hybridnas.study.records import TrialRecord

if TYPE_CHECKING:  # importing torch takes seconds, and a report can be printed without
    from hybridnas.study.loop import Progress as SearchProgress

#: What takes longer is shown, and where no bar can be drawn, a line comes so often.
PATIENCE_S, LINE_S = 2.0, 10.0


@contextmanager
def telling(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A function that is told what is done, how many of how many: a bar on a terminal, elsewhere a line at times."""
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    began = last = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:

        def tell(doing: str, done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - began < PATIENCE_S:
                return
            if console.is_terminal:
                if doing not in tasks:
                    tasks[doing] = bar.add_task(doing, total=total)
                bar.update(tasks[doing], completed=done, total=total)
            elif now - last >= LINE_S:
                last = now
                say(console, f"       {doing}: {done} of {total}")

        yield tell


def say(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is, whatever names of the user's are in it."""
    console.print(line, style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)


class SearchDisplay:
    """A live bar on a terminal, plain lines elsewhere. Use it as a context manager."""

    def __init__(self, console: Console, config: SearchConfig, started: float) -> None:
        self._console = console
        self._config = config
        self._started = started
        self._best: TrialRecord | None = None
        self._before = 0  # trainings that an earlier process began
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[best]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("search", total=1.0, left="", best="")

    def __enter__(self) -> SearchDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def take_up(self, records: Sequence[TrialRecord]) -> None:
        """What an earlier process found: the time of this one is not of those."""
        for record in records:
            self._note(record)
        self._before = sum(record.was_begun for record in records)

    def _note(self, record: TrialRecord) -> None:
        if record.status == "complete" and (not self._best or (record.accuracy or 0) > (self._best.accuracy or 0)):
            self._best = record

    def update(self, progress: SearchProgress) -> None:
        """A step was trained, or a trial ended."""
        if progress.ended:
            self._note(progress.ended)
            self.say(_line(progress.ended))
        trained = sum(record.was_begun for record in progress.records)
        elapsed = time.monotonic() - self._started
        shares, left = [], ""
        if self._config.trials:
            shares.append((trained + progress.share) / self._config.trials)
        if self._config.time:
            shares.append(elapsed / self._config.time)
            left = f"{_clock(self._config.time - elapsed)} left"
        elif self._config.trials and trained > self._before:
            own = trained + progress.share - self._before
            left = f"about {_clock(elapsed * (self._config.trials - self._before - own) / own)} left"
        best = ""
        if self._best:
            best = f"best {100 * (self._best.accuracy or 0):.1f} % at {self._best.cost.milliseconds:.2f} ms"
        doing = "confirm" if max(shares) >= 1 else f"trial {trained + 1}"
        self._bar.update(self._task, completed=min(max(shares), 1.0), description=doing, left=left, best=best)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        say(self._console, line)


def _line(record: TrialRecord) -> str:
    """One trial: number, outcome, and what it is."""
    name = record.architecture.families + (f" ({record.design})" if record.design else "")
    if record.status in ("complete", "pruned"):
        # What is not timed yet is marked as foreseen.
        foreseen = ["~" if cost.latency_ms_p50 is None else "" for cost in record.costs]
        ms = " ".join(
            f"{mark}{cost.milliseconds:.2f}".rjust(7) for mark, cost in zip(foreseen, record.costs, strict=True)
        )
        epochs = len(record.accuracies)
        outcome = (
            f"{100 * (record.accuracy or 0):5.1f} %  {epochs:2d} {'epoch ' if epochs == 1 else 'epochs'} {ms} ms  "
            f"{record.seconds:5.1f} s"
        )
    else:
        outcome = f"{record.status}: {record.reason}"
    return f"  {record.number:4d}  {outcome}  {name} {record.architecture.image_size} px"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"
