"""From an architecture back to the choices that make it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from hybridnas.architecture import Architecture, Head, Options, Stage, Stem, Value
from hybridnas.blocks import option_defaults
from hybridnas.errors import SpaceError
from hybridnas.space.file import SpaceFile, plain
from hybridnas.space.parts import TABLES
from hybridnas.space.points import Choose, draw_head, draw_stage, draw_start, question, stem_resolution, without_nothing

#: Choices by name.
Choices = dict[str, Value]


class _DiffersError(Exception):
    """The space says something else: a sentence's end, and how many choices agreed before."""

    def __init__(self, difference: str, num_agreed: int) -> None:
        super().__init__(difference)
        self.num_agreed = num_agreed


def encode(file: SpaceFile, space: str, architecture: Architecture) -> Choices:
    """The choices that make `architecture`: name to value, for `sample`.

    The epsilon of a norm tells no designs apart: the point has the space's.
    Options that the space leaves open and the architecture leaves out count as the part's defaults. Where the space
    has more stages, those that can do nothing stand empty, the later the better.

    Raises:
        SpaceError: the architecture is not a point of the space called `space`; the sentence names the first choice
            that differs, where stages can be placed in several ways that of the placement that got furthest.
    """
    try:
        image_size, stem, head = architecture.image_size, architecture.stem, architecture.head
        start = _match(_said_start(image_size, stem), lambda choose: _said_start(*draw_start(file, choose)))
        stages = _match_stages(file, image_size, stem, without_nothing(architecture.stages))
        return start | stages | _match(_said_head(head), lambda choose: _said_head(draw_head(file, choose)))
    except _DiffersError as error:
        raise SpaceError(f"Not in the space {space}: {error}.") from None


def _match_stages(file: SpaceFile, image_size: int, stem: Stem, stages: Sequence[Stage]) -> Choices:
    """Place the design's stages among the space's, in order; what is over must be able to be nothing."""
    most, least = len(file.stages), sum(not stage.can_be_nothing for stage in file.stages)
    if not least <= len(stages) <= most:
        has = most if least == most else f"{least} to {most}"
        raise _DiffersError(f"{len(stages)} stages; it has {has}", 0)
    widths, resolutions = [stem.width], [stem_resolution(image_size, stem.type)]
    for stage in stages:
        widths.append(stage.width)
        resolutions.append(math.ceil(resolutions[-1] / stage.transition.stride))
    # What is wrong with each placement that failed; the key is how far it got.
    problems: dict[tuple[int, int], str] = {}

    @lru_cache(None)
    def place(i: int, j: int) -> Choices | None:
        """The choices that make the space's stages from `i` on the design's from `j` on."""
        if i == most:
            return {}
        if j < len(stages):
            wanted = _said_stage(i, stages[j])
            try:
                here = _match(
                    wanted, lambda choose: _said_stage(i, draw_stage(file, i, widths[j], resolutions[j], choose))
                )
            except _DiffersError as error:
                problems.setdefault((j, error.num_agreed), str(error))
            else:
                later = place(i + 1, j + 1)
                if later is not None:
                    return here | later
        if file.stages[i].can_be_nothing and most - i > len(stages) - j:
            later = place(i + 1, j)
            if later is not None:
                return _nothing(file, i) | later
        return None

    found = place(0, 0)
    if found is None:
        raise _DiffersError(problems[max(problems)], 0)
    return found


def _nothing(file: SpaceFile, i: int) -> Choices:
    """The choices that leave stage `i` out."""
    name, stage = f"stage{i + 1}", file.stages[i]
    transition: Choices = {f"{name}.transition": "none"} if len(stage.transition) > 1 else {}
    return transition | ({f"{name}.depth": 0} if len(stage.depth) > 1 else {})


def _match(wanted: Choices, draw: Callable[[Choose], Choices]) -> Choices:
    """The choices with which `draw` says what is `wanted`, those left out that have one value only.

    Raises:
        _DiffersError: there are none.
    """
    agreed: Choices = {}
    searched: set[str] = set()

    def choose(name: str, values: Sequence[Any]) -> Any:
        if name.endswith(".eps"):
            return values[0]
        value = wanted[question(name)]
        if not any(value == other and type(value) is type(other) for other in values):
            raise _DiffersError(f"{name} is {value}; {_allowed(values)}", len(agreed))
        agreed[name] = value
        if len(values) > 1:
            searched.add(name)
        return value

    said = draw(choose)
    for name, value in wanted.items():
        if name not in said:
            raise _DiffersError(f"{name} is {value}; there is no such option", len(agreed))
        if said[name] != value:
            raise _DiffersError(f"{name} is {value}; {_allowed([said[name]])}", len(agreed))
    return {name: value for name, value in agreed.items() if name in searched}


def _allowed(values: Sequence[Value]) -> str:
    return f"its values are {', '.join(map(str, values))}" if len(values) > 1 else f"it is always {values[0]} there"


def _said_start(image_size: int, stem: Stem) -> Choices:
    """Every choice by name, options at their defaults too; so are those below."""
    options = _full("stems", stem.type, stem.options, f"stem.{stem.type}")
    return {"image_size": image_size, "stem.type": stem.type, "stem.width": stem.width, **options}


def _said_stage(i: int, stage: Stage) -> Choices:
    name, joint = f"stage{i + 1}", stage.transition
    said = {
        f"{name}.transition": joint.type,
        f"{name}.stride": joint.stride,
        **_full("transitions", joint.type, joint.options, f"{name}.transition.{joint.type}"),
        f"{name}.width": stage.width,
        f"{name}.depth": stage.depth,
    }
    if stage.depth:
        said |= {f"{name}.block": stage.block, **_full("blocks", stage.block, stage.options, f"{name}.{stage.block}")}
    return said


def _said_head(head: Head) -> Choices:
    return {"head": head.type, **_full("heads", head.type, head.options, f"head.{head.type}")}


def _full(section: str, part: str, options: Options, scope: str) -> Choices:
    table = TABLES[section]
    defaults = option_defaults(table[part]) if part in table else {}
    said = {**defaults, **options}
    return {f"{scope}.{option}": plain(value) for option, value in said.items() if option != "eps"}
