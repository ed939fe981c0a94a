"""Heads: what turns the last feature map into class scores.

    head(width, num_classes, **options): (B, width, H, W) -> (B, num_classes)

A stage with a class token hands over tokens (B, 1 + H*W, width) instead: then that token counts, not the average.
With `num_classes` 0 a head ends in the `num_features` features that its `classifier` would get; `drop` comes before
that, and `reset(num_classes)` makes a fresh one. The keyword-only arguments are options.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import ConvNormAct, LayerNorm2d, get_act_layer, register_notrace_module
from timm.models.fastvit import MobileOneBlock
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hybridnas.blocks.fold import fold_into_next
from hybridnas.blocks.options import check_act, check_count, check_eps, check_one_of

NORMS = ("layer", "layer_before", "batch", "batch_before", "none")


def pool(x: Tensor) -> Tensor:
    """The average over the map, or the class token: (B, C)."""
    return x[:, 0] if x.ndim == 3 else x.mean((2, 3))


def as_map(x: Tensor) -> Tensor:
    """The map itself, or the class token as a map of one position: (B, C, H, W)."""
    return x[:, 0, :, None, None] if x.ndim == 3 else x


@register_notrace_module  # what it does depends on the number of dimensions
class LinearHead(nn.Module):
    """Pooling, a norm, and a linear layer.

    Args:
        width: Channels in.
        num_classes: Scores out.
        norm: `layer` norm after pooling (ConvNeXt, arXiv:2201.03545) or `layer_before` it (Swin, arXiv:2103.14030),
            `batch` norm after pooling, each classifier its own (LeViT, arXiv:2104.01136), or `batch_before` it
            (EdgeViT, arXiv:2205.03436), or `none` (ResNet).
        classifiers: So many linear layers, averaged: 2 where a network was distilled (LeViT, EfficientFormer).
        eps: Compat. Of the norm.
    """

    COMPAT = ("eps",)

    def __init__(
        self, width: int, num_classes: int, *, norm: str = "layer", classifiers: int = 1, eps: float = 1e-5
    ) -> None:
        super().__init__()
        check_one_of("norm", norm, NORMS)
        check_count("classifiers", classifiers)
        check_eps(eps)
        self.num_features = width
        self.layer_before = norm == "layer_before"
        self.norm: nn.Module = nn.Identity()
        if norm.startswith("layer"):
            self.norm = nn.LayerNorm(width, eps=eps)
        elif norm == "batch_before":
            self.norm = nn.BatchNorm2d(width, eps=eps)
        self.drop: nn.Module = nn.Identity()
        self._num_classifiers = classifiers
        self._make_norm = partial(nn.BatchNorm1d, width, eps=eps) if norm == "batch" else nn.Identity
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        count = self._num_classifiers if num_classes else 1
        self.norms = nn.ModuleList(self._make_norm() if num_classes else nn.Identity() for _ in range(count))
        self.classifiers = nn.ModuleList(
            nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity() for _ in range(count)
        )

    @property
    def classifier(self) -> nn.Module:
        return self.classifiers[0] if len(self.classifiers) == 1 else self.classifiers

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Deploy form: one linear layer, which does the work of the batch norms and the average.

        Features (`pre_logits`) are then those before the norm.
        """
        layers = [layer for layer in self.classifiers if isinstance(layer, nn.Linear)]
        if not layers:
            return
        for norm, layer in zip(self.norms, layers, strict=True):
            fold_into_next(norm, layer)
            fold_into_next(self.norm, layer)
        if isinstance(self.norm, _BatchNorm):
            self.norm = nn.Identity()
        first = layers[0]
        first.weight.copy_(torch.stack([layer.weight for layer in layers]).mean(0))
        first.bias.copy_(torch.stack([layer.bias for layer in layers]).mean(0))
        self.norms, self.classifiers = nn.ModuleList([nn.Identity()]), nn.ModuleList([first])

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if x.ndim == 4 and self.layer_before:
            x = self.norm(x.permute(0, 2, 3, 1)).mean((1, 2))
        elif isinstance(self.norm, _BatchNorm):
            x = pool(self.norm(as_map(x)))
        else:
            x = self.norm(pool(x))
        if pre_logits:
            return x
        x = self.drop(x)
        scores = [layer(norm(x)) for norm, layer in zip(self.norms, self.classifiers, strict=True)]
        return scores[0] if len(scores) == 1 else torch.stack(scores).mean(0)


