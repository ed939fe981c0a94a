"""What a network of stem, stages and head can do: the interface that timm gives its models."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from timm.layers import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from hybridnas.architecture import Architecture
from hybridnas.blocks.attention import to_map
from hybridnas.blocks.row import Row


class Backbone(nn.Module):
    """Images (B, in_chans, H, W) to a pyramid of maps, to features, to class scores. `HybridNet` fills it with parts.

    Attributes:
        feature_info: The levels of the feature pyramid, one a resolution: the stem where no stage works at its
            resolution, and the last stage of each.
        num_features: Channels of the last map.
        global_pool: What the head pools by: 'avg', or 'token' where there is a class token. With '' the network ends in
            the last map.
    """

    architecture: Architecture
    num_classes: int
    in_chans: int
    stem: nn.Module
    stages: nn.Sequential
    head: Any
    feature_info: list[dict[str, Any]]
    num_features: int
    global_pool: str
    _own_pool: str

    @property
    def head_hidden_size(self) -> int:
        """Channels that the classifier gets."""
        return int(self.head.num_features)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the last feature map (B, num_features, h, w).

        Where the last stage has a class token, to tokens (B, 1 + h*w, num_features), the class token first.
        """
        out: Tensor = self.stages(self.stem(x))
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last feature map to class scores, or to the features that the classifier gets."""
        if not self.global_pool:
            return x
        out: Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to class scores (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The levels of the feature pyramid, each a map (B, C, h, w), finest first, and the last features.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Which of `feature_info`: the last so many, or these; all by default.
            norm: Changes nothing: the last norm is the head's.
            stop_early: Compute nothing past the last one asked for; what goes with the maps is then no more than that.
            output_fmt: NCHW alone.
            intermediates_only: Leave the last features out.

        Raises:
            ValueError: another format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, got {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        ends = [int(info["module"].split(".")[1]) if "stages" in info["module"] else -1 for info in self.feature_info]
        height, width = x.shape[2:]
        x = self.stem(x)
        maps = [x] if -1 in ends and 0 in wanted else []
        for i, stage in enumerate(self.stages):
            if stop_early and i > ends[last]:
                break
            x = stage(x)
            if i in ends and ends.index(i) in wanted:
                maps.append(x)
        if maps and maps[-1].ndim == 3:  # tokens
            reduction = self.feature_info[-1]["reduction"]
            maps[-1] = to_map(maps[-1][:, 1:], math.ceil(height / reduction), math.ceil(width / reduction))
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages past the last level of `indices`, and the classifier; `architecture` stays that of the whole.

        Returns:
            The levels that are left of those asked for, none of them negative.
        """
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        info = self.feature_info[last]
        keep = int(info["module"].split(".")[1]) + 1 if "stages" in info["module"] else 0
        shorter = keep < len(self.stages)
        self.stages = self.stages[:keep]
        self.feature_info = self.feature_info[: last + 1]
        if shorter:
            self._own_pool = "avg"
            self.num_features = int(info["num_chs"])
            self.head = type(self.head)(self.num_features, 0, **self.architecture.head.options).to(self._placed())
        if shorter or prune_head:
            self.reset_classifier(0, "")
        kept: list[int] = wanted
        return kept

    def get_classifier(self) -> nn.Module:
        """The linear layer that gives the scores, or the list of them where a network was distilled."""
        classifier: nn.Module = self.head.classifier
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for so many classes.

        Args:
            num_classes: 0 leaves the features that it would get.
            global_pool: None leaves pooling as it is; the network's own is 'avg', or 'token' with a class token; ''
                goes with no classes, and the network ends in the last map.

        Raises:
            ValueError: another kind of pooling, or classes without.
        """
        if global_pool not in (None, "", self._own_pool):
            raise ValueError(f"global_pool must be {self._own_pool!r} or '', got {global_pool!r}")
        pool = self.global_pool if global_pool is None else global_pool
        if num_classes and not pool:
            raise ValueError(f"num_classes must be 0 without pooling; global_pool={self._own_pool!r} pools")
        self.num_classes, self.global_pool = num_classes, pool
        self.head.reset(num_classes)
        self.head.classifier.apply(init_weights)
        self.head.to(self._placed()).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether a pass backward computes each block again instead of keeping what was inside it."""
        for part in self.modules():
            if isinstance(part, Row):
                part.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """The names of parameters with more than one dimension that are no weights: positions, tokens, scales."""
        spared = re.compile(r"bias|gamma|class_token|^stem\.position$")
        return {name for name, p in self.named_parameters() if p.ndim > 1 and spared.search(name)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters make up a layer, for rates that decay with depth: stem, blocks (coarse: stages), head."""
        start = r"^stages\.(\d+)\.(?:transition|body\.position|body\.class_token)"
        block = r"^stages\.(\d+)\.body(?:\.blocks)?\.(\d+)"
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else [(start, (0,)), (block, None)]}

    def _placed(self) -> Tensor:
        """A tensor of the network's device and type, for what is made later."""
        return next(self.stem.parameters())

    @property
    def _model_args(self) -> dict[str, Any]:
        """What timm writes beside weights to make a network like this one: the description itself, not where it was."""
        return {**self.__dict__.get("_options", {}), "architecture": self.architecture.to_json(indent=None)}

    @_model_args.setter
    def _model_args(self, options: dict[str, Any]) -> None:
        self.__dict__["_options"] = {key: value for key, value in options.items() if key != "img_size"}


def init_weights(module: nn.Module) -> None:
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
