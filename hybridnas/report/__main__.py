"""`python -m hybridnas.report RUN`: print and draw a run again, from its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridnas.cli import run

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Print the front of a run, and draw its pareto.png and explorer.html again."""
    from rich.console import Console

    from hybridnas.errors import RunError
    from hybridnas.report.explorer import write_explorer
    from hybridnas.report.figures import draw_pareto
    from hybridnas.report.tables import front_table, summary
    from hybridnas.study.run import Run

    found = Run.load(folder)
    if found.front().empty:
        raise RunError(f"{folder} has no trained trial to report.")
    console = Console()
    console.print(front_table(found))
    console.print(summary(found), highlight=False)
    draw_pareto(found, folder / "pareto.png")
    write_explorer(found, folder / "explorer.html")
    console.print(f"Written: {folder}/pareto.png, explorer.html", highlight=False)


if __name__ == "__main__":
    run(app)
