"""Transitions: the joint before a stage, which changes width and resolution. `TRANSITIONS` is their table.

    transition(in_width, width, stride, resolution, **options): (B, in_width, H, W) -> (B, width, H/stride, W/stride)

with H = W = `resolution` as it comes in; the quotients are rounded up. The keyword-only arguments are the options.
"""

from __future__ import annotations

from timm.layers import ConvNormAct, LayerNorm2d
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from hybridnas.blocks.mbconv import inverted_residual
from hybridnas.blocks.pad import PadTo


class Keep(nn.Identity):
    """No transition: the same width and resolution go on."""

    def __init__(self, in_width: int, width: int, stride: int, resolution: int) -> None:
        if in_width != width or stride != 1:
            raise ValueError(
                f"transition none keeps width and resolution, got width {in_width} to {width} and stride {stride}"
            )
        super().__init__()


class ConvTransition(nn.Sequential):
    """A 3x3 convolution with batch norm."""

    def __init__(self, in_width: int, width: int, stride: int, resolution: int) -> None:
        super().__init__(ConvNormAct(in_width, width, kernel_size=3, stride=stride, apply_act=False))


class PatchTransition(nn.Sequential):
    """Layer norm, then non-overlapping patches (ConvNeXt, arXiv:2201.03545, section 2.6)."""

    def __init__(self, in_width: int, width: int, stride: int, resolution: int) -> None:
        super().__init__(
            LayerNorm2d(in_width), PadTo(stride), nn.Conv2d(in_width, width, kernel_size=stride, stride=stride)
        )


class MergeTransition(nn.Module):
    """Patch merging (Swin, arXiv:2103.14030, section 3.1): 2x2 neighbours concatenated, normed, projected."""

    def __init__(self, in_width: int, width: int, stride: int, resolution: int) -> None:
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
        resolution: int,
        *,
        kernel: int = 3,
        expand: float = 4.0,
        se: bool = False,
        act: str = "silu",
    ) -> None:
        super().__init__(
            inverted_residual(in_width, width, stride=stride, kernel=kernel, expand=expand, se=se, act=act)
        )


TRANSITIONS: dict[str, type[nn.Module]] = {
    "none": Keep,
    "conv": ConvTransition,
    "patch": PatchTransition,
    "merge": MergeTransition,
    "mbconv": MBConvTransition,
}