@register_notrace_module
class FcHead(nn.Module):
    """What the heads with one classifier, `fc`, share."""

    num_features: int

    def __init__(self) -> None:
        super().__init__()
        self.drop: nn.Module = nn.Identity()

    def reset(self, num_classes: int) -> None:
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    @property
    def classifier(self) -> nn.Module:
        return self.fc

    def features(self, x: Tensor) -> Tensor:
        """What the classifier gets: (B, num_features)."""
        raise NotImplementedError

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.features(x)
        return x if pre_logits else self.fc(self.drop(x))


class ConvHead(FcHead):
    """A 1x1 convolution that widens, pooling, perhaps a hidden layer, a linear layer.

    Args:
        width: Channels in.
        num_classes: Scores out.
        features: Channels of the convolution (MobileNetV2, arXiv:1801.04381, table 2: 1280).
        hidden: Channels of a hidden layer after pooling (MobileNetV3, arXiv:1905.02244, figure 5: 1280); 0 has none.
        act: The activation of both, by timm's name.
        layer_first: Compat. Layer norm before the convolution instead of batch norm after it (MixFormer).
        hidden_norm: Compat. Layer norm in the hidden layer (EfficientViT, arXiv:2205.14756).
    """

    COMPAT = ("layer_first", "hidden_norm")

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        features: int = 1280,
        hidden: int = 0,
        act: str = "silu",
        layer_first: bool = False,
        hidden_norm: bool = False,
    ) -> None:
        super().__init__()
        check_count("features", features)
        check_count("hidden", hidden, least=0)
        check_act(act)
        act_layer = get_act_layer(act)
        if layer_first:
            self.conv: nn.Module = nn.Sequential(
                LayerNorm2d(width, eps=1e-5), nn.Conv2d(width, features, 1), act_layer()
            )
        else:
            self.conv = ConvNormAct(width, features, 1, act_layer=act_layer)
        self.hidden: nn.Module = nn.Identity()
        if hidden and hidden_norm:
            self.hidden = nn.Sequential(nn.Linear(features, hidden, bias=False), nn.LayerNorm(hidden), act_layer())
        elif hidden:  # a convolution, as in timm's MobileNetV3: a linear layer would differ in the last digits
            as_one_position = nn.Unflatten(1, (features, 1, 1))
            self.hidden = nn.Sequential(as_one_position, nn.Conv2d(features, hidden, 1), act_layer(), nn.Flatten(1))
        self.num_features = hidden or features
        self.reset(num_classes)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.hidden(pool(self.conv(as_map(x))))
        return out


class MobileOneHead(FcHead):
    """A reparameterised depthwise convolution that widens, with squeeze-excite, pooling, a linear layer.

    FastViT (Vasu et al., 2023, arXiv:2303.14189, figure 2), with `expand` times the width.
    """

    def __init__(self, width: int, num_classes: int, *, expand: int = 2) -> None:
        super().__init__()
        check_count("expand", expand)
        self.conv = MobileOneBlock(width, width * expand, 3, group_size=1, use_se=True)
        self.num_features = width * expand
        self.reset(num_classes)

    def features(self, x: Tensor) -> Tensor:
        return pool(self.conv(as_map(x)))


#: By the name that an architecture gives them.
HEADS: dict[str, type[nn.Module]] = {"linear": LinearHead, "conv": ConvHead, "mobileone": MobileOneHead}
