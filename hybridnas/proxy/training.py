"""One short training run: what a candidate's accuracy comes from.

AdamW with a linear warm-up and a cosine to zero, label smoothing and gradient clipping (the recipe of ConvNeXt,
arXiv:2201.03545, appendix A, cut to a few epochs): attention needs the warm-up, and in runs this short nearly no
augmentation helps anybody.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torchvision.transforms import v2

from hybridnas.architecture import Architecture
from hybridnas.data.batches import Batches, channel_statistics
from hybridnas.data.dataset import Dataset
from hybridnas.errors import OutOfTime, TrainingFailed
from hybridnas.files import write_atomic
from hybridnas.locks import DeviceLock
from hybridnas.model import build
from hybridnas.proxy.steps import WARM_UP, make_step
from hybridnas.zoo.of_timm import TimmModel

#: All cores train where a step takes less than this share of what one core needs.
WORTH = 0.9
#: A loss over so many times that of guessing, for so many steps, does not come back.
LOST, LOST_STEPS = 10.0, 5
#: Epochs of a run where nothing else is asked for.
DEFAULT_EPOCHS = 3
#: What trained weights go on with, instead of a recipe's learning rate.
FINE_TUNING_RATE = 3e-4

#: Something to train: both have an image size and a key.
Design = Architecture | TimmModel


@dataclass(frozen=True)
class Recipe:
    """How a run trains. `learning_rate` is for a batch of 128 and grows with the square root of the batch."""

    epochs: int
    batch_size: int = 32
    learning_rate: float = 6e-3
    weight_decay: float = 0.05
    warm_up: float = 0.2  # share of all steps
    label_smoothing: float = 0.1
    clip_norm: float = 1.0
    shift: float = 1 / 16  # of the image size, the largest random shift; one for all images of a batch
    flip: bool = False
    ema_decay: float = 0.0  # of the average of the weights, in the end; 0 keeps none


@dataclass(frozen=True)
class TrainingResult:
    """A trained network, its validation accuracy after each epoch, and the seconds that it took."""

    model: nn.Module = field(repr=False)
    accuracies: tuple[float, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Validation accuracy at the end, 0..1."""
        return self.accuracies[-1]


def quickest_num_threads(cores: int, image_size: int, batch_size: int) -> int:
    """All CPU cores, or one where training steps are not clearly quicker with all, tried on a small network.

    Threads wait for each other at every operator, spinning: beside one other busy process an epoch took 183 s with two
    threads on two cores that takes 2 s with one.
    """
    if cores == 1:
        return 1
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.GELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GELU(), nn.Conv2d(64, 64, 3, 1, 1)
        )
    images = torch.zeros(batch_size, 3, image_size, image_size)

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        steps = []
        for _ in range(4):
            start = time.perf_counter()
            network(images).square().mean().backward()
            steps.append(time.perf_counter() - start)
        return min(steps[1:])

    before = torch.get_num_threads()
    try:
        return cores if seconds(cores) < WORTH * seconds(1) else 1
    finally:
        torch.set_num_threads(before)


