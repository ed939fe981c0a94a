"""The job of `hybridnas export`: networks of a finished run as files that stand alone, each read back and compared."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from hybridnas.cost.latency import available_cores
from hybridnas.data.batches import channel_statistics, resize
from hybridnas.data.dataset import Dataset
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.errors import CannotRun, ConfigError, DataError, RunError, first_clause
from hybridnas.export.bundle import TOLERANCE, export_bundle
from hybridnas.export.card import Card, write_card
from hybridnas.export.describing import training_card, trial_card
from hybridnas.export.formats import FORMATS, read_formats
from hybridnas.export.parity import Parity, check_file, not_written
from hybridnas.export.preprocessing import Preprocessing, plain
from hybridnas.files import UNFINISHED, write_atomic
from hybridnas.full_training import ALL, CHECKPOINT
from hybridnas.model import HybridNet
from hybridnas.pipeline import dataset_of
from hybridnas.report.progress import say, telling
from hybridnas.starting import BEST, WEIGHTS, read_training
from hybridnas.study.run import Run, check_goes_on, free_folder, kept_weights, load_network, with_weights

FOLDER = Path("exports")
FILE = "export.json"
#: Validation images that every file is compared on.
NUM_IMAGES = 128


@dataclass(frozen=True)
class Trained:
    """A network that can be exported: what it is called, and what is known of it and of what it was trained on."""

    name: str
    model: HybridNet
    card: Card
    preprocessing: Preprocessing
    images: Tensor  # (N, 1 or 3, H, W), uint8
    threads: int


@dataclass(frozen=True)
class Exported:
    """A network that was exported into `folder`, and what became of each of its files."""

    name: str
    folder: Path
    files: tuple[Parity, ...]

    @property
    def agrees(self) -> bool:
        """Whether every file does what was trained."""
        return not any(each.problem for each in self.files)


def export_run(
    folder: Path,
    *,
    trial: int | None = None,
    all_front: bool = False,
    formats: str | None = None,
    out: Path | None = None,
    data: str | None = None,
    console: Console | None = None,
) -> list[Exported]:
    """Export networks of a run, or the one of a training.

    Args:
        folder: The run's, or the training's.
        trial: The number of one; None is the winner.
        all_front: All trials of the front whose weights are kept, each in a folder of its own.
        formats: Keys of `FORMATS`, with commas between; None is the bundle and what can be written beside it.
        out: Where to; None is a new folder under exports/.
        data: Where the run's data lie now, if that is another place than then.
        console: Where the tables are printed; None prints nothing.

    Returns:
        What was exported. A file that does not agree with the trained network is deleted, and its `problem` says why.

    Raises:
        UserError: something in the arguments is wrong, or the run has not what was asked for.
    """
    console = console or Console(quiet=True)
    if all_front and trial is not None:
        raise ConfigError("--trial and --all-front exclude each other: give one of them.")
    kinds = read_formats(formats)
    if out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is not empty: name a new or an empty folder.")
    if (folder / CHECKPOINT).is_file():
        if all_front or trial is not None:
            raise ConfigError(f"{folder} is a training and has one network: leave out --trial and --all-front.")
        trained = [_of_training(folder, data, console)]
    else:
        trained = _of_run(folder, trial, all_front, data, console)
    out = free_folder(out, FOLDER)
    exported = []
    for each in trained:
        place = out / each.name.replace(" ", "-") if all_front else out
        exported.append(_export(each, place, kinds, console))
        console.print(_table(each, exported[-1]))
        say(console, f"Written: {place} ({FILE} has the table, card.md tells of the network)")
    return exported


def _of_run(folder: Path, trial: int | None, all_front: bool, data: str | None, console: Console) -> list[Trained]:
    """What was asked for of a run, as far as its weights are kept.

    Raises:
        RunError: there is nothing to export.
        DataError: the data cannot be read.
    """
    run = Run.load(folder)
    check_goes_on(folder, run.config)
    if not run.trials.accuracy.notna().any():
        raise RunError(f"{folder} has no trial that was trained: there is nothing to export.")
    if all_front:
        numbers = [int(number) for number in run.front().number]
        if not numbers:
            raise RunError(f"{folder} has no front yet: no trial was trained to the end; go on with --resume.")
    else:
        numbers = [int(run.best.number) if trial is None else trial]
    designs = {number: run.architecture(number) for number in numbers}
    weights = {number: kept_weights(run, number) for number in numbers}
    kept = {number: path for number, path in weights.items() if path}
    missing = [number for number in numbers if number not in kept]
    if missing and not (all_front and kept):
        raise RunError(_no_weights(run, missing))
    if missing:
        say(console, f"left out, as their weights are not kept: trials {_listed(missing)}")
    place = data or run.config.data
    moved = Run(run.folder, run.config.model_copy(update={"data": place}), run.trials, run.result)
    with _data_said(folder, place, given=data is not None):
        dataset = dataset_of(moved, console)
    mean, std = channel_statistics(dataset.train)
    return [
        Trained(
            f"trial {number}",
            with_weights(designs[number], path, dataset.num_classes),
            trial_card(run, number, path),
            Preprocessing.of(designs[number].image_size, mean.tolist(), std.tolist(), dataset.class_names),
            _some(dataset, designs[number].image_size),
            min(run.config.threads or 1, available_cores()),
        )
        for number, path in kept.items()
    ]


def _no_weights(run: Run, missing: Sequence[int]) -> str:
    have = [int(number) for number in run.trials.number if kept_weights(run, int(number))]
    kept = f"those of {_listed(have)} are" if have else "none are"
    design = f"Run.load({str(run.folder)!r}).architecture({missing[0]}).to_json()"
    return (
        f"{run.folder} keeps no weights of trial {_listed(missing)} ({kept} kept): write {design} to a file and train "
        f"it by hybridnas train FILE.json --data {shlex.quote(run.config.data)}, then export that training's folder."
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _of_training(folder: Path, data: str | None, console: Console) -> Trained:
    """The network of a training.

    Raises:
        RunError: it did not end.
        DataError: the data cannot be read.
    """
    config, best = read_training(folder), folder / BEST
    if not (folder / "result.json").is_file() or not (best / WEIGHTS).is_file():
        raise RunError(f"{folder} did not end: go on with it by hybridnas train --resume --out {folder}.")
    preprocessing = Preprocessing.read(best)
    model = load_network(best, len(preprocessing.class_names))
    place = data or str(config.data)
    most = config.train_images or ALL
    with telling(console) as tell, _data_said(folder, place, given=data is not None):
        loading = Loading(preprocessing.image_size, config.split_seed or 0, most, config.max_bad, tell)
        dataset = open_source(place).load(loading)
    if plain(dataset.class_names) != preprocessing.class_names:
        raise RunError(f"--data {place} has other classes than what {folder} was trained on.")
    images = _some(dataset, preprocessing.image_size)
    return Trained("training", model, training_card(folder, config, model), preprocessing, images, available_cores())


@contextmanager
def _data_said(folder: Path, place: str, *, given: bool) -> Iterator[None]:
    """Where data cannot be had that nobody named now, say how to name them."""
    try:
        yield
    except DataError as error:
        if given:
            raise
        reason = first_clause(error).removeprefix("--data ")
        raise DataError(
            f"{folder} was trained on {place}, which cannot be had here any more ({reason}): say by --data where these "
            "images lie now."
        ) from None


def _some(dataset: Dataset, image_size: int) -> Tensor:
    """Validation images, spread over all: uint8 (N, 1 or 3, image_size, image_size)."""
    images = dataset.validation.images
    return resize(torch.from_numpy(images[:: max(1, len(images) // NUM_IMAGES)][:NUM_IMAGES].copy()), image_size)


def _export(trained: Trained, folder: Path, kinds: Sequence[str], console: Console) -> Exported:
    """Write all files of a network, and compare each; none is seen in the folder before all are."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as new:
        exported = _compared(trained, Path(new), kinds, console)
        for path in sorted(Path(new).iterdir()):
            path.replace(folder / path.name)
    return Exported(trained.name, folder, exported)


