"""Our networks as models of timm: import this module, and `timm.create_model` knows them.

`hybridnet` is the network of any architecture, and each design of the zoo that timm has no model of is one by its name.
`register` gives a name to a searched one, for what finds models by name alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError, safe_open
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from hybridnas import zoo
from hybridnas.architecture import Architecture
from hybridnas.blocks.stems import STEMS
from hybridnas.errors import ArchitectureError, ConfigError, RunError, first_clause
from hybridnas.model import HybridNet, ends_in_tokens, fit_positions, known, pyramid, resized_cfg, sized

__all__ = ["hybridnet", "register"]

#: timm looks here when a model is registered.
default_cfgs: dict[str, Any] = {}


def hybridnet(
    pretrained: bool = False,
    *,
    architecture: str | Path | Architecture | None = None,
    img_size: int | tuple[int, int] | None = None,
    pretrained_cfg: dict[str, Any] | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """The network of an architecture; `timm.create_model("hybridnet", architecture=...)` calls this.

    Args:
        pretrained: Load weights: those that lie beside architecture.json as weights.safetensors, or those that
            `pretrained_cfg_overlay=dict(file=...)` names.
        architecture: An `Architecture`, its JSON text, the path of such a file, or a design of the zoo by name.
        img_size: Side of the images to build for, if not the architecture's; positions in weights are interpolated.
        pretrained_cfg: As timm has it; read from the weights if not given.
        pretrained_cfg_overlay: Replaces entries of that.
        options: num_classes, in_chans, drop_rate, drop_path_rate, global_pool, features_only, out_indices, feature_cls.
            What is unpacked by `features_only` is the feature pyramid, one map for each resolution.

    Raises:
        ArchitectureError: there is none, it cannot be read, or no network can have it or the size.
        RunError: the weights' file cannot be read.
    """
    described = read(architecture)
    overlay = dict(pretrained_cfg_overlay or {})
    if overlay.get("file"):
        overlay = read_cfg(described, Path(overlay["file"])) | overlay
    if pretrained_cfg is None:
        pretrained_cfg = default_cfg(architecture)
    built = described
    if img_size is not None:
        built = sized(described, img_size)
        pretrained_cfg = resized_cfg(pretrained_cfg, built)
    features: dict[str, Any] = {"out_indices": tuple(range(len(pyramid(built)))), "flatten_sequential": True}
    if ends_in_tokens(built):
        features["feature_cls"] = "getter"  # the others hand on what a stage puts out, tokens
    model: nn.Module = build_model_with_cfg(
        _network,
        "hybridnet",
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=fit_positions,
        feature_cfg=features,
        architecture=built,
        **options,
    )
    return model


def register(name: str, architecture: str | Path | Architecture) -> None:
    """Let `timm.create_model(name)` make the network of an architecture, with the weights beside it if `pretrained`.

    For what finds models by name alone, such as segmentation_models_pytorch's encoders `tu-NAME`.

    Raises:
        ArchitectureError: it cannot be read, or its stem is unknown.
        ConfigError: the name is taken, or no name.
    """
    if not re.fullmatch(r"\w+", name):
        raise ConfigError(f"A model's name has letters, digits and underscores alone, got {name!r}.")
    if timm.is_model(name):
        raise ConfigError(f"There is a model {name} already; choose another name.")
    described = read(architecture)
    cfg = default_cfg(architecture)

    def entrypoint(pretrained: bool = False, **options: Any) -> nn.Module:
        options.setdefault("architecture", described)
        if options.get("pretrained_cfg") is None:
            options["pretrained_cfg"] = cfg
        made: nn.Module = hybridnet(pretrained, **options)
        return made

    entrypoint.__name__ = entrypoint.__qualname__ = name
    default_cfgs.update(generate_default_cfgs({name: {**cfg, "architecture": name}}))
    register_model(entrypoint)


def read(architecture: str | Path | Architecture | None) -> Architecture:
    """What `architecture` stands for.

    Raises:
        ArchitectureError: there is none, or it cannot be read.
        ZooError: no design has that name.
    """
    if architecture is None:
        raise ArchitectureError(
            "hybridnet needs architecture=: an Architecture, its JSON text, the path of such a file or a design's name."
        )
    if isinstance(architecture, Architecture):
        return architecture
    text = str(architecture)
    return Architecture.from_json(text) if text.lstrip().startswith("{") else zoo.read(text)


def default_cfg(architecture: str | Path | Architecture | None) -> dict[str, Any]:
    """What timm keeps about a model, with the weights beside its architecture.json if there are any."""
    described = read(architecture)
    if isinstance(architecture, str | Path) and str(architecture).endswith(".json"):
        weights = Path(architecture).absolute().with_name("weights.safetensors")
        if weights.is_file():
            return {**about(described), **read_cfg(described, weights), "file": str(weights)}
    return about(described)


def about(architecture: Architecture) -> dict[str, Any]:
    """What follows from the description alone."""
    stem = known("stem", STEMS, architecture.stem.type)
    first_conv = tuple(f"stem.{name}" for name in stem.first_conv)  # type: ignore[attr-defined]
    classifiers = classifier_names(architecture)
    cfg = {
        "architecture": "hybridnet",
        "crop_pct": 1.0,
        "first_conv": first_conv[0] if len(first_conv) == 1 else first_conv,
        "classifier": classifiers[0] if len(classifiers) == 1 else classifiers,
    }
    return resized_cfg(cfg, architecture)


def classifier_names(architecture: Architecture) -> tuple[str, ...]:
    """The names of the linear layers that give the scores."""
    if architecture.head.type != "linear":
        return ("head.fc",)
    return tuple(f"head.classifiers.{i}" for i in range(int(architecture.head.options.get("classifiers", 1))))


def read_cfg(architecture: Architecture, file: Path) -> dict[str, Any]:
    """What a .safetensors file says of its weights: classes, and how to prepare images if we wrote it.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    if not file.is_file():
        raise RunError(f"There is no file {file}.")
    if file.suffix != ".safetensors":
        return {}
    found: dict[str, Any] = {}
    try:
        with safe_open(file, framework="pt") as weights:
            said = weights.metadata() or {}
            classifier = f"{classifier_names(architecture)[0]}.weight"
            if classifier in weights.keys():  # noqa: SIM118 (it is no mapping)
                found["num_classes"] = weights.get_slice(classifier).get_shape()[0]
        for key in {"mean", "std"} & said.keys():
            values = [float(value) / 255 for value in json.loads(said[key])]
            found[key] = tuple(values if len(values) == 3 else 3 * values)
        if {"mean", "std"} <= found.keys():
            found["interpolation"] = "bilinear"  # of what we wrote; timm's own default is another
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise RunError(f"{file} holds no weights that can be read ({first_clause(error)}).") from None
    return found


def _network(global_pool: str | None = None, **options: Any) -> HybridNet:
    model = HybridNet(**options)
    if global_pool is not None:
        model.reset_classifier(model.num_classes, global_pool)
    return model


register_model(hybridnet)
for _name in zoo.names():
    if not timm.is_model(_name):
        register(_name, _name)
