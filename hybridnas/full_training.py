"""Any architecture trained to the end on any data, from scratch or from weights, resumable, and tested once."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from pydantic import ValidationError
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from tensorboardX import SummaryWriter
from torch import Tensor

from hybridnas import zoo
from hybridnas.architecture import Architecture
from hybridnas.config import TrainConfig
from hybridnas.cost.latency import available_cores
from hybridnas.cost.targets import best_device, local_device
from hybridnas.data.loading import Loading
from hybridnas.data.sources import SYNTHETIC, open_source
from hybridnas.errors import ConfigError, RunError, TrainingFailed, first_clause
from hybridnas.export.bundle import export_bundle
from hybridnas.files import write_atomic
from hybridnas.model import HybridNet, build
from hybridnas.proxy.full import AUGMENTATIONS, Epoch, FullRecipe, FullTraining
from hybridnas.proxy.training import Trainer, quickest_num_threads
from hybridnas.report.progress import say, telling
from hybridnas.study.run import Run

FOLDER = Path("trainings")
CHECKPOINT, DESIGN, WEIGHTS = "checkpoint.pt", "architecture.json", "weights.safetensors"
ALL = 10**9
#: From so many epochs on, strong augmentation is the default.
LONG = 50
#: For a batch of 128: from scratch, from weights, and of a new head alone.
LEARNING_RATE, FINE_TUNING_RATE, HEAD_RATE = 2e-3, 3e-4, 3e-3
MAX_LOADERS = 8


@dataclass(frozen=True)
class Training:
    """What a training gave.

    Attributes:
        folder: Where everything lies: `best/` is a bundle as a search's, `metrics.csv` has all epochs.
        model: The averaged weights of the epoch that was best on the validation images, in eval mode.
        accuracy: On the validation images, 0..1, of that epoch.
        test_accuracy: On the test images, 0..1, looked at once.
        metrics: One row an epoch.
    """

    folder: Path
    model: HybridNet
    accuracy: float
    test_accuracy: float
    metrics: pd.DataFrame


def train_model(config: TrainConfig, *, resume: bool = False, console: Console | None = None) -> Training:
    """Train an architecture, and test it once at the end; each epoch is kept when it ends.

    Args:
        config: The settings. With `resume`, those that were not given are taken from the folder.
        resume: Go on with the training in `config.out` (default: the newest under trainings/).
        console: Where progress is printed; None prints nothing.

    Raises:
        UserError: something in the settings, the architecture, the weights or the data is wrong, or training failed.
        KeyboardInterrupt: stopped; all finished epochs are on disk.
    """
    console = console or Console(quiet=True)
    config, folder = _open(config, resume=resume)
    goes_on = (folder / CHECKPOINT).is_file()
    architecture, weights, design = Start(zoo.read(str(folder / DESIGN))) if goes_on else _start(config)
    device = local_device(str(config.device))
    with telling(console) as tell:
        images = config.train_images or ALL
        loading = Loading(architecture.image_size, config.seed, images, config.max_bad, tell)
        dataset = open_source(str(config.data)).load(loading)
    for note in dataset.notes:
        say(console, note)
    threads = quickest_num_threads(available_cores(), architecture.image_size, config.batch_size)
    trainer = Trainer(dataset, device, threads=threads)
    log = Log(folder, dataset.fingerprint())
    state = log.read(architecture) if goes_on else {}
    if state or design:  # weights go on to see images normalised as those that they were trained on
        trainer.mean, trainer.std = (state["mean"], state["std"]) if state else zoo.normalisation(str(design))
    torch.manual_seed(config.seed)
    recipe = _recipe(config)
    model = build(architecture, dataset.num_classes, drop_path_rate=recipe.augmentation.drop_path)
    if weights is not None:
        start_from(model, weights)
    training = FullTraining(model, trainer, recipe, seed=config.seed, num_loaders=config.loaders or 0)
    if state:
        training.load_state(state["training"])
    elif not resume:
        write_atomic(folder / "config.json", config.model_copy(update={"out": None}).model_dump_json(indent=2))
        write_atomic(folder / DESIGN, architecture.to_json())
    _tell_beginning(console, config, training)
    _train(training, log, partial(say, console), console)
    return _finish(training, log, trainer, console)


def _open(config: TrainConfig, *, resume: bool) -> tuple[TrainConfig, Path]:
    if not resume:
        folder = config.out or FOLDER / f"{datetime.now():%Y%m%d-%H%M%S}"
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--out {folder} exists already; choose another name, or go on with it by --resume.")
        device = config.device or best_device()
        loaders = 0 if device == "cpu" else min(MAX_LOADERS, available_cores())  # on a CPU all cores train
        loaders = loaders if config.loaders is None else config.loaders
        data = config.data or (
            Run.load(config.architecture).config.data if Path(config.architecture).is_dir() else SYNTHETIC
        )
        return config.model_copy(update={"data": data, "device": device, "loaders": loaders}), folder
    folder = config.out or _newest()
    path = folder / "config.json"
    try:
        stored = TrainConfig.model_validate_json(path.read_bytes())
    except OSError:
        raise RunError(f"{folder} is no training: it has no config.json.") from None
    except ValidationError as error:
        raise RunError(f"{path} is damaged, or not of a training: {first_clause(error)}.") from None
    config.check_resumable(stored)
    return stored.model_copy(update={"out": folder}), folder


def _newest() -> Path:
    found = sorted(FOLDER.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError(f"--resume: there is no training under {FOLDER}/; name one with --out.")
    return found[-1].parent


def _recipe(config: TrainConfig) -> FullRecipe:
    augment = config.augment or ("strong" if config.epochs >= LONG and not config.freeze_backbone else "light")
    usual = HEAD_RATE if config.freeze_backbone else FINE_TUNING_RATE if config.pretrained else LEARNING_RATE
    return FullRecipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or usual,
        augmentation=AUGMENTATIONS[augment],
        flip=config.flip,
        freeze_backbone=config.freeze_backbone,
    )


Weights = dict[str, Tensor]


class Start(NamedTuple):
    """Where a training begins: from scratch if `weights` is None; `design` is the zoo's if they are timm's weights."""

    architecture: Architecture
    weights: Weights | None = None
    design: str | None = None


def _start(config: TrainConfig) -> Start:
    """What ARCH names, with the weights asked for; to freeze a backbone, without asking, the design's own."""
    found = _named(config)
    size = config.image_size or found.architecture.image_size
    return found._replace(architecture=replace(found.architecture, image_size=size))