def _compared(trained: Trained, folder: Path, kinds: Sequence[str], console: Console) -> tuple[Parity, ...]:
    """Write all files of a network, and what became of each; the card and the table tell of it."""
    model, size = trained.model, trained.preprocessing.image_size
    images = trained.preprocessing.normal(trained.images)
    with torch.inference_mode():
        expected = torch.cat([model(batch) for batch in images.split(NUM_IMAGES // 4)])
    export_bundle(model, folder, trained.preprocessing)
    files = []
    for kind in kinds:
        with console.status(f"{trained.name}: {kind}"):
            try:
                if write := FORMATS[kind].write:
                    write(model.deploy(), size, folder)
                files.append(check_file(kind, folder, images, expected, trained.threads))
            except CannotRun as error:
                files.append(not_written(kind, error))
    about = _about(trained, len(images))
    card = trained.card
    write_card(card, folder, model.architecture, trained.preprocessing, files, about)
    table = {"name": trained.name, "key": model.architecture.key, "threads": trained.threads, "images": len(images)}
    table |= {"tolerance": TOLERANCE, "files": [asdict(each) for each in files]}
    write_atomic(folder / FILE, json.dumps(table, indent=2))
    return tuple(files)


def _about(trained: Trained, num_images: int) -> str:
    threads = f"{trained.threads} CPU thread{'' if trained.threads == 1 else 's'}"
    return (
        f"Each file was read back in a process of its own and compared with the trained network on {num_images} "
        f"validation images (allowed: {TOLERANCE:g} of the largest score). Milliseconds are a plain median and 95th "
        f"percentile of one image on {threads}, at the speed that the machine had just then."
    )


def _table(trained: Trained, exported: Exported) -> Table:
    architecture = trained.model.architecture
    table = Table(
        title=f"{exported.name}: {architecture.families}, {architecture.image_size} px",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("format")
    table.add_column("file")
    for name in ("MB", "largest difference", "same class", "p50 ms", "p95 ms"):
        table.add_column(name, justify="right")
    for each in exported.files:
        if each.problem:
            deleted = "deleted: " if each.megabytes else ""
            table.add_row(each.format, Text(f"{deleted}{each.problem}"), style="bold red")
            continue
        table.add_row(each.format, each.file, *each.figures())
    table.caption = _about(trained, len(trained.images))
    return table
