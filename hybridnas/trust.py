"""`python -m hybridnas.trust RUN`: how far the order of a search may be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridnas.cli import run
from hybridnas.collecting import importing

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def trust(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    networks: Annotated[int, typer.Option(help="So many of its trained networks.")] = 12,
    epochs: Annotated[
        int | None, typer.Option(help="Of each long training. Default: five times the search's.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each network.")] = 2,
) -> None:
    """Train some networks of a run much longer, and say whether the short trainings had put them in the right order.

    Networks of equal latency are compared, beside what counting multiply-adds or parameters would have said. Each
    training is kept as it ends: stopped by Ctrl-C, the same command goes on.
    """
    from rich.console import Console

    with importing():
        from hybridnas.trusting import trust_run

    console = Console()
    trust_run(folder, num_networks=networks, epochs=epochs, num_seeds=seeds, console=console)


if __name__ == "__main__":
    run(app)
