"""The parts that an architecture is the sum of: its stem, transitions, stage bodies and head."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import nn

from hybridnas.architecture import Architecture, Options, Value
from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.blocks.fuse import fuse
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS
from hybridnas.model import make
from hybridnas.space.points import stem_resolution

TABLES = {"stem": STEMS, "transition": TRANSITIONS, "block": BLOCKS, "head": HEADS}


@dataclass(frozen=True)
class Part:
    """One part for inputs of one size.

    Attributes:
        kind: A key of `TABLES`.
        name: A key of that table.
        options: Those that are said, sorted by name.
        numbers: What the constructor takes first, a body's depth left out: width and image size of a stem, both
            widths, stride and resolution of a transition, width and resolution of a body, width and classes of a head.
        shape: Of the input, less the batch: (C, H, W), or (N, C) where a head gets tokens.
    """

    kind: str
    name: str
    options: tuple[tuple[str, Value], ...]
    numbers: tuple[int, ...]
    shape: tuple[int, ...]

    @cached_property
    def key(self) -> str:
        """All of it as a line of JSON, with every option: the same part, the same key."""
        options = option_defaults(TABLES[self.kind][self.name]) | dict(self.options)
        return json.dumps([self.kind, self.name, options, self.numbers, self.shape], separators=(",", ":"))

    def __str__(self) -> str:
        """'block window (window 7) 96, 14'."""
        said = ", ".join(f"{name} {value}" for name, value in self.options)
        return f"{self.kind} {self.name}{f' ({said})' if said else ''} {', '.join(map(str, self.numbers))}"

    def build(self, depth: int = 1) -> nn.Module:
        """The part in the form that is deployed; of a body so many blocks.

        Raises:
            ArchitectureError: it cannot be built.
        """
        numbers = self.numbers if self.kind != "block" else (self.numbers[0], depth, self.numbers[1])
        with torch.random.fork_rng(devices=[]):
            module = make(str(self), TABLES[self.kind], self.name, dict(self.options), *numbers).eval()
            fuse(module)
        return module.eval().requires_grad_(False)


def parts_of(architecture: Architecture, num_classes: int) -> Iterator[tuple[Part, int]]:
    """The parts in the order in which the image goes through them, each with its depth: 1 but for bodies.

    A transition that keeps everything costs nothing and is left out.
    """
    size, stem, head = architecture.image_size, architecture.stem, architecture.head
    yield _part("stem", stem.type, _said(stem.options), (stem.width, size), (3, size, size)), 1
    width, resolution = stem.width, stem_resolution(size, stem.type)
    shape: tuple[int, ...] = (width, resolution, resolution)
    for stage in architecture.stages:
        change = stage.transition
        if change.type != "none":
            numbers = (width, stage.width, change.stride, resolution)
            yield _part("transition", change.type, _said(change.options), numbers, shape), 1
        width, resolution = stage.width, math.ceil(resolution / change.stride)
        shape = (width, resolution, resolution)
        if stage.depth:
            yield _part("block", stage.block, _said(stage.options), (width, resolution), shape), stage.depth
            if stage.options.get("class_token"):
                shape = (1 + resolution**2, width)
    yield _part("head", head.type, _said(head.options), (width, num_classes), shape), 1


def _said(options: Options) -> tuple[tuple[str, Value], ...]:
    return tuple(options.items())


# A search asks for the same parts again and again; made once, their keys are, too.
_part = lru_cache(maxsize=2**16)(Part)
