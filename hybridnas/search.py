"""`python -m hybridnas.search`: find the best architecture within a budget."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hybridnas.cli import PRECISION_HELP, RUNTIME_HELP, TARGET_HELP, option, run, wide_console
from hybridnas.collecting import importing

STARTED = time.monotonic()

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

GOAL, RUN, TRAINING, DEVICE = "What to search", "The run", "Short training", "Device"


@app.command()
def search(
    folder: Annotated[Path | None, typer.Argument(help="With --resume: the run folder (default: the newest).")] = None,
    budget_ms: Annotated[
        list[float] | None,
        option(help="Median latency allowed. With several targets: one for all, or one each.", panel=GOAL),
    ] = None,
    budget_macs: Annotated[float | None, option(help="Multiply-adds allowed, e.g. 5e6.", panel=GOAL)] = None,
    budget_params: Annotated[float | None, option(help="Parameters allowed, e.g. 1e6.", panel=GOAL)] = None,
    space: Annotated[
        str | None,
        option(
            help="A shipped space (tiny, hybrid, mobile, edge, server, small_data, coatnet) or a YAML file. "
            "Default: tiny up to 64 px, hybrid above.",
            panel=GOAL,
        ),
    ] = None,
    around: Annotated[
        str | None,
        option(help="Instead: the neighbours of a design of the zoo, or of an architecture.json.", panel=GOAL),
    ] = None,
    data: Annotated[
        str | None,
        option(
            help="A folder of class folders, a .csv of path and label, an .npz file, torchvision:NAME or hf:NAME. "
            "Default: embedded images.",
            panel=GOAL,
        ),
    ] = None,
    trials: Annotated[int | None, option(help="Stop after so many trained architectures.", panel=RUN)] = None,
    time: Annotated[
        str | None,
        option(
            help="All must end within this, e.g. 5m or 90s. Default without --trials: 4m30s, for images over 64 px 1h.",
            panel=RUN,
        ),
    ] = None,
    seed: Annotated[int | None, option(help="Of data split, proposals and trainings. Default: 0.", panel=RUN)] = None,
    out: Annotated[Path | None, option(help="The run folder. Default: runs/ and the time.", panel=RUN)] = None,
    resume: Annotated[
        bool,
        option(
            "--resume",
            help="Go on with a run; only --time, --trials, --workers, --executor, --ray-address, --storage, "
            "--baselines and --baseline-weights may change.",
            panel=RUN,
        ),
    ] = False,
    workers: Annotated[
        str | None,
        option(
            help="Processes that train, each with its share of the cores. Default: auto, which is 1, but on a CPU and "
            "for images up to 64 px one for each core, 4 at most.",
            panel=RUN,
        ),
    ] = None,
    executor: Annotated[
        str | None, option(help="Where workers run: local (default), or ray: on a Ray cluster.", panel=RUN)
    ] = None,
    ray_address: Annotated[
        str | None, option(help="Of the cluster, e.g. auto. Default: Ray is started here.", panel=RUN)
    ] = None,
    storage: Annotated[
        str | None,
        option(
            help="Share the trials with other searches: postgresql+psycopg://USER:PASSWORD@HOST/DATABASE.", panel=RUN
        ),
    ] = None,
    study: Annotated[
        str | None, option(help="With --storage: the name that these searches share. Default: hybridnas.", panel=RUN)
    ] = None,
    objective: Annotated[
        str | None,
        option(
            help="front: accuracy against latency (default); accuracy: the best within the budget; front+macs, "
            "front+params: with a third.",
            panel=GOAL,
        ),
    ] = None,
    enqueue: Annotated[
        list[str] | None,
        option(help="A design to try first: of the zoo, or an architecture.json. May be given often.", panel=RUN),
    ] = None,
    sampler: Annotated[
        str | None,
        option(
            help="What proposes: cost-aware, tpe, gp, nsga2, random. Default: auto, which is cost-aware, and with a "
            "third objective gp or tpe, by how long a training takes.",
            panel=RUN,
        ),
    ] = None,
    baselines: Annotated[
        str | None,
        option(
            help="What the winner is compared with, trained alike at the end: zoo: published designs (default); timm: "
            "timm's own models, fine-tuned where their weights can be had; none.",
            panel=RUN,
        ),
    ] = None,
    baseline_weights: Annotated[
        str | None,
        option(
            help="A folder with weights of timm's models, each NAME.safetensors, .bin or .pth: for --baselines timm.",
            panel=RUN,
        ),
    ] = None,
    epochs: Annotated[int | None, option(help="Of each short training. Default: 3.", panel=TRAINING)] = None,
    rungs: Annotated[
        str | None,
        option(
            help="Epochs after which trials are compared and the best third goes on, e.g. 1,3,9. Default: a third of "
            "--epochs, a third of that, and so on.",
            panel=TRAINING,
        ),
    ] = None,
    no_rungs: Annotated[bool, option("--no-rungs", help="Train all to the end.", panel=TRAINING)] = False,
    batch_size: Annotated[int | None, option(help="Images a training step. Default: 32.", panel=TRAINING)] = None,
    image_size: Annotated[
        int | None,
        option(help="Pixels a side; replaces the image sizes of the space. Default: the space's.", panel=TRAINING),
    ] = None,
    train_images: Annotated[
        int | None,
        option(help="At most so many training images, the same in every epoch. Default: 4000.", panel=TRAINING),
    ] = None,
    max_bad: Annotated[
        int | None,
        option(help="So many images that cannot be read are left out; one more ends it. Default: 10.", panel=TRAINING),
    ] = None,
    flip: Annotated[
        bool | None,
        option("--flip/--no-flip", help="Mirror images at random. Default: no.", panel=TRAINING),
    ] = None,
    device: Annotated[
        str | None, option(help="Trains: cpu, cuda, cuda:N, mps. Default: the best.", panel=DEVICE)
    ] = None,
    target: Annotated[
        list[str] | None,
        option(
            help=f"{TARGET_HELP} May be given several times. Default: the best device here.",
            panel=DEVICE,
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        option(
            help=f"{RUNTIME_HELP} Default: torch.",
            panel=DEVICE,
        ),
    ] = None,
    precision: Annotated[str | None, option(help=f"{PRECISION_HELP} Default: fp32.", panel=DEVICE)] = None,
    latency_batch_size: Annotated[int | None, option(help="Images a timed pass. Default: 1.", panel=DEVICE)] = None,
    threads: Annotated[int | None, option(help="CPU threads while timing. Default: all cores.", panel=DEVICE)] = None,
    frozen_table: Annotated[
        bool | None,
        option(
            "--frozen-table",
            help="Latencies are what the table of parts says when the run begins; nothing is timed before the end, and "
            "a run repeats exactly.",
            panel=DEVICE,
        ),
    ] = None,
) -> None:
    """Find the architecture that mixes convolution, window and global attention best within a budget.

    Draws the Pareto front of accuracy and latency and exports the best network. Exit codes: 0 done, 2 wrong input,
    3 no design holds the budget, 130 stopped by Ctrl-C (go on with --resume).
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if value not in (None, [])}
    for name in ("budget_ms", "target"):
        if name in given:
            given[name] = given[name][0] if len(given[name]) == 1 else tuple(given[name])
    if "enqueue" in given:
        given["enqueue"] = tuple(given["enqueue"])
    if given.pop("no_rungs"):
        if rungs:
            raise typer.BadParameter("--no-rungs and --rungs exclude each other: give one of them.")
        given["rungs"] = ()
    if not resume:
        given.setdefault("workers", "auto")
    del given["resume"]
    position = given.pop("folder", None)
    if position is not None:
        if not resume or given.setdefault("out", position) != position:
            raise typer.BadParameter(f"unexpected argument {position}: a run folder stands after --resume, or --out.")

    # Only now: torch, timm and optuna take ten seconds, which --help and a mistyped flag need not pay.
    from hybridnas.config import SearchConfig

    config = SearchConfig.checked(**given)
    if config.workers != 1 and config.executor == "local" and not resume:
        _prepare_workers()
    console = wide_console()
    with console.status("loading torch, timm and optuna"), importing():
        from hybridnas.pipeline import run_search

    run_search(config, resume=resume, console=console, started=STARTED)


def _prepare_workers() -> None:
    """What they are forked off imports beside this process, where there is a core for it."""
    if sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1:
        from hybridnas.study.forking import begin

        begin()


if __name__ == "__main__":
    run(app)
