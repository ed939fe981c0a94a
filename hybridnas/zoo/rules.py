"""How timm's model classes name their weights, and how ours are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
Rename = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class Source:
    """How a class of timm's names things.

    Args:
        blocks: What the name of a block (or of a joint between stages) is, as a regular expression.
        rules: Expression and replacement, applied in turn to every name, in which the block's own name has become ours.
        prepare: What must be reordered first, under timm's names.
    """

    blocks: str
    rules: Sequence[tuple[str, Rename]]
    prepare: Callable[[State, Any], None] = lambda state, model: None


def _by_head(state: State, model: nn.Module, name: str, dims: Sequence[int]) -> None:
    """Rows of queries, keys and values alternate head by head; ours come one after the other."""
    rows = sum(dims)
    for key in [key for key in state if re.search(name, key)]:
        parts = state[key].unflatten(0, (-1, rows)).split(list(dims), dim=1)
        state[key] = torch.cat([part.flatten(0, 1) for part in parts])


def _maxxvit(state: State, model: Any) -> None:
    head_dim = next(part.dim_head for part in model.modules() if hasattr(part, "dim_head"))
    _by_head(state, model, r"attn\.qkv\.", [head_dim] * 3)


def _efficientformer(state: State, model: Any) -> None:
    mixer = next((part for part in model.modules() if hasattr(part, "attention_biases")), None)
    if mixer is not None:
        _by_head(state, model, r"token_mixer\.qkv\.", [mixer.key_dim, mixer.key_dim, mixer.val_dim])
    _transpose_biases(state, model)


def _transpose_biases(state: State, model: nn.Module) -> None:
    for key in [key for key in state if key.endswith("attention_biases")]:
        state[key] = state[key].T


def _vit(state: State, model: nn.Module) -> None:
    """The class token's position is a constant like the token itself; the others form a map."""
    positions = state.pop("pos_embed")  # (1, 1 + N, C)
    side = int((positions.shape[1] - 1) ** 0.5)
    state["class_token"] = state.pop("cls_token") + positions[:, :1]
    state["position"] = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def _efficientvit(state: State, model: nn.Module) -> None:
    """Its inverted residuals have three forms: with all norms, with the last only, and without expansion."""
    expanding = {key.partition(".main.")[0] for key in state if ".main.inverted_conv." in key}
    fewer_norms = {block for block in expanding if f"{block}.main.inverted_conv.norm.weight" not in state}
    for key in list(state):
        block, found, rest = key.partition(".main.")
        if not found or "_module" in block:
            continue
        if block in fewer_norms:
            state[f"{block}.{rest}"] = state.pop(key)
        elif block not in expanding:
            conv, layer, name = rest.split(".")
            place = {"depth_conv": ("conv_dw", "bn1"), "point_conv": ("conv_pw", "bn2")}[conv][layer == "norm"]
            state[f"{block}.{place}.{name}"] = state.pop(key)


_INVERTED: tuple[tuple[str, Rename], ...] = (  # ByobNet's names for an inverted residual, and EfficientViT's
    (r"\.(conv1_1x1|main\.inverted_conv)\.conv\.", ".conv_pw."),
    (r"\.(conv1_1x1|main\.inverted_conv)\.(bn|norm)\.", ".bn1."),
    (r"\.(conv2_kxk|main\.depth_conv)\.conv\.", ".conv_dw."),
    (r"\.(conv2_kxk|main\.depth_conv)\.(bn|norm)\.", ".bn2."),
    (r"\.(conv3_1x1|main\.point_conv)\.conv\.", ".conv_pwl."),
    (r"\.(conv3_1x1|main\.point_conv)\.(bn|norm)\.", ".bn3."),
)
_CONV_STEM: tuple[tuple[str, Rename], ...] = ((r"^conv_stem\.", "stem.0.conv."), (r"^bn1\.", "stem.0.bn."))
_CLASSIFIER = "head.classifiers.0."

