"""Stems, transitions and heads: the joints of a network. `STEMS`, `TRANSITIONS` and `HEADS` are their tables.

Every transition turns a resolution r into ceil(r / stride).
"""

from __future__ import annotations

from timm.layers import ConvNormAct, LayerNorm2d
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hybridnas.blocks.mbconv import inverted_residual
from hybridnas.blocks.options import check_act


class ConvStem(nn.Sequential):
    """Two 3x3 convolutions, the first with stride 2 (CoAtNet, arXiv:2106.04803, table 3, stage S0)."""

    stride = 2

    def __init__(self, width: int, *, act: str = "gelu") -> None:
        check_act(act)
        super().__init__(
            ConvNormAct(3, width, kernel_size=3, stride=2, act_layer=act),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
        )


class PatchStem(nn.Sequential):
    """Non-overlapping patches and a layer norm (ConvNeXt, arXiv:2201.03545, section 2.2, "patchify")."""

    stride: int

    def __init__(self, width: int) -> None:
        super().__init__(PadTo(self.stride), nn.Conv2d(3, width, self.stride, stride=self.stride), LayerNorm2d(width))


class Patch2Stem(PatchStem):
    """Patches of 2x2 pixels."""

    stride = 2


class Patch4Stem(PatchStem):
    """Patches of 4x4 pixels."""

    stride = 4


class PadTo(nn.Module):
    """Zero-pad the bottom and right of (B, C, H, W) up to a multiple of `multiple`."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = -x.shape[2] % self.multiple, -x.shape[3] % self.multiple
        return F.pad(x, (0, right, 0, bottom)) if bottom or right else x


class Keep(nn.Identity):
    """No transition: the same width and resolution go on."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        if in_width != width or stride != 1:
            raise ValueError(
                f"transition none keeps width and resolution, got width {in_width} to {width} and stride {stride}"
            )
        super().__init__()


class ConvTransition(nn.Sequential):
    """A 3x3 convolution with batch norm."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__(ConvNormAct(in_width, width, kernel_size=3, stride=stride, apply_act=False))


class PatchTransition(nn.Sequential):
    """Layer norm, then non-overlapping patches (ConvNeXt, arXiv:2201.03545, section 2.6)."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__(
            LayerNorm2d(in_width), PadTo(stride), nn.Conv2d(in_width, width, kernel_size=stride, stride=stride)
        )


class MergeTransition(nn.Module):
    """Patch merging (Swin, arXiv:2103.14030, section 3.1): 2x2 neighbours concatenated, normed, projected."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        if stride != 2:
            raise ValueError(f"transition merge halves the resolution: its stride must be 2, got {stride}")
        self.merge = PatchMerging(in_width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.merge(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


class MBConvTransition(nn.Sequential):
    """An inverted residual without shortcut that changes width and resolution (MobileNetV2, arXiv:1801.04381)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        *,
        kernel: int = 3,
        expand: float = 4.0,
        se: bool = False,
        act: str = "silu",
    ) -> None:
        super().__init__(
            inverted_residual(in_width, width, stride=stride, kernel=kernel, expand=expand, se=se, act=act)
        )


class LinearHead(nn.Module):
    """Average pooling, layer norm, one linear layer (ConvNeXt's and Swin's head): (B, C, H, W) -> (B, classes)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.norm(x.mean((2, 3)))
        return x if pre_logits else self.fc(x)


STEMS: dict[str, type[nn.Module]] = {"conv": ConvStem, "patch2": Patch2Stem, "patch4": Patch4Stem}
TRANSITIONS: dict[str, type[nn.Module]] = {
    "none": Keep,
    "conv": ConvTransition,
    "patch": PatchTransition,
    "merge": MergeTransition,
    "mbconv": MBConvTransition,
}
HEADS: dict[str, type[nn.Module]] = {"linear": LinearHead}
