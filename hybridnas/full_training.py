"""Any architecture trained to the end on any data, from scratch or from weights, resumable, and tested once."""

from __future__ import annotations

import json
import pickle
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from tensorboardX import SummaryWriter
from torch import Tensor

from hybridnas import zoo
from hybridnas.architecture import Architecture
from hybridnas.config import TrainConfig
from hybridnas.cost.latency import available_cores
from hybridnas.cost.targets import best_device, local_device
from hybridnas.data.dataset import Dataset
from hybridnas.data.loading import Loading
from hybridnas.data.sources import SYNTHETIC, open_source
from hybridnas.errors import ConfigError, RunError, TrainingFailed, UserError, first_clause
from hybridnas.export.bundle import export_bundle
from hybridnas.export.card import write_card
from hybridnas.export.describing import training_card
from hybridnas.export.preprocessing import Preprocessing
from hybridnas.files import remove_unfinished, write_atomic
from hybridnas.locks import owned
from hybridnas.model import HybridNet, build
from hybridnas.proxy.full import AUGMENTATIONS, Epoch, FullRecipe, FullTraining
from hybridnas.proxy.training import FINE_TUNING_RATE, Trainer, quickest_num_threads
from hybridnas.report.progress import say, telling
from hybridnas.starting import DESIGN, Start, Weights, origin, read_training, start, start_from
from hybridnas.study.run import free_folder, newest_folder

FOLDER = Path("trainings")
CHECKPOINT = "checkpoint.pt"
ALL = 10**9
#: From so many epochs on, strong augmentation is the default.
LONG = 50
#: For a batch of 128: from scratch, and of a new head alone.
LEARNING_RATE, HEAD_RATE = 2e-3, 3e-3
MAX_LOADERS = 8
#: Images of the batch that the number of threads is tried on, at most.
MOST_TRIED = 64
#: What a checkpoint says of threads is damaged where they are more.
MOST_THREADS = 1024


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
    named = config.out is not None or resume
    config, folder = _open(config, resume=resume)
    with owned(folder):
        remove_unfinished(folder)
        try:
            return _train_in(folder, config, console)
        except UserError:
            if not named:
                with suppress(OSError):  # they are not empty
                    folder.rmdir()
                    folder.parent.rmdir()
            raise


def _train_in(folder: Path, config: TrainConfig, console: Console) -> Training:
    goes_on = (folder / CHECKPOINT).is_file()
    begin = Start(zoo.read(str(folder / DESIGN))) if goes_on else start(config)
    architecture = begin.architecture
    device = local_device(str(config.device))
    with telling(console) as tell:
        images = config.train_images or ALL
        loading = Loading(architecture.image_size, config.split_seed or 0, images, config.max_bad, tell)
        dataset = open_source(str(config.data)).load(loading)
    for note in dataset.notes:
        say(console, note)
    log = Log(folder, dataset.fingerprint())
    state = log.read(architecture) if goes_on else {}
    trainer = Trainer(dataset, device, threads=state["threads"] if state else _threads(config, architecture, dataset))
    normalisation = (state["mean"], state["std"]) if state else begin.normalisation
    if normalisation:  # weights go on to see images as those that they were trained on
        trainer.mean, trainer.std = (_of_as_many(figures, trainer.mean) for figures in normalisation)
    torch.manual_seed(config.seed)
    recipe = _recipe(config)
    model = build(architecture, dataset.num_classes, drop_path_rate=recipe.augmentation.drop_path)
    if begin.weights is not None:
        start_from(model, begin.weights)
    training = FullTraining(model, trainer, recipe, seed=config.seed, num_loaders=config.loaders or 0)
    if state:
        log.restore(training, state)
    else:
        write_atomic(folder / DESIGN, architecture.to_json())
        write_atomic(folder / "config.json", config.model_copy(update={"out": None}).model_dump_json(indent=2))
    _tell_beginning(console, config, training)
    _train(training, log, partial(say, console), console)
    return _finish(training, log, console)


def _of_as_many(figures: Tensor, own: Tensor) -> Tensor:
    """Figures (C,) of channels, for as many as the data have: how many tells whether images are grey."""
    return figures.mean(0, True) if len(own) == 1 else figures.expand(3).clone()