SOURCES: dict[str, Source] = {
    "ResNet": Source(
        r"layer\d+\.\d+",
        (
            (r"^conv1\.", "stem.0.conv."),
            (r"^bn1\.", "stem.0.bn."),
            (r"^fc\.", _CLASSIFIER),
            (r"\.conv2\.", ".conv2_kxk.conv."),
            (r"\.bn2\.", ".conv2_kxk.bn."),
            (r"\.conv([13])\.", r".conv\1_1x1.conv."),
            (r"\.bn([13])\.", r".conv\1_1x1.bn."),
            (r"\.downsample\.0\.", ".shortcut.conv."),
            (r"\.downsample\.1\.", ".shortcut.bn."),
        ),
    ),
    "EfficientNet": Source(
        r"blocks\.\d+\.\d+",
        (
            *_CONV_STEM,
            (r"^conv_head\.", "head.conv.conv."),
            (r"^bn2\.", "head.conv.bn."),
            (r"^classifier\.", "head.fc."),
        ),
    ),
    "MobileNetV3": Source(
        r"blocks\.[0-5]\.\d+",
        (
            *_CONV_STEM,
            (r"^blocks\.6\.0\.conv\.", "head.conv.conv."),
            (r"^blocks\.6\.0\.bn1\.", "head.conv.bn."),
            (r"^conv_head\.", "head.hidden.1."),
            (r"^classifier\.", "head.fc."),
        ),
    ),
    "ConvNeXt": Source(
        r"stages\.\d+\.(downsample|blocks\.\d+)",
        (
            (r"^stem\.0\.", "stem.proj."),
            (r"^stem\.1\.", "stem.norm."),
            (r"transition\.1\.", "transition.2."),
            (r"^head\.norm\.", "head.norm."),
            (r"^head\.fc\.", _CLASSIFIER),
        ),
    ),
    "VisionTransformer": Source(
        r"blocks\.\d+",
        (
            (r"^patch_embed\.proj\.", "stem.proj."),
            (r"^position$", "stem.position"),
            (r"^class_token$", "stages.0.body.class_token"),
            (r"^head\.", _CLASSIFIER),
            (r"^norm\.", "head.norm."),
            (r"\.attn\.", ".mix."),
            (r"\.ls([12])\.", r".scale\1."),
        ),
        _vit,
    ),
    "SwinTransformer": Source(
        r"layers\.\d+\.(downsample|blocks\.\d+)",
        (
            (r"^patch_embed\.", "stem."),
            (r"transition\.", "transition.merge."),
            (r"\.attn\.relative_position_bias_table", ".mix.attention.bias.table"),
            (r"\.attn\.", ".mix.attention."),
            (r"^norm\.", "head.norm."),
            (r"^head\.fc\.", _CLASSIFIER),
        ),
    ),
    "MaxxVit": Source(
        r"stages\.\d+\.blocks\.\d+",
        (
            (r"^stem\.conv1\.", "stem.0.conv."),
            (r"^stem\.norm1\.", "stem.0.bn."),
            (r"^stem\.conv2\.", "stem.1."),
            (r"\.attn\.rel_pos\.relative_position_bias_table", ".attn.bias.table"),
            (r"transition\.norm1\.norm\.", "transition.norm1."),
            (r"transition\.shortcut\.expand\.", "transition.shortcut."),
            (r"transition\.attn\.", "transition.attention."),
            (r"\.attn\.", ".mix."),
            (r"^norm\.", "head.norm."),
            (r"^head\.fc\.", _CLASSIFIER),
        ),
        _maxxvit,
    ),
    "ByobNet": Source(
        r"stages\.\d+\.\d+",
        (
            (r"^stem\.", "stem.0."),
            (r"^final_conv\.", "head.conv."),
            (r"^head\.fc\.", "head.fc."),
            *_INVERTED,
        ),
    ),
    "FastVit": Source(
        r"stages\.\d+\.(downsample|blocks\.\d+)",
        (
            (r"transition\.proj\.", "transition."),
            (r"\.pos_emb\.", ".body.position."),
            (r"^final_conv\.", "head.conv."),
            (r"^head\.fc\.", "head.fc."),
        ),
    ),
    "EfficientFormer": Source(
        r"stages\.\d+\.(downsample|blocks\.\d+)",
        (
            (r"^stem\.conv([12])\.", lambda m: f"stem.{int(m[1]) - 1}.conv."),
            (r"^stem\.norm([12])\.", lambda m: f"stem.{int(m[1]) - 1}.bn."),
            (r"transition\.0\.norm\.", "transition.0.bn."),
            (r"\.body\.blocks\.(.*)token_mixer\.attention_biases", r".body.blocks.\1mix.bias.table"),
            (r"\.body\.blocks\.(.*)token_mixer\.", r".body.blocks.\1mix."),
            (r"\.body\.blocks\.(.*)ls([12])\.", r".body.blocks.\1scale\2."),
            (r"^head\.", _CLASSIFIER),
            (r"^head_dist\.", "head.classifiers.1."),
            (r"^norm\.", "head.norm."),
        ),
        _efficientformer,
    ),
    "EfficientVit": Source(
        r"stem\.res\d+|stages\.\d+\.blocks\.\d+",
        (
            (r"^stem\.in_conv\.conv\.", "stem.0.conv."),
            (r"^stem\.in_conv\.norm\.", "stem.0.bn."),
            (r"^head\.in_conv\.conv\.", "head.conv.conv."),
            (r"^head\.in_conv\.norm\.", "head.conv.bn."),
            (r"^head\.classifier\.([01])\.", r"head.hidden.\1."),
            (r"^head\.classifier\.4\.", "head.fc."),
            (r"\.context_module\.main\.", ".attention."),
            (r"\.local_module\.main\.", ".local."),
            *_INVERTED,
        ),
        _efficientvit,
    ),
    "LevitDistilled": Source(
        r"stages\.\d+\.(downsample|blocks\.\d+)",
        (
            (r"^stem\.conv(\d)\.linear\.", lambda m: f"stem.{int(m[1]) - 1}.conv."),
            (r"^stem\.conv(\d)\.bn\.", lambda m: f"stem.{int(m[1]) - 1}.bn."),
            (r"\.(attn|attn_downsample)\.", ".attention."),
            (r"\.attention\.kv\.", ".attention.qkv."),
            (r"\.attention\.q\.ln\.", ".attention.query."),
            (r"\.attention\.proj\.ln\.", ".attention.proj."),
            (r"\.attention\.attention_biases", ".attention.bias.table"),
            (r"^head\.bn\.", "head.norms.0."),
            (r"^head\.linear\.", "head.classifiers.0."),
            (r"^head_dist\.bn\.", "head.norms.1."),
            (r"^head_dist\.linear\.", "head.classifiers.1."),
        ),
        _transpose_biases,
    ),
}
