"""`python -m hybridnas.export RUN`: the networks of a run, or a training, as files that stand alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridnas.cli import run, wide_console
from hybridnas.collecting import importing

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or that of a training.")],
    trial: Annotated[int | None, typer.Option(help="Its number. Default: the winner.", show_default=False)] = None,
    all_front: Annotated[
        bool, typer.Option("--all-front", help="All trials of the front.", show_default=False)
    ] = False,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Some of bundle,onnx,torch-export,torchscript,openvino. Default: the first three, onnx where its "
            "packages are there; the bundle is always written.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: exports/ and the time.", show_default=False)] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the run's images lie, if not where they did.", show_default=False)
    ] = None,
) -> None:
    """Write a network as files that need no hybridnas, each read back and compared with what was trained.

    Exit codes: 0 done, 1 a file did not agree and was deleted, 2 wrong input.
    """
    console = wide_console()
    with console.status("loading torch and timm"), importing():
        from hybridnas.exporting import export_run

    done = export_run(folder, trial=trial, all_front=all_front, formats=formats, out=out, data=data, console=console)
    if not all(each.agrees for each in done):
        raise typer.Exit(1)


if __name__ == "__main__":
    run(app)