class Trainer:
    """Trains designs on one data set and one device.

    Images are resized once for each image size and kept.
    """

    def __init__(self, dataset: Dataset, device: torch.device, *, threads: int) -> None:
        self.dataset = dataset
        self.device = device
        self.threads = threads
        self.mean, self.std = channel_statistics(dataset.train)
        self.lock = DeviceLock(str(device))
        self._batches: dict[tuple[str, int], Batches] = {}

    def batches(self, part: str, image_size: int) -> Batches:
        """The part 'train', 'validation' or 'test' at `image_size`."""
        if (part, image_size) not in self._batches:
            split = getattr(self.dataset, part)
            self._batches[part, image_size] = Batches(split, image_size, self.device, self.mean, self.std)
        return self._batches[part, image_size]

    def train(
        self,
        design: Design,
        recipe: Recipe,
        *,
        seed: int,
        until: int | None = None,
        checkpoint: Path | None = None,
        seconds_left: float = math.inf,
        on_step: Callable[[float], None] = lambda share: None,
    ) -> TrainingResult:
        """Train a fresh network; the same seed gives the same network on the same machine and versions.

        Stopped after some epochs and gone on with later, it is, on a CPU, the same network as without a stop.

        Args:
            design: What to train.
            recipe: How.
            seed: Of the weights, the order of the images and the augmentation.
            until: Stop after so many epochs of the recipe's; None is all.
            checkpoint: Go on from this file, where it is there and of the same training; it is written at a stop.
            seconds_left: Give up as soon as the run would clearly take longer.
            on_step: Called with the share done of what this call has to do, 0..1, after each step.

        Raises:
            TrainingFailed: the loss is no longer finite, stays far above that of guessing, or memory ran out.
            OutOfTime: the run would take longer than `seconds_left`.
        """
        torch.set_num_threads(self.threads)
        with memory_said():
            return self._train(design, recipe, seed, until or recipe.epochs, checkpoint, seconds_left, on_step)

    def _train(
        self,
        design: Design,
        recipe: Recipe,
        seed: int,
        until: int,
        checkpoint: Path | None,
        seconds_left: float,
        on_step: Callable[[float], None],
    ) -> TrainingResult:
        start = time.perf_counter()
        images = self.batches("train", design.image_size)
        torch.manual_seed(seed)
        model = in_layout(made(design, self.dataset.num_classes).to(self.device), images.layout)
        order = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, recipe.weight_decay),
            lr=recipe.learning_rate * math.sqrt(min(recipe.batch_size, len(images)) / 128),
            fused=True,  # a tenth of the time of the other forms: at a batch of 32 they take 8 % of a step
        )
        steps_per_epoch = max(1, len(images) // recipe.batch_size)
        total = recipe.epochs * steps_per_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, total, recipe.warm_up))
        dtype = autocast_dtype(self.device)
        scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        augment = augmentation(recipe, design.image_size)
        trained: nn.Module = model if ema is None else ema.module
        accuracies: list[float] = []
        parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
        parts |= {} if ema is None else {"average": ema}
        identity = {"key": design.key, "seed": seed, "recipe": asdict(recipe)}
        state = read_state(checkpoint, identity)
        if state:
            try:
                with memory_said():
                    _take_over(state, parts, optimizer)
                order.set_state(state["order"])
                torch.set_rng_state(state["random"])
                accuracies += map(float, state["accuracies"])
                if schedule.last_epoch != len(accuracies) * steps_per_epoch or not all(0 <= a <= 1 for a in accuracies):
                    raise ValueError("steps and accuracies disagree")
            except TrainingFailed:  # the memory's fault, not the file's
                raise
            except Exception:  # damaged, it is as none; some of it may have been taken over
                assert checkpoint
                checkpoint.unlink()
                return self._train(design, recipe, seed, until, checkpoint, seconds_left, on_step)
        descend = make_step(
            model,
            optimizer,
            scaler,
            dtype=dtype,
            label_smoothing=recipe.label_smoothing,
            clip_norm=recipe.clip_norm,
        )
        guessing = math.log(self.dataset.num_classes)
        first = step = len(accuracies) * steps_per_epoch
        last = until * steps_per_epoch
        lost = 0
        steady = start
        # The first steps pay for allocation and kernel selection, on a GPU the next for being recorded.
        settled = WARM_UP + 1 if self.device.type == "cuda" else 2
        while len(accuracies) < until:
            model.train()
            for x, labels in images.shuffled(recipe.batch_size, order, augment):
                with self.lock.shared():  # a timer of any process gets the device between two steps
                    loss = descend(x, labels)
                    schedule.step()
                    if ema is not None:
                        ema.update(model, step=step)
                    value = loss.item()  # waits for the device
                step += 1
                lost = lost + 1 if value > LOST * guessing else 0
                if not math.isfinite(value) or lost == LOST_STEPS:
                    raise TrainingFailed(f"diverged: the loss is {value:.3g} at step {step} of {total}")
                now = time.perf_counter()
                done = step - first
                if done == settled:
                    steady = now
                elif done >= settled + 3:
                    expected = now - start + (now - steady) / (done - settled) * (last - step)
                    if expected > seconds_left * 1.1:
                        raise OutOfTime(f"would take {expected:.0f} s, {seconds_left:.0f} s are left")
                on_step(done / (last - first))
            accuracies.append(self.evaluate(trained, "validation", image_size=design.image_size))
        if checkpoint and until < recipe.epochs:
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"order": order.get_state(), "random": torch.get_rng_state(), "accuracies": accuracies}
            write_atomic(checkpoint, partial(torch.save, state | {"identity": identity}))
        return TrainingResult(trained, tuple(accuracies), time.perf_counter() - start)

    def evaluate(self, model: nn.Module, part: str, *, image_size: int, batch_size: int = 256) -> float:
        """Accuracy of `model`, 0..1, on a part of the data: balanced where the classes are not (`is_balanced`)."""
        model.eval()
        batches = self.batches(part, image_size)
        found = []
        with torch.inference_mode():
            for x, _ in batches.in_order(batch_size):
                with self.lock.shared():
                    found.append(model(x).argmax(1).cpu())
        right = (torch.cat(found) == batches.labels.cpu()).double()
        if self.dataset.is_balanced:
            return float(right.mean())
        present, labels = batches.labels.cpu().unique(return_inverse=True)
        hits = torch.zeros(len(present), dtype=torch.double).index_add_(0, labels, right)
        return float((hits / labels.bincount()).mean())


