"""A full training: what a chosen network gets, where candidates get a short run.

AdamW, warm-up and cosine as there; crops, RandAugment, random erasing, mixup, cutmix and stochastic depth as timm has
them (Wightman et al., 2021, arXiv:2110.00476), and an average of the weights, which is what is evaluated and kept.
All randomness of an epoch follows from the seed and the epoch's number: a training that goes on after one ends in the
same weights as one that never stopped, on the same CPU and versions.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup, create_transform
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from hybridnas.data.batches import layout, resize
from hybridnas.data.dataset import Split
from hybridnas.errors import TrainingFailed
from hybridnas.model import HybridNet
from hybridnas.proxy.steps import descend
from hybridnas.proxy.training import (
    Trainer,
    autocast_dtype,
    in_layout,
    memory_said,
    parameter_groups,
    rate,
)
from hybridnas.seeds import derive_seed


@dataclass(frozen=True)
class Augmentation:
    """How much a training hides: the smallest crop as a share of the area, and timm's words for the rest."""

    smallest_crop: float = 1.0
    rand_augment: str | None = None
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0


#: Short trainings gain from little, long ones from much.
AUGMENTATIONS = {
    "none": Augmentation(),
    "light": Augmentation(smallest_crop=0.6, rand_augment="rand-m5-n1-mstd0.5-inc1", drop_path=0.05),
    "strong": Augmentation(0.35, "rand-m9-mstd0.5-inc1", erase=0.25, mixup=0.8, cutmix=1.0, drop_path=0.1),
}


@dataclass(frozen=True)
class FullRecipe:
    """How a full training goes. `learning_rate` is for a batch of 128 and grows with the square root of the batch.

    With `freeze_backbone` only the head learns, and stem and stages stay as they are, their batch statistics, too.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    augmentation: Augmentation
    flip: bool = False
    freeze_backbone: bool = False
    weight_decay: float = 0.05
    warm_up: float = 0.1  # share of all steps
    label_smoothing: float = 0.1
    clip_norm: float = 1.0
    ema_decay: float = 0.9998  # in the end; it begins lower


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: the mean training loss, and the validation accuracy (0..1) of the averaged weights."""

    number: int
    learning_rate: float
    loss: float
    accuracy: float
    seconds: float


