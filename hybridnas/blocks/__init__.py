"""Block families, one a file. `BLOCKS` is their table of contents.

A family is a module class for the body of one stage, all its blocks:

    family(width, depth, resolution, drop_path=(), **options): (B, C, H, W) -> (B, C, H, W)

with C = `width` and H = W = `resolution`. `drop_path` holds one stochastic-depth rate a block, or nothing.
The keyword-only arguments are the family's options: what a search space may vary. A combination that the family
cannot take is a ValueError from the constructor, also on the meta device, where nothing is allocated.

A part that takes long to make has a static `check` besides: the constructor's positional arguments less depth and
drop_path, and every option, to the ValueError that the constructor, which calls it first, would raise for any of them.
A search space asks it thousands of times when it is loaded.
"""

from __future__ import annotations

import inspect

from torch import nn

from hybridnas.blocks.bottleneck import Bottleneck
from hybridnas.blocks.convnext import ConvNeXt
from hybridnas.blocks.global_attention import GlobalAttention
from hybridnas.blocks.levit import LeViT
from hybridnas.blocks.lgl import LGL
from hybridnas.blocks.linear import LinearAttention
from hybridnas.blocks.mbconv import MBConv
from hybridnas.blocks.mobilevit import MobileViT
from hybridnas.blocks.parallel import Parallel
from hybridnas.blocks.pool import Pool
from hybridnas.blocks.repmixer import RepMixer
from hybridnas.blocks.window import WindowAttention

BLOCKS: dict[str, type[nn.Module]] = {
    "mbconv": MBConv,
    "convnext": ConvNeXt,
    "bottleneck": Bottleneck,
    "repmixer": RepMixer,
    "pool": Pool,
    "window": WindowAttention,
    "global": GlobalAttention,
    "linear": LinearAttention,
    "mobilevit": MobileViT,
    "levit": LeViT,
    "lgl": LGL,
    "parallel": Parallel,
}

__all__ = ["BLOCKS", "compat_options", "option_defaults"]


def option_defaults(part: type[nn.Module]) -> dict[str, bool | int | float | str]:
    """The options of a family, stem, transition or head with their defaults: its keyword-only arguments."""
    if part not in _defaults:
        parameters = inspect.signature(part.__init__).parameters.values()
        _defaults[part] = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return dict(_defaults[part])


_defaults: dict[type, dict[str, bool | int | float | str]] = {}


def compat_options(part: type[nn.Module]) -> frozenset[str]:
    """The options that exist only so that a published design comes out exactly: fixed in a space, never searched."""
    return frozenset(getattr(part, "COMPAT", ()))
