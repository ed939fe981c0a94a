"""`python -m hybridnas.profile NAME...`: params, MACs and latency of networks, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hybridnas.cli import PRECISION_HELP, RUNTIME_HELP, TARGET_HELP, run
from hybridnas.collecting import importing
from hybridnas.errors import ConfigError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def profile(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Designs of the zoo, timm:NAME, or architecture.json files."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Rank the whole zoo on this device, fastest first.")] = False,
    image_size: Annotated[int | None, typer.Option(help="Pixels a side. Default: each network's own.", min=1)] = None,
    num_classes: Annotated[int, typer.Option(help="Scores of our networks; timm's have theirs.", min=1)] = 1000,
    batch_size: Annotated[int, typer.Option(help="Images a pass.", min=1)] = 1,
    target: Annotated[str | None, typer.Option(help=f"{TARGET_HELP} Default: the best here.")] = None,
    runtime: Annotated[str, typer.Option(help=RUNTIME_HELP)] = "torch",
    precision: Annotated[str, typer.Option(help=PRECISION_HELP)] = "fp32",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")] = False,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="Whether to time, or count only.")] = True,
    draw: Annotated[
        Path | None,
        typer.Option(help="A folder for drawings of the architectures, with the stages' shares of latency."),
    ] = None,
) -> None:
    """Measure networks on this machine and print them side by side.

    Of ours the deploy form is measured: branches fused, batch norm folded.
    """
    from hybridnas import zoo

    if bool(names) == every:
        raise ConfigError("Give names or --all, one of the two; the zoo has " + ", ".join(zoo.names()) + ".")
    wanted = list(zoo.names()) if every else list(dict.fromkeys(names or []))

    with importing():
        from hybridnas.profiling import profile_models

    table = profile_models(
        wanted,
        image_size=image_size,
        num_classes=num_classes,
        batch_size=batch_size,
        target=target,
        runtime=runtime,
        precision=precision,
        threads=threads,
        latency=latency,
        draw=draw,
        tell=lambda line: typer.echo(line, err=True),
    )
    if every:
        table = table.sort_values("latency_ms_p50" if latency else "macs", ignore_index=True)
    if as_json:
        typer.echo(json.dumps(json.loads(table.to_json(orient="records", double_precision=6)), indent=2))
    else:
        from hybridnas.report.comparison import profile_table, show

        show(profile_table(table))


if __name__ == "__main__":
    run(app)
