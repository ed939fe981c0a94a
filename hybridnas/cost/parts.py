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
from hybridnas.errors import ArchitectureError
from hybridnas.model import make
from hybridnas.space.points import stem_resolution

TABLES = {"stem": STEMS, "transition": TRANSITIONS, "block": BLOCKS, "head": HEADS}


@dataclass(frozen=True)
class Part:
    """One part for inputs of one size. Make one with the functions below: the same part, an equal `Part`.

    Attributes:
        kind: A key of `TABLES`.
        name: A key of that table.
        options: Those that differ from their defaults, sorted by name.
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

    @property
    def gives_tokens(self) -> bool:
        """Whether a class token and the positions come out, (1 + H*W, C), instead of a map."""
        return ("class_token", True) in self.options

    def __str__(self) -> str:
        """'block window (shift False) 96, 14'."""
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


@dataclass(frozen=True)
class Timing:
    """What is timed of a part: one block of a body or two, in the memory layout in which the input comes.

    Two, since blocks differ in turns (shifted windows) and since calling a body at all costs time.
    """

    part: Part
    depth: int
    channels_last: bool

    @cached_property
    def key(self) -> str:
        """The part's key and the rest."""
        return f"{self.part.key} x{self.depth}{' channels_last' if self.channels_last else ''}"


@lru_cache(maxsize=2**17)
def timings_of(part: Part, depth: int, channels_last: bool, after: bool) -> tuple[tuple[Timing, float], ...]:
    """What is timed of `depth` blocks, and how often each stands in them.

    Args:
        part: Of any kind.
        depth: 1 for all but bodies.
        channels_last: How the input comes.
        after: Whether one block of it hands channels last on.
    """
    if depth == 1:
        return ((Timing(part, 1, channels_last), 1.0),)
    if after == channels_last:
        return ((Timing(part, 2, channels_last), depth / 2),)
    # The first block gets what comes, the others what the first makes of it.
    return (Timing(part, 1, channels_last), 1.0), (Timing(part, 2, after), (depth - 1) / 2)


def parts_of(architecture: Architecture, num_classes: int) -> Iterator[tuple[Part, int]]:
    """The parts in the order in which the image goes through them, each with its depth: 1 but for bodies.

    A transition that keeps everything costs nothing and is left out.

    Raises:
        ArchitectureError: a part is unknown, or gets what only a head can take.
    """
    return ((part, depth) for _, part, depth in placed_parts_of(architecture, num_classes))


def placed_parts_of(architecture: Architecture, num_classes: int) -> Iterator[tuple[int, Part, int]]:
    """The same, each after its place: 0 the stem, then the number of its stage, and the head's is the last.

    Raises:
        ArchitectureError: a part is unknown, or gets what only a head can take.
    """
    size, stem, head = architecture.image_size, architecture.stem, architecture.head
    yield 0, stem_part(stem.type, stem.options, stem.width, size), 1
    width, resolution, tokens = stem.width, stem_resolution(size, stem.type), False
    for place, stage in enumerate(architecture.stages, 1):
        if tokens:
            raise ArchitectureError("class_token is for the last stage: no other part knows of it.")
        change = stage.transition
        if (change.type, change.stride, stage.width) != ("none", 1, width):
            part = transition_part(change.type, change.options, width, stage.width, change.stride, resolution)
            yield place, part, 1
        width, resolution = stage.width, math.ceil(resolution / change.stride)
        if stage.depth:
            body = body_part(stage.block, stage.options, width, resolution)
            yield place, body, stage.depth
            tokens = body.gives_tokens
    part = head_part(head.type, head.options, width, num_classes, resolution, tokens=tokens)
    yield len(architecture.stages) + 1, part, 1


def stem_part(name: str, options: Options, width: int, image_size: int) -> Part:
    """A stem that gives `width` channels."""
    return _part("stem", name, tuple(options.items()), (width, image_size), (3, image_size, image_size))


def transition_part(name: str, options: Options, in_width: int, width: int, stride: int, resolution: int) -> Part:
    """A transition that gets `in_width` channels at `resolution`."""
    numbers = (in_width, width, stride, resolution)
    return _part("transition", name, tuple(options.items()), numbers, (in_width, resolution, resolution))


def body_part(name: str, options: Options, width: int, resolution: int) -> Part:
    """The body of a stage, of any depth."""
    return _part("block", name, tuple(options.items()), (width, resolution), (width, resolution, resolution))


def head_part(
    name: str, options: Options, width: int, num_classes: int, resolution: int, *, tokens: bool = False
) -> Part:
    """A head that gets a map, or a class token and the positions."""
    shape = (1 + resolution**2, width) if tokens else (width, resolution, resolution)
    return _part("head", name, tuple(options.items()), (width, num_classes), shape)


# A search asks for the same parts again and again; made once, their keys are, too.
@lru_cache(maxsize=2**16)
def _part(
    kind: str, name: str, options: tuple[tuple[str, Value], ...], numbers: tuple[int, ...], shape: tuple[int, ...]
) -> Part:
    if name not in TABLES[kind]:
        raise ArchitectureError(f"{kind} {name!r} is unknown; known are {', '.join(TABLES[kind])}.")
    defaults = option_defaults(TABLES[kind][name])
    differ = [(option, value) for option, value in options if option not in defaults or value != defaults[option]]
    return Part(kind, name, tuple(sorted(differ)), numbers, shape)