def made(design: Design, num_classes: int) -> nn.Module:
    """The network of a design with fresh weights, or with those that it names."""
    return design.build(num_classes) if isinstance(design, TimmModel) else build(design, num_classes)


def in_layout(model: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """The same model as `data.batches.layout` says that it and its images lie in memory.

    With channels last strided 1x1 convolutions of a few channels, such as FastViT's first, stay contiguous: torch
    2.15's gradient of these writes past its memory on a CPU, and the process dies.
    """
    model = model.to(memory_format=memory_format)
    if memory_format != torch.channels_last:
        return model
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.stride > (1, 1) and part.in_channels < 8:
            part.to(memory_format=torch.contiguous_format)
            part.register_forward_pre_hook(_contiguous)
    return model


def _contiguous(part: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (given[0].contiguous(),)


def read_state(checkpoint: Path | None, identity: dict[str, Any]) -> dict[str, Any]:
    """What a stopped training left; nothing where the file is not there, damaged, or of another training."""
    if checkpoint is None or not checkpoint.is_file():
        return {}
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return state if state["identity"] == identity else {}
    except Exception:  # on a damaged file the unpickler stumbles in any way, and any value may stand there
        return {}


def _take_over(state: dict[str, Any], parts: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Give the parts of a training what a stopped one left."""
    for name, part in parts.items():
        part.load_state_dict(state[name])
    for group in optimizer.param_groups:  # as a step on this device wants them
        group |= {"lr": float(group["lr"]), "capturable": False}
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)


@contextmanager
def memory_said() -> Iterator[None]:
    """Where memory runs out, a TrainingFailed, and nothing of the GPU's is kept."""
    try:
        yield
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        raise TrainingFailed("out of memory") from None
    except (RuntimeError, MemoryError) as error:
        # What torch's CPU allocator raises is a plain RuntimeError.
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise TrainingFailed("out of memory") from None
        raise


def augmentation(recipe: Recipe, image_size: int) -> v2.Transform:
    """What happens to a batch of uint8 images (B, C, H, W): a shift, whose gaps repeat the border, and a mirror."""
    shift = round(recipe.shift * image_size)
    steps: list[nn.Module] = [v2.RandomCrop(image_size, padding=shift, padding_mode="edge")] if shift else []
    steps += [v2.RandomHorizontalFlip()] if recipe.flip else []
    return v2.Compose(steps or [v2.Identity()])


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What a device multiplies in where 32 bits are not needed, None where it gains nothing by that.

    bfloat16 on GPUs that have it (since Ampere), else float16, whose gradients must be scaled.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def rate(step: int, total: int, warm_up: float) -> float:
    """Linear from zero over the warm-up, then half a cosine to zero."""
    warm = max(1.0, warm_up * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, total - warm)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights of matrices and convolutions decay; norms, biases, scales and learned positions do not."""
    named = getattr(model, "no_weight_decay", None)  # not all of timm's have it
    spared: Collection[str] = named() if named else ()
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (decayed if parameter.ndim >= 2 and name not in spared else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
