"""The main job from settings to a finished run folder: read, search, confirm, export, report."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from hybridnas import zoo
from hybridnas.architecture import Architecture
from hybridnas.config import DEFAULT_SECONDS, SearchConfig
from hybridnas.cost.latency import Timer, available_cores, best_device, local_device
from hybridnas.cost.measure import Budget
from hybridnas.data.dataset import Dataset
from hybridnas.data.sources import open_source
from hybridnas.errors import ConfigError, RunError
from hybridnas.export.bundle import export_bundle
from hybridnas.files import write_atomic
from hybridnas.proxy.training import DEFAULT_EPOCHS, Recipe, Trainer
from hybridnas.report.figures import draw_pareto
from hybridnas.report.progress import SearchDisplay
from hybridnas.report.tables import front_table, summary
from hybridnas.space import SearchSpace
from hybridnas.space.around import around
from hybridnas.study.confirm import LONGER, Confirmed, confirm
from hybridnas.study.loop import Search
from hybridnas.study.run import Run

#: Of the allowed time, what is kept for confirming; and the seconds that export and drawing take.
CONFIRM_SHARE = 0.2
FINISH_S = 8.0

#: The largest image side that the space for small images is meant for.
TINY_LIMIT = 64


def run_search(
    config: SearchConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    started: float | None = None,
) -> Run:
    """Search, confirm the best, export it, and leave a run folder.

    Args:
        config: The settings. With `resume`, those that were not given are taken from the run.
        resume: Go on with the run in `config.out` (default: the newest under runs/).
        console: Where progress and results are printed; None prints nothing.
        started: `time.monotonic()` when the command began, from which `config.time` counts; None is now.

    Raises:
        UserError: something in the settings, the space or the data is wrong.
        BudgetError: no design holds the budget.
        KeyboardInterrupt: stopped; all finished trials are on disk and the front is drawn.
    """
    started = time.monotonic() if started is None else started
    console = console or Console(quiet=True)
    config, folder = _open(config, resume=resume)

    source = open_source(config.data)
    native = config.image_size or source.native_size or 0
    config = _resolved(config, space="tiny" if native <= TINY_LIMIT else "hybrid")
    space, designs = _space(config, folder / "space.yaml" if resume else None)
    device = local_device(str(config.device))
    dataset = source.load(max(space.file.image_size), config.seed, config.train_images)
    console.print(f"data   {_about(dataset)}")
    console.print(
        f"space  {space.name}: {space.size:.3g} architectures, {len(space.layouts())} known layouts"
        + (f", {len(designs)} published designs" if designs else "")
    )

    timer = _timer(config, folder / "environment.json" if resume else None)
    if (slowdown := timer.slowdown_by_threads()) > 1.5:
        console.print(
            f"warning: the machine is busy: {timer.threads} threads are {slowdown:.1f} times slower than one. "
            "Latencies will be too high; free its cores, or start with --threads 1.",
            style="bold",
        )
    budget = Budget(config.budget_ms, config.budget_macs, config.budget_params)
    console.print(
        f"target {timer.target}, threads {timer.threads}, batch {timer.batch_size}; budget {budget}; "
        f"training on {device}"
    )
    if not resume:
        _begin(folder, config, space, timer, dataset)
    elif json.loads((folder / "environment.json").read_bytes())["data_fingerprint"] != dataset.fingerprint():
        raise RunError(f"--data {config.data} is not what it was when {folder} began; put it back to go on.")
    console.print(f"run    {folder}", soft_wrap=True)

    trainer = Trainer(dataset, device, threads=available_cores())
    assert config.epochs and config.batch_size
    recipe = Recipe(epochs=config.epochs, batch_size=config.batch_size, flip=config.flip)
    end = started + config.time if config.time else float("inf")
    reserve = FINISH_S + (CONFIRM_SHARE * config.time if config.time else 0.0)

    with SearchDisplay(console, config, started) as display:
        search = Search(folder, space, budget, timer, trainer, recipe, config.seed, display.update, designs)
        before = len(search.records)
        with _drawn_if_stopped(folder):
            search.run(trials=config.trials, seconds_left=lambda: end - reserve - time.monotonic())
            if not any(record.status == "complete" for record in search.records):
                raise _nothing_trained(search, config)
            if len(search.records) > before or not (folder / "result.json").is_file():
                confirmed = confirm(search, lambda: end - FINISH_S - time.monotonic(), display.say)
                _finish(folder, confirmed, trainer, search)
    run = Run.load(folder)
    draw_pareto(run, folder / "pareto.png")
    console.print(front_table(run))
    console.print(summary(run), highlight=False)
    console.print(f"Written: {folder}/best (model.py loads it), trials.csv, pareto.csv, pareto.png", highlight=False)
    return run


def _open(config: SearchConfig, *, resume: bool) -> tuple[SearchConfig, Path]:
    """The settings in force and the run folder: a new one's name, or an old one's path."""
    if not resume:
        if config.trials is None and config.time is None:
            config = config.model_copy(update={"time": DEFAULT_SECONDS})
        folder = config.out or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}"
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--out {folder} exists already; choose another name, or go on with it by --resume.")
        return config, folder
    folder = config.out or _newest_run()
    stored = Run.load(folder).config
    config.check_resumable(stored)
    stops = config.model_fields_set & {"trials", "time"}
    given: dict[str, Any] = {name: getattr(config, name) for name in stops}
    if given:  # a new stop replaces the old one, whichever kind it was
        stored = stored.model_copy(update={"trials": None, "time": None})
    return stored.model_copy(update={**given, "out": folder}), folder


def _resolved(config: SearchConfig, *, space: str) -> SearchConfig:
    """The settings with every default said, so that a run does not change its meaning with a new version."""
    defaults = {
        "space": None if config.around else space,
        "epochs": DEFAULT_EPOCHS,
        "batch_size": Recipe.batch_size,
        "device": best_device(),
        "target": best_device(),
        "threads": available_cores(),
    }
    return config.model_copy(update={n: value for n, value in defaults.items() if getattr(config, n) is None})


def _nothing_trained(search: Search, config: SearchConfig) -> ConfigError:
    """Why a search that ended has no accuracy at all."""
    failed = [record for record in search.records if record.status == "failed"]
    if failed:
        return ConfigError(f"All {len(failed)} trainings failed; the last: {failed[-1].reason}.")
    return ConfigError(
        f"--time {config.time or 0:g}: no training ended within it; allow more time, fewer --epochs or fewer "
        "--train-images."
    )


def _newest_run() -> Path:
    found = sorted(Path("runs").glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError("--resume: there is no run folder under runs/; name one with --out.")
    return found[-1].parent


def _space(config: SearchConfig, snapshot: Path | None) -> tuple[SearchSpace, dict[str, Architecture]]:
    """The space to search, and the published designs in it, by name.

    A run that goes on takes the space from its own folder, whatever became of the file since.
    """
    if config.space and config.around:
        raise ConfigError("--space and --around exclude each other: give one of them.")
    size = config.image_size
    if config.around:
        name = Path(config.around).stem
        if snapshot:
            return _stored(snapshot, f"around_{name}"), {}
        own = zoo.read(config.around)
        design = replace(own, image_size=size or own.image_size)
        return around(name, design), {name: design}
    assert config.space
    space = _stored(snapshot, Path(config.space).stem) if snapshot else SearchSpace.load(config.space)
    if size:
        space = space.with_image_size(size)
    return space, dict(map(partial(_held_design, space), space.holds))


def _held_design(space: SearchSpace, name: str) -> tuple[str, Architecture]:
    """A published design, at the image size of the space that is nearest to its own."""
    design = zoo.load(name)
    size = min(space.file.image_size, key=lambda size: abs(size - design.image_size))
    return name, replace(design, image_size=size)


def _stored(snapshot: Path, name: str) -> SearchSpace:
    try:
        text = snapshot.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{snapshot} cannot be read: {error}.") from None
    return SearchSpace.parse(text, name=name, file=str(snapshot))


def _timer(config: SearchConfig, environment: Path | None) -> Timer:
    stored = json.loads(environment.read_bytes()) if environment else {}
    assert config.target and config.threads
    return Timer(
        config.target,
        batch_size=config.latency_batch_size,
        threads=config.threads,
        reference_ms=stored.get("reference_ms"),
    )


def _begin(folder: Path, config: SearchConfig, space: SearchSpace, timer: Timer, dataset: Dataset) -> None:
    """Write what a resumed run needs; config.json last, as it makes the folder a run folder."""
    environment: dict[str, Any] = timer.environment() | {
        "data_fingerprint": dataset.fingerprint(),
        "versions": {name: importlib.metadata.version(name) for name in ("hybridnas", "timm", "optuna")},
    }
    write_atomic(folder / "space.yaml", space.text)
    write_atomic(folder / "environment.json", json.dumps(environment, indent=2))
    write_atomic(folder / "config.json", config.model_copy(update={"out": None}).model_dump_json(indent=2))


def _finish(folder: Path, confirmed: list[Confirmed], trainer: Trainer, search: Search) -> None:
    winner = confirmed[0]
    dataset = trainer.dataset
    test_accuracy = trainer.evaluate(winner.model, "test")
    export_bundle(
        winner.model.cpu(),
        folder / "best",
        class_names=dataset.class_names,
        mean=trainer.mean.tolist(),
        std=trainer.std.tolist(),
    )
    result = {
        "winner": winner.record.number,
        "num_classes": dataset.num_classes,
        "latency_ms_p50": winner.latency.p50,
        "latency_ms_p95": winner.latency.p95,
        "latency_ms_raw_p50": winner.latency.raw_p50,
        "accuracy": winner.accuracy,
        "epochs": search.recipe.epochs * (LONGER if winner.longer else 1),
        "test_accuracy": test_accuracy,
        "confirmed": [
            {"number": c.record.number, "accuracy": c.accuracy, "longer": c.longer, "latency_ms_p50": c.latency.p50}
            for c in confirmed
        ],
    }
    write_atomic(folder / "result.json", json.dumps(result, indent=2))
    write_atomic(folder / "pareto.csv", Run.load(folder).front().to_csv(index=False))


@contextmanager
def _drawn_if_stopped(folder: Path) -> Iterator[None]:
    """On Ctrl-C, leave a picture of what was found so far."""
    try:
        yield
    except KeyboardInterrupt:
        if (folder / "trials.csv").is_file():
            draw_pareto(Run.load(folder), folder / "pareto.png")
        raise


def _about(dataset: Dataset) -> str:
    parts = f"{len(dataset.train)} train, {len(dataset.validation)} validation, {len(dataset.test)} test images"
    return f"{dataset.name}: {parts}, {dataset.num_classes} classes"
