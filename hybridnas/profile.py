"""`python -m hybridnas.profile ARCHITECTURE.json...`: params, MACs and latency side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridnas.cli import run

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def profile(
    files: Annotated[
        list[Path], typer.Argument(help="architecture.json files, such as a run's best/architecture.json.")
    ],
    batch_size: Annotated[int, typer.Option(help="Images a pass.", min=1)] = 1,
    target: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps. Default: the best.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
) -> None:
    """Measure architectures on this machine and print them side by side."""
    from hybridnas.architecture import Architecture
    from hybridnas.errors import ArchitectureError

    architectures = {}
    for file in files:
        try:
            architectures[str(file)] = Architecture.from_json(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ArchitectureError(f"{file} cannot be read: {error}.") from None

    from hybridnas.profiling import profile_models

    table = profile_models(architectures, batch_size=batch_size, target=target, threads=threads)
    typer.echo(table.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    run(app)
