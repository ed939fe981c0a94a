"""All figures of a run, by the names of their files. Each is a function from a run to a matplotlib figure."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from matplotlib.figure import Figure

from hybridnas.errors import NotDrawn, UserError, WorkerError
from hybridnas.files import write_atomic
from hybridnas.report.agreement import latency_figure, proxy_figure
from hybridnas.report.drawing import architecture_figure
from hybridnas.report.fronts import macs_figure, pareto_figure
from hybridnas.report.history import history_figure
from hybridnas.report.importances import importances_figure
from hybridnas.report.operators import operators_figure
from hybridnas.report.style import save
from hybridnas.study.forking import interrupts_held
from hybridnas.study.run import Run

FIGURES: dict[str, Callable[[Run], Figure]] = {
    "pareto": pareto_figure,
    "pareto_macs": macs_figure,
    "history": history_figure,
    "operators": operators_figure,
    "latency": latency_figure,
    "proxy": proxy_figure,
    "importances": importances_figure,
    "architecture": architecture_figure,
}
#: Beside the tables of a run, the one that is looked at first.
FIRST = "pareto.png"
#: Trials from which on a process of its own, which takes three seconds to begin, draws beside what else there is to do.
MANY_TRIALS = 3000


def draw_front(run: Run) -> None:
    """Write the front alone, which is quick: as `pareto.png` into the run's own folder."""
    save(pareto_figure(run), run.folder / FIRST)


def draw_all(run: Run, folder: Path) -> dict[str, str]:
    """Write every figure as PNG and SVG, and the front as `pareto.png` into the run's own folder, too.

    A figure that cannot be drawn keeps no other from being drawn.

    Args:
        run: With a trial that was trained to the end.
        folder: Where they go.

    Returns:
        Figures that there is nothing to draw for, with the reasons.

    Raises:
        DiskFullError: there is no room for one.
        Exception: what a figure failed with, the last if there were several, after all others are drawn.
    """
    left_out: dict[str, str] = {}
    failure: Exception | None = None
    for name, draw in FIGURES.items():
        png, svg = paths = [folder / f"{name}.png", folder / f"{name}.svg"]
        try:
            figure = draw(run)
            save(figure, png)
            if name == "pareto":
                write_atomic(run.folder / FIRST, png.read_bytes())
            save(figure, svg)
        except NotDrawn as reason:
            left_out[name] = str(reason)
            for path in paths:  # of an earlier state of the run
                path.unlink(missing_ok=True)
        except UserError:
            raise
        except Exception as error:
            failure = error
    if failure:
        raise failure
    return left_out


@contextmanager
def drawn_beside(run: Run, folder: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """Draw all beside what is done within, where a run is long enough for that to pay; else before.

    Yields:
        What waits for the end of it, and gives and raises what `draw_all` does.
    """
    if len(run.trials) < MANY_TRIALS:
        left_out = draw_all(run, folder)
        yield lambda: left_out
        return
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    # It reads the run itself: starting it waits until it has read what it is given, and it imports pandas before that.
    drawer = context.Process(target=_draw_and_tell, args=(there, run.folder, folder), daemon=True)
    try:
        with interrupts_held():
            drawer.start()
        there.close()  # so that its end is noticed
        yield partial(_told, here, run)
    finally:
        if drawer.pid:
            drawer.terminate()
            drawer.join()


def _draw_and_tell(connection: Connection, run: Path, folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # half a file is deleted
    with suppress(KeyboardInterrupt):
        told: dict[str, str] | Exception
        try:
            told = draw_all(Run.load(run), folder)
        except Exception as error:
            told = error
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which may come while this process ends by itself
        connection.send(told)


def _told(connection: Connection, run: Run) -> dict[str, str]:
    try:
        left_out = connection.recv()
    except EOFError:
        raise WorkerError(f"{run.folder}: the process that draws ended; there may be too little memory.") from None
    if isinstance(left_out, Exception):
        raise left_out
    return cast(dict[str, str], left_out)
