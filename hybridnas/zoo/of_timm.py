"""timm's own backbones, as they are: what people would take if nobody searched."""

from __future__ import annotations

import contextlib
import threading
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import nn

from hybridnas.errors import TrainingFailed, ZooError, first_clause
from hybridnas.zoo.weights import read_weights

#: Small backbones in wide use, by kind, the smaller first.
BACKBONES: dict[str, tuple[str, ...]] = {
    "MobileNetV3": ("mobilenetv3_small_050", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    "MobileNetV4": ("mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_hybrid_medium"),
    "EfficientNet-Lite": ("efficientnet_lite0", "efficientnet_lite2"),
    "ResNet": ("resnet10t", "resnet18", "resnet50"),
    "ConvNeXt": ("convnext_atto", "convnext_femto", "convnext_nano", "convnext_tiny"),
    "LeViT": ("levit_128s", "levit_192", "levit_256"),
    "EfficientViT": ("efficientvit_b0", "efficientvit_b1", "efficientvit_b2"),
    "RepViT": ("repvit_m0_9", "repvit_m1_1", "repvit_m1_5"),
    "FastViT": ("fastvit_t8", "fastvit_t12", "fastvit_sa12"),
    "EfficientFormerV2": ("efficientformerv2_s0", "efficientformerv2_s1", "efficientformerv2_s2"),
    "TinyViT": ("tiny_vit_5m_224", "tiny_vit_11m_224"),
    "CoAtNet": ("coatnet_nano_rw_224", "coatnet_0_rw_224"),
}

#: What the names of files of weights end in.
ENDINGS = (".safetensors", ".bin", ".pth")

#: Seconds that the hub may take to answer at all.
HUB_S = 3.0


@dataclass(frozen=True)
class TimmModel:
    """One of timm's models at an image size, as something to build and train.

    `weights` is the file that it starts from, timm's and trained before; None starts from fresh ones.
    """

    name: str
    image_size: int
    weights: Path | None = None

    @property
    def key(self) -> str:
        """Tells it from other models, as an architecture's key does."""
        return f"timm:{self.name} at {self.image_size}" + (" pretrained" if self.weights else "")

    def build(self, num_classes: int) -> nn.Module:
        """The model with a head for so many classes; fresh weights come from torch's global generator.

        Raises:
            TrainingFailed: its weights are not on this machine, or do not fit at this size.
            RuntimeError, AssertionError, ValueError: it cannot be built for this size.
        """
        if self.weights is None:
            return create(self.name, self.image_size, num_classes=num_classes)
        try:
            options = read_weights(self.name, self.weights) | {"num_classes": num_classes}
            return create(self.name, self.image_size, pretrained=True, **options)
        except (ZooError, RuntimeError) as error:
            raise TrainingFailed(f"its pretrained weights cannot be used: {first_clause(error)}") from None

    def deploy(self, num_classes: int) -> nn.Module:
        """Its inference form with fresh weights: eval mode, no gradients, reparameterised where it can be."""
        with torch.random.fork_rng(devices=[]):
            return deployed(replace(self, weights=None).build(num_classes))


def create(name: str, image_size: int, **options: Any) -> nn.Module:
    """Make timm's model for images of `image_size`, whether it must be built for a size or takes any."""
    config = timm.get_pretrained_cfg(name)
    if config is None or image_size != config.input_size[-1]:
        with contextlib.suppress(TypeError):  # a model for any size takes no such argument
            model: nn.Module = timm.create_model(name, img_size=image_size, **options)
            return model
    model = timm.create_model(name, **options)
    return model


def deployed(model: nn.Module) -> nn.Module:
    """The inference form of one of timm's models."""
    found: nn.Module = reparameterize_model(model.eval().requires_grad_(False))
    return found


def given_weights(name: str, folder: Path) -> Path | None:
    """Find the file of a folder that has a model's name, if there is one."""
    files = [folder / f"{name}{ending}" for ending in ENDINGS]
    return next((file for file in files if file.is_file()), None)


def cached_weights(name: str) -> Path | None:
    """Find timm's default weights of a model, if an earlier download left them on this machine."""
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return None
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        for file in ("model.safetensors", "pytorch_model.bin"):
            found = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    if config.url:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url).name
        return path if path.is_file() else None
    return None


def hub_answers() -> bool:
    """Whether the Hugging Face hub can be reached, known within seconds."""
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_S):
            return True
    except (OSError, ValueError):
        return False


def downloaded_weights(name: str, seconds: float) -> Path | None:
    """Fetch timm's default weights of a model from the hub; None where it does not give them in so many seconds.

    What is too late for this search goes on being fetched while it lasts, and the next one finds it in the cache.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    found: list[Path] = []

    def fetch() -> None:
        with contextlib.suppress(Exception):  # whatever the hub's client or the network complain of
            file = huggingface_hub.hf_hub_download(repository, "model.safetensors", revision=revision or None)
            found.append(Path(file))

    fetching = threading.Thread(target=fetch, daemon=True)
    fetching.start()
    fetching.join(min(seconds, threading.TIMEOUT_MAX))
    return found[0] if found else None
