"""`python -m hybridnas.train ARCH --data ...`: train an architecture to the end, or fine-tune one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hybridnas.cli import option, run, wide_console
from hybridnas.collecting import importing

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

WHAT, RECIPE, DATA = "Where it begins and ends", "Recipe", "Data and device"


@app.command()
def train(
    architecture: Annotated[
        str | None,
        typer.Argument(
            metavar="ARCH", help="The folder of a run or of a training, an architecture.json, or a design of the zoo."
        ),
    ] = None,
    data: Annotated[
        str | None, option(help="As of search. Default: a run's own, else embedded images.", panel=DATA)
    ] = None,
    epochs: Annotated[int | None, option(help="Default: 30.", panel=RECIPE)] = None,
    pretrained: Annotated[
        str | None,
        option(help="Weights to begin with: a bundle's weights.safetensors, timm's file, or 'timm'.", panel=WHAT),
    ] = None,
    freeze_backbone: Annotated[
        bool | None,
        option(
            "--freeze-backbone",
            help="Only a new head learns. Weights: those asked for, or beside ARCH, or timm's of a zoo design.",
            panel=WHAT,
        ),
    ] = None,
    batch_size: Annotated[int | None, option(help="Images a step. Default: 64.", panel=RECIPE)] = None,
    learning_rate: Annotated[
        float | None,
        option(help="For a batch of 128. Default: 0.002, from weights 0.0003, of a head alone 0.003.", panel=RECIPE),
    ] = None,
    augment: Annotated[
        str | None,
        option(
            help="none, light (crops, RandAugment) or strong (and mixup, cutmix, erasing). "
            "Default: strong from 50 epochs on, else light.",
            panel=RECIPE,
        ),
    ] = None,
    flip: Annotated[
        bool | None, option("--flip/--no-flip", help="Mirror images at random. Default: no.", panel=RECIPE)
    ] = None,
    image_size: Annotated[int | None, option(help="Pixels a side. Default: ARCH's own.", panel=RECIPE)] = None,
    train_images: Annotated[int | None, option(help="At most so many. Default: all.", panel=DATA)] = None,
    max_bad: Annotated[
        int | None, option(help="So many unreadable images are left out. Default: 10.", panel=DATA)
    ] = None,
    device: Annotated[str | None, option(help="cpu, cuda, cuda:N, mps. Default: the best.", panel=DATA)] = None,
    loaders: Annotated[
        int | None, option(help="Processes that augment images. Default: none on a CPU, up to 8 else.", panel=DATA)
    ] = None,
    seed: Annotated[int | None, option(help="Of split, weights and augmentation. Default: 0.", panel=WHAT)] = None,
    out: Annotated[Path | None, option(help="Default: trainings/ and the time.", panel=WHAT)] = None,
    resume: Annotated[
        bool, option("--resume", help="Go on with the newest, or the one in --out, after its last epoch.", panel=WHAT)
    ] = False,
) -> None:
    """Train an architecture to the end, or fine-tune it, and test it once.

    The average of the weights is evaluated after each epoch on held-out images; the best epoch is exported. Exit codes:
    0 done, 2 wrong input, 130 stopped by Ctrl-C (go on with --resume).
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if value is not None}
    del given["resume"]
    if architecture is None and not resume:
        raise typer.BadParameter(
            "ARCH is missing: the folder of a run or of a training, an architecture.json, or a design of the zoo."
        )
    if resume and out is None and architecture is not None and (Path(architecture) / "checkpoint.pt").is_file():
        raise typer.BadParameter(
            f"ARCH is what was trained; to go on with a training, say --resume --out {architecture}."
        )

    from hybridnas.config import TrainConfig

    config = TrainConfig.checked(**given)
    console = wide_console()
    with console.status("loading torch and timm"), importing():
        from hybridnas.full_training import train_model

    train_model(config, resume=resume, console=console)


if __name__ == "__main__":
    run(app)