def _named(config: TrainConfig) -> Start:
    name = config.architecture
    if Path(name).is_dir():
        run = Run.load(name)
        architecture, own = run.architecture(int(run.best.number)), run.folder / "best" / WEIGHTS
    else:
        architecture, own = zoo.read(name), Path(name).parent / WEIGHTS
    design = name if name in zoo.names() else None
    wanted = config.pretrained
    if wanted is None and config.freeze_backbone:
        if not design and not own.is_file():
            raise ConfigError(f"--freeze-backbone: there are no weights beside {name}; name some by --pretrained FILE.")
        wanted = "timm" if design else str(own)
    if wanted is None:
        return Start(architecture)
    if wanted == "timm":
        if not design:
            raise ConfigError(f"--pretrained timm is for a design of the zoo, and {name} is none; give a file.")
        return Start(architecture, zoo.pretrained(design).state_dict(), design)
    file = Path(wanted)
    if not file.is_file():
        raise ConfigError(f"--pretrained {file} does not exist.")
    weights = _own_weights(file)
    if weights is not None:
        return Start(architecture, weights)
    if design:
        return Start(architecture, zoo.pretrained(design, file).state_dict(), design)
    raise ConfigError(
        f"--pretrained {file} is not of hybridnas: give the weights.safetensors of a bundle such as best/."
    )


def _own_weights(file: Path) -> Weights | None:
    """What hybridnas wrote, or None: timm's have other names."""
    if file.suffix != ".safetensors":
        return None
    try:
        weights: Weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"--pretrained {file} cannot be read: {first_clause(error)}.") from None
    return weights if any(".body." in key for key in weights) else None


def start_from(model: HybridNet, weights: Weights) -> None:
    """Give a network the weights of another of the same design; layers of its head of another size stay fresh.

    Raises:
        ConfigError: they are of another design.
    """
    places = model.state_dict()
    for key, place in places.items():
        given = weights.get(key)
        if given is None:
            raise ConfigError(f"--pretrained: these are weights of another architecture: they lack {key}.")
        if given.shape == place.shape:
            continue
        if not key.startswith("head."):
            shapes = f"{key} is {tuple(given.shape)}, and {tuple(place.shape)} is needed"
            raise ConfigError(f"--pretrained: these are weights of another architecture or image size: {shapes}.")
        weights = {**weights, key: place}
    for key in sorted(weights.keys() - places.keys()):
        raise ConfigError(f"--pretrained: these are weights of another architecture: they hold {key}.")
    model.load_state_dict(weights)


