"""`python -m hybridnas.replay`: compare samplers on recorded trainings, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridnas.cli import run, wide_console
from hybridnas.collecting import importing

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def replay(
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            help="tpe, gp, nsga2, random or cost-aware; may be given often. Default: all.", show_default=False
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Searches of each.", min=1)] = 10,
    trainings: Annotated[int, typer.Option(help="Whole trainings that a search may spend.", min=1)] = 80,
    budget_ms: Annotated[
        float | None, typer.Option(help="What a network may take. Default: no bound.", min=0.001, show_default=False)
    ] = None,
    rungs: Annotated[
        str | None,
        typer.Option(help="Epochs after which trials are compared. Default: as in a search.", show_default=False),
    ] = None,
    no_rungs: Annotated[bool, typer.Option("--no-rungs", help="Train all to the end.")] = False,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Train what is over the budget, too.")] = False,
    no_seeding: Annotated[bool, typer.Option("--no-seeding", help="Begin without the known layouts.")] = False,
    data: Annotated[
        str, typer.Option(help="What was trained on; a search needs all architectures on record.")
    ] = "synthetic",
    runtime: Annotated[str, typer.Option(help="What was timed: torch or onnxruntime.")] = "torch",
    records: Annotated[
        Path | None, typer.Option(help="A folder of records. Default: those of the package.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the curves are drawn: .png or .svg.")] = Path("replay.png"),
) -> None:
    """Search a closed space of 256 architectures, each trained and timed once for all, and print who finds most.

    The hypervolume of what a search trained to the end is compared with that of the true front, after so many
    trainings; a training that was stopped at a rung counts by its epochs.
    """
    from hybridnas.config import counts

    with importing():
        from hybridnas.replaying import compare_samplers

    if rungs and no_rungs:
        raise typer.BadParameter("--no-rungs and --rungs exclude each other: give one of them.")
    compare_samplers(
        sampler or None,
        seeds=seeds,
        trainings=trainings,
        budget_ms=budget_ms,
        rungs=() if no_rungs else counts("--rungs", rungs) if rungs else None,
        gate=not no_gate,
        seeding=not no_seeding,
        data=data,
        runtime=runtime,
        folder=records,
        out=out,
        console=wide_console(),
    )


if __name__ == "__main__":
    run(app)
