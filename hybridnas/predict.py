"""`python -m hybridnas.predict BUNDLE IMAGE...`: what an exported network says of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridnas.cli import run, wide_console
from hybridnas.collecting import importing
from hybridnas.errors import DataError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def predict(
    bundle: Annotated[
        Path, typer.Argument(help="What export wrote, best/, or a run folder or training for its best/.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="What classifies: bundle (the weights, in torch), onnx or openvino. Default: the first that is there.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="So many classes of each image.", min=1)] = 3,
) -> None:
    """Classify images with an exported file. Nothing in it runs as code: model.py is left alone."""
    console = wide_console()
    with console.status("loading"):
        with importing():
            from hybridnas.predicting import Predictor, table

        predictor = Predictor.open(bundle, file_format)
    predictions, problems = [], []
    for path in images:
        try:
            predictions.append(predictor.classify(path, top))
        except DataError as error:
            problems.append(error)
    if predictions:
        console.print(table(predictor, predictions))
    for problem in problems[:-1]:
        typer.echo(f"hybridnas: {problem}", err=True)
    if problems:
        raise problems[-1]


if __name__ == "__main__":
    run(app)
