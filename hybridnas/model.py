"""From a description to a network, and from the network to its inference form."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from hybridnas.architecture import Architecture, Options
from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.blocks.fuse import fuse
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
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


class HybridNet(nn.Module):
    """The network of an architecture: images (B, 3, H, W) to class scores (B, num_classes).

    Args:
        architecture: The description; its image size fixes the resolutions that attention is built for.
        num_classes: Outputs of the head; 0 leaves the pooled and normed features.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from zero at the first.

    Raises:
        ArchitectureError: a part is unknown, an option is not one of its family, or a combination is impossible.
    """

    def __init__(self, architecture: Architecture, num_classes: int = 1000, *, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_classes = num_classes
        total = sum(stage.depth for stage in architecture.stages)
        rates = [drop_path_rate * i / max(total - 1, 1) for i in range(total)]

        stem, image_size = architecture.stem, architecture.image_size
        self.stem = make("stem", STEMS, stem.type, stem.options, stem.width, image_size)
        width, reduction = stem.width, int(getattr(self.stem, "stride"))  # noqa: B009 (mypy)
        resolution = math.ceil(image_size / reduction)
        self.feature_info: list[dict[str, Any]] = []
        stages = []
        for i, stage in enumerate(architecture.stages):
            where = f"stage {i + 1}"
            change = stage.transition
            transition = make(
                where, TRANSITIONS, change.type, change.options, width, stage.width, change.stride, resolution
            )
            width, reduction = stage.width, reduction * change.stride
            resolution = math.ceil(resolution / change.stride)
            stage_rates, rates = rates[: stage.depth], rates[stage.depth :]
            if stage.depth:
                body = make(where, BLOCKS, stage.block, stage.options, width, stage.depth, resolution, stage_rates)
            else:
                body = nn.Identity()
            stages.append(HybridStage(transition, body))
            if getattr(body, "class_token", None) is not None and i + 1 < len(architecture.stages):
                raise ArchitectureError(f"{where}: class_token is for the last stage: no other part knows of it.")
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.num_features = width
        self.head = make("head", HEADS, architecture.head.type, architecture.head.options, width, num_classes)
        self.apply(_init_weights)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the last feature map (B, num_features, h, w).

        Where the last stage has a class token, to tokens (B, 1 + h*w, num_features), the class token first.
        """
        out: Tensor = self.stages(self.stem(x))
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last feature map to class scores, or to the features that the classifier gets."""
        out: Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to class scores (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def deploy(self) -> HybridNet:
        """A copy in inference form: eval mode, training branches fused, batch norm folded, no gradients.

        The scores are the same. A head's features, `pre_logits`, are those before a batch norm that was folded.
        """
        model = copy.deepcopy(self).eval()
        with torch.random.fork_rng(devices=[]):  # timm draws weights for the fused convolutions before it sets them
            fuse(model)
        return model.eval().requires_grad_(False)  # once more: fusing makes new parts


def build(architecture: Architecture, num_classes: int = 1000, *, drop_path_rate: float = 0.0) -> HybridNet:
    """Make the network of `architecture` with fresh weights, drawn from torch's global generator."""
    return HybridNet(architecture, num_classes, drop_path_rate=drop_path_rate)


def make(where: str, table: Mapping[str, type[nn.Module]], name: str, options: Options, *args: object) -> nn.Module:
    """Make the part called `name`; `where` begins the sentence of any error.

    Raises:
        ArchitectureError: the table has no such part, or the part has no such option or cannot take these values.
    """
    if not isinstance(name, str) or name not in table:
        raise ArchitectureError(f"{where}: {name!r} is unknown; known are {', '.join(table)}.")
    known = option_defaults(table[name])
    for option, value in options.items():
        if option not in known:
            allowed = f"its options are {', '.join(known)}" if known else "it has none"
            raise ArchitectureError(f"{where}: {name} has no option {option!r}; {allowed}.")
        if not same_kind(value, known[option]):
            wanted = type(known[option]).__name__
            raise ArchitectureError(f"{where}: {name}.{option} must be of type {wanted}, got {value!r}.")
        if isinstance(value, int) and value > MAX_COUNT:
            raise ArchitectureError(f"{where}: {name}.{option} must be at most {MAX_COUNT}, got {value}.")
    try:
        return table[name](*args, **options)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        problem = str(error).partition("\n")[0].rstrip(".")  # torch adds a stack trace
        raise ArchitectureError(f"{where}: {name}: {problem}.") from error


def same_kind(value: object, default: object) -> bool:
    """Whether `value` can stand for an option with this default: its type, or a whole number where it is real."""
    return type(value) is type(default) or (type(value) is int and type(default) is float)


def _init_weights(module: nn.Module) -> None:
    """Truncated normal (std 0.02) for linear layers, as ViT, Swin and ConvNeXt do; fan-out for convolutions."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def num_params(model: nn.Module) -> int:
    """Number of parameters, buffers not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def image_batch(batch_size: int, image_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Normal noise (batch_size, 3, image_size, image_size) for counting and timing."""
    return torch.randn(batch_size, 3, image_size, image_size, device=device)
