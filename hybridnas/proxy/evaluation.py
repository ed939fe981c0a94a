"""One training as a task that may be done elsewhere: in another process, on another machine.

A task says all that a training needs but the data, and its outcome all that a search is told of it. Networks do not
travel: what is kept of them is files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybridnas.errors import OutOfTime, TrainingFailed
from hybridnas.files import write_atomic

if TYPE_CHECKING:  # who hands tasks on need not import torch
    from torch import nn

    from hybridnas.proxy.training import Design, Recipe, Trainer


@dataclass(frozen=True)
class Task:
    """A training to begin, or to go on with.

    Attributes:
        number: Of the trial, or any that tells it from the others in flight.
        architecture: What to train: ours, or one of timm's.
        recipe: How.
        seed: Of the training.
        until: Epochs after which it stops.
        checkpoint: Where a stopped training lies, and is left; None keeps none.
        weights: Where a network that was trained to the end is left; None keeps none.
        seconds_left: Give up as soon as it would clearly take longer.
    """

    number: int
    architecture: Design
    recipe: Recipe
    seed: int
    until: int
    checkpoint: Path | None = None
    weights: Path | None = None
    seconds_left: float = math.inf


@dataclass(frozen=True)
class Outcome:
    """Validation accuracy after each epoch so far, 0..1, and the seconds that this part of the training took."""

    accuracies: tuple[float, ...]
    seconds: float


#: What became of a task.
Result = Outcome | TrainingFailed | OutOfTime

#: Does a task, and tells the share that is done, 0..1, after each step.
Evaluate = Callable[[Task, Callable[[float], None]], Result]


def evaluate(trainer: Trainer, task: Task, on_step: Callable[[float], None]) -> Result:
    """Do a task here."""
    try:
        result = trainer.train(
            task.architecture,
            task.recipe,
            seed=task.seed,
            until=task.until,
            checkpoint=task.checkpoint,
            seconds_left=task.seconds_left,
            on_step=on_step,
        )
    except (TrainingFailed, OutOfTime) as reason:
        return reason
    if task.weights and task.until == task.recipe.epochs:
        save_weights(task.weights, result.model)
    return Outcome(result.accuracies, result.seconds)


def save_weights(path: Path, model: nn.Module) -> None:
    """Leave a network's weights in a safetensors file."""
    from safetensors.torch import save_file

    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_atomic(path, lambda temporary: save_file(weights, temporary))
