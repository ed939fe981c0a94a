"""`python -m hybridnas.dashboard RUN`: look at a run's study in optuna-dashboard, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridnas.cli import run
from hybridnas.collecting import importing

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def dashboard(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; the search may be running.")],
    host: Annotated[str, typer.Option(help="Which address to answer at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Which port; 0 takes a free one.", min=0, max=65535)] = 8080,
) -> None:
    """Open optuna-dashboard on the study of a run, until Ctrl-C. It may look and not change: nothing can be lost."""
    with importing():
        from hybridnas.study.looking import serve

    serve(folder, host, port, lambda address: print(f"The study of {folder}: {address} (Ctrl-C ends)", flush=True))


if __name__ == "__main__":
    run(app)
