"""The main job from settings to a finished run folder: read, search, confirm, export, report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from hybridnas.beginning import (
    STUDY,
    TABLE,
    about,
    begin,
    check_unchanged,
    new_space,
    open_run,
    read_environment,
    read_space,
    resolved,
    stored_space,
    weights_of,
)
from hybridnas.comparing import compare_run
from hybridnas.config import TINY_LIMIT, SearchConfig
from hybridnas.cost.budget import Budget
from hybridnas.cost.latency import available_cores
from hybridnas.cost.measure import Costing
from hybridnas.cost.table import Table
from hybridnas.cost.targets import local_device
from hybridnas.data.dataset import Dataset
from hybridnas.data.loading import Loading, Source
from hybridnas.data.sources import open_source
from hybridnas.errors import ConfigError, RunError, TargetError, UserError, first_clause
from hybridnas.files import remove_unfinished, write_atomic
from hybridnas.finishing import finish_run, is_finished, note_seconds
from hybridnas.locks import owned
from hybridnas.proxy.training import Recipe, Trainer
from hybridnas.report.progress import SearchDisplay, say, telling
from hybridnas.report.tables import front_table, summary
from hybridnas.study.loop import Search
from hybridnas.study.objective import Objective
from hybridnas.study.run import Run, free_folder, new_folder
from hybridnas.study.storage import Storage
from hybridnas.timing import about_timer, compare_with_last_time, open_timers, warn_of_drift
from hybridnas.working import open_places, share_of_cores, workers_here, workers_that_pay

#: Of the allowed time, what is kept for confirming; and the seconds that exporting, timing what was exported and
#: drawing take, with an ONNX file and without.
CONFIRM_SHARE = 0.2
FINISH_S, FINISH_ONNX_S = 27.0, 45.0

#: Of the allowed time, what is kept for training what the winner is compared with; and the seconds of drawing alone.
BASELINES_SHARE, LAST_S = 0.15, 13.0


def run_search(
    config: SearchConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    started: float | None = None,
) -> Run:
    """Search, confirm the best, export it, and leave a run folder.

    A real search, though of one network and 80 images of noise:

    >>> import numpy as np
    >>> from tempfile import TemporaryDirectory
    >>> images = np.random.default_rng(0).integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    >>> with TemporaryDirectory() as folder:
    ...     data = f"{folder}/noise.npz"
    ...     np.savez(data, train_images=images, train_labels=np.arange(80) % 4)
    ...     config = SearchConfig(data=data, budget_ms=1000, trials=1, epochs=1, threads=1, out=Path(folder) / "run")
    ...     run = run_search(config)
    ...     model = run.best_model()
    >>> run.trials.status.tolist(), run.config.space  # for small images
    (['complete'], 'tiny')
    >>> bool(run.best.latency_ms_p50 < 1000), model.num_classes
    (True, 4)

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
    config, folder = open_run(config, resume=resume)

    source = open_source(config.data)
    native = config.image_size or source.native_size or 0
    config = resolved(config, space="tiny" if native <= TINY_LIMIT else "hybrid")
    space, designs = stored_space(config, folder) if resume else new_space(config)
    device = local_device(str(config.device))
    weights = weights_of(config)
    image_size = max(space.file.image_size)
    dataset = _load(source, config, image_size, console)
    if config.workers is None:
        config = config.model_copy(update={"workers": workers_that_pay(config, image_size)})
    say(
        console,
        f"space  {space.name}: {space.size:.3g} architectures, {len(space.layouts())} known layouts"
        + (f", {len(designs)} designs to try first" if designs else ""),
    )

    timers = open_timers(config, image_size, folder if resume else None, console)
    if not resume:
        compare_with_last_time(timers, config, console)
    budget = Budget(config.budget_ms, config.budget_macs, config.budget_params)
    for timer in timers:
        say(console, f"target {about_timer(timer)}")
    say(console, f"budget {budget}; training on {device}")
    end = started + config.time if config.time else float("inf")
    finish = FINISH_ONNX_S if timers[0].setting.takes_file else FINISH_S
    compare = BASELINES_SHARE * config.time if config.time and config.baselines != "none" else 0.0
    reserve = finish + compare + (CONFIRM_SHARE * config.time if config.time else 0.0)

    with ExitStack() as stack:
        if config.out is None:
            folder = new_folder(folder.parent)  # another search may have begun since it was named
        stack.enter_context(owned(folder))
        if resume:
            check_unchanged(dataset, config, folder)
            remove_unfinished(folder)
        else:
            begin(free_folder(folder, folder), config, space, designs, timers, dataset)
        say(console, f"run    {folder}")
        trainer = _trainer(dataset, device, folder, workers=workers_here(config))
        places = stack.enter_context(closing(open_places(config, trainer, image_size, console)))
        table = stack.enter_context(closing(Table(folder / TABLE if config.frozen_table else None)))
        display = stack.enter_context(SearchDisplay(console, config, started))
        objective = Objective(config.objective)
        assert config.rungs
        storage = Storage(
            folder,
            len(config.rungs),
            objective.directions,
            about(config, space, timers, dataset),
            config.storage,
            config.study or STUDY,
        )
        stack.callback(storage.close)
        search = Search(
            storage,
            space,
            budget,
            Costing(timers, dataset.num_classes, table, frozen=config.frozen_table),
            trainer,
            recipe_of(config),
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
        display.take_up(before)
        if before:
            storage.write_table(before)
        elif (folder / "trials.csv").is_file():
            raise RunError(f"{folder} has trials in trials.csv and none in {storage.place}: put back what had them.")
        search.spent["starting"] = time.monotonic() - started
        with _drawn_if_stopped(folder, console):
            search.run(trials=config.trials, seconds_left=lambda: end - reserve - time.monotonic())
            if search.records:
                storage.write_table(search.records)  # another search may have added some of a shared study since
            if not any(record.status == "complete" for record in search.records):
                raise _nothing_trained(search, config)
            goes_on = search.records != before or not _is_finished(folder, search)
            if goes_on:
                finish_run(folder, search, lambda: end - finish - compare - time.monotonic(), display.say, compare)
            write_atomic(folder / "pareto.csv", Run.load(folder).front().to_csv(index=False))
            if config.baselines != "none":
                compare_run(
                    folder, search, config.baselines, lambda: end - LAST_S - time.monotonic(), display.say, weights
                )
    run = Run.load(folder)
    with search.clock("drawing"):
        _draw(run, console)
    if goes_on:
        note_seconds(folder, search, "drawing")
        run = Run.load(folder)
    console.print(front_table(run))
    say(console, summary(run))
    warn_of_drift(timers, console)
    written = "best (model.py loads it), trials.csv, pareto.csv, pareto.png, figures, explorer.html"
    say(console, f"Written: {folder}/{written}")
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
    assert run.config.device
    return _trainer(dataset_of(run, console), local_device(run.config.device), run.folder)


def dataset_of(run: Run, console: Console) -> Dataset:
    """What a run was trained on; `run.config.data` says where it lies.

    Raises:
        DataError: the data cannot be read.
        RunError: they are not what they were.
    """
    space = read_space(run.folder / "space.yaml", run.folder.name)
    image_size = run.config.image_size or max(space.file.image_size)
    dataset = _load(open_source(run.config.data), run.config, image_size, console)
    check_unchanged(dataset, run.config, run.folder)
    return dataset


def _trainer(dataset: Dataset, device: torch.device, folder: Path, workers: int = 1) -> Trainer:
    threads = read_environment(folder).get("training_threads", available_cores())
    return Trainer(dataset, device, threads=min(threads, share_of_cores(workers)))


def _load(source: Source, config: SearchConfig, image_size: int, console: Console) -> Dataset:
    with telling(console) as tell:
        dataset = source.load(Loading(image_size, config.seed, config.train_images, config.max_bad, tell))
    say(console, f"data   {_about(dataset)}")
    for note in dataset.notes:
        say(console, f"       {note}")
    return dataset


def _nothing_trained(search: Search, config: SearchConfig) -> ConfigError:
    """Why a search that ended has no accuracy at all."""
    begun = [record for record in search.records if record.was_begun]
    failed = [record for record in search.records if record.status == "failed"]
    if failed and not begun:
        return ConfigError(f"None of the {len(failed)} designs can be run; the last: {failed[-1].reason}.")
    if begun and all(record.status == "failed" for record in begun):
        return ConfigError(f"All {len(begun)} trainings failed; the last: {begun[-1].reason}.")
    within = f" within {config.time:g} s" if config.time else ""
    return ConfigError(
        f"No training reached its last epoch{within}: go on with --resume and more --time, or begin anew with fewer "
        "--epochs, fewer --train-images or a smaller --image-size."
    )


def _is_finished(folder: Path, search: Search) -> bool:
    """Whether nothing is left to confirm and to export."""
    try:
        return is_finished(Run.load(folder).result, folder, search)
    except RunError:  # damaged: it is written anew
        return False


@contextmanager
def _drawn_if_stopped(folder: Path, console: Console) -> Iterator[None]:
    """On Ctrl-C, or when a target is gone, leave a picture of what was found so far."""
    try:
        yield
    except (KeyboardInterrupt, TargetError):
        if (folder / "trials.csv").is_file():
            from hybridnas.report.explorer import write_explorer  # as in _draw
            from hybridnas.report.figures import draw_front

            with _failure_said(folder, console):
                stopped = Run.load(folder)
                draw_front(stopped)
                write_explorer(stopped, folder / "explorer.html")
        raise


def _draw(run: Run, console: Console) -> None:
    """Draw all figures and the explorer."""
    from hybridnas.report.explorer import write_explorer  # matplotlib takes two seconds, which no trial waits for
    from hybridnas.report.figures import draw_all

    with _failure_said(run.folder, console):
        draw_all(run, run.folder / "figures")
        write_explorer(run, run.folder / "explorer.html")


@contextmanager
def _failure_said(folder: Path, console: Console) -> Iterator[None]:
    """That a drawing fails is said, and loses nothing else of a run."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        about = f"{kind}{first_clause(error)}"
        say(console, f"warning: not all figures could be drawn ({about}); `hybridnas report {folder}` tries again")


def _about(dataset: Dataset) -> str:
    parts = f"{len(dataset.train)} train, {len(dataset.validation)} validation, {len(dataset.test)} test images"
    return f"{dataset.name}: {parts}, {dataset.num_classes} classes"