class Log:
    """The folder of a training: its last epoch, the best of all, and what each gave.

    Args:
        folder: Made if needed.
        data: Fingerprint of the data, which may not change.
    """

    def __init__(self, folder: Path, data: str) -> None:
        self.folder = folder
        self.data = data
        self.epochs: list[Epoch] = []
        self.best: Weights = {}

    @property
    def best_epoch(self) -> Epoch:
        """The most accurate so far; of equals the first."""
        return max(self.epochs, key=lambda epoch: epoch.accuracy)

    def add(self, epoch: Epoch, training: FullTraining) -> None:
        """Keep an epoch: after a kill, training goes on behind it."""
        self.epochs.append(epoch)
        if self.best_epoch is epoch:
            self.best = {key: value.detach().cpu().clone() for key, value in training.averaged.state_dict().items()}
        state = {
            "data": self.data,
            "mean": training.trainer.mean,
            "std": training.trainer.std,
            "epochs": [asdict(each) for each in self.epochs],
            "best": self.best,
            "training": training.state(),
        }
        write_atomic(self.folder / CHECKPOINT, partial(torch.save, state))
        write_atomic(self.folder / "metrics.csv", self.metrics().to_csv(index=False))

    def read(self, architecture: Architecture) -> dict[str, Any]:
        """The checkpoint.

        Raises:
            RunError: it is damaged, of another architecture, or was trained on other data.
        """
        path = self.folder / CHECKPOINT
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.epochs = [Epoch(**each) for each in state["epochs"]]
            self.best = state["best"]
            key, data, _, _ = state["training"]["key"], state["data"], state["mean"], state["std"]
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise RunError(f"{path} is damaged ({first_clause(error)}); remove it to begin anew.") from None
        if key != architecture.key:
            raise RunError(f"{path} is of another architecture than {self.folder / DESIGN}.")
        if data != self.data:
            raise RunError(f"--data is not what it was when {self.folder} began; put it back to go on.")
        return state

    def metrics(self) -> pd.DataFrame:
        """One row an epoch."""
        rows = [asdict(epoch) for epoch in self.epochs]
        return pd.DataFrame(rows).rename(columns={"number": "epoch", "accuracy": "validation_accuracy"})


def _tell_beginning(console: Console, config: TrainConfig, training: FullTraining) -> None:
    dataset, model = training.trainer.dataset, training.model
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    lines = [
        f"data   {dataset.name}: {len(dataset.train)} train, {len(dataset.validation)} validation, "
        f"{len(dataset.test)} test images, {dataset.num_classes} classes",
        f"model  {model.architecture.families} {model.architecture.image_size} px, {learning / 1e6:.3g} M parameters "
        f"learn, from {'weights' if config.pretrained or config.freeze_backbone else 'scratch'}",
        f"train  {config.epochs} epochs of {training.steps} steps of {training.batch_size}, learning rate "
        f"{training.recipe.learning_rate:g}, on {training.trainer.device}",
    ]
    if training.done:
        lines.append(f"       going on after epoch {training.done}")
    for line in lines:
        say(console, line)


def _train(training: FullTraining, log: Log, tell: Any, console: Console) -> None:
    """All epochs that are left.

    Raises:
        ConfigError: the loss is no longer finite, or memory ran out.
    """
    with SummaryWriter(str(log.folder), purge_step=training.done + 1) as board:
        while training.done < training.recipe.epochs:
            number = training.done + 1
            try:
                with telling(console) as progress:
                    epoch = training.epoch(partial(progress, f"epoch {number}"))
            except TrainingFailed as reason:
                raise ConfigError(f"{_advice(reason)} What was finished is in {log.folder}.") from None
            log.add(epoch, training)
            board.add_scalar("loss/train", epoch.loss, number)
            board.add_scalar("accuracy/validation", epoch.accuracy, number)
            board.add_scalar("learning_rate", epoch.learning_rate, number)
            left = (training.recipe.epochs - number) * epoch.seconds
            more = f"  about {left / 60:.0f} min left" if left > 60 else ""
            accuracy = f"validation {100 * epoch.accuracy:5.1f} %"
            tell(f"  {number:4d}  loss {epoch.loss:.3f}  {accuracy}  {epoch.seconds:5.1f} s{more}")


def _advice(reason: TrainingFailed) -> str:
    flag = "--batch-size" if "memory" in str(reason) else "--learning-rate"
    return f"Training failed: {reason}; try a smaller {flag}."


def _finish(training: FullTraining, log: Log, trainer: Trainer, console: Console) -> Training:
    """Export the best epoch and test it."""
    model = training.averaged
    model.load_state_dict(log.best)
    best = log.best_epoch
    test_accuracy = trainer.evaluate(model, "test")
    export_bundle(
        model.cpu().eval(),
        log.folder / "best",
        class_names=trainer.dataset.class_names,
        mean=trainer.mean.tolist(),
        std=trainer.std.tolist(),
    )
    result = {
        "epoch": best.number,
        "accuracy": best.accuracy,
        "test_accuracy": test_accuracy,
        "balanced": not trainer.dataset.is_balanced,
        "num_classes": trainer.dataset.num_classes,
        "seconds": sum(epoch.seconds for epoch in log.epochs),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    write_atomic(log.folder / "result.json", json.dumps(result, indent=2))
    kind = "accuracy" if trainer.dataset.is_balanced else "balanced accuracy"
    say(
        console,
        f"best   epoch {best.number}: {kind} {100 * best.accuracy:.1f} % on validation images, "
        f"{100 * test_accuracy:.1f} % on test images",
    )
    say(console, f"Written: {log.folder}/best (model.py loads it), metrics.csv, TensorBoard events")
    return Training(log.folder, model, best.accuracy, test_accuracy, log.metrics())
