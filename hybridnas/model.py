"""From a description to a network, and from the network to its inference form."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hybridnas.architecture import Architecture, Options
from hybridnas.backbone import Backbone, init_weights
from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.blocks.attention import resample
from hybridnas.blocks.fuse import fuse
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.row import Row
from hybridnas.blocks.stems import STEMS, resample_positions
from hybridnas.blocks.transitions import TRANSITIONS
from hybridnas.errors import ArchitectureError

# Far above any network's, and small enough that torch can say the shape of a layer.
MAX_COUNT = 2**16


class HybridStage(nn.Sequential):
    """One stage: its transition, then the body of its block family."""

    def __init__(self, transition: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.transition = transition
        self.body = body


class HybridNet(Backbone):
    """The network of an architecture: images (B, in_chans, H, W) to class scores (B, num_classes).

    It has the interface of timm's models; `hybridnas.timm_models` registers it there. H and W may differ from the image
    size that it is built for, also from each other: learned positions are then interpolated.

    Args:
        architecture: The description; its image size fixes the resolutions that attention is built for.
        num_classes: Outputs of the head; 0 leaves the pooled and normed features.
        in_chans: Channels of the images.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from zero at the first.

    Raises:
        ArchitectureError: a part is unknown, an option is not one of its family, or a combination is impossible.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int = 1000,
        *,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_path_rate = drop_path_rate
        total = sum(stage.depth for stage in architecture.stages)
        rates = [drop_path_rate * i / max(total - 1, 1) for i in range(total)]

        stem, image_size = architecture.stem, architecture.image_size
        self.stem = make("stem", STEMS, stem.type, stem.options, stem.width, image_size, in_chans)
        width, resolution = stem.width, math.ceil(image_size / stem_stride(architecture))
        stages = []
        for i, stage in enumerate(architecture.stages):
            where = f"stage {i + 1}"
            change = stage.transition
            transition = make(
                where, TRANSITIONS, change.type, change.options, width, stage.width, change.stride, resolution
            )
            width, resolution = stage.width, math.ceil(resolution / change.stride)
            stage_rates, rates = rates[: stage.depth], rates[stage.depth :]
            if stage.depth:
                body = make(where, BLOCKS, stage.block, stage.options, width, stage.depth, resolution, stage_rates)
            else:
                body = nn.Identity()
            stages.append(HybridStage(transition, body))
            if getattr(body, "class_token", None) is not None and i + 1 < len(architecture.stages):
                raise ArchitectureError(f"{where}: class_token is for the last stage: no other part knows of it.")
        self.stages = nn.Sequential(*stages)
        self.feature_info = pyramid(architecture)
        if self.feature_info[0]["module"] == "stem" and isinstance(self.stem, nn.Sequential):
            self.feature_info[0]["module"] = f"stem.{len(self.stem) - 1}"  # timm takes sequences apart
        self.num_features = width
        self.global_pool = self._own_pool = "token" if ends_in_tokens(architecture) else "avg"
        self.head: Any = make("head", HEADS, architecture.head.type, architecture.head.options, width, num_classes)
        if drop_rate:
            self.head.drop = nn.Dropout(drop_rate)
        self.apply(init_weights)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Build stem and stages again for square images of another size, with their weights: positions interpolated.

        A network takes images of any size without; with it also the deploy form, and windows fit the maps.

        Raises:
            ArchitectureError: the sides differ, or are none.
            ValueError: the network is in its deploy form.
        """
        architecture = sized(self.architecture, img_size)
        made = HybridNet(architecture, 0, in_chans=self.in_chans, drop_path_rate=self.drop_path_rate).to(self._placed())
        made.stages = made.stages[: len(self.stages)]
        old, new = (nn.ModuleDict({"stem": net.stem, "stages": net.stages}) for net in (self, made))
        if old.state_dict().keys() != new.state_dict().keys():
            raise ValueError("set_input_size is for the training form: call it before deploy().")
        new.load_state_dict(fit_positions(old.state_dict(), new))
        for before, after in zip(old.parameters(), new.parameters(), strict=True):
            after.requires_grad_(before.requires_grad)
        for part, twin in zip(old.modules(), new.modules(), strict=True):
            twin.training = part.training
            if isinstance(part, Row) and part.grad_checkpointing:
                setattr(twin, "grad_checkpointing", True)  # noqa: B010 (mypy)
        self.architecture, self.stem, self.stages = architecture, made.stem, made.stages
        if cfg := getattr(self, "pretrained_cfg", None):  # timm's note of what the network is for
            self.pretrained_cfg = self.default_cfg = resized_cfg(cfg, architecture)

    def deploy(self) -> HybridNet:
        """A copy in inference form: eval mode, training branches fused, batch norm folded, no gradients.

        The scores are the same. A head's features, `pre_logits`, are those before a batch norm that was folded.
        """
        model = copy.deepcopy(self).eval()
        with torch.random.fork_rng(devices=[]):  # timm draws weights for the fused convolutions before it sets them
            fuse(model)
        return model.eval().requires_grad_(False)  # once more: fusing makes new parts


def pyramid(architecture: Architecture) -> list[dict[str, Any]]:
    """The levels of a network's feature pyramid, finest first: each resolution once, where its last map comes out.

    Raises:
        ArchitectureError: the stem is unknown.
    """
    reduction = stem_stride(architecture)
    levels = {reduction: {"num_chs": architecture.stem.width, "reduction": reduction, "module": "stem"}}
    for i, stage in enumerate(architecture.stages):
        reduction *= stage.transition.stride
        levels[reduction] = {"num_chs": stage.width, "reduction": reduction, "module": f"stages.{i}"}
    return list(levels.values())


def stem_stride(architecture: Architecture) -> int:
    """By how much the stem divides the image's sides.

    Raises:
        ArchitectureError: it is unknown.
    """
    return int(getattr(known("stem", STEMS, architecture.stem.type), "stride"))  # noqa: B009 (mypy)


def ends_in_tokens(architecture: Architecture) -> bool:
    """Whether the last stage has a class token."""
    last = architecture.stages[-1]
    return bool(last.depth and last.options.get("class_token", False))


def sized(architecture: Architecture, img_size: int | Sequence[int]) -> Architecture:
    """The same for images of another size.

    Raises:
        ArchitectureError: the sides differ, or are none.
    """
    sides = {img_size} if isinstance(img_size, int) else set(img_size)
    if len(sides) != 1 or min(sides) < 1:
        raise ArchitectureError(f"img_size must be the side of a square that a network is built for, got {img_size}.")
    return dataclasses.replace(architecture, image_size=sides.pop())


def resized_cfg(cfg: dict[str, Any], architecture: Architecture) -> dict[str, Any]:
    """Timm's `default_cfg` with the size of the architecture's images and of its last map."""
    side = architecture.image_size
    last = math.ceil(side / pyramid(architecture)[-1]["reduction"])
    return {**cfg, "input_size": (cfg.get("input_size", (3,))[0], side, side), "pool_size": (last, last)}


def fit_positions(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights with each table of positions interpolated to the size that `model` is built for."""
    fitted = dict(state)
    for name, place in model.state_dict().items():
        value = state.get(name, place)
        if value.shape == place.shape:
            continue
        if name.endswith("bias.table"):
            side = math.isqrt(len(place))
            fitted[name] = resample(value, side, side)
        elif name.endswith("stem.position"):
            fitted[name] = resample_positions(value, *place.shape[2:])
    return fitted


