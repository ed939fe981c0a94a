"""What the report command writes beside the figures of a run: single architectures, and several runs compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hybridnas.files import write_atomic
from hybridnas.report.drawing import architecture_figure
from hybridnas.report.progress import say
from hybridnas.report.runs import Comparison, runs_figure, runs_table
from hybridnas.report.style import save
from hybridnas.study.run import Run


def draw_trials(run: Run, numbers: Sequence[int]) -> None:
    """Draw the architectures of some trials into a run's figures.

    Raises:
        RunError: no trial has such a number.
    """
    for number in numbers:
        figure = architecture_figure(run, number)
        save(figure, *(run.folder / "figures" / f"architecture_{number}.{kind}" for kind in ("png", "svg")))


def show_comparison(comparison: Comparison, out: Path, console: Console) -> None:
    """Print the table of several runs; write their figure, and all that was trained as a table."""
    console.print(runs_table(comparison))
    for note in comparison.notes:
        say(console, f"note: {note}")
    save(runs_figure(comparison), out / "fronts.png", out / "fronts.svg")
    columns = ["run", "on_joint_front", "cost"]
    rows = comparison.trials[columns + [name for name in comparison.trials.columns if name not in columns]]
    write_atomic(out / "trials.csv", rows.to_csv(index=False))
    say(console, f"Written: {out}/fronts.png, {out}/fronts.svg, {out}/trials.csv")
