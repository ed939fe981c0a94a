"""The designs of the literature as points in the space of architectures: `designs/` holds one file for each.

>>> from hybridnas import build, zoo
>>> len(zoo.names()), "convnext_tiny" in zoo.names()
(23, True)
>>> design = zoo.load("coatnet_0_rw_224")
>>> design.layout, design.image_size, [stage.depth for stage in design.stages]
('CCTT', 224, [1, 2, 6, 1])
>>> zoo.entry("resnet50").published.macs  # as the source prints it
4110000000
>>> model = build(zoo.load("mobilenetv2_100"), num_classes=5)  # fresh weights; zoo.pretrained(NAME) has timm's
>>> zoo.load("coatnet_0")
Traceback (most recent call last):
hybridnas.errors.ZooError: No design 'coatnet_0' in the zoo: did you mean coatnet_0_rw_224 or coatnet_2_rw_224?
"""

from __future__ import annotations

import difflib
import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict

from hybridnas.architecture import Architecture
from hybridnas.errors import ArchitectureError, ZooError, first_clause

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hybridnas.model import HybridNet

DESIGNS = Path(__file__).parent / "designs"


class Figures(BaseModel):
    """What a source prints of a design: parameters, multiply-adds, top-1 in percent on ImageNet-1k's validation set."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    params: int
    macs: int
    top1: float
    resolution: int
    trained_on: str


class TimmWeights(BaseModel):
    """timm's default weights of a design: their tag, and their top-1 in percent where they have a classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weights: str
    top1: float | None = None
    trained_on: str


class Entry(BaseModel):
    """One file of `designs/`. `timm` is None where timm has no such model; else timm's has the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    published: Figures
    timm: TimmWeights | None = None
    remark: str = ""
    architecture: dict[str, Any]

    @property
    def top1(self) -> float:
        """Top-1 to compare designs by: of timm's weights, all evaluated alike; where there are none the source's."""
        return self.published.top1 if self.timm is None or self.timm.top1 is None else self.timm.top1

    @property
    def trained_on(self) -> str:
        """What the weights that reach `top1` were trained on."""
        return self.published.trained_on if self.timm is None else self.timm.trained_on


def names() -> tuple[str, ...]:
    """The names of all designs, sorted."""
    return tuple(sorted(path.stem for path in DESIGNS.glob("*.yaml")))


@lru_cache
def entry(name: str) -> Entry:
    """All that is known about a design.

    Raises:
        ZooError: no design has that name; the sentence suggests the nearest.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names())}."
        raise ZooError(f"No design {name!r} in the zoo: {hint}")
    return Entry.model_validate(yaml.safe_load((DESIGNS / f"{name}.yaml").read_text(encoding="utf-8")))


def load(name: str) -> Architecture:
    """The architecture of a design.

    Raises:
        ZooError: no design has that name; the sentence suggests the nearest.
    """
    return Architecture.from_json(json.dumps(entry(name).architecture))


def read(name_or_path: str) -> Architecture:
    """A design by name, or any other from the path of its architecture.json.

    Raises:
        ZooError: no design has that name; the sentence suggests the nearest.
        ArchitectureError: the file cannot be read, or holds no architecture.
    """
    if not name_or_path.endswith(".json"):
        return load(name_or_path)
    try:
        return Architecture.from_json(Path(name_or_path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArchitectureError(f"{name_or_path} cannot be read: {error}.") from None


def from_timm(name: str, timm_model: nn.Module) -> HybridNet:
    """Our network of the design `name` with the weights of `timm_model`, timm's of the same name and image size.

    It is `build(load(name))` and a renaming: the logits agree with timm's, and nothing of timm's model is kept.

    Raises:
        ZooError: no such design, or the weights are of another design or image size.
    """
    from hybridnas.model import build
    from hybridnas.zoo.weights import copy_weights

    theirs = (getattr(timm_model, "pretrained_cfg", None) or {}).get("architecture", name)
    if theirs != name:  # some differ in nothing that a weight shows, such as padding
        raise ZooError(f"{name}: the model is timm's {theirs}.")
    model = build(load(name), num_classes=int(getattr(timm_model, "num_classes", 1000)))
    try:
        copy_weights(timm_model, model)
    except ZooError as error:
        raise ZooError(f"{name}: {error}") from None
    return model.train(timm_model.training)


def timm_model(name: str, **options: Any) -> nn.Module:
    """Make timm's own model of a design, at the design's image size; `options` go to `timm.create_model`.

    Raises:
        ZooError: no such design, or timm has none of this name.
    """
    import timm

    size = load(name).image_size
    if entry(name).timm is None:
        raise ZooError(f"timm has no model {name}, and so no weights for it.")
    if timm.get_pretrained_cfg(name).input_size[-1] != size:
        options["img_size"] = size
    model: nn.Module = timm.create_model(name, **options)
    return model


def pretrained(name: str, file: str | Path | None = None) -> HybridNet:
    """Our network of the design `name` with trained weights, in eval mode.

    Args:
        name: One of `names()`.
        file: timm's weights, .safetensors or what `torch.save` wrote of a state dict, for any number of classes; None
            downloads timm's default weights.

    Raises:
        ZooError: no such design, no such file, weights of another design, or a download that fails.
    """
    from hybridnas.zoo.weights import read_weights

    if entry(name).timm is None:
        raise ZooError(f"timm has no model {name}, and so no weights for it.")
    if file is not None:
        options = read_weights(name, Path(file))
        problem = f"{file} holds no weights of {name}"
    else:
        options = {}
        problem = f"The weights of {name} cannot be downloaded; give them as a file"
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry
    try:
        theirs = timm_model(name, pretrained=True, **options)
    except ZooError:
        raise
    except Exception as error:  # whatever the hub's client, the network or torch complain of
        raise ZooError(f"{problem} ({type(error).__name__}: {first_clause(error)}).") from None
    return from_timm(name, theirs).eval()


def normalisation(name: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel (3,), in 0..255, that timm's weights of a design are meant for."""
    import timm
    import torch

    found = timm.get_pretrained_cfg(name)
    return 255 * torch.tensor(found.mean), 255 * torch.tensor(found.std)
