"""Commands in processes of their own, which tests watch, stop and starve."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from rich.console import Console

    from hybridnas.study.run import Run

#: How long a test waits for one.
SECONDS = 120


def write_page(run: Run, console: Console) -> None:
    from hybridnas.report.explorer import write_explorer

    write_explorer(run, run.folder / "explorer.html")


#: What a search does otherwise where neither its timings nor its pictures are what is tested: timers and exported files
#: are timed at once, and not for long; of what it draws at its end the page alone, as figures take longer than it;
#: it trains in its own process, where a test sees it.
BRISK: dict[str, Any] = {
    "hybridnas.cost.latency.READINGS": 1,
    "hybridnas.cost.latency.READ_ON_S": 0.0,
    "hybridnas.finishing.PAUSE_S": 0.0,
    "hybridnas.finishing.SITTING_S": 0.2,
    "hybridnas.pipeline._draw": write_page,
    "hybridnas.working.MOST_WORKERS": 1,
    "hybridnas.search._prepare_workers": int,
}

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["hybridnas.pipeline", "hybridnas.full_training", "hybridnas.study.cost_aware"])


def start(command: str, *flags: object) -> subprocess.Popen[str]:
    """`python -m hybridnas.COMMAND`."""
    return subprocess.Popen(
        [sys.executable, "-m", f"hybridnas.{command}", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A test run in the background of a shell has SIGINT ignored, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


class Warm:
    """A command, as `start` begins it, but brisk, and forked off a process that has imported what takes ten seconds."""

    def __init__(self, command: str, *flags: object, prepare: Callable[[], object] = int) -> None:
        """`prepare` is called in it first; it is pickled."""
        folder = Path(tempfile.mkdtemp())
        self._said = folder / "out", folder / "err"
        given = command, [*map(str, flags)], self._said, {**os.environ}, prepare
        self._process = _forkserver.Process(target=_run, args=given)
        with patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):  # counted when the first one loads its libraries
            self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote, when it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(self._said[1].read_text())
        out, err = (path.read_text() for path in self._said)
        return out, err

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode


def _run(
    command: str, flags: list[str], said: tuple[Path, Path], environment: dict[str, str], prepare: Callable[[], object]
) -> None:
    os.environ.update(environment)
    os.setpgid(0, 0)  # as a shell does
    signal.signal(signal.SIGINT, signal.default_int_handler)
    be_brisk()
    prepare()
    for stream, path in zip((sys.stdout, sys.stderr), said, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    called = import_module(f"hybridnas.{command}")
    sys.argv = [command, *flags]
    called.run(called.app)


def be_brisk() -> None:
    """In a process of one's own."""
    for name, value in BRISK.items():
        module, attribute = name.rsplit(".", 1)
        setattr(import_module(module), attribute, value)


def draw_slowly(folder: Path) -> None:
    """To be prepared: drawing the front of a search that was stopped takes longer than a test, and leaves its marks."""
    import hybridnas.report.figures

    def draw_front(run: object) -> None:
        (folder / "drawing").touch()
        time.sleep(SECONDS / 2)
        (folder / "drawn").touch()

    hybridnas.report.figures.draw_front = draw_front  # type: ignore[assignment]


def wait_for_rows(table: Path, count: int) -> None:
    """Until a CSV with a header has so many."""
    wait_until(lambda: table.is_file() and len(table.read_text().splitlines()) > count)


def wait_until(there: Callable[[], bool]) -> None:
    """For as long as a test waits."""
    end = time.monotonic() + SECONDS
    while not there():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)