class FullTraining:
    """One network on its way. `epoch()` goes on by one; `state()` and `load_state()` carry it over a restart.

    Args:
        model: With its first weights.
        trainer: The data and the device; evaluates.
        recipe: How.
        seed: Of order and augmentation.
        num_loaders: Processes that augment; 0 does it here.
    """

    def __init__(
        self, model: HybridNet, trainer: Trainer, recipe: FullRecipe, *, seed: int, num_loaders: int = 0
    ) -> None:
        self.trainer = trainer
        self.recipe = recipe
        self.seed = seed
        self.num_loaders = num_loaders
        self.model = model
        self._layout = layout(trainer.device, model.architecture.image_size)
        in_layout(model.to(trainer.device), self._layout)
        for part in (model.stem, model.stages):
            part.requires_grad_(not recipe.freeze_backbone)
        self.images = Augmented(trainer, model.architecture.image_size, recipe)
        # Mixup pairs the images of a batch.
        self.batch_size = min(recipe.batch_size, len(self.images)) // 2 * 2
        self.steps = len(self.images) // self.batch_size
        self.optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=0.0, fused=True)
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
        self.dtype = autocast_dtype(trainer.device)
        self.scaler = torch.amp.GradScaler(trainer.device.type, enabled=self.dtype == torch.float16)
        mix = recipe.augmentation
        self._mixup = (
            Mixup(mix.mixup, mix.cutmix, label_smoothing=recipe.label_smoothing, num_classes=model.num_classes)
            if mix.mixup or mix.cutmix
            else None
        )
        self.done = 0

    @property
    def averaged(self) -> HybridNet:
        """The network of the averaged weights."""
        found: HybridNet = self.ema.module
        return found

    def epoch(self, on_step: Callable[[int, int], None] = lambda done, total: None) -> Epoch:
        """Train one epoch more and evaluate.

        Args:
            on_step: Called with the steps done and those of an epoch, after each.

        Raises:
            TrainingFailed: the loss is no longer finite, or memory ran out.
        """
        with memory_said():
            return self._epoch(on_step)

    def _epoch(self, on_step: Callable[[int, int], None]) -> Epoch:
        start = time.perf_counter()
        torch.set_num_threads(self.trainer.threads)
        _seed_all(self._seed("epoch"))
        self._set_training()
        losses = []
        for step, (images, labels) in enumerate(self._batches()):
            number = self.done * self.steps + step
            learning_rate = self._set_rate(number)
            with self.trainer.lock.shared():
                value = self._step(images, labels)
                self.ema.update(self.model, step=number)
            if not math.isfinite(value):
                raise TrainingFailed(f"diverged: the loss is {value} at step {step + 1} of epoch {self.done + 1}")
            losses.append(value)
            on_step(step + 1, self.steps)
        accuracy = self.evaluate("validation")
        self.done += 1
        return Epoch(self.done, learning_rate, float(np.mean(losses)), accuracy, time.perf_counter() - start)

    def evaluate(self, part: str) -> float:
        """Accuracy of the averaged weights, 0..1, on 'validation' or 'test' images."""
        return self.trainer.evaluate(
            self.averaged,
            part,
            image_size=self.model.architecture.image_size,
            batch_size=min(256, 2 * self.batch_size),
        )

    def state(self) -> dict[str, Any]:
        """Tensors and numbers alone: `torch.load` needs no code for it."""
        return {
            "key": self.model.architecture.key,
            "done": self.done,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave of a training with the same settings."""
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where the GPU that it comes from needed none
            self.scaler.load_state_dict(state["scaler"])
        self.done = state["done"]

    def _seed(self, *parts: object) -> int:
        """Of this epoch, and of whatever is named in it."""
        return derive_seed(self.seed, self.done, *parts)

    def _set_training(self) -> None:
        self.model.train()
        if self.recipe.freeze_backbone:
            self.model.stem.eval()
            self.model.stages.eval()

    def _set_rate(self, number: int) -> float:
        peak = self.recipe.learning_rate * math.sqrt(self.batch_size / 128)
        now = peak * rate(number, self.recipe.epochs * self.steps, self.recipe.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = now
        return now

    def _step(self, images: Tensor, labels: Tensor) -> float:
        images = images.to(self.trainer.device, memory_format=self._layout)
        labels = labels.to(self.trainer.device)
        targets = labels
        if self._mixup is not None:
            images, targets = self._mixup(images, labels)
        with torch.autocast(self.trainer.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            with torch.set_grad_enabled(not self.recipe.freeze_backbone):
                features = self.model.forward_features(images)
            scores = self.model.forward_head(features)
            smoothing = 0.0 if self._mixup is not None else self.recipe.label_smoothing  # mixup's have it already
            loss = F.cross_entropy(scores, targets, label_smoothing=smoothing)
        descend(loss, self.model, self.optimizer, self.scaler, self.recipe.clip_norm)
        return loss.item()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images)).tolist()
        return iter(
            DataLoader(
                self.images,
                batch_size=self.batch_size,
                sampler=[(i, self._seed(i)) for i in order],
                num_workers=self.num_loaders,
                drop_last=True,
                pin_memory=self.trainer.device.type == "cuda",
            )
        )


class Augmented(TorchDataset[tuple[Tensor, int]]):
    """The training images at one size; asked for (index, seed), one augmented as that seed says: (3, S, S) float."""

    def __init__(self, trainer: Trainer, image_size: int, recipe: FullRecipe) -> None:
        part: Split = trainer.dataset.train
        self.images = resize(torch.from_numpy(part.images), image_size)
        self.labels = part.labels
        augmentation = recipe.augmentation
        self._transform = create_transform(
            image_size,
            is_training=True,
            scale=(augmentation.smallest_crop, 1.0),
            ratio=(0.8, 1.25) if augmentation.smallest_crop < 1 else (1.0, 1.0),
            hflip=0.5 if recipe.flip else 0.0,
            color_jitter=None,
            auto_augment=augmentation.rand_augment,
            re_prob=augmentation.erase,
            mean=tuple((trainer.mean.expand(3) / 255).tolist()),
            std=tuple((trainer.std.expand(3) / 255).tolist()),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, asked: tuple[int, int]) -> tuple[Tensor, int]:
        i, seed = asked
        _seed_all(seed)
        pixels = self.images[i].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
        return self._transform(Image.fromarray(pixels)), int(self.labels[i])


def _seed_all(seed: int) -> None:
    """All three generators that timm's augmentation draws from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
