"""Stems: what turns the image into the first feature map. `STEMS` is their table.

    stem(width, image_size, **options): (B, 3, H, W) -> (B, width, ceil(H / stride), ceil(W / stride))

with H = W = `image_size` and the class attribute `stride`. The keyword-only arguments are the stem's options.
"""

from __future__ import annotations

from timm.layers import ConvNormAct, LayerNorm2d
from torch import nn

from hybridnas.blocks.options import check_act
from hybridnas.blocks.pad import PadTo


class ConvStem(nn.Sequential):
    """Two 3x3 convolutions, the first with stride 2 (CoAtNet, arXiv:2106.04803, table 3, stage S0)."""

    stride = 2

    def __init__(self, width: int, image_size: int, *, act: str = "gelu") -> None:
        check_act(act)
        super().__init__(
            ConvNormAct(3, width, kernel_size=3, stride=2, act_layer=act),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
        )


class PatchStem(nn.Sequential):
    """Non-overlapping patches and a layer norm (ConvNeXt, arXiv:2201.03545, section 2.2, "patchify")."""

    stride: int

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__(PadTo(self.stride), nn.Conv2d(3, width, self.stride, stride=self.stride), LayerNorm2d(width))


class Patch2Stem(PatchStem):
    """Patches of 2x2 pixels."""

    stride = 2


class Patch4Stem(PatchStem):
    """Patches of 4x4 pixels."""

    stride = 4


STEMS: dict[str, type[nn.Module]] = {"conv": ConvStem, "patch2": Patch2Stem, "patch4": Patch4Stem}
