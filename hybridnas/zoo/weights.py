"""Weights of timm's models for the designs of the zoo: a renaming, no timm model inside.

A timm model and ours hold the same blocks in the same order. So the k-th block of one gives its weights to the k-th of
the other, and what is called differently is renamed by the rules of the timm class. Where layouts differ (queries, keys
and values by head or one after the other), the rows are reordered.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from hybridnas.blocks.transitions import Keep
from hybridnas.errors import ZooError, first_clause
from hybridnas.model import HybridNet
from hybridnas.zoo.rules import SOURCES, State


def read_weights(name: str, file: Path) -> dict[str, Any]:
    """The options of `timm.create_model` that make it take the weights in `file`, with as many classes as they have.

    Raises:
        ZooError: there is no such file, or it holds no weights.
    """
    if not file.is_file():
        raise ZooError(f"There is no file {file}.")
    try:
        state = timm.models.load_state_dict(str(file), weights_only=True)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("not all that it holds are tensors")
    except Exception as error:  # pickle's, zip's, safetensors'
        raise ZooError(f"{file} holds no weights that can be read ({first_clause(error)}).") from None
    overlay: dict[str, Any] = {"state_dict": state, "custom_load": False}
    classifier = timm.get_pretrained_cfg(name).classifier
    first = classifier if isinstance(classifier, str) else next(iter(classifier or ()), "")
    options = {}
    if state.get(f"{first}.weight", torch.empty(())).ndim:
        options["num_classes"] = overlay["num_classes"] = state[f"{first}.weight"].shape[0]
    return {"pretrained_cfg_overlay": overlay, **options}


@torch.no_grad()
def copy_weights(theirs: nn.Module, ours: HybridNet) -> None:
    """Give `ours` the weights of `theirs`, a timm model of the same design.

    Raises:
        ZooError: a class that no rules exist for, or another design, size or number of classes.
    """
    source = SOURCES.get(type(theirs).__name__)
    if source is None:
        known = ", ".join(SOURCES)
        raise ZooError(f"No rules for the weights of a {type(theirs).__name__}; there are some for {known}.")
    state = {key: value.detach().clone() for key, value in theirs.state_dict().items()}
    source.prepare(state, theirs)
    names = _our_blocks(ours)
    blocks = [
        name
        for name, part in theirs.named_modules()
        if re.fullmatch(source.blocks, name) and next(part.parameters(), None) is not None
    ]
    if len(blocks) != len(names):
        raise ZooError(f"The design has {len(names)} blocks, the weights are of {len(blocks)}.")
    for block, name in zip(blocks, names, strict=True):
        for key in [key for key in state if key.startswith(f"{block}.")]:
            state[f"{name}.{key.removeprefix(f'{block}.')}"] = state.pop(key)
    for pattern, replacement in source.rules:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    _load(ours, state)


def _our_blocks(model: HybridNet) -> list[str]:
    """The names of our blocks and joints, in the order of the images' way through them."""
    names = []
    for i, stage in enumerate(model.stages):
        transition, body = stage.transition, stage.body
        if not isinstance(transition, Keep):
            single = isinstance(transition, nn.Sequential) and len(transition) == 1
            names.append(f"stages.{i}.transition" + (".0" if single else ""))
        prefix = f"stages.{i}.body" if isinstance(body, nn.Sequential) else f"stages.{i}.body.blocks"
        names += [f"{prefix}.{k}" for k in range(model.architecture.stages[i].depth)]
    return names


def _load(model: HybridNet, state: State) -> None:
    """Every weight must find its place, and every place a weight, but for biases that one side has and one has not."""
    places = model.state_dict()
    for key in [key for key in state if key not in places]:
        value = state.pop(key)
        mean = re.sub(r"conv\.bias$", "bn.running_mean", key)
        if mean != key and mean in places:  # a bias before a batch norm shifts the mean that it takes away
            state[mean] = state[mean] - value
        elif not key.endswith("attention_bias_idxs"):
            raise ZooError(f"The weights hold {key}, which the design does not have.")
    for key, place in places.items():
        if key not in state and key.endswith(".bias"):  # a bias that their layer does without
            state[key] = torch.zeros_like(place)
        if key not in state:
            raise ZooError(f"The weights lack {key} of the design.")
        value = state[key]
        if value.numel() == place.numel() and value.ndim != place.ndim:  # a 1x1 convolution is a linear layer
            value = value.reshape(place.shape)
        if value.shape != place.shape:
            shapes = f"{tuple(value.shape)}, the design's is {tuple(place.shape)}"
            raise ZooError(f"The weights do not fit: {key} has shape {shapes}.")
        state[key] = value
    model.load_state_dict(state)
