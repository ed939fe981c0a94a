"""Everything that the table can be asked for a whole space: what all its points are made of, each part once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from hybridnas.cost.parts import Part, Timing, body_part, head_part, stem_part, timings_of, transition_part
from hybridnas.space import SearchSpace
from hybridnas.space.file import SpaceFile, StageSpace
from hybridnas.space.parts import combinations
from hybridnas.space.points import legal_blocks, stem_resolution, strides

#: Whether a part hands channels last on, where they come first or where they come last.
LaysLast = Callable[[Part, bool], bool]


class Arrival(NamedTuple):
    """What can come to a stage or to the head: a map, its memory layout, or tokens instead."""

    width: int
    resolution: int
    channels_last: bool
    tokens: bool = False


#: Yields timings, some twice, and returns what arrives at what comes next.
Walk = Generator[Timing, None, set[Arrival]]


def parts_in(space: SearchSpace, num_classes: int) -> list[Part]:
    """The parts of all architectures of a space, each once, in the order in which an image can meet them."""
    timings = timings_in(space, num_classes, lambda part, channels_last: False)
    return list(dict.fromkeys(timing.part for timing in timings))


def timings_in(space: SearchSpace, num_classes: int, lays_last: LaysLast) -> Iterator[Timing]:
    """What is timed of all architectures of a space, each once, in the order in which an image can meet them.

    Args:
        space: Walked through as its points are made, with every choice at every place.
        num_classes: Scores of the networks.
        lays_last: As `Predictor.lays_last`; asked as late as possible.
    """
    file = space.file
    seen: set[Timing] = set()
    for timing in _network(file, num_classes, lays_last):
        if timing not in seen:
            seen.add(timing)
            yield timing


def _network(file: SpaceFile, num_classes: int, lays_last: LaysLast) -> Iterator[Timing]:
    reach = yield from _stems(file, lays_last)
    for stage in file.stages:
        joined = yield from _transitions(file, stage, reach, lays_last)
        reach = yield from _bodies(file, stage, joined, lays_last)
    for (width, resolution, last, tokens), kind in itertools.product(sorted(reach), file.head):
        for options in combinations(file.options("heads", kind)):
            head = head_part(kind, options, width, num_classes, resolution, tokens=tokens)
            yield from _forms(head, [1], last, False)


def _stems(file: SpaceFile, lays_last: LaysLast) -> Walk:
    reach = set()
    for size, kind, width in itertools.product(file.image_size, file.stem.type, file.stem.width):
        for options in combinations(file.options("stems", kind)):
            stem = stem_part(kind, options, width, size)
            after = lays_last(stem, False)
            yield from _forms(stem, [1], False, after)
            reach.add(Arrival(width, stem_resolution(size, kind), after))
    return reach


def _transitions(file: SpaceFile, stage: StageSpace, arriving: set[Arrival], lays_last: LaysLast) -> Walk:
    reach = arriving.copy() if "none" in stage.transition else set()
    kinds = [kind for kind in stage.transition if kind != "none"]
    for (in_width, resolution, last, _), kind, width in itertools.product(sorted(arriving), kinds, stage.width):
        every = combinations(file.options("transitions", kind, stage))
        for stride, options in itertools.product(strides(stage, kind), every):
            transition = transition_part(kind, options, in_width, width, stride, resolution)
            after = lays_last(transition, last)
            yield from _forms(transition, [1], last, after)
            reach.add(Arrival(width, math.ceil(resolution / stride), after))
    return reach


def _bodies(file: SpaceFile, stage: StageSpace, arriving: set[Arrival], lays_last: LaysLast) -> Walk:
    reach = arriving.copy() if 0 in stage.depth else set()
    depths = [depth for depth in stage.depth if depth]
    for width, resolution, last, _ in sorted(arriving) if depths else ():
        for block in legal_blocks(file, stage, resolution):
            for options in combinations(file.options("blocks", block, stage)):
                body = body_part(block, options, width, resolution)
                after = lays_last(body, last)
                yield from _forms(body, depths, last, after)
                reach.add(Arrival(width, resolution, after, body.gives_tokens))
    return reach


def _forms(part: Part, depths: list[int], channels_last: bool, after: bool) -> Iterator[Timing]:
    for depth in depths:
        for timing, _ in timings_of(part, depth, channels_last, after):
            yield timing
