"""What a search is about, of a new run or of one that goes on: settings, space, designs, and what it depends on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PositiveFloat, PositiveInt

from hybridnas import zoo
from hybridnas.architecture import Architecture
from hybridnas.config import DEFAULT_SECONDS, DEFAULT_SECONDS_LARGE, SearchConfig
from hybridnas.cost.budget import Budget
from hybridnas.cost.latency import Timer, available_cores
from hybridnas.cost.predict import context_of
from hybridnas.cost.runtimes import Setting
from hybridnas.cost.table import Table
from hybridnas.cost.targets import about_device, best_device, local_device
from hybridnas.data.dataset import Dataset
from hybridnas.errors import ArchitectureError, ConfigError, RunError, SpaceError, first_clause
from hybridnas.files import write_atomic
from hybridnas.proxy.rungs import rungs_of
from hybridnas.proxy.training import DEFAULT_EPOCHS, Recipe, quickest_num_threads
from hybridnas.space import SearchSpace
from hybridnas.space.around import around
from hybridnas.starting import called_after
from hybridnas.study.run import check_goes_on, free_folder, newest_folder, read_settings, write_settings
from hybridnas.study.sharing import check_server, without_password
from hybridnas.working import share_of_cores, workers_here
from hybridnas.zoo.of_timm import BACKBONES, given_weights

#: Where runs lie that were not given a folder.
RUNS = Path("runs")

#: What searches share that were given a server and no name.
STUDY = "hybridnas"

#: The packages whose versions proposals, trainings, times or images depend on.
DEPENDED_ON = "hybridnas torch torchvision timm optuna scikit-learn scipy numpy moocore pillow".split()

#: Where a run with a frozen table keeps its own.
TABLE = "table.sqlite"


def open_run(config: SearchConfig, *, resume: bool) -> tuple[SearchConfig, Path]:
    """The settings in force and the run folder: a new one's name, or an old one's path.

    Raises:
        ConfigError: the folder that was asked for has something in it, a setting cannot be changed any more, or what
            it needs is not there.
        RunError: there is no such run, or it is damaged.
    """
    if config.storage:
        check_server(config.storage)
    if not resume:
        folder = free_folder(config.out, RUNS)
    else:
        folder = config.out or newest_folder(RUNS, "run folder")
        config = _gone_on_with(config, folder)
    if config.ray_address is not None and config.executor != "ray":
        raise ConfigError(f"--ray-address is for --executor ray, got {config.executor}.")
    if config.executor == "ray" and importlib.util.find_spec("ray") is None:
        raise ConfigError("--executor ray needs Ray: pip install 'hybridnas[ray]'.")
    return config, folder


def _gone_on_with(config: SearchConfig, folder: Path) -> SearchConfig:
    """The settings of a run, with those that are given now in their place."""
    stored = read_settings(folder)
    check_goes_on(folder, stored)
    if config.rungs is not None and stored.epochs:
        config = config.model_copy(update={"rungs": rungs_of(config.rungs, stored.epochs)})
    config.check_resumable(stored)
    given: dict[str, Any] = {name: getattr(config, name) for name in config.model_fields_set & {*config.CHANGEABLE}}
    if given.keys() & {"trials", "time"}:  # a new stop replaces the old one, whichever kind it was
        stored = stored.model_copy(update={"trials": None, "time": None})
    if given.get("baselines", "timm") != "timm":  # the weights of timm's models go with them
        stored = stored.model_copy(update={"baseline_weights": None})
    if given.get("executor", "ray") != "ray":  # and its address with Ray
        stored = stored.model_copy(update={"ray_address": None})
    return stored.model_copy(update={**given, "out": folder})


def weights_of(config: SearchConfig) -> Path | None:
    """The folder of weights that timm's models begin with, if one was given.

    Raises:
        ConfigError: it has none, or nothing is compared with timm's models.
    """
    if config.baseline_weights is None:
        return None
    if config.baselines != "timm":
        raise ConfigError(f"--baseline-weights is for --baselines timm, got {config.baselines}.")
    folder = Path(config.baseline_weights)
    if not any(given_weights(name, folder) for names in BACKBONES.values() for name in names):
        raise ConfigError(
            f"--baseline-weights {folder} has no file named after one of timm's models that a winner is compared with, "
            "such as resnet18.safetensors."
        )
    return folder


def resolved(config: SearchConfig, *, space: str) -> SearchConfig:
    """The settings with every default said, so that a run does not change its meaning with a new version.

    Raises:
        ConfigError: the runtime is unknown, not installed, or does not compute in that precision.
    """
    Setting(config.runtime, config.precision)
    time = DEFAULT_SECONDS if space == "tiny" else DEFAULT_SECONDS_LARGE
    defaults = {
        "space": None if config.around else space,
        "time": time if config.trials is None else None,
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


def new_space(config: SearchConfig) -> tuple[SearchSpace, dict[str, Architecture]]:
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
        shown = name
        if name.endswith(".json"):
            folder = called_after(Path(name))
            shown = folder if folder and folder not in designs else name
        designs[shown] = design
    return space, designs


def _held_design(space: SearchSpace, name: str) -> tuple[str, Architecture]:
    """A published design, at the image size of the space that is nearest to its own."""
    design = zoo.load(name)
    size = min(space.file.image_size, key=lambda size: abs(size - design.image_size))
    return name, replace(design, image_size=size)


def stored_space(config: SearchConfig, folder: Path) -> tuple[SearchSpace, dict[str, Architecture]]:
    """Those of a run, whatever became of the files since.

    Raises:
        RunError: its space.yaml or designs.json cannot be read.
    """
    name = Path(config.space).stem if config.space else f"around_{Path(str(config.around)).stem}"
    space = read_space(folder / "space.yaml", name)
    if config.image_size and config.space:
        space = space.with_image_size(config.image_size)
    try:
        stored = json.loads((folder / "designs.json").read_bytes())
        return space, {name: Architecture.from_json(json.dumps(design)) for name, design in stored.items()}
    except (OSError, ValueError, AttributeError, ArchitectureError) as error:
        raise RunError(f"{folder / 'designs.json'} cannot be read: {error}.") from None


def read_space(snapshot: Path, name: str) -> SearchSpace:
    """The space that a run keeps.

    Raises:
        RunError: it cannot be read.
        SpaceError: it is damaged.
    """
    try:
        text = snapshot.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{snapshot} cannot be read: {error}.") from None
    return SearchSpace.parse(text, name=name, file=str(snapshot))


def about(config: SearchConfig, space: SearchSpace, timers: Sequence[Timer], dataset: Dataset) -> dict[str, str]:
    """What searches that share a study must have in common, by name; of one alone, what no resumed run may change."""
    device = {"device": ", ".join(f"{timer.target} ({timer.fingerprint})" for timer in timers)}
    return {
        "space": f"{space.name} ({hashlib.sha256(space.text.encode()).hexdigest()[:8]})",
        "image size": ", ".join(map(str, space.file.image_size)),
        "budget": str(Budget(config.budget_ms, config.budget_macs, config.budget_params)),
        "seed": str(config.seed),  # the data are split by it
        "data": f"{config.data} ({dataset.fingerprint()})",
        "training": f"{config.epochs} epochs, rungs {config.rungs}, batch {config.batch_size}, flip {config.flip}",
        "objective": config.objective,
    } | (device if config.storage else {})


class _Machine(BaseModel):
    """What is known of a target, as far as a run that goes on depends on it."""

    fingerprint: str
    reference_ms: PositiveFloat


class _Environment(BaseModel):
    targets: list[_Machine]
    data_fingerprint: str
    training_threads: PositiveInt = 1
    balanced: bool = False


def read_environment(folder: Path) -> dict[str, Any]:
    """What a run depends on, as it was when it began (environment.json).

    Raises:
        RunError: the file cannot be read, or is not whole.
    """
    path = folder / "environment.json"
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        _Environment.model_validate(found)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {first_clause(error)}.") from None
    return found


def begin(
    folder: Path,
    config: SearchConfig,
    space: SearchSpace,
    designs: Mapping[str, Architecture],
    timers: Sequence[Timer],
    dataset: Dataset,
) -> None:
    """Write what a resumed run needs; config.json last, as it makes the folder a run folder."""
    assert config.batch_size and config.device
    environment: dict[str, Any] = {
        "training_threads": quickest_num_threads(
            share_of_cores(workers_here(config)), max(space.file.image_size), config.batch_size
        ),
        "trained_on": about_device(local_device(config.device), []),
        "targets": [timer.environment | {"fingerprint": timer.fingerprint} for timer in timers],
        "data_fingerprint": dataset.fingerprint(),
        "balanced": not dataset.is_balanced,
        "versions": {name: importlib.metadata.version(name) for name in DEPENDED_ON},
    }
    if config.frozen_table:
        with closing(Table()) as table:
            contexts = [context_of(timer) for timer in timers]
            write_atomic(folder / TABLE, lambda path: table.copy(path, contexts))
    write_atomic(folder / "space.yaml", space.text)
    first = {name: json.loads(design.to_json()) for name, design in designs.items()}
    write_atomic(folder / "designs.json", json.dumps(first, indent=2))
    write_atomic(folder / "environment.json", json.dumps(environment, indent=2))
    kept = {"out": None, "storage": without_password(config.storage) if config.storage else None}
    write_settings(folder, config.model_copy(update=kept))


def check_unchanged(dataset: Dataset, config: SearchConfig, folder: Path) -> None:
    """Raise a RunError if data are not those that a run began with."""
    then = read_environment(folder)
    if then["data_fingerprint"] != dataset.fingerprint():
        raise RunError(f"--data {config.data} is not what it was when {folder} began; put it back to go on.")
    if then.get("balanced", False) == dataset.is_balanced:
        raise RunError(
            f"{folder} was made by an older version, whose accuracies do not weigh classes of unequal size alike; "
            "begin a new run."
        )