def _open(config: TrainConfig, *, resume: bool) -> tuple[TrainConfig, Path]:
    """The settings with every default said that depends on the machine or on ARCH, and the folder, which is there."""
    if resume:
        folder = config.out or newest_folder(FOLDER, "training")
        stored = read_training(folder)
        config.check_resumable(stored)
        return stored.model_copy(update={"out": folder}), folder
    folder = free_folder(config.out, FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be made: {error.strerror}.") from None
    device = config.device or best_device()
    found = {"device": device, "loaders": 0 if device == "cpu" else min(MAX_LOADERS, available_cores())}
    whose = origin(config.architecture)
    data = config.data or (whose.data if whose else SYNTHETIC)
    # The images that weights were chosen and tested on stay what they were, whatever the seed of the training.
    began = (origin(config.pretrained) if config.pretrained and Path(config.pretrained).is_file() else None) or whose
    own = began is not None and _same_data(data, began.data)
    found |= {"data": data, "split_seed": began.seed if began and own else config.seed}
    return config.model_copy(update={n: v for n, v in found.items() if getattr(config, n) is None}), folder


def _same_data(one: str, other: str) -> bool:
    """Whether two --data are the same, also where a path is spelt in two ways."""
    return one == other or (Path(one).exists() and Path(one).resolve() == Path(other).resolve())


def _threads(config: TrainConfig, architecture: Architecture, dataset: Dataset) -> int:
    """How many train: tried on a CPU, and kept, since the last digits depend on it."""
    if config.device != "cpu":
        return available_cores()
    batch = min(config.batch_size, len(dataset.train), MOST_TRIED)
    return quickest_num_threads(available_cores(), architecture.image_size, batch)


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


#: What torch raises where a file holds something else.
DAMAGED = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)


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
            "threads": training.trainer.threads,
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
            key, data = state["training"]["key"], state["data"]
            threads = state["threads"]
            if not (self.best_epoch.accuracy >= 0 and isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
                raise ValueError("accuracies or threads are none")
            _ = state["mean"].expand(3), state["std"].expand(3)
        except DAMAGED as error:
            raise RunError(f"{path} is damaged ({first_clause(error)}); remove it to begin anew.") from None
        if key != architecture.key:
            raise RunError(f"{path} is of another architecture than {self.folder / DESIGN}.")
        if data != self.data:
            raise RunError(f"--data is not what it was when {self.folder} began; put it back to go on.")
        return state

    def restore(self, training: FullTraining, state: dict[str, Any]) -> None:
        """Go on from a checkpoint that was read.

        Raises:
            RunError: it does not fit the training.
        """
        try:
            training.averaged.load_state_dict(self.best)  # as it will at the end
            training.load_state(state["training"])
            if training.done != len(self.epochs):
                raise ValueError(f"{len(self.epochs)} epochs, and {training.done} done")
        except DAMAGED as error:
            path = self.folder / CHECKPOINT
            raise RunError(f"{path} does not fit ({first_clause(error)}); remove it to begin anew.") from None

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
            board.flush()
            left = (training.recipe.epochs - number) * epoch.seconds
            more = f"  about {left / 60:.0f} min left" if left > 60 else ""
            accuracy = f"validation {100 * epoch.accuracy:5.1f} %"
            tell(f"  {number:4d}  loss {epoch.loss:.3f}  {accuracy}  {epoch.seconds:5.1f} s{more}")


def _advice(reason: TrainingFailed) -> str:
    flag = "--batch-size" if "memory" in str(reason) else "--learning-rate"
    return f"Training failed: {reason}; try a smaller {flag}."


def _finish(training: FullTraining, log: Log, console: Console) -> Training:
    """Export the best epoch and test it."""
    model, trainer = training.averaged, training.trainer
    model.load_state_dict(log.best)
    best = log.best_epoch
    test_accuracy = training.evaluate("test")
    size, names = model.architecture.image_size, trainer.dataset.class_names
    preprocessing = Preprocessing.of(size, trainer.mean.tolist(), trainer.std.tolist(), names)
    export_bundle(model.cpu().eval(), log.folder / "best", preprocessing)
    result = {
        "epoch": best.number,
        "accuracy": best.accuracy,
        "test_accuracy": test_accuracy,
        "balanced": not trainer.dataset.is_balanced,
        "num_classes": trainer.dataset.num_classes,
        "seconds": sum(epoch.seconds for epoch in log.epochs),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    write_atomic(log.folder / "metrics.csv", log.metrics().to_csv(index=False))  # a kill may have come before it
    write_atomic(log.folder / "result.json", json.dumps(result, indent=2))
    card = training_card(log.folder, read_training(log.folder), model)
    write_card(card, log.folder / "best", model.architecture, preprocessing)
    kind = "accuracy" if trainer.dataset.is_balanced else "balanced accuracy"
    say(
        console,
        f"best   epoch {best.number}: {kind} {100 * best.accuracy:.1f} % on validation images, "
        f"{100 * test_accuracy:.1f} % on test images",
    )
    say(console, f"Written: {log.folder}/best (model.py loads it), metrics.csv, TensorBoard events")
    return Training(log.folder, model, best.accuracy, test_accuracy, log.metrics())
