"""`python -m hybridnas.table`: what parts of networks cost on this machine, kept for every later search."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from hybridnas.cli import PRECISION_HELP, RUNTIME_HELP, TARGET_HELP, run
from hybridnas.collecting import importing
from hybridnas.errors import ConfigError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The table of what parts of networks cost on this machine: fill it ahead, see it, check it, forget it.",
)

Space = Annotated[str, typer.Argument(metavar="SPACE", help="A shipped space or a YAML file.")]
Target = Annotated[str | None, typer.Option(help=f"{TARGET_HELP} Default: the best here.")]
Runtime = Annotated[str, typer.Option(help=RUNTIME_HELP)]
Precision = Annotated[str, typer.Option(help=PRECISION_HELP)]
Threads = Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.", min=1)]
BatchSize = Annotated[int, typer.Option(help="Images a pass.", min=1)]
NumClasses = Annotated[int, typer.Option(help="Scores of the networks.", min=1)]


@app.command()
def build(
    space: Space,
    target: Target = None,
    runtime: Runtime = "torch",
    precision: Precision = "fp32",
    threads: Threads = None,
    batch_size: BatchSize = 1,
    num_classes: NumClasses = 1000,
    time: Annotated[str | None, typer.Option(help="Stop after so long, e.g. 10m. Default: when all is there.")] = None,
) -> None:
    """Count and time every part of a space that the table lacks; run again, it goes on where it was."""
    seconds = _seconds(time)

    from rich.console import Console

    with importing():
        from hybridnas.cost.table import Table
        from hybridnas.space import SearchSpace
        from hybridnas.tabling import fill_space, open_predictor

    found = SearchSpace.load(space)
    with closing(Table()) as table:
        predictor = open_predictor(
            table, target, runtime, precision, batch_size, threads, num_classes, max(found.file.image_size)
        )
        fill_space(predictor, found, Console(stderr=True), seconds=seconds)


@app.command()
def check(
    space: Space,
    num_networks: Annotated[int, typer.Option("-n", "--networks", help="So many random networks.", min=1)] = 20,
    target: Target = None,
    runtime: Runtime = "torch",
    precision: Precision = "fp32",
    threads: Threads = None,
    batch_size: BatchSize = 1,
    num_classes: NumClasses = 1000,
    seed: Annotated[int, typer.Option(help="Of the networks.", min=0)] = 0,
) -> None:
    """Predict random networks of a space, then time them, to see how far the table can be believed.

    Networks that were timed before are not drawn; the table learns from these afterwards.
    """
    from rich.console import Console

    with importing():
        from hybridnas.cost.table import Table
        from hybridnas.report.comparison import show
        from hybridnas.space import SearchSpace
        from hybridnas.tabling import check_space, check_table, open_predictor, summary

    found = SearchSpace.load(space)
    with closing(Table()) as table:
        predictor = open_predictor(
            table, target, runtime, precision, batch_size, threads, num_classes, max(found.file.image_size)
        )
        checked = check_space(predictor, found, Console(stderr=True), num_networks=num_networks, seed=seed)
    show(check_table(checked), summary(checked))


@app.command("show")
def show_contexts() -> None:
    """What the table holds: a line for each machine and setting that parts were timed on."""
    from hybridnas.cost.table import Table, code_digest

    with closing(Table()) as table:
        typer.echo(f"{table.path}: counts of {table.num_counts()} parts")
        for context, machine, num_parts, num_networks in table.contexts():
            versions = ", ".join(f"{name} {number}" for name, number in machine.get("versions", {}).items())
            old = "" if context.endswith(code_digest()) else "; of other code, no longer used"
            typer.echo(
                f"{context}: {machine['target']}, {machine['runtime']} {machine['precision']}, "
                f"batch {machine['batch_size']}, threads {machine['threads']}, "
                f"{machine.get('gpu') or machine.get('cpu') or 'unknown machine'}, {versions or 'no versions'}: "
                f"{num_parts} parts, {num_networks} networks{old}"
            )


@app.command()
def clear(
    context: Annotated[
        str | None, typer.Argument(help="As `show` prints it, or how it begins. Default: all, and the counts.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget what was timed in one context, or everything."""
    from hybridnas.cost.table import Table

    with closing(Table()) as table:
        found = table.context(context) if context else None
        what = f"what was timed in {found}" if found else f"everything in {table.path}"
        if not yes and not sys.stdin.isatty():
            raise ConfigError(f"Nobody can be asked here whether to forget {what}: give --yes.")
        if yes or typer.confirm(f"Forget {what}?"):
            table.clear(found)
            typer.echo(f"Forgotten: {what}.")


def _seconds(time: str | None) -> float | None:
    from hybridnas.config import parse_seconds

    try:
        seconds = parse_seconds(time)
    except ValueError as error:
        raise ConfigError(f"--time {error}.") from None
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ConfigError(f"--time must be over 0 and finite, got {time}.")
    return None if seconds is None else float(seconds)


if __name__ == "__main__":
    run(app)