def build(
    architecture: Architecture, num_classes: int = 1000, *, in_chans: int = 3, drop_path_rate: float = 0.0
) -> HybridNet:
    """Make the network of `architecture` with fresh weights, drawn from torch's global generator.

    >>> import torch
    >>> from hybridnas import Stage, Stem, Transition
    >>> stages = (Stage(Transition("conv"), "mbconv", 1, 16), Stage(Transition("patch"), "global", 1, 32))
    >>> model = build(Architecture(32, Stem("conv", 8), stages), num_classes=10).eval()
    >>> images = torch.randn(2, 3, 32, 32)
    >>> model(images).shape, model.forward_features(images).shape
    (torch.Size([2, 10]), torch.Size([2, 32, 4, 4]))
    >>> deployed = model.deploy()  # fused, for inference: the same scores
    >>> torch.allclose(deployed(images), model(images), atol=1e-4)
    True

    Raises:
        ArchitectureError: as `HybridNet`.
    """
    return HybridNet(architecture, num_classes, in_chans=in_chans, drop_path_rate=drop_path_rate)


def make(where: str, table: Mapping[str, type[nn.Module]], name: str, options: Options, *args: object) -> nn.Module:
    """Make the part called `name`; `where` begins the sentence of any error.

    Raises:
        ArchitectureError: the table has no such part, or the part has no such option or cannot take these values.
    """
    part = known(where, table, name)
    defaults = option_defaults(part)
    for option, value in options.items():
        if option not in defaults:
            allowed = f"its options are {', '.join(defaults)}" if defaults else "it has none"
            raise ArchitectureError(f"{where}: {name} has no option {option!r}; {allowed}.")
        if not same_kind(value, defaults[option]):
            wanted = type(defaults[option]).__name__
            raise ArchitectureError(f"{where}: {name}.{option} must be of type {wanted}, got {value!r}.")
        if isinstance(value, int) and value > MAX_COUNT:
            raise ArchitectureError(f"{where}: {name}.{option} must be at most {MAX_COUNT}, got {value}.")
    try:
        return part(*args, **options)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        problem = str(error).partition("\n")[0].rstrip(".")  # torch adds a stack trace
        raise ArchitectureError(f"{where}: {name}: {problem}.") from error


def known(where: str, table: Mapping[str, type[nn.Module]], name: str) -> type[nn.Module]:
    """The part called `name`; `where` begins the sentence of the error.

    Raises:
        ArchitectureError: the table has no such part.
    """
    if not isinstance(name, str) or name not in table:
        raise ArchitectureError(f"{where}: {name!r} is unknown; known are {', '.join(table)}.")
    return table[name]


def same_kind(value: object, default: object) -> bool:
    """Whether `value` can stand for an option with this default: its type, or a whole number where it is real."""
    return type(value) is type(default) or (type(value) is int and type(default) is float)


def num_params(model: nn.Module) -> int:
    """Number of parameters, buffers not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def image_batch(batch_size: int, image_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Normal noise (batch_size, 3, image_size, image_size) for counting and timing."""
    return torch.randn(batch_size, 3, image_size, image_size, device=device)
