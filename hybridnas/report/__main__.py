"""`python -m hybridnas.report RUN...`: print and draw runs again, from their folders alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridnas.cli import run, wide_console
from hybridnas.collecting import importing

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    trial: Annotated[
        list[int] | None,
        typer.Option(help="Draw the architecture of this trial, too; may be given often.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where a comparison of several runs goes.")] = Path("comparison"),
) -> None:
    """Print the front of each run, draw its figures and its explorer.html again; put several runs on one front."""
    with importing():
        from hybridnas.report.figures import drawn_beside
        from hybridnas.report.progress import say
        from hybridnas.report.runs import check_trained, compare_runs
        from hybridnas.report.showing import draw_trials, show_comparison
        from hybridnas.report.tables import front_table, summary
        from hybridnas.study.run import Run

    if trial and len(folders) > 1:
        raise typer.BadParameter("--trial is of one run, and several are given.")
    runs = [Run.load(folder) for folder in folders]
    for found in runs:
        check_trained(found)
    comparison = compare_runs(runs) if len(runs) > 1 else None
    console = wide_console()
    for found in runs:
        console.print(front_table(found))
        say(console, summary(found))
        draw_trials(found, trial or [])
        with drawn_beside(found, found.folder / "figures") as drawn:
            with importing():  # torch, too: not before drawing began
                from hybridnas.report.explorer import write_explorer

            write_explorer(found, found.folder / "explorer.html", [other for other in runs if other is not found])
            left_out = drawn()
        for name, reason in left_out.items():
            say(console, f"not drawn: {name}: {reason}")
        say(console, f"Written: {found.folder}/pareto.png, {found.folder}/figures, {found.folder}/explorer.html")
    if comparison:
        show_comparison(comparison, out, console)


if __name__ == "__main__":
    run(app)
