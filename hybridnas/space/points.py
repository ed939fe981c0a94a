"""The points of a space: the questions that it asks one after the other, and the architecture that the answers make."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from hybridnas.architecture import Architecture, Head, Stage, Stem, Transition, Value
from hybridnas.blocks import BLOCKS
from hybridnas.blocks.stems import STEMS
from hybridnas.space.file import SpaceFile, StageSpace

Choose = Callable[[str, Sequence[Any]], Any]

#: Families in which every position attends to every other (lgl does where it samples each position).
ATTENDS_TO_ALL = ("global", "levit", "lgl")

#: What a file's `rules` may say: is `block` legal on a map of `resolution`, given the rule's number?
RULES: dict[str, Callable[[str, int, int], bool]] = {
    "no_global_above_tokens": lambda block, resolution, limit: block not in ATTENDS_TO_ALL or resolution**2 <= limit,
}

#: What a stage without blocks says: always the same, so that one network has one description.
ANY_BLOCK = next(iter(BLOCKS))

#: Strides that a transition can take, where not all.
STRIDES = {"none": [1], "merge": [2], "levit": [2]}


def question(name: str) -> str:
    """What is asked, whatever a rule leaves of the answers: 'stage1.block' of 'stage1.block(mbconv|window)'."""
    return name.partition("(")[0]


def sample(file: SpaceFile, choose: Choose) -> Architecture:
    """The architecture of the answers; `choose` is asked only where there is more than one value."""

    def pick(name: str, values: Sequence[Any]) -> Any:
        return values[0] if len(values) == 1 else choose(name, values)

    return draw(file, pick)


def draw(file: SpaceFile, choose: Choose) -> Architecture:
    """The architecture of the answers; `choose` is asked for everything, here and below.

    A stage that does nothing is left out, so that one network has one description.
    """
    image_size, stem = draw_start(file, choose)
    width, resolution = stem.width, stem_resolution(image_size, stem.type)
    stages = []
    for i in range(len(file.stages)):
        stage = draw_stage(file, i, width, resolution, choose)
        width, resolution = stage.width, math.ceil(resolution / stage.transition.stride)
        stages.append(stage)
    return Architecture(image_size, stem, without_nothing(stages), draw_head(file, choose))


def draw_start(file: SpaceFile, choose: Choose) -> tuple[int, Stem]:
    """The image size and the stem."""
    image_size = choose("image_size", file.image_size)
    kind, width = choose("stem.type", file.stem.type), choose("stem.width", file.stem.width)
    return image_size, Stem(kind, width, _options(choose, f"stem.{kind}", file.options("stems", kind)))


def draw_stage(file: SpaceFile, i: int, width: int, resolution: int, choose: Choose) -> Stage:
    """Stage `i` of the space, counted from 0, where `width` channels arrive at `resolution`."""
    stage, name = file.stages[i], f"stage{i + 1}"
    kind = choose(f"{name}.transition", stage.transition)
    stride = choose(f"{name}.stride", strides(stage, kind))
    joint = _options(choose, f"{name}.transition.{kind}", file.options("transitions", kind, stage))
    width = width if kind == "none" else choose(f"{name}.width", stage.width)
    depth = choose(f"{name}.depth", stage.depth)
    if not depth:
        return Stage(Transition(kind, stride, joint), ANY_BLOCK, 0, width)
    legal = legal_blocks(file, stage, math.ceil(resolution / stride))
    scope = "" if legal == stage.block else f"({'|'.join(legal)})"
    block = choose(f"{name}.block{scope}", legal)
    options = _options(choose, f"{name}.{block}", file.options("blocks", block, stage))
    return Stage(Transition(kind, stride, joint), block, depth, width, options)


def draw_head(file: SpaceFile, choose: Choose) -> Head:
    """The head."""
    kind = choose("head", file.head)
    return Head(kind, _options(choose, f"head.{kind}", file.options("heads", kind)))


def without_nothing(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages that do something: a transition other than `none`, or blocks."""
    return tuple(stage for stage in stages if stage.depth or stage.transition.type != "none")


def num_points(file: SpaceFile) -> int:
    """How many different answers the questions of `sample` have together."""

    @lru_cache(None)
    def from_stage(i: int, width: int, resolution: int) -> int:
        if i == len(file.stages):
            return sum(_num_options(file.options("heads", head)) for head in file.head)
        stage = file.stages[i]
        total = 0
        for kind in stage.transition:
            for stride in strides(stage, kind):
                out = math.ceil(resolution / stride)
                legal = legal_blocks(file, stage, out)
                blocks = sum(_num_options(file.options("blocks", block, stage)) for block in legal)
                bodies = sum(blocks if depth else 1 for depth in stage.depth)
                later = sum(from_stage(i + 1, w, out) for w in ([width] if kind == "none" else stage.width))
                total += _num_options(file.options("transitions", kind, stage)) * bodies * later
        return total

    return sum(
        _num_options(file.options("stems", stem)) * from_stage(0, width, stem_resolution(image_size, stem))
        for image_size, stem, width in itertools.product(file.image_size, file.stem.type, file.stem.width)
    )


def legal_blocks(file: SpaceFile, stage: StageSpace, resolution: int) -> list[str]:
    """The families that the rules allow on a map of `resolution` x `resolution`."""
    rules = [(RULES[name], limit) for rule in file.rules for name, limit in rule.items()]
    return [block for block in stage.block if all(legal(block, resolution, limit) for legal, limit in rules)]


def strides(stage: StageSpace, transition: str) -> Sequence[int]:
    """The strides that `transition` can take in this stage."""
    return STRIDES.get(transition, stage.stride)


def stem_resolution(image_size: int, stem: str) -> int:
    """The resolution that comes out of a stem."""
    return math.ceil(image_size / int(getattr(STEMS[stem], "stride")))  # noqa: B009 (mypy)


def _options(choose: Choose, scope: str, options: dict[str, list[Value]]) -> dict[str, Value]:
    return {option: choose(f"{scope}.{option}", values) for option, values in options.items()}


def _num_options(options: dict[str, list[Value]]) -> int:
    return math.prod(len(values) for values in options.values())
