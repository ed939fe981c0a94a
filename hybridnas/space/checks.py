"""What a space's file must hold to before anything is sampled from it: known names, and parts that fit together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hybridnas import zoo
from hybridnas.architecture import Value
from hybridnas.blocks import BLOCKS, compat_options, option_defaults
from hybridnas.blocks.heads import HEADS
from hybridnas.blocks.stems import STEMS
from hybridnas.blocks.transitions import TRANSITIONS
from hybridnas.model import MAX_COUNT, same_kind
from hybridnas.space.file import SpaceFile, StageSpace
from hybridnas.space.parts import TABLES, combinations, problem
from hybridnas.space.points import RULES, legal_blocks, stem_resolution, strides
from hybridnas.space.source import Keys, Source


def check_names(file: SpaceFile, source: Source) -> None:
    """Every name is known, no list repeats a value, every option is one of its part.

    Raises:
        SpaceError: the first that is not so, with file, line, key and what is allowed.
    """
    _check_known(("stem", "type"), file.stem.type, STEMS, source)
    _check_known(("head",), file.head, HEADS, source)
    for name in ("image_size", "head", "holds"):
        _check_once((name,), getattr(file, name), source)
    for name in ("type", "width"):
        _check_once(("stem", name), getattr(file.stem, name), source)
    for i, stage in enumerate(file.stages):
        _check_stage(("stages", i), stage, source)
    for i, stage in enumerate(file.stages[:-1]):
        for block in stage.block:
            if True in file.options("blocks", block, stage).get("class_token", []):
                raise source.error(("stages", i, "block"), f"holds {block} with a class_token, which only the last can")
    for name in file.holds:
        if name not in zoo.names():
            raise source.error(("holds",), f"names {name!r}, which is unknown", zoo.names())
    if all(stage.can_be_nothing for stage in file.stages):
        raise source.error(("stages",), "can all be left out (transition none, depth 0); one of them must stay")
    for section, table in TABLES.items():
        _check_options((section,), getattr(file, section), table, source)
    for i, rule in enumerate(file.rules):
        for name in rule:
            if name not in RULES:
                raise source.error(("rules", i, name), "is unknown", list(RULES))


def _check_stage(keys: Keys, stage: StageSpace, source: Source) -> None:
    _check_known((*keys, "transition"), stage.transition, TRANSITIONS, source)
    _check_known((*keys, "block"), stage.block, BLOCKS, source)
    for stride in stage.stride:
        if stride not in (1, 2):
            raise source.error((*keys, "stride"), f"holds {stride}", [1, 2])
    for kind in stage.transition:
        if kind != "none" and not set(strides(stage, kind)) <= set(stage.stride):
            (only,) = strides(stage, kind)
            raise source.error((*keys, "stride"), f"lacks {only}, the only stride that transition {kind} takes")
    for name in ("transition", "block", "depth", "width", "stride"):
        _check_once((*keys, name), getattr(stage, name), source)
    for section, offered in (("blocks", stage.block), ("transitions", stage.transition)):
        for part in getattr(stage, section):
            if part not in offered:
                raise source.error((*keys, section, part), "is not offered by this stage", offered)
        _check_options((*keys, section), getattr(stage, section), TABLES[section], source)


def _check_options(
    keys: Keys, parts: Mapping[str, Mapping[str, Sequence[Value]]], table: Mapping[str, Any], source: Source
) -> None:
    for part, options in parts.items():
        _check_known((*keys, part), [part], table, source)
        defaults, compat = option_defaults(table[part]), compat_options(table[part])
        for option, values in options.items():
            here = (*keys, part, option)
            if option not in defaults:
                raise source.error(here, f"is no option of {part}", list(defaults) or ["none"])
            for value in values:
                if not same_kind(value, defaults[option]):
                    kind = type(defaults[option]).__name__
                    raise source.error(here, f"holds {value}; each value must be of type {kind}")
                if isinstance(value, int) and value > MAX_COUNT:
                    raise source.error(here, f"holds {value}; each value must be at most {MAX_COUNT}")
            _check_once(here, values, source)
            if option in compat and len(values) > 1:
                raise source.error(here, "is a compat option: it can be fixed, not searched")


def _check_known(keys: Keys, names: Sequence[str], table: Mapping[str, object], source: Source) -> None:
    for name in names:
        if name not in table:
            raise source.error(keys, f"names {name!r}, which is unknown", list(table))


def _check_once(keys: Keys, values: Sequence[Any], source: Source) -> None:
    seen: list[Any] = []
    for value in values:
        if any(value == other and type(value) is type(other) for other in seen):
            raise source.error(keys, f"holds {value} twice")
        seen.append(value)


def check_parts(file: SpaceFile, source: Source) -> None:
    """Each part that a sample can hold fits, at every width, resolution and choice of options that can meet there.

    Raises:
        SpaceError: the first that does not, with file, line, key, options and reason.
    """
    # (width, resolution) pairs that reach the next stage
    reach = set()
    for size, kind, width in itertools.product(file.image_size, file.stem.type, file.stem.width):
        _check_fit(("stem",), "stems", kind, file.options("stems", kind), source, width, size)
        reach.add((width, stem_resolution(size, kind)))
    for i, stage in enumerate(file.stages):
        arriving, reach = reach, set()
        for (width, resolution), kind in itertools.product(sorted(arriving), stage.transition):
            options = file.options("transitions", kind, stage)
            widths = [width] if kind == "none" else stage.width
            for stride, out_width in itertools.product(strides(stage, kind), widths):
                reach.add((out_width, math.ceil(resolution / stride)))
                _check_fit(("stages", i), "transitions", kind, options, source, width, out_width, stride, resolution)
        for width, resolution in sorted(reach) if any(stage.depth) else ():
            legal = legal_blocks(file, stage, resolution)
            if not legal:
                keys: Keys = ("stages", i, "block")
                raise source.error(keys, f"holds no family that the rules allow at resolution {resolution}")
            for block in legal:
                options = file.options("blocks", block, stage)
                _check_fit(("stages", i), "blocks", block, options, source, width, resolution)
    for (width, _), kind in itertools.product(sorted(reach), file.head):
        _check_fit(("head",), "heads", kind, file.options("heads", kind), source, width)


def _check_fit(
    keys: Keys, section: str, part: str, options: Mapping[str, Sequence[Value]], source: Source, *numbers: int
) -> None:
    for choice in combinations(options):
        if found := problem(section, part, choice, *numbers):
            said = ", ".join(f"{option} {value}" for option, value in choice.items())
            raise source.error(keys, f"cannot be built{f' ({said})' if said else ''}: {part}: {found}")
