"""The main job from settings to a finished run folder: read, search, confirm, export, report."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hybridnas import zoo
from hybridnas.architecture import Architecture
from hybridnas.config import DEFAULT_SECONDS, SearchConfig
from hybridnas.cost.latency import Timer, available_cores
from hybridnas.cost.measure import Budget, Costing
from hybridnas.cost.reference import reference_for
from hybridnas.cost.runtimes import Setting
from hybridnas.cost.table import Table
from hybridnas.cost.targets import best_device, local_device
from hybridnas.data.dataset import Dataset
from hybridnas.data.loading import Loading, Source
from hybridnas.data.sources import open_source
from hybridnas.errors import ArchitectureError, ConfigError, RunError, SpaceError, TargetError
from hybridnas.files import write_atomic
from hybridnas.finishing import finish_run
from hybridnas.proxy.rungs import rungs_of
from hybridnas.proxy.training import DEFAULT_EPOCHS, Recipe, Trainer, quickest_num_threads
from hybridnas.report.figures import draw_pareto
from hybridnas.report.progress import SearchDisplay, say, telling
from hybridnas.report.tables import front_table, summary
from hybridnas.space import SearchSpace
from hybridnas.space.around import around
from hybridnas.study.loop import Search
from hybridnas.study.objective import Objective
from hybridnas.study.run import Run, free_folder, newest_folder
from hybridnas.study.storage import Storage
from hybridnas.working import open_places, share_of_cores

#: Where runs lie that were not given a folder.
RUNS = Path("runs")

#: Of the allowed time, what is kept for confirming; and the seconds that exporting, timing what was exported and
#: drawing take, with an ONNX file and without.
CONFIRM_SHARE = 0.2
FINISH_S, FINISH_ONNX_S = 22.0, 40.0

#: By what share a machine may have become slower or faster without a warning.
DRIFT = 0.1

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
    space, designs = _stored_space(config, folder) if resume else _space(config)
    device = local_device(str(config.device))
    dataset = _load(source, config, max(space.file.image_size), console)
    console.print(
        f"space  {space.name}: {space.size:.3g} architectures, {len(space.layouts())} known layouts"
        + (f", {len(designs)} designs to try first" if designs else "")
    )

    timers = _timers(config, max(space.file.image_size), folder / "environment.json" if resume else None, console)
    budget = Budget(config.budget_ms, config.budget_macs, config.budget_params)
    for timer in timers:
        console.print(f"target {_about_timer(timer)}", soft_wrap=True)
    console.print(f"budget {budget}; training on {device}")
    table = Table()
    if not resume:
        _begin(folder, config, space, designs, timers, dataset)
    else:
        _check_unchanged(dataset, config, folder)
    console.print(f"run    {folder}", soft_wrap=True)

    trainer = _trainer(dataset, device, folder, workers=config.workers)
    recipe = recipe_of(config)
    end = started + config.time if config.time else float("inf")
    finish = FINISH_ONNX_S if timers[0].setting.takes_file else FINISH_S
    reserve = finish + (CONFIRM_SHARE * config.time if config.time else 0.0)

    places = open_places(config, trainer, max(space.file.image_size), console)
    with closing(table), closing(places), SearchDisplay(console, config, started) as display:
        costing = Costing(timers, dataset.num_classes, table)
        objective = Objective(config.objective)
        assert config.rungs
        search = Search(
            Storage(folder, len(config.rungs), objective.directions),
            space,
            budget,
            costing,
            trainer,
            recipe,
            config.rungs,
            config.seed,
            display.update,
            designs,
            config.sampler,
            objective,
            display.say,
            started,
            places,
        )
        before = list(search.records)
        search.spent["starting"] = time.monotonic() - started
        with _drawn_if_stopped(folder):
            search.run(trials=config.trials, seconds_left=lambda: end - reserve - time.monotonic())
            if not any(record.status == "complete" for record in search.records):
                raise _nothing_trained(search, config)
            if search.records != before or not (folder / "result.json").is_file():
                finish_run(folder, search, lambda: end - finish - time.monotonic(), display.say)
    run = Run.load(folder)
    draw_pareto(run, folder / "pareto.png")
    console.print(front_table(run))
    console.print(summary(run), highlight=False)
    for timer in timers:
        drift = timer.drift() - 1
        if abs(drift) > DRIFT:
            how = f"{abs(drift):.0%} {'slower' if drift > 0 else 'faster'}"
            console.print(
                f"warning: {timer.target} is {how} now than when the run began. Milliseconds are meant at the speed "
                f"of then: its reference network in {timer.reference_ms:.3g} ms.",
                style="bold",
            )
    console.print(f"Written: {folder}/best (model.py loads it), trials.csv, pareto.csv, pareto.png", highlight=False)
    return run


def recipe_of(config: SearchConfig) -> Recipe:
    """How a run with these settings, all said, trains."""
    assert config.epochs and config.batch_size
    return Recipe(epochs=config.epochs, batch_size=config.batch_size, flip=config.flip)


def trainer_of(run: Run, console: Console) -> Trainer:
    """What trained a run's networks: on the same data, device and threads.

    Raises:
        ConfigError: the device is not here.
        DataError: the data cannot be read.
        RunError: they are not what they were.
    """
    space = _stored(run.folder / "space.yaml", run.folder.name)
    image_size = run.config.image_size or max(space.file.image_size)
    dataset = _load(open_source(run.config.data), run.config, image_size, console)
    _check_unchanged(dataset, run.config, run.folder)
    assert run.config.device
    return _trainer(dataset, local_device(run.config.device), run.folder)


def _trainer(dataset: Dataset, device: torch.device, folder: Path, workers: int = 1) -> Trainer:
    environment = json.loads((folder / "environment.json").read_bytes())
    threads = environment.get("training_threads", available_cores())
    return Trainer(dataset, device, threads=min(threads, share_of_cores(workers)))


def _load(source: Source, config: SearchConfig, image_size: int, console: Console) -> Dataset:
    with telling(console) as tell:
        dataset = source.load(Loading(image_size, config.seed, config.train_images, config.max_bad, tell))
    console.print(f"data   {_about(dataset)}")
    for note in dataset.notes:
        say(console, f"       {note}")
    return dataset


def _check_unchanged(dataset: Dataset, config: SearchConfig, folder: Path) -> None:
    then = json.loads((folder / "environment.json").read_bytes())
    if then["data_fingerprint"] != dataset.fingerprint():
        raise RunError(f"--data {config.data} is not what it was when {folder} began; put it back to go on.")
    if then.get("balanced", False) == dataset.is_balanced:
        raise RunError(
            f"{folder} was made by an older version, whose accuracies do not weigh classes of unequal size alike; "
            "begin a new run."
        )


def _open(config: SearchConfig, *, resume: bool) -> tuple[SearchConfig, Path]:
    """The settings in force and the run folder: a new one's name, or an old one's path."""
    if not resume:
        if config.trials is None and config.time is None:
            config = config.model_copy(update={"time": DEFAULT_SECONDS})
        return config, free_folder(config.out, RUNS)
    folder = config.out or newest_folder(RUNS, "run folder")
    stored = Run.load(folder).config
    if stored.rungs is None:
        raise RunError(f"{folder} was made by an older version, which had no rungs; begin a new run.")
    config.check_resumable(stored)
    given: dict[str, Any] = {name: getattr(config, name) for name in config.model_fields_set & {*config.CHANGEABLE}}
    if given.keys() & {"trials", "time"}:  # a new stop replaces the old one, whichever kind it was
        stored = stored.model_copy(update={"trials": None, "time": None})
    return stored.model_copy(update={**given, "out": folder}), folder


def _resolved(config: SearchConfig, *, space: str) -> SearchConfig:
    """The settings with every default said, so that a run does not change its meaning with a new version.

    Raises:
        ConfigError: the runtime is unknown, not installed, or does not compute in that precision.
    """
    Setting(config.runtime, config.precision)
    defaults = {
        "space": None if config.around else space,
        "epochs": DEFAULT_EPOCHS,
        "batch_size": Recipe.batch_size,
        "device": best_device(),
        "target": best_device(),
        "threads": available_cores(),
    }
    config = config.model_copy(update={n: value for n, value in defaults.items() if getattr(config, n) is None})
    assert config.epochs
    if config.rungs and config.rungs[-1] > config.epochs:
        raise ConfigError(
            f"--rungs: {config.rungs[-1]} is over the {config.epochs} epochs of a training; give more --epochs."
        )
    return config.model_copy(update={"rungs": rungs_of(config.rungs, config.epochs)})


def _nothing_trained(search: Search, config: SearchConfig) -> ConfigError:
    """Why a search that ended has no accuracy at all."""
    failed = [record for record in search.records if record.status == "failed"]
    if failed:
        return ConfigError(f"All {len(failed)} trainings failed; the last: {failed[-1].reason}.")
    return ConfigError(
        f"--time {config.time or 0:g}: no training ended within it; allow more time, fewer --epochs or fewer "
        "--train-images."
    )


def _space(config: SearchConfig) -> tuple[SearchSpace, dict[str, Architecture]]:
    """The space to search, and the designs to try first, by name: published ones in it, and those asked for.

    Raises:
        ConfigError: a design that was asked for is not in the space.
    """
    if config.space and config.around:
        raise ConfigError("--space and --around exclude each other: give one of them.")
    size = config.image_size
    designs: dict[str, Architecture]
    if config.around:
        name = Path(config.around).stem
        own = zoo.read(config.around)
        designs = {name: replace(own, image_size=size or own.image_size)}
        space = around(name, designs[name])
    else:
        assert config.space
        space = SearchSpace.load(config.space)
        if size:
            space = space.with_image_size(size)
        designs = dict(map(partial(_held_design, space), space.holds))
    for name in config.enqueue:
        own = zoo.read(name)
        design = replace(own, image_size=size or own.image_size)
        try:
            space.encode(design)
        except SpaceError as error:
            raise ConfigError(f"--enqueue {name}: {error}") from None
        designs[Path(name).parent.name or name if name.endswith(".json") else name] = design
    return space, designs


def _stored_space(config: SearchConfig, folder: Path) -> tuple[SearchSpace, dict[str, Architecture]]:
    """Those of a run, whatever became of the files since."""
    name = Path(config.space).stem if config.space else f"around_{Path(str(config.around)).stem}"
    space = _stored(folder / "space.yaml", name)
    if config.image_size and config.space:
        space = space.with_image_size(config.image_size)
    try:
        stored = json.loads((folder / "designs.json").read_bytes())
        return space, {name: Architecture.from_json(json.dumps(design)) for name, design in stored.items()}
    except (OSError, ValueError, AttributeError, ArchitectureError) as error:
        raise RunError(f"{folder / 'designs.json'} cannot be read: {error}.") from None


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


def _timers(config: SearchConfig, image_size: int, environment: Path | None, console: Console) -> list[Timer]:
    """A timer for each target; of a run that goes on, in the reference speed of its beginning."""
    stored = json.loads(environment.read_bytes())["targets"] if environment else [{}] * len(config.targets)
    assert config.threads
    timers = []
    for target, then in zip(config.targets, stored, strict=True):
        timer = Timer(
            target,
            runtime=config.runtime,
            precision=config.precision,
            batch_size=config.latency_batch_size,
            threads=config.threads,
            reference=reference_for(image_size),
            reference_ms=then.get("reference_ms"),
        )
        if then and then["fingerprint"] != timer.fingerprint:
            changed = [name for name, now in timer.machine.items() if then.get(name) != now and name != "clock_mhz"]
            console.print(
                f"warning: {target} is not what it was when the run began ({', '.join(changed)}): its figures of then "
                "and of now cannot be compared.",
                style="bold",
            )
        if (slowdown := timer.slowdown_by_threads()) > 1.5:
            console.print(
                f"warning: the machine is busy: {config.threads} threads are {slowdown:.1f} times slower than one. "
                "Latencies will be too high; free its cores, or start with --threads 1.",
                style="bold",
            )
        timers.append(timer)
    return timers


def _about_timer(timer: Timer) -> str:
    setting, machine = timer.setting, timer.machine
    device = machine.get("gpu") or machine.get("cpu") or ""
    return (
        f"{timer.target}{f' ({device})' if device else ''}, {setting.runtime} {setting.precision}, threads "
        f"{setting.threads}, batch {setting.batch_size}; milliseconds at the speed of now: reference network in "
        f"{timer.reference_ms:.3g} ms"
    )


def _begin(
    folder: Path,
    config: SearchConfig,
    space: SearchSpace,
    designs: Mapping[str, Architecture],
    timers: list[Timer],
    dataset: Dataset,
) -> None:
    """Write what a resumed run needs; config.json last, as it makes the folder a run folder."""
    assert config.batch_size
    environment: dict[str, Any] = {
        "training_threads": quickest_num_threads(
            share_of_cores(config.workers), max(space.file.image_size), config.batch_size
        ),
        "targets": [timer.environment | {"fingerprint": timer.fingerprint} for timer in timers],
        "data_fingerprint": dataset.fingerprint(),
        "balanced": not dataset.is_balanced,
        "versions": {name: importlib.metadata.version(name) for name in ("hybridnas", "torch", "timm", "optuna")},
    }
    write_atomic(folder / "space.yaml", space.text)
    first = {name: json.loads(design.to_json()) for name, design in designs.items()}
    write_atomic(folder / "designs.json", json.dumps(first, indent=2))
    write_atomic(folder / "environment.json", json.dumps(environment, indent=2))
    write_atomic(folder / "config.json", config.model_copy(update={"out": None}).model_dump_json(indent=2))


@contextmanager
def _drawn_if_stopped(folder: Path) -> Iterator[None]:
    """On Ctrl-C, or when a target is gone, leave a picture of what was found so far."""
    try:
        yield
    except (KeyboardInterrupt, TargetError):
        if (folder / "trials.csv").is_file():
            draw_pareto(Run.load(folder), folder / "pareto.png")
        raise


def _about(dataset: Dataset) -> str:
    parts = f"{len(dataset.train)} train, {len(dataset.validation)} validation, {len(dataset.test)} test images"
    return f"{dataset.name}: {parts}, {dataset.num_classes} classes"
