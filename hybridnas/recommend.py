"""`python -m hybridnas.recommend --situation mobile`: which known design to start from on this device."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated

import typer

from hybridnas.cli import PRECISION_HELP, RUNTIME_HELP, TARGET_HELP, run
from hybridnas.collecting import importing

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def recommend(
    situation: Annotated[
        str, typer.Option(help="server, backbone, general, mobile, edge, small-data or self-supervised.")
    ],
    budget_ms: Annotated[float | None, typer.Option(help="Milliseconds that the median may take.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a pass.", min=1)] = 1,
    target: Annotated[str | None, typer.Option(help=f"{TARGET_HELP} Default: the best here.")] = None,
    runtime: Annotated[str, typer.Option(help=RUNTIME_HELP)] = "torch",
    precision: Annotated[str, typer.Option(help=PRECISION_HELP)] = "fp32",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.", min=1)] = None,
) -> None:
    """Time the designs that suit a situation on this machine, and say which one to start from."""
    from hybridnas.recommending import measure_and_recommend, situation_of

    situation_of(situation)

    with importing():
        from hybridnas.profiling import profile_models
        from hybridnas.report.comparison import recommendation_table, show

    def measure(names: tuple[str, ...]) -> Mapping[str, float]:
        rows = profile_models(
            names,
            batch_size=batch_size,
            target=target,
            runtime=runtime,
            precision=precision,
            threads=threads,
            tell=lambda line: typer.echo(line, err=True),
        )
        return dict(zip(rows.name, rows.latency_ms_p50, strict=True))

    answer, latency_ms = measure_and_recommend(situation, measure, budget_ms)
    space = situation_of(situation).space
    measured = {
        "--budget-ms": budget_ms and f"{budget_ms:g}",
        "--target": target,
        "--runtime": runtime if runtime != "torch" else None,
        "--precision": precision if precision != "fp32" else None,
        "--latency-batch-size": batch_size if batch_size > 1 else None,
        "--threads": threads,
    }
    given = "".join(f" {flag} {shlex.quote(str(value))}" for flag, value in measured.items() if value)
    show(
        recommendation_table(situation, latency_ms, answer, budget_ms),
        f"Start from {answer.design}: {answer.reason}.",
        f"Search designs of its kind: python -m hybridnas.search --space {space}{given}",
        f"Search its neighbours only: python -m hybridnas.search --around {answer.design}{given}",
    )


if __name__ == "__main__":
    run(app)
