"""Where a full training begins: what ARCH names, and the weights that were asked for."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hybridnas import zoo
from hybridnas.architecture import Architecture
from hybridnas.config import TrainConfig
from hybridnas.errors import ConfigError, RunError, first_clause
from hybridnas.model import HybridNet
from hybridnas.study.run import Run

BEST, DESIGN, WEIGHTS = "best", "architecture.json", "weights.safetensors"

Weights = dict[str, Tensor]


class Start(NamedTuple):
    """An architecture, the weights to begin with, and the channels' mean and deviation (0..255) that they have seen.

    From scratch both are None, and of files of others the figures.
    """

    architecture: Architecture
    weights: Weights | None = None
    normalisation: tuple[Tensor, Tensor] | None = None


class Origin(NamedTuple):
    """The folder of a run or of a training: its architecture's file, its data, and the seed that split them."""

    design: Path
    data: str
    seed: int


def called_after(design: Path) -> str:
    """The folder that a design's file is told apart by: its run's, not best/; empty where it lies in none."""
    folders = [part for part in design.parent.parts if part not in (BEST, design.anchor, "..", ".")]
    return folders[-1] if folders else ""


def read_training(folder: Path) -> TrainConfig:
    """The settings of a training.

    Raises:
        RunError: the folder is none, or its settings are damaged.
    """
    path = folder / "config.json"
    try:
        return TrainConfig.model_validate_json(path.read_bytes())
    except OSError:
        raise RunError(f"{folder} is no training: it has no config.json.") from None
    except ValidationError as error:
        raise RunError(f"{path} is damaged, or not of a training: {first_clause(error)}.") from None


def origin(name: str) -> Origin | None:
    """Whose a folder is that ARCH names, or a file of its best/.

    Raises:
        RunError: the folder is neither a run's nor a training's, or has no winner yet.
    """
    path = Path(name)
    if path.is_dir():
        return _origin(path)
    if path.is_file() and path.name in (DESIGN, WEIGHTS) and path.absolute().parent.name == BEST:
        with suppress(RunError):  # it was moved there from elsewhere
            return _origin(path.absolute().parent.parent)
    return None


def _origin(folder: Path) -> Origin:
    if (folder / "checkpoint.pt").is_file():
        settings = read_training(folder)
        if not (folder / BEST / DESIGN).is_file():
            raise RunError(f"{folder} did not end: go on with it by --resume.")
        return Origin(folder / BEST / DESIGN, str(settings.data), settings.split_seed or 0)
    run = Run.load(folder)
    assert run.best.key
    return Origin(folder / BEST / DESIGN, run.config.data, run.config.seed)


def start(config: TrainConfig) -> Start:
    """What ARCH names, with the weights asked for; to freeze a backbone, without asking, its own.

    Raises:
        ConfigError: there are no such weights.
        ZooError: no design has that name, or timm's weights of it cannot be had.
    """
    found = _named(config)
    size = config.image_size or found.architecture.image_size
    return found._replace(architecture=replace(found.architecture, image_size=size))


def _named(config: TrainConfig) -> Start:
    name = config.architecture
    folder = origin(name)
    file = str(folder.design) if folder else name
    architecture, own = zoo.read(file), Path(file).parent / WEIGHTS
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
        return Start(architecture, zoo.pretrained(design).state_dict(), zoo.normalisation(design))
    path = Path(wanted)
    if not path.is_file():
        raise ConfigError(f"--pretrained {path} does not exist.")
    weights, about = _own(path)
    if weights:
        return Start(architecture, weights, about)
    if design:
        return Start(architecture, zoo.pretrained(design, path).state_dict(), zoo.normalisation(design))
    raise ConfigError(
        f"--pretrained {path} is not of hybridnas: give the weights.safetensors of a bundle such as best/."
    )


def _own(file: Path) -> tuple[Weights, tuple[Tensor, Tensor] | None]:
    """What hybridnas wrote, and what it says of the images; nothing if it is timm's, whose weights have other names."""
    if file.suffix != ".safetensors":
        return {}, None
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
            weights = {key: opened.get_tensor(key) for key in opened.keys()}
        figures = [
            torch.tensor(json.loads(about[name]), dtype=torch.float32) for name in ("mean", "std") if name in about
        ]
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--pretrained {file} cannot be read: {first_clause(error)}.") from None
    if not any(".body." in key for key in weights):
        return {}, None
    return weights, (figures[0], figures[1]) if len(figures) == 2 else None


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
