"""What tells two architectures apart, choice by choice: which stage, and what was chosen there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from torch import nn

from hybridnas.architecture import Architecture, Options, Stage, Value
from hybridnas.blocks import BLOCKS, option_defaults
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS

#: Of a stage without blocks, and of one that is not there.
NO_BLOCKS: dict[str, Value] = {"family": "none", "depth": 0}
NO_STAGE = {"transition": "none"} | NO_BLOCKS


class Difference(NamedTuple):
    """One choice that differs.

    Attributes:
        where: 'image', 'stem', 'stage 3' (counted in the second architecture; one that it lacks, in the first), 'head'.
        what: The choice: 'family', 'depth', 'width', 'transition', 'stride', 'type', 'size', or an option after the
            part that has it, such as 'window head_dim'.
        before: What the first chose; 'none' and depth 0 where it has no such stage.
        after: What the second chose.
    """

    where: str
    what: str
    before: Value
    after: Value

    def __str__(self) -> str:
        """'stage 3: depth 2 → 4'."""
        return f"{self.where}: {self.what} {self.before} → {self.after}"


def differences(one: Architecture, other: Architecture) -> list[Difference]:
    """What must be chosen anew in `one` to get `other`, in the order in which an image goes through them.

    Where one has more stages, those that the other lacks are taken to be the ones that leave the least to choose anew.
    An option counts where both have the part that has it.
    """
    stages = min((list(_stages_apart(pairs)) for pairs in _pairings(one.stages, other.stages)), key=len)
    return [
        *_apart("image", {"size": one.image_size}, {"size": other.image_size}),
        *_apart(
            "stem",
            *(_chosen("type", STEMS, a.stem.type, a.stem.options) | {"width": a.stem.width} for a in (one, other)),
        ),
        *stages,
        *_apart("head", *(_chosen("type", HEADS, a.head.type, a.head.options) for a in (one, other))),
    ]


def _pairings(one: Sequence[Stage], other: Sequence[Stage]) -> Iterator[list[tuple[Stage | None, Stage | None]]]:
    """All ways to set the stages side by side in their order, with None beside those that the shorter row lacks."""
    if len(one) > len(other):
        yield from ([(first, second) for second, first in pairs] for pairs in _pairings(other, one))
        return
    for places in combinations(range(len(other)), len(one)):
        at = dict(zip(places, one, strict=True))
        yield [(at.get(i), stage) for i, stage in enumerate(other)]


def _stages_apart(pairs: Sequence[tuple[Stage | None, Stage | None]]) -> Iterator[Difference]:
    number = 0
    for i, (first, second) in enumerate(pairs):
        number += second is not None
        yield from _apart(f"stage {number if second else i + 1}", _stage(first), _stage(second))


def _stage(stage: Stage | None) -> dict[str, Value]:
    if stage is None:
        return NO_STAGE
    body = _chosen("family", BLOCKS, stage.block, stage.options) if stage.depth else NO_BLOCKS
    change = stage.transition
    joint = _chosen("transition", TRANSITIONS, change.type, change.options, noun=" transition")
    return joint | {"stride": change.stride, "width": stage.width} | body | {"depth": stage.depth}


def _chosen(
    what: str, table: Mapping[str, type[nn.Module]], name: str, options: Options, noun: str = ""
) -> dict[str, Value]:
    """A part's name and options, those with default values, too; `noun` tells a transition from blocks of its name."""
    defaults = option_defaults(table[name]) if name in table else {}
    return {what: name} | {f"{name}{noun} {option}": value for option, value in (defaults | dict(options)).items()}


def _apart(where: str, before: Mapping[str, Value], after: Mapping[str, Value]) -> Iterator[Difference]:
    for what in before:
        if what in after and before[what] != after[what]:
            yield Difference(where, what, before[what], after[what])
